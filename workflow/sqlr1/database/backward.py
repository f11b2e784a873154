"""A copy of a database that is read backwards: a result that is another one there depends on the order of reading."""

import sqlite3
from contextlib import closing
from pathlib import Path

from sqlr1.database.schema import quote

_LARGEST = 200 * 2**20  # bytes; copying a larger database takes longer than the check is worth


def write_backward(source: Path, target: Path) -> bool:
    """Copy tables and views, the rows in reverse order and without keys and indexes, which would give their own order.

    Returns whether the copy serves: not of a large database, nor where columns have collations (which copies lose) or
    something cannot be read.
    """
    if source.stat().st_size > _LARGEST:
        return False
    with closing(sqlite3.connect(target, uri=True, isolation_level=None)) as connection:
        for pragma in ("journal_mode = OFF", "synchronous = OFF", "reverse_unordered_selects = ON"):
            connection.execute(f"PRAGMA {pragma}")
        try:
            connection.execute("ATTACH ? AS forward", (f"{source.resolve().as_uri()}?mode=ro&immutable=1",))
            connection.execute("BEGIN")
            serves = _copy(connection)
            connection.execute("COMMIT")
        except sqlite3.Error:  # the caller goes without the copy, as for a large database
            return False
    return serves


def _copy(connection: sqlite3.Connection) -> bool:
    made = connection.execute(
        "SELECT name, type, sql FROM forward.sqlite_master WHERE type IN ('table', 'view') "
        "AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY type"
    ).fetchall()
    if any("collate" in sql.lower() for _, _, sql in made):
        return False
    for name, kind, sql in made:
        table = quote(name)
        connection.execute(sql if kind == "view" else f"CREATE TABLE main.{table} AS SELECT * FROM forward.{table}")
    return True
