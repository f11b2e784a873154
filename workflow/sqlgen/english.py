"""English for the parts of a plan: columns, values, filters, sort orders. Variation comes from a seeded generator.

Everything that a database fills in (nouns, values, numbers) is put between two control characters, so that the surface
template of a finished question can be told from its content.
"""

import random
import re
from functools import lru_cache

import inflect

from sqlgen.naming import Names, names_year, plural
from sqlgen.query_plan import Filter, Measure, Query, Ref, is_year
from sqlr1.database.sql import exact

_INFLECT = inflect.engine()
_SLOT = re.compile("\x01[^\x02]*\x02")
_MORE = ("greater than", "more than", "above", "over", "higher than", "larger than")
_LESS = ("less than", "below", "under", "lower than", "smaller than")
_FUNCTION_WORDS = {
    "avg": ("average", "average", "mean"),
    "sum": ("total", "total", "total", "summed"),
    "min": ("minimum", "lowest", "smallest"),
    "max": ("maximum", "highest", "largest"),
}

_UP, _DOWN = ("rather high", "on the high side", "quite large"), ("rather low", "on the low side", "fairly small")
_PEAK, _VALLEY = (
    ("up in the clouds", "a towering peak", "above the waterline"),
    ("down in the valley", "a mere drop in the ocean"),
)
_HIDDEN = {
    "vague": {">": _UP, ">=": _UP, "<": _DOWN, "<=": _DOWN},
    "metaphorical": {">": _PEAK, ">=": _PEAK, "<": _VALLEY, "<=": _VALLEY},
}


HIDING = tuple(_HIDDEN)


def slot(text: object) -> str:
    """Mark text that comes from the database."""
    return f"\x01{text}\x02"


def plain(text: str) -> str:
    """The text without slot marks, single-spaced."""
    return re.sub(r"\s+", " ", text.replace("\x01", "").replace("\x02", "")).strip()


def surface(text: str) -> str:
    """The text with every slot as `_`: its surface template."""
    return re.sub(r"\s+", " ", _SLOT.sub("_", text)).strip()


