"""Shapes that compare groups with each other: CTEs of one row a group, under a window, a mean or another CTE."""

import random
from dataclasses import dataclass

from sqlglot import exp

from sqlr1.synthesis.english import Speaker, slot
from sqlr1.synthesis.naming import plural
from sqlr1.synthesis.plan import Filter, Measure, Query, Ref
from sqlr1.synthesis.requests import Request
from sqlr1.synthesis.shapes.joined import children_by_parent
from sqlr1.synthesis.shapes.single import COUNT
from sqlr1.synthesis.sql import Builder, aggregate, column, literal, named, ordered, over, quotient, select, source
from sqlr1.synthesis.world import World


@dataclass(frozen=True)
class _Measured:
    """Groups of `base`, each shown by its only output, with their `measure`.

    They are values of a column of the rows, or the parents that the rows refer to; those without a row are no groups.
    """

    base: Query
    measure: Measure

    def _over(self, outputs: list[exp.Expression], **ctes: exp.Expression) -> exp.Select:
        """WITH per_group AS (one row a group, with its value), further CTEs, SELECT the group and `outputs`."""
        builder, label = Builder(self.base), self.base.outputs[0]
        block = select(self.base)
        block.set("expressions", [builder.column(label), named(builder.output(self.measure), "value")])
        shown = [column("", label.column), *outputs]
        outer = exp.Select(expressions=shown, from_=exp.From(this=source("per_group")))
        for name, cte in ({"per_group": block} | ctes).items():
            outer = outer.with_(name, as_=cte, copy=False)
        return outer

    def _each(self, speaker: Speaker) -> str:
        """`each country of singers`, or `the name of each singer with any songs`."""
        rows, label = speaker.filtered(self.base), self.base.outputs[0]
        noun = slot(speaker.noun(self.base, label))
        if label.occurrence == 0:
            return f"each {noun} of {rows}"
        return f"the {noun} of each {slot(speaker.subject(self.base, label.occurrence))} with any {rows}"

    def _figure(self, speaker: Speaker) -> str:
        """`the number of these songs`, or `the average price of these songs`."""
        subjects = f"{speaker.pick('these', 'those')} {speaker.subjects(self.base)}"
        if self.measure == COUNT:
            return f"the number of {subjects}"
        return f"the {speaker.measure(self.base, self.measure)} of {subjects}"


@dataclass(frozen=True)
class GroupRanking(_Measured):
    """All groups with their measure and their rank by it."""

    descending: bool

    def expression(self) -> exp.Expression:
        """RANK() over the groups' values."""
        rank = over(exp.Anonymous(this="RANK"), order=ordered(exp.column("value"), self.descending))
        return self._over([exp.column("value"), rank])

    def request(self, speaker: Speaker) -> Request:
        """What is asked."""
        each, figure = self._each(speaker), self._figure(speaker)
        first = "highest" if self.descending else "lowest"
        rank = f"rank by it (1 for the {first}; {speaker.pick('equal ones', 'ties')} share a rank and leave a gap)"
        return Request(speaker.pick(f"{each}, {figure} and the {rank}", f"{each} with {figure} and its {rank}"), True)


@dataclass(frozen=True)
class GroupShare(_Measured):
    """All groups with their percentage of the count, or sum, over all rows."""

    def expression(self) -> exp.Expression:
        """100.0 * value / SUM(value) OVER ()."""
        part = exp.Mul(this=exp.Literal.number("100.0"), expression=exp.column("value"))
        return self._over([quotient(part, over(aggregate("sum", exp.column("value"))))])

    def request(self, speaker: Speaker) -> Request:
        """What is asked."""
        each, subjects = self._each(speaker), f"all these {speaker.subjects(self.base)}"
        whole = subjects if self.measure == COUNT else f"the {speaker.measure(self.base, self.measure)} of {subjects}"
        share = speaker.pick("percentage", "share in percent", "percentage share")
        return Request(speaker.pick(f"{each} and its {share} of {whole}", f"{each} with its {share} of {whole}"), True)


