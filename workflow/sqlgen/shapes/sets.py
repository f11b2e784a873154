"""Shapes with INTERSECT, EXCEPT and UNION: values or entities that have both, one without the other, or either."""

import random
from dataclasses import dataclass

from sqlgen.english import Speaker
from sqlgen.naming import WORDS
from sqlgen.query_plan import Filter, QueryPlan
from sqlgen.shapes.joined import chain, down, up
from sqlgen.speakable import NoPlan, SpeakableDatabase, choose, require
from sqlgen.sql_text import select
from sqlgen.wording import CompoundPlan, Wording

# How the left and the right block are said, by kind.
_SIDES = {
    "values": (Speaker.filtered, Speaker.filtered),
    "entities": (Speaker.filtered, Speaker.restriction),
    "tables": (Speaker.subjects, Speaker.subjects),
}


@dataclass(frozen=True)
class SetPlan(CompoundPlan):
    """Two SELECT blocks combined. `kind` says what the output is: values, entities, or tables (a noun of two tables).

    Entities are combined by INTERSECT or EXCEPT only.
    """

    operator: str
    other: QueryPlan
    kind: str

    def sql(self) -> str:
        return f"{select(self.base)} {self.operator.upper()} {select(self.other)}"

    def wording(self, speaker: Speaker) -> Wording:
        nouns, subjects = speaker.outputs(self.base, True), speaker.subjects(self.base)
        say_left, say_right = _SIDES[self.kind]
        left, right = say_left(speaker, self.base), say_right(speaker, self.other)
        form = speaker.pick(*WORDS["sets"][self.kind][self.operator])
        return Wording(form.format(nouns=nouns, left=left, right=right, subjects=subjects), True)


@dataclass(frozen=True)
class ThreeSets(CompoundPlan):
    """Three SELECT blocks combined from left to right, by INTERSECT or EXCEPT and then by INTERSECT or EXCEPT."""

    operators: tuple[str, str]
    second: QueryPlan
    third: QueryPlan

    def sql(self) -> str:
        first, last = (operator.upper() for operator in self.operators)
        return f"{select(self.base)} {first} {select(self.second)} {last} {select(self.third)}"

    def wording(self, speaker: Speaker) -> Wording:
        nouns = speaker.outputs(self.base, True)
        blocks = (self.base, self.second, self.third)
        if self.base.joins:
            owner = f"of {speaker.subjects(self.base)}"
            first, second, third = map(speaker.restriction, blocks)
            without, neither = f"except those {third}", f"except those {second} and those {third}"
        else:
            owner = "that have"
            first, second, third = map(speaker.filtered, blocks)
            without, neither = f"but no {third}", f"but neither {second} nor {third}"
        both = speaker.pick(f"both {first} and {second}", f"{first} and also {second}")
        said = {
            ("intersect", "intersect"): f"{first}, {second} and also {third}",
            ("intersect", "except"): f"{both}, {without}",
            ("except", "except"): f"{first}, {neither}",
        }[self.operators]
        return Wording(f"the {nouns} {owner} {said}", True)


def set_values(db: SpeakableDatabase, rng: random.Random) -> SetPlan:
    """Values of a column that rows of one kind have, and rows of another kind do too, do not, or may."""
    table = rng.choice(db.tables)
    # Set operations treat NULLs as equal, but people do not say that two rows share a missing value.
    key = choose(rng, [c for c in db.complete(table, db.repeated(table)) if db.statistics(table, c).distinct > 1])
    blocks = [QueryPlan.of(table, key, filters=(item,)) for item in _two_filters(db, rng, table, 0, key)]
    operator = _operator(rng)
    if operator == "except" and rng.random() < 0.3:
        blocks[0] = blocks[0].with_(filters=())
    return SetPlan(blocks[0], operator, blocks[1], "values")


def _operator(rng: random.Random) -> str:
    return rng.choices(["intersect", "except", "union"], [5, 5, 2])[0]


def _two_filters(
    db: SpeakableDatabase, rng: random.Random, table: str, occurrence: int, avoid: str
) -> tuple[Filter, Filter]:
    """Two conditions that no single row meets (two values of a column, or above and below); else of two columns."""
    first = require(db.filter(rng, table, occurrence, [avoid]))
    statistics = db.statistics(table, first.ref.column)
    if first.op in (">", ">=") and statistics.kind == "number":
        low = statistics.quantiles[1]
        if low >= first.value:
            raise NoPlan
        return first, Filter(first.ref, "<", low)
    if first.op == "=":
        others = [v for v, _ in statistics.values[:12] if v != first.value]
        return first, Filter(first.ref, "=", choose(rng, others))
    return first, require(db.filter(rng, table, occurrence, [avoid, first.ref.column]))


def set_entities(db: SpeakableDatabase, rng: random.Random) -> SetPlan:
    """Parents that have one kind of child and also (not) another kind, directly or through a link table.

    Only parents with unique labels: sets of labels would else mix up different parents of one name.
    """
    named = [t for t in db.tables if db.statistics(t, db.label(t)).unique]
    paths = [(k.parent, down(k)) for table in named for k in db.down_keys[table]]
    paths += [(a.parent, down(a), up(b, 1)) for a, b in db.links if a.parent in named]
    plan = chain(*choose(rng, paths))
    plan, last = plan.showing(db.label(plan.tables[0])), len(plan.tables) - 1
    blocks = [plan.with_(filters=(item,)) for item in _two_filters(db, rng, plan.tables[last], last, "")]
    operator = rng.choice(["intersect", "intersect", "except"])
    if operator == "except" and rng.random() < 0.5:
        blocks[0] = QueryPlan(plan.tables[:1], plan.outputs)
    return SetPlan(blocks[0], operator, blocks[1], "entities")


def set_tables(db: SpeakableDatabase, rng: random.Random) -> SetPlan:
    """A noun that two tables share, such as the city of customers and of branches."""
    texts = [(t, c) for t in db.tables for c in db.complete(t, db.of_kind(t, "text"))]
    pairs = [(a, b) for a in texts for b in texts if a[0] != b[0] and db.names.column(*a) == db.names.column(*b)]
    left, right = choose(rng, pairs)
    return SetPlan(QueryPlan.of(*left), _operator(rng), QueryPlan.of(*right), "tables")


def three_sets(db: SpeakableDatabase, rng: random.Random) -> ThreeSets:
    """Values, or parents, that have one kind of row, and have or do not have two others."""
    plan = rng.choice([set_values, set_entities])(db, rng)
    if plan.operator == "union" or not plan.base.filters:
        raise NoPlan
    last, used = len(plan.other.tables) - 1, [f.ref.column for f in (*plan.base.filters, *plan.other.filters)]
    avoid = [o.column for o in plan.base.outputs if o.occurrence == last]
    item = require(db.filter(rng, plan.other.tables[last], last, [*used, *avoid]))
    second = "except" if plan.operator == "except" else rng.choice(["except", "except", "intersect"])
    return ThreeSets(plan.base, (plan.operator, second), plan.other, plan.other.with_(filters=(item,)))
