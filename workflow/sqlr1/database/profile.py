"""Statistics of a database's values, from which the generator picks, and the foreign keys that the data imply."""

import re
import sqlite3
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from sqlr1.database.schema import Column, ForeignKey, Schema, Table, open_read_only, quote, read_schema

_FREQUENT = 40  # most frequent values kept per column
_DATE = re.compile(r"(1[5-9]|20)\d\d-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])([ T]\d\d:\d\d(:\d\d)?(\.\d+)?)?$")
# Finds values of another kind among those beyond the most frequent: a "DNF" among numbers sorts above all of them.
_ODD = {
    "number": "typeof({0}) NOT IN ('integer', 'real')",
    "date": "(typeof({0}) <> 'text' OR {0} NOT GLOB '[12][0-9][0-9][0-9]-[01][0-9]-[0-3][0-9]*')",
}
_WORD_OF_KEY = re.compile(r"(^|_|(?<=[a-z]))(id|ids|code|key|number|num|no|uuid|isbn|ssn)$", re.IGNORECASE)


@dataclass(frozen=True)
class ColumnStatistics:
    """`kind` is one of key, number, date, boolean, text; `values` are the most frequent (value, count), ties in
    the order of the values.

    `filled` and `distinct` count values other than NULL; `quantiles` are the nine deciles of numbers or dates.
    """

    kind: str
    rows: int
    filled: int
    distinct: int
    values: tuple[tuple[object, int], ...] = ()
    quantiles: tuple[object, ...] = ()
    integral: bool = True

    @property
    def unique(self) -> bool:
        """Every row has its own value."""
        return self.filled == self.rows and self.distinct == self.rows

    @property
    def has_nulls(self) -> bool:
        """Some row has no value."""
        return self.filled < self.rows

    @property
    def categorical(self) -> bool:
        """Few values that repeat, so that grouping by them makes sense."""
        return 2 <= self.distinct <= 30 and self.distinct * 1.3 <= self.filled


@dataclass(frozen=True)
class Profile:
    """A schema with row counts, column statistics, and the declared and then the inferred foreign keys."""

    schema: Schema
    rows: dict[str, int]
    columns: dict[tuple[str, str], ColumnStatistics]
    foreign_keys: tuple[ForeignKey, ...] = field(default=())

    @cached_property
    def keys_between(self) -> Counter[frozenset[str]]:
        """The number of foreign keys between two tables, in either direction. A set of one name: a table and itself."""
        return Counter(frozenset((k.table, k.parent)) for k in dict.fromkeys(self.foreign_keys))


def read_profile(path: Path) -> Profile:
    """Read the schema and the statistics of a SQLite file. Raises InputError for a missing or corrupt one."""
    schema = read_schema(path)
    with open_read_only(path) as connection:
        rows = {
            t.name: connection.execute(f"SELECT count(*) FROM {quote(t.name)}").fetchone()[0] for t in schema.tables
        }
        parts = {(k.table, k.column) for k in schema.foreign_keys}
        columns = {
            (t.name, c.name): _column(connection, t, c, rows[t.name], (t.name, c.name) in parts)
            for t in schema.tables
            for c in t.columns
        }
        inferred = _inferred_keys(connection, schema, columns)
    return Profile(schema, rows, columns, schema.foreign_keys + inferred)


