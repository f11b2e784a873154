"""Shapes with common table expressions: groups against the average group, two counts of one entity compared."""

import random
from dataclasses import dataclass

from sqlglot import exp

from sqlr1.databases import ForeignKey
from sqlr1.synthesis.english import Speaker, slot
from sqlr1.synthesis.plan import Measure, Query, Ref
from sqlr1.synthesis.requests import Request
from sqlr1.synthesis.shapes.single import COUNT
from sqlr1.synthesis.sql import Builder, aggregate, column, named, select, source
from sqlr1.synthesis.world import World


@dataclass(frozen=True)
class GroupAboveAverage:
    """Values of `group` whose `measure` is above (below) the average of that measure over all groups."""

    base: Query
    group: Ref
    measure: Measure
    above: bool
    shows_measure: bool

    def expression(self) -> exp.Expression:
        """WITH groups AS (one row a group) SELECT ... WHERE value > (SELECT AVG(value) FROM groups)."""
        builder = Builder(self.base)
        block = select(self.base.with_(group=(self.group,)))
        key = builder.column(self.group)
        block.set("expressions", [key, named(builder.output(self.measure), "value")])
        mean = exp.Select(expressions=[aggregate("avg", exp.column("value"))], from_=exp.From(this=source("per_group")))
        compare = (exp.GT if self.above else exp.LT)(this=exp.column("value"), expression=exp.Subquery(this=mean))
        shown = [key.copy(), *([exp.column("value")] if self.shows_measure else [])]
        outer = exp.Select(expressions=shown, from_=exp.From(this=source("per_group")), where=exp.Where(this=compare))
        return outer.with_("per_group", as_=block, copy=False)

    def request(self, speaker: Speaker) -> Request:
        """What is asked."""
        group = slot(speaker.noun(self.base, self.group))
        groups = speaker.columns(self.base, [self.group], True)
        measure = speaker.measure(self.base, self.measure)
        of = "" if self.measure.function == "count" else f" of {speaker.subjects(self.base)}"
        relation = speaker.pick("above", "greater than") if self.above else speaker.pick("below", "less than")
        also = f", with that {'number' if not of else 'value'}" if self.shows_measure else ""
        average = speaker.pick(f"the average over all {groups}", f"the mean of that figure across all {groups}")
        phrase = speaker.pick(
            f"the {groups} whose {measure}{of} is {relation} {average}{also}",
            f"every {group} whose {measure}{of} is {relation} {average}{also}",
        )
        return Request(phrase, True)


@dataclass(frozen=True)
class TwoCounts:
    """Parents with more rows in one child table than in another; `less` swaps the comparison."""

    base: Query
    first: ForeignKey
    second: ForeignKey
    shows_counts: bool

    def expression(self) -> exp.Expression:
        """Two CTEs that count children by parent, joined to the parent."""
        parent = self.base.tables[0]
        key = self.first.parent_column
        outer = exp.Select(expressions=[column("T1", o.column) for o in self.base.outputs])
        if self.shows_counts:
            outer.set("expressions", [*outer.expressions, column("T2", "total"), column("T3", "total")])
        outer.set("from_", exp.From(this=source(parent, "T1")))
        for alias, name, link in (("T2", "first_counts", self.first), ("T3", "second_counts", self.second)):
            block = exp.Select(
                expressions=[named(column("", link.column), "owner"), named(aggregate("count"), "total")],
                from_=exp.From(this=source(link.table)),
                group=exp.Group(expressions=[column("", link.column)]),
            )
            outer = outer.with_(name, as_=block, copy=False)
            on = exp.EQ(this=column("T1", key), expression=column(alias, "owner"))
            outer.append("joins", exp.Join(this=source(name, alias), on=on))
        more = exp.GT(this=column("T2", "total"), expression=column("T3", "total"))
        outer.set("where", exp.Where(this=more))
        return outer

    def request(self, speaker: Speaker) -> Request:
        """What is asked."""
        outputs = speaker.columns(self.base, list(self.base.outputs), True)
        first, second = (speaker.subjects(Query((k.table,), ())) for k in (self.first, self.second))
        also = speaker.pick(", along with both numbers", ", and show both counts") if self.shows_counts else ""
        subjects = speaker.subjects(self.base)
        phrase = speaker.pick(
            f"the {outputs} of {subjects} that have both but more {first} than {second}{also}",
            f"the {outputs} of {subjects} having at least one of each and more {first} than {second}{also}",
        )
        return Request(phrase, True)


