"""What a plan asks for, as a noun phrase and as whole sentences, before a style is chosen."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from sqlgen.english import Speaker, listing, slot
from sqlgen.naming import WORDS, plural
from sqlgen.query_plan import COUNT, Measure, QueryPlan, Ref, SortKey

_LATEST = dict.fromkeys(("date", "year"), ("latest", "earliest"))


@dataclass(frozen=True)
class Wording:
    """What is asked for.

    `phrase` is a noun phrase that begins with "the", "all", "each" or "every"; it is plural ("What are ...") if `many`.
    `direct` are whole questions, `commands` whole imperatives.
    """

    phrase: str
    many: bool
    direct: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()


# What a phrase contains: a template, or several of which one is picked; the noun of a column; a number; the filtered
# subject of a block; what a function makes of the speaker. None is left out.
Part = str | Sequence[str] | Ref | float | QueryPlan | Callable[[Speaker], str] | None


@dataclass(frozen=True)
class CompoundPlan:
    """A query that a single `QueryPlan` cannot express: its SQL, and what its phrases contain.

    `kind` is the entry of english.yaml with its phrases, `base` the block whose subject the question is about.
    Templates name {subject} and {subjects}; {output} and {outputs}, the columns of `base`; and the parts before them.
    """

    kind: str
    base: QueryPlan
    sql: str
    parts: Mapping[str, Part]

    def wording(self, speaker: Speaker) -> Wording:
        """What the query asks for. After `parts`, the `words` of the entry are picked."""
        forms = WORDS["plans"][self.kind]
        fields = {"subject": slot(speaker.subject(self.base)), "subjects": speaker.subjects(self.base)}
        if self.base.outputs:
            fields |= {"output": speaker.outputs(self.base, False), "outputs": speaker.outputs(self.base, True)}
        for name, part in (*self.parts.items(), *forms.get("words", {}).items()):
            if part is not None:
                fields[name] = self._said(part, speaker, fields)
        direct, commands = (tuple(t.format(**fields) for t in forms.get(kind, ())) for kind in ("direct", "commands"))
        return Wording(self._said(forms["phrases"], speaker, fields), forms["many"], direct, commands)

    def _said(self, part: Part, speaker: Speaker, fields: Mapping[str, str]) -> str:
        if isinstance(part, Ref):
            return slot(speaker.noun(self.base, part))
        if isinstance(part, QueryPlan):
            return speaker.filtered(part)
        if isinstance(part, (int, float)):
            return speaker.value(part)
        if callable(part):
            return part(speaker)
        options = [part] if isinstance(part, str) else part
        return (speaker.pick(*options) if len(options) > 1 else options[0]).format(**fields)


def block_wording(speaker: Speaker, plan: QueryPlan) -> Wording:
    """The wording of one SELECT block."""
    if plan.group:
        return _grouped(speaker, plan)
    if all(isinstance(output, Measure) for output in plan.outputs):
        return _aggregated(speaker, plan)
    return _listed(speaker, plan)


def _aggregated(speaker: Speaker, plan: QueryPlan) -> Wording:
    measures, first = list(plan.outputs), plan.outputs[0]
    # COUNT(DISTINCT key of the subject) counts subjects: a join to many rows would count one several times.
    counts_subjects = first.distinct and first.ref.occurrence == 0 and len(plan.tables) > 1
    if len(measures) == 1 and (first == COUNT or counts_subjects):
        return _counted(speaker, plan)
    subjects = speaker.filtered(plan, determiner=speaker.pick("all", "the", "") if not plan.filters else "")
    phrase = listing([f"the {speaker.measure(plan, m)}" for m in measures])
    if len(measures) > 1 and len({m.ref for m in measures}) == 1:  # the minimum, average and maximum age
        adjectives = [speaker.measure(plan, m).rsplit(" \x01", 1)[0] for m in measures]
        phrase = f"the {listing(adjectives)} {slot(speaker.noun(plan, first.ref))}"
    connector = speaker.pick("of", "of", "across", "for", "among")
    direct: tuple[str, ...] = ()
    if len(measures) == 1 and first.distinct and not plan.filters:
        nouns = slot(plural(speaker.noun(plan, first.ref)))
        direct = (
            f"How many {speaker.pick('different', 'distinct', 'unique')} {nouns} are there for {subjects}?",
            f"How many {speaker.pick('different', 'distinct')} {nouns} do {subjects} have?",
        )
    return Wording(f"{phrase} {connector} {subjects}", len(measures) > 1, direct)


def _counted(speaker: Speaker, plan: QueryPlan) -> Wording:
    subjects = speaker.filtered(plan)
    tail = speaker.pick("are there", "are there", "do we have", "exist", "are on record", "are there in total")
    direct = (f"How many {subjects} {tail}?", f"What is the {speaker.pick('total ', '')}number of {subjects}?")
    commands = (
        f"Count {speaker.pick('the number of ', 'the ', '')}{subjects}.",
        f"Find how many {subjects} there are.",
    )
    return Wording(f"the {speaker.pick('', 'total ')}number of {subjects}", False, direct, commands)


def _listed(speaker: Speaker, plan: QueryPlan) -> Wording:
    subjects, many = _subjects(speaker, plan)
    different = speaker.pick("different ", "distinct ", "unique ") if plan.distinct else ""
    phrase = f"the {different}{_outputs(speaker, plan, many)} of {subjects}"
    order = "" if plan.limit is not None else _ordering(speaker, plan)
    direct: tuple[str, ...] = ()
    if plan.filters and plan.limit is None and not plan.distinct:
        outputs, asked = _outputs(speaker, plan, True), speaker.filtered(plan)
        direct = (f"For {asked}, what are the {outputs}{order}?", f"Which {outputs} belong to {asked}{order}?")
    return Wording(phrase + order, many or len(plan.outputs) > 1, direct)


def _subjects(speaker: Speaker, plan: QueryPlan) -> tuple[str, bool]:
    """The rows asked for, and whether they are plural: `the 3 oldest songs` are, `each song` is not."""
    if plan.limit is not None:
        return _superlative(speaker, plan), plan.limit != 1
    if plan.filters:
        return speaker.filtered(plan), True
    determiner = speaker.pick("all", "all the", "the", *(() if plan.distinct else ("each",)))
    many = determiner != "each"
    return speaker.filtered(plan, many, determiner), many


def _outputs(speaker: Speaker, plan: QueryPlan, many: bool) -> str:
    """Columns of the subject by their noun, those of joined tables with their entity: `title and singer name`."""
    parts = []
    for ref in plan.outputs:
        noun = speaker.noun(plan, ref)
        if ref.occurrence:
            other = speaker.subject(plan, ref.occurrence)
            first, *rest = noun.split()
            noun = " ".join([other, *rest] if first == other.split()[-1] else [other, noun])
        parts.append(slot(plural(noun) if many else noun))
    return listing(parts)


def _superlative(speaker: Speaker, plan: QueryPlan) -> str:
    """`the 3 songs with the highest rating among those whose year is above 2000`."""
    order, many = plan.order[0], plan.limit != 1
    noun = speaker.noun(plan, order.key)
    number = f"{slot(plan.limit)} " if many else ""
    subject = speaker.subjects(plan) if many else slot(speaker.subject(plan))
    restriction = speaker.restriction(plan, many)
    dated = speaker.names.dated(plan.tables[order.key.occurrence], order.key.column)
    adjectives = WORDS["superlatives"] | (_LATEST if dated else {})
    known = next((pair for word, pair in adjectives.items() if word in noun.split()), None)
    if known and order.key.occurrence == 0 and speaker.rng.random() < 0.5 and len(noun.split()) <= 2:
        adjective = slot(known[0] if order.descending else known[1])
        by = "" if noun in adjectives else f" by {slot(noun)}"
        return f"the {number}{adjective} {subject}{by} {restriction}".rstrip()
    extreme = (
        speaker.pick("highest", "highest", "largest", "greatest")
        if order.descending
        else speaker.pick("lowest", "smallest")
    )
    if dated:
        extreme = speaker.pick("latest", "most recent") if order.descending else speaker.pick("earliest")
    key = slot(_key_noun(speaker, plan, order))
    if restriction:
        return f"the {number}{subject} with the {extreme} {key} among those {restriction}"
    link = speaker.pick("with", "that have" if many else "that has", "having")
    return f"the {number}{subject} {link} the {extreme} {key}"


def _ordering(speaker: Speaker, plan: QueryPlan) -> str:
    """`, sorted by age in descending order and then by name`."""
    if not plan.order:
        return ""
    keys = [_sort_key(speaker, plan, order) for order in plan.order]
    lead = speaker.pick(", sorted by", ", ordered by", " sorted by", " ordered by", " arranged by")
    if len(keys) == 1 and speaker.rng.random() < 0.3 and isinstance(plan.order[0].key, Ref):
        noun = slot(_key_noun(speaker, plan, plan.order[0]))
        direction = "descending" if plan.order[0].descending else "ascending"
        return speaker.pick(f" in {direction} order of {noun}", f", listed in {direction} order of {noun}")
    return f"{lead} {', then by '.join(keys)}"


def _key_noun(speaker: Speaker, plan: QueryPlan, order: SortKey) -> str:
    noun = speaker.noun(plan, order.key)
    return f"{speaker.subject(plan, order.key.occurrence)} {noun}" if order.key.occurrence else noun


def _sort_key(speaker: Speaker, plan: QueryPlan, order: SortKey) -> str:
    measured = isinstance(order.key, Measure)
    noun = speaker.measure(plan, order.key) if measured else slot(_key_noun(speaker, plan, order))
    if order.descending:
        words, of_numbers = ("in descending order", "descending"), ("from highest to lowest", "in decreasing order")
    else:
        words, of_numbers = ("in ascending order", "ascending", ""), ("from lowest to highest", "in increasing order")
    if measured or speaker.names.numeric(plan.tables[order.key.occurrence], order.key.column):
        words += of_numbers
    return f"{noun} {speaker.pick(*words)}".strip()


@dataclass(frozen=True)
class _Groups:
    """Words for groups and for the columns shown of them. The examples are of songs grouped by singer."""

    one: str  # singer
    many: str  # singers
    one_name: str  # the name of the singer
    all_names: str  # the names of all singers
    and_name: str  # " Show the name and the number."


def _groups(speaker: Speaker, plan: QueryPlan) -> _Groups:
    """Groups by a column of the subject (`country`), or by a joined entity (`singer`) that its own columns name."""
    occurrence = plan.group[0].occurrence
    if occurrence == 0:
        one, many = (speaker.columns(plan, plan.group, plurals) for plurals in (False, True))
        show = speaker.pick(f"Show the {one} too.", f"Include the {one}.", f"Give the {one} and the number.")
        return _Groups(one, many, f"the {one}", f"the {speaker.pick('', 'different ')}{many}", f" {show}")
    keys = [output for output in plan.outputs if isinstance(output, Ref)]
    columns, plurals = speaker.columns(plan, keys, False), speaker.columns(plan, keys, True)
    entity = speaker.subject(plan, occurrence)
    one, many = slot(entity), slot(plural(entity))
    all_names = f"the {plurals} of {speaker.pick('all', 'the')} {many}"
    return _Groups(one, many, f"the {columns} of the {one}", all_names, f" Show the {columns} and the number.")


def _grouped(speaker: Speaker, plan: QueryPlan) -> Wording:
    measures = [output for output in plan.outputs if isinstance(output, Measure)]
    groups = _groups(speaker, plan)
    if plan.having:
        return _groups_having(speaker, plan, groups, measures)
    if plan.limit is not None:
        return _top_groups(speaker, plan, groups, measures)
    measured = listing([f"the {speaker.measure(plan, m)}" for m in measures])
    measured += f" {speaker.restriction(plan)}" if plan.filters else ""
    order, each = _ordering(speaker, plan), groups.one
    options = (
        f"{groups.one_name} and {measured} for each {each}{order}",
        f"{groups.one_name} with {measured} per {each}{order}",
        f"{groups.all_names} and {measured} for each{order}",
    )
    direct: tuple[str, ...] = ()
    if measures == [COUNT]:
        counted = speaker.filtered(plan)
        direct = (
            f"How many {counted} are there for each {each}{order}?{groups.and_name}",
            f"How many {counted} does each {each} have{order}?{groups.and_name}",
        )
    verb = speaker.pick("show", "find", "give", "list")
    commands = (f"For each {each}, {verb} {groups.one_name} and {measured}{order}.",)
    phrase = speaker.pick(*options)
    return Wording(phrase, phrase != options[1], direct, commands)


def _groups_having(speaker: Speaker, plan: QueryPlan, groups: _Groups, measures: list[Measure]) -> Wording:
    """Groups that meet a condition."""
    restriction = f" {speaker.restriction(plan)}" if plan.filters else ""
    also = _along_with(speaker, plan, measures)
    item = plan.having[0]
    if item.ref.function == "count":
        forms = WORDS["counts"][item.op]
        number = speaker.pick(*forms).format(slot(item.value))
        noun = slot(speaker.subject(plan)) if item.value == 1 else speaker.subjects(plan)
        condition = f"{speaker.pick('with', 'that have', 'having')} {number} {noun}{restriction}"
    else:
        figure = f"{speaker.measure(plan, item.ref)} of {speaker.subjects(plan)}{restriction}"
        condition = f"whose {figure} {speaker.predicate('', item.op, item.value)}"
    names = groups.all_names if plan.group[0].occurrence else f"the {groups.many}"
    each = f"{also} for each" if also else ""
    return Wording(f"{names} {condition}{each}{_ordering(speaker, plan)}", True)


def _top_groups(speaker: Speaker, plan: QueryPlan, groups: _Groups, measures: list[Measure]) -> Wording:
    """The group, or the k groups, with the most rows or the highest or lowest measure."""
    restriction = f" {speaker.restriction(plan)}" if plan.filters else ""
    also = _along_with(speaker, plan, measures)
    order, one, joined = plan.order[0], plan.limit == 1, plan.group[0].occurrence != 0
    figure = speaker.measure(plan, order.key)
    if order.key == COUNT:
        words = ("most", "most", "largest number of") if order.descending else ("fewest", "smallest number of")
        figure = speaker.subjects(plan)
    else:
        words = ("highest", "largest") if order.descending else ("lowest", "smallest")
    most = f"the {speaker.pick(*words)} {figure}{restriction}"
    rows = groups.one if one else f"{slot(plan.limit)} {groups.many}"
    if joined:
        names = (groups.one_name if one else groups.all_names).rsplit(" of ", 1)[0]
        return Wording(f"{names} of the {rows} with {most}{also}", not one)
    direct = () if also else (f"Which {rows} {'has' if one else 'have'} {most}?",)
    return Wording(f"the {rows} with {most}{also}", not one, direct)


def _along_with(speaker: Speaker, plan: QueryPlan, measures: list[Measure]) -> str:
    """`, along with the number of songs`, or nothing."""
    return f", along with {' and '.join(f'the {speaker.measure(plan, m)}' for m in measures)}" if measures else ""
