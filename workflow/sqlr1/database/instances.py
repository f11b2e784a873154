"""Value-perturbed instances of a database, on which a query that matched by coincidence no longer matches, and a copy
that is read backward, on which a query whose result depends on the order of reading has another result.

An instance keeps the schema, primary keys, types and the values that occur. It moves values between rows, repeats
values, shifts numbers by one, adds NULLs to columns that have some, drops rows, and gives children other parents, so
that some parents lose all of theirs. Small tables can be filled with rows first: on SynSQL's, of two rows each, many
queries match by coincidence. The reward, like Spider's evaluator, demands a match on every `*.sqlite` file in a
database's folder (test-suite accuracy: Zhong et al. 2020, arXiv 2010.02840).
"""

import glob
import itertools
import logging
import random
import re
import shutil
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

from sqlr1.database.profile import Profile, read_profile
from sqlr1.database.schema import ForeignKey, Table, quote, read_schema

log = logging.getLogger(__name__)

_REPEATED = (0.2, 0.5, 0.8)  # share of values that become copies of others; drawn for each column
_SHIFTED, _EMPTIED, _DROPPED, _REHOMED = 0.2, 0.06, 0.12, 0.3
_LARGEST_COPY = 200 * 2**20  # bytes; copying a larger database backward takes longer than the check is worth
_LARGEST_INTEGER = 2**63 - 1
_LARGEST = 20_000  # rows: larger tables are not changed, because few queries match on so many rows by coincidence
_EXTERNAL_INDEX = re.compile(rb"\bfts[45]\s*\(.*\bcontent\s*=\s*(?!''|\"\")", re.IGNORECASE | re.DOTALL)


class _Text(bytes):
    """Text as bytes: it is moved without being decoded, because it may not be valid UTF-8."""


def write_instances(source: Path, folder: Path, count: int, seed: int, rows: int = 0) -> list[Path]:
    """Copy `source` into `folder` and write `count` perturbed instances beside it; returns all files, the copy first.

    Tables of an instance that have some but fewer than `rows` rows are filled up to about that many before values move.
    An instance in which nothing could be changed is left out: each query would only run once more. Further instances of
    an earlier call are removed, because a match would have to hold on them too. The result is determined by the
    content, `seed` and the instance's number. Raises InputError if `source` is no SQLite database.
    """
    profile = read_profile(source)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / source.name, *(folder / f"{source.stem}_{number}.sqlite" for number in range(1, count + 1))]
    for number, path in enumerate(list(paths)):
        temporary = path.with_name(f".{path.name}.tmp")
        shutil.copyfile(source, temporary)
        temporary.chmod(0o644)
        if number and not _perturb(temporary, profile, random.Random(f"{seed}:{source.stem}:{number}"), rows):
            log.warning("%s: instance %d is left out: no table has values that can be changed", source, number)
            temporary.unlink()
            paths.remove(path)
        else:
            temporary.replace(path)
    for path in set(folder.glob(f"{glob.escape(source.stem)}_*.sqlite")) - set(paths):
        if path.stem.removeprefix(f"{source.stem}_").isdigit():
            path.unlink()
    return paths


