"""Shapes with common table expressions: counts compared, the most frequent values, everything below a row."""

import random
from dataclasses import dataclass

from sqlgen.english import Speaker, slot
from sqlgen.query_plan import Filter, QueryPlan, Ref
from sqlgen.shapes.groups import TAKEN, filtered_value_groups
from sqlgen.speakable import NoPlan, SpeakableDatabase, choose, require
from sqlgen.sql_text import Block, literal
from sqlgen.wording import CompoundPlan
from sqlr1.database import ForeignKey, identifier


def _counts(base: QueryPlan, *keys: Ref) -> str:
    """Rows counted by the keys, as `total`."""
    block = Block(base.with_(group=keys))
    return block.select([*map(block.column, keys), "COUNT(*) AS total"])


def _both_numbers(speaker: Speaker, shown: bool) -> str:
    return speaker.pick(", along with both numbers", ", and show both counts") if shown else ""


@dataclass(frozen=True)
class TwoCounts(CompoundPlan):
    """Parents with more rows in one child table than in another."""

    first: ForeignKey
    second: ForeignKey
    shows_counts: bool

    def sql(self) -> str:
        block = Block(self.base, 1)
        key = block.column(Ref(0, self.first.parent_column))
        first, second = (
            f"SELECT {identifier(k.column)} AS owner, COUNT(*) AS total FROM {identifier(k.table)} "
            f"GROUP BY {identifier(k.column)}"
            for k in (self.first, self.second)
        )
        totals = ["T2.total", "T3.total"] if self.shows_counts else []
        return (
            f"WITH first_counts AS ({first}), second_counts AS ({second}) "
            f"{block.select([*map(block.output, self.base.outputs), *totals])} "
            f"JOIN first_counts AS T2 ON {key} = T2.owner JOIN second_counts AS T3 ON {key} = T3.owner "
            "WHERE T2.total > T3.total"
        )

    def fields(self, speaker: Speaker) -> dict[str, str]:
        first, second = (speaker.subjects(QueryPlan.of(k.table)) for k in (self.first, self.second))
        return {"first": first, "second": second, "also": _both_numbers(speaker, self.shows_counts)}


@dataclass(frozen=True)
class TwoKinds(CompoundPlan):
    """Values of `group` with rows of two kinds, but more of the first.

    Rows of the first kind meet the filter of `base`, those of the second meet `other`.
    """

    group: Ref
    other: Filter
    shows_counts: bool

    def sql(self) -> str:
        key = identifier(self.group.column)
        first, second = _counts(self.base, self.group), _counts(self.base.with_(filters=(self.other,)), self.group)
        totals = ", T1.total, T2.total" if self.shows_counts else ""
        return (
            f"WITH first_kind AS ({first}), second_kind AS ({second}) SELECT T1.{key}{totals} FROM first_kind AS T1 "
            f"JOIN second_kind AS T2 ON T1.{key} = T2.{key} WHERE T1.total > T2.total"
        )

    def fields(self, speaker: Speaker) -> dict[str, str]:
        first, second = speaker.filtered(self.base), speaker.filtered(self.base.with_(filters=(self.other,)))
        groups = speaker.columns(self.base, [self.group], True)
        return {"groups": groups, "first": first, "second": second, "also": _both_numbers(speaker, self.shows_counts)}


@dataclass(frozen=True)
class MostFrequentAmong(CompoundPlan):
    """Rows whose `group` is the value that occurs most often, or one of several such values."""

    group: Ref

    def sql(self) -> str:
        key = Block(self.base).column(self.group)
        best = f"SELECT {key} FROM counts WHERE total = (SELECT top FROM best)"
        return (
            f"WITH counts AS ({_counts(self.base, self.group)}), best AS (SELECT MAX(total) AS top FROM counts) "
            f"{Block(self.base).select()} WHERE {key} IN ({best})"
        )


