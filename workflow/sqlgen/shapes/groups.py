"""Shapes that compare groups with each other: a CTE of one row a group, under a window or against the mean."""

import random
from dataclasses import dataclass

from sqlglot import exp

from sqlgen.builder import Builder, aggregate, column, named, ordered, over, quotient, select, source
from sqlgen.english import Speaker, slot
from sqlgen.naming import plural
from sqlgen.query_plan import Measure, Query, Ref
from sqlgen.requests import Request
from sqlgen.shapes.joined import children_by_parent
from sqlgen.shapes.single import COUNT
from sqlgen.world import World


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

    def _measured(self, speaker: Speaker) -> str:
        """`number`, or `average price`."""
        return "number" if self.measure == COUNT else speaker.measure(self.base, self.measure)

    def _figure(self, speaker: Speaker, measured: str) -> str:
        """`the number of these songs`, or `the average price of these songs`."""
        return f"the {measured} of {speaker.pick('these', 'those')} {speaker.subjects(self.base)}"


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
        each, figure = self._each(speaker), self._figure(speaker, self._measured(speaker))
        first = "highest" if self.descending else "lowest"
        rank = f"rank by it (1 for the {first}; {speaker.pick('equal ones', 'ties')} share a rank and leave a gap)"
        return Request(speaker.pick(f"{each}, {figure} and the {rank}", f"{each} with {figure} and its {rank}"), False)


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
        return Request(speaker.pick(f"{each} and its {share} of {whole}", f"{each} with its {share} of {whole}"), False)


@dataclass(frozen=True)
class _AgainstMean(_Measured):
    """Groups whose measure is above (below) its mean over all groups."""

    above: bool
    shows_measure: bool

    def _than(self, mean: exp.Select, **ctes: exp.Expression) -> exp.Select:
        """The groups whose value is above (below) the one value of `mean`."""
        outer = self._over([exp.column("value")] if self.shows_measure else [], **ctes)
        compare = exp.GT if self.above else exp.LT
        outer.set("where", exp.Where(this=compare(this=exp.column("value"), expression=exp.Subquery(this=mean))))
        return outer

    def _relation(self, speaker: Speaker) -> str:
        return speaker.pick("above", "greater than") if self.above else speaker.pick("below", "less than")

    def _also(self, speaker: Speaker, measured: str) -> str:
        """`, along with the average price itself`: "that figure" could be the mean."""
        return f", {speaker.pick('along with', 'with')} the {measured} itself" if self.shows_measure else ""


class GroupAboveMean(_AgainstMean):
    """Groups of some rows, or parents, whose measure is above (below) its mean over all groups."""

    def expression(self) -> exp.Expression:
        """The mean in a CTE of its own."""
        mean = named(aggregate("avg", exp.column("value")), "mean")
        average = exp.Select(expressions=[mean], from_=exp.From(this=source("per_group")))
        limit = exp.Select(expressions=[exp.column("mean")], from_=exp.From(this=source("average")))
        return self._than(limit, average=average)

    def request(self, speaker: Speaker) -> Request:
        """What is asked."""
        label, each, measured = self.base.outputs[0], self._each(speaker), self._measured(speaker)
        joined = label.occurrence > 0
        group = speaker.subject(self.base, label.occurrence) if joined else speaker.noun(self.base, label)
        mean = f"the {speaker.pick('average', 'mean')} of that figure over all such {slot(plural(group))}"
        condition = f"{self._figure(speaker, measured)} is {self._relation(speaker)} {mean}"
        return Request(f"{each}, for which {condition}{self._also(speaker, measured)}", False)


class GroupAboveAverage(_AgainstMean):
    """Values of a column of all rows whose measure is above (below) its average over all of them."""

    def expression(self) -> exp.Expression:
        """WITH per_group AS (one row a group) SELECT ... WHERE value > (SELECT AVG(value) FROM per_group)."""
        mean = aggregate("avg", exp.column("value"))
        return self._than(exp.Select(expressions=[mean], from_=exp.From(this=source("per_group"))))

    def request(self, speaker: Speaker) -> Request:
        """What is asked."""
        group, groups = (speaker.columns(self.base, list(self.base.outputs), many) for many in (False, True))
        subjects, measured = speaker.subjects(self.base), self._measured(speaker)
        figure = f"{measured} of {subjects}"
        average = speaker.pick(f"the average over all {groups}", f"the mean of that figure across all {groups}")
        condition = f"{figure} is {self._relation(speaker)} {average}{self._also(speaker, measured)}"
        return Request(speaker.pick(f"the {groups} whose {condition}", f"every {group} whose {condition}"), True)


TAKEN = {"value", "total", "place", "mean"}  # names of the CTEs' own columns


def _values(world: World, rng: random.Random) -> Query | None:
    """Rows of one table grouped by a column, its output; rows without a value there would be no group."""
    table = rng.choice(world.tables)
    keys = [c for c in world.complete(table, world.categories(table)) if c.lower() not in TAKEN]
    if not keys:
        return None
    key = Ref(0, rng.choice(keys))
    return Query((table,), (key,), group=(key,))


def value_groups(world: World, rng: random.Random) -> Query | None:
    """Rows of one table, mostly some of them, grouped by a column, its output."""
    base = _values(world, rng)
    return _filtered(world, rng, base) if base else None


def _parents(world: World, rng: random.Random) -> Query | None:
    """Rows joined to their parents and grouped by them, mostly some of them; its output is what names a parent."""
    base = children_by_parent(world, rng)
    if not base or base.outputs[0].column.lower() in TAKEN:
        return None
    return _filtered(world, rng, base)


def _filtered(world: World, rng: random.Random, base: Query) -> Query:
    avoid = [key.column for key in base.group if key.occurrence == 0]
    item = world.filter(rng, base.tables[0], avoid=avoid, shared=True) if rng.random() < 0.7 else None
    return base.with_(filters=(item,)) if item else base


def _measure(world: World, rng: random.Random, base: Query, *functions: str) -> Measure:
    used = {ref.column for ref in (*base.group, *(item.ref for item in base.filters)) if ref.occurrence == 0}
    table = base.tables[0]
    numbers = [c for c in world.complete(table, world.quantities(table)) if c not in used]
    return Measure(rng.choice(functions), Ref(0, rng.choice(numbers))) if numbers and rng.random() < 0.6 else COUNT


def group_ranking(world: World, rng: random.Random) -> GroupRanking | None:
    """Ranks of groups."""
    base = rng.choice([value_groups, _parents])(world, rng)
    if not base:
        return None
    return GroupRanking(base, _measure(world, rng, base, "avg", "sum", "max", "min"), rng.random() < 0.75)


def group_share(world: World, rng: random.Random) -> GroupShare | None:
    """Shares of groups: of values only, for rows without a parent belong to all rows but to no group."""
    base = value_groups(world, rng)
    return GroupShare(base, _measure(world, rng, base, "sum")) if base else None


def group_above_mean(world: World, rng: random.Random) -> GroupAboveMean | None:
    """Groups above the mean."""
    base = rng.choice([value_groups, _parents, _parents])(world, rng)
    if not base:
        return None
    measure = _measure(world, rng, base, "avg", "sum", "max")
    return GroupAboveMean(base, measure, rng.random() < 0.7, rng.random() < 0.4)


def group_above_average(world: World, rng: random.Random) -> GroupAboveAverage | None:
    """Groups above the average group."""
    base = _values(world, rng)
    if not base:
        return None
    measure = _measure(world, rng, base, "avg", "sum", "max")
    return GroupAboveAverage(base, measure, rng.random() < 0.7, rng.random() < 0.4)
