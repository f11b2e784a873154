"""What can be asked about one database: columns worth showing, filters with real values, and how tables connect."""

import random
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import TypeVar

from sqlgen.naming import Names, names_year
from sqlgen.query_plan import Filter, Ref
from sqlr1.database.profile import ColumnStatistics, Profile
from sqlr1.database.schema import ForeignKey

T = TypeVar("T")
# Numbers with these words identify something: sorting or averaging them means nothing.
_NOMINAL = {
    "phone", "fax", "zip", "postcode", "zipcode", "code", "security", "ssn", "telephone", "number", "no", "building",
    "id", "postal", "version", "isbn", "iban", "sku", "vin", "serial", "barcode", "status",
}  # fmt: skip
_PLACES = {"latitude", "longitude"}  # they can be sorted, but not added
# Dates and times as numbers: yyyymmdd, and seconds, milliseconds or microseconds since 1970, of 1998 to 2039. Hardly a
# quantity has all of its deciles in such a range.
_DAY = re.compile(r"(1[89]|20)\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])(\.0)?")
_CLOCK = re.compile(r"(9|1\d|2[01])\d{8}(\d{3}|\d{6})?(\.\d+)?")
# Texts that begin as numbers do ("$1,200", "9:30", "12 kg"; not "10A"), and dates that do not begin with the year.
_NUMBER = re.compile(r"\s*[$€£]?\s*([-+]?\d[\d,]*+)(?![A-Z]\b)")
_DAY_FIRST = re.compile(r"\d\d?([/.-])\d\d?\1(\d\d|\d{4})\b")
_LABELS = ("name", "title", "first name", "last name", "description", "model", "label")


class NoPlan(Exception):
    """A shape found nothing to ask about: the database lacks what it needs, or an unsuitable combination was drawn."""


def require(found: T | None) -> T:
    """What was found. Raises NoPlan when there is none: None, or an empty list."""
    if not found:
        raise NoPlan
    return found


def choose(rng: random.Random, options: Sequence[T]) -> T:
    """A random one of the options. Raises NoPlan when there are none."""
    return rng.choice(require(options))


