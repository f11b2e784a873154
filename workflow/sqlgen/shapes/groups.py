"""Shapes that compare groups with each other: a CTE of one row per group, under a window or against the mean."""

import random
from dataclasses import dataclass

from sqlgen.english import Speaker, slot
from sqlgen.naming import plural
from sqlgen.query_plan import COUNT, Measure, QueryPlan, Ref
from sqlgen.shapes.joined import children_by_parent
from sqlgen.shapes.single import unused
from sqlgen.speakable import NoPlan, SpeakableDatabase, choose
from sqlgen.sql_text import Block, sort_key
from sqlgen.wording import CompoundPlan
from sqlr1.database import identifier

TAKEN = {"value", "total", "place", "mean"}  # names of the CTEs' own columns


@dataclass(frozen=True)
class _Measured(CompoundPlan):
    """Groups of `base`, each shown by its only output, with their `measure`.

    A group is a value of a column, or the parent that the rows refer to; parents without rows are no groups.
    """

    measure: Measure

    @property
    def _label(self) -> str:
        return identifier(self.base.outputs[0].column)

    def _per_group(self) -> str:
        """The CTE: one row per group, with its value."""
        block = Block(self.base)
        outputs = [block.output(self.base.outputs[0]), f"{block.output(self.measure)} AS value"]
        return f"per_group AS ({block.select(outputs)})"

    def _each(self, speaker: Speaker) -> str:
        """`each country of singers`, or `the name of each singer with any songs`."""
        rows, label = speaker.filtered(self.base), self.base.outputs[0]
        noun = slot(speaker.noun(self.base, label))
        if label.occurrence == 0:
            return f"each {noun} of {rows}"
        return f"the {noun} of each {slot(speaker.subject(self.base, label.occurrence))} with any {rows}"

    def _measured(self, speaker: Speaker) -> str:
        """`number`, or `average price`."""
        return "number" if self.measure == COUNT else speaker.measure(self.base, self.measure)

    def _figure(self, speaker: Speaker, measured: str) -> str:
        """`the number of these songs`, or `the average price of these songs`."""
        return f"the {measured} of {speaker.pick('these', 'those')} {speaker.subjects(self.base)}"


@dataclass(frozen=True)
class GroupRanking(_Measured):
    """All groups with their measure and their rank by it."""

    descending: bool

    def sql(self) -> str:
        rank = f"RANK() OVER (ORDER BY {sort_key('value', self.descending)})"
        return f"WITH {self._per_group()} SELECT {self._label}, value, {rank} FROM per_group"

    def fields(self, speaker: Speaker) -> dict[str, str]:
        each, figure = self._each(speaker), self._figure(speaker, self._measured(speaker))
        first = "highest" if self.descending else "lowest"
        return {"each": each, "figure": figure, "first": first, "equal": speaker.pick("equal ones", "ties")}


@dataclass(frozen=True)
class GroupShare(_Measured):
    """All groups with their percentage of the count, or sum, over all rows."""

    def sql(self) -> str:
        share = "100.0 * value / SUM(value) OVER ()"
        return f"WITH {self._per_group()} SELECT {self._label}, {share} FROM per_group"

    def fields(self, speaker: Speaker) -> dict[str, str]:
        each, whole = self._each(speaker), f"all these {speaker.subjects(self.base)}"
        if self.measure != COUNT:
            whole = f"the {speaker.measure(self.base, self.measure)} of {whole}"
        share = speaker.pick("percentage", "share in percent", "percentage share")
        return {"each": each, "whole": whole, "share": share}


@dataclass(frozen=True)
class _AgainstMean(_Measured):
    """Groups whose measure is above (below) its mean over all groups."""

    above: bool
    shows_measure: bool

    def _compared(self, mean: str) -> str:
        """The groups whose value is above (below) the one that the query `mean` returns."""
        shown = f"{self._label}, value" if self.shows_measure else self._label
        return f"SELECT {shown} FROM per_group WHERE value {'>' if self.above else '<'} ({mean})"

    def _comparison(self, speaker: Speaker, measured: str) -> dict[str, str]:
        """The fields `relation` and `also`: `above` and `, along with the average price itself`."""
        relation = speaker.pick(*(("above", "greater than") if self.above else ("below", "less than")))
        # Not "along with that figure", which could be taken for the mean.
        also = f", {speaker.pick('along with', 'with')} the {measured} itself" if self.shows_measure else ""
        return {"relation": relation, "also": also}


