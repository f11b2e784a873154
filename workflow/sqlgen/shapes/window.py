"""Shapes with window functions: the best of each group, ranks, distance from the group's average."""

import random
from dataclasses import dataclass, replace

from sqlgen.english import Speaker, slot
from sqlgen.query_plan import QueryPlan, Ref
from sqlgen.speakable import NoPlan, SpeakableDatabase, require
from sqlgen.sql_text import Block, sort_key
from sqlgen.wording import CompoundPlan


@dataclass(frozen=True)
class BestOfGroup(CompoundPlan):
    """For each value of `group`, the rows ranked 1 to `best` by `key`; rows that tie share a rank."""

    group: Ref
    key: Ref
    best: int
    descending: bool

    def sql(self) -> str:
        block = Block(self.base)
        shown = ", ".join(map(block.output, [self.group, *self.base.outputs]))
        ranked = block.select([shown, f"{rank(block, self.group, self.key, self.descending)} AS place"])
        place = f"place {'=' if self.best == 1 else '<='} {self.best}"
        if self.base.filters:
            return f"WITH ranked AS ({ranked}) SELECT {shown} FROM ranked WHERE {place}"
        return f"SELECT {shown} FROM ({ranked}) AS ranked WHERE {place}"

    def fields(self, speaker: Speaker) -> dict[str, str]:
        many = self.best > 1
        extreme = speaker.pick("highest", "largest") if self.descending else speaker.pick("lowest", "smallest")
        rows = f"{slot(self.best)} {speaker.subjects(self.base)}" if many else slot(speaker.subject(self.base))
        ties = speaker.pick("(with all ties)", "(ties included)", "(include ties)")
        among = f" among {speaker.filtered(self.base)}" if self.base.filters else ""
        verb = speaker.pick("show", "list", "find", "give")
        shown = speaker.outputs(self.base, many)
        return {"extreme": extreme, "rows": rows, "ties": ties, "among": among, "verb": verb, "shown": shown}


@dataclass(frozen=True)
class Ranking(CompoundPlan):
    """All rows with their rank by `key`, overall or within `group`."""

    key: Ref
    group: Ref | None
    descending: bool

    def sql(self) -> str:
        block = Block(self.base)
        outputs = map(block.output, self.base.outputs)
        return block.select([*outputs, rank(block, self.group, self.key, self.descending)])

    def fields(self, speaker: Speaker) -> dict[str, str]:
        within = f" within its {slot(speaker.noun(self.base, self.group))}" if self.group else ""
        return {"within": within, "first": "highest" if self.descending else "lowest"}


@dataclass(frozen=True)
class Distance(CompoundPlan):
    """How far each row's `key` is from the average of its `group`."""

    key: Ref
    group: Ref

    def sql(self) -> str:
        block = Block(self.base)
        key = block.column(self.key)
        average = f"AVG({key}) OVER (PARTITION BY {block.column(self.group)})"
        return block.select([*map(block.output, self.base.outputs), f"{key} - {average}"])


def rank(block: Block, group: Ref | None, key: Ref, descending: bool) -> str:
    """`RANK() OVER (PARTITION BY group ORDER BY key)`."""
    partition = f"PARTITION BY {block.column(group)} " if group else ""
    return f"RANK() OVER ({partition}ORDER BY {sort_key(block.column(key), descending)})"


def best_of_group(db: SpeakableDatabase, rng: random.Random) -> BestOfGroup:
    """The top rows of each group."""
    table, group, key = _grouped_number(db, rng)
    label = db.label(table)
    if group.column == label or "place" in (group.column.lower(), label.lower()):  # the rank's own name is "place"
        raise NoPlan
    return BestOfGroup(QueryPlan.of(table, label), group, key, rng.choice([1, 1, 2, 3]), rng.random() < 0.7)


def best_of_chosen(db: SpeakableDatabase, rng: random.Random) -> BestOfGroup:
    """The top rows of each group among those that pass a filter."""
    plan = best_of_group(db, rng)
    item = require(db.filter(rng, plan.base.tables[0], avoid=[plan.group.column, plan.key.column], shared=True))
    return replace(plan, base=plan.base.with_(filters=(item,)))


def ranking(db: SpeakableDatabase, rng: random.Random) -> Ranking:
    """Ranks over a table."""
    table = rng.choice(db.tables)
    label = db.label(table)
    numbers = require(db.complete(table, db.numbers(table)))  # RANK also gives NULLs a rank, which nobody asks for
    groups = [c for c in db.complete(table, db.categories(table)) if c != label]
    group = Ref(0, rng.choice(groups)) if groups and rng.random() < 0.5 else None
    key = rng.choice(numbers)
    return Ranking(QueryPlan.of(table, label), Ref(0, key), group, db.descending(rng, table, key, 0.75))


def distance(db: SpeakableDatabase, rng: random.Random) -> Distance:
    """Distance from the group's average."""
    table, group, key = _grouped_number(db, rng)
    if group.column == db.label(table):
        raise NoPlan
    return Distance(QueryPlan.of(table, db.label(table)), key, group)


def _grouped_number(db: SpeakableDatabase, rng: random.Random) -> tuple[str, Ref, Ref]:
    """A table with a column to group by and a number, both without NULLs: NULL is no group and never the best."""
    table = rng.choice(db.tables)
    groups, numbers = (require(db.complete(table, kind)) for kind in (db.categories(table), db.quantities(table)))
    group, key = rng.choice(groups), rng.choice(numbers)
    if group == key:
        raise NoPlan
    return table, Ref(0, group), Ref(0, key)