class SpeakableDatabase:
    """A profiled database with nouns for its tables and columns, and the random choices that shapes make over it.

    `given_names` overrides column nouns: (table, column) in lower case -> words.
    """

    def __init__(self, profile: Profile, given_names: Mapping[tuple[str, str], str] | None = None) -> None:
        self.profile = profile
        self.names = Names(profile, given_names)
        self.tables = [t.name for t in profile.schema.tables if profile.rows[t.name] >= 2 and self.speakable(t.name)]

    @cached_property
    def _keys(self) -> list[ForeignKey]:
        """Single-column foreign keys to a column that is unique: a join over one finds at most one row."""
        usable = [k for k in dict.fromkeys(self.profile.foreign_keys) if k.parent in self.tables and not k.composite]
        return [k for k in usable if self.statistics(k.parent, k.parent_column).unique]

    @cached_property
    def up_keys(self) -> list[ForeignKey]:
        """Foreign keys to other tables, by the table that holds them; no two of a table have one role."""
        others = [k for k in self._keys if k.table != k.parent]
        roles = Counter((k.table, self._role(k)) for k in others)
        position = {table.name: number for number, table in enumerate(self.profile.schema.tables)}
        told_apart = [k for k in others if self._role(k) and roles[k.table, self._role(k)] == 1]
        return sorted(told_apart, key=lambda k: position[k.table])

    def _role(self, key: ForeignKey) -> str:
        return self.names.role(key.table, key.column, key.parent)

    @cached_property
    def self_keys(self) -> list[ForeignKey]:
        """Foreign keys of a table to itself, such as the manager of an employee."""
        own = [k for k in self._keys if k.table == k.parent]
        return [k for k in own if self._role(k) not in ("", self.names.entities[k.table])]

    @cached_property
    def all_up_keys(self) -> list[ForeignKey]:
        """All foreign keys that can be followed from a row to the one it refers to."""
        return [k for k in self.up_keys if k.table in self.tables] + self.self_keys

    @cached_property
    def down_keys(self) -> list[ForeignKey]:
        """Those of `lone_keys` without a role: "employees with no departments" would not name the manager."""
        return [k for k in self.lone_keys if self._role(k) == self.names.entities[k.parent]]

    @cached_property
    def lone_keys(self) -> list[ForeignKey]:
        """Keys to follow to the rows that refer to a parent: the only ones of their two tables, sorted by parents."""
        lone = [k for k in self.up_keys if k.table in self.tables and self._direct(k.table, k.parent) == 1]
        return sorted(lone, key=lambda k: self.tables.index(k.parent))

    @cached_property
    def links(self) -> list[tuple[ForeignKey, ForeignKey]]:
        """Pairs of keys of one table to two others (a many-to-many link), where no other path connects those two."""
        pairs = [(a, b) for a in self.up_keys for b in self.up_keys if a.table == b.table]
        pairs = [(a, b) for a, b in pairs if a.parent != b.parent and self._paths(a.parent, b.parent) == 1]
        return [(a, b) for a, b in pairs if self._role(a) == self.names.entities[a.parent]]

    @cached_property
    def hops(self) -> list[tuple[ForeignKey, ForeignKey]]:
        """Pairs of keys that lead from a row to its parent's parent, where no other path connects the two ends."""
        from_tables = [k for k in self.up_keys if k.table in self.tables]
        pairs = [(a, b) for a in from_tables for b in self.up_keys if b.table == a.parent]
        return [(a, b) for a, b in pairs if a.table != b.parent and self._paths(a.table, b.parent) == 1]

    def _direct(self, first: str, second: str) -> int:
        """The number of foreign keys between two tables, in either direction."""
        return self.profile.keys_between[frozenset((first, second))]

    def _paths(self, first: str, second: str) -> int:
        """The number of paths of one or two foreign keys, in any direction, between two tables."""
        through = [t.name for t in self.profile.schema.tables if t.name not in (first, second)]
        return self._direct(first, second) + sum(self._direct(first, t) * self._direct(t, second) for t in through)

    def statistics(self, table: str, column: str) -> ColumnStatistics:
        return self.profile.columns[table, column]

    def speakable(self, table: str) -> list[str]:
        """Columns worth showing: those with values, except keys and bytes."""
        names = [column.name for column in self.profile.schema.table(table).columns]
        found = {name: self.statistics(table, name) for name in names}
        names = [name for name in names if found[name].kind not in ("key", "blob") and found[name].distinct >= 1]
        return [name for name in names if self.names.is_noun(table, name)]

    def complete(self, table: str, columns: Iterable[str]) -> list[str]:
        """Those of the columns that have a value in every row."""
        return [c for c in columns if not self.statistics(table, c).has_nulls]

    def of_kind(self, table: str, *kinds: str) -> list[str]:
        return [c for c in self.speakable(table) if self.statistics(table, c).kind in kinds]

    def numbers(self, table: str) -> list[str]:
        """Number columns with at least three values: worth averaging, comparing and sorting by."""
        found = [c for c in self.of_kind(table, "number") if self.statistics(table, c).distinct >= 3]
        return [c for c in found if not self._is_code(table, c)]

    def _is_code(self, table: str, column: str) -> bool:
        noun = self.names.columns[table, column]
        return bool(_NOMINAL & set(noun.split())) and not noun.startswith("number of ")

    def quantities(self, table: str) -> list[str]:
        """Numbers that can be added and averaged: all but years, dates and times as numbers, and coordinates."""
        nouns = {c: self.names.columns[table, c] for c in self.numbers(table) if not self._is_time(table, c)}
        return [c for c, noun in nouns.items() if not names_year(noun) and not _PLACES & set(noun.split())]

    def _is_time(self, table: str, column: str) -> bool:
        found = [str(value) for value in self.statistics(table, column).quantiles]
        return any(all(map(pattern.fullmatch, found)) for pattern in (_DAY, _CLOCK))

    def sortable(self, table: str) -> list[str]:
        """Columns of three values or more, but for texts that SQL sorts as nobody would: "1115" before "263"."""
        return [c for c in self.speakable(table) if self._has_order(self.statistics(table, c))]

    @staticmethod
    def _has_order(found: ColumnStatistics) -> bool:
        texts = sorted(str(value) for value, _ in found.values)
        numbers = [int(match[1].replace(",", "")) for text in texts if (match := _NUMBER.match(text))]
        wrong = numbers != sorted(numbers) or any(map(_DAY_FIRST.match, texts))
        return found.distinct >= 3 and not (found.kind == "text" and wrong and 2 * len(numbers) > len(texts))

    def years(self, table: str) -> list[str]:
        found = [c for c in self.numbers(table) if names_year(self.names.columns[table, c])]
        return [c for c in found if self.names.dated(table, c)]

    def categories(self, table: str) -> list[str]:
        """Columns whose values repeat, worth grouping by. Text and booleans come three times: drawn more often."""
        usual = [c for c in self.of_kind(table, "text", "boolean") if self.statistics(table, c).categorical]
        years = [c for c in self.of_kind(table, "number") if self.statistics(table, c).categorical]
        return usual * 3 + [c for c in years if names_year(self.names.columns[table, c])]

    def repeated(self, table: str) -> list[str]:
        """Speakable columns in which a value can occur twice."""
        return [c for c in self.speakable(table) if not self.statistics(table, c).unique]

    def label(self, table: str) -> str:
        """The column by which people name a row: a name or title, otherwise the text with most different values."""
        columns = self.of_kind(table, "text") or self.speakable(table)
        nouns = {c: self.names.columns[table, c] for c in columns}
        for word in _LABELS:
            exact = [c for c in columns if nouns[c] == word] or [c for c in columns if nouns[c].endswith(word)]
            if exact:
                return exact[0]
        return max(columns, key=lambda c: self.statistics(table, c).distinct)

    def descending(self, rng: random.Random, table: str, column: str, share: float) -> bool:
        """Whether a superlative asks for the highest value: with probability `share`, and always if there are NULLs.

        SQLite sorts NULL first, so the row with the lowest value would be one without a value.
        """
        return self.statistics(table, column).has_nulls or rng.random() < share

    def outputs(self, rng: random.Random, table: str, most: int = 3, avoid: str = "") -> list[str]:
        """One to `most` columns to show other than `avoid`; the label is likelier than others."""
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
        """A condition with a real value that some rows meet and, mostly, some do not; None when no column has one.

        With `shared`, texts that are different in nearly every row are not used: the condition is for several rows.
        """
        columns = [c for c in self.speakable(table) if c not in avoid]
        if shared:
            found = {c: self.statistics(table, c) for c in columns}
            columns = [c for c, s in found.items() if s.kind != "text" or s.distinct <= 0.7 * s.filled]
        rng.shuffle(columns)
        columns.sort(key=lambda c: self.statistics(table, c).unique and rng.random() < 0.5)
        for column in columns:
            statistics = self.statistics(table, column)
            chosen = _condition(rng, statistics)
            if chosen and chosen[1] is not None and statistics.kind == "number" and self._is_code(table, column):
                chosen = "=", statistics.values[0][0]
            if chosen and not _keeps_all(*chosen, statistics):
                return Filter(Ref(occurrence, column), *chosen)
        return None


