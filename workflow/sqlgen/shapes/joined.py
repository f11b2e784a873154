"""Shapes over two or three tables: look-ups along keys, children by parent, many-to-many links, self and left joins.

A child is a row that holds a foreign key, its parent the row that the key refers to.
"""

import random

from sqlgen.query_plan import COUNT, Filter, Join, Measure, QueryPlan, Ref, SortKey
from sqlgen.shapes.single import group_measure
from sqlgen.speakable import NoPlan, SpeakableDatabase, choose, require
from sqlgen.sql_text import Block, sort_key
from sqlgen.wording import CompoundPlan
from sqlr1.database.schema import ForeignKey


def up(key: ForeignKey, child: int = 0) -> tuple[Join, str]:
    """A step from the child (occurrence `child`) to its parent."""
    return Join(Ref(child, key.column), Ref(-1, key.parent_column), up=True), key.parent


def down(key: ForeignKey) -> tuple[Join, str]:
    """A step from the parent (occurrence 0) to its children."""
    return Join(Ref(0, key.parent_column), Ref(-1, key.column), up=False), key.table


def chain(root: str, *steps: tuple[Join, str]) -> QueryPlan:
    """The tables and joins of a path, without outputs; the table of each step gets the next occurrence."""
    joins = [Join(j.left, Ref(i, j.right.column), j.up) for i, (j, _) in enumerate(steps, 1)]
    return QueryPlan((root, *(table for _, table in steps)), (), tuple(joins))


def pairs_plan(base: QueryPlan, group: Ref, identity: Ref) -> CompoundPlan:
    """All pairs of different rows that share their `group`, each pair once."""
    first, second = Block(base, 1), Block(base, 2)
    shown = first.select([first.output(base.outputs[0]), second.output(base.outputs[0])])
    same = f"{first.column(group)} = {second.column(group)}"
    once = f"{first.column(identity)} < {second.column(identity)}"
    sql = f"{shown} JOIN {second.source()} ON {same} AND {once}"
    return CompoundPlan("pairs", base, sql, {"group": group, "identity": identity})


def count_with_zero_plan(base: QueryPlan, key: ForeignKey, descending: bool | None) -> CompoundPlan:
    """The number of children of every parent, including parents without any; unsorted if `descending` is None."""
    children = QueryPlan.of(key.table)
    parent, child = Block(base, 1), Block(children, 2)
    identity, link = parent.column(Ref(0, key.parent_column)), child.column(Ref(0, key.column))
    shown = parent.select([*map(parent.output, base.outputs), f"COUNT({link})"])
    order = "" if descending is None else f" ORDER BY {sort_key(f'COUNT({link})', descending)}"
    sql = f"{shown} LEFT JOIN {child.source()} ON {identity} = {link} GROUP BY {identity}{order}"
    sorted_by = {None: "", True: ", highest number first", False: ", lowest number first"}[descending]
    return CompoundPlan("count_with_zero", base, sql, {"children": children, "order": sorted_by})


def pairs(db: SpeakableDatabase, rng: random.Random) -> CompoundPlan:
    """Pairs of rows with the same value, in tables of at most 60 rows."""
    found = []
    for table in db.tables:
        key = db.profile.schema.table(table).primary_key
        if len(key) == 1 and db.profile.rows[table] <= 60:
            found += [(table, group, key[0]) for group in db.categories(table) if group != db.label(table)]
    table, group, identity = choose(rng, found)
    return pairs_plan(QueryPlan.of(table, db.label(table)), Ref(0, group), Ref(0, identity))


def count_with_zero(db: SpeakableDatabase, rng: random.Random) -> CompoundPlan:
    key = choose(rng, db.down_keys)
    descending = rng.choice([None, None, True, False])
    return count_with_zero_plan(QueryPlan.of(key.parent, db.label(key.parent)), key, descending)


def parent_lookup(db: SpeakableDatabase, rng: random.Random) -> QueryPlan:
    """Rows with columns of their parents: the title of each song and the name of its singer."""
    key = choose(rng, db.all_up_keys)
    plan = chain(key.table, up(key))
    outputs = [Ref(0, c) for c in db.outputs(rng, key.table, 2)]
    filters = []
    roll = rng.random()
    if roll < 0.5:
        outputs.append(Ref(1, db.outputs(rng, key.parent, 1)[0]))
    if roll > 0.35:
        side = rng.choice([0, 1, 1])
        filters = [db.filter(rng, plan.tables[side], side, [o.column for o in outputs if o.occurrence == side])]
        if rng.random() < 0.2:
            filters.append(db.filter(rng, plan.tables[1 - side], 1 - side, [o.column for o in outputs]))
    filters = [f for f in filters if f]
    if all(part.occurrence == 0 for part in [*outputs, *(f.ref for f in filters)]):
        raise NoPlan  # the query would not need the join
    return plan.with_(outputs=tuple(outputs), filters=tuple(filters))


def parent_superlative(db: SpeakableDatabase, rng: random.Random) -> QueryPlan:
    """The parent of the extreme row: the name of the singer of the longest song."""
    # If a row had no parent, the join could leave out the extreme row.
    key = choose(rng, [k for k in db.all_up_keys if db.numbers(k.table) and not db.names.drops(k.table, k.column)])
    column = rng.choice(db.numbers(key.table))
    order = SortKey(Ref(0, column), db.descending(rng, key.table, column, 0.65))
    outputs = (Ref(1, db.outputs(rng, key.parent, 1)[0]),)
    if rng.random() < 0.3:
        outputs = (Ref(0, db.label(key.table)), *outputs)
    return chain(key.table, up(key)).with_(outputs=outputs, order=(order,), limit=1)


