"""What a generated query means. Its SQL and its English are both written from the same plan.

A column is a `Ref(occurrence, column)`. `occurrence` is the table's position in `QueryPlan.tables`, so that the two
sides of a self join stay apart. Occurrence 0 is the subject: what the question is about.
"""

from dataclasses import dataclass, replace

AGGREGATES = ("sum", "avg", "min", "max")


def is_year(value: object) -> bool:
    """Whether a number can be a calendar year."""
    return isinstance(value, (int, float)) and 1000 <= value < 3000


@dataclass(frozen=True)
class Ref:
    """A column of the table at position `occurrence` of its query."""

    occurrence: int
    column: str


@dataclass(frozen=True)
class Measure:
    """An aggregate of a column, or the number of rows when `ref` is None."""

    function: str
    ref: Ref | None = None
    distinct: bool = False


COUNT = Measure("count")


@dataclass(frozen=True)
class Filter:
    """A condition on a column, or (in HAVING) on an aggregate of the group.

    `op` is one of = != > < >= <= between in not_in prefix contains null not_null year. `value` is a scalar, a
    tuple (between, in), None, or a `QueryPlan` for a scalar or membership subquery.
    """

    ref: Ref | Measure
    op: str
    value: object = None


@dataclass(frozen=True)
class Join:
    """Adds a table by `left` = `right`, where `right` is a column of the new table.

    `QueryPlan.joins[i]` adds occurrence i + 1. `up` is true when the new table is the one the foreign key refers to, by
    a column that is unique there (each row finds at most one); otherwise the new table holds the foreign key.
    """

    left: Ref
    right: Ref
    up: bool


@dataclass(frozen=True)
class SortKey:
    key: Ref | Measure
    descending: bool = False


@dataclass(frozen=True)
class QueryPlan:
    """One SELECT block."""

    tables: tuple[str, ...]
    outputs: tuple[Ref | Measure, ...]
    joins: tuple[Join, ...] = ()
    filters: tuple[Filter, ...] = ()
    any_of: bool = False
    group: tuple[Ref, ...] = ()
    having: tuple[Filter, ...] = ()
    order: tuple[SortKey, ...] = ()
    limit: int | None = None
    distinct: bool = False

    @classmethod
    def of(cls, table: str, *columns: str, **fields: object) -> "QueryPlan":
        """A block over one table that shows these columns."""
        return cls((table,), (), **fields).showing(*columns)

    def showing(self, *columns: str) -> "QueryPlan":
        """A copy that shows these columns of the subject."""
        return self.with_(outputs=tuple(Ref(0, column) for column in columns))

    def with_(self, **changes: object) -> "QueryPlan":
        """A copy with these fields changed."""
        return replace(self, **changes)
