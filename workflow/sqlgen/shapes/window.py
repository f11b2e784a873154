"""Shapes with window functions: the best of each group, ranks, distance from the group's average."""

import random

from sqlgen.query_plan import QueryPlan, Ref
from sqlgen.speakable import NoPlan, SpeakableDatabase, require
from sqlgen.sql_text import Block, sort_key
from sqlgen.wording import CompoundPlan


def best_of_group_plan(base: QueryPlan, group: Ref, key: Ref, best: int, descending: bool) -> CompoundPlan:
    """For each value of `group`, the rows ranked 1 to `best` by `key`; rows that tie share a rank."""
    block, many = Block(base), best > 1
    shown = ", ".join(map(block.output, [group, *base.outputs]))
    ranked = block.select([shown, f"{_rank(block, group, key, descending)} AS place"])
    place = f"place {'<=' if many else '='} {best}"
    sql = f"SELECT {shown} FROM ({ranked}) AS ranked WHERE {place}"
    if base.filters:
        sql = f"WITH ranked AS ({ranked}) SELECT {shown} FROM ranked WHERE {place}"
    parts = {
        "group": group,
        "key": key,
        "best": best,
        "extreme": ("highest", "largest") if descending else ("lowest", "smallest"),
        "rows": "{best} {subjects}" if many else "{subject}",
        "ties": ("(with all ties)", "(ties included)", "(include ties)"),
        "chosen": base,
        "among": " among {chosen}" if base.filters else "",
        "shown": "{outputs}" if many else "{output}",
    }
    return CompoundPlan("best_of_group", base, sql, parts)


def ranking_plan(base: QueryPlan, key: Ref, group: Ref | None, descending: bool) -> CompoundPlan:
    """All rows with their rank by `key`, overall or within `group`."""
    block = Block(base)
    sql = block.select([*map(block.output, base.outputs), _rank(block, group, key, descending)])
    words = {"within": " within its {group}" if group else "", "first": "highest" if descending else "lowest"}
    return CompoundPlan("ranking", base, sql, {"key": key, "group": group} | words)


def distance_plan(base: QueryPlan, key: Ref, group: Ref) -> CompoundPlan:
    """How far each row's `key` is from the average of its `group`."""
    block = Block(base)
    column = block.column(key)
    difference = f"{column} - AVG({column}) OVER (PARTITION BY {block.column(group)})"
    sql = block.select([*map(block.output, base.outputs), difference])
    return CompoundPlan("distance", base, sql, {"key": key, "group": group})


def _rank(block: Block, group: Ref | None, key: Ref, descending: bool) -> str:
    """`RANK() OVER (PARTITION BY group ORDER BY key)`."""
    partition = f"PARTITION BY {block.column(group)} " if group else ""
    return f"RANK() OVER ({partition}ORDER BY {sort_key(block.column(key), descending)})"


def best_of_group(db: SpeakableDatabase, rng: random.Random, chosen: bool = False) -> CompoundPlan:
    """The top rows of each group; if `chosen`, among those that pass a filter."""
    table, group, key = _grouped_number(db, rng)
    label = db.label(table)
    if group.column == label or "place" in (group.column.lower(), label.lower()):  # the rank's own name is "place"
        raise NoPlan
    best, descending = rng.choice([1, 1, 2, 3]), rng.random() < 0.7
    avoid = [group.column, key.column]
    filters = (require(db.filter(rng, table, avoid=avoid, shared=True)),) if chosen else ()
    return best_of_group_plan(QueryPlan.of(table, label, filters=filters), group, key, best, descending)


def best_of_chosen(db: SpeakableDatabase, rng: random.Random) -> CompoundPlan:
    """The top rows of each group among those that pass a filter."""
    return best_of_group(db, rng, chosen=True)


def ranking(db: SpeakableDatabase, rng: random.Random) -> CompoundPlan:
    """Ranks over a table."""
    table = rng.choice(db.tables)
    label = db.label(table)
    numbers = require(db.complete(table, db.numbers(table)))  # RANK also gives NULLs a rank, which nobody asks for
    groups = [c for c in db.complete(table, db.categories(table)) if c != label]
    group = Ref(0, rng.choice(groups)) if groups and rng.random() < 0.5 else None
    key = rng.choice(numbers)
    return ranking_plan(QueryPlan.of(table, label), Ref(0, key), group, db.descending(rng, table, key, 0.75))


def distance(db: SpeakableDatabase, rng: random.Random) -> CompoundPlan:
    """Distance from the group's average."""
    table, group, key = _grouped_number(db, rng)
    if group.column == db.label(table):
        raise NoPlan
    return distance_plan(QueryPlan.of(table, db.label(table)), key, group)


def _grouped_number(db: SpeakableDatabase, rng: random.Random) -> tuple[str, Ref, Ref]:
    """A table with a column to group by and a number, both without NULLs: NULL is no group and never the best."""
    table = rng.choice(db.tables)
    groups, numbers = (require(db.complete(table, kind)) for kind in (db.categories(table), db.quantities(table)))
    group, key = rng.choice(groups), rng.choice(numbers)
    if group == key:
        raise NoPlan
    return table, Ref(0, group), Ref(0, key)
