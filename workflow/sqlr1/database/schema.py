"""The schema of a SQLite database: tables, columns, keys and the comments of its CREATE TABLE statements."""

import re
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlr1.records import InputError


@dataclass(frozen=True)
class Column:
    """A column. `type` is the declared type, `description` the `-- comment` on its line of CREATE TABLE."""

    name: str
    type: str
    not_null: bool
    primary_key: bool
    description: str = ""


@dataclass(frozen=True)
class Table:
    """A table with its columns in declared order."""

    name: str
    columns: tuple[Column, ...]

    @property
    def primary_key(self) -> tuple[str, ...]:
        """Names of the primary key's columns in declared order; empty if there is none."""
        return tuple(c.name for c in self.columns if c.primary_key)


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

    Bytes that are not UTF-8 become U+FFFD. Raises InputError for a missing file or one that is no SQLite database.
    """
    if not Path(path).is_file():
        raise InputError(f"{path}: no such SQLite file")
    uri = f"{Path(path).resolve().as_uri()}?mode=ro&immutable=1"
    with closing(sqlite3.connect(uri, uri=True)) as connection:
        connection.text_factory = lambda data: data.decode("utf-8", "replace")
        try:
            yield connection
        except sqlite3.DatabaseError as error:
            raise InputError(f"{path}: not a readable SQLite database ({error}); replace the file") from error


# Words that SQLite does not accept as a column or table name without quotes (sqlite.org/lang_keywords.html).
_KEYWORDS = frozenset(
    """add all alter and as autoincrement between by case cast check collate column commit constraint create cross
    current_date current_time current_timestamp default deferrable delete desc distinct drop else end escape except
    exists explain filter for foreign from full glob group having if in index inner insert intersect into is isnull join
    left like limit match natural not notnull null offset on or order outer over partition primary references regexp
    right rollback row rows select set table temp then to transaction union unique update using values view when where
    window with without""".split()  # noqa: SIM905
)

# SQLite accepts these, but sqlglot, which parses the queries, does not: it takes `range < 3` for the start of a type.
_WORDS_OF_SQLGLOT = frozenset(
    """any array describe fetch grant lateral list map nullable object qualify range returning revoke struct
    xor""".split()  # noqa: SIM905
)
_RESERVED = _KEYWORDS | _WORDS_OF_SQLGLOT


def identifier(name: str) -> str:
    """The name as SQL needs it: in double quotes only if necessary."""
    plain = re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) and name.lower() not in _RESERVED
    return name if plain else quote(name)


def quote(name: str) -> str:
    """A quoted SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def read_schema(path: Path) -> Schema:
    """Read the schema of a SQLite file, without the internal tables of full-text indexes.

    Raises InputError for a missing or corrupt file, or one without tables.
    """
    with open_read_only(path) as connection:
        shadows = {name for _, name, kind, *_ in connection.execute("PRAGMA table_list") if kind == "shadow"}
        created = connection.execute(
            "SELECT name, sql FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"
        ).fetchall()
        tables = tuple(_read_table(connection, name, sql) for name, sql in created if name not in shadows)
        foreign_keys = tuple(key for table in tables for key in _read_foreign_keys(connection, table, tables))
    if not tables:
        raise InputError(f"{path}: the database has no tables")
    return Schema(Path(path), tables, foreign_keys)


def _read_table(connection: sqlite3.Connection, name: str, sql: str) -> Table:
    # Comments, from lines such as `"name" TEXT, -- full name`.
    found = re.findall(r"^\s*(?:[\"`\[]([^\"`\]\n]+)[\"`\]]|(\w+))\s+\w[^\n]*?--\s*(.+?)\s*$", sql, re.MULTILINE)
    comments = {(quoted or bare).lower(): comment for quoted, bare, comment in found}
    columns = (
        Column(column, kind or "", bool(not_null), bool(key), comments.get(column.lower(), ""))
        for _, column, kind, not_null, _, key in connection.execute(f"PRAGMA table_info({quote(name)})")
    )
    return Table(name, tuple(columns))


def _read_foreign_keys(connection: sqlite3.Connection, table: Table, tables: tuple[Table, ...]) -> list[ForeignKey]:
    """The table's foreign keys, in the order of their declaration; those to tables or columns that are not there do
    not count, which SQLite accepts.
    """
    columns = {t.name.lower(): {c.name.lower(): c.name for c in t.columns} for t in tables}
    parents = {t.name.lower(): t for t in tables}
    keys = []
    rows = connection.execute(f"PRAGMA foreign_key_list({quote(table.name)})").fetchall()
    widths = Counter(number for number, *_ in rows)
    for number, sequence, parent_name, column, target, *_ in sorted(rows):
        if not (parent := parents.get(parent_name.lower())):
            continue
        if target is None:  # means the parent's primary key
            target = next(iter(parent.primary_key[sequence:]), "")
        own = columns[table.name.lower()].get(column.lower())
        parent_column = columns[parent.name.lower()].get(target.lower())
        if own and parent_column:
            keys.append(ForeignKey(table.name, own, parent.name, parent_column, composite=widths[number] > 1))
    return keys
