"""The schema of a SQLite database: tables, columns, keys and the comments of its CREATE TABLE statements."""

import itertools
import logging
import re
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

from sqlr1.database.files import check_journals
from sqlr1.records import InputError
from sqlr1.sql_tokens import TOKEN

log = logging.getLogger(__name__)

_VIEW_STEPS, _STEPS_PER_CHECK = 100_000_000, 100_000  # of SQLite's virtual machine: some 10 s, on every machine alike
# `hidden` of PRAGMA table_xinfo: a virtual table's column that SELECT * leaves out; a virtual or stored generated one.
_HIDDEN, _GENERATED = 1, (2, 3)


@dataclass(frozen=True)
class Column:
    """A column. `type` is the declared type, `description` the comment on its line of CREATE TABLE.

    `primary_key` is its place in the primary key, from 1; 0 if it is not in it.
    The value of a `computed` column cannot be set: it is generated, or the column belongs to a view.
    """

    name: str
    type: str
    not_null: bool
    primary_key: int
    description: str = ""
    computed: bool = False


@dataclass(frozen=True)
class Table:
    """A table, view or virtual table with its columns, in the order of `SELECT *`."""

    name: str
    columns: tuple[Column, ...]
    kind: str = "table"

    @property
    def primary_key(self) -> tuple[str, ...]:
        """Names of the primary key's columns in declared order; empty if there is none."""
        return tuple(c.name for c in sorted(self.columns, key=lambda c: c.primary_key) if c.primary_key)


@dataclass(frozen=True)
class ForeignKey:
    """A foreign key: `table.column` refers to `parent.parent_column`.

    A key of several columns has one of these per column, each marked `composite`: a join needs all of them.
    """

    table: str
    column: str
    parent: str
    parent_column: str
    composite: bool = False


@dataclass(frozen=True)
class Schema:
    """Tables and foreign keys of the SQLite file at `path`."""

    path: Path
    tables: tuple[Table, ...]
    foreign_keys: tuple[ForeignKey, ...]

    def table(self, name: str) -> Table:
        """The table of that name in any letter case. Raises KeyError if there is none."""
        for table in self.tables:
            if table.name.lower() == name.lower():
                return table
        raise KeyError(name)


@contextmanager
def open_read_only(path: Path) -> Iterator[sqlite3.Connection]:
    """A read-only connection for reading schema and statistics, never for a model's SQL.

    Bytes that are not UTF-8 become U+FFFD. Raises InputError for a missing file, one that is no SQLite database, and
    one with an unfinished journal.
    """
    if not Path(path).is_file():
        raise InputError(f"{path}: no such SQLite file")
    check_journals(path)
    uri = f"{Path(path).resolve().as_uri()}?mode=ro&immutable=1"
    with closing(sqlite3.connect(uri, uri=True)) as connection:
        connection.text_factory = lambda data: data.decode("utf-8", "replace")
        try:
            yield connection
        except sqlite3.DatabaseError as error:
            raise InputError(f"{path}: not a readable SQLite database ({error}); replace the file") from error


@contextmanager
def reading(connection: sqlite3.Connection, path: Path, table: Table, consequence: str) -> Iterator[None]:
    """Read rows of `table` in the block. It ends early, with a warning that names the consequence, if SQLite cannot.

    A view may be broken or too slow; the expression of a generated column may fail on a row. Steps are counted, not
    seconds, so that prompts do not depend on the machine's load.
    """
    checks = itertools.count(1)
    if table.kind == "view":
        connection.set_progress_handler(lambda: next(checks) * _STEPS_PER_CHECK > _VIEW_STEPS, _STEPS_PER_CHECK)
    try:
        yield
    except (sqlite3.OperationalError, sqlite3.DataError) as error:
        reason = f"takes more than {_VIEW_STEPS:,} steps of SQLite" if str(error) == "interrupted" else str(error)
        _warn_once(f"{path}: {consequence} of {table.name}: {reason}")
    finally:
        connection.set_progress_handler(None, 0)


