"""Shapes that compute figures: percentages, ratios, rows by range, rows or sums by year."""

import random
from functools import partial

from sqlgen.english import Speaker
from sqlgen.query_plan import Filter, Measure, QueryPlan, Ref
from sqlgen.speakable import NoPlan, SpeakableDatabase, choose, require
from sqlgen.sql_text import Block, count_if, literal, year_of
from sqlgen.wording import CompoundPlan


def percentage_plan(base: QueryPlan, group: Ref | None) -> CompoundPlan:
    """The percentage of rows that meet the filter of `base`, overall or for each value of `group`."""
    keys = (group,) if group else ()
    block = Block(base.with_(filters=(), group=keys))
    share = f"100.0 * {count_if(block.condition(base.filters[0]))} / COUNT(*)"
    parts = {"group": group, "each": " for each {group}" if group else ""}
    parts["restriction"] = partial(Speaker.restriction, plan=base)
    return CompoundPlan("percentage", base, block.select([*map(block.column, keys), share]), parts)


def ratio_plan(base: QueryPlan, other: Filter) -> CompoundPlan:
    """How many rows meet the filter of `base` for each row that meets `other`."""
    block = Block(base.with_(filters=()))
    first, second = (count_if(block.condition(item)) for item in (base.filters[0], other))
    parts = {"first": base, "second": partial(Speaker.restriction, plan=base.with_(filters=(other,)))}
    return CompoundPlan("ratio", base, block.select([f"CAST({first} AS REAL) / {second}"]), parts)


def ranges_plan(base: QueryPlan, key: Ref, low: float, high: float) -> CompoundPlan:
    """Rows counted in three ranges of a number column, named low, medium and high, split at `low` and `high`."""
    block = Block(base.with_(filters=(Filter(key, "not_null"),)))
    column = block.column(key)
    medium = f"WHEN {column} < {literal(high)} THEN 'medium' ELSE 'high' END"
    level = f"CASE WHEN {column} < {literal(low)} THEN 'low' {medium}"
    sql = block.select([f"{level} AS level", "COUNT(*)"], [level])  # GROUP BY level could mean a column
    return CompoundPlan("ranges", base, sql, {"key": key, "low": low, "high": high})


def by_year_plan(base: QueryPlan, key: Ref, dated: bool, measured: Ref | None, kind: str) -> CompoundPlan:
    """The number of rows, or the sum of `measured`, by year of `key` (a date if `dated`, else a year).

    `kind`: count, running (the total so far), change (the difference to the year before).
    """
    block = Block(base.with_(filters=(Filter(key, "not_null"), *base.filters)))
    year = year_of(block.column(key)) if dated else block.column(key)
    measure = Measure("sum" if measured else "count", measured)
    parts = {"key": key, "measured": measured, "year": "year of the {key}" if dated else "{key}", "counted": base}
    parts |= {"total": partial(Speaker.measure, plan=base, measure=measure)} if measured else {}
    such = "such {subjects}" if base.filters and kind != "count" else "{counted}"  # the years' own words say which
    parts["what"] = f"{{total}} of {such}" if measured else f"number of {such}"
    if kind == "count":
        return CompoundPlan("by_year", base, block.select([year, block.output(measure)], [year]), parts)
    yearly = block.select([f"{year} AS period", f"{block.output(measure)} AS total"], [year])
    last = "SUM(total)" if kind == "running" else "total - LAG(total)"
    sql = f"WITH yearly AS ({yearly}) SELECT period, {last} OVER (ORDER BY period) FROM yearly"
    running = ("the running total of the {what}", "the cumulative {what} up to then")
    change = "the change in the {what} from the previous such year (empty for the first)"
    parts["figure"] = running if kind == "running" else change
    return CompoundPlan("figure_by_year_of_chosen" if base.filters else "figure_by_year", base, sql, parts)


