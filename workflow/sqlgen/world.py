"""What may be asked of one database: speakable columns, labels, filters with real values, how tables connect."""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TypeVar

from sqlgen.naming import Names, names_year
from sqlgen.query_plan import Filter, Ref
from sqlr1.database import ColumnStatistics, ForeignKey, Profile

T = TypeVar("T")
# Digits that name something: no order, no average.
_NOMINAL = {
    "phone",
    "fax",
    "zip",
    "postcode",
    "zipcode",
    "code",
    "security",
    "ssn",
    "telephone",
    "number",
    "no",
    "building",
}
_LABELS = ("name", "title", "first name", "last name", "description", "model", "label")


class World:
    """One profiled database with its nouns, and the seeded choices that samplers make over it."""

    def __init__(self, profile: Profile, given_names: Mapping[tuple[str, str], str] | None = None) -> None:
        self.profile = profile
        self.names = Names(profile, given_names)
        self.tables = [t.name for t in profile.schema.tables if profile.rows[t.name] >= 2 and self.speakable(t.name)]

    @cached_property
    def _keys(self) -> list[ForeignKey]:
        """Foreign keys of one column to a usable table, unique there: a join over one finds at most one row."""
        usable = [k for k in dict.fromkeys(self.profile.foreign_keys) if k.parent in self.tables and not k.composite]
        return [k for k in usable if self.statistics(k.parent, k.parent_column).unique]

    @cached_property
    def up_keys(self) -> dict[str, list[ForeignKey]]:
        """Foreign keys by the table that holds them."""
        others = [k for k in self._keys if k.table != k.parent]
        roles = Counter((k.table, self._role(k)) for k in others)
        told_apart = [k for k in others if roles[k.table, self._role(k)] == 1]
        return {t.name: [k for k in told_apart if k.table == t.name] for t in self.profile.schema.tables}

    def _role(self, key: ForeignKey) -> str:
        return self.names.role(key.table, key.column, key.parent)

    @cached_property
    def self_keys(self) -> list[ForeignKey]:
        """Foreign keys of a table to itself: employees and their managers."""
        own = [k for k in self._keys if k.table == k.parent]
        return [k for k in own if self._role(k) != self.names.entity(k.table)]

    @cached_property
    def down_keys(self) -> dict[str, list[ForeignKey]]:
        """Foreign keys by the table they refer to, each the only one between its tables: "with a song" names no key."""
        lone = [k for t in self.tables for k in self.up_keys[t] if self.paths(t, k.parent, longest=1) == 1]
        return {t: [k for k in lone if k.parent == t] for t in self.tables}

    @cached_property
    def links(self) -> list[tuple[ForeignKey, ForeignKey]]:
        """Pairs of foreign keys of one table to two different tables: a many-to-many link, and the only path."""
        pairs = [(a, b) for keys in self.up_keys.values() for a in keys for b in keys]
        return [(a, b) for a, b in pairs if a.parent != b.parent and self.paths(a.parent, b.parent) == 1]

    @cached_property
    def hops(self) -> list[tuple[ForeignKey, ForeignKey]]:
        """Pairs of foreign keys that lead up twice, the only path between both ends."""
        pairs = [(a, b) for t in self.tables for a in self.up_keys[t] for b in self.up_keys[a.parent]]
        return [(a, b) for a, b in pairs if a.table != b.parent and self.paths(a.table, b.parent) == 1]

    def paths(self, first: str, second: str, longest: int = 2) -> int:
        """In how many ways one or two foreign keys, in any direction, lead from a table to another one."""
        between = self.profile.keys_between
        direct = between[frozenset((first, second))]
        if longest == 1:
            return direct
        through = [t.name for t in self.profile.schema.tables if t.name not in (first, second)]
        return direct + sum(between[frozenset((first, t))] * between[frozenset((t, second))] for t in through)

    def statistics(self, table: str, column: str) -> ColumnStatistics:
        """Statistics of a column."""
        return self.profile.columns[table, column]

    def speakable(self, table: str) -> list[str]:
        """Columns worth showing: with values, not keys."""
        found = []
        for column in self.profile.schema.table(table).columns:
            statistics = self.statistics(table, column.name)
            if statistics.kind != "key" and statistics.distinct >= 1:
                found.append(column.name)
        return found

    def complete(self, table: str, columns: Sequence[str]) -> list[str]:
        """Those of the columns that have a value in every row."""
        return [c for c in columns if not self.statistics(table, c).has_nulls]

    def of_kind(self, table: str, *kinds: str) -> list[str]:
        """Speakable columns of these kinds."""
        return [c for c in self.speakable(table) if self.statistics(table, c).kind in kinds]

    def numbers(self, table: str) -> list[str]:
        """Number columns with at least three values: worth averaging, comparing and sorting by."""
        found = [c for c in self.of_kind(table, "number") if self.statistics(table, c).distinct >= 3]
        return [c for c in found if not _NOMINAL & set(self.names.column(table, c).split())]

    def quantities(self, table: str) -> list[str]:
        """Numbers that can be added and averaged: no years."""
        return [c for c in self.numbers(table) if not names_year(self.names.column(table, c))]

    def years(self, table: str) -> list[str]:
        """Numbers that are years of the calendar."""
        found = [c for c in self.numbers(table) if names_year(self.names.column(table, c))]
        return [c for c in found if self.names.dated(table, c)]

    def categories(self, table: str) -> list[str]:
        """Columns whose values repeat: worth grouping by."""
        usual = [c for c in self.of_kind(table, "text", "boolean") if self.statistics(table, c).categorical]
        years = [c for c in self.of_kind(table, "number") if self.statistics(table, c).categorical]
        return usual * 3 + [c for c in years if names_year(self.names.column(table, c))]

    def label(self, table: str) -> str:
        """The column by which people name a row: a name or title, otherwise the most distinctive text."""
        columns = self.of_kind(table, "text") or self.speakable(table)
        nouns = {c: self.names.column(table, c) for c in columns}
        for word in _LABELS:
            exact = [c for c in columns if nouns[c] == word] or [c for c in columns if nouns[c].endswith(word)]
            if exact:
                return exact[0]
        return max(columns, key=lambda c: self.statistics(table, c).distinct)

    def descending(self, rng: random.Random, table: str, column: str, share: float) -> bool:
        """Whether a superlative asks for the highest: with this probability, and always where NULL is the lowest."""
        return self.statistics(table, column).has_nulls or rng.random() < share

    def outputs(self, rng: random.Random, table: str, most: int = 3, avoid: str = "") -> list[str]:
        """One to `most` columns to show other than `avoid`, the label likelier than others."""
        columns = [c for c in self.speakable(table) if c != avoid] or [avoid]
        count = min(len(columns), rng.choices(range(1, most + 1), [6, 3, 1][:most])[0])
        label = self.label(table) if self.label(table) in columns else columns[0]
        rest = [c for c in columns if c != label]
        chosen = rng.sample(rest, min(count, len(rest)))
        if rng.random() < 0.65 or len(chosen) < count:
            chosen = [label, *chosen[: count - 1]]
        return chosen

    def filter(
        self, rng: random.Random, table: str, occurrence: int = 0, avoid: Sequence[str] = (), shared: bool = False
    ) -> Filter | None:
        """A condition with a real value that some rows meet and, mostly, some do not.

        `shared`: not on a text that hardly two rows share, for what is said of several rows.
        """
        columns = [c for c in self.speakable(table) if c not in avoid and not (shared and self._distinctive(table, c))]
        rng.shuffle(columns)
        columns.sort(key=lambda c: self.statistics(table, c).unique and rng.random() < 0.5)
        for column in columns:
            chosen = self._condition(rng, self.statistics(table, column))
            if chosen:
                return Filter(Ref(occurrence, column), *chosen)
        return None

    def _distinctive(self, table: str, column: str) -> bool:
        statistics = self.statistics(table, column)
        return statistics.kind == "text" and statistics.distinct > 0.7 * statistics.filled

    def _condition(self, rng: random.Random, statistics: ColumnStatistics) -> tuple[str, object] | None:
        if statistics.has_nulls and rng.random() < 0.12:
            return rng.choice(["null", "not_null"]), None
        if statistics.distinct < 2 or not statistics.values:
            return None
        if statistics.kind == "date":
            return _date_condition(rng, statistics)
        if statistics.kind == "number" and statistics.distinct >= 3:
            return _number_condition(rng, statistics)
        return _text_condition(rng, statistics)


