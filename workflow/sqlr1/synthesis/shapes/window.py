"""Shapes with window functions: the best of each group, ranks, distance from the group's average, running totals."""

import random
from dataclasses import dataclass, replace

from sqlglot import exp

from sqlr1.synthesis.english import Speaker, slot
from sqlr1.synthesis.plan import Measure, Query, Ref
from sqlr1.synthesis.requests import Request
from sqlr1.synthesis.sql import Builder, aggregate, literal, named, ordered, over, select, source, year_of
from sqlr1.synthesis.world import World


@dataclass(frozen=True)
class BestOfGroup:
    """For each value of `group`, the rows ranked first to `best` by `key`; rows that tie share a rank."""

    base: Query
    group: Ref
    key: Ref
    best: int
    descending: bool

    def expression(self) -> exp.Expression:
        """A RANK() in a subquery, or of filtered rows in a CTE, cut off outside."""
        builder = Builder(self.base)
        rank = over(
            exp.Anonymous(this="RANK"), builder.column(self.group), ordered(builder.column(self.key), self.descending)
        )
        inner = select(self.base)
        shown = [builder.column(self.group), *(builder.output(o) for o in self.base.outputs)]
        inner.set("expressions", [*shown, named(rank, "place")])
        where = exp.LTE(this=exp.column("place"), expression=literal(self.best))
        if self.best == 1:
            where = exp.EQ(this=exp.column("place"), expression=literal(1))
        outer = exp.Select(expressions=[c.copy() for c in shown], where=exp.Where(this=where))
        if self.base.filters:
            outer.set("from_", exp.From(this=source("ranked")))
            return outer.with_("ranked", as_=inner, copy=False)
        outer.set("from_", exp.From(this=inner.subquery("ranked")))
        return outer

    def request(self, speaker: Speaker) -> Request:
        """What is asked."""
        group, key = slot(speaker.noun(self.base, self.group)), slot(speaker.noun(self.base, self.key))
        many = self.best > 1
        extreme = speaker.pick("highest", "largest") if self.descending else speaker.pick("lowest", "smallest")
        subject = speaker.subjects(self.base) if many else slot(speaker.subject(self.base))
        number = f"{slot(self.best)} " if many else ""
        outputs = speaker.columns(self.base, list(self.base.outputs), many)
        ties = speaker.pick("(with all ties)", "(ties included)", "(include ties)")
        ranked = f"the {number}{subject} with the {extreme} {key}"
        among = f" among {speaker.filtered(self.base)}" if self.base.filters else ""
        verb = speaker.pick("show", "list", "find", "give")
        commands = (
            f"For each {group}, {verb} the {group} and the {outputs} of {ranked}{among} {ties}.",
            f"Per {group}, {verb} the {group} and the {outputs} of {ranked}{among} {ties}.",
        )
        return Request(f"each {group} with the {outputs} of {ranked} in that {group}{among} {ties}", True, (), commands)


@dataclass(frozen=True)
class Ranking:
    """All rows with their rank by `key`, overall or within `group`."""

    base: Query
    key: Ref
    group: Ref | None
    descending: bool

    def expression(self) -> exp.Expression:
        """RANK() as the last output."""
        builder = Builder(self.base)
        partition = builder.column(self.group) if self.group else None
        rank = over(exp.Anonymous(this="RANK"), partition, ordered(builder.column(self.key), self.descending))
        block = select(self.base)
        block.set("expressions", [*block.expressions, rank])
        return block

    def request(self, speaker: Speaker) -> Request:
        """What is asked."""
        key, outputs = (
            slot(speaker.noun(self.base, self.key)),
            speaker.columns(self.base, list(self.base.outputs), False),
        )
        subject = slot(speaker.subject(self.base))
        first = "highest" if self.descending else "lowest"
        within = f" within its {slot(speaker.noun(self.base, self.group))}" if self.group else ""
        phrase = f"the {outputs} of each {subject} and its rank by {key}{within}, where rank 1 is the {first} {key}"
        subjects = speaker.subjects(self.base)
        commands = (f"Rank all {subjects} by {key}{within}, {first} first, and show {outputs} and rank.",)
        return Request(phrase, True, (), commands)


