"""English for the parts of a plan: columns, values, filters. A seeded generator picks between wordings.

Everything that comes from the database (nouns, values, numbers) is put between two control characters, so that the
surface template of a finished question can be separated from its content.
"""

import random
import re
from collections.abc import Sequence
from functools import lru_cache

import inflect

from sqlgen.naming import WORDS, Names, names_year, plural
from sqlgen.query_plan import Filter, Measure, QueryPlan, Ref, is_year
from sqlr1.database.sql import exact

_INFLECT = inflect.engine()
_SLOT = re.compile("\x01[^\x02]*\x02")
HIDING = tuple(WORDS["hidden"])  # the styles that hide thresholds


def slot(text: object) -> str:
    """Mark text that comes from the database."""
    return f"\x01{text}\x02"


def plain(text: str) -> str:
    """The text without slot marks, single-spaced."""
    return re.sub(r"\s+", " ", text.replace("\x01", "").replace("\x02", "")).strip()


def surface(text: str) -> str:
    """The surface template of a text: every slot as `_`."""
    return re.sub(r"\s+", " ", _SLOT.sub("_", text)).strip()


def listing(items: list[str], word: str = "and") -> str:
    """`a`, `a and b`, `a, b and c`."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} {word} {items[-1]}"


@lru_cache(maxsize=65536)
def article(noun: str) -> str:
    """`a` or `an`."""
    return _INFLECT.a(noun).split(" ", 1)[0]


class Speaker:
    """Puts the parts of plans over one database into words."""

    def __init__(self, names: Names, rng: random.Random, style: str = "") -> None:
        """The styles of `HIDING` replace thresholds by words; `evidence` collects what these words mean."""
        self.names = names
        self.rng = rng
        self.evidence: dict[str, str] = {}
        self._hidden = WORDS["hidden"].get(style)

    def pick(self, *options: str) -> str:
        """One of the options; repeat an option to make it likelier."""
        return options[self.rng.randrange(len(options))]

    def subject(self, plan: QueryPlan, occurrence: int = 0) -> str:
        """The singular noun of an occurrence, not marked: if reached by a key, a role such as "winning pilot"."""
        if occurrence:
            join = plan.joins[occurrence - 1]
            if join.up:
                return self.names.role(plan.tables[join.left.occurrence], join.left.column, plan.tables[occurrence])
        return self.names.entity(plan.tables[occurrence])

    def subjects(self, plan: QueryPlan, occurrence: int = 0) -> str:
        """The plural noun of an occurrence, marked."""
        return slot(plural(self.subject(plan, occurrence)))

    def noun(self, plan: QueryPlan, ref: Ref) -> str:
        """The singular noun of a column, not marked."""
        return self.names.column(plan.tables[ref.occurrence], ref.column)

    def columns(self, plan: QueryPlan, refs: Sequence[Ref], many: bool) -> str:
        """`name and age`, or `names and ages` when `many`."""
        nouns = [self.noun(plan, ref) for ref in refs]
        return listing([slot(plural(n) if many else n) for n in nouns])

    def outputs(self, plan: QueryPlan, many: bool) -> str:
        """The columns that a plan shows: `name and age`, or `names and ages` when `many`."""
        return self.columns(plan, plan.outputs, many)

    def measure(self, plan: QueryPlan, measure: Measure) -> str:
        """`average age`, `number of songs`, without the article."""
        if measure.function == "count":
            if measure.ref is None or not measure.distinct:
                return f"number of {self.subjects(plan)}"
            return f"number of {self.pick('different', 'distinct')} {slot(plural(self.noun(plan, measure.ref)))}"
        noun = self.noun(plan, measure.ref)
        # The sum of a column named "total" is not its "total total".
        words = [word for word in WORDS["functions"][measure.function] if word not in noun.split()]
        return f"{self.pick(*words)} {slot(noun)}"

    def value(self, value: object) -> str:
        """A value as people write it: numbers bare, text mostly in quotes."""
        if not isinstance(value, str):
            return slot(exact(value))
        bare = re.fullmatch(r"[A-Z0-9][\w-]*( [A-Z0-9][\w-]*)*", value)
        quote = self.pick('"', '"', "'", "" if bare else '"', "" if bare else "'")
        return slot(f"{quote}{value}{quote}")

    def predicate(self, noun: str, op: str, value: object) -> str:
        """What is said about a column's noun: `is greater than 20`, `starts with "A"`."""
        if isinstance(value, QueryPlan):
            return self._compared(noun, op, value)
        if op in ("between", "in", "not_in"):
            return self._of_several(op, value)
        if self._hidden and op[0] in "<>" and isinstance(value, (int, float)) and noun:
            word = self.pick(*self._hidden["high" if op[0] == ">" else "low"])
            self.evidence[f"{noun} is {word}"] = f'{noun} "{word}" means {noun} {op} {exact(value)}'
            return f"is {word}"
        dated = isinstance(value, str) or (names_year(noun) and is_year(value))  # "3 years" is no date
        forms = WORDS["dated" if dated and op[0] in "<>" else "predicates"][op]
        return self.pick(*forms).format(self.value(value))

    def _of_several(self, op: str, values: Sequence[object]) -> str:
        first, rest = self.value(values[0]), listing([self.value(v) for v in values[1:]], "or")
        if op == "between":
            return self.pick(f"is between {first} and {rest}", f"ranges from {first} to {rest}")
        return f"is {self.pick('either ', '')}{first} or {rest}" if op == "in" else f"is neither {first} nor {rest}"

    def _compared(self, noun: str, op: str, value: QueryPlan) -> str:
        """A comparison with an aggregate: `is above the average age`."""
        measure = value.outputs[0]
        word = self.pick(*WORDS["functions"][measure.function])
        if op == "=":
            return f"is the {word} one" if not value.filters else f"equals the {word} {slot(noun)}"
        relation = {name: self.pick(*words) for name, words in WORDS["relations"].items()}[op]
        of_all = f" of {self.filtered(value)}" if value.filters else self.pick("", "", " overall")
        return f"is {relation} the {word}{self.pick('', ' ' + slot(noun)) if not of_all else ' ' + slot(noun)}{of_all}"

    def filtered(self, plan: QueryPlan, many: bool = True, determiner: str = "") -> str:
        """The subject with its filters: `songs whose year is above 2000 and whose singer's country is "France"`."""
        noun = self.subjects(plan) if many else slot(self.subject(plan))
        return " ".join(filter(None, [determiner, noun, self.restriction(plan, many)]))

    def restriction(self, plan: QueryPlan, many: bool = True) -> str:
        """All filters as relative clauses, or nothing."""
        clauses = [self._clause(plan, item, many) for item in plan.filters]
        return listing(clauses, "or" if plan.any_of else "and") if clauses else ""

    def _clause(self, plan: QueryPlan, item: Filter, many: bool) -> str:
        if item.op in ("in", "not_in") and isinstance(item.value, QueryPlan):
            return self._membership(item, many)
        noun = self.noun(plan, item.ref)
        if item.ref.occurrence == 0:
            return self._own_clause(noun, item)
        predicate = self.predicate(noun, item.op, item.value)
        other = self.subject(plan, item.ref.occurrence)
        if _reached_upwards(plan, item.ref.occurrence):
            clause = self.pick(
                f"whose {slot(other)}'s {slot(noun)} {predicate}",
                f"whose {slot(other)} is one whose {slot(noun)} {predicate}",
            )
            if item.op == "=":
                clause = self.pick(clause, f"whose {slot(other)} has {slot(noun)} {self.value(item.value)}")
            return clause
        have = "have" if many else "has"
        lead = self.pick(
            f"that {have} {article(other)}", "with at least one", f"with {article(other)}", f"that {have} some"
        )
        return f"{lead} {slot(other)} whose {slot(noun)} {predicate}"

    def _membership(self, item: Filter, many: bool) -> str:
        """`that have no song whose year is 2000`, without saying that the key of a song is known."""
        inner = item.value
        inner = inner.with_(filters=tuple(f for f in inner.filters if f.ref != inner.outputs[0]))
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
        if item.op == "=" and not isinstance(value, QueryPlan):
            said = self.value(value)
            return self.pick(
                f"whose {slot(noun)} is {said}", f"whose {slot(noun)} is {said}", f"with {slot(noun)} {said}",
                f"with {said} as {slot(noun)}", f"with the {slot(noun)} {said}", f"where the {slot(noun)} is {said}",
                f"having {slot(noun)} {said}",
            )  # fmt: skip
        return f"{self.pick('whose', 'whose', 'where the')} {slot(noun)} {self.predicate(noun, item.op, value)}"


def _reached_upwards(plan: QueryPlan, occurrence: int) -> bool:
    """Whether only foreign keys from child to parent lead from the subject to an occurrence."""
    while occurrence:
        join = plan.joins[occurrence - 1]
        if not join.up:
            return False
        occurrence = join.left.occurrence
    return True
