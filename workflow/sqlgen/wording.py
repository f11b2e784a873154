"""What a plan asks for, as a noun phrase and as whole sentences, and the question in one of OmniSQL's nine styles."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from sqlgen.english import Speaker, listing, slot
from sqlgen.naming import WORDS
from sqlgen.query_plan import COUNT, Measure, QueryPlan, Ref, SortKey


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


def in_style(speaker: Speaker, style: str, wording: Wording, topic: str) -> str:
    """The question in a style, slots still marked. `topic` is the plural noun of what it is about, marked.

    `vague` and `metaphorical` questions are interrogative ones: the speaker has replaced their thresholds by words.
    """
    frame = speaker.pick(*WORDS["dialogues"]) if style == "dialogue" else "{ask}"
    phrase, kind = wording.phrase, "imperative" if style == "dialogue" else style
    if kind == "imperative" and wording.commands and speaker.rng.random() < 0.5:
        text = speaker.pick(*wording.commands)
    elif kind in WORDS["frames"]:
        text = speaker.pick(*WORDS["frames"][kind]).format(phrase.removeprefix("the ") if kind == "concise" else phrase)
    elif wording.direct and speaker.rng.random() < 0.6:
        text = speaker.pick(*wording.direct)
    elif phrase.startswith(("the ", "all ")):
        text = f"What {'are' if wording.many else 'is'} {phrase}?"
    else:
        text = speaker.pick(*WORDS["listed"]).format(phrase)
    start = 1 if text[:1] == "\x01" else 0  # the first letter may be inside a slot
    return frame.format(topic=topic, ask=text[:start] + text[start : start + 1].upper() + text[start + 1 :])


def _several(speaker: Speaker, plan: QueryPlan) -> bool:
    """Whether the first column shown is plural: what are the details of each project."""
    first = plan.outputs[0]
    return isinstance(first, Ref) and speaker.names.several(plan.tables[first.occurrence], first.column)


def _worded(speaker: Speaker, kind: str, many: bool | None = None, **fields: str) -> Wording:
    """The wording that an entry of english.yaml's `plans` gives. `many` replaces that of the entry."""
    forms = WORDS["plans"][kind]
    direct, commands = (tuple(speaker.say([t], **fields) for t in forms.get(k, ())) for k in ("direct", "commands"))
    phrases = forms["phrases"]
    number = speaker.rng.randrange(len(phrases)) if len(phrases) > 1 else 0
    many = forms["many"] if many is None else many
    return Wording(speaker.say([phrases[number]], **fields), many, direct, commands)


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
        fields = {"subject": slot(speaker.subject(self.base)), "subjects": speaker.subjects(self.base)}
        if self.base.outputs:
            output, outputs = (speaker.columns(self.base, self.base.outputs, many) for many in (False, True))
            fields |= {"output": output, "outputs": outputs}
        for name, part in (*self.parts.items(), *WORDS["plans"][self.kind].get("words", {}).items()):
            if part is not None:
                fields[name] = self._said(part, speaker, fields)
        return _worded(speaker, self.kind, (self.base.outputs and _several(speaker, self.base)) or None, **fields)

    def _said(self, part: Part, speaker: Speaker, fields: Mapping[str, str]) -> str:
        if isinstance(part, Ref):
            return slot(speaker.noun(self.base, part))
        if isinstance(part, QueryPlan):
            return speaker.filtered(part)
        if isinstance(part, (int, float)):
            return speaker.value(part)
        if callable(part):
            return part(speaker)
        return speaker.say([part] if isinstance(part, str) else part, **fields)


def block_wording(speaker: Speaker, plan: QueryPlan) -> Wording:
    """The wording of one SELECT block."""
    if plan.group:
        return _grouped(speaker, plan)
    if all(isinstance(output, Measure) for output in plan.outputs):
        return _aggregated(speaker, plan)
    return _listed(speaker, plan)


def _aggregated(speaker: Speaker, plan: QueryPlan) -> Wording:
    measures, first = plan.outputs, plan.outputs[0]
    # COUNT(DISTINCT key of the subject) counts subjects: a join to many rows would count one several times.
    counts_subjects = first.distinct and first.ref.occurrence == 0 and len(plan.tables) > 1
    if len(measures) == 1 and (first == COUNT or counts_subjects):
        return _worded(speaker, "count", subjects=speaker.filtered(plan))
    subjects = speaker.filtered(plan, determiner="" if plan.filters else speaker.pick("all", "the", ""))
    what = listing([f"the {speaker.measure(plan, m)}" for m in measures])
    if len(measures) > 1 and len({m.ref for m in measures}) == 1:  # the minimum, average and maximum age
        adjectives = [speaker.measure(plan, m).rsplit(" \x01", 1)[0] for m in measures]
        what = f"the {listing(adjectives)} {slot(speaker.noun(plan, first.ref))}"
    fields = {"what": what, "of": speaker.pick("of", "of", "across", "for", "among"), "subjects": subjects}
    if len(measures) == 1 and first.distinct and not plan.filters:
        nouns = slot(speaker.names.plural(speaker.noun(plan, first.ref)))
        return _worded(speaker, "distinct_count", many=False, nouns=nouns, **fields)
    return _worded(speaker, "aggregate", many=len(measures) > 1, **fields)


