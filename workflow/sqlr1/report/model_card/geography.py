"""The small database that the question in a model card is about."""

import sqlite3
from contextlib import closing
from pathlib import Path

QUESTION = "How many cities are in France?"
_TABLE = "CREATE TABLE city (name TEXT, country TEXT, population INTEGER)"


def write_database(path: Path) -> None:
    """Write the database, without rows, to a new file."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(_TABLE)
