"""What a generated query means, before it is SQL or English: both are rendered from the same plan.

A column is a `Ref(occurrence, column)`: `occurrence` indexes `Query.tables`, so that a self join keeps its roles apart.
Occurrence 0 is the subject: the entity that the question is about.
"""

from dataclasses import dataclass, replace

AGGREGATES = ("count", "sum", "avg", "min", "max")


def is_year(value: object) -> bool:
    """Whether a number can be a year of the calendar."""
    return isinstance(value, (int, float)) and 1000 <= value < 3000


@dataclass(frozen=True)
class Ref:
    """A column of the `occurrence`-th table of its query."""

    occurrence: int
    column: str


@dataclass(frozen=True)
class Measure:
    """An aggregate: of a column, or the number of rows when `ref` is None."""

    function: str
    ref: Ref | None = None
    distinct: bool = False


@dataclass(frozen=True)
class Filter:
    """A condition on a column.

    `op` is one of = != > < >= <= between in not_in prefix suffix contains null not_null year. `value` is a scalar, a
    tuple (between, in), None, or a `Query` for a scalar or membership subquery.
    """

    ref: Ref
    op: str
    value: object = None


@dataclass(frozen=True)
class Having:
    """A condition on an aggregate of the group."""

    measure: Measure
    op: str
    value: object


@dataclass(frozen=True)
class Join:
    """Joins occurrence i + 1 (i: its position in `Query.joins`) on `left` = `right`, where `right` is the new table's.

    `up` when the new table is the referenced one, by a column that is unique there (each left row has at most one);
    otherwise it holds the foreign key.
    """

    left: Ref
    right: Ref
    up: bool


@dataclass(frozen=True)
class Order:
    """One sort key."""

    key: "Ref | Measure"
    descending: bool = False


@dataclass(frozen=True)
class Query:
    """One SELECT block."""

    tables: tuple[str, ...]
    outputs: tuple[Ref | Measure, ...]
    joins: tuple[Join, ...] = ()
    filters: tuple[Filter, ...] = ()
    any_of: bool = False
    group: tuple[Ref, ...] = ()
    having: tuple[Having, ...] = ()
    order: tuple[Order, ...] = ()
    limit: int | None = None
    distinct: bool = False

    def with_(self, **changes: object) -> "Query":
        """A copy with other fields."""
        return replace(self, **changes)
