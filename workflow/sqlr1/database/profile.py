"""Value statistics of a database: what SQL may filter, group and order by, and foreign keys that the data imply."""

import math
import re
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from sqlr1.database.schema import Column, ForeignKey, Schema, Table, open_read_only, quote, read_schema, reading

_FREQUENT = 40  # most frequent values kept per column
_DATE = re.compile(r"(1[5-9]|20)\d\d-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])([ T]\d\d:\d\d(:\d\d)?(\.\d+)?)?$")
# Whether some value is not of the kind of the frequent ones: "DNF" in a column of numbers would sort above them all.
_ODD = {
    "number": "typeof({0}) NOT IN ('integer', 'real')",
    "date": "(typeof({0}) <> 'text' OR {0} NOT GLOB '[12][0-9][0-9][0-9]-[01][0-9]-[0-3][0-9]*')",
}
_FINITE = " AND {0} > -9e999 AND {0} < 9e999"
_WORD_OF_KEY = re.compile(r"(^|_|(?<=[a-z]))(id|ids|code|key|number|num|no|uuid|isbn|ssn)$", re.IGNORECASE)
# English words that end like keys, as the whole name or its last word: amount_paid and netPaid, but not compid.
_NO_KEY = re.compile(
    "((?<![a-z])|(?-i:(?<=[a-z])(?=[A-Z])))("
    "acid|aid|android|arid|asteroid|avid|avoid|bid|braid|centroid|covid|cuboid|david|druid|ellipsoid|fluid|forbid|grid|"
    "humid|hybrid|invalid|kid|laid|lid|lipid|liquid|lucid|madrid|maid|mermaid|mid|opioid|orchid|outbid|pyramid|quid|"
    "raid|rapid|rigid|said|skid|solid|splendid|squid|steroid|tabloid|thyroid|timid|vivid|void|plaid|"
    "(amount|net|total|un|pre|re|post|over|under)?paid|(is|in)?valid|"
    "donkey|hockey|jockey|mickey|monkey|turkey|turnkey|whiskey|decode|encode|"
    "aluminum|platinum|casino|domino|inferno|kimono|piano|volcano)s?$",
    re.IGNORECASE,
)  # fmt: skip


@dataclass(frozen=True)
class ColumnStatistics:
    """`kind` is one of key, number, date, boolean, text, blob (a value is bytes); `values` are the most frequent
    (value, count), ties in the order of the values, none for bytes.

    `filled` and `distinct` count values that are not NULL; `quantiles` are the deciles of finite numbers or dates.
    """

    kind: str
    rows: int
    filled: int
    distinct: int
    values: tuple[tuple[object, int], ...] = ()
    quantiles: tuple[object, ...] = ()

    @property
    def unique(self) -> bool:
        """Whether every row has a value of its own."""
        return self.filled == self.rows and self.distinct == self.rows

    @property
    def has_nulls(self) -> bool:
        """Whether some row is NULL."""
        return self.filled < self.rows

    @property
    def categorical(self) -> bool:
        """Whether there are few values that repeat, so that it is natural to group by them."""
        return 2 <= self.distinct <= 30 and self.distinct * 1.3 <= self.filled


@dataclass(frozen=True)
class Profile:
    """A schema with row counts, column statistics, and the declared and then the inferred foreign keys.

    `dangling` are the (table, column) of declared keys with a value that does not occur in the parent.
    """

    schema: Schema
    rows: dict[str, int]
    columns: dict[tuple[str, str], ColumnStatistics]
    foreign_keys: tuple[ForeignKey, ...] = field(default=())
    dangling: frozenset[tuple[str, str]] = frozenset()

    @cached_property
    def keys_between(self) -> Counter[frozenset[str]]:
        """How many foreign keys join two tables, in either direction; one name alone is a table joined to itself."""
        return Counter(frozenset((k.table, k.parent)) for k in dict.fromkeys(self.foreign_keys))


def read_profile(path: Path) -> Profile:
    """Read the schema and the statistics of a SQLite file, without tables that cannot be read to their end.

    A view gets an `implied_primary_key`. Raises InputError for a missing or corrupt file.
    """
    schema = read_schema(path)
    keys = {(k.table, k.column) for k in schema.foreign_keys}
    rows: dict[str, int] = {}
    columns: dict[tuple[str, str], ColumnStatistics] = {}
    tables: list[Table] = []
    with open_read_only(path) as connection:
        # A `bid` or `aid` is a key after all if it is the primary key of some table.
        primary = {name.lower() for t in schema.tables for name in t.primary_key if name.lower().endswith("id")}
        keys |= {(t.name, c.name) for t in schema.tables for c in t.columns if c.name.lower() in primary}
        for table in schema.tables:
            with reading(connection, schema.path, table, "no statistics"):
                count = connection.execute(f"SELECT count(*) FROM {quote(table.name)}").fetchone()[0]
                own = {
                    (table.name, c.name): _statistics(connection, table, c, count, (table.name, c.name) in keys)
                    for c in table.columns
                }
                rows[table.name] = count
                columns |= own
                key = implied_primary_key(table, columns) if table.kind == "view" else ""
                marked = (replace(c, primary_key=c.primary_key or c.name == key) for c in table.columns)
                tables.append(replace(table, columns=tuple(marked)))
        schema = replace(
            schema,
            tables=tuple(tables),
            foreign_keys=tuple(k for k in schema.foreign_keys if {k.table, k.parent} <= rows.keys()),
        )
        inferred = tuple(inferred_keys(connection, schema, columns))
        dangling = frozenset((k.table, k.column) for k in schema.foreign_keys if not _holds(connection, k))
    return Profile(schema, rows, columns, schema.foreign_keys + inferred, dangling)


