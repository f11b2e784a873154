"""Shapes with a subquery in the condition: against an aggregate, membership, existence."""

import random
from dataclasses import dataclass

from sqlgen.english import Speaker
from sqlgen.query_plan import COUNT, Filter, Measure, QueryPlan, Ref
from sqlgen.speakable import SpeakableDatabase, choose
from sqlgen.sql_text import Block
from sqlgen.wording import CompoundPlan, Wording
from sqlr1.database import ForeignKey


@dataclass(frozen=True)
class AboveOwnGroup(CompoundPlan):
    """Rows whose `key` is above (below) the average of the rows that share their `group`."""

    key: Ref
    group: Ref
    above: bool

    def sql(self) -> str:
        outer, inner = Block(self.base, 1), Block(self.base, 2)
        average = inner.select([inner.output(Measure("avg", self.key))])
        same = f"{inner.column(self.group)} = {outer.column(self.group)}"
        operator = ">" if self.above else "<"
        return f"{outer.select()} WHERE {outer.column(self.key)} {operator} ({average} WHERE {same})"

    def fields(self, speaker: Speaker) -> dict[str, str]:
        words = ("above", "higher than", "greater than") if self.above else ("below", "lower than")
        return {"relation": speaker.pick(*words)}


@dataclass(frozen=True)
class Existence(CompoundPlan):
    """Parents for which a child (that meets `item`) exists, or none does."""

    key: ForeignKey
    item: Filter | None
    negated: bool

    def sql(self) -> str:
        parent, child = Block(self.base, 1), Block(QueryPlan.of(self.key.table), 2)
        conditions = [f"{child.column(Ref(0, self.key.column))} = {parent.column(Ref(0, self.key.parent_column))}"]
        if self.item:
            conditions.append(child.condition(self.item))
        inner = f"{child.select(['1'])} WHERE {' AND '.join(conditions)}"
        return f"{parent.select()} WHERE {'NOT ' if self.negated else ''}EXISTS({inner})"

    def wording(self, speaker: Speaker) -> Wording:
        inner = QueryPlan.of(self.key.table, self.key.column, filters=(self.item,) if self.item else ())
        membership = Filter(Ref(0, self.key.parent_column), "not_in" if self.negated else "in", inner)
        asked = self.base.with_(filters=(membership,))
        return Wording(f"the {speaker.outputs(asked, True)} of {speaker.filtered(asked)}", True)


def above_average(db: SpeakableDatabase, rng: random.Random) -> QueryPlan:
    """Rows above or below the average of a column."""
    table = rng.choice(db.tables)
    column = choose(rng, db.quantities(table))
    op = rng.choice([">", ">", "<"])
    plan = _compared(db, rng, table, column, op, "avg")
    return plan if rng.random() < 0.75 else plan.with_(outputs=(COUNT,))


def extreme(db: SpeakableDatabase, rng: random.Random) -> QueryPlan:
    """All rows that attain the maximum or minimum of a column, ties included."""
    table = rng.choice(db.tables)
    column = choose(rng, db.quantities(table))
    return _compared(db, rng, table, column, "=", rng.choice(["max", "max", "min"]))


def _compared(db: SpeakableDatabase, rng: random.Random, table: str, column: str, op: str, function: str) -> QueryPlan:
    """Rows whose value of a column is compared with an aggregate of that column."""
    ref = Ref(0, column)
    inner = QueryPlan((table,), (Measure(function, ref),))
    return QueryPlan.of(table, *db.outputs(rng, table, 2, column), filters=(Filter(ref, op, inner),))


def without_children(db: SpeakableDatabase, rng: random.Random) -> QueryPlan:
    """Parents that no child (with a property) refers to."""
    return _membership(db, rng, "not_in")


def with_children(db: SpeakableDatabase, rng: random.Random) -> QueryPlan:
    """Parents that some child refers to, by IN."""
    return _membership(db, rng, "in")


def _membership(db: SpeakableDatabase, rng: random.Random, op: str) -> QueryPlan:
    key = choose(rng, db.all_down_keys)
    # With a NULL among the members, NOT IN is true for no row at all.
    has_nulls = db.statistics(key.table, key.column).has_nulls
    filters = [Filter(Ref(0, key.column), "not_null")] if has_nulls and op == "not_in" else []
    item = db.filter(rng, key.table)
    if item and (rng.random() < 0.4 or op == "in"):
        filters.append(item)
    inner = QueryPlan.of(key.table, key.column, filters=tuple(filters))
    plan = QueryPlan.of(key.parent, filters=(Filter(Ref(0, key.parent_column), op, inner),))
    return plan.showing(*db.outputs(rng, key.parent, 2)) if rng.random() < 0.7 else plan.with_(outputs=(COUNT,))


def above_own_group(db: SpeakableDatabase, rng: random.Random) -> AboveOwnGroup:
    """Rows above the average of their own group."""
    table = rng.choice(db.tables)
    label = db.label(table)
    pairs = [(g, n) for g in db.categories(table) for n in db.quantities(table) if g not in (n, label)]
    group, key = choose(rng, pairs)
    outputs = (label,) if rng.random() < 0.6 or key == label else (label, key)
    return AboveOwnGroup(QueryPlan.of(table, *outputs), Ref(0, key), Ref(0, group), rng.random() < 0.7)


def existence(db: SpeakableDatabase, rng: random.Random) -> Existence:
    """Parents with or without some child, by EXISTS."""
    key = choose(rng, db.all_down_keys)
    negated = rng.random() < 0.6
    item = db.filter(rng, key.table) if not negated or rng.random() < 0.5 else None
    return Existence(QueryPlan.of(key.parent, *db.outputs(rng, key.parent, 2)), key, item, negated)