def _listed(speaker: Speaker, plan: QueryPlan) -> Wording:
    subjects, many = _subjects(speaker, plan)
    different = speaker.pick("different ", "distinct ", "unique ") if plan.distinct else ""
    fields = {"subjects": subjects, "different": different, "shown": _outputs(speaker, plan, many)}
    fields["order"] = "" if plan.limit is not None else _ordering(speaker, plan)
    many = many or len(plan.outputs) > 1 or _several(speaker, plan)
    if not plan.filters or plan.limit is not None or plan.distinct:
        return _worded(speaker, "list", many, **fields)
    plurals, chosen = _outputs(speaker, plan, True), speaker.filtered(plan)
    return _worded(speaker, "list_of_chosen", many, plurals=plurals, chosen=chosen, **fields)


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
            noun = " ".join([other, *rest] if first in other.split() else [other, noun])
        parts.append(slot(speaker.names.plural(noun) if many else noun))
    return listing(parts)


def _superlative(speaker: Speaker, plan: QueryPlan) -> str:
    """`the 3 songs with the highest rating among those whose year is above 2000`."""
    order, many = plan.order[0], plan.limit != 1
    noun = speaker.noun(plan, order.key)
    number = f"{slot(plan.limit)} " if many else ""
    subject = speaker.subjects(plan) if many else slot(speaker.subject(plan))
    restriction = speaker.restriction(plan, many)
    dated = speaker.names.dated(plan.tables[order.key.occurrence], order.key.column)
    adjectives = WORDS["superlatives"] | (dict.fromkeys(("date", "year"), ("latest", "earliest")) if dated else {})
    known = next((pair for word, pair in adjectives.items() if word in noun.split()), None)
    if known and order.key.occurrence == 0 and speaker.rng.random() < 0.5 and len(noun.split()) <= 2:
        by = "" if noun in adjectives else f" by {slot(noun)}"
        return f"the {number}{slot(known[0 if order.descending else 1])} {subject}{by} {restriction}".rstrip()
    extreme = speaker.pick(*WORDS["extremes"]["highest" if order.descending else "lowest"])
    if dated:  # drawn again, so that a seed makes the rows it always made
        extreme = speaker.pick(*WORDS["extremes"]["latest" if order.descending else "earliest"])
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
        return f"{speaker.pick(' in', ', listed in')} {direction} order of {noun}"
    return f"{lead} {', then by '.join(keys)}"


def _key_noun(speaker: Speaker, plan: QueryPlan, order: SortKey) -> str:
    noun = speaker.noun(plan, order.key)
    return f"{speaker.subject(plan, order.key.occurrence)} {noun}" if order.key.occurrence else noun


def _sort_key(speaker: Speaker, plan: QueryPlan, order: SortKey) -> str:
    measured = isinstance(order.key, Measure)
    noun = speaker.measure(plan, order.key) if measured else slot(_key_noun(speaker, plan, order))
    words = WORDS["orders"]["descending" if order.descending else "ascending"]
    numeric = measured or speaker.names.numeric(plan.tables[order.key.occurrence], order.key.column)
    return f"{noun} {speaker.pick(*words['any'], *(words['numbers'] if numeric else ()))}".strip()