def _statistics(
    connection: sqlite3.Connection, table: Table, column: Column, rows: int, foreign: bool
) -> ColumnStatistics:
    name, source = quote(column.name), quote(table.name)
    counts = f"count({name}), count(DISTINCT {name}), max(typeof({name}) = 'blob')"
    filled, distinct, blob = connection.execute(f"SELECT {counts} FROM {source}").fetchone()
    if blob:
        kind = "key" if _is_key(table, column, foreign) else "blob"
        return ColumnStatistics(kind, rows, filled, distinct)
    frequent = connection.execute(
        f"SELECT {name}, count(*) FROM {source} WHERE {name} IS NOT NULL "
        f"GROUP BY {name} ORDER BY count(*) DESC, {name} LIMIT {_FREQUENT}"
    ).fetchall()
    kind = "key" if _is_key(table, column, foreign) else _kind(column, [v for v, _ in frequent])
    if kind in _ODD and distinct > _FREQUENT:
        odd = f"SELECT EXISTS (SELECT 1 FROM {source} WHERE {name} IS NOT NULL AND {_ODD[kind].format(name)})"
        kind = "text" if connection.execute(odd).fetchone()[0] else kind
    quantiles: tuple[object, ...] = ()
    if kind in ("number", "date") and filled:
        finite = f"FROM {source} WHERE {name} IS NOT NULL" + (_FINITE.format(name) if kind == "number" else "")
        (count,) = connection.execute(f"SELECT count(*) {finite}").fetchone()
        decile = f"SELECT {name} {finite} ORDER BY {name} LIMIT 1 OFFSET ?"
        found = (connection.execute(decile, (count * d // 10,)).fetchone() for d in range(1, 10))
        quantiles = tuple(row[0] for row in found if row)
        kind = kind if quantiles else "text"  # all values are infinite
    values = tuple((v, n) for v, n in frequent if _is_quotable(v))
    return ColumnStatistics(kind, rows, filled, distinct, values, quantiles)


def _is_quotable(value: object) -> bool:
    """Whether a question can quote the value: short, decodable, on one line, without quotes of its own."""
    if not isinstance(value, str):
        return not isinstance(value, bytes) and math.isfinite(value)
    short = 0 < len(value.strip()) == len(value) <= 40
    return short and value.isprintable() and not set(value) & set("\ufffd\"'`;\\")


def _is_key(table: Table, column: Column, foreign: bool) -> bool:
    lone_key = table.primary_key == (column.name,)
    if foreign or (column.primary_key and (not lone_key or _WORD_OF_KEY.search(column.name))):
        return True
    return bool(_named_like_key(column.name) and re.search(r"(id|key)$", column.name, re.IGNORECASE))


def _kind(column: Column, values: list[object]) -> str:
    if values and all(isinstance(v, (int, float)) for v in values):
        return "boolean" if set(values) <= {0, 1} and len(values) == 2 and "bool" in column.type.lower() else "number"
    if values and all(isinstance(v, str) and _DATE.match(v) for v in values):
        return "date"
    return "text"


def _named_like_key(name: str) -> bool:
    return bool(_WORD_OF_KEY.search(name) and not _NO_KEY.search(name))


def implied_primary_key(table: Table, columns: Mapping[tuple[str, str], ColumnStatistics]) -> str:
    """The name of a column that tells the rows of a table without a primary key apart, empty if there is none.

    Its values are unique, and its name says that it is a key. `id` or `<table>_id` comes before others.
    """
    unique = [c.name for c in table.columns if columns[table.name, c.name].unique]
    found = [n for n in unique if columns[table.name, n].kind == "key" or n == table.columns[0].name]
    found = [name for name in found if _named_like_key(name)]
    return min(found, key=lambda n: not (n.lower() == "id" or _names_match(n, table.name, "id")), default="")


def inferred_keys(
    connection: sqlite3.Connection, schema: Schema, columns: Mapping[tuple[str, str], ColumnStatistics]
) -> Iterator[ForeignKey]:
    """Undeclared foreign keys: a column named like another table's unique primary key, whose values all occur there."""
    declared = {(k.table, k.column) for k in schema.foreign_keys}
    linked = {frozenset((k.table, k.parent)) for k in schema.foreign_keys}
    for table in schema.tables:
        for column in table.columns:
            own = columns[table.name, column.name]
            if (table.name, column.name) in declared or table.primary_key == (column.name,) or not own.filled:
                continue
            for parent in schema.tables:
                if parent is table or len(parent.primary_key) != 1 or frozenset((table.name, parent.name)) in linked:
                    continue
                key = ForeignKey(table.name, column.name, parent.name, parent.primary_key[0])
                named_alike = _names_match(column.name, parent.name, key.parent_column)
                if named_alike and columns[parent.name, key.parent_column].unique and _holds(connection, key):
                    yield key
                    linked.add(frozenset((table.name, parent.name)))
                    break


def _names_match(column: str, parent: str, key: str) -> bool:
    column, parent, key = (name.lower().replace("_", "") for name in (column, parent, key))
    if column == key and key not in ("id", "name", "code", "key", "number"):
        return True
    singular = (parent, parent.removesuffix("s"), re.sub("ies$", "y", parent))  # of `customers` and `cities` too
    return column in [name + key for name in singular]


def _holds(connection: sqlite3.Connection, key: ForeignKey) -> bool:
    """Whether every value of the key occurs in the parent's column."""
    column, parent_column = quote(key.column), quote(key.parent_column)
    query = (
        f"SELECT EXISTS (SELECT 1 FROM {quote(key.table)} WHERE {column} IS NOT NULL "
        f"AND {column} NOT IN (SELECT {parent_column} FROM {quote(key.parent)} WHERE {parent_column} IS NOT NULL))"
    )
    return not connection.execute(query).fetchone()[0]
