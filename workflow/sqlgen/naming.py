"""English nouns for tables and columns: `Song_release_year` is a "song release year", a row of `singers` a "singer"."""

import re
from collections.abc import Mapping
from difflib import SequenceMatcher
from functools import lru_cache
from pathlib import Path

import inflect
import yaml

from sqlgen.query_plan import is_year
from sqlr1.database.profile import Profile
from sqlr1.database.schema import Schema

INFLECT = inflect.engine()
WORDS = yaml.safe_load(Path(__file__).with_name("english.yaml").read_text(encoding="utf-8"))
_UNINFLECTED, _UNCOUNTED, _UNITS, _FOREIGN = (
    set(WORDS[name].split()) for name in ("uninflected", "uncounted", "units", "foreign")
)
_PARTICIPLES = ("ed", "ilt", "orn", "out", "eld", "old", "aid")
_WHEN = {"on": "date", "in": "year"}
_ENDS = {"from": "start", "to": "end"}
INFLECT.defnoun("phone", "phone numbers")
INFLECT.defnoun("fax", "fax numbers")
_PREPOSITIONS = {"at", "by", "for", "from", "in", "of", "on", "to"}
_QUESTIONS = ("is", "has", "was", "can")
_ADJECTIVES = ("paid", "unpaid", "valid", "invalid", "void")
_KEY_WORDS = {"id", "code", "key", "number", "ids", "no"}


def words(name: str) -> list[str]:
    """The words of an identifier in lower case, with common abbreviations spelled out. There is always one.

    >>> words("stuFname"), words("opened_on"), words("built_in")
    (['student', 'first', 'name'], ['date', 'opened'], ['year', 'built'])
    """
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", name)
    pieces = [piece.lower() for piece in re.split(r"[\s_\-.]+", spaced) if piece]
    if len(pieces) > 1 and pieces[-1] in _WHEN and pieces[-2].endswith(_PARTICIPLES):
        pieces = [_WHEN[pieces[-1]], *pieces[:-1]]
    if pieces[-2:-1] == ["date"] and pieces[-1] in _ENDS:  # date_from: the start date
        pieces = [*pieces[:-2], _ENDS[pieces[-1]], "date"]
    if pieces[-1:] == ["no"]:
        pieces[-1] = "number"
    found = _counted(" ".join(WORDS["abbreviations"].get(piece, piece) for piece in pieces).split())
    return found or [name.strip() or "column"]


def _counted(pieces: list[str]) -> list[str]:
    """`number of employees` for `num employees`."""
    if len(pieces) > 1 and pieces[0] in ("num", "number") and pieces[1] != "of" and is_plural(pieces[-1]):
        return ["number", "of", *pieces[1:]]
    return pieces


@lru_cache(maxsize=65536)
def plural(noun: str) -> str:
    """The plural of a noun phrase, formed on its head: the last word before "of", or the last word."""
    head, of, rest = noun.partition(" of ")
    first, _, last = head.rpartition(" ")
    if last in _UNINFLECTED or is_plural(last) or not last.isalpha():
        return noun
    if first and last.endswith(_PARTICIPLES) and first.split()[0] in ("date", "number", "amount", "year"):
        return f"{plural(first)} {last}"
    return f"{first} {INFLECT.plural_noun(last)}".strip() + of + rest


@lru_cache(maxsize=65536)
def singular(noun: str) -> str:
    first, _, last = noun.rpartition(" ")
    return f"{first} {INFLECT.singular_noun(last)}".strip() if is_plural(last) else noun


@lru_cache(maxsize=65536)
def is_plural(word: str) -> bool:
    if not word.isalpha() or word in _UNCOUNTED or word.endswith(("ss", "us", "is", "ics")) or len(word) < 3:
        return False
    return bool(INFLECT.singular_noun(word))


def names_year(noun: str) -> bool:
    """Whether a noun names a year; "passengers per year" and "yearly visitors" do not."""
    return "year" in noun.split() and "per" not in noun.split()