def _column(connection: sqlite3.Connection, table: Table, column: Column, rows: int, foreign: bool) -> ColumnStatistics:
    name, source = quote(column.name), quote(table.name)
    filled, distinct = connection.execute(f"SELECT count({name}), count(DISTINCT {name}) FROM {source}").fetchone()
    frequent = connection.execute(
        f"SELECT {name}, count(*) FROM {source} WHERE {name} IS NOT NULL "
        f"GROUP BY {name} ORDER BY count(*) DESC, {name} LIMIT {_FREQUENT}"
    ).fetchall()
    values = tuple((v, n) for v, n in frequent if _presentable(v))
    kind = _kind(table, column, [v for v, _ in frequent], foreign)
    if kind in _ODD and distinct > _FREQUENT:
        odd = f"SELECT EXISTS (SELECT 1 FROM {source} WHERE {name} IS NOT NULL AND {_ODD[kind].format(name)})"
        kind = "text" if connection.execute(odd).fetchone()[0] else kind
    quantiles: tuple[object, ...] = ()
    if kind in ("number", "date") and filled:
        decile = f"SELECT {name} FROM {source} WHERE {name} IS NOT NULL ORDER BY {name} LIMIT 1 OFFSET ?"
        quantiles = tuple(connection.execute(decile, (filled * d // 10,)).fetchone()[0] for d in range(1, 10))
    integral = all(isinstance(v, int) for v, _ in frequent)
    return ColumnStatistics(kind, rows, filled, distinct, values, quantiles, integral)


def _presentable(value: object) -> bool:
    """Whether a question can quote the value: it is short, decodable, on one line and has no quotes in it."""
    if isinstance(value, str):
        return (
            0 < len(value.strip()) == len(value) <= 40 and value.isprintable() and not set(value) & set("\ufffd\"'`;\\")
        )
    return not isinstance(value, bytes)


def _kind(table: Table, column: Column, values: list[object], foreign: bool) -> str:
    lone_key = table.primary_key == (column.name,)
    if foreign or (column.primary_key and (not lone_key or _WORD_OF_KEY.search(column.name))):
        return "key"
    if _WORD_OF_KEY.search(column.name) and re.search(r"id$|key$|uuid$", column.name, re.IGNORECASE):
        return "key"
    if values and all(isinstance(v, (int, float)) for v in values):
        return "boolean" if set(values) <= {0, 1} and len(values) == 2 and "bool" in column.type.lower() else "number"
    if values and all(isinstance(v, str) and _DATE.match(v) for v in values):
        return "date"
    return "text"


def _inferred_keys(
    connection: sqlite3.Connection, schema: Schema, columns: dict[tuple[str, str], ColumnStatistics]
) -> tuple[ForeignKey, ...]:
    """Undeclared keys: columns named like another table's one-column primary key, all of whose values occur there."""
    declared = {(k.table, k.column) for k in schema.foreign_keys}
    linked = {frozenset((k.table, k.parent)) for k in schema.foreign_keys}
    found = []
    for table in schema.tables:
        for column in table.columns:
            own = columns[table.name, column.name]
            if (table.name, column.name) in declared or table.primary_key == (column.name,) or not own.filled:
                continue
            for parent in schema.tables:
                if parent is table or len(parent.primary_key) != 1 or frozenset((table.name, parent.name)) in linked:
                    continue
                key = parent.primary_key[0]
                if _names_match(column.name, parent.name, key) and columns[parent.name, key].unique:
                    candidate = ForeignKey(table.name, column.name, parent.name, key)
                    if _included(connection, candidate):
                        found.append(candidate)
                        linked.add(frozenset((table.name, parent.name)))
                        break
    return tuple(found)


def _names_match(column: str, parent: str, key: str) -> bool:
    plain = lambda name: name.lower().replace("_", "")  # noqa: E731
    generic = plain(key) in ("id", "name", "code", "key", "number")
    return (plain(column) == plain(key) and not generic) or plain(column) == plain(parent) + plain(key)


def _included(connection: sqlite3.Connection, key: ForeignKey) -> bool:
    column, parent_column = quote(key.column), quote(key.parent_column)
    query = (
        f"SELECT EXISTS (SELECT 1 FROM {quote(key.table)} WHERE {column} IS NOT NULL "
        f"AND {column} NOT IN (SELECT {parent_column} FROM {quote(key.parent)} WHERE {parent_column} IS NOT NULL))"
    )
    return not connection.execute(query).fetchone()[0]
