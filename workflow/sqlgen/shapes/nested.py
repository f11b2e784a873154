"""Shapes of several SELECT blocks: subqueries in conditions, and INTERSECT, EXCEPT and UNION."""

import random
import re
from collections.abc import Callable
from functools import partial

from sqlgen.english import Speaker
from sqlgen.query_plan import COUNT, Filter, Measure, QueryPlan, Ref
from sqlgen.shapes.joined import chain, down, up
from sqlgen.speakable import NoPlan, SpeakableDatabase, choose, require
from sqlgen.sql_text import Block
from sqlgen.wording import CompoundPlan, Part
from sqlr1.database.schema import ForeignKey

_Blocks = tuple[QueryPlan, str, QueryPlan]  # two blocks and the operator between them


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
    plan = _compared(db, rng, table, column, rng.choice([">", ">", "<"]), "avg")
    return plan if rng.random() < 0.75 else plan.with_(outputs=(COUNT,))


def extreme(db: SpeakableDatabase, rng: random.Random) -> QueryPlan:
    """All rows that attain the maximum or minimum of a column, ties included."""
    table = rng.choice(db.tables)
    return _compared(db, rng, table, choose(rng, db.quantities(table)), "=", rng.choice(["max", "max", "min"]))


def _compared(db: SpeakableDatabase, rng: random.Random, table: str, column: str, op: str, function: str) -> QueryPlan:
    """Rows whose value of a column is compared with an aggregate of that column."""
    ref = Ref(0, column)
    inner = QueryPlan((table,), (Measure(function, ref),))
    return QueryPlan.of(table, *db.outputs(rng, table, 2, column), filters=(Filter(ref, op, inner),))


def with_children(db: SpeakableDatabase, rng: random.Random) -> QueryPlan:
    """Parents that some child refers to, by IN."""
    return without_children(db, rng, "in")


def without_children(db: SpeakableDatabase, rng: random.Random, op: str = "not_in") -> QueryPlan:
    """Parents that no child (with a property) refers to; with `op` "in", those that some child refers to."""
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
    table = rng.choice(db.tables)
    label = db.label(table)
    pairs = [(g, n) for g in db.categories(table) for n in db.quantities(table) if g not in (n, label)]
    group, key = choose(rng, pairs)
    outputs = (label,) if rng.random() < 0.6 or key == label else (label, key)
    return above_own_group_plan(QueryPlan.of(table, *outputs), Ref(0, key), Ref(0, group), rng.random() < 0.7)


def existence(db: SpeakableDatabase, rng: random.Random) -> CompoundPlan:
    key = choose(rng, db.down_keys)
    negated = rng.random() < 0.6
    item = db.filter(rng, key.table) if not negated or rng.random() < 0.5 else None
    return existence_plan(QueryPlan.of(key.parent, *db.outputs(rng, key.parent, 2)), key, item, negated)


def set_plan(shown: str, first: QueryPlan, *rest: str | QueryPlan) -> CompoundPlan:
    """Two or three SELECT blocks combined from left to right; `rest` is an operator, a block, and so on.

    `shown` is what they show: values, entities (parents), or tables (a noun that two tables share). Entities, and three
    blocks, are combined by intersect and except only.
    """
    sql = " ".join(part.upper() if isinstance(part, str) else Block(part).select() for part in (first, *rest))
    parts: dict[str, Part] = dict(zip(("first", "second", "third"), (first, *rest[1::2]), strict=False))
    if shown == "entities":  # their noun is said once
        once = parts if len(parts) == 3 or rest[0] == "intersect" else ["second"]
        said = partial if len(once) == 1 else _that
        parts |= {name: said(Speaker.restriction, plan=parts[name]) for name in once}
    if len(parts) == 3:
        parts["both"] = ("both {first} and {second}", "{first} and also {second}")
    return CompoundPlan(" ".join((shown, *rest[::2])), first, sql, parts)


def _that(restriction: Callable[..., str], plan: QueryPlan) -> Callable[[Speaker], str]:
    """What follows "that": `have a song`, for both "that have a song" and "with a song"."""
    return lambda speaker: re.sub("^(that have|with) ", "have ", restriction(speaker, plan=plan))


def set_values(db: SpeakableDatabase, rng: random.Random) -> CompoundPlan:
    """Values of a column that rows of one kind have, and rows of another kind do too, do not, or may."""
    return set_plan("values", *_values(db, rng))