@dataclass(frozen=True)
class MostFrequentAmong:
    """Rows whose `group` is the value that occurs most often: a subquery picks the value, ties broken by the value."""

    base: Query
    group: Ref

    def expression(self) -> exp.Expression:
        """WITH counts AS (...), best AS (the highest count) SELECT rows whose group has it."""
        builder = Builder(self.base)
        counts = select(self.base.with_(outputs=(self.group,), group=(self.group,)))
        counts.set("expressions", [*counts.expressions, named(aggregate("count"), "total")])
        best = exp.Select(
            expressions=[named(aggregate("max", exp.column("total")), "top")], from_=exp.From(this=source("counts"))
        )
        members = exp.Select(
            expressions=[builder.column(self.group)],
            from_=exp.From(this=source("counts")),
            where=exp.Where(
                this=exp.EQ(
                    this=exp.column("total"),
                    expression=exp.Subquery(
                        this=exp.Select(expressions=[exp.column("top")], from_=exp.From(this=source("best")))
                    ),
                )
            ),
        )
        outer = select(self.base)
        outer.set("where", exp.Where(this=exp.In(this=builder.column(self.group), query=exp.Subquery(this=members))))
        return outer.with_("counts", as_=counts, copy=False).with_("best", as_=best, copy=False)

    def request(self, speaker: Speaker) -> Request:
        """What is asked."""
        outputs = speaker.columns(self.base, list(self.base.outputs), True)
        group, subjects = slot(speaker.noun(self.base, self.group)), speaker.subjects(self.base)
        phrase = speaker.pick(
            f"the {outputs} of {subjects} whose {group} is the most common one (any of them if several tie)",
            f"the {outputs} of all {subjects} with the most frequent {group}, or any {group} tied for first",
        )
        return Request(phrase, True)


def group_above_average(world: World, rng: random.Random) -> GroupAboveAverage | None:
    """Groups above the average group."""
    table = rng.choice(world.tables)
    groups = world.categories(table)
    if not groups:
        return None
    group = rng.choice(groups)
    numbers = [c for c in world.quantities(table) if c != group]
    measure = (
        Measure(rng.choice(["avg", "sum", "max"]), Ref(0, rng.choice(numbers)))
        if numbers and rng.random() < 0.6
        else COUNT
    )
    return GroupAboveAverage(Query((table,), ()), Ref(0, group), measure, rng.random() < 0.7, rng.random() < 0.4)


def two_counts(world: World, rng: random.Random) -> TwoCounts | None:
    """More of these than of those."""
    parents = [t for t in world.tables if len({k.table for k in world.down_keys[t]}) >= 2]
    if not parents:
        return None
    parent = rng.choice(parents)
    first, second = rng.sample(world.down_keys[parent], 2)
    if first.table == second.table or first.parent_column != second.parent_column:
        return None
    base = Query((parent,), tuple(Ref(0, c) for c in world.outputs(rng, parent, 2)))
    return TwoCounts(base, first, second, rng.random() < 0.4)


def most_frequent_among(world: World, rng: random.Random) -> MostFrequentAmong | None:
    """Rows of the most common group."""
    table = rng.choice(world.tables)
    groups = [c for c in world.categories(table) if c != world.label(table)]
    if not groups:
        return None
    group = rng.choice(groups)
    outputs = tuple(Ref(0, c) for c in world.outputs(rng, table, 2, avoid=group))
    return MostFrequentAmong(Query((table,), outputs), Ref(0, group))
