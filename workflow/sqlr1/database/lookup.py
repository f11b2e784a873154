"""Whether a column has a value: tells a wrong literal that occurs nowhere from one that means other rows."""

import sqlite3
from functools import lru_cache
from pathlib import Path

from sqlr1.database.schema import open_read_only, quote

_STEPS = 10_000_000  # of SQLite's virtual machine, per table: about a second, and the same answer on every machine


@lru_cache(maxsize=4096)
def has_value(
    database: Path, tables: tuple[str, ...], column: str, value: str, text: bool = True, like: bool = False
) -> bool | None:
    """Whether the column of that name in one of the `tables` has the value (a number, if not `text`), or one LIKE it.

    None if no table has such a column, and if the search takes more than _STEPS. Only SQL of this function runs.
    Raises InputError for a missing or corrupt file.
    """
    found = None
    with open_read_only(database) as connection:
        connection.set_progress_handler(lambda: 1, _STEPS)
        for table in tables:
            # A qualified name that is no column is an error; alone it would be a text.
            place = f"{quote(table)}.{quote(column)}"
            sql = f"SELECT 1 FROM {quote(table)} WHERE {place} {'LIKE' if like else '='} ? LIMIT 1"
            try:
                if connection.execute(sql, (value if text else _number(value),)).fetchone():
                    return True
                found = False
            except sqlite3.OperationalError as error:
                if str(error) == "interrupted":
                    return None
    return found


def _number(text: str) -> float:
    return int(text) if text.isdigit() and len(text) < 19 else float(text)