@dataclass(frozen=True)
class MostFrequentIn(CompoundPlan):
    """For each value of `group`, the value of `key` that most of its rows have; all such values if several tie."""

    group: Ref
    key: Ref

    def sql(self) -> str:
        group, key = identifier(self.group.column), identifier(self.key.column)
        rank = f"RANK() OVER (PARTITION BY {group} ORDER BY total DESC)"
        return (
            f"WITH counts AS ({_counts(self.base, self.group, self.key)}), "
            f"ranked AS (SELECT {group}, {key}, total, {rank} AS place FROM counts) "
            f"SELECT {group}, {key}, total FROM ranked WHERE place = 1"
        )

    def fields(self, speaker: Speaker) -> dict[str, str]:
        rows = speaker.filtered(self.base)
        most = speaker.pick("most common", "most frequent")
        ties = speaker.pick("all of them if several tie", "with all ties", "ties included")
        return {"rows": rows, "most": most, "ties": ties}


@dataclass(frozen=True)
class Descendants(CompoundPlan):
    """Rows that lead, over `key` (of the table to itself), to the row named `value`, in any number of steps."""

    key: ForeignKey
    value: object

    def sql(self) -> str:
        table, label = identifier(self.base.tables[0]), identifier(self.base.outputs[0].column)
        parent, own = identifier(self.key.column), identifier(self.key.parent_column)
        top = f"SELECT {own} FROM {table} WHERE {label} = {literal(self.value)}"
        direct = f"SELECT {own} FROM {table} WHERE {parent} IN ({top})"
        further = f"SELECT T1.{own} FROM {table} AS T1 JOIN below ON T1.{parent} = below.id"
        return (
            f"WITH RECURSIVE below(id) AS ({direct} UNION {further}) "
            f"SELECT {label} FROM {table} WHERE {own} IN (SELECT id FROM below)"
        )

    def fields(self, speaker: Speaker) -> dict[str, str]:
        role = slot(speaker.names.role(self.key.table, self.key.column, self.key.parent))
        return {"role": role, "value": speaker.value(self.value)}


def two_counts(db: SpeakableDatabase, rng: random.Random) -> TwoCounts:
    """More of these than of those."""
    parent = choose(rng, [t for t in db.tables if len({k.table for k in db.down_keys[t]}) >= 2])
    first, second = rng.sample(db.down_keys[parent], 2)
    if first.table == second.table or first.parent_column != second.parent_column:
        raise NoPlan
    base = QueryPlan.of(parent, *db.outputs(rng, parent, 2))
    return TwoCounts(base, first, second, rng.random() < 0.4)


def two_kinds(db: SpeakableDatabase, rng: random.Random) -> TwoKinds:
    """Groups with more rows of one kind than of another."""
    base = filtered_value_groups(db, rng)
    item, group = require(base.filters)[0], base.group[0]
    # With two thresholds on one column, rows of one kind would be among those of the other, and one vague word would
    # hide both thresholds.
    avoid = [group.column, *([item.ref.column] if item.op in (">", ">=", "<", "<=") else [])]
    other = require(db.filter(rng, base.tables[0], avoid=avoid, shared=True))
    if other == item:
        raise NoPlan
    return TwoKinds(base.with_(outputs=(), group=()), group, other, rng.random() < 0.4)


def most_frequent_among(db: SpeakableDatabase, rng: random.Random) -> MostFrequentAmong:
    """Rows of the most common group."""
    table = rng.choice(db.tables)
    group = choose(rng, [c for c in db.categories(table) if c != db.label(table) and c.lower() not in TAKEN])
    return MostFrequentAmong(QueryPlan.of(table, *db.outputs(rng, table, 2, avoid=group)), Ref(0, group))


def most_frequent_in(db: SpeakableDatabase, rng: random.Random) -> MostFrequentIn:
    """The most common value within each group."""
    base = filtered_value_groups(db, rng)
    table = base.tables[0]
    used = {base.group[0].column, *(item.ref.column for item in base.filters)}
    keys = [c for c in db.complete(table, db.categories(table)) if c not in used and c.lower() not in TAKEN]
    return MostFrequentIn(base.with_(outputs=(), group=()), base.group[0], Ref(0, choose(rng, keys)))


def descendants(db: SpeakableDatabase, rng: random.Random) -> Descendants:
    """All rows below one row of a hierarchy."""
    key = choose(rng, db.self_keys)
    label = db.label(key.table)
    value, _ = choose(rng, db.statistics(key.table, label).values)
    return Descendants(QueryPlan.of(key.table, label), key, value)