def _text_condition(rng: random.Random, statistics: ColumnStatistics) -> tuple[str, object] | None:
    values = [v for v, _ in statistics.values]
    value = rng.choice(values[:12])
    roll = rng.random()
    if not isinstance(value, str) or roll < 0.68:
        return "=", value
    if roll < 0.78:
        return "!=", value
    if roll < 0.88 and len(values) >= 3:
        return rng.choice(["in", "in", "not_in"]), tuple(rng.sample(values[:12], 2))
    word = rng.choice(value.split())
    if len(word) < 3 or not word.isalnum():
        return "=", value
    if roll < 0.94:
        return "contains", word
    return ("prefix", value[: rng.randint(1, 2)]) if value[:2].isalnum() else ("contains", word)


def _number_condition(rng: random.Random, statistics: ColumnStatistics) -> tuple[str, object]:
    roll = rng.random()
    if roll < 0.2:
        return "=", rng.choice(statistics.values[:15])[0]
    if roll < 0.3 and statistics.quantiles[1] < statistics.quantiles[-2]:
        return "between", (_rounded(statistics.quantiles[1]), _rounded(statistics.quantiles[-2]))
    value = _rounded(rng.choice(statistics.quantiles[2:7]))
    return rng.choice([">", ">", ">", "<", "<", ">=", ">=", "<="]), value


def _rounded(value: float) -> float:
    """Three significant digits, as people choose thresholds; years and small numbers stay as they are."""
    if abs(value) < 10000 and value == int(value):
        return int(value)
    rounded = float(f"{value:.3g}")
    return int(rounded) if rounded == int(rounded) else rounded


def _date_condition(rng: random.Random, statistics: ColumnStatistics) -> tuple[str, object]:
    value = str(rng.choice(statistics.quantiles[2:7]))
    roll = rng.random()
    if roll < 0.35:
        return "year", value[:4]
    # With a time of day, a value of that very day is greater than the bare day: "after" and "or earlier" would mislead.
    return rng.choice([">", "<", ">=", "<="] if len(value) == 10 else [">=", "<"]), value[:10]
