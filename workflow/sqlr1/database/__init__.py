"""A SQLite database as the model sees it: schema, statistics, sample values, prompt text."""

from sqlr1.database.profile import ColumnStatistics, Profile, read_profile
from sqlr1.database.schema import Column, ForeignKey, Schema, Table, identifier, open_read_only, read_schema
from sqlr1.database.text import schema_text

__all__ = [
    "Column",
    "ColumnStatistics",
    "ForeignKey",
    "Profile",
    "Schema",
    "Table",
    "identifier",
    "open_read_only",
    "read_profile",
    "read_schema",
    "schema_text",
]
