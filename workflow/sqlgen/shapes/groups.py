"""Shapes that compare the rows of a group, or groups with each other: by window functions, or against the mean."""

import random
from functools import partial

from sqlgen.english import Speaker, slot
from sqlgen.query_plan import COUNT, Measure, QueryPlan, Ref
from sqlgen.shapes.joined import children_by_parent
from sqlgen.shapes.single import unused
from sqlgen.speakable import NoPlan, SpeakableDatabase, choose, require
from sqlgen.sql_text import Block, sort_key
from sqlgen.wording import CompoundPlan, Part
from sqlr1.database.schema import identifier

TAKEN = {"value", "total", "place", "mean"}  # names of the CTEs' own columns
_FIGURE = ("the {measured} of these {subjects}", "the {measured} of those {subjects}")


def _measured(base: QueryPlan, measure: Measure) -> tuple[str, str, dict[str, Part]]:
    """A CTE with one row per group of `base` and its `measure` as `value`, the label in SQL, and parts of phrases.

    A group is a value of a column, or the parent that the rows refer to; parents without rows are no groups. The only
    output of `base` is the label. {each} is "each country of singers", or "the name of each singer with any songs";
    {measured} is "number", or "average price".
    """
    block, label = Block(base), base.outputs[0]
    cte = f"per_group AS ({block.select([block.output(label), f'{block.output(measure)} AS value'])})"
    parts = {"rows": base, "label": label, "parent": lambda speaker: slot(speaker.subject(base, label.occurrence))}
    parts["each"] = "the {label} of each {parent} with any {rows}" if label.occurrence else "each {label} of {rows}"
    parts["measured"] = "number" if measure == COUNT else partial(Speaker.measure, plan=base, measure=measure)
    return cte, identifier(label.column), parts


def group_ranking_plan(base: QueryPlan, measure: Measure, descending: bool) -> CompoundPlan:
    """All groups with their measure and their rank by it."""
    cte, label, parts = _measured(base, measure)
    sql = f"WITH {cte} SELECT {label}, value, RANK() OVER (ORDER BY {sort_key('value', descending)}) FROM per_group"
    parts |= {"figure": _FIGURE, "first": "highest" if descending else "lowest"}
    return CompoundPlan("group_ranking", base, sql, parts)


def group_share_plan(base: QueryPlan, measure: Measure) -> CompoundPlan:
    """All groups with their percentage of the count, or sum, over all rows."""
    cte, label, parts = _measured(base, measure)
    sql = f"WITH {cte} SELECT {label}, 100.0 * value / SUM(value) OVER () FROM per_group"
    whole = "all these {subjects}" if measure == COUNT else "the {measured} of all these {subjects}"
    return CompoundPlan("group_share", base, sql, parts | {"whole": whole})


def group_above_plan(kind: str, base: QueryPlan, measure: Measure, above: bool, shows_measure: bool) -> CompoundPlan:
    """Groups whose measure is above (below) its mean over all groups.

    `kind`: group_above_mean, with the mean in a CTE of its own, or group_above_average, of all rows by a column.
    """
    cte, label, parts = _measured(base, measure)
    mean = "SELECT AVG(value) FROM per_group"
    if kind == "group_above_mean":
        parts |= {"mean": ("average", "mean"), "figure": _FIGURE}
        cte, mean = f"{cte}, average AS (SELECT AVG(value) AS mean FROM per_group)", "SELECT mean FROM average"
    else:
        parts["mean"] = ("the average over all", "the mean of that figure across all")
    shown, operator = f"{label}, value" if shows_measure else label, ">" if above else "<"
    parent = base.outputs[0].occurrence
    parts["groups"] = partial(Speaker.subjects, plan=base, occurrence=parent) if parent else "{outputs}"
    parts["relation"] = ("above", "greater than") if above else ("below", "less than")
    # Not "along with that figure", which could be taken for the mean.
    parts["also"] = (", along with the {measured} itself", ", with the {measured} itself") if shows_measure else ""
    sql = f"WITH {cte} SELECT {shown} FROM per_group WHERE value {operator} ({mean})"
    return CompoundPlan(kind, base, sql, parts)


