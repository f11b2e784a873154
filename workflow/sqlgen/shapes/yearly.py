"""Shapes by year: rows or sums of each year, their running total, their change from year to year."""

import random
from dataclasses import dataclass

from sqlglot import exp

from sqlgen.builder import Builder, aggregate, named, ordered, over, select, source, year_of
from sqlgen.english import Speaker, slot
from sqlgen.query_plan import Measure, Query, Ref
from sqlgen.requests import Request
from sqlgen.world import World


@dataclass(frozen=True)
class ByYear:
    """Rows, or the sum of `measured`, by year of `key`; `kind`: count, running (so far), change (on the last year)."""

    base: Query
    key: Ref
    dated: bool
    measured: Ref | None
    kind: str

    def expression(self) -> exp.Expression:
        """One grouped block; for running totals and changes it becomes a CTE under a window."""
        builder = Builder(self.base)
        key = builder.column(self.key)
        year = year_of(key) if self.dated else key
        total = aggregate("sum", builder.column(self.measured)) if self.measured else aggregate("count")
        block = select(self.base)
        known = exp.Not(this=exp.Is(this=key.copy(), expression=exp.Null()))
        conditions = [known, *(builder.condition(item) for item in self.base.filters)]
        block.set("where", exp.Where(this=exp.and_(*conditions, copy=False)))
        block.set("group", exp.Group(expressions=[year.copy()]))
        if self.kind == "count":
            block.set("expressions", [year, total])
            return block
        block.set("expressions", [named(year, "period"), named(total, "total")])
        by_period = ordered(exp.column("period"), False)
        if self.kind == "running":
            last: exp.Expression = over(exp.Sum(this=exp.column("total")), order=by_period)
        else:
            before = over(exp.Anonymous(this="LAG", expressions=[exp.column("total")]), order=by_period)
            last = exp.Sub(this=exp.column("total"), expression=before)
        outer = exp.Select(expressions=[exp.column("period"), last], from_=exp.From(this=source("yearly")))
        return outer.with_("yearly", as_=block, copy=False)

    def request(self, speaker: Speaker) -> Request:
        """What is asked."""
        noun = slot(speaker.noun(self.base, self.key))
        what = f"number of {speaker.filtered(self.base)}"
        if self.measured:
            total = speaker.measure(self.base, Measure("sum", self.measured))
            what = f"{total} of {speaker.filtered(self.base)}"
        year = f"year of the {noun}" if self.dated else noun
        if self.kind == "count":
            phrase = speaker.pick(f"the {what} for each {year}, with the year first", f"each {year} with the {what}")
            return Request(phrase, False)
        if self.kind == "running":
            what = speaker.pick(f"the running total of the {what}", f"the cumulative {what} up to then")
        else:
            what = f"the change of the {what} from the previous such year (empty for the first)"
        if self.base.filters:
            any_such = speaker.pick("with any such", "that has such")
            each = f"for each {year} {any_such} {speaker.subjects(self.base)}"
            return Request(f"{what}, {each}, the {year} first", False)
        return Request(f"each {year} and {what}", False)


def by_year(world: World, rng: random.Random) -> ByYear | None:
    """Counts by year."""
    return _yearly(world, rng, "count")


def running_by_year(world: World, rng: random.Random) -> ByYear | None:
    """Running totals and changes by year."""
    return _yearly(world, rng, rng.choice(["running", "change"]))


def _yearly(world: World, rng: random.Random, kind: str) -> ByYear | None:
    choices = []
    for table in world.tables:
        choices += [(table, c, True) for c in world.of_kind(table, "date")]
        if kind != "count":
            choices += [(table, c, False) for c in world.years(table)]
    if not choices:
        return None
    table, key, dated = rng.choice(choices)
    numbers = [c for c in world.complete(table, world.quantities(table)) if c != key]
    measured = Ref(0, rng.choice(numbers)) if numbers and rng.random() < 0.5 else None
    used = [key, *([measured.column] if measured else [])]
    item = world.filter(rng, table, avoid=used, shared=True) if kind != "count" and rng.random() < 0.5 else None
    return ByYear(Query((table,), (), filters=(item,) if item else ()), Ref(0, key), dated, measured, kind)
