"""English for the parts of a plan: columns, values, filters. A seeded generator picks between wordings.

Everything that comes from the database (nouns, values, numbers) is put between two control characters, so that the
surface template of a finished question can be separated from its content.
"""

import random
import re
from collections.abc import Sequence
from functools import lru_cache

from sqlgen.naming import INFLECT, WORDS, Names, names_year
from sqlgen.query_plan import Filter, Measure, QueryPlan, Ref, is_year
from sqlr1.database.sql import exact

_SLOT = re.compile("\x01[^\x02]*\x02")
_CHOICE = re.compile(r"\[([^]]*)\]")
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
    return INFLECT.a(noun).split(" ", 1)[0]


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

    def say(self, templates: Sequence[str], **fields: str) -> str:
        """One of the templates, with one option of each `[a|b]` and the fields filled in."""
        template = self.pick(*templates) if len(templates) > 1 else templates[0]
        return _CHOICE.sub(lambda match: self.pick(*match[1].split("|")), template).format(**fields)

    def subject(self, plan: QueryPlan, occurrence: int = 0) -> str:
        """The singular noun of an occurrence, not marked: if reached by a key, a role such as "winning pilot"."""
        if occurrence:
            join = plan.joins[occurrence - 1]
            if join.up:
                return self.names.role(plan.tables[join.left.occurrence], join.left.column, plan.tables[occurrence])
        return self.names.entities[plan.tables[occurrence]]

    def subjects(self, plan: QueryPlan, occurrence: int = 0) -> str:
        """The plural noun of an occurrence, marked."""
        return slot(self.names.plural(self.subject(plan, occurrence)))

    def noun(self, plan: QueryPlan, ref: Ref) -> str:
        """The singular noun of a column, not marked."""
        return self.names.columns[plan.tables[ref.occurrence], ref.column]

    def columns(self, plan: QueryPlan, refs: Sequence[Ref], many: bool) -> str:
        """`name and age`, or `names and ages` when `many`."""
        nouns = [self.noun(plan, ref) for ref in refs]
        return listing([slot(self.names.plural(n) if many else n) for n in nouns])

    def measure(self, plan: QueryPlan, measure: Measure) -> str:
        """`average age`, `number of songs`, without the article."""
        if measure.function == "count":
            if measure.ref is None or not measure.distinct:
                return f"number of {self.subjects(plan)}"
            return f"number of {self.pick('different', 'distinct')} {self.columns(plan, [measure.ref], True)}"
        noun = self.noun(plan, measure.ref)
        # The sum of a column named "total" is not its "total total".
        every = WORDS["functions"][measure.function]
        words = [word for word in every if word not in noun.split()] or every
        return f"{'combined' if words == ['summed'] else self.pick(*words)} {slot(noun)}"

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
            return self._compared(noun, op, value.outputs[0])
        if op in WORDS["of_two"]:
            first, second = map(self.value, value)
            return self.say(WORDS["of_two"][op], first=first, second=second)
        if self._hidden and op[0] in "<>" and isinstance(value, (int, float)) and noun:
            word = self.pick(*self._hidden["high" if op[0] == ">" else "low"])
            self.evidence[f"{noun} is {word}"] = f'{noun} "{word}" means {noun} {op} {exact(value)}'
            return f"is {word}"
        dated = isinstance(value, str) or (names_year(noun) and is_year(value))  # "3 years" is no date
        return self.pick(*WORDS["dated" if dated and op[0] in "<>" else "predicates"][op]).format(self.value(value))

    def _compared(self, noun: str, op: str, measure: Measure) -> str:
        """A comparison with an aggregate of all rows: `is above the average age`."""
        word = self.pick(*WORDS["functions"][measure.function])
        if op == "=":
            return f"is the {word} one"
        relation = {name: self.pick(*words) for name, words in WORDS["relations"].items()}[op]
        of_all = self.pick("", "", " overall")
        return f"is {relation} the {word}{f' {slot(noun)}' if of_all else self.pick('', f' {slot(noun)}')}{of_all}"

    def filtered(self, plan: QueryPlan, many: bool = True, determiner: str = "") -> str:
        """The subject with its filters: `songs whose year is above 2000 and whose singer's country is "France"`."""
        noun = self.subjects(plan) if many else slot(self.subject(plan))
        return " ".join(filter(None, [determiner, noun, self.restriction(plan, many)]))

    def restriction(self, plan: QueryPlan, many: bool = True) -> str:
        """All filters as relative clauses, or nothing."""
        clauses = [self._agreeing(plan, item.ref, self._clause(plan, item, many)) for item in plan.filters]
        if not plan.group and not any(item.ref.occurrence for item in plan.filters):
            for number, join in enumerate(plan.joins, 1):  # the join drops rows without a parent
                if join.up and self.names.drops(plan.tables[join.left.occurrence], join.left.column):
                    other = self.subject(plan, number)
                    clauses.append(f"that {'have' if many else 'has'} {article(other)} {slot(other)}")
        return listing(clauses, "or" if plan.any_of else "and") if clauses else ""

    def _agreeing(self, plan: QueryPlan, ref: Ref, clause: str) -> str:
        """`whose details are "x"`, after a plural noun of a text."""
        if not self.names.several(plan.tables[ref.occurrence], ref.column):
            return clause
        verb = f"(?<={re.escape(slot(self.noun(plan, ref)))} )\\w+"
        return re.sub(verb, lambda match: INFLECT.plural_verb(match[0]), clause)

    def _clause(self, plan: QueryPlan, item: Filter, many: bool) -> str:
        """One filter as a relative clause of a plural or singular subject."""
        have, do, value = "have" if many else "has", "do" if many else "does", item.value
        if item.op in ("in", "not_in") and isinstance(value, QueryPlan):
            # `that have no song whose year is 2000`, without saying that the key of a song is known.
            value = value.with_(filters=tuple(f for f in value.filters if f.ref != value.outputs[0]))
            one, several = self.filtered(value, many=False), self.filtered(value)
            return self.say(WORDS["members"][item.op], one=one, several=several, have=have, do=do)
        noun, occurrence = self.noun(plan, item.ref), item.ref.occurrence
        if occurrence == 0:
            if item.op == "=" and not isinstance(value, QueryPlan):
                forms = WORDS["clauses"]["own_equals"][: 2 if noun.startswith("number of ") else None]
                return self.say(forms, noun=slot(noun), value=self.value(value))
            return f"{self.pick('whose', 'whose', 'where the')} {slot(noun)} {self.predicate(noun, item.op, value)}"
        predicate, other = self.predicate(noun, item.op, value), self.subject(plan, occurrence)
        upwards, before = _reached_upwards(plan, occurrence), plan.joins[occurrence - 1].left.occurrence
        # A row may have several of those between, unless they are mere links, and its customer's agent is not its own.
        between, entities = self.subject(plan, before), self.names.entities
        said = (between, other) != (entities[plan.tables[before]], entities[plan.tables[occurrence]])
        if not upwards:
            said = plan.joins[occurrence - 1].up and not self.names.links(plan.tables[before])
        if before and said:
            return f"with {article(between)} {slot(between)} whose {slot(other)}'s {slot(noun)} {predicate}"
        fields = {"noun": slot(noun), "predicate": predicate, "other": slot(other), "have": have, "a": article(other)}
        forms = WORDS["clauses"]["of_parent" if upwards else "of_child"]
        clause = self.say(forms[:1] if upwards and before else forms, **fields)
        if upwards and item.op == "=":
            return self.pick(clause, f"whose {slot(other)} has {slot(noun)} {self.value(value)}")
        return clause


def _reached_upwards(plan: QueryPlan, occurrence: int) -> bool:
    """Whether only foreign keys from child to parent lead from the subject to an occurrence."""
    join = plan.joins[occurrence - 1]
    return occurrence == 0 or (join.up and _reached_upwards(plan, join.left.occurrence))
