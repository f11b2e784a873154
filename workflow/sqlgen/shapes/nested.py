"""Shapes with a subquery in the condition: against an aggregate, membership, absence."""

import random

from sqlgen.query_plan import Filter, Measure, Query, Ref
from sqlgen.shapes.single import COUNT
from sqlgen.world import World


def above_average(world: World, rng: random.Random) -> Query | None:
    """Rows above or below the average of a column."""
    table = rng.choice(world.tables)
    numbers = world.quantities(table)
    if not numbers:
        return None
    column = rng.choice(numbers)
    op = rng.choice([">", ">", "<"])
    inner = Query((table,), (Measure("avg", Ref(0, column)),))
    outputs = tuple(Ref(0, c) for c in world.outputs(rng, table, 2, column))
    return Query((table,), outputs if rng.random() < 0.75 else (COUNT,), filters=(Filter(Ref(0, column), op, inner),))


def extreme(world: World, rng: random.Random) -> Query | None:
    """All rows that attain the maximum or minimum of a column: ties included."""
    table = rng.choice(world.tables)
    numbers = world.quantities(table)
    if not numbers:
        return None
    column = rng.choice(numbers)
    inner = Query((table,), (Measure(rng.choice(["max", "max", "min"]), Ref(0, column)),))
    outputs = tuple(Ref(0, c) for c in world.outputs(rng, table, 2, column))
    return Query((table,), outputs, filters=(Filter(Ref(0, column), "=", inner),))


def without_children(world: World, rng: random.Random) -> Query | None:
    """Parents that no child (with a property) refers to."""
    return _membership(world, rng, "not_in")


def with_children(world: World, rng: random.Random) -> Query | None:
    """Parents that some child refers to, by IN."""
    return _membership(world, rng, "in")


def _membership(world: World, rng: random.Random, op: str) -> Query | None:
    keys = [k for table in world.tables for k in world.down_keys[table]]
    if not keys:
        return None
    key = rng.choice(keys)
    # A NULL among the members would make NOT IN true for no row at all.
    has_nulls = world.statistics(key.table, key.column).has_nulls
    filters = [Filter(Ref(0, key.column), "not_null")] if has_nulls and op == "not_in" else []
    item = world.filter(rng, key.table)
    if item and (rng.random() < 0.4 or op == "in"):
        filters.append(item)
    inner = Query((key.table,), (Ref(0, key.column),), filters=tuple(filters))
    outputs = tuple(Ref(0, c) for c in world.outputs(rng, key.parent, 2)) if rng.random() < 0.7 else (COUNT,)
    return Query((key.parent,), outputs, filters=(Filter(Ref(0, key.parent_column), op, inner),))