class Names:
    """The singular nouns of one database: `entities` of the rows by table, `columns` by table and column.

    `given` overrides column nouns: (table, column) in lower case -> words. If two words of the schema are on the list
    `foreign` of english.yaml, no noun of the database is inflected: "Kunde" has no plural "Kundes".
    """

    def __init__(self, profile: Profile, given: Mapping[tuple[str, str], str] | None = None) -> None:
        schema = profile.schema
        given = {key: " ".join(_counted(noun.split())) for key, noun in (given or {}).items()}
        self._profile = profile
        full = {
            (t.name, c.name): given.get((t.name.lower(), c.name.lower())) or " ".join(words(c.name))
            for t in schema.tables
            for c in t.columns
        }
        tables = (" ".join(words(t.name)) for t in schema.tables)
        self.foreign = len(_FOREIGN & {word for noun in (*tables, *full.values()) for word in noun.split()}) > 1
        self.entities = {t.name: self._entity(t.name) for t in schema.tables}
        full |= {key: f"number of {noun}" for key, noun in full.items() if noun in _UNITS}
        self.columns = {key: self._short(schema, key, full) for key in full}

    def _short(self, schema: Schema, key: tuple[str, str], full: Mapping[tuple[str, str], str]) -> str:
        """The column's noun without its own entity's name: `customer_name` of customers is a "name"."""
        noun, entity = full[key], self.entities[key[0]]
        taken = {full[key[0], c.name] for c in schema.table(key[0]).columns}
        alike = SequenceMatcher(None, noun, entity).ratio() > 0.9  # equal, or misspelt
        if alike and not self.numeric(*key) and "name" not in taken:
            return "name"
        rest = noun.removeprefix(entity + " ").removeprefix(entity.rpartition(" ")[2] + " ")
        return rest if rest not in {*taken, "date"} and len(rest) > 2 and not noun.endswith(" id") else noun

    def numeric(self, table: str, column: str) -> bool:
        """Whether a column holds numbers, so that it has highest and lowest values."""
        return self._profile.columns[table, column].kind == "number"

    def dated(self, table: str, column: str) -> bool:
        """Whether a column holds dates or years, so that its highest value is the latest. 3 is a number of years."""
        statistics, noun = self._profile.columns[table, column], self.columns[table, column]
        years = names_year(noun) and all(map(is_year, statistics.quantiles))
        return statistics.kind == "date" or (statistics.kind == "number" and (years or "date" in noun.split()))

    def several(self, table: str, column: str) -> bool:
        """Whether a column of texts has a plural noun: its details are, but (as ever) its pages is."""
        plain = not self.foreign and not self.numeric(table, column)
        return plain and is_plural(self.columns[table, column].partition(" of ")[0].rpartition(" ")[2])

    def plural(self, noun: str) -> str:
        """The plural of a noun phrase of this database."""
        return noun if self.foreign else plural(noun)

    def is_noun(self, table: str, column: str) -> bool:
        """Whether a column can be asked for: not `is_member`, and not `paid` with yes and no."""
        noun, number = self.columns[table, column], self.numeric(table, column)
        return noun.split()[0] not in _QUESTIONS and (number or noun not in _ADJECTIVES)

    def links(self, table: str) -> bool:
        """Whether rows of a table merely link others: no column of texts or bytes has a noun (`is_noun`) as name."""
        held = (c for (name, c), s in self._profile.columns.items() if name == table and s.kind in ("text", "blob"))
        return not any(self.is_noun(table, column) for column in held)

    def drops(self, table: str, column: str, parent: str = "") -> bool:
        """Whether an inner join over a foreign key drops rows of `table`, or, if it is named, of `parent`."""
        found = self._profile.columns[table, column]
        unmatched = found.distinct < self._profile.rows[parent] if parent else found.has_nulls
        return unmatched or (table, column) in self._profile.dangling

    def role(self, table: str, column: str, parent: str) -> str:
        """What a foreign key to `parent` refers to: `winning_pilot` a "winning pilot", `singer_id` a "singer".

        The column's own words tell it, unless they only abbreviate the parent's name or its key. It is empty if they
        are no noun ("updated by") though several keys connect the two tables, or the table refers to itself.
        """
        entity = self.entities[parent]
        own = [w for w in words(column) if w not in _KEY_WORDS]
        role = " ".join(own) if self.foreign else singular(" ".join(own))
        role = WORDS["roles"].get(role) or WORDS["roles"].get(" ".join(own)) or role
        several = table == parent or self._profile.keys_between[frozenset((table, parent))] > 1
        if own and (role.endswith("ed") or _PREPOSITIONS & set(role.split()[1:] or [role])):
            return "" if several else entity
        if (len(own) > 1 and role.endswith(entity.split()[-1])) or (several and own):
            return role
        keys = {c.name.lower() for c in self._profile.schema.table(parent).columns if c.primary_key}
        said = all(w.isalpha() and len(w) > 3 and not w.endswith("id") for w in own) and column.lower() not in keys
        alike = any(a[:3] == b[:3] for a in own for b in entity.split())
        return role if own and said and not alike else entity

    def _entity(self, table: str) -> str:
        pieces = [w for w in words(table) if w not in ("reference", "tbl", "table", "all")] or words(table)
        if self.foreign:
            return " ".join(pieces)
        if pieces[-1] in _UNCOUNTED - {"species", "series"}:  # one of the staff, of the data
            pieces.append("member" if pieces[-1] in ("staff", "personnel") else "record")
        return singular(" ".join(pieces))