def _perturb(path: Path, profile: Profile, rng: random.Random, filled: int) -> bool:
    """Perturb the database, and tell whether that changed any row."""
    with closing(sqlite3.connect(path)) as connection:
        connection.text_factory = _Text
        # A file that is renamed when it is done need not be safe from a crash before.
        for pragma in ("foreign_keys = OFF", "journal_mode = MEMORY", "synchronous = OFF"):
            connection.execute(f"PRAGMA {pragma}")
        for (trigger,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            connection.execute(f"DROP TRIGGER {quote(trigger.decode())}")
        tables = [t for t in profile.schema.tables if profile.rows[t.name] <= _LARGEST and _has_rowid(connection, t)]
        any_changed = False
        for table in _parents_first(tables, profile):
            if 0 < profile.rows[table.name] < filled:
                any_changed |= _changed(_fill_table, connection, table, profile, rng, filled)
        for table in tables:
            if profile.rows[table.name] and max(profile.rows[table.name], filled) >= 2:
                any_changed |= _changed(_perturb_table, connection, table, profile, rng)
        for table in profile.schema.tables:
            if table.kind == "virtual" and _EXTERNAL_INDEX.search(_created(connection, table)):
                _changed(_rebuild, connection, table, profile)
        connection.commit()
        return any_changed


def _changed(change: Callable, connection: sqlite3.Connection, table: Table, profile: Profile, *more: object) -> bool:
    """`change` the table, or leave it as it is. Tells whether a row was changed."""
    before, done = connection.total_changes, False
    connection.execute("SAVEPOINT table_as_it_is")
    try:
        change(connection, table, profile, *more)
        done = connection.total_changes > before
    except (sqlite3.OperationalError, sqlite3.IntegrityError) as error:  # a CHECK calls the application's function
        connection.execute("ROLLBACK TO table_as_it_is")
        log.warning("%s: %s is not changed: %s", profile.schema.path, table.name, error)
    connection.execute("RELEASE table_as_it_is")
    return done


def _rebuild(connection: sqlite3.Connection, table: Table, profile: Profile) -> None:
    """Index the changed rows of another table: without it, SQLite calls the database malformed."""
    connection.execute(f"INSERT INTO {quote(table.name)} ({quote(table.name)}) VALUES ('rebuild')")


def _parents_first(tables: Sequence[Table], profile: Profile) -> list[Table]:
    """The tables, those that foreign keys name before those that have the keys; in a cycle, in their own order."""
    parents = {t.name: {k.parent for k in profile.foreign_keys if k.table == t.name} - {t.name} for t in tables}
    try:
        places = {name: place for place, name in enumerate(TopologicalSorter(parents).static_order())}
    except CycleError:
        return list(tables)
    return sorted(tables, key=lambda table: places[table.name])


def _fill_table(
    connection: sqlite3.Connection, table: Table, profile: Profile, rng: random.Random, wanted: int
) -> None:
    """Add rows until there are about `wanted`: new keys, keys of parents, and values like those that there are.

    Rows that break a constraint are left out.
    """
    apart = _unique_columns(connection, table) | _referenced(table, profile)
    keys = _foreign_keys(table, profile)
    names = [column.name for column in table.columns if not column.computed]
    number = wanted - profile.rows[table.name]
    made: dict[str, Sequence[Any]] = {}
    for name in names:
        if name in made:  # with another column of its key
            continue
        if key := next((key for key in keys if name in {part.column for part in key}), None):
            made |= _keys_of_parents(connection, key, made, number, rng)
            continue
        found = connection.execute(f"SELECT {quote(name)} FROM {quote(table.name)} WHERE {quote(name)} IS NOT NULL")
        values = [value for (value,) in found]
        if not values:
            made[name] = [None] * number
        elif name in table.primary_key or name in apart:
            made[name] = _new_keys(values, number)
        else:
            made[name] = _similar_values(values, number, rng)
    columns = ", ".join(map(quote, names))
    for row in zip(*(made[name] for name in names), strict=True):
        marks = ", ".join(map(_mark, row))
        connection.execute(f"INSERT OR IGNORE INTO {quote(table.name)} ({columns}) VALUES ({marks})", _bound(row))


def _mark(value: object) -> str:
    """The place of a value in an SQL text; bytes alone would become a BLOB."""
    return "CAST(? AS TEXT)" if isinstance(value, _Text) else "?"


def _bound(values: Iterable[Any]) -> list[Any]:
    return [bytes(value) if isinstance(value, _Text) else value for value in values]


def _referenced(table: Table, profile: Profile) -> set[str]:
    """The table's columns that foreign keys refer to."""
    return {key.parent_column for key in profile.foreign_keys if key.parent == table.name}


def _foreign_keys(table: Table, profile: Profile) -> list[list[ForeignKey]]:
    """The table's foreign keys, each with a part per column; those of most columns first."""
    keys: list[list[ForeignKey]] = []
    for part in profile.foreign_keys:
        if part.table != table.name:
            continue
        last = keys[-1] if keys else []
        another = not part.composite or not last or not last[0].composite or last[0].parent != part.parent
        if another or any(k.column == part.column or k.parent_column == part.parent_column for k in last):
            keys.append([part])
        else:
            last.append(part)
    return sorted(keys, key=len, reverse=True)


def _keys_of_parents(
    connection: sqlite3.Connection,
    key: Sequence[ForeignKey],
    made: Mapping[str, Sequence[Any]],
    number: int,
    rng: random.Random,
) -> dict[str, Sequence[Any]]:
    """`number` values of each column of the key that is not `made` yet: in each row those of one parent.

    The parent has the values that are made, if keys share columns. Without such a parent the others are NULL.
    """
    names = [quote(part.parent_column) for part in key]
    there = " AND ".join(f"{name} IS NOT NULL" for name in names)
    shared = [part.column in made for part in key]
    parents = defaultdict(list)
    for parent in connection.execute(f"SELECT {', '.join(names)} FROM {quote(key[0].parent)} WHERE {there}"):
        parents[tuple(itertools.compress(parent, shared))].append(parent)
    given = [made[part.column] for part in key if part.column in made]
    rows = zip(*given, strict=True) if given else [()] * number
    drawn = [rng.choices(parents.get(row, [(None,) * len(key)]))[0] for row in rows]
    by_column = zip(key, zip(*drawn, strict=True), strict=True)
    return {part.column: values for part, values in by_column if part.column not in made}


def _new_keys(values: Sequence[Any], number: int) -> list[object]:
    """`number` values that do not occur in `values`: numbers above them, or texts with a number behind."""
    if all(isinstance(value, (int, float)) for value in values):
        last = max(values)
        return [last + step if last < _LARGEST_INTEGER - number else None for step in range(1, number + 1)]
    repeated = zip(itertools.cycle(values), range(1, number + 1))
    return [_Text(b"%s %d" % (value, step)) if isinstance(value, _Text) else value for value, step in repeated]


def _similar_values(values: Sequence[Any], number: int, rng: random.Random) -> list[object]:
    """`number` values: numbers between those of `values`, texts among them."""
    kinds = set(map(type, values))
    if kinds == {int} and max(values) - min(values) > 1:  # 0 and 1 may mean no and yes
        return [rng.randint(min(values), max(values)) for _ in range(number)]
    if kinds == {float}:
        return [round(rng.uniform(min(values), max(values)), 2) for _ in range(number)]
    return rng.choices(values, k=number)


def _has_rowid(connection: sqlite3.Connection, table: Table) -> bool:
    """Whether single rows can be changed. The rows of a virtual table are an index over other rows."""
    fixed = table.kind != "table" or b"WITHOUT ROWID" in _created(connection, table).upper()
    return not fixed and not any(c.name.lower() == "rowid" for c in table.columns)


def _created(connection: sqlite3.Connection, table: Table) -> bytes:
    """The statement that created the table."""
    return connection.execute("SELECT sql FROM sqlite_master WHERE name = ?", (table.name,)).fetchone()[0]


def _has_blobs(connection: sqlite3.Connection, source: str, column: str) -> bool:
    """Whether some value is a BLOB: photos could fill the memory, and questions are not about them."""
    found = connection.execute(f"SELECT 1 FROM {source} WHERE typeof({quote(column)}) = 'blob' LIMIT 1")
    return found.fetchone() is not None


def _perturb_table(connection: sqlite3.Connection, table: Table, profile: Profile, rng: random.Random) -> None:
    source, referenced, unique = quote(table.name), _referenced(table, profile), _unique_columns(connection, table)
    keys = [[part.column for part in key] for key in _foreign_keys(table, profile)]
    foreign, together = set(itertools.chain(*keys)), Counter(itertools.chain(*(key for key in keys if len(key) > 1)))
    fixed = {column.name for column in table.columns if column.primary_key or column.computed} | referenced
    for key in keys:  # of several columns: they get those of another row, if no other such key has one of them
        if all(together[name] == 1 and name not in fixed | unique for name in key):
            query = f"SELECT rowid, {', '.join(map(quote, key))} FROM {source} ORDER BY rowid"
            rows = [row for row in connection.execute(query) if None not in row]
            _update(connection, source, key, rows, _rehomed([row[1:] for row in rows], rng))
    for column in table.columns:
        if column.name in fixed or column.name in together or _has_blobs(connection, source, column.name):
            continue
        rows = connection.execute(f"SELECT rowid, {quote(column.name)} FROM {source} ORDER BY rowid").fetchall()
        values = [value for _, value in rows]
        if column.name not in foreign:
            rng.shuffle(values)
            if column.name not in unique:
                # No NULL in a column that has none: COUNT(name) and COUNT(*), which are equally right, would differ.
                complete = not profile.columns[table.name, column.name].has_nulls
                values = _disturbed(values, column.not_null or complete, rng)
        elif column.name not in unique:
            values = _rehomed(values, rng)
        _update(connection, source, [column.name], rows, zip(values, strict=True))
    if not referenced & {column.name for column in table.columns}:
        rows = connection.execute(f"SELECT rowid FROM {source} ORDER BY rowid").fetchall()
        dropped = [row for row in rows if rng.random() < _DROPPED]
        connection.executemany(f"DELETE FROM {source} WHERE rowid = ?", dropped[: len(rows) - 1])


def _update(
    connection: sqlite3.Connection, source: str, names: Sequence[str], rows: Iterable[tuple], changed: Iterable[tuple]
) -> None:
    """Give each of `rows` (rowid, values of the columns `names`) the values `changed`, unless a constraint forbids."""
    for (row, *old), new in zip(rows, changed, strict=True):
        if list(new) != old:
            values = ", ".join(f"{quote(name)} = {_mark(value)}" for name, value in zip(names, new, strict=True))
            connection.execute(f"UPDATE OR IGNORE {source} SET {values} WHERE rowid = ?", [*_bound(new), row])


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
