"""Copies of a database with perturbed values, on which a query that matched by coincidence no longer matches.

An instance keeps schema, primary keys, types and the set of values. It moves values between rows, repeats values,
shifts numbers by one, adds NULLs to columns that have some, drops rows and gives children to other parents, so that
some parents lose all of their children. The reward, like Spider's evaluator, requires a match on every `*.sqlite` file
of a database's folder (test-suite accuracy: Zhong et al. 2020, arXiv 2010.02840).
"""

import random
import shutil
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from sqlr1.database import Profile, Table, read_profile
from sqlr1.database.schema import quote

_COPIED = (0.2, 0.5, 0.8)  # share of values repeated, one of these per column
_SHIFTED, _EMPTIED, _DROPPED, _REHOMED = 0.2, 0.06, 0.12, 0.3
_LARGEST = 20_000  # rows; larger tables stay as they are, because a match by coincidence is unlikely on them


class _Text(bytes):
    """Text as bytes: it is moved between rows and never decoded, so it need not be valid UTF-8."""


def write_instances(source: Path, folder: Path, count: int, seed: int) -> list[Path]:
    """Copy `source` into `folder` and write `count` perturbed instances beside it; returns all files, the copy first.

    Further instances from an earlier call are removed, because a match would have to hold on them too. Equal content,
    seed and number of the instance give equal files. Raises InputError if `source` is not a SQLite database.
    """
    found = read_profile(source)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / source.name, *(folder / f"{source.stem}_{number}.sqlite" for number in range(1, count + 1))]
    for number, path in enumerate(paths):
        temporary = path.with_name(f".{path.name}.tmp")
        shutil.copyfile(source, temporary)
        temporary.chmod(0o644)
        if number:
            _perturb(temporary, found, random.Random(f"{seed}:{source.stem}:{number}"))
        temporary.replace(path)
    for path in set(folder.glob(f"{source.stem}_*.sqlite")) - set(paths):
        if path.stem.removeprefix(f"{source.stem}_").isdigit():
            path.unlink()
    return paths


def _perturb(path: Path, found: Profile, rng: random.Random) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.text_factory = _Text
        connection.execute("PRAGMA foreign_keys = OFF")
        referenced = {(k.parent, k.parent_column) for k in found.foreign_keys}
        for trigger in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            connection.execute(f"DROP TRIGGER {quote(trigger[0].decode())}")
        for table in found.schema.tables:
            if 2 <= found.rows[table.name] <= _LARGEST and _has_own_rowid(connection, table):
                _perturb_table(connection, table, found, referenced, rng)
        connection.commit()


def _has_own_rowid(connection: sqlite3.Connection, table: Table) -> bool:
    """Whether rows can be changed by rowid. Virtual tables are excluded: they are an index over another table."""
    (sql,) = connection.execute("SELECT sql FROM sqlite_master WHERE name = ?", (table.name,)).fetchone()
    fixed = b"WITHOUT ROWID" in sql.upper() or sql.upper().startswith(b"CREATE VIRTUAL")
    return not fixed and not any(c.name.lower() == "rowid" for c in table.columns)


def _perturb_table(
    connection: sqlite3.Connection,
    table: Table,
    found: Profile,
    referenced: set[tuple[str, str]],
    rng: random.Random,
) -> None:
    foreign = {k.column: k for k in found.foreign_keys if k.table == table.name}
    unique = _unique_columns(connection, table)
    for column in table.columns:
        if column.primary_key or (table.name, column.name) in referenced:
            continue
        name, source = quote(column.name), quote(table.name)
        rows = connection.execute(f"SELECT rowid, {name} FROM {source} ORDER BY rowid").fetchall()
        values = [value for _, value in rows]
        if column.name in foreign:
            if column.name not in unique:
                values = _rehomed(values, rng)
        else:
            rng.shuffle(values)
            if column.name not in unique:
                # NULLs in a column without any would separate queries that are equally right: COUNT(name), COUNT(*).
                complete = not found.columns[table.name, column.name].has_nulls
                values = _disturbed(values, column.not_null or complete, rng)
        changed = [(v, row) for (row, old), v in zip(rows, values, strict=True) if v != old]
        for text, value in ((True, "CAST(? AS TEXT)"), (False, "?")):
            connection.executemany(
                f"UPDATE OR IGNORE {source} SET {name} = {value} WHERE rowid = ?",
                [(bytes(v) if text else v, row) for v, row in changed if isinstance(v, _Text) == text],
            )
    if not any((table.name, c.name) in referenced for c in table.columns):
        rows = [row for (row,) in connection.execute(f"SELECT rowid FROM {quote(table.name)} ORDER BY rowid")]
        gone = [(row,) for row in rows if rng.random() < _DROPPED]
        connection.executemany(f"DELETE FROM {quote(table.name)} WHERE rowid = ?", gone[: len(rows) - 1])


def _unique_columns(connection: sqlite3.Connection, table: Table) -> set[str]:
    """Columns in a UNIQUE constraint or index: their values can be moved but not repeated."""
    found = set()
    for _, index, is_unique, *_ in connection.execute(f"PRAGMA index_list({quote(table.name)})").fetchall():
        if is_unique:
            columns = connection.execute(f"PRAGMA index_info({quote(index.decode())})").fetchall()
            found |= {name.decode() for _, _, name in columns if name}
    return found


def _rehomed(values: Sequence[object], rng: random.Random) -> list[object]:
    """The values of a foreign key with some children given to other parents; one parent in five loses all of its."""
    parents = sorted({v for v in values if v is not None}, key=repr)
    if len(parents) < 2:
        return list(values)
    abandoned = set(rng.sample(parents, max(1, len(parents) // 5)))
    others = [p for p in parents if p not in abandoned]
    return [rng.choice(others) if v in abandoned or (v is not None and rng.random() < _REHOMED) else v for v in values]


def _disturbed(values: Sequence[object], not_null: bool, rng: random.Random) -> list[object]:
    """The values with some repeated, some numbers shifted by one and, unless `not_null`, some NULLs."""
    result = []
    copied = rng.choice(_COPIED)
    few = rng.sample(values, max(1, len(values) // 5))
    for value in values:
        if value is not None and rng.random() < copied:
            value = rng.choice(few)
        if isinstance(value, (int, float)) and rng.random() < _SHIFTED:
            value += rng.choice([-1, 1])
        if not not_null and rng.random() < _EMPTIED:
            value = None
        result.append(value)
    return list(values) if not_null and None in result else result
