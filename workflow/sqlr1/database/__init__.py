"""A SQLite database as the model sees it: schema, statistics, sample values, prompt text."""

from sqlr1.database.profile import ColumnStatistics, Profile, read_profile
from sqlr1.database.schema import ForeignKey, Schema, Table, identifier, read_schema
from sqlr1.database.text import schema_text

__all__ = [
    "ColumnStatistics", "ForeignKey", "Profile", "Schema", "Table", "identifier", "read_profile", "read_schema",
    "schema_text",
]  # fmt: skip