def _groups(speaker: Speaker, plan: QueryPlan) -> dict[str, str]:
    """Words for groups by a column of the subject (`country`), or by a joined entity (`singer`) and its columns.

    For songs by singer: {one} "singer", {groups} "singers", {one_name} "the name of the singer", {all_names} "the names
    of all singers", {and_name} " Show the name and the number."
    """
    occurrence = plan.group[0].occurrence
    if occurrence == 0:
        one, many = (speaker.columns(plan, plan.group, plurals) for plurals in (False, True))
        and_name = speaker.pick(f" Show the {one} too.", f" Include the {one}.", f" Give the {one} and the number.")
        all_names = f"the {speaker.pick('', 'different ')}{many}"
        return {"one": one, "groups": many, "one_name": f"the {one}", "all_names": all_names, "and_name": and_name}
    keys = [output for output in plan.outputs if isinstance(output, Ref)]
    columns, plurals = speaker.columns(plan, keys, False), speaker.columns(plan, keys, True)
    one, many = slot(speaker.subject(plan, occurrence)), speaker.subjects(plan, occurrence)
    all_names = f"the {plurals} of {speaker.pick('all', 'the')} {many}"
    names = {"one_name": f"the {columns} of the {one}", "all_names": all_names}
    keys = [(plan.tables[j.left.occurrence], j.left.column, plan.tables[i]) for i, j in enumerate(plan.joins, 1)]
    if not plan.having and plan.limit is None and any(speaker.names.drops(*key) for key in keys):
        one += f" with any {speaker.subjects(plan)}"  # the join drops the others
        names["all_names"] += f" with any {speaker.subjects(plan)}"
    return {"one": one, "groups": many, "and_name": f" Show the {columns} and the number."} | names


def _grouped(speaker: Speaker, plan: QueryPlan) -> Wording:
    measures = [output for output in plan.outputs if isinstance(output, Measure)]
    groups = _groups(speaker, plan)
    if plan.having or plan.limit is not None:
        of_rows = plan.having or plan.order[0].key == COUNT  # whose noun comes right before
        restriction = "" if not plan.filters else speaker.restriction(plan) if of_rows else speaker.filtered(plan)
        restriction = f" {'' if of_rows else 'among '}{restriction}" if restriction else ""
        also = f", along with {' and '.join(f'the {speaker.measure(plan, m)}' for m in measures)}" if measures else ""
        return (_having if plan.having else _top_groups)(speaker, plan, groups, restriction, also)
    measured = listing([f"the {speaker.measure(plan, m)}" for m in measures])
    if plan.filters:  # "the average price among songs whose ...": the price has no such property
        measured += f" {speaker.restriction(plan)}" if measures == [COUNT] else f" among {speaker.filtered(plan)}"
    elif plan.group[0].occurrence and measures != [COUNT]:
        measured += f" of {speaker.subjects(plan)}"
    order = f", {order.strip(', ')}" if (order := _ordering(speaker, plan)) else ""
    if plan.filters:  # the condition drops whole groups
        order = f", leaving out {groups['groups']} without any{order}"
    fields = groups | {"measured": measured, "order": order}
    if measures == [COUNT]:
        return _worded(speaker, "counted_groups", counted=speaker.filtered(plan), **fields)
    return _worded(speaker, "groups", **fields)


def _having(speaker: Speaker, plan: QueryPlan, groups: Mapping[str, str], restriction: str, also: str) -> Wording:
    """Groups that meet a condition."""
    item = plan.having[0]
    if item.ref.function == "count":
        number = speaker.pick(*WORDS["counts"][item.op]).format(slot(item.value))
        noun = slot(speaker.subject(plan)) if item.value == 1 else speaker.subjects(plan)
        condition = f"{speaker.pick('with', 'that have', 'having')} {number} {noun}{restriction}"
    else:
        figure = f"{speaker.measure(plan, item.ref)} of {speaker.subjects(plan)}{restriction}"
        condition = f"whose {figure} {speaker.predicate('', item.op, item.value)}"
    names = groups["all_names"] if plan.group[0].occurrence else f"the {groups['groups']}"
    return Wording(f"{names} {condition}{also}{' for each' if also else ''}", True)


def _top_groups(speaker: Speaker, plan: QueryPlan, groups: Mapping[str, str], restriction: str, also: str) -> Wording:
    """The group, or the k groups, with the most rows or the highest or lowest measure."""
    order, one = plan.order[0], plan.limit == 1
    figure, kind = speaker.measure(plan, order.key), "measures"
    if order.key == COUNT:
        figure, kind = speaker.subjects(plan), "counts"
    elif plan.group[0].occurrence and not plan.filters:
        figure += f" of {speaker.subjects(plan)}"
    words = WORDS["most"][kind]["highest" if order.descending else "lowest"]
    most = f"the {speaker.pick(*words)} {figure}{restriction}"
    rows = groups["one"] if one else f"{slot(plan.limit)} {groups['groups']}"
    if plan.group[0].occurrence:
        names = groups["one_name" if one else "all_names"].rsplit(" of ", 1)[0]
        return Wording(f"{names} of the {rows} with {most}{also}", not one or _several(speaker, plan))
    direct = () if also else (f"Which {rows} {'has' if one else 'have'} {most}?",)
    return Wording(f"the {rows} with {most}{also}", not one, direct)