def _values(db: SpeakableDatabase, rng: random.Random) -> _Blocks:
    table = rng.choice(db.tables)
    # Set operations treat NULLs as equal, but people do not say that two rows share a missing value.
    key = choose(rng, [c for c in db.complete(table, db.repeated(table)) if db.statistics(table, c).distinct > 1])
    first, second = (QueryPlan.of(table, key, filters=(item,)) for item in _two_filters(db, rng, table, 0, key))
    operator = _operator(rng)
    if operator == "union" and db.statistics(table, first.filters[0].ref.column).distinct == 2:
        raise NoPlan  # every row meets one of two conditions on the same column
    if operator == "except" and rng.random() < 0.3:
        first = first.with_(filters=())
    return first, operator, second


def _operator(rng: random.Random) -> str:
    return rng.choices(["intersect", "except", "union"], [5, 5, 2])[0]


def _two_filters(
    db: SpeakableDatabase, rng: random.Random, table: str, occurrence: int, avoid: str
) -> tuple[Filter, Filter]:
    """Two conditions that no single row meets (two values of a column, or above and below); else of two columns."""
    first = require(db.filter(rng, table, occurrence, [avoid]))
    statistics = db.statistics(table, first.ref.column)
    if first.op in (">", ">=") and statistics.kind == "number":
        low = statistics.quantiles[1]
        if low >= first.value:
            raise NoPlan
        return first, Filter(first.ref, "<", low)
    if first.op == "=":
        return first, Filter(first.ref, "=", choose(rng, [v for v, _ in statistics.values[:12] if v != first.value]))
    return first, require(db.filter(rng, table, occurrence, [avoid, first.ref.column]))


def set_entities(db: SpeakableDatabase, rng: random.Random) -> CompoundPlan:
    """Parents that have one kind of child and also (not) another kind, directly or through a link table.

    Only parents with unique labels: sets of labels would else mix up different parents of one name.
    """
    return set_plan("entities", *_entities(db, rng))


def _entities(db: SpeakableDatabase, rng: random.Random) -> _Blocks:
    named = [t for t in db.tables if db.statistics(t, db.label(t)).unique]
    paths = [(k.parent, down(k)) for k in db.down_keys if k.parent in named]
    paths += [(a.parent, down(a), up(b, 1)) for a, b in db.links if a.parent in named]
    plan = chain(*choose(rng, paths))
    plan, last = plan.showing(db.label(plan.tables[0])), len(plan.tables) - 1
    first, second = (plan.with_(filters=(item,)) for item in _two_filters(db, rng, plan.tables[last], last, ""))
    operator = rng.choice(["intersect", "intersect", "except"])
    if operator == "except" and rng.random() < 0.5:
        first = QueryPlan(plan.tables[:1], plan.outputs)
    return first, operator, second


def set_tables(db: SpeakableDatabase, rng: random.Random) -> CompoundPlan:
    """A noun that two tables share, such as the city of customers and of branches."""
    texts = [(t, c) for t in db.tables for c in db.complete(t, db.of_kind(t, "text"))]
    pairs = [(a, b) for a in texts for b in texts if a[0] != b[0] and db.names.columns[a] == db.names.columns[b]]
    # The titles of albums and those of employees have nothing in common.
    seen = {text: {v for v, _ in db.statistics(*text).values} for text in texts}
    left, right = choose(rng, [(a, b) for a, b in pairs if seen[a] & seen[b]])
    return set_plan("tables", QueryPlan.of(*left), _operator(rng), QueryPlan.of(*right))


def three_sets(db: SpeakableDatabase, rng: random.Random) -> CompoundPlan:
    """Values, or parents, that have one kind of row, and have or do not have two others."""
    shown, draw = rng.choice([("values", _values), ("entities", _entities)])
    first, operator, second = draw(db, rng)
    if operator == "union" or not first.filters:
        raise NoPlan
    last, used = len(second.tables) - 1, [f.ref.column for f in (*first.filters, *second.filters)]
    avoid = [o.column for o in first.outputs if o.occurrence == last]
    item = require(db.filter(rng, second.tables[last], last, [*used, *avoid]))
    then = "except" if operator == "except" else rng.choice(["except", "except", "intersect"])
    return set_plan(shown, first, operator, second, then, second.with_(filters=(item,)))
