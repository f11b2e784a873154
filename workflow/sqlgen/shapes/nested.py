"""Shapes with a subquery in the condition: against an aggregate, membership, existence."""

import random

from sqlgen.query_plan import COUNT, Filter, Measure, QueryPlan, Ref
from sqlgen.speakable import SpeakableDatabase, choose
from sqlgen.sql_text import Block
from sqlgen.wording import CompoundPlan
from sqlr1.database import ForeignKey


def above_own_group_plan(base: QueryPlan, key: Ref, group: Ref, above: bool) -> CompoundPlan:
    """Rows whose `key` is above (below) the average of the rows that share their `group`."""
    outer, inner = Block(base, 1), Block(base, 2)
    average = inner.select([inner.output(Measure("avg", key))])
    same = f"{inner.column(group)} = {outer.column(group)}"
    sql = f"{outer.select()} WHERE {outer.column(key)} {'>' if above else '<'} ({average} WHERE {same})"
    relation = ("above", "higher than", "greater than") if above else ("below", "lower than")
    return CompoundPlan("above_own_group", base, sql, {"key": key, "group": group, "relation": relation})


def existence_plan(base: QueryPlan, key: ForeignKey, item: Filter | None, negated: bool) -> CompoundPlan:
    """Parents for which a child (that meets `item`) exists, or none does."""
    filters = (item,) if item else ()
    parent, child = Block(base, 1), Block(QueryPlan.of(key.table), 2)
    conditions = [f"{child.column(Ref(0, key.column))} = {parent.column(Ref(0, key.parent_column))}"]
    conditions += map(child.condition, filters)
    inner = f"{child.select(['1'])} WHERE {' AND '.join(conditions)}"
    sql = f"{parent.select()} WHERE {'NOT ' if negated else ''}EXISTS({inner})"
    members = QueryPlan.of(key.table, key.column, filters=filters)
    membership = Filter(Ref(0, key.parent_column), "not_in" if negated else "in", members)
    return CompoundPlan("existence", base, sql, {"asked": base.with_(filters=(membership,))})


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
    key = choose(rng, db.down_keys)
    # With a NULL among the members, NOT IN is true for no row at all.
    has_nulls = db.statistics(key.table, key.column).has_nulls
    filters = [Filter(Ref(0, key.column), "not_null")] if has_nulls and op == "not_in" else []
    item = db.filter(rng, key.table)
    if item and (rng.random() < 0.4 or op == "in"):
        filters.append(item)
    inner = QueryPlan.of(key.table, key.column, filters=tuple(filters))
    plan = QueryPlan.of(key.parent, filters=(Filter(Ref(0, key.parent_column), op, inner),))
    return plan.showing(*db.outputs(rng, key.parent, 2)) if rng.random() < 0.7 else plan.with_(outputs=(COUNT,))


def above_own_group(db: SpeakableDatabase, rng: random.Random) -> CompoundPlan:
    """Rows above the average of their own group."""
    table = rng.choice(db.tables)
    label = db.label(table)
    pairs = [(g, n) for g in db.categories(table) for n in db.quantities(table) if g not in (n, label)]
    group, key = choose(rng, pairs)
    outputs = (label,) if rng.random() < 0.6 or key == label else (label, key)
    return above_own_group_plan(QueryPlan.of(table, *outputs), Ref(0, key), Ref(0, group), rng.random() < 0.7)


def existence(db: SpeakableDatabase, rng: random.Random) -> CompoundPlan:
    """Parents with or without some child, by EXISTS."""
    key = choose(rng, db.down_keys)
    negated = rng.random() < 0.6
    item = db.filter(rng, key.table) if not negated or rng.random() < 0.5 else None
    return existence_plan(QueryPlan.of(key.parent, *db.outputs(rng, key.parent, 2)), key, item, negated)