def labelled_groups(
    db: SpeakableDatabase, rng: random.Random, by_parent: bool = False, filtered: bool = True
) -> QueryPlan:
    """Rows, mostly filtered, grouped by a column without NULLs or by their parents; the output is the group's label."""
    if by_parent:
        base = children_by_parent(db, rng)
        if base.outputs[0].column.lower() in TAKEN:
            raise NoPlan
    else:
        table = rng.choice(db.tables)
        key = choose(rng, [c for c in db.complete(table, db.categories(table)) if c.lower() not in TAKEN])
        base = QueryPlan.of(table, key, group=(Ref(0, key),))
    if not filtered or rng.random() >= 0.7:
        return base
    avoid = [key.column for key in base.group if key.occurrence == 0]
    item = db.filter(rng, base.tables[0], avoid=avoid, shared=True)
    return base.with_(filters=(item,)) if item else base


def _measure(db: SpeakableDatabase, rng: random.Random, base: QueryPlan, *functions: str) -> Measure:
    """The number of rows, or an aggregate of an unused number column without NULLs."""
    numbers = unused(base, db.complete(base.tables[0], db.quantities(base.tables[0])))
    return Measure(rng.choice(functions), Ref(0, rng.choice(numbers))) if numbers and rng.random() < 0.6 else COUNT


def group_ranking(db: SpeakableDatabase, rng: random.Random) -> CompoundPlan:
    base = labelled_groups(db, rng, rng.choice([False, True]))
    return group_ranking_plan(base, _measure(db, rng, base, "avg", "sum", "max", "min"), rng.random() < 0.75)


def group_share(db: SpeakableDatabase, rng: random.Random) -> CompoundPlan:
    """Each value's share of all rows. Not by parent: rows without a parent would be in the total but in no group."""
    base = labelled_groups(db, rng)
    return group_share_plan(base, _measure(db, rng, base, "sum"))


def group_above_mean(db: SpeakableDatabase, rng: random.Random) -> CompoundPlan:
    base = labelled_groups(db, rng, rng.choice([False, True, True]))
    measure = _measure(db, rng, base, "avg", "sum", "max")
    return group_above_plan("group_above_mean", base, measure, rng.random() < 0.7, rng.random() < 0.4)


def group_above_average(db: SpeakableDatabase, rng: random.Random) -> CompoundPlan:
    base = labelled_groups(db, rng, filtered=False)
    measure = _measure(db, rng, base, "avg", "sum", "max")
    return group_above_plan("group_above_average", base, measure, rng.random() < 0.7, rng.random() < 0.4)


def best_of_group_plan(base: QueryPlan, group: Ref, key: Ref, best: int, descending: bool) -> CompoundPlan:
    """For each value of `group`, the rows ranked 1 to `best` by `key`; rows that tie share a rank."""
    block, many = Block(base), best > 1
    shown = ", ".join(map(block.output, [group, *base.outputs]))
    ranked = block.select([shown, f"{_rank(block, group, key, descending)} AS place"])
    place = f"place {'<=' if many else '='} {best}"
    sql = f"SELECT {shown} FROM ({ranked}) AS ranked WHERE {place}"
    if base.filters:
        sql = f"WITH ranked AS ({ranked}) SELECT {shown} FROM ranked WHERE {place}"
    extreme = ("highest", "largest") if descending else ("lowest", "smallest")
    parts = {"group": group, "key": key, "best": best, "extreme": extreme}
    parts |= {"rows": "{best} {subjects}" if many else "{subject}"}
    parts |= {"ties": ("(with all ties)", "(ties included)", "(include ties)"), "chosen": base}
    parts |= {"among": " among {chosen}" if base.filters else "", "shown": "{outputs}" if many else "{output}"}
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
    filters = (require(db.filter(rng, table, avoid=[group.column, key.column], shared=True)),) if chosen else ()
    return best_of_group_plan(QueryPlan.of(table, label, filters=filters), group, key, best, descending)


def best_of_chosen(db: SpeakableDatabase, rng: random.Random) -> CompoundPlan:
    return best_of_group(db, rng, chosen=True)


def ranking(db: SpeakableDatabase, rng: random.Random) -> CompoundPlan:
    table = rng.choice(db.tables)
    label = db.label(table)
    numbers = require(db.complete(table, db.numbers(table)))  # RANK also gives NULLs a rank, which nobody asks for
    groups = [c for c in db.complete(table, db.categories(table)) if c != label]
    group = Ref(0, rng.choice(groups)) if groups and rng.random() < 0.5 else None
    key = choose(rng, [c for c in numbers if not group or c != group.column])
    return ranking_plan(QueryPlan.of(table, label), Ref(0, key), group, db.descending(rng, table, key, 0.75))


def distance(db: SpeakableDatabase, rng: random.Random) -> CompoundPlan:
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
