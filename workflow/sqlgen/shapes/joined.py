"""Shapes over two or three tables: look-ups along keys, children counted by parent, many-to-many links."""

import random

from sqlgen.query_plan import Having, Join, Measure, Order, Query, Ref
from sqlgen.shapes.single import COUNT
from sqlgen.world import World
from sqlr1.database import ForeignKey


def up(key: ForeignKey, child: int = 0) -> Join:
    """Join from the child (occurrence `child`) to its parent."""
    return Join(Ref(child, key.column), Ref(-1, key.parent_column), up=True)


def down(key: ForeignKey, parent: int = 0) -> Join:
    """Join from the parent (occurrence `parent`) to its children."""
    return Join(Ref(parent, key.parent_column), Ref(-1, key.column), up=False)


def chain(root: str, *steps: tuple[Join, str]) -> tuple[tuple[str, ...], tuple[Join, ...]]:
    """Tables and joins of a path; each step's new table gets the next occurrence."""
    joins = [Join(j.left, Ref(i, j.right.column), j.up) for i, (j, _) in enumerate(steps, 1)]
    return (root, *(table for _, table in steps)), tuple(joins)


def _all_up(world: World) -> list[ForeignKey]:
    return [key for table in world.tables for key in world.up_keys[table]] + world.self_keys


def parent_lookup(world: World, rng: random.Random) -> Query | None:
    """Rows with columns of what they refer to: the title of each song and the name of its singer."""
    keys = _all_up(world)
    if not keys:
        return None
    key = rng.choice(keys)
    tables, joins = chain(key.table, (up(key), key.parent))
    outputs = [Ref(0, c) for c in world.outputs(rng, key.table, 2)]
    filters = []
    roll = rng.random()
    if roll < 0.5:
        outputs.append(Ref(1, world.outputs(rng, key.parent, 1)[0]))
    if roll > 0.35:
        side = rng.choice([0, 1, 1])
        avoid = [o.column for o in outputs if o.occurrence == side]
        filters = [world.filter(rng, tables[side], side, avoid)]
        if rng.random() < 0.2:
            filters.append(world.filter(rng, tables[1 - side], 1 - side, [o.column for o in outputs]))
    filters = [f for f in filters if f]
    if all(part.occurrence == 0 for part in [*outputs, *(f.ref for f in filters)]):
        return None  # nothing would need the join
    return Query(tables, tuple(outputs), joins, tuple(filters))


def parent_superlative(world: World, rng: random.Random) -> Query | None:
    """What the extreme row refers to: the name of the singer of the longest song."""
    # Where a row refers to nothing, the join would leave out the extreme one.
    keys = [k for k in _all_up(world) if world.numbers(k.table) and world.complete(k.table, [k.column])]
    if not keys:
        return None
    key = rng.choice(keys)
    tables, joins = chain(key.table, (up(key), key.parent))
    column = rng.choice(world.numbers(key.table))
    order = Order(Ref(0, column), world.descending(rng, key.table, column, 0.65))
    outputs = (Ref(1, world.outputs(rng, key.parent, 1)[0]),)
    if rng.random() < 0.3:
        outputs = (Ref(0, world.label(key.table)), *outputs)
    return Query(tables, outputs, joins, order=(order,), limit=1)


def parent_aggregate(world: World, rng: random.Random) -> Query | None:
    """Children counted or aggregated, filtered by what they refer to."""
    keys = _all_up(world)
    if not keys:
        return None
    key = rng.choice(keys)
    tables, joins = chain(key.table, (up(key), key.parent))
    item = world.filter(rng, key.parent, 1)
    numbers = world.quantities(key.table)
    if not item:
        return None
    measure = COUNT
    if numbers and rng.random() < 0.5:
        measure = Measure(rng.choice(["avg", "sum", "max", "min"]), Ref(0, rng.choice(numbers)))
    return Query(tables, (measure,), joins, (item,))


def having_child(world: World, rng: random.Random) -> Query | None:
    """Parents that have some child with a property."""
    keys = [k for table in world.tables for k in world.down_keys[table]]
    if not keys:
        return None
    key = rng.choice(keys)
    tables, joins = chain(key.parent, (down(key), key.table))
    item = world.filter(rng, key.table, 1)
    if not item:
        return None
    if rng.random() < 0.25:
        return Query(tables, (Measure("count", Ref(0, key.parent_column), True),), joins, (item,))
    outputs = tuple(Ref(0, c) for c in world.outputs(rng, key.parent, 2))
    return Query(tables, outputs, joins, (item,), distinct=True)


