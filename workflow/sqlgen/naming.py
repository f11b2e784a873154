"""English nouns for tables and columns: `Song_release_year` is a "song release year", a row of `singers` a "singer"."""

import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import inflect
import yaml

from sqlgen.query_plan import is_year
from sqlr1.database import Profile, Schema

_INFLECT = inflect.engine()
WORDS = yaml.safe_load(Path(__file__).with_name("english.yaml").read_text(encoding="utf-8"))
_UNINFLECTED, _UNCOUNTED = (set(WORDS[name].split()) for name in ("uninflected", "uncounted"))
_PARTICIPLES = ("ed", "ilt", "orn", "out", "eld", "old", "aid")
_WHEN = {"on": "date", "in": "year"}


def words(name: str) -> list[str]:
    """The words of an identifier in lower case, with common abbreviations spelled out.

    >>> words("stuFname"), words("opened_on"), words("built_in")
    (['student', 'first', 'name'], ['date', 'opened'], ['year', 'built'])
    """
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", name)
    pieces = [piece.lower() for piece in re.split(r"[\s_\-.]+", spaced) if piece]
    if len(pieces) > 1 and pieces[-1] in _WHEN and pieces[-2].endswith(_PARTICIPLES):
        pieces = [_WHEN[pieces[-1]], *pieces[:-1]]
    return _counted(" ".join(WORDS["abbreviations"].get(piece, piece) for piece in pieces).split())


def _counted(pieces: list[str]) -> list[str]:
    """`number of employees` for `num employees`."""
    if len(pieces) > 1 and pieces[0] in ("num", "number") and pieces[1] != "of" and _is_plural(pieces[-1]):
        return ["number", "of", *pieces[1:]]
    return pieces


@lru_cache(maxsize=65536)
def plural(noun: str) -> str:
    """The plural of a noun phrase, formed on its head: the last word before "of", or the last word."""
    head, of, rest = noun.partition(" of ")
    first, _, last = head.rpartition(" ")
    if last in _UNINFLECTED or _is_plural(last) or not last.isalpha():
        return noun
    if first and last.endswith(_PARTICIPLES) and first.split()[0] in ("date", "number", "amount", "year"):
        return f"{plural(first)} {last}"
    return f"{first} {_INFLECT.plural_noun(last)}".strip() + of + rest


@lru_cache(maxsize=65536)
def singular(noun: str) -> str:
    """The singular of a noun phrase."""
    first, _, last = noun.rpartition(" ")
    return f"{first} {_INFLECT.singular_noun(last)}".strip() if _is_plural(last) else noun


@lru_cache(maxsize=65536)
def _is_plural(word: str) -> bool:
    if not word.isalpha() or word in _UNCOUNTED or word.endswith(("ss", "us", "is", "ics")) or len(word) < 3:
        return False
    return bool(_INFLECT.singular_noun(word))


def names_year(noun: str) -> bool:
    """Whether a noun names a year; "passengers per year" and "yearly visitors" do not."""
    return "year" in noun.split() and "per" not in noun.split()


class Names:
    """The singular nouns of one database: `entities` of the rows by table, `columns` by table and column.

    `given` overrides column nouns: (table, column) in lower case -> words.
    """

    def __init__(self, profile: Profile, given: Mapping[tuple[str, str], str] | None = None) -> None:
        schema = profile.schema
        given = {key: " ".join(_counted(noun.split())) for key, noun in (given or {}).items()}
        self._profile = profile
        self.entities = {t.name: _entity(t.name) for t in schema.tables}
        full = {
            (t.name, c.name): given.get((t.name.lower(), c.name.lower())) or " ".join(words(c.name))
            for t in schema.tables
            for c in t.columns
        }
        self.columns = {key: self._short(schema, key, full) for key in full}

    def _short(self, schema: Schema, key: tuple[str, str], full: Mapping[tuple[str, str], str]) -> str:
        """The column's noun without its own entity's name: `customer_name` of customers is a "name"."""
        noun, entity = full[key], self.entities[key[0]]
        taken = {full[key[0], c.name] for c in schema.table(key[0]).columns}
        if noun == entity and not self.numeric(*key) and "name" not in taken:
            return "name"
        rest = noun.removeprefix(entity + " ")
        return rest if rest not in taken and len(rest) > 2 and not noun.endswith(" id") else noun

    def numeric(self, table: str, column: str) -> bool:
        """Whether a column holds numbers, so that it has highest and lowest values."""
        return self._profile.columns[table, column].kind == "number"

    def dated(self, table: str, column: str) -> bool:
        """Whether a column holds dates or years, so that its highest value is the latest. 3 is a number of years."""
        statistics, noun = self._profile.columns[table, column], self.columns[table, column]
        years = names_year(noun) and all(map(is_year, statistics.quantiles))
        return statistics.kind == "date" or (statistics.kind == "number" and (years or "date" in noun.split()))

    def role(self, table: str, column: str, parent: str) -> str:
        """What a foreign key to `parent` refers to: `winning_pilot` a "winning pilot", `singer_id` a "singer".

        If several keys connect the two tables, or the table refers to itself, the column's own words tell which key.
        """
        entity = self.entities[parent]
        own = [w for w in words(column) if w not in ("id", "code", "key", "number", "ids", "no")]
        role = singular(" ".join(own))
        several = table == parent or self._profile.keys_between[frozenset((table, parent))] > 1
        named = len(own) > 1 and role.endswith(entity.split()[-1])
        return role if named or (several and own) else entity


def _entity(table: str) -> str:
    pieces = [w for w in words(table) if w not in ("reference", "tbl", "table", "all")] or words(table)
    return singular(" ".join(pieces))
