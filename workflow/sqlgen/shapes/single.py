"""Shapes over one table: lists, counts, aggregates, superlatives, groups."""

import random

from sqlgen.query_plan import AGGREGATES, COUNT, Filter, Measure, QueryPlan, Ref, SortKey
from sqlgen.speakable import SpeakableDatabase, choose, require


def _filters(
    db: SpeakableDatabase,
    rng: random.Random,
    table: str,
    weights: tuple[float, ...],
    avoid: tuple[str, ...] = (),
    shared: bool = False,
) -> tuple[Filter, ...]:
    """Filters on different columns; `weights` are those of having 0, 1, 2 of them."""
    found: list[Filter] = []
    for _ in range(rng.choices(range(len(weights)), weights)[0]):
        item = db.filter(rng, table, avoid=[*avoid, *(f.ref.column for f in found)], shared=shared)
        if item:
            found.append(item)
    return tuple(found)


def count(db: SpeakableDatabase, rng: random.Random) -> QueryPlan:
    """How many rows, with up to two filters."""
    table = rng.choice(db.tables)
    return QueryPlan((table,), (COUNT,), filters=_filters(db, rng, table, (0.4, 0.45, 0.15)))


def count_distinct(db: SpeakableDatabase, rng: random.Random) -> QueryPlan:
    """How many different values of a column."""
    table = rng.choice(db.tables)
    column = choose(rng, db.repeated(table))
    filters = _filters(db, rng, table, (0.8, 0.2), (column,))
    return QueryPlan((table,), (Measure("count", Ref(0, column), True),), filters=filters)


def listing(db: SpeakableDatabase, rng: random.Random) -> QueryPlan:
    """Columns of the rows that pass filters, sometimes sorted."""
    table = rng.choice(db.tables)
    columns = db.outputs(rng, table)
    filters = _filters(db, rng, table, (0.3, 0.5, 0.2), tuple(columns[:1]))
    plan = QueryPlan.of(table, *columns, filters=filters, any_of=rng.random() < 0.25)
    return _sorted(db, rng, plan) if rng.random() < 0.4 else plan


def _sorted(db: SpeakableDatabase, rng: random.Random, plan: QueryPlan) -> QueryPlan:
    table = plan.tables[0]
    fixed = {f.ref.column for f in plan.filters if f.op == "="}
    keys = [c for c in db.sortable(table) if c not in fixed]
    if not keys:
        return plan
    first = rng.choice(keys)
    order = [SortKey(Ref(0, first), rng.random() < 0.5)]
    others = [c for c in keys if c != first]
    if others and not db.statistics(table, first).unique and rng.random() < 0.4:
        order.append(SortKey(Ref(0, db.label(table) if db.label(table) in others else rng.choice(others))))
    return plan.with_(order=tuple(order))


def distinct_values(db: SpeakableDatabase, rng: random.Random) -> QueryPlan:
    """The different values of one or two columns."""
    table = rng.choice(db.tables)
    columns = require(db.repeated(table))
    chosen = rng.sample(columns, min(len(columns), rng.choices([1, 2], [5, 1])[0]))
    filters = _filters(db, rng, table, (0.5, 0.45, 0.05), tuple(chosen))
    return QueryPlan.of(table, *chosen, filters=filters, distinct=True)


def aggregate(db: SpeakableDatabase, rng: random.Random) -> QueryPlan:
    """One to three aggregates of number columns."""
    table = rng.choice(db.tables)
    numbers = db.quantities(table)
    column = choose(rng, numbers)
    functions = rng.sample(AGGREGATES, rng.choices([1, 2, 3], [6, 3, 1])[0])
    other = rng.choice(numbers) if rng.random() < 0.2 else column
    measures = tuple(Measure(f, Ref(0, other if i else column)) for i, f in enumerate(functions))
    filters = _filters(db, rng, table, (0.45, 0.45, 0.1), (column, other), shared=True)
    return QueryPlan((table,), measures, filters=filters)


