"""Value-perturbed instances of a database, on which a query that matched by coincidence no longer matches, and a copy
that is read backward, on which a query whose result depends on the order of reading has another result.

An instance keeps the schema, primary keys, types and the values that occur. It moves values between rows, repeats
values, shifts numbers by one, adds NULLs to columns that have some, drops rows, and gives children other parents, so
that some parents lose all of theirs. The reward, like Spider's evaluator, demands a match on every `*.sqlite` file in a
database's folder (test-suite accuracy: Zhong et al. 2020, arXiv 2010.02840).
"""

import logging
import random
import shutil
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from sqlr1.database.profile import Profile, read_profile
from sqlr1.database.schema import Table, quote, read_schema

log = logging.getLogger(__name__)

_REPEATED = (0.2, 0.5, 0.8)  # share of values that become copies of others; drawn for each column
_SHIFTED, _EMPTIED, _DROPPED, _REHOMED = 0.2, 0.06, 0.12, 0.3
_LARGEST_COPY = 200 * 2**20  # bytes; copying a larger database backward takes longer than the check is worth
_LARGEST_INTEGER = 2**63 - 1
_LARGEST = 20_000  # rows: larger tables are not changed, because few queries match on so many rows by coincidence


class _Text(bytes):
    """Text as bytes: it is moved without being decoded, because it may not be valid UTF-8."""


def write_instances(source: Path, folder: Path, count: int, seed: int) -> list[Path]:
    """Copy `source` into `folder` and write `count` perturbed instances beside it; returns all files, the copy first.

    Further instances of an earlier call are removed, because a match would have to hold on them too. The result is
    determined by the content, `seed` and the instance's number. Raises InputError if `source` is no SQLite database.
    """
    profile = read_profile(source)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / source.name, *(folder / f"{source.stem}_{number}.sqlite" for number in range(1, count + 1))]
    for number, path in enumerate(paths):
        temporary = path.with_name(f".{path.name}.tmp")
        shutil.copyfile(source, temporary)
        temporary.chmod(0o644)
        if number:
            _perturb(temporary, profile, random.Random(f"{seed}:{source.stem}:{number}"))
        temporary.replace(path)
    for path in set(folder.glob(f"{source.stem}_*.sqlite")) - set(paths):
        if path.stem.removeprefix(f"{source.stem}_").isdigit():
            path.unlink()
    return paths