# Where SQL mentions a column and a table of one name; each statement's first value is the 7 of the column's only row.
_MENTIONS = (
    "SELECT {0}, T1.{0}, ({0}), count(DISTINCT {0}), -{0}, CASE WHEN {0} = 7 THEN {0} ELSE {0} END, CAST({0} AS REAL), "
    "{0} || 'x' FROM {0} AS T1 WHERE {0} = 7 AND NOT {0} IS NULL AND {0} < 8 AND {0} BETWEEN 1 AND 9 AND {0} IN (7) "
    "AND {0} LIKE '7' GROUP BY {0} HAVING max({0}) = 7 ORDER BY {0} DESC, T1.{0} LIMIT 1",
    "SELECT sum({0}) OVER (PARTITION BY {0} ORDER BY {0} ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) FROM {0}",
    "SELECT {0}.{0} FROM {0} JOIN (SELECT 1 AS one) ON {0}.{0} = 7",
    "SELECT {0}.{0} FROM (SELECT 1 AS one) JOIN {0} ON {0}.{0} = 7",
    "WITH {0} AS (SELECT 7 AS {0}) SELECT {0} FROM {0}",
)


@lru_cache(maxsize=65536)
def identifier(name: str) -> str:
    """The name as SQL needs it: in double quotes only if necessary, which SQLite and sqlglot are asked."""
    return name if is_plain(name) and _is_plain_to_sqlglot(name) else quote(name)


@lru_cache(maxsize=65536)
def is_plain(name: str) -> bool:
    """Whether SQLite takes the name without quotes."""
    return re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) is not None and _finds(name, _mentions(name))


def _is_plain_to_sqlglot(name: str) -> bool:
    import sqlglot  # late: it takes a while, and reading a schema does not need it
    from sqlglot.dialects.sqlite import SQLite
    from sqlglot.errors import SqlglotError

    if name.upper() not in SQLite.Tokenizer.KEYWORDS:
        return True
    try:  # it has more words than SQLite
        return _finds(name, [sqlglot.parse_one(mention, read="sqlite").sql("sqlite") for mention in _mentions(name)])
    except SqlglotError:
        return False


def _mentions(name: str) -> list[str]:
    return [mention.format(name) for mention in _MENTIONS]


def _finds(name: str, mentions: Iterable[str]) -> bool:
    """Whether all queries find the 7 in a table and column of that name: a word may also be a value, or no name."""
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute(f"CREATE TABLE {quote(name)} ({quote(name)})")
        connection.execute(f"INSERT INTO {quote(name)} VALUES (7)")
        try:
            return all(connection.execute(mention).fetchone()[:1] == (7,) for mention in mentions)
        except (sqlite3.Error, TypeError):  # a syntax error; no row
            return False


def quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def read_schema(path: Path) -> Schema:
    """Read the schema of a SQLite file: everything that a query can read, but internal tables of full-text indexes.

    What cannot be read (a module or collation is absent, a view is broken) is left out, with one warning. Raises
    InputError for a missing or corrupt file, or one with nothing to read.
    """
    unreadable: dict[str, str] = {}
    with open_read_only(path) as connection:
        created = connection.execute(
            "SELECT name, type, sql FROM sqlite_master WHERE type IN ('table', 'view') "
            "AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY type, rowid"
        ).fetchall()
        found = (_read_table(connection, *row, unreadable) for row in created)
        tables = tuple(table for table in found if table)
        parents = {table.name.lower(): (table, {c.name.lower(): c.name for c in table.columns}) for table in tables}
        foreign_keys = tuple(key for table in tables for key in _read_foreign_keys(connection, table, parents))
    named = "; ".join(f"{name} ({reason})" for name, reason in unreadable.items())
    if not tables:
        raise InputError(f"{path}: the database has no tables" + (f" that can be read: {named}" if named else ""))
    if named:
        _warn_once(f"{path}: left out, because SQLite cannot read it: {named}")
    return Schema(Path(path), tables, foreign_keys)


@cache
def _warn_once(message: str) -> None:
    log.warning(message)


