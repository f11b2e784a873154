"""Shapes whose parts refer to each other: correlated subqueries, EXISTS, self joins, left joins."""

import random
from dataclasses import dataclass

from sqlglot import exp

from sqlgen.builder import Builder, aggregate, column, literal, ordered, source
from sqlgen.english import Speaker, slot
from sqlgen.query_plan import Filter, Query, Ref
from sqlgen.requests import Request
from sqlgen.world import World
from sqlr1.database import ForeignKey


@dataclass(frozen=True)
class AboveOwnGroup:
    """Rows whose `key` is above (below) the average of the rows that share their `group`."""

    base: Query
    key: Ref
    group: Ref
    above: bool

    def expression(self) -> exp.Expression:
        """A subquery over the same table as T2, correlated on the group."""
        same = exp.EQ(this=column("T2", self.group.column), expression=column("T1", self.group.column))
        inner = exp.Select(
            expressions=[aggregate("avg", column("T2", self.key.column))],
            from_=exp.From(this=source(self.base.tables[0], "T2")),
            where=exp.Where(this=same),
        )
        compare = exp.GT if self.above else exp.LT
        condition = compare(this=column("T1", self.key.column), expression=exp.Subquery(this=inner))
        return exp.Select(
            expressions=[column("T1", o.column) for o in self.base.outputs],
            from_=exp.From(this=source(self.base.tables[0], "T1")),
            where=exp.Where(this=condition),
        )

    def request(self, speaker: Speaker) -> Request:
        """What is asked."""
        outputs = speaker.columns(self.base, list(self.base.outputs), True)
        key, group = slot(speaker.noun(self.base, self.key)), slot(speaker.noun(self.base, self.group))
        relation = (
            speaker.pick("above", "higher than", "greater than") if self.above else speaker.pick("below", "lower than")
        )
        subjects = speaker.subjects(self.base)
        phrase = speaker.pick(
            f"the {outputs} of {subjects} whose {key} is {relation} the average {key} of those with the same {group}",
            f"the {outputs} of {subjects} whose {key} is {relation} the average for their own {group}",
        )
        return Request(phrase, True)


@dataclass(frozen=True)
class Existence:
    """Parents for which a child (that meets `item`) exists, or none does."""

    base: Query
    key: ForeignKey
    item: Filter | None
    negated: bool

    def expression(self) -> exp.Expression:
        """EXISTS (SELECT 1 FROM child AS T2 WHERE T2.key = T1.key AND ...)."""
        conditions = [exp.EQ(this=column("T2", self.key.column), expression=column("T1", self.key.parent_column))]
        if self.item:
            conditions.append(Builder(Query((self.key.table,), ()), 2).condition(self.item))
        inner = exp.Select(
            expressions=[literal(1)],
            from_=exp.From(this=source(self.key.table, "T2")),
            where=exp.Where(this=exp.and_(*conditions, copy=False)),
        )
        exists: exp.Expression = exp.Exists(this=inner)
        return exp.Select(
            expressions=[column("T1", o.column) for o in self.base.outputs],
            from_=exp.From(this=source(self.base.tables[0], "T1")),
            where=exp.Where(this=exp.Not(this=exists) if self.negated else exists),
        )

    def request(self, speaker: Speaker) -> Request:
        """What is asked: the same as by membership."""
        inner = Query((self.key.table,), (Ref(0, self.key.column),), filters=(self.item,) if self.item else ())
        membership = Filter(Ref(0, self.key.parent_column), "not_in" if self.negated else "in", inner)
        asked = self.base.with_(filters=(membership,))
        return Request(f"the {speaker.columns(asked, list(asked.outputs), True)} of {speaker.filtered(asked)}", True)


@dataclass(frozen=True)
class Pairs:
    """All pairs of different rows that share their `group`, each pair once."""

    base: Query
    group: Ref
    identity: str

    def expression(self) -> exp.Expression:
        """A self join on the group, with the smaller identity first."""
        table, label = self.base.tables[0], self.base.outputs[0].column
        same = exp.EQ(this=column("T1", self.group.column), expression=column("T2", self.group.column))
        once = exp.LT(this=column("T1", self.identity), expression=column("T2", self.identity))
        return exp.Select(
            expressions=[column("T1", label), column("T2", label)],
            from_=exp.From(this=source(table, "T1")),
            joins=[exp.Join(this=source(table, "T2"), on=exp.and_(same, once, copy=False))],
        )

    def request(self, speaker: Speaker) -> Request:
        """What is asked."""
        nouns = speaker.columns(self.base, list(self.base.outputs), True)
        group, subjects = slot(speaker.noun(self.base, self.group)), speaker.subjects(self.base)
        identity = slot(speaker.names.column(self.base.tables[0], self.identity))
        order = f"with the smaller {identity} first"
        phrase = speaker.pick(
            f"the {nouns} of all pairs of {subjects} with the same {group}, each pair once {order}",
            f"the two {nouns} for every pair of {subjects} that share their {group} (each pair once, {order})",
        )
        return Request(phrase, True)