def listing(items: list[str], word: str = "and") -> str:
    """`a`, `a and b`, `a, b and c`."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} {word} {items[-1]}"


@lru_cache(maxsize=65536)
def article(noun: str) -> str:
    """`a` or `an`."""
    return _INFLECT.a(noun).split(" ", 1)[0]


class Speaker:
    """Says the parts of plans over one database."""

    def __init__(self, names: Names, rng: random.Random, hidden: str = "") -> None:
        """`hidden` (vague or metaphorical) puts words for thresholds; what they mean is collected in `evidence`."""
        self.names = names
        self.rng = rng
        self.evidence: dict[str, str] = {}
        self._hidden = _HIDDEN.get(hidden)

    def pick(self, *options: str) -> str:
        """One of the options; repeat an option to make it likelier."""
        return options[self.rng.randrange(len(options))]

    def subject(self, query: Query, occurrence: int = 0) -> str:
        """The singular noun of an occurrence, not marked: a role such as "winning pilot" when reached by a key."""
        if occurrence:
            join = query.joins[occurrence - 1]
            if join.up:
                return self.names.role(query.tables[join.left.occurrence], join.left.column, query.tables[occurrence])
        return self.names.entity(query.tables[occurrence])

    def subjects(self, query: Query, occurrence: int = 0) -> str:
        """The plural noun of an occurrence, marked."""
        return slot(plural(self.subject(query, occurrence)))

    def noun(self, query: Query, ref: Ref) -> str:
        """The singular noun of a column, not marked."""
        return self.names.column(query.tables[ref.occurrence], ref.column)

    def columns(self, query: Query, refs: list[Ref], many: bool) -> str:
        """`name and age`, or `names and ages` when `many`."""
        nouns = [self.noun(query, ref) for ref in refs]
        return listing([slot(plural(n) if many else n) for n in nouns])

    def measure(self, query: Query, measure: Measure) -> str:
        """`average age`, `number of songs`, without the article."""
        if measure.function == "count":
            if measure.ref is None or not measure.distinct:
                return f"number of {self.subjects(query)}"
            return f"number of {self.pick('different', 'distinct')} {slot(plural(self.noun(query, measure.ref)))}"
        noun = self.noun(query, measure.ref)
        # A column of totals has a summed total, not a total total.
        words = [word for word in _FUNCTION_WORDS[measure.function] if word not in noun.split()]
        return f"{self.pick(*words)} {slot(noun)}"

    def value(self, value: object) -> str:
        """A value as people write it: numbers bare, text mostly in quotes."""
        if not isinstance(value, str):
            return slot(exact(value))
        bare = re.fullmatch(r"[A-Z0-9][\w-]*( [A-Z0-9][\w-]*)*", value)
        quote = self.pick('"', '"', "'", "" if bare else '"', "" if bare else "'")
        return slot(f"{quote}{value}{quote}")

    def predicate(self, noun: str, op: str, value: object) -> str:
        """What is said of a column's noun: `is greater than 20`, `starts with "A"`."""
        if isinstance(value, Query):
            return self._compared(noun, op, value)
        if op in ("between", "in", "not_in"):
            low, high = self.value(value[0]), listing([self.value(v) for v in value[1:]], "or")
            if op == "between":
                return self.pick(f"is between {low} and {high}", f"ranges from {low} to {high}")
            return f"is {self.pick('either ', '')}{low} or {high}" if op == "in" else f"is neither {low} nor {high}"
        if self._hidden and op in self._hidden and isinstance(value, (int, float)) and noun:
            word = self.pick(*self._hidden[op])
            self.evidence[f"{noun} is {word}"] = f'{noun} "{word}" means {noun} {op} {exact(value)}'
            return f"is {word}"
        dated = isinstance(value, str) or (names_year(noun) and is_year(value))  # 3 is a number of years
        forms = {
            "=": ("is {}", "is {}", "equals {}"),
            "!=": ("is not {}", "is not {}", "is other than {}", "differs from {}"),
            ">": ("is after {}",) if dated else (*tuple(f"is {w} {{}}" for w in _MORE), "exceeds {}"),
            "<": ("is before {}",) if dated else tuple(f"is {w} {{}}" for w in _LESS),
            ">=": ("is {} or later",) if dated else ("is at least {}", "is {} or more", "is no less than {}"),
            "<=": ("is {} or earlier",) if dated else ("is at most {}", "is {} or less", "is no more than {}"),
            "prefix": ("starts with {}", "begins with {}"),
            "suffix": ("ends with {}", "ends in {}"),
            "contains": ("contains {}", "includes {}", "has {} in it"),
            "null": ("is missing", "is not recorded", "is unknown"),
            "not_null": ("is recorded", "is known", "is not missing"),
            "year": ("is in {}", "falls in {}", "is in the year {}"),
        }[op]
        return self.pick(*forms).format(self.value(value))

    def _compared(self, noun: str, op: str, value: Query) -> str:
        measure = value.outputs[0]
        word = self.pick(*_FUNCTION_WORDS[measure.function])
        if op == "=":
            return f"is the {word} one" if not value.filters else f"equals the {word} {slot(noun)}"
        relation = {">": self.pick(*_MORE), "<": self.pick(*_LESS), "!=": "different from"}[op]
        of_all = f" of {self.filtered(value)}" if value.filters else self.pick("", "", " overall")
        return f"is {relation} the {word}{self.pick('', ' ' + slot(noun)) if not of_all else ' ' + slot(noun)}{of_all}"

    def filtered(self, query: Query, many: bool = True, determiner: str = "") -> str:
        """The subject with its filters: `songs whose year is above 2000 and whose singer's country is "France"`."""
        noun = self.subjects(query) if many else slot(self.subject(query))
        return " ".join(filter(None, [determiner, noun, self.restriction(query, many)]))

    def restriction(self, query: Query, many: bool = True) -> str:
        """All filters as a relative clause, or nothing."""
        word = "or" if query.any_of else "and"
        return listing([self._clause(query, f, many) for f in query.filters], word) if query.filters else ""

    def _clause(self, query: Query, item: Filter, many: bool) -> str:
        if item.op in ("in", "not_in") and isinstance(item.value, Query):
            return self._membership(item, many)
        noun = self.noun(query, item.ref)
        if item.ref.occurrence == 0:
            return self._own_clause(noun, item)
        predicate = self.predicate(noun, item.op, item.value)
        other = self.subject(query, item.ref.occurrence)
        if self._reached_upwards(query, item.ref.occurrence):
            clause = self.pick(
                f"whose {slot(other)}'s {slot(noun)} {predicate}",
                f"whose {slot(other)} is one whose {slot(noun)} {predicate}",
            )
            if item.op == "=":
                direct = f"whose {slot(other)} has {slot(noun)} {self.value(item.value)}"
                clause = self.pick(clause, direct)
            return clause
        have = "have" if many else "has"
        lead = self.pick(
            f"that {have} {article(other)}", "with at least one", f"with {article(other)}", f"that {have} some"
        )
        return f"{lead} {slot(other)} whose {slot(noun)} {predicate}"

    def _membership(self, item: Filter, many: bool) -> str:
        """`that have no song whose year is 2000`: the members' own key condition goes without saying."""
        inner = item.value
        spoken = tuple(f for f in inner.filters if f.ref != inner.outputs[0])
        inner = inner.with_(filters=spoken)
        one, several = self.filtered(inner, many=False), self.filtered(inner)
        have, do = ("have", "do") if many else ("has", "does")
        if item.op == "not_in":
            return self.pick(
                f"that {do} not have any {several}",
                f"without any {several}",
                f"that {have} no {several}",
                f"with no {several}",
            )
        return self.pick(f"that {have} at least one {one}", f"with at least one {one}", f"that {have} any {several}")

    def _own_clause(self, noun: str, item: Filter) -> str:
        value = item.value
        if item.op == "=" and not isinstance(value, Query):
            said = self.value(value)
            return self.pick(
                f"whose {slot(noun)} is {said}", f"whose {slot(noun)} is {said}", f"with {slot(noun)} {said}",
                f"with {said} as {slot(noun)}", f"with the {slot(noun)} {said}", f"where the {slot(noun)} is {said}",
                f"having {slot(noun)} {said}",
            )  # fmt: skip
        return f"{self.pick('whose', 'whose', 'where the')} {slot(noun)} {self.predicate(noun, item.op, value)}"

    def _reached_upwards(self, query: Query, occurrence: int) -> bool:
        while occurrence:
            join = query.joins[occurrence - 1]
            if not join.up:
                return False
            occurrence = join.left.occurrence
        return True
