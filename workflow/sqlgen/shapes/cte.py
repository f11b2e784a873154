"""Shapes with common table expressions: counts compared, the most frequent values, everything below a row."""

import random

from sqlgen.english import slot
from sqlgen.query_plan import Filter, QueryPlan, Ref
from sqlgen.shapes.groups import TAKEN, labelled_groups
from sqlgen.speakable import NoPlan, SpeakableDatabase, choose, require
from sqlgen.sql_text import Block, literal
from sqlgen.wording import CompoundPlan
from sqlr1.database.schema import ForeignKey, identifier

_BOTH_NUMBERS = (", along with both numbers", ", with both counts")


def _counts(base: QueryPlan, *keys: Ref) -> str:
    """Rows counted by the keys, as `total`."""
    block = Block(base.with_(group=keys))
    return block.select([*map(block.column, keys), "COUNT(*) AS total"])


def two_counts_plan(base: QueryPlan, first: ForeignKey, second: ForeignKey, shows_counts: bool) -> CompoundPlan:
    """Parents with more rows in one child table than in another."""
    block = Block(base, 1)
    key = block.column(Ref(0, first.parent_column))
    owners = [(identifier(k.column), identifier(k.table)) for k in (first, second)]
    counts = [f"SELECT {c} AS owner, COUNT(*) AS total FROM {t} GROUP BY {c}" for c, t in owners]
    totals = ["T2.total", "T3.total"] if shows_counts else []
    sql = (
        f"WITH first_counts AS ({counts[0]}), second_counts AS ({counts[1]}) "
        f"{block.select([*map(block.output, base.outputs), *totals])} "
        f"JOIN first_counts AS T2 ON {key} = T2.owner JOIN second_counts AS T3 ON {key} = T3.owner "
        "WHERE T2.total > T3.total"
    )
    parts = {"first": QueryPlan.of(first.table), "second": QueryPlan.of(second.table)}
    return CompoundPlan("two_counts", base, sql, parts | {"also": _BOTH_NUMBERS if shows_counts else ""})


def two_kinds_plan(base: QueryPlan, group: Ref, other: Filter, shows_counts: bool) -> CompoundPlan:
    """Values of `group` with rows of two kinds, but more of the first.

    Rows of the first kind meet the filter of `base`, those of the second meet `other`.
    """
    base = base.with_(outputs=(group,))
    key, second = identifier(group.column), base.with_(filters=(other,))
    totals = ", T1.total, T2.total" if shows_counts else ""
    sql = (
        f"WITH first_kind AS ({_counts(base, group)}), second_kind AS ({_counts(second, group)}) "
        f"SELECT T1.{key}{totals} FROM first_kind AS T1 "
        f"JOIN second_kind AS T2 ON T1.{key} = T2.{key} WHERE T1.total > T2.total"
    )
    parts = {"first": base, "second": second, "also": _BOTH_NUMBERS if shows_counts else ""}
    return CompoundPlan("two_kinds", base, sql, parts)


def most_frequent_among_plan(base: QueryPlan, group: Ref) -> CompoundPlan:
    """Rows whose `group` is the value that occurs most often, or one of several such values."""
    key = Block(base).column(group)
    best = f"SELECT {key} FROM counts WHERE total = (SELECT top FROM best)"
    sql = (
        f"WITH counts AS ({_counts(base, group)}), best AS (SELECT MAX(total) AS top FROM counts) "
        f"{Block(base).select()} WHERE {key} IN ({best})"
    )
    return CompoundPlan("most_frequent_among", base, sql, {"group": group})


def most_frequent_in_plan(base: QueryPlan, group: Ref, key: Ref) -> CompoundPlan:
    """For each value of `group`, the value of `key` that most of its rows have; all such values if several tie."""
    columns = f"{identifier(group.column)}, {identifier(key.column)}, total"
    rank = f"RANK() OVER (PARTITION BY {identifier(group.column)} ORDER BY total DESC)"
    sql = (
        f"WITH counts AS ({_counts(base, group, key)}), ranked AS (SELECT {columns}, {rank} AS place FROM counts) "
        f"SELECT {columns} FROM ranked WHERE place = 1"
    )
    return CompoundPlan("most_frequent_in", base, sql, {"group": group, "key": key, "rows": base})


def descendants_plan(base: QueryPlan, key: ForeignKey, value: object) -> CompoundPlan:
    """Rows that lead, over `key` (of the table to itself), to the row named `value`, in any number of steps."""
    table, label = identifier(base.tables[0]), identifier(base.outputs[0].column)
    parent, own = identifier(key.column), identifier(key.parent_column)
    top = f"SELECT {own} FROM {table} WHERE {label} = {literal(value)}"
    direct = f"SELECT {own} FROM {table} WHERE {parent} IN ({top})"
    further = f"SELECT T1.{own} FROM {table} AS T1 JOIN below ON T1.{parent} = below.id"
    sql = (
        f"WITH RECURSIVE below(id) AS ({direct} UNION {further}) "
        f"SELECT {label} FROM {table} WHERE {own} IN (SELECT id FROM below)"
    )
    parts = {
        "role": lambda speaker: slot(speaker.names.role(key.table, key.column, key.parent)),
        "value": lambda speaker: speaker.value(value),
    }
    return CompoundPlan("descendants", base, sql, parts)


def two_counts(db: SpeakableDatabase, rng: random.Random) -> CompoundPlan:
    keys = {t: [k for k in db.down_keys if k.parent == t] for t in db.tables}
    parent = choose(rng, [t for t in db.tables if len({k.table for k in keys[t]}) >= 2])
    first, second = rng.sample(keys[parent], 2)
    if first.table == second.table or first.parent_column != second.parent_column:
        raise NoPlan
    return two_counts_plan(QueryPlan.of(parent, *db.outputs(rng, parent, 2)), first, second, rng.random() < 0.4)


def two_kinds(db: SpeakableDatabase, rng: random.Random) -> CompoundPlan:
    base = labelled_groups(db, rng)
    item, group = require(base.filters)[0], base.group[0]
    # With two thresholds on a column, one kind's rows would be among the other's, and one vague word would hide both.
    avoid = [group.column, *([item.ref.column] if item.op in (">", ">=", "<", "<=") else [])]
    other = require(db.filter(rng, base.tables[0], avoid=avoid, shared=True))
    if other == item:
        raise NoPlan
    return two_kinds_plan(base.with_(outputs=(), group=()), group, other, rng.random() < 0.4)


def most_frequent_among(db: SpeakableDatabase, rng: random.Random) -> CompoundPlan:
    table = rng.choice(db.tables)
    group = choose(rng, [c for c in db.categories(table) if c != db.label(table) and c.lower() not in TAKEN])
    return most_frequent_among_plan(QueryPlan.of(table, *db.outputs(rng, table, 2, avoid=group)), Ref(0, group))


def most_frequent_in(db: SpeakableDatabase, rng: random.Random) -> CompoundPlan:
    base = labelled_groups(db, rng)
    table = base.tables[0]
    used = {base.group[0].column, *(item.ref.column for item in base.filters)}
    keys = [c for c in db.complete(table, db.categories(table)) if c not in used and c.lower() not in TAKEN]
    return most_frequent_in_plan(base.with_(outputs=(), group=()), base.group[0], Ref(0, choose(rng, keys)))


def descendants(db: SpeakableDatabase, rng: random.Random) -> CompoundPlan:
    key = choose(rng, db.self_keys)
    label = db.label(key.table)
    value, _ = choose(rng, db.statistics(key.table, label).values)
    return descendants_plan(QueryPlan.of(key.table, label), key, value)
