"""A copy of a database that is read backward: a query with another result there depends on the order of reading."""

import sqlite3
from contextlib import closing
from pathlib import Path

from sqlr1.database.schema import quote

_LARGEST = 200 * 2**20  # bytes; copying a larger database takes longer than the check is worth


def write_backward(source: Path, target: Path) -> Path | None:
    """Copy tables and views to `target`, rows in reverse order, without keys and indexes: those impose their own order.

    Returns `target`, or None if there can be no such copy: the database is larger than 200 MiB, has collations (which
    copies lose), or cannot be read.
    """
    if source.stat().st_size > _LARGEST:
        return None
    with closing(sqlite3.connect(target, uri=True, isolation_level=None)) as connection:
        for pragma in ("journal_mode = OFF", "synchronous = OFF", "reverse_unordered_selects = ON"):
            connection.execute(f"PRAGMA {pragma}")
        try:
            connection.execute("ATTACH ? AS forward", (f"{source.resolve().as_uri()}?mode=ro&immutable=1",))
            connection.execute("BEGIN")
            created = connection.execute(
                "SELECT name, type, sql FROM forward.sqlite_master WHERE type IN ('table', 'view') "
                "AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY type"
            ).fetchall()
            if any("collate" in sql.lower() for _, _, sql in created):
                return None
            for name, kind, sql in created:
                table = f"CREATE TABLE main.{quote(name)} AS SELECT * FROM forward.{quote(name)}"
                connection.execute(sql if kind == "view" else table)
            connection.execute("COMMIT")
        except sqlite3.Error:  # as for a large database, the check is left out
            return None
    return target
