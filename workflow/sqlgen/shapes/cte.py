"""Shapes that count in common table expressions: two counts of one thing compared, the most frequent values."""

import random
from dataclasses import dataclass

from sqlglot import exp

from sqlgen.builder import Builder, aggregate, column, literal, named, ordered, over, select, source
from sqlgen.english import Speaker, slot
from sqlgen.query_plan import Filter, Query, Ref
from sqlgen.requests import Request
from sqlgen.shapes.groups import TAKEN, value_groups
from sqlgen.world import World
from sqlr1.database import ForeignKey


@dataclass(frozen=True)
class TwoCounts:
    """Parents with more rows in one child table than in another."""

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
    """Rows whose `group` is the value that occurs most often, or one of them where several tie."""

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


@dataclass(frozen=True)
class TwoKinds:
    """Values of `group` with rows that meet the filter of `base` and rows that meet `other`, but more of the former."""

    base: Query
    group: Ref
    other: Filter
    shows_counts: bool

    def expression(self) -> exp.Expression:
        """Two CTEs that count the rows of each kind by group, joined on the group."""
        key = self.group.column
        outer = exp.Select(expressions=[column("T1", key)], from_=exp.From(this=source("first_kind", "T1")))
        if self.shows_counts:
            outer.set("expressions", [*outer.expressions, column("T1", "total"), column("T2", "total")])
        for name, filters in (("first_kind", self.base.filters), ("second_kind", (self.other,))):
            block = select(self.base.with_(outputs=(self.group,), filters=filters, group=(self.group,)))
            block.set("expressions", [*block.expressions, named(aggregate("count"), "total")])
            outer = outer.with_(name, as_=block, copy=False)
        same = exp.EQ(this=column("T1", key), expression=column("T2", key))
        outer.append("joins", exp.Join(this=source("second_kind", "T2"), on=same))
        more = exp.GT(this=column("T1", "total"), expression=column("T2", "total"))
        outer.set("where", exp.Where(this=more))
        return outer

    def request(self, speaker: Speaker) -> Request:
        """What is asked."""
        groups = speaker.columns(self.base, [self.group], True)
        first, second = speaker.filtered(self.base), speaker.filtered(self.base.with_(filters=(self.other,)))
        also = speaker.pick(", along with both numbers", ", and show both counts") if self.shows_counts else ""
        phrase = speaker.pick(
            f"the {groups} that have both but more {first} than {second}{also}",
            f"the {groups} with at least one of each and more {first} than {second}{also}",
        )
        return Request(phrase, True)


@dataclass(frozen=True)
class MostFrequentIn:
    """For each value of `group`, the values of `key` that most of its rows have; all of them where several tie."""

    base: Query
    group: Ref
    key: Ref

    def expression(self) -> exp.Expression:
        """Pairs counted in a CTE, ranked within their group in another."""
        pair = [self.group, self.key]
        counts = select(self.base.with_(outputs=(self.group, self.key), group=(self.group, self.key)))
        counts.set("expressions", [*counts.expressions, named(aggregate("count"), "total")])
        rank = over(exp.Anonymous(this="RANK"), column("", self.group.column), ordered(exp.column("total"), True))
        shown = [*(column("", ref.column) for ref in pair), exp.column("total")]
        ranked = exp.Select(expressions=[*shown, named(rank, "place")], from_=exp.From(this=source("counts")))
        outer = exp.Select(
            expressions=[c.copy() for c in shown],
            from_=exp.From(this=source("ranked")),
            where=exp.Where(this=exp.EQ(this=exp.column("place"), expression=literal(1))),
        )
        return outer.with_("counts", as_=counts, copy=False).with_("ranked", as_=ranked, copy=False)

    def request(self, speaker: Speaker) -> Request:
        """What is asked."""
        group, key = slot(speaker.noun(self.base, self.group)), slot(speaker.noun(self.base, self.key))
        rows = speaker.filtered(self.base)
        most = speaker.pick("most common", "most frequent")
        ties = speaker.pick("all of them if several tie", "with all ties", "ties included")
        phrase = speaker.pick(
            f"each {group} of {rows}, the {most} {key} among them ({ties}) and how many of them have it",
            f"each {group} with the {most} {key} of its {rows} ({ties}) and the number of those that have it",
        )
        return Request(phrase, True)


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
    groups = [c for c in world.categories(table) if c != world.label(table) and c.lower() not in TAKEN]
    if not groups:
        return None
    group = rng.choice(groups)
    outputs = tuple(Ref(0, c) for c in world.outputs(rng, table, 2, avoid=group))
    return MostFrequentAmong(Query((table,), outputs), Ref(0, group))


def two_kinds(world: World, rng: random.Random) -> TwoKinds | None:
    """Groups with more rows of one kind than of another."""
    base = value_groups(world, rng)
    if not base or not base.filters:
        return None
    group, item = base.group[0], base.filters[0]
    # Two thresholds on one column: the rows of one kind would be among those of the other, and hidden by one word.
    avoid = [group.column, *([item.ref.column] if item.op in (">", ">=", "<", "<=") else [])]
    other = world.filter(rng, base.tables[0], avoid=avoid, shared=True)
    if not other or other == item:
        return None
    return TwoKinds(base.with_(outputs=(), group=()), group, other, rng.random() < 0.4)


def most_frequent_in(world: World, rng: random.Random) -> MostFrequentIn | None:
    """The most common value within each group."""
    base = value_groups(world, rng)
    if not base:
        return None
    group = base.group[0]
    used = {group.column, *(item.ref.column for item in base.filters)}
    categories = world.complete(base.tables[0], world.categories(base.tables[0]))
    keys = [c for c in categories if c not in used and c.lower() not in TAKEN]
    return MostFrequentIn(base.with_(outputs=(), group=()), group, Ref(0, rng.choice(keys))) if keys else None
