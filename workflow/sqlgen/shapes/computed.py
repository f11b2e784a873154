"""Shapes that compute figures: percentages, ratios, rows by range, rows or sums by year."""

import random
from dataclasses import dataclass

from sqlgen.english import Speaker, slot
from sqlgen.query_plan import Filter, Measure, QueryPlan, Ref
from sqlgen.speakable import NoPlan, SpeakableDatabase, choose, require
from sqlgen.sql_text import Block, count_if, literal, year_of
from sqlgen.wording import CompoundPlan, Wording


@dataclass(frozen=True)
class Percentage(CompoundPlan):
    """The percentage of rows that meet the filters of `base`, overall or for each value of `group`."""

    group: Ref | None

    def sql(self) -> str:
        keys = (self.group,) if self.group else ()
        block = Block(self.base.with_(filters=(), group=keys))
        share = f"100.0 * {count_if(block.condition(self.base.filters[0]))} / COUNT(*)"
        return block.select([*map(block.column, keys), share])

    def fields(self, speaker: Speaker) -> dict[str, str]:
        restriction = speaker.restriction(self.base)
        word = speaker.pick("percentage", "percentage", "percent share")
        each = f" for each {slot(speaker.noun(self.base, self.group))}" if self.group else ""
        percent = speaker.pick("percentage", "percent")
        return {"restriction": restriction, "word": word, "percent": percent, "each": each}


@dataclass(frozen=True)
class Ratio(CompoundPlan):
    """How many rows meet the first filter of `base` for each row that meets `other`."""

    other: Filter

    def sql(self) -> str:
        block = Block(self.base.with_(filters=()))
        first, second = (count_if(block.condition(item)) for item in (self.base.filters[0], self.other))
        return block.select([f"CAST({first} AS REAL) / {second}"])

    def fields(self, speaker: Speaker) -> dict[str, str]:
        first = speaker.filtered(self.base)
        second = speaker.restriction(self.base.with_(filters=(self.other,)))
        return {"first": first, "second": second, "those": speaker.pick("those", speaker.subjects(self.base))}


@dataclass(frozen=True)
class Ranges(CompoundPlan):
    """Rows counted in three ranges of a number column, named low, medium and high, split at `low` and `high`."""

    key: Ref
    low: float
    high: float

    def sql(self) -> str:
        block = Block(self.base.with_(filters=(Filter(self.key, "not_null"),)))
        key = block.column(self.key)
        level = (
            f"CASE WHEN {key} < {literal(self.low)} THEN 'low' "
            f"WHEN {key} < {literal(self.high)} THEN 'medium' ELSE 'high' END"
        )
        return block.select([f"{level} AS level", "COUNT(*)"], [level])  # GROUP BY level could mean a column

    def fields(self, speaker: Speaker) -> dict[str, str]:
        return {"low": speaker.value(self.low), "high": speaker.value(self.high)}


@dataclass(frozen=True)
class ByYear(CompoundPlan):
    """The number of rows, or the sum of `measured`, by year of `key` (a date if `dated`, else a year).

    `kind`: count, running (the total so far), change (the difference to the year before).
    """

    key: Ref
    dated: bool
    measured: Ref | None
    kind: str

    def sql(self) -> str:
        block = Block(self.base.with_(filters=(Filter(self.key, "not_null"), *self.base.filters)))
        year = year_of(block.column(self.key)) if self.dated else block.column(self.key)
        total = block.output(Measure("sum" if self.measured else "count", self.measured))
        if self.kind == "count":
            return block.select([year, total], [year])
        yearly = block.select([f"{year} AS period", f"{total} AS total"], [year])
        last = "SUM(total)" if self.kind == "running" else "total - LAG(total)"
        return f"WITH yearly AS ({yearly}) SELECT period, {last} OVER (ORDER BY period) FROM yearly"

    def wording(self, speaker: Speaker) -> Wording:
        noun = slot(speaker.noun(self.base, self.key))
        what = f"number of {speaker.filtered(self.base)}"
        if self.measured:
            what = f"{speaker.measure(self.base, Measure('sum', self.measured))} of {speaker.filtered(self.base)}"
        year = f"year of the {noun}" if self.dated else noun
        if self.kind == "count":
            phrase = speaker.pick(f"the {what} for each {year}, with the year first", f"each {year} with the {what}")
            return Wording(phrase, False)
        if self.kind == "running":
            what = speaker.pick(f"the running total of the {what}", f"the cumulative {what} up to then")
        else:
            what = f"the change of the {what} from the previous such year (empty for the first)"
        if self.base.filters:
            any_such = speaker.pick("with any such", "that has such")
            each = f"for each {year} {any_such} {speaker.subjects(self.base)}"
            return Wording(f"{what}, {each}, the {year} first", False)
        return Wording(f"each {year} and {what}", False)