def children_by_parent(world: World, rng: random.Random) -> Query | None:
    """Base of the grouped shapes: children joined to their parent, grouped by the parent's key."""
    keys = [k for table in world.tables for k in world.down_keys[table]]
    if not keys:
        return None
    key = rng.choice(keys)
    tables, joins = chain(key.table, (up(key), key.parent))
    label = Ref(1, world.label(key.parent))
    return Query(tables, (label,), joins, group=(Ref(1, key.parent_column),))


def _measure(world: World, rng: random.Random, table: str) -> Measure:
    numbers = world.quantities(table)
    if not numbers or rng.random() < 0.6:
        return COUNT
    return Measure(rng.choice(["avg", "sum"]), Ref(0, rng.choice(numbers)))


def children_group(world: World, rng: random.Random) -> Query | None:
    """For each parent, the number (or another measure) of its children."""
    base = children_by_parent(world, rng)
    if not base:
        return None
    measure = _measure(world, rng, base.tables[0])
    order = (Order(measure, rng.random() < 0.7),) if rng.random() < 0.15 else ()
    return base.with_(outputs=(*base.outputs, measure), order=order)


def children_having(world: World, rng: random.Random) -> Query | None:
    """Parents with at least, or exactly, so many children: "fewer than" would be true of those without any, too."""
    base = children_by_parent(world, rng)
    if not base:
        return None
    outputs = base.outputs if rng.random() < 0.7 else (*base.outputs, COUNT)
    having = (
        Having(COUNT, ">", 1)
        if rng.random() < 0.15
        else Having(COUNT, rng.choice([">", ">=", ">=", ">=", "="]), rng.choice([2, 2, 2, 3, 3, 4]))
    )
    return base.with_(outputs=outputs, having=(having,))


def children_top(world: World, rng: random.Random) -> Query | None:
    """The parent with the most children, or the highest measure over them.

    The lowest only of averages: the fewest children, and the least in total, have parents without any.
    """
    base = children_by_parent(world, rng)
    if not base:
        return None
    measure = _measure(world, rng, base.tables[0])
    parent = base.tables[1]
    outputs: tuple[Ref | Measure, ...] = tuple(Ref(1, c) for c in world.outputs(rng, parent, 2))
    if rng.random() < 0.25:
        outputs = (*outputs, measure)
    limit = rng.choices([1, 3], [9, 1])[0]
    descending = measure.function != "avg" or world.descending(rng, base.tables[0], measure.ref.column, 0.8)
    return base.with_(outputs=outputs, order=(Order(measure, descending),), limit=limit)


def linked(world: World, rng: random.Random) -> Query | None:
    """Through a many-to-many link: the names of students with a pet whose type is dog; or both ends listed."""
    if not world.links:
        return None
    first, second = rng.choice(world.links)
    if rng.random() < 0.3:
        tables, joins = chain(first.table, (up(first), first.parent), (up(second), second.parent))
        outputs = (Ref(1, world.label(first.parent)), Ref(2, world.label(second.parent)))
        return Query(tables, outputs, joins)
    tables, joins = chain(first.parent, (down(first), first.table), (up(second, 1), second.parent))
    item = world.filter(rng, second.parent, 2)
    if not item:
        return None
    if rng.random() < 0.3:
        return Query(tables, (Measure("count", Ref(0, first.parent_column), True),), joins, (item,))
    outputs = tuple(Ref(0, c) for c in world.outputs(rng, first.parent, 2))
    return Query(tables, outputs, joins, (item,), distinct=True)


def hops(world: World, rng: random.Random) -> Query | None:
    """Two keys upwards: songs by the country of their singer's label; listed, counted or grouped."""
    if not world.hops:
        return None
    first, second = rng.choice(world.hops)
    tables, joins = chain(first.table, (up(first), first.parent), (up(second, 1), second.parent))
    roll = rng.random()
    if roll < 0.25:
        label, measure = Ref(2, world.label(second.parent)), _measure(world, rng, first.table)
        base = Query(tables, (label, measure), joins, group=(Ref(2, second.parent_column),))
        return base if rng.random() < 0.5 else base.with_(outputs=(label,), order=(Order(measure, True),), limit=1)
    item = world.filter(rng, second.parent, 2)
    if not item:
        return None
    if roll < 0.5:
        return Query(tables, (_measure(world, rng, first.table),), joins, (item,))
    return Query(tables, tuple(Ref(0, c) for c in world.outputs(rng, first.table, 2)), joins, (item,))