def _perturb(path: Path, profile: Profile, rng: random.Random) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.text_factory = _Text
        connection.execute("PRAGMA foreign_keys = OFF")
        for (trigger,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            connection.execute(f"DROP TRIGGER {quote(trigger.decode())}")
        for table in profile.schema.tables:
            if 2 <= profile.rows[table.name] <= _LARGEST and _has_rowid(connection, table):
                connection.execute("SAVEPOINT table_as_it_is")
                try:
                    _perturb_table(connection, table, profile, rng)
                except sqlite3.OperationalError as error:  # a CHECK or an index calls a function of the application
                    connection.execute("ROLLBACK TO table_as_it_is")
                    log.warning("%s: %s is not changed: %s", profile.schema.path, table.name, error)
                connection.execute("RELEASE table_as_it_is")
        connection.commit()


def _has_rowid(connection: sqlite3.Connection, table: Table) -> bool:
    """Whether single rows can be changed. The rows of a virtual table are an index over other rows."""
    (sql,) = connection.execute("SELECT sql FROM sqlite_master WHERE name = ?", (table.name,)).fetchone()
    fixed = table.kind != "table" or b"WITHOUT ROWID" in sql.upper()
    return not fixed and not any(c.name.lower() == "rowid" for c in table.columns)


def _perturb_table(connection: sqlite3.Connection, table: Table, profile: Profile, rng: random.Random) -> None:
    source = quote(table.name)
    foreign = {k.column for k in profile.foreign_keys if k.table == table.name}
    referenced = {k.parent_column for k in profile.foreign_keys if k.parent == table.name}
    unique = _unique_columns(connection, table)
    for column in table.columns:
        if column.primary_key or column.computed or column.name in referenced:
            continue
        name = quote(column.name)
        rows = connection.execute(f"SELECT rowid, {name} FROM {source} ORDER BY rowid").fetchall()
        values = [value for _, value in rows]
        if column.name not in foreign:
            rng.shuffle(values)
            if column.name not in unique:
                # No NULL in a column that has none: COUNT(name) and COUNT(*), which are equally right, would differ.
                complete = not profile.columns[table.name, column.name].has_nulls
                values = _disturbed(values, column.not_null or complete, rng)
        elif column.name not in unique:
            values = _rehomed(values, rng)
        changed = [(v, row) for (row, old), v in zip(rows, values, strict=True) if v != old]
        for text, value in ((True, "CAST(? AS TEXT)"), (False, "?")):
            connection.executemany(
                f"UPDATE OR IGNORE {source} SET {name} = {value} WHERE rowid = ?",
                [(bytes(v) if text else v, row) for v, row in changed if isinstance(v, _Text) == text],
            )
    if not referenced & {column.name for column in table.columns}:
        rows = connection.execute(f"SELECT rowid FROM {source} ORDER BY rowid").fetchall()
        dropped = [row for row in rows if rng.random() < _DROPPED]
        connection.executemany(f"DELETE FROM {source} WHERE rowid = ?", dropped[: len(rows) - 1])


def _unique_columns(connection: sqlite3.Connection, table: Table) -> set[str]:
    """Columns in a UNIQUE constraint or index: their values can be moved but not repeated."""
    found = set()
    for _, index, is_unique, *_ in connection.execute(f"PRAGMA index_list({quote(table.name)})").fetchall():
        if is_unique:
            columns = connection.execute(f"PRAGMA index_info({quote(index.decode())})").fetchall()
            found |= {name.decode() for _, _, name in columns if name}
    return found


def _rehomed(values: Sequence[object], rng: random.Random) -> list[object]:
    """Foreign keys with some children given to other parents; one parent in five loses all of its children."""
    parents = sorted({v for v in values if v is not None}, key=repr)
    if len(parents) < 2:
        return list(values)
    abandoned = set(rng.sample(parents, max(1, len(parents) // 5)))
    others = [p for p in parents if p not in abandoned]
    return [rng.choice(others) if v in abandoned or (v is not None and rng.random() < _REHOMED) else v for v in values]


def _disturbed(values: Sequence[object], not_null: bool, rng: random.Random) -> list[object]:
    """The values with some repeated, some numbers shifted by one, and some NULLs unless `not_null`."""
    result = []
    repeated = rng.choice(_REPEATED)
    few = rng.sample(values, max(1, len(values) // 5))
    for value in values:
        if value is not None and rng.random() < repeated:
            value = rng.choice(few)
        if isinstance(value, (int, float)) and rng.random() < _SHIFTED:
            value += rng.choice([-1, 1]) if abs(value) < _LARGEST_INTEGER else 0
        if not not_null and rng.random() < _EMPTIED:
            value = None
        result.append(value)
    return list(values) if not_null and None in result else result


def write_backward(source: Path, target: Path) -> Path | None:
    """Copy tables and views to `target`, rows in reverse order, without keys and indexes: those impose their own order.

    Returns `target`, or None if there can be no such copy: the database is larger than 200 MiB, has collations (which
    copies lose), or cannot be read.
    """
    if source.stat().st_size > _LARGEST_COPY:
        return None
    readable = {table.name for table in read_schema(source).tables}
    with closing(sqlite3.connect(target, uri=True, isolation_level=None)) as connection:
        for pragma in ("journal_mode = OFF", "synchronous = OFF", "reverse_unordered_selects = ON"):
            connection.execute(f"PRAGMA {pragma}")
        try:
            connection.execute("ATTACH ? AS forward", (f"{source.resolve().as_uri()}?mode=ro&immutable=1",))
            connection.execute("BEGIN")
            created = connection.execute(
                "SELECT name, type, sql FROM forward.sqlite_master WHERE type IN ('table', 'view') ORDER BY type, rowid"
            ).fetchall()
            created = [row for row in created if row[0] in readable]
            if any("collate" in sql.lower() for _, _, sql in created):
                return None
            for name, kind, sql in created:
                table = f"CREATE TABLE main.{quote(name)} AS SELECT * FROM forward.{quote(name)}"
                connection.execute(sql if kind == "view" else table)
            connection.execute("COMMIT")
        except sqlite3.Error:  # as for a large database, the check is left out
            return None
    return target
