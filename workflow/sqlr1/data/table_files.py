"""CSV and Parquet files as one SQLite file, with the types and keys that the data imply."""

import datetime
import decimal
import re
import sqlite3
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from sqlr1.data.readers import READERS
from sqlr1.database.profile import implied_primary_key, inferred_keys, read_profile
from sqlr1.database.schema import ForeignKey, Table, open_read_only, quote
from sqlr1.records import InputError

_TYPES = ("TEXT", "INTEGER", "REAL", "TEXT")  # by the highest rank of a column's values; 0: there is none
# Numbers whose value is kept: 007 is a code, and what has more digits is text, or it would lose some. 1.10 is 1.1, as
# for a price; 1e-05 is what pandas writes, 2E10 may be a code.
_INTEGER = re.compile(r"-?(0|[1-9]\d{0,17})")
_REAL = re.compile(r"-?((0|[1-9]\d{0,14})?\.\d+([eE][+-]?[12]?\d?\d)?|[1-9][eE][+-][12]?\d?\d)")


def load_tables(files: Sequence[Path], target: Path) -> None:
    """Write the SQLite file `target` with a table for each CSV or Parquet file, named after it.

    Empty CSV values are NULL. A column is INTEGER or REAL if all of its values are (in Parquet by type, in CSV as
    text), else TEXT; dates are text. Keys are as `implied_primary_key` and `inferred_keys` find them. Raises InputError
    for a file that cannot be read, has no rows or a column that is no text, number or date, and for two of one name.
    """
    first: dict[str, Path] = {}
    for path in files:
        if first.setdefault(path.stem.lower(), path) != path:
            raise InputError(f"{path} and {first[path.stem.lower()]} are tables of one name; rename one of them")
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        raw = Path(folder) / "raw.sqlite"
        with _writable(raw) as connection:
            for path in files:
                _load(connection, path)
        profile = read_profile(raw)
        keyed = []
        for table in profile.schema.tables:
            key = implied_primary_key(table, profile.columns)
            columns = tuple(replace(column, primary_key=column.name == key) for column in table.columns)
            keyed.append(replace(table, columns=columns))
        with open_read_only(raw) as connection:
            schema = replace(profile.schema, tables=tuple(keyed))
            foreign_keys = list(inferred_keys(connection, schema, profile.columns))
        with _writable(target) as connection:  # SQLite cannot add keys to a table: each is made again
            connection.execute("ATTACH ? AS raw", (str(raw),))
            for table in keyed:
                connection.execute(_definition(table, foreign_keys))
                connection.execute(f"INSERT INTO main.{quote(table.name)} SELECT * FROM raw.{quote(table.name)}")
            connection.commit()


@contextmanager
def _writable(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = OFF")
        yield connection


def _load(connection: sqlite3.Connection, path: Path) -> None:
    """Write a file's rows into a table without keys. It is read twice, so that its rows need not be in memory."""
    ranks: dict[str, int] = {}
    for row in _rows(path):
        for name, value in row.items():
            ranks[name] = max(ranks.get(name, 0), _rank(path, value))
    if not ranks:
        raise InputError(f"{path}: no rows")
    columns = ", ".join(f"{quote(name)} {_TYPES[rank]}" for name, rank in ranks.items())
    places = ", ".join("?" * len(ranks))
    try:
        connection.execute(f"CREATE TABLE {quote(path.stem)} ({columns})")
        values = (tuple(row.values()) for row in _rows(path))
        connection.executemany(f"INSERT INTO {quote(path.stem)} VALUES ({places})", values)
        connection.commit()
    except (sqlite3.Error, OverflowError) as error:
        raise InputError(f"{path}: SQLite cannot hold it ({error})") from error


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    for row in READERS[path.suffix.lower()](path):
        yield {name: _value(path, name, value) for name, value in row.items()}


def _value(path: Path, name: str, value: Any) -> str | int | float | None:
    """A value as SQLite has it."""
    match value:
        case None | "":
            return None
        case str() | int() | float():
            return value
        case decimal.Decimal():
            return float(value)
        case datetime.date() | datetime.time():
            return str(value)
    raise InputError(f"{path}: column {name!r} holds {type(value).__name__}; only text, numbers and dates can be read")


def _rank(path: Path, value: str | float | None) -> int:
    if value is None:
        return 0
    if isinstance(value, str):
        from_text = path.suffix.lower() == ".csv"
        return (1 if _INTEGER.fullmatch(value) else 2 if _REAL.fullmatch(value) else 3) if from_text else 3
    return 2 if isinstance(value, float) else 1


def _definition(table: Table, foreign_keys: Sequence[ForeignKey]) -> str:
    lines = [f"{quote(c.name)} {c.type}" + (" PRIMARY KEY NOT NULL" if c.primary_key else "") for c in table.columns]
    for key in foreign_keys:
        if key.table == table.name:
            target = f"{quote(key.parent)} ({quote(key.parent_column)})"
            lines.append(f"FOREIGN KEY ({quote(key.column)}) REFERENCES {target}")
    return f"CREATE TABLE {quote(table.name)} (\n  " + ",\n  ".join(lines) + "\n)"