def _read_table(connection: sqlite3.Connection, name: str, kind: str, sql: str, failed: dict[str, str]) -> Table | None:
    """The table or view; None for an internal table, and for one without columns to read, named in `failed`."""
    try:
        kinds = [row[2] for row in connection.execute(f"PRAGMA table_list({quote(name)})") if row[0] == "main"]
        rows = connection.execute(f"PRAGMA table_xinfo({quote(name)})").fetchall()
        connection.execute(f"EXPLAIN SELECT * FROM {quote(name)}")
    except sqlite3.OperationalError as error:
        failed[name] = str(error)
        return None
    if "shadow" in kinds:
        return None
    comments = _comments(sql) if kind == "table" else {}
    columns = []
    for _, column, declared, not_null, _, key, hidden in rows:
        if hidden == _HIDDEN:
            continue
        try:
            connection.execute(f"EXPLAIN SELECT 1 FROM {quote(name)} ORDER BY {quote(column)}")
        except sqlite3.OperationalError as error:  # its collation is absent: it can be neither compared nor sorted
            failed[f"{name}.{column}"] = str(error)
            continue
        declared = re.sub(r"\s*GENERATED ALWAYS$", "", declared or "", flags=re.IGNORECASE)
        computed = kind == "view" or hidden in _GENERATED
        columns.append(Column(column, declared, bool(not_null), key, comments.get(column.lower(), ""), computed))
    return Table(name, tuple(columns), "virtual" if "virtual" in kinds else kind) if columns else None


def _comments(sql: str) -> dict[str, str]:
    """The comments of a CREATE TABLE by column in lower case: what follows a column's definition on its line."""
    comments: dict[str, str] = {}
    depth, column, starts = 0, "", False
    for text in TOKEN.findall(sql):
        if text.startswith(("--", "/*")):
            comment = " ".join(text.strip("-" if text[0] == "-" else "/*").split())
            if column and comment:
                comments[column] = f"{comments[column]} {comment}" if column in comments else comment
        elif text == "\n":
            column = ""  # a comment on a line of its own belongs to no column
        elif text == "(":
            depth += 1
            starts = starts or depth == 1
        elif text == ")":
            depth -= 1
        elif text == ",":
            starts = depth == 1
        elif starts:
            column = (text[1:-1].replace(text[-1] * 2, text[-1]) if text[0] in "\"'`[" else text).lower()
            starts = False
    return comments


def columns_of(schema: Schema) -> dict[str, set[str]]:
    """The columns of each table, all in lower case."""
    return {table.name.lower(): {column.name.lower() for column in table.columns} for table in schema.tables}


def row_counts(schema: Schema) -> list[int]:
    """The number of rows of each table; 0 for one that cannot be read to its end."""
    counts = [0] * len(schema.tables)
    with open_read_only(schema.path) as connection:
        for number, table in enumerate(schema.tables):
            with reading(connection, schema.path, table, "no rows"):
                counts[number] = connection.execute(f"SELECT count(*) FROM {quote(table.name)}").fetchone()[0]
    return counts


def _read_foreign_keys(
    connection: sqlite3.Connection, table: Table, parents: Mapping[str, tuple[Table, Mapping[str, str]]]
) -> list[ForeignKey]:
    """The table's foreign keys, the one declared last first, as SQLite lists them.

    Those to tables or columns that are not there do not count; SQLite accepts them. `parents` has each table and its
    columns' names, by the names in lower case.
    """
    keys = []
    rows = connection.execute(f"PRAGMA foreign_key_list({quote(table.name)})").fetchall()
    widths = Counter(number for number, *_ in rows)
    for number, sequence, parent_name, column, target, *_ in sorted(rows):
        if parent_name.lower() not in parents:
            continue
        parent, names = parents[parent_name.lower()]
        if target is None:  # means the parent's primary key
            target = next(iter(parent.primary_key[sequence:]), "")
        own = parents[table.name.lower()][1].get(column.lower())
        parent_column = names.get(target.lower())
        if own and parent_column:
            keys.append(ForeignKey(table.name, own, parent.name, parent_column, composite=widths[number] > 1))
    return keys