@dataclass(frozen=True)
class CountWithZero:
    """For every parent, also one without any, the number of its children."""

    base: Query
    key: ForeignKey
    descending: bool | None

    def expression(self) -> exp.Expression:
        """A LEFT JOIN, counting the child's key."""
        on = exp.EQ(this=column("T1", self.key.parent_column), expression=column("T2", self.key.column))
        count = aggregate("count", column("T2", self.key.column))
        block = exp.Select(
            expressions=[*(column("T1", o.column) for o in self.base.outputs), count],
            from_=exp.From(this=source(self.base.tables[0], "T1")),
            joins=[exp.Join(this=source(self.key.table, "T2"), on=on, side="LEFT")],
            group=exp.Group(expressions=[column("T1", self.key.parent_column)]),
        )
        if self.descending is not None:
            block.set("order", exp.Order(expressions=[ordered(count.copy(), self.descending)]))
        return block

    def request(self, speaker: Speaker) -> Request:
        """What is asked."""
        outputs = speaker.columns(self.base, list(self.base.outputs), False)
        subject, subjects = slot(speaker.subject(self.base)), speaker.subjects(self.base)
        children = speaker.subjects(Query((self.key.table,), ()))
        zero = speaker.pick(
            f"including {subjects} without any",
            f"counting 0 for {subjects} with no {children}",
            "also where there are none",
        )
        order = {None: "", True: ", highest number first", False: ", lowest number first"}[self.descending]
        each = speaker.pick("each", "every")
        phrase = f"the {outputs} of {each} {subject} and the number of its {children}, {zero}{order}"
        commands = (f"For {each} {subject}, {zero}, show the {outputs} and the number of {children}{order}.",)
        return Request(phrase, False, (), commands)


def above_own_group(world: World, rng: random.Random) -> AboveOwnGroup | None:
    """Rows above the average of their own group."""
    table = rng.choice(world.tables)
    groups, numbers = world.categories(table), world.quantities(table)
    label = world.label(table)
    pairs = [(g, n) for g in groups for n in numbers if g not in (n, label)]
    if not pairs:
        return None
    group, key = rng.choice(pairs)
    outputs = (label,) if rng.random() < 0.6 or key == label else (label, key)
    return AboveOwnGroup(
        Query((table,), tuple(Ref(0, c) for c in outputs)), Ref(0, key), Ref(0, group), rng.random() < 0.7
    )


def existence(world: World, rng: random.Random) -> Existence | None:
    """Parents with or without some child, by EXISTS."""
    keys = [k for table in world.tables for k in world.down_keys[table]]
    if not keys:
        return None
    key = rng.choice(keys)
    negated = rng.random() < 0.6
    item = world.filter(rng, key.table) if not negated or rng.random() < 0.5 else None
    outputs = tuple(Ref(0, c) for c in world.outputs(rng, key.parent, 2))
    return Existence(Query((key.parent,), outputs), key, item, negated)


def pairs(world: World, rng: random.Random) -> Pairs | None:
    """Pairs of rows with the same value."""
    found = []
    for table in world.tables:
        key = world.profile.schema.table(table).primary_key
        if len(key) == 1 and world.profile.rows[table] <= 60:
            found += [(table, group, key[0]) for group in world.categories(table) if group != world.label(table)]
    if not found:
        return None
    table, group, identity = rng.choice(found)
    return Pairs(Query((table,), (Ref(0, world.label(table)),)), Ref(0, group), identity)


def count_with_zero(world: World, rng: random.Random) -> CountWithZero | None:
    """Children counted for every parent."""
    keys = [k for table in world.tables for k in world.down_keys[table]]
    if not keys:
        return None
    key = rng.choice(keys)
    descending = rng.choice([None, None, True, False])
    return CountWithZero(Query((key.parent,), (Ref(0, world.label(key.parent)),)), key, descending)
