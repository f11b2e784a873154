"""Shapes over one table: lists, counts, aggregates, superlatives, groups."""

import random

from sqlgen.query_plan import AGGREGATES, Filter, Having, Measure, Order, Query, Ref
from sqlgen.world import World

COUNT = Measure("count")


def _filters(
    world: World,
    rng: random.Random,
    table: str,
    weights: tuple[float, ...],
    avoid: tuple[str, ...] = (),
    shared: bool = False,
) -> tuple[Filter, ...]:
    """As many filters on different columns as drawn by `weights` (for 0, 1, 2)."""
    found: list[Filter] = []
    for _ in range(rng.choices(range(len(weights)), weights)[0]):
        item = world.filter(rng, table, avoid=[*avoid, *(f.ref.column for f in found)], shared=shared)
        if item:
            found.append(item)
    return tuple(found)


def count(world: World, rng: random.Random) -> Query:
    """How many rows, with up to two filters."""
    table = rng.choice(world.tables)
    return Query((table,), (COUNT,), filters=_filters(world, rng, table, (0.4, 0.45, 0.15)))


def count_distinct(world: World, rng: random.Random) -> Query | None:
    """How many different values of a column."""
    table = rng.choice(world.tables)
    columns = [c for c in world.speakable(table) if not world.statistics(table, c).unique]
    if not columns:
        return None
    column = rng.choice(columns)
    filters = _filters(world, rng, table, (0.8, 0.2), (column,))
    return Query((table,), (Measure("count", Ref(0, column), True),), filters=filters)


def listing(world: World, rng: random.Random) -> Query:
    """Columns of the rows that pass filters, sometimes sorted."""
    table = rng.choice(world.tables)
    columns = world.outputs(rng, table)
    filters = _filters(world, rng, table, (0.3, 0.5, 0.2), tuple(columns[:1]))
    query = Query((table,), tuple(Ref(0, c) for c in columns), filters=filters, any_of=rng.random() < 0.25)
    return _sorted(world, rng, query) if rng.random() < 0.4 else query


def _sorted(world: World, rng: random.Random, query: Query) -> Query:
    table = query.tables[0]
    keys = [c for c in world.speakable(table) if world.statistics(table, c).distinct >= 3]
    filtered = {f.ref.column for f in query.filters if f.op == "="}
    keys = [c for c in keys if c not in filtered]
    if not keys:
        return query
    first = rng.choice(keys)
    order = [Order(Ref(0, first), rng.random() < 0.5)]
    others = [c for c in keys if c != first]
    if others and not world.statistics(table, first).unique and rng.random() < 0.4:
        order.append(Order(Ref(0, world.label(table) if world.label(table) in others else rng.choice(others))))
    return query.with_(order=tuple(order))


def distinct_values(world: World, rng: random.Random) -> Query | None:
    """The different values of one or two columns."""
    table = rng.choice(world.tables)
    columns = [c for c in world.speakable(table) if not world.statistics(table, c).unique]
    if not columns:
        return None
    chosen = rng.sample(columns, min(len(columns), rng.choices([1, 2], [5, 1])[0]))
    filters = _filters(world, rng, table, (0.5, 0.45, 0.05), tuple(chosen))
    return Query((table,), tuple(Ref(0, c) for c in chosen), filters=filters, distinct=True)


def aggregate(world: World, rng: random.Random) -> Query | None:
    """One to three aggregates of number columns."""
    table = rng.choice(world.tables)
    numbers = world.quantities(table)
    if not numbers:
        return None
    column = rng.choice(numbers)
    functions = rng.sample(AGGREGATES[1:], rng.choices([1, 2, 3], [6, 3, 1])[0])
    other = rng.choice(numbers) if rng.random() < 0.2 else column
    measures = tuple(Measure(f, Ref(0, other if i else column)) for i, f in enumerate(functions))
    return Query(
        (table,), measures, filters=_filters(world, rng, table, (0.45, 0.45, 0.1), (column, other), shared=True)
    )