@dataclass(frozen=True)
class Distance:
    """How far each row's `key` is from the average of its `group`."""

    base: Query
    key: Ref
    group: Ref

    def expression(self) -> exp.Expression:
        """key - AVG(key) OVER (PARTITION BY group)."""
        builder = Builder(self.base)
        average = over(aggregate("avg", builder.column(self.key)), builder.column(self.group))
        block = select(self.base)
        block.set("expressions", [*block.expressions, exp.Sub(this=builder.column(self.key), expression=average)])
        return block

    def request(self, speaker: Speaker) -> Request:
        """What is asked."""
        key, group = slot(speaker.noun(self.base, self.key)), slot(speaker.noun(self.base, self.group))
        outputs = speaker.columns(self.base, list(self.base.outputs), False)
        subject = slot(speaker.subject(self.base))
        phrase = speaker.pick(
            f"the {outputs} of each {subject} and its {key} minus the average {key} of its {group}",
            f"the {outputs} of every {subject} and the difference of its {key} from the average {key} of its {group}",
        )
        return Request(phrase, True)


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
            return Request(
                speaker.pick(f"the {what} for each {year}, with the year first", f"each {year} with the {what}"), True
            )
        if self.kind == "running":
            what = speaker.pick(f"the running total of the {what}", f"the cumulative {what} up to then")
        else:
            what = f"the change of the {what} from the previous such year (empty for the first)"
        if self.base.filters:
            any_such = speaker.pick("with any such", "that has such")
            each = f"for each {year} {any_such} {speaker.subjects(self.base)}"
            return Request(f"{what}, {each}, the {year} first", True)
        return Request(f"each {year} and {what}", True)


def best_of_group(world: World, rng: random.Random) -> BestOfGroup | None:
    """The top rows of each group."""
    found = _grouped_number(world, rng)
    if not found:
        return None
    table, group, key = found
    base = Query((table,), (Ref(0, world.label(table)),))
    if group.column == world.label(table):
        return None
    best = rng.choice([1, 1, 2, 3])
    return BestOfGroup(base, group, key, best, world.descending(rng, table, key.column, 0.7))


def best_of_chosen(world: World, rng: random.Random) -> BestOfGroup | None:
    """The top rows of each group among those that pass a filter."""
    plan = best_of_group(world, rng)
    if not plan:
        return None
    item = world.filter(rng, plan.base.tables[0], avoid=[plan.group.column, plan.key.column], shared=True)
    return replace(plan, base=plan.base.with_(filters=(item,))) if item else None


def ranking(world: World, rng: random.Random) -> Ranking | None:
    """Ranks over a table."""
    table = rng.choice(world.tables)
    numbers = world.numbers(table)
    if not numbers:
        return None
    groups = [c for c in world.categories(table) if c != world.label(table)]
    group = Ref(0, rng.choice(groups)) if groups and rng.random() < 0.5 else None
    key = rng.choice(numbers)
    descending = world.descending(rng, table, key, 0.75)
    return Ranking(Query((table,), (Ref(0, world.label(table)),)), Ref(0, key), group, descending)


def distance(world: World, rng: random.Random) -> Distance | None:
    """Distance from the group's average."""
    found = _grouped_number(world, rng)
    if not found or found[1].column == world.label(found[0]):
        return None
    table, group, key = found
    return Distance(Query((table,), (Ref(0, world.label(table)),)), key, group)


def _grouped_number(world: World, rng: random.Random) -> tuple[str, Ref, Ref] | None:
    table = rng.choice(world.tables)
    groups, numbers = world.categories(table), world.quantities(table)
    if not groups or not numbers:
        return None
    group, key = rng.choice(groups), rng.choice(numbers)
    return (table, Ref(0, group), Ref(0, key)) if group != key else None


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
    numbers = [c for c in world.quantities(table) if c != key]
    measured = Ref(0, rng.choice(numbers)) if numbers and rng.random() < 0.5 else None
    used = [key, *([measured.column] if measured else [])]
    item = world.filter(rng, table, avoid=used, shared=True) if kind != "count" and rng.random() < 0.5 else None
    return ByYear(Query((table,), (), filters=(item,) if item else ()), Ref(0, key), dated, measured, kind)
