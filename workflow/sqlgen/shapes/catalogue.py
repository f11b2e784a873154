"""All shapes with their weights in each class. Weights within a class follow how often people ask for such a thing."""

import random
from collections.abc import Callable, Sequence
from typing import Protocol

from sqlglot import exp

from sqlgen.builder import select
from sqlgen.english import Speaker
from sqlgen.query_plan import Query
from sqlgen.requests import Request, request
from sqlgen.shapes import (
    correlated,
    cte,
    groups,
    joined,
    nested,
    ratio,
    recursive,
    sets,
    single,
    window,
    yearly,
)
from sqlgen.world import World


class Plan(Protocol):
    """More than one SELECT block. `base` is the block whose subject the question is about."""

    base: Query

    def expression(self) -> exp.Expression:
        """As SQL."""

    def request(self, speaker: Speaker) -> Request:
        """As what is asked for."""


SomePlan = Query | Plan
Shape = Callable[[World, random.Random], SomePlan | None]


def expression_of(plan: SomePlan) -> exp.Expression:
    """The plan as SQL."""
    return select(plan) if isinstance(plan, Query) else plan.expression()


def request_of(plan: SomePlan, speaker: Speaker) -> Request:
    """The plan as what is asked for."""
    return request(speaker, plan) if isinstance(plan, Query) else plan.request(speaker)


def topic_of(plan: SomePlan, speaker: Speaker) -> str:
    """The plural noun of what the plan is about."""
    return speaker.subjects(plan if isinstance(plan, Query) else plan.base)


def is_of_one_group(plan: SomePlan, rows: Sequence[tuple]) -> bool:
    """Whether a plan that takes the best of each group found rows of one only: SQL without the groups would do, too."""
    return isinstance(plan, (window.BestOfGroup, cte.MostFrequentIn)) and len({row[0] for row in rows}) < 2


# The class that a shape mostly falls into; what counts is the class measured on its SQL.
SHAPES: dict[str, dict[Shape, float]] = {
    "Simple": {
        single.count: 6,
        single.listing: 7,
        single.distinct_values: 2,
        single.count_distinct: 1.5,
        single.aggregate: 3,
        single.superlative: 3,
    },
    "Moderate": {
        single.group: 4,
        single.group_having: 3,
        single.group_top: 4,
        yearly.by_year: 0.7,
        ratio.percentage: 1,
        ratio.ratio: 0.7,
        ratio.ranges: 0.5,
        joined.parent_lookup: 5,
        joined.parent_superlative: 2,
        joined.parent_aggregate: 3,
        joined.having_child: 3,
        joined.children_group: 3,
        joined.children_having: 2.5,
        joined.children_top: 4,
        correlated.count_with_zero: 1,
        correlated.pairs: 0.5,
        nested.above_average: 2,
        nested.extreme: 1,
        nested.without_children: 3,
        nested.with_children: 1,
    },
    "Complex": {
        joined.linked: 5,
        joined.hops: 4,
        sets.set_values: 5,
        sets.set_entities: 5,
        sets.set_tables: 1.5,
        correlated.above_own_group: 2,
        correlated.existence: 2,
        window.best_of_group: 2,
        window.ranking: 1,
        window.distance: 1,
        groups.group_above_average: 2,
    },
    "Highly Complex": {
        yearly.running_by_year: 2,
        window.best_of_chosen: 2,
        sets.three_sets: 2,
        groups.group_ranking: 1.5,
        groups.group_share: 1,
        groups.group_above_mean: 1.5,
        cte.two_kinds: 1.5,
        cte.most_frequent_in: 1,
        cte.two_counts: 2,
        cte.most_frequent_among: 2,
        recursive.descendants: 1.5,
        recursive.every_year: 2,
    },
}