def superlative(db: SpeakableDatabase, rng: random.Random) -> QueryPlan:
    """The row, or the k rows, with the highest or lowest value of a column."""
    table = rng.choice(db.tables)
    dates = [c for c in db.of_kind(table, "date") if db.statistics(table, c).distinct >= 3]
    key = choose(rng, db.numbers(table) + dates)
    shown = db.outputs(rng, table, avoid=key)
    filters = _filters(db, rng, table, (0.7, 0.3), (key, *shown), shared=True)
    limit = rng.choices([1, 3, 5], [7, 2, 1])[0]
    order = SortKey(Ref(0, key), db.descending(rng, table, key, 0.65))
    return QueryPlan.of(table, *shown, filters=filters, order=(order,), limit=limit)


def group(db: SpeakableDatabase, rng: random.Random) -> QueryPlan:
    """One or two measures for each value of a column."""
    plan = _groups(db, rng)
    measures = [group_measure(db, rng, plan)]
    if rng.random() < 0.2:
        extra = group_measure(db, rng, plan)
        measures += [extra] if extra not in measures else []
    order = (SortKey(measures[0], rng.random() < 0.7),) if rng.random() < 0.2 else ()
    return plan.with_(outputs=(*plan.group, *measures), order=order)


def group_having(db: SpeakableDatabase, rng: random.Random) -> QueryPlan:
    """The values of a column whose groups pass a condition."""
    plan = _groups(db, rng)
    measure = COUNT if rng.random() < 0.75 else group_measure(db, rng, plan)
    if measure.function != "count":
        quantiles = db.statistics(plan.tables[0], measure.ref.column).quantiles
        having = Filter(measure, rng.choice([">", ">", "<"]), quantiles[rng.choice([3, 4, 5])])
    elif rng.random() < 0.15:
        having = Filter(measure, ">", 1)
    else:
        op = rng.choice([">", ">", ">=", ">=", ">=", "<", "<=", "="])
        having = Filter(measure, op, rng.choice([2, 2, 2, 3, 3, 4, 5]))
    return plan.with_(outputs=plan.group if rng.random() < 0.7 else (*plan.group, measure), having=(having,))


def group_top(db: SpeakableDatabase, rng: random.Random) -> QueryPlan:
    """The value, or the k values, with the most rows or the highest measure."""
    plan = _groups(db, rng)
    measure = COUNT if rng.random() < 0.75 else group_measure(db, rng, plan)
    if measure.function in ("min", "max"):  # nobody asks for "the highest lowest price"
        measure = Measure("avg", measure.ref)
    outputs = plan.group if rng.random() < 0.7 else (*plan.group, measure)
    limit = rng.choices([1, 3], [9, 1])[0]
    column = measure.ref.column if measure.ref else plan.group[0].column  # the average of NULLs alone is NULL
    descending = db.descending(rng, plan.tables[0], column, 0.75)
    return plan.with_(outputs=outputs, order=(SortKey(measure, descending),), limit=limit)


def _groups(db: SpeakableDatabase, rng: random.Random) -> QueryPlan:
    """Rows grouped by a column, sometimes filtered; it has no outputs yet."""
    table = rng.choice(db.tables)
    key = choose(rng, db.complete(table, db.categories(table)))
    filters = _filters(db, rng, table, (0.8, 0.2), (key,), shared=True)
    return QueryPlan((table,), (), filters=filters, group=(Ref(0, key),))


def group_measure(
    db: SpeakableDatabase, rng: random.Random, plan: QueryPlan, names: str = "avg avg max min sum", counts: float = 0.45
) -> Measure:
    """The number of rows with probability `counts`, else one of the aggregates `names` of an unused number column."""
    numbers = unused(plan, db.quantities(plan.tables[0]))
    if not numbers or rng.random() < counts:
        return COUNT
    return Measure(rng.choice(names.split()), Ref(0, rng.choice(numbers)))


def unused(plan: QueryPlan, columns: list[str]) -> list[str]:
    """Those columns of the plan's first table that it neither groups nor filters by."""
    refs = (*plan.group, *(item.ref for item in plan.filters))
    used = {ref.column for ref in refs if ref.occurrence == 0}
    return [c for c in columns if c not in used]