@dataclass(frozen=True)
class EveryYear(CompoundPlan):
    """The number of rows for each year from `first` to `last`, 0 included; `key` is a date if `dated`, else a year."""

    key: Ref
    dated: bool
    first: int
    last: int

    def sql(self) -> str:
        rows = Block(self.base, 2)
        key = rows.column(self.key)
        year = f"CAST({year_of(key)} AS INTEGER)" if self.dated else key
        return (
            f"WITH RECURSIVE years(year) AS (SELECT {self.first} UNION ALL "
            f"SELECT year + 1 FROM years WHERE year < {self.last}) SELECT T1.year, COUNT({key}) FROM years AS T1 "
            f"LEFT JOIN {rows.source()} ON {year} = T1.year GROUP BY T1.year ORDER BY T1.year"
        )

    def fields(self, speaker: Speaker) -> dict[str, str]:
        falls = "falls in" if self.dated else "is"
        zero = speaker.pick("with 0 for years without any", "including years with none", "even if there are none")
        return {"falls": falls, "first": slot(self.first), "last": slot(self.last), "zero": zero}


def percentage(db: SpeakableDatabase, rng: random.Random) -> Percentage:
    """The percentage of rows with a property."""
    table = rng.choice(db.tables)
    item = require(db.filter(rng, table, shared=True))
    keys = [c for c in db.complete(table, db.categories(table)) if c != item.ref.column]
    group = Ref(0, rng.choice(keys)) if keys and rng.random() < 0.3 else None
    return Percentage(QueryPlan.of(table, filters=(item,)), group)


def ratio(db: SpeakableDatabase, rng: random.Random) -> Ratio:
    """The ratio of the rows with one value to those with another."""
    table = rng.choice(db.tables)
    key = choose(rng, [c for c in db.categories(table) if len(db.statistics(table, c).values) >= 2])
    values = rng.sample([v for v, _ in db.statistics(table, key).values[:8]], 2)
    first, second = (Filter(Ref(0, key), "=", value) for value in values)
    return Ratio(QueryPlan.of(table, filters=(first,)), second)


def ranges(db: SpeakableDatabase, rng: random.Random) -> Ranges:
    """Rows counted by range of a number column."""
    table = rng.choice(db.tables)
    key = choose(rng, [c for c in db.numbers(table) if db.statistics(table, c).distinct >= 6])
    quantiles = db.statistics(table, key).quantiles
    low, high = quantiles[2], quantiles[6]
    if low >= high:
        raise NoPlan
    return Ranges(QueryPlan.of(table), Ref(0, key), low, high)


def by_year(db: SpeakableDatabase, rng: random.Random) -> ByYear:
    """Counts or sums by year of a date."""
    choices = [(table, c, True) for table in db.tables for c in db.of_kind(table, "date")]
    return _by_year(db, rng, choices, "count")


def running_by_year(db: SpeakableDatabase, rng: random.Random) -> ByYear:
    """Running totals and changes by year, mostly of filtered rows."""
    kind = rng.choice(["running", "change"])
    return _by_year(db, rng, _dated_columns(db), kind)


def _dated_columns(db: SpeakableDatabase) -> list[tuple[str, str, bool]]:
    """All columns of dates or years: (table, column, whether it holds dates)."""
    choices = []
    for table in db.tables:
        choices += [(table, c, True) for c in db.of_kind(table, "date")]
        choices += [(table, c, False) for c in db.years(table)]
    return choices


def _by_year(db: SpeakableDatabase, rng: random.Random, choices: list[tuple[str, str, bool]], kind: str) -> ByYear:
    table, key, dated = choose(rng, choices)
    numbers = [c for c in db.complete(table, db.quantities(table)) if c != key]
    measured = Ref(0, rng.choice(numbers)) if numbers and rng.random() < 0.5 else None
    used = [key, *([measured.column] if measured else [])]
    item = db.filter(rng, table, avoid=used, shared=True) if kind != "count" and rng.random() < 0.5 else None
    return ByYear(QueryPlan.of(table, filters=(item,) if item else ()), Ref(0, key), dated, measured, kind)


def every_year(db: SpeakableDatabase, rng: random.Random) -> EveryYear:
    """Rows counted for some years in a row."""
    table, key, dated = choose(rng, _dated_columns(db))
    quantiles = db.statistics(table, key).quantiles
    years = [int(str(q)[:4]) for q in (quantiles[0], quantiles[-1])]
    if not 1000 <= years[0] <= years[1] <= 2100:
        raise NoPlan
    first = rng.randint(years[0], years[1])
    return EveryYear(QueryPlan.of(table), Ref(0, key), dated, first, first + rng.choice([3, 4, 5, 9]))