def every_year_plan(base: QueryPlan, key: Ref, dated: bool, first: int, last: int) -> CompoundPlan:
    """The number of rows for each year from `first` to `last`, 0 included; `key` is a date if `dated`, else a year."""
    rows = Block(base, 2)
    column = rows.column(key)
    year = f"CAST({year_of(column)} AS INTEGER)" if dated else column
    sql = (
        f"WITH RECURSIVE years(year) AS (SELECT {first} UNION ALL SELECT year + 1 FROM years WHERE year < {last}) "
        f"SELECT T1.year, COUNT({column}) FROM years AS T1 LEFT JOIN {rows.source()} ON {year} = T1.year "
        "GROUP BY T1.year ORDER BY T1.year"
    )
    parts = {"key": key, "falls": "falls in" if dated else "is", "first": first, "last": last}
    return CompoundPlan("every_year", base, sql, parts)


def percentage(db: SpeakableDatabase, rng: random.Random) -> CompoundPlan:
    table = rng.choice(db.tables)
    item = require(db.filter(rng, table, shared=True))
    keys = [c for c in db.complete(table, db.categories(table)) if c != item.ref.column]
    group = Ref(0, rng.choice(keys)) if keys and rng.random() < 0.3 else None
    return percentage_plan(QueryPlan.of(table, filters=(item,)), group)


def ratio(db: SpeakableDatabase, rng: random.Random) -> CompoundPlan:
    table = rng.choice(db.tables)
    key = choose(rng, [c for c in db.categories(table) if len(db.statistics(table, c).values) >= 2])
    values = rng.sample([v for v, _ in db.statistics(table, key).values[:8]], 2)
    first, second = (Filter(Ref(0, key), "=", value) for value in values)
    return ratio_plan(QueryPlan.of(table, filters=(first,)), second)


def ranges(db: SpeakableDatabase, rng: random.Random) -> CompoundPlan:
    table = rng.choice(db.tables)
    key = choose(rng, [c for c in db.numbers(table) if db.statistics(table, c).distinct >= 6])
    quantiles = db.statistics(table, key).quantiles
    low, high = quantiles[2], quantiles[6]
    if low >= high:
        raise NoPlan
    return ranges_plan(QueryPlan.of(table), Ref(0, key), low, high)


def running_by_year(db: SpeakableDatabase, rng: random.Random) -> CompoundPlan:
    """Running totals and changes by year, mostly of filtered rows."""
    return by_year(db, rng, rng.choice(["running", "change"]))


def _dated_columns(db: SpeakableDatabase) -> list[tuple[str, str, bool]]:
    """All columns of dates or years: (table, column, whether it holds dates)."""
    choices = []
    for table in db.tables:
        choices += [(table, c, True) for c in db.of_kind(table, "date")]
        choices += [(table, c, False) for c in db.years(table)]
    return choices


def by_year(db: SpeakableDatabase, rng: random.Random, kind: str = "count") -> CompoundPlan:
    """Counts or sums by year of a date; running totals and changes are also by columns of years."""
    table, key, dated = choose(rng, [choice for choice in _dated_columns(db) if kind != "count" or choice[2]])
    numbers = [c for c in db.complete(table, db.quantities(table)) if c != key]
    measured = Ref(0, rng.choice(numbers)) if numbers and rng.random() < 0.5 else None
    used = [key, *([measured.column] if measured else [])]
    item = db.filter(rng, table, avoid=used, shared=True) if kind != "count" and rng.random() < 0.5 else None
    return by_year_plan(QueryPlan.of(table, filters=(item,) if item else ()), Ref(0, key), dated, measured, kind)


def every_year(db: SpeakableDatabase, rng: random.Random) -> CompoundPlan:
    table, key, dated = choose(rng, _dated_columns(db))
    quantiles = db.statistics(table, key).quantiles
    years = [int(str(q)[:4]) for q in (quantiles[0], quantiles[-1])]
    if not 1000 <= years[0] <= years[1] <= 2100:
        raise NoPlan
    first = rng.randint(years[0], years[1])
    return every_year_plan(QueryPlan.of(table), Ref(0, key), dated, first, first + rng.choice([3, 4, 5, 9]))
