"""Shapes with CASE: percentages, ratios, rows counted by range."""

import random
from dataclasses import dataclass

from sqlglot import exp

from sqlgen.builder import Builder, aggregate, count_if, literal, named, quotient, select
from sqlgen.english import Speaker, listing, slot
from sqlgen.query_plan import Filter, Query, Ref
from sqlgen.requests import Request
from sqlgen.world import World


@dataclass(frozen=True)
class Percentage:
    """The percentage of rows that meet the filters of `base`, overall or for each value of `group`."""

    base: Query
    group: Ref | None

    def expression(self) -> exp.Expression:
        """100.0 * SUM(CASE ...) / COUNT(*)."""
        builder = Builder(self.base)
        met = count_if(builder.condition(self.base.filters[0]))
        share = quotient(exp.Mul(this=exp.Literal.number("100.0"), expression=met), aggregate("count"))
        block = select(self.base.with_(filters=(), group=(self.group,) if self.group else ()))
        block.set("expressions", [*([builder.column(self.group)] if self.group else []), share])
        return block

    def request(self, speaker: Speaker) -> Request:
        """What is asked."""
        subjects, restriction = speaker.subjects(self.base), speaker.restriction(self.base)
        each = f" for each {speaker.columns(self.base, [self.group], False)}" if self.group else ""
        word = speaker.pick("percentage", "percentage", "percent share")
        direct = (f"What {speaker.pick('percentage', 'percent')} of {subjects} are {subjects} {restriction}{each}?",)
        return Request(f"the {word} of {subjects} {restriction} among all {subjects}{each}", False, direct)


@dataclass(frozen=True)
class Ratio:
    """How many rows meet the first filter of `base` for each row that meets `other`."""

    base: Query
    other: Filter

    def expression(self) -> exp.Expression:
        """CAST(SUM(CASE ...) AS REAL) / SUM(CASE ...)."""
        builder = Builder(self.base)
        first, second = (count_if(builder.condition(f)) for f in (self.base.filters[0], self.other))
        real = exp.Cast(this=first, to=exp.DataType.build("REAL"))
        block = select(self.base.with_(filters=()))
        block.set("expressions", [quotient(real, second)])
        return block

    def request(self, speaker: Speaker) -> Request:
        """What is asked."""
        first = speaker.filtered(self.base)
        second = speaker.restriction(self.base.with_(filters=(self.other,)))
        return Request(f"the ratio of {first} to {speaker.pick('those', speaker.subjects(self.base))} {second}", False)


@dataclass(frozen=True)
class Ranges:
    """Rows counted in three ranges of a number column, named low, medium and high, split at `low` and `high`."""

    base: Query
    key: Ref
    low: float
    high: float

    def expression(self) -> exp.Expression:
        """CASE WHEN key < low THEN 'low' WHEN key < high THEN 'medium' ELSE 'high' END, grouped."""
        column = Builder(self.base).column(self.key)
        ifs = [
            exp.If(this=exp.LT(this=column.copy(), expression=literal(limit)), true=literal(word))
            for limit, word in ((self.low, "low"), (self.high, "medium"))
        ]
        case = exp.Case(ifs=ifs, default=literal("high"))
        known = exp.Not(this=exp.Is(this=column, expression=exp.Null()))
        block = select(self.base)
        block.set("expressions", [named(case, "level"), aggregate("count")])
        block.set("where", exp.Where(this=known))
        block.set("group", exp.Group(expressions=[case.copy()]))  # a column named level would win over the alias
        return block

    def request(self, speaker: Speaker) -> Request:
        """What is asked."""
        noun, low, high = slot(speaker.noun(self.base, self.key)), speaker.value(self.low), speaker.value(self.high)
        subjects = speaker.subjects(self.base)
        levels = listing(["low", "medium", "high"])
        meaning = f'"low" is below {low}, "medium" is from {low} to below {high}, and "high" is {high} or more'
        phrase = speaker.pick(
            f"the number of {subjects} with a {levels} {noun}, one row per level, where {meaning}",
            f"the {noun} level and the number of {subjects} at each level, where {meaning}",
        )
        return Request(phrase, False)


def percentage(world: World, rng: random.Random) -> Percentage | None:
    """The percentage of rows with a property."""
    table = rng.choice(world.tables)
    item = world.filter(rng, table, shared=True)
    if not item:
        return None
    keys = [c for c in world.complete(table, world.categories(table)) if c != item.ref.column]
    group = Ref(0, rng.choice(keys)) if keys and rng.random() < 0.3 else None
    return Percentage(Query((table,), (), filters=(item,)), group)


def ratio(world: World, rng: random.Random) -> Ratio | None:
    """The ratio of the rows with one value to those with another."""
    table = rng.choice(world.tables)
    keys = [c for c in world.categories(table) if len(world.statistics(table, c).values) >= 2]
    if not keys:
        return None
    key = rng.choice(keys)
    first, second = rng.sample([v for v, _ in world.statistics(table, key).values[:8]], 2)
    return Ratio(Query((table,), (), filters=(Filter(Ref(0, key), "=", first),)), Filter(Ref(0, key), "=", second))


def ranges(world: World, rng: random.Random) -> Ranges | None:
    """Rows counted by range of a number column."""
    table = rng.choice(world.tables)
    numbers = [c for c in world.numbers(table) if world.statistics(table, c).distinct >= 6]
    if not numbers:
        return None
    key = rng.choice(numbers)
    quantiles = world.statistics(table, key).quantiles
    low, high = quantiles[2], quantiles[6]
    return Ranges(Query((table,), ()), Ref(0, key), low, high) if low < high else None
