"""Shapes with INTERSECT, EXCEPT and UNION: values or entities that have both, one without the other, or either."""

import random
from dataclasses import dataclass

from sqlglot import exp

from sqlgen.builder import select
from sqlgen.english import Speaker
from sqlgen.query_plan import Filter, Query, Ref
from sqlgen.requests import Request
from sqlgen.shapes.joined import chain, down, up
from sqlgen.world import World

_OPERATIONS = {"intersect": exp.Intersect, "except": exp.Except, "union": exp.Union}


@dataclass(frozen=True)
class SetPlan:
    """Two SELECT blocks combined. `kind` says what the output is: a shared value, an entity, a noun of two tables."""

    operator: str
    base: Query
    other: Query
    kind: str

    def expression(self) -> exp.Expression:
        """LEFT operator RIGHT."""
        return _OPERATIONS[self.operator](this=select(self.base), expression=select(self.other), distinct=True)

    def request(self, speaker: Speaker) -> Request:
        """What is asked."""
        nouns = speaker.columns(self.base, list(self.base.outputs), True)
        words = {"values": self._values, "entities": self._entities, "tables": self._tables}[self.kind](speaker, nouns)
        return Request(speaker.pick(*words), True)

    def _values(self, speaker: Speaker, nouns: str) -> tuple[str, ...]:
        left, right = speaker.filtered(self.base), speaker.filtered(self.other)
        if self.operator == "intersect":
            return (
                f"the {nouns} that have both {left} and {right}",
                f"the {nouns} shared by {left} and {right}",
                f"the {nouns} of both {left} and {right}",
            )
        if self.operator == "union":
            return (
                f"the different {nouns} of {left} or of {right}",
                f"the distinct {nouns} that have {left} or {right}",
            )
        return (
            f"the {nouns} that have {left} but no {right}",
            f"the different {nouns} of {left}, leaving out those of {right}",
            f"the {nouns} of {left}, except for those that also have {right}",
        )

    def _entities(self, speaker: Speaker, nouns: str) -> tuple[str, ...]:
        left, right = speaker.filtered(self.base), speaker.restriction(self.other)
        subjects = speaker.subjects(self.base)
        if self.operator == "intersect":
            return (f"the {nouns} of {left} and also {right}", f"the {nouns} shared by {left} and {subjects} {right}")
        if self.operator == "union":
            return (f"the distinct {nouns} of {left} or {right}",)
        return (
            f"the {nouns} of {left}, except those of {subjects} {right}",
            f"the {nouns} of {left} but not of any {subjects} {right}",
        )

    def _tables(self, speaker: Speaker, nouns: str) -> tuple[str, ...]:
        left, right = speaker.subjects(self.base), speaker.subjects(self.other)
        if self.operator == "intersect":
            return (
                f"the {nouns} that appear among both {left} and {right}",
                f"the {nouns} shared by {left} and {right}",
            )
        if self.operator == "union":
            return (f"all different {nouns} of {left} and {right} together", f"the {nouns} of any {left} or {right}")
        return (f"the {nouns} of {left} that no {right} have", f"the {nouns} of {left} that do not occur among {right}")


@dataclass(frozen=True)
class ThreeSets:
    """Three SELECT blocks combined from left to right, by INTERSECT or EXCEPT and then by INTERSECT or EXCEPT."""

    operators: tuple[str, str]
    base: Query
    second: Query
    third: Query

    def expression(self) -> exp.Expression:
        """(BASE operator SECOND) operator THIRD."""
        first, last = (_OPERATIONS[operator] for operator in self.operators)
        pair = first(this=select(self.base), expression=select(self.second), distinct=True)
        return last(this=pair, expression=select(self.third), distinct=True)

    def request(self, speaker: Speaker) -> Request:
        """What is asked."""
        nouns = speaker.columns(self.base, list(self.base.outputs), True)
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
        return Request(f"the {nouns} {owner} {said}", True)


def _operator(rng: random.Random) -> str:
    return rng.choices(["intersect", "except", "union"], [5, 5, 2])[0]