def parent_aggregate(db: SpeakableDatabase, rng: random.Random) -> QueryPlan:
    """Children counted or aggregated, filtered by a column of their parents."""
    key = choose(rng, db.all_up_keys)
    item = require(db.filter(rng, key.parent, 1))
    numbers = db.quantities(key.table)
    measure = COUNT
    if numbers and rng.random() < 0.5:
        measure = Measure(rng.choice(["avg", "sum", "max", "min"]), Ref(0, rng.choice(numbers)))
    return chain(key.table, up(key)).with_(outputs=(measure,), filters=(item,))


def having_child(db: SpeakableDatabase, rng: random.Random) -> QueryPlan:
    """Parents that have some child with a property."""
    key = choose(rng, db.down_keys)
    return _with_some(db, rng, chain(key.parent, down(key)), key.parent_column, 0.25)


def _with_some(db: SpeakableDatabase, rng: random.Random, plan: QueryPlan, identity: str, counted: float) -> QueryPlan:
    """Subjects with some row of the last table that has a property: shown or (in a share of `counted`) counted."""
    last = len(plan.tables) - 1
    plan = plan.with_(filters=(require(db.filter(rng, plan.tables[last], last)),))
    if rng.random() < counted:
        return plan.with_(outputs=(Measure("count", Ref(0, identity), True),))
    return plan.showing(*db.outputs(rng, plan.tables[0], 2)).with_(distinct=True)


def children_by_parent(db: SpeakableDatabase, rng: random.Random) -> QueryPlan:
    """Base of the grouped shapes: children joined to their parent, grouped by the parent's key."""
    key = choose(rng, db.lone_keys)
    label = Ref(1, db.label(key.parent))
    return chain(key.table, up(key)).with_(outputs=(label,), group=(Ref(1, key.parent_column),))


def children_group(db: SpeakableDatabase, rng: random.Random) -> QueryPlan:
    """For each parent, the number (or another measure) of its children."""
    base = children_by_parent(db, rng)
    measure = _measure(db, rng, base)
    order = (SortKey(measure, rng.random() < 0.7),) if rng.random() < 0.15 else ()
    return base.with_(outputs=(*base.outputs, measure), order=order)


def _measure(db: SpeakableDatabase, rng: random.Random, plan: QueryPlan) -> Measure:
    return group_measure(db, rng, plan, "avg sum", 0.6)


def children_having(db: SpeakableDatabase, rng: random.Random) -> QueryPlan:
    """Parents with at least, or exactly, k children: "fewer than k" would also be true of parents without any."""
    base = children_by_parent(db, rng)
    outputs = base.outputs if rng.random() < 0.7 else (*base.outputs, COUNT)
    op, number = ">", 1
    if rng.random() >= 0.15:
        op, number = rng.choice([">", ">=", ">=", ">=", "="]), rng.choice([2, 2, 2, 3, 3, 4])
    return base.with_(outputs=outputs, having=(Filter(COUNT, op, number),))


def children_top(db: SpeakableDatabase, rng: random.Random) -> QueryPlan:
    """The parent with the most children, or the highest measure over them.

    The lowest is asked for averages only: parents without children have the lowest count and the lowest sum.
    """
    base = children_by_parent(db, rng)
    measure = _measure(db, rng, base)
    outputs: tuple[Ref | Measure, ...] = tuple(Ref(1, c) for c in db.outputs(rng, base.tables[1], 2))
    if rng.random() < 0.25:
        outputs = (*outputs, measure)
    limit = rng.choices([1, 3], [9, 1])[0]
    descending = measure.function != "avg" or db.descending(rng, base.tables[0], measure.ref.column, 0.8)
    return base.with_(outputs=outputs, order=(SortKey(measure, descending),), limit=limit)


def linked(db: SpeakableDatabase, rng: random.Random) -> QueryPlan:
    """Through a many-to-many link: the names of students with a pet whose type is dog; or both ends listed."""
    first, second = choose(rng, db.links)
    if rng.random() < 0.3:
        outputs = (Ref(1, db.label(first.parent)), Ref(2, db.label(second.parent)))
        return chain(first.table, up(first), up(second)).with_(outputs=outputs)
    return _with_some(db, rng, chain(first.parent, down(first), up(second, 1)), first.parent_column, 0.3)


def hops(db: SpeakableDatabase, rng: random.Random) -> QueryPlan:
    """Two keys upwards: songs by the country of their singer's label; listed, counted or grouped."""
    first, second = choose(rng, db.hops)
    plan = chain(first.table, up(first), up(second, 1))
    roll = rng.random()
    if roll < 0.25:
        label, measure = Ref(2, db.label(second.parent)), _measure(db, rng, plan)
        base = plan.with_(outputs=(label, measure), group=(Ref(2, second.parent_column),))
        return base if rng.random() < 0.5 else base.with_(outputs=(label,), order=(SortKey(measure, True),), limit=1)
    plan = plan.with_(filters=(require(db.filter(rng, second.parent, 2)),))
    if roll < 0.5:
        return plan.with_(outputs=(_measure(db, rng, plan),))
    return plan.showing(*db.outputs(rng, first.table, 2))