class GroupAboveMean(_AgainstMean):
    """Values of a column, or parents, of filtered rows whose measure is above (below) its mean over all groups."""

    def sql(self) -> str:
        average = "average AS (SELECT AVG(value) AS mean FROM per_group)"
        return f"WITH {self._per_group()}, {average} {self._compared('SELECT mean FROM average')}"

    def fields(self, speaker: Speaker) -> dict[str, str]:
        label, each, measured = self.base.outputs[0], self._each(speaker), self._measured(speaker)
        joined = label.occurrence > 0
        group = speaker.subject(self.base, label.occurrence) if joined else speaker.noun(self.base, label)
        mean, figure = speaker.pick("average", "mean"), self._figure(speaker, measured)
        own = {"each": each, "figure": figure, "mean": mean, "groups": slot(plural(group))}
        return own | self._comparison(speaker, measured)


class GroupAboveAverage(_AgainstMean):
    """Values of a column of all rows whose measure is above (below) its average over all groups."""

    def sql(self) -> str:
        return f"WITH {self._per_group()} {self._compared('SELECT AVG(value) FROM per_group')}"

    def fields(self, speaker: Speaker) -> dict[str, str]:
        measured = self._measured(speaker)
        average = speaker.pick("the average over all", "the mean of that figure across all")
        return {"measured": measured, "average": average} | self._comparison(speaker, measured)


def _value_groups(db: SpeakableDatabase, rng: random.Random) -> QueryPlan:
    """Rows of one table grouped by a column without NULLs, which is the output."""
    table = rng.choice(db.tables)
    key = choose(rng, [c for c in db.complete(table, db.categories(table)) if c.lower() not in TAKEN])
    return QueryPlan.of(table, key, group=(Ref(0, key),))


def filtered_value_groups(db: SpeakableDatabase, rng: random.Random) -> QueryPlan:
    """Rows of one table, mostly filtered, grouped by a column without NULLs, which is the output."""
    return _filtered(db, rng, _value_groups(db, rng))


def _filtered_parents(db: SpeakableDatabase, rng: random.Random) -> QueryPlan:
    """Rows, mostly filtered, joined to their parents and grouped by them; the output is the parent's label."""
    base = children_by_parent(db, rng)
    if base.outputs[0].column.lower() in TAKEN:
        raise NoPlan
    return _filtered(db, rng, base)


def _filtered(db: SpeakableDatabase, rng: random.Random, base: QueryPlan) -> QueryPlan:
    avoid = [key.column for key in base.group if key.occurrence == 0]
    item = db.filter(rng, base.tables[0], avoid=avoid, shared=True) if rng.random() < 0.7 else None
    return base.with_(filters=(item,)) if item else base


def _measure(db: SpeakableDatabase, rng: random.Random, base: QueryPlan, *functions: str) -> Measure:
    """The number of rows, or an aggregate of an unused number column without NULLs."""
    numbers = unused(base, db.complete(base.tables[0], db.quantities(base.tables[0])))
    return Measure(rng.choice(functions), Ref(0, rng.choice(numbers))) if numbers and rng.random() < 0.6 else COUNT


def group_ranking(db: SpeakableDatabase, rng: random.Random) -> GroupRanking:
    """Ranks of groups."""
    base = rng.choice([filtered_value_groups, _filtered_parents])(db, rng)
    return GroupRanking(base, _measure(db, rng, base, "avg", "sum", "max", "min"), rng.random() < 0.75)


def group_share(db: SpeakableDatabase, rng: random.Random) -> GroupShare:
    """Each value's share of all rows. Not by parent: rows without a parent would be in the total but in no group."""
    base = filtered_value_groups(db, rng)
    return GroupShare(base, _measure(db, rng, base, "sum"))


def group_above_mean(db: SpeakableDatabase, rng: random.Random) -> GroupAboveMean:
    """Groups above the mean."""
    base = rng.choice([filtered_value_groups, _filtered_parents, _filtered_parents])(db, rng)
    measure = _measure(db, rng, base, "avg", "sum", "max")
    return GroupAboveMean(base, measure, rng.random() < 0.7, rng.random() < 0.4)


def group_above_average(db: SpeakableDatabase, rng: random.Random) -> GroupAboveAverage:
    """Groups above the average group."""
    base = _value_groups(db, rng)
    measure = _measure(db, rng, base, "avg", "sum", "max")
    return GroupAboveAverage(base, measure, rng.random() < 0.7, rng.random() < 0.4)
