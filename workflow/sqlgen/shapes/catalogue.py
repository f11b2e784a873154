"""All shapes with their weights in each class. Weights within a class follow how often people ask such questions."""

import random
from collections.abc import Callable, Sequence

from sqlgen.english import Speaker
from sqlgen.query_plan import QueryPlan
from sqlgen.shapes import computed, cte, groups, joined, nested, single
from sqlgen.speakable import NoPlan, SpeakableDatabase
from sqlgen.sql_text import Block
from sqlgen.wording import CompoundPlan, Wording, block_wording

Plan = QueryPlan | CompoundPlan
Shape = Callable[[SpeakableDatabase, random.Random], Plan]


def draw(shape: Shape, db: SpeakableDatabase, rng: random.Random) -> Plan | None:
    """A random plan of a shape; None when the database or the draw offers nothing for it."""
    try:
        return shape(db, rng)
    except NoPlan:
        return None


def sql_of(plan: Plan) -> str:
    """The plan as SQL."""
    return Block(plan).select() if isinstance(plan, QueryPlan) else plan.sql


def wording_of(plan: Plan, speaker: Speaker) -> Wording:
    """The plan as what is asked for."""
    return block_wording(speaker, plan) if isinstance(plan, QueryPlan) else plan.wording(speaker)


def unfiltered(plan: Plan) -> str:
    """The SQL without its conditions, if they are about other tables or about groups; else nothing."""
    if isinstance(plan, CompoundPlan):
        return sql_of(plan.base) if plan.kind == "existence" else ""
    nested = any(isinstance(item.value, QueryPlan) for item in plan.filters)
    joined = plan.filters and (plan.joins or nested) and plan.limit is None
    return sql_of(plan.with_(filters=(), having=(), order=())) if joined or plan.having else ""


def has_one_group(plan: Plan, rows: Sequence[tuple]) -> bool:
    """Whether a plan for the best of each group found a single group: SQL without groups would give the same rows."""
    of_each = isinstance(plan, CompoundPlan) and plan.kind in ("best_of_group", "most_frequent_in")
    return of_each and len({row[0] for row in rows}) < 2


# The class that a shape mostly falls into; the class that counts is measured on its SQL.
SHAPES: dict[str, dict[Shape, float]] = {
    "Simple": {
        single.count: 6, single.listing: 7, single.distinct_values: 2, single.count_distinct: 1.5,
        single.aggregate: 3, single.superlative: 3,
    },
    "Moderate": {
        single.group: 4, single.group_having: 3, single.group_top: 4,
        computed.by_year: 0.7, computed.percentage: 1, computed.ratio: 0.7, computed.ranges: 0.5,
        joined.parent_lookup: 5, joined.parent_superlative: 2, joined.parent_aggregate: 3, joined.having_child: 3,
        joined.children_group: 3, joined.children_having: 2.5, joined.children_top: 4,
        joined.count_with_zero: 1, joined.pairs: 0.5,
        nested.above_average: 2, nested.extreme: 1, nested.without_children: 3, nested.with_children: 1,
    },
    "Complex": {
        joined.linked: 5, joined.hops: 4,
        nested.set_values: 5, nested.set_entities: 5, nested.set_tables: 1.5,
        nested.above_own_group: 2, nested.existence: 2,
        groups.best_of_group: 2, groups.ranking: 1, groups.distance: 1,
        groups.group_above_average: 2,
    },
    "Highly Complex": {
        computed.running_by_year: 2, groups.best_of_chosen: 2, nested.three_sets: 2,
        groups.group_ranking: 1.5, groups.group_share: 1, groups.group_above_mean: 1.5,
        cte.two_kinds: 1.5, cte.most_frequent_in: 1, cte.two_counts: 2, cte.most_frequent_among: 2,
        cte.descendants: 1.5, computed.every_year: 2,
    },
}  # fmt: skip
