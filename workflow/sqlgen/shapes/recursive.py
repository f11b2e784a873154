"""Shapes with recursive CTEs: everything below one row of a hierarchy, and years counted without gaps."""

import random
from dataclasses import dataclass

from sqlglot import exp

from sqlgen.builder import Builder, aggregate, column, literal, ordered, source, year_of
from sqlgen.english import Speaker, slot
from sqlgen.query_plan import Query, Ref
from sqlgen.requests import Request
from sqlgen.world import World
from sqlr1.database import ForeignKey


@dataclass(frozen=True)
class Descendants:
    """Rows that lead, over `key` (from the table to itself), to the row named `value`, in any number of steps."""

    base: Query
    key: ForeignKey
    value: object

    def expression(self) -> exp.Expression:
        """WITH RECURSIVE below AS (direct ones UNION those of the found ones)."""
        table, label = self.base.tables[0], self.base.outputs[0].column
        identity = self.key.parent_column
        top = exp.Select(
            expressions=[column("", identity)],
            from_=exp.From(this=source(table)),
            where=exp.Where(this=exp.EQ(this=column("", label), expression=literal(self.value))),
        )
        direct = exp.Select(
            expressions=[column("", identity)],
            from_=exp.From(this=source(table)),
            where=exp.Where(this=exp.In(this=column("", self.key.column), query=exp.Subquery(this=top))),
        )
        on = exp.EQ(this=column("T1", self.key.column), expression=column("below", "id"))
        further = exp.Select(
            expressions=[column("T1", identity)],
            from_=exp.From(this=source(table, "T1")),
            joins=[exp.Join(this=source("below"), on=on)],
        )
        members = exp.Select(expressions=[exp.column("id")], from_=exp.From(this=source("below")))
        outer = exp.Select(
            expressions=[column("", label)],
            from_=exp.From(this=source(table)),
            where=exp.Where(this=exp.In(this=column("", identity), query=exp.Subquery(this=members))),
        )
        return outer.with_(
            "below(id)", as_=exp.Union(this=direct, expression=further, distinct=True), recursive=True, copy=False
        )

    def request(self, speaker: Speaker) -> Request:
        """What is asked."""
        role = slot(speaker.names.role(self.key.table, self.key.column, self.key.parent))
        nouns, subjects = speaker.columns(self.base, list(self.base.outputs), True), speaker.subjects(self.base)
        label, value = slot(speaker.noun(self.base, self.base.outputs[0])), speaker.value(self.value)
        top = f"the {slot(speaker.subject(self.base))} with the {label} {value}"
        phrase = speaker.pick(
            f"the {nouns} of all {subjects} that have {top} as {role}, directly or through other {subjects}",
            f"the {nouns} of all {subjects} below {top} at any level, following the {role}",
        )
        return Request(phrase, True)


@dataclass(frozen=True)
class EveryYear:
    """The number of rows for each year from `first` to `last`, with 0 for years without any."""

    base: Query
    key: Ref
    dated: bool
    first: int
    last: int

    def expression(self) -> exp.Expression:
        """WITH RECURSIVE years counting up, left joined to the rows."""
        start = exp.Select(expressions=[literal(self.first)])
        following = exp.Select(
            expressions=[exp.Add(this=exp.column("year"), expression=literal(1))],
            from_=exp.From(this=source("years")),
            where=exp.Where(this=exp.LT(this=exp.column("year"), expression=literal(self.last))),
        )
        key = Builder(self.base, 2).column(self.key)
        year = exp.Cast(this=year_of(key), to=exp.DataType.build("INTEGER")) if self.dated else key
        on = exp.EQ(this=year, expression=column("T1", "year"))
        outer = exp.Select(
            expressions=[column("T1", "year"), aggregate("count", key.copy())],
            from_=exp.From(this=source("years", "T1")),
            joins=[exp.Join(this=source(self.base.tables[0], "T2"), on=on, side="LEFT")],
            group=exp.Group(expressions=[column("T1", "year")]),
            order=exp.Order(expressions=[ordered(column("T1", "year"), False)]),
        )
        steps = exp.Union(this=start, expression=following, distinct=False)
        return outer.with_("years(year)", as_=steps, recursive=True, copy=False)

    def request(self, speaker: Speaker) -> Request:
        """What is asked."""
        noun, subjects = slot(speaker.noun(self.base, self.key)), speaker.subjects(self.base)
        of = f"whose {noun} falls in that year" if self.dated else f"whose {noun} is that year"
        span = f"from {slot(self.first)} to {slot(self.last)}"
        zero = speaker.pick("with 0 for years without any", "including years with none", "even if there are none")
        phrase = f"every year {span} in order and the number of {subjects} {of}, {zero}"
        commands = (f"For every year {span}, in order, show the year and the number of {subjects} {of}, {zero}.",)
        return Request(phrase, True, (), commands)


def descendants(world: World, rng: random.Random) -> Descendants | None:
    """All below one row of a hierarchy."""
    if not world.self_keys:
        return None
    key = rng.choice(world.self_keys)
    label = world.label(key.table)
    values = world.statistics(key.table, label).values
    if not values:
        return None
    return Descendants(Query((key.table,), (Ref(0, label),)), key, rng.choice(values)[0])


def every_year(world: World, rng: random.Random) -> EveryYear | None:
    """Years without gaps."""
    choices = []
    for table in world.tables:
        choices += [(table, c, True) for c in world.of_kind(table, "date")]
        choices += [(table, c, False) for c in world.years(table)]
    if not choices:
        return None
    table, key, dated = rng.choice(choices)
    quantiles = world.statistics(table, key).quantiles
    years = [int(str(q)[:4]) for q in (quantiles[0], quantiles[-1])]
    if not 1000 <= years[0] <= years[1] <= 2100:
        return None
    first = rng.randint(years[0], years[1])
    return EveryYear(Query((table,), ()), Ref(0, key), dated, first, first + rng.choice([3, 4, 5, 9]))