def set_values(world: World, rng: random.Random) -> SetPlan | None:
    """Values of a column that rows of one kind have, and rows of another kind do too, do not, or may."""
    table = rng.choice(world.tables)
    # NULL, which is equal to itself in set operations, is no value that two kinds of rows share.
    keys = [c for c in world.complete(table, world.speakable(table)) if not world.statistics(table, c).unique]
    keys = [c for c in keys if world.statistics(table, c).distinct > 1]
    if not keys:
        return None
    key = rng.choice(keys)
    pair = _two_filters(world, rng, table, 0, key)
    if not pair:
        return None
    blocks = [Query((table,), (Ref(0, key),), filters=(item,)) for item in pair]
    operator = _operator(rng)
    if operator == "except" and rng.random() < 0.3:
        blocks[0] = blocks[0].with_(filters=())
    return SetPlan(operator, *blocks, "values")


def _two_filters(
    world: World, rng: random.Random, table: str, occurrence: int, avoid: str
) -> tuple[Filter, Filter] | None:
    """Two conditions that no single row meets: two values of a column, or above and below; else two columns."""
    first = world.filter(rng, table, occurrence, [avoid])
    if not first:
        return None
    statistics = world.statistics(table, first.ref.column)
    if first.op in (">", ">=") and statistics.kind == "number":
        low = statistics.quantiles[1]
        return (first, Filter(first.ref, "<", low)) if low < first.value else None
    if first.op == "=":
        others = [v for v, _ in statistics.values[:12] if v != first.value]
        return (first, Filter(first.ref, "=", rng.choice(others))) if others else None
    second = world.filter(rng, table, occurrence, [avoid, first.ref.column])
    return (first, second) if second else None


def set_entities(world: World, rng: random.Random) -> SetPlan | None:
    """Parents that have one kind of child and also (not) another kind, directly or through a link table.

    Sets of labels are sets of parents only where no two parents share a label.
    """
    named = [t for t in world.tables if world.statistics(t, world.label(t)).unique]
    paths = [(k.parent, (down(k), k.table)) for table in named for k in world.down_keys[table]]
    paths += [(a.parent, (down(a), a.table), (up(b, 1), b.parent)) for a, b in world.links if a.parent in named]
    if not paths:
        return None
    tables, joins = chain(*rng.choice(paths))
    last = len(tables) - 1
    pair = _two_filters(world, rng, tables[last], last, "")
    if not pair:
        return None
    outputs = (Ref(0, world.label(tables[0])),)
    blocks = [Query(tables, outputs, joins, (item,)) for item in pair]
    operator = rng.choice(["intersect", "intersect", "except"])
    if operator == "except" and rng.random() < 0.5:
        blocks[0] = Query(tables[:1], outputs)
    return SetPlan(operator, *blocks, "entities")


def set_tables(world: World, rng: random.Random) -> SetPlan | None:
    """A noun that two tables share, such as the city of customers and of branches."""
    texts = [(t, c) for t in world.tables for c in world.complete(t, world.of_kind(t, "text"))]
    columns = [(t, c, world.names.column(t, c)) for t, c in texts]
    pairs = [(a, b) for a in columns for b in columns if a[0] != b[0] and a[2] == b[2]]
    if not pairs:
        return None
    (left, first, _), (right, second, _) = rng.choice(pairs)
    return SetPlan(_operator(rng), Query((left,), (Ref(0, first),)), Query((right,), (Ref(0, second),)), "tables")


def three_sets(world: World, rng: random.Random) -> ThreeSets | None:
    """Values, or parents, that have one kind of row, and have or do not have two others."""
    plan = rng.choice([set_values, set_entities])(world, rng)
    if not plan or plan.operator == "union" or not plan.base.filters:
        return None
    last, used = len(plan.other.tables) - 1, [f.ref.column for f in (*plan.base.filters, *plan.other.filters)]
    avoid = [o.column for o in plan.base.outputs if o.occurrence == last]
    item = world.filter(rng, plan.other.tables[last], last, [*used, *avoid])
    if not item:
        return None
    second = "except" if plan.operator == "except" else rng.choice(["except", "except", "intersect"])
    return ThreeSets((plan.operator, second), plan.base, plan.other, plan.other.with_(filters=(item,)))