def _keeps_all(op: str, value: object, statistics: ColumnStatistics) -> bool:
    """Whether a condition is true of all the values that the statistics know: a question must not say it then."""
    seen = [*(v for v, _ in statistics.values), *statistics.quantiles]
    tests = {
        ">=": lambda v: v >= value, "<=": lambda v: v <= value, ">": lambda v: v > value, "<": lambda v: v < value,
        "between": lambda v: value[0] <= v <= value[1], "year": lambda v: v.startswith(value),
        "prefix": lambda v: f"{v}".lower().startswith(value.lower()),
        "contains": lambda v: value.lower() in f"{v}".lower(),
    }  # fmt: skip
    return op in tests and all(map(tests[op], seen))


def _condition(rng: random.Random, statistics: ColumnStatistics) -> tuple[str, object] | None:
    if statistics.has_nulls and rng.random() < 0.12:
        return rng.choice(["null", "not_null"]), None
    if statistics.distinct < 2 or not statistics.values:
        return None
    if statistics.kind == "date":
        return _date_condition(rng, statistics)
    if statistics.kind == "number" and statistics.distinct >= 3:
        return _number_condition(rng, statistics)
    return _text_condition(rng, statistics)


def _text_condition(rng: random.Random, statistics: ColumnStatistics) -> tuple[str, object]:
    values = [v for v, _ in statistics.values]
    value = rng.choice(values[:12])
    roll = rng.random()
    # People take rows without a value for others than those with it; SQL's != leaves them out.
    if not isinstance(value, str) or roll < 0.68 or (statistics.has_nulls and roll < 0.78):
        return "=", value
    if roll < 0.78:
        return "!=", value
    if roll < 0.88 and len(values) >= 3:
        op = rng.choice(["in", "in", "not_in"])
        return "in" if statistics.has_nulls else op, tuple(rng.sample(values[:12], 2))
    word = rng.choice(value.split())
    if len(word) < 3 or not word.isalnum():
        return "=", value
    if roll < 0.94 or not value[:2].isalnum():
        return "contains", word
    return "prefix", value[: rng.randint(1, 2)]


def _number_condition(rng: random.Random, statistics: ColumnStatistics) -> tuple[str, object]:
    roll = rng.random()
    if roll < 0.2:
        return "=", rng.choice(statistics.values[:15])[0]
    if roll < 0.3 and statistics.quantiles[1] < statistics.quantiles[-2]:
        return "between", (_rounded(statistics.quantiles[1]), _rounded(statistics.quantiles[-2]))
    value = _rounded(rng.choice(statistics.quantiles[2:7]))
    return rng.choice([">", ">", ">", "<", "<", ">=", ">=", "<="]), value


def _rounded(value: float) -> float:
    """Three significant digits, as people choose thresholds; years and small integers are not rounded."""
    if abs(value) < 10000 and value == int(value):
        return int(value)
    rounded = float(f"{value:.3g}")
    return int(rounded) if rounded == int(rounded) else rounded


def _date_condition(rng: random.Random, statistics: ColumnStatistics) -> tuple[str, object]:
    value = str(rng.choice(statistics.quantiles[2:7]))
    roll = rng.random()
    if roll < 0.35:
        return "year", value[:4]
    # "2020-01-05 10:00" sorts after "2020-01-05": "after that day" or "that day or earlier" would give wrong rows.
    return rng.choice([">", "<", ">=", "<="] if len(value) == 10 else [">=", "<"]), value[:10]
