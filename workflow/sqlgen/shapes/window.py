"""Shapes with window functions: the best of each group, ranks, distance from the group's average."""

import random
from dataclasses import dataclass, replace

from sqlglot import exp

from sqlgen.builder import Builder, aggregate, literal, named, ordered, over, select, source
from sqlgen.english import Speaker, slot
from sqlgen.query_plan import Query, Ref
from sqlgen.requests import Request
from sqlgen.world import World


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
        return Request(phrase, False, (), commands)


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
        return Request(phrase, False)


def best_of_group(world: World, rng: random.Random) -> BestOfGroup | None:
    """The top rows of each group."""
    found = _grouped_number(world, rng)
    if not found:
        return None
    table, group, key = found
    base = Query((table,), (Ref(0, world.label(table)),))
    if group.column == world.label(table) or "place" in (group.column.lower(), world.label(table).lower()):
        return None
    return BestOfGroup(base, group, key, rng.choice([1, 1, 2, 3]), rng.random() < 0.7)


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
    numbers = world.complete(table, world.numbers(table))  # RANK gives NULLs a place, which nobody asks for
    if not numbers:
        return None
    groups = [c for c in world.complete(table, world.categories(table)) if c != world.label(table)]
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
    """A table with a column to group by and a number, both with a value in every row: NULL is no group and no best."""
    table = rng.choice(world.tables)
    groups, numbers = (world.complete(table, kind) for kind in (world.categories(table), world.quantities(table)))
    if not groups or not numbers:
        return None
    group, key = rng.choice(groups), rng.choice(numbers)
    return (table, Ref(0, group), Ref(0, key)) if group != key else None