def superlative(world: World, rng: random.Random) -> Query | None:
    """The row, or the k rows, with the highest or lowest value of a column."""
    table = rng.choice(world.tables)
    keys = world.numbers(table) + [c for c in world.of_kind(table, "date") if world.statistics(table, c).distinct >= 3]
    if not keys:
        return None
    key = rng.choice(keys)
    shown = world.outputs(rng, table, avoid=key)
    outputs = tuple(Ref(0, c) for c in shown)
    filters = _filters(world, rng, table, (0.7, 0.3), (key, *shown), shared=True)
    limit = rng.choices([1, 3, 5], [7, 2, 1])[0]
    order = Order(Ref(0, key), world.descending(rng, table, key, 0.65))
    return Query((table,), outputs, filters=filters, order=(order,), limit=limit)


def group(world: World, rng: random.Random) -> Query | None:
    """A measure for each value of a column."""
    start = _group_base(world, rng)
    if not start:
        return None
    query, key = start
    measures = [_group_measure(world, rng, query)]
    if rng.random() < 0.2:
        extra = _group_measure(world, rng, query)
        measures += [extra] if extra not in measures else []
    order = (Order(measures[0], rng.random() < 0.7),) if rng.random() < 0.2 else ()
    return query.with_(outputs=(key, *measures), order=order)


def group_having(world: World, rng: random.Random) -> Query | None:
    """The values of a column whose groups pass a condition."""
    start = _group_base(world, rng)
    if not start:
        return None
    query, key = start
    measure = COUNT if rng.random() < 0.75 else _group_measure(world, rng, query)
    having = having_condition(world, rng, query.tables[0], measure)
    outputs = (key,) if rng.random() < 0.7 else (key, measure)
    return query.with_(outputs=outputs, having=(having,))


def having_condition(world: World, rng: random.Random, table: str, measure: Measure) -> Having:
    """A condition on the group's count, or on its aggregate near the column's middle values."""
    if measure.function == "count":
        if rng.random() < 0.15:
            return Having(measure, ">", 1)
        op = rng.choice([">", ">", ">=", ">=", ">=", "<", "<=", "="])
        return Having(measure, op, rng.choice([2, 2, 2, 3, 3, 4, 5]))
    statistics = world.statistics(table, measure.ref.column)
    return Having(measure, rng.choice([">", ">", "<"]), statistics.quantiles[rng.choice([3, 4, 5])])


def group_top(world: World, rng: random.Random) -> Query | None:
    """The value, or the k values, with the most rows or the highest measure."""
    start = _group_base(world, rng)
    if not start:
        return None
    query, key = start
    measure = COUNT if rng.random() < 0.75 else _group_measure(world, rng, query)
    if measure.function in ("min", "max"):  # "the highest lowest price" is nothing that anybody asks
        measure = Measure("avg", measure.ref)
    outputs = (key,) if rng.random() < 0.7 else (key, measure)
    limit = rng.choices([1, 3], [9, 1])[0]
    column = measure.ref.column if measure.ref else key.column  # a group of NULLs alone has no average
    descending = world.descending(rng, query.tables[0], column, 0.75)
    return query.with_(outputs=outputs, order=(Order(measure, descending),), limit=limit)


def _group_base(world: World, rng: random.Random) -> tuple[Query, Ref] | None:
    table = rng.choice(world.tables)
    keys = world.complete(table, world.categories(table))
    if not keys:
        return None
    key = Ref(0, rng.choice(keys))
    filters = _filters(world, rng, table, (0.8, 0.2), (key.column,), shared=True)
    return Query((table,), (key,), filters=filters, group=(key,)), key


def _group_measure(world: World, rng: random.Random, query: Query) -> Measure:
    """The count, or a measure of a column that neither groups nor filters."""
    used = {key.column for key in query.group} | {item.ref.column for item in query.filters}
    numbers = [c for c in world.quantities(query.tables[0]) if c not in used]
    if not numbers or rng.random() < 0.45:
        return COUNT
    return Measure(rng.choice(["avg", "avg", "max", "min", "sum"]), Ref(0, rng.choice(numbers)))