@dataclass(frozen=True)
class GroupAboveMean(_Measured):
    """Groups whose measure is above (below) its mean over all groups."""

    above: bool
    shows_measure: bool

    def expression(self) -> exp.Expression:
        """The mean in a CTE of its own."""
        mean = named(aggregate("avg", exp.column("value")), "mean")
        average = exp.Select(expressions=[mean], from_=exp.From(this=source("per_group")))
        limit = exp.Select(expressions=[exp.column("mean")], from_=exp.From(this=source("average")))
        compare = exp.GT if self.above else exp.LT
        outer = self._over([exp.column("value")] if self.shows_measure else [], average=average)
        outer.set("where", exp.Where(this=compare(this=exp.column("value"), expression=exp.Subquery(this=limit))))
        return outer

    def request(self, speaker: Speaker) -> Request:
        """What is asked."""
        label = self.base.outputs[0]
        joined = label.occurrence > 0
        group = speaker.subject(self.base, label.occurrence) if joined else speaker.noun(self.base, label)
        relation = speaker.pick("above", "greater than") if self.above else speaker.pick("below", "less than")
        also = speaker.pick(", and that figure", ", along with that figure") if self.shows_measure else ""
        mean = speaker.pick("the average of that figure over", "its mean over")
        each, figure = self._each(speaker), self._figure(speaker)
        return Request(f"{each}, for which {figure} is {relation} {mean} all such {slot(plural(group))}{also}", True)


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


_TAKEN = {"value", "total", "place", "mean"}  # names of the CTEs' own columns


def _groups(world: World, rng: random.Random) -> Query | None:
    """Rows of one table grouped by a column, mostly some of them; its output is that column."""
    table = rng.choice(world.tables)
    keys = [c for c in world.categories(table) if c.lower() not in _TAKEN]
    keys = [c for c in keys if not world.statistics(table, c).has_nulls]  # rows without a value are no group
    if not keys:
        return None
    key = Ref(0, rng.choice(keys))
    return _filtered(world, rng, Query((table,), (key,), group=(key,)))


def _parents(world: World, rng: random.Random) -> Query | None:
    """Rows joined to their parents and grouped by them, mostly some of them; its output is what names a parent."""
    base = children_by_parent(world, rng)
    if not base or base.outputs[0].column.lower() in _TAKEN:
        return None
    return _filtered(world, rng, base)


def _filtered(world: World, rng: random.Random, base: Query) -> Query:
    avoid = [key.column for key in base.group if key.occurrence == 0]
    item = world.filter(rng, base.tables[0], avoid=avoid, shared=True) if rng.random() < 0.7 else None
    return base.with_(filters=(item,)) if item else base


def _measure(world: World, rng: random.Random, base: Query, *functions: str) -> Measure:
    used = {ref.column for ref in (*base.group, *(item.ref for item in base.filters)) if ref.occurrence == 0}
    numbers = [c for c in world.quantities(base.tables[0]) if c not in used]
    return Measure(rng.choice(functions), Ref(0, rng.choice(numbers))) if numbers and rng.random() < 0.6 else COUNT


def group_ranking(world: World, rng: random.Random) -> GroupRanking | None:
    """Ranks of groups."""
    base = rng.choice([_groups, _parents])(world, rng)
    if not base:
        return None
    measure = _measure(world, rng, base, "avg", "sum", "max", "min")
    by = measure.ref or base.group[0]
    table = base.tables[by.occurrence]
    return GroupRanking(base, measure, world.descending(rng, table, by.column, 0.75))


def group_share(world: World, rng: random.Random) -> GroupShare | None:
    """Shares of groups: of values only, for rows without a parent belong to all rows but to no group."""
    base = _groups(world, rng)
    return GroupShare(base, _measure(world, rng, base, "sum")) if base else None


def group_above_mean(world: World, rng: random.Random) -> GroupAboveMean | None:
    """Groups above the mean."""
    base = rng.choice([_groups, _parents, _parents])(world, rng)
    if not base:
        return None
    measure = _measure(world, rng, base, "avg", "sum", "max")
    return GroupAboveMean(base, measure, rng.random() < 0.7, rng.random() < 0.4)


def two_kinds(world: World, rng: random.Random) -> TwoKinds | None:
    """Groups with more rows of one kind than of another."""
    base = _groups(world, rng)
    if not base or not base.filters:
        return None
    group, item = base.group[0], base.filters[0]
    other = world.filter(rng, base.tables[0], avoid=[group.column], shared=True)
    if not other or other == item:
        return None
    return TwoKinds(base.with_(outputs=(), group=()), group, other, rng.random() < 0.4)


def most_frequent_in(world: World, rng: random.Random) -> MostFrequentIn | None:
    """The most common value within each group."""
    base = _groups(world, rng)
    if not base:
        return None
    group = base.group[0]
    used = {group.column, *(item.ref.column for item in base.filters)}
    keys = [c for c in world.categories(base.tables[0]) if c not in used and c.lower() not in _TAKEN]
    keys = [c for c in keys if not world.statistics(base.tables[0], c).has_nulls]
    return MostFrequentIn(base.with_(outputs=(), group=()), group, Ref(0, rng.choice(keys))) if keys else None
