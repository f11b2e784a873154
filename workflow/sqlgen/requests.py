"""What is asked for, as a noun phrase and as direct sentences, before a style is put on it."""

from dataclasses import dataclass

from sqlgen.english import Speaker, article, listing, slot
from sqlgen.naming import plural
from sqlgen.query_plan import Measure, Order, Query, Ref

# Superlatives of a column by a word in its noun: (highest, lowest).
_SUPERLATIVES = {
    "age": ("oldest", "youngest"),
    "price": ("most expensive", "cheapest"),
    "cost": ("most expensive", "cheapest"),
    "height": ("tallest", "shortest"),
    "weight": ("heaviest", "lightest"),
    "length": ("longest", "shortest"),
    "duration": ("longest", "shortest"),
}
_LATEST = dict.fromkeys(("date", "year"), ("latest", "earliest"))


@dataclass(frozen=True)
class Request:
    """`phrase` is a noun phrase beginning with "the", "all", "each" or "every"; `many`: it is plural ("What are ...").

    `direct` are whole questions, `commands` whole imperatives.
    """

    phrase: str
    many: bool
    direct: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()


def request(speaker: Speaker, query: Query) -> Request:
    """The request of one SELECT block."""
    if query.group:
        return _grouped(speaker, query)
    if all(isinstance(output, Measure) for output in query.outputs):
        return _aggregated(speaker, query)
    return _listed(speaker, query)


def _aggregated(speaker: Speaker, query: Query) -> Request:
    measures = list(query.outputs)
    if measures == [Measure("count")] or (len(measures) == 1 and _counts_subject(query, measures[0])):
        return _counted(speaker, query)
    subjects = speaker.filtered(query, determiner=speaker.pick("all", "the", "") if not query.filters else "")
    phrase = listing([f"the {speaker.measure(query, m)}" for m in measures])
    if len(measures) > 1 and len({m.ref for m in measures}) == 1 and all(m.function != "count" for m in measures):
        phrase = _shared(speaker, query, measures)
    connector = speaker.pick("of", "of", "across", "for", "among")
    direct: tuple[str, ...] = ()
    if len(measures) == 1 and measures[0].distinct and not query.filters:
        nouns = slot(plural(speaker.noun(query, measures[0].ref)))
        direct = (
            f"How many {speaker.pick('different', 'distinct', 'unique')} {nouns} are there for {subjects}?",
            f"How many {speaker.pick('different', 'distinct')} {nouns} do {subjects} have?",
        )
    return Request(f"{phrase} {connector} {subjects}", len(measures) > 1, direct)


def _shared(speaker: Speaker, query: Query, measures: list[Measure]) -> str:
    """`the minimum, average and maximum age`."""
    noun = speaker.noun(query, measures[0].ref)
    adjectives = [speaker.measure(query, m).rsplit(" \x01", 1)[0] for m in measures]
    return f"the {listing(adjectives)} {slot(noun)}"


def _counts_subject(query: Query, measure: Measure) -> bool:
    """COUNT(DISTINCT key of the subject): joins to many would count a subject twice."""
    return measure.function == "count" and measure.distinct and measure.ref.occurrence == 0 and len(query.tables) > 1


def _counted(speaker: Speaker, query: Query) -> Request:
    subjects = speaker.filtered(query)
    tail = speaker.pick("are there", "are there", "do we have", "exist", "are on record", "are there in total")
    direct = (f"How many {subjects} {tail}?", f"What is the {speaker.pick('total ', '')}number of {subjects}?")
    commands = (
        f"Count {speaker.pick('the number of ', 'the ', '')}{subjects}.",
        f"Find how many {subjects} there are.",
    )
    return Request(f"the {speaker.pick('', 'total ')}number of {subjects}", False, direct, commands)


def _listed(speaker: Speaker, query: Query) -> Request:
    subjects, many = _subjects(speaker, query)
    different = speaker.pick("different ", "distinct ", "unique ") if query.distinct else ""
    phrase = f"the {different}{_outputs(speaker, query, many)} of {subjects}"
    order = "" if query.limit is not None else _ordering(speaker, query)
    return Request(phrase + order, many or len(query.outputs) > 1, _which(speaker, query, subjects, order))


def _subjects(speaker: Speaker, query: Query) -> tuple[str, bool]:
    """The rows asked for, and whether they are spoken of as several: `the 3 oldest songs`; not `each song`."""
    if query.limit is not None:
        return _superlative(speaker, query), query.limit != 1
    if query.filters:
        return speaker.filtered(query), True
    determiner = speaker.pick("all", "all the", "the", *(() if query.distinct else ("each",)))
    many = determiner != "each"
    return speaker.filtered(query, many, determiner), many


def _which(speaker: Speaker, query: Query, subjects: str, order: str) -> tuple[str, ...]:
    """`Which singers ...? Give me their names.`"""
    if not query.filters or query.limit is not None or query.distinct:
        return ()
    outputs = _outputs(speaker, query, True)
    asked = speaker.filtered(query)
    return (f"For {asked}, what are the {outputs}{order}?", f"Which {outputs} belong to {asked}{order}?")


def _outputs(speaker: Speaker, query: Query, many: bool) -> str:
    """Columns of the subject first named alone, those of joined tables with their entity: `title and singer name`."""
    parts = []
    for ref in query.outputs:
        noun = speaker.noun(query, ref)
        if ref.occurrence:
            other = speaker.subject(query, ref.occurrence)
            first, *rest = noun.split()
            noun = " ".join([other, *rest] if first == other.split()[-1] else [other, noun])
        parts.append(slot(plural(noun) if many else noun))
    return listing(parts)


def _superlative(speaker: Speaker, query: Query) -> str:
    """`the 3 songs whose year is above 2000 with the highest rating`."""
    order, count = query.order[0], query.limit
    noun = speaker.noun(query, order.key)
    many = count != 1
    subject = speaker.subjects(query) if many else slot(speaker.subject(query))
    number = f"{slot(count)} " if many else ""
    restriction = speaker.restriction(query, many)
    dated = speaker.names.dated(query.tables[order.key.occurrence], order.key.column)
    adjectives = _SUPERLATIVES | (_LATEST if dated else {})
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
    owner = f"{speaker.subject(query, order.key.occurrence)} " if order.key.occurrence else ""
    if restriction:
        return f"the {number}{subject} with the {extreme} {slot(owner + noun)} among those {restriction}"
    link = speaker.pick("with", "that have" if many else "that has", "having")
    return f"the {number}{subject} {link} the {extreme} {slot(owner + noun)}"


def _ordering(speaker: Speaker, query: Query) -> str:
    """`, sorted by age in descending order and then by name`."""
    if not query.order:
        return ""
    keys = [_sort_key(speaker, query, order) for order in query.order]
    lead = speaker.pick(", sorted by", ", ordered by", " sorted by", " ordered by", " arranged by")
    if len(keys) == 1 and speaker.rng.random() < 0.3 and isinstance(query.order[0].key, Ref):
        noun = slot(_key_noun(speaker, query, query.order[0]))
        direction = "descending" if query.order[0].descending else "ascending"
        return speaker.pick(f" in {direction} order of {noun}", f", listed in {direction} order of {noun}")
    return f"{lead} {', then by '.join(keys)}"


def _key_noun(speaker: Speaker, query: Query, order: Order) -> str:
    noun = speaker.noun(query, order.key)
    return f"{speaker.subject(query, order.key.occurrence)} {noun}" if order.key.occurrence else noun


def _sort_key(speaker: Speaker, query: Query, order: Order) -> str:
    measured = isinstance(order.key, Measure)
    noun = speaker.measure(query, order.key) if measured else slot(_key_noun(speaker, query, order))
    if order.descending:
        words, of_numbers = ("in descending order", "descending"), ("from highest to lowest", "in decreasing order")
    else:
        words, of_numbers = ("in ascending order", "ascending", ""), ("from lowest to highest", "in increasing order")
    if measured or speaker.names.numeric(query.tables[order.key.occurrence], order.key.column):
        words += of_numbers
    return f"{noun} {speaker.pick(*words)}".strip()


def _grouped(speaker: Speaker, query: Query) -> Request:
    keys = [output for output in query.outputs if isinstance(output, Ref)]
    measures = [output for output in query.outputs if isinstance(output, Measure)]
    groups = _groups(speaker, query, keys)
    if query.limit is not None or query.having:
        return _chosen_groups(speaker, query, groups, measures)
    measured = listing([f"the {speaker.measure(query, m)}" for m in measures])
    restriction = f" {speaker.restriction(query)}" if query.filters else ""
    order = _ordering(speaker, query)
    each = groups.one
    options = (
        f"{groups.one_name} and {measured}{restriction} for each {each}{order}",
        f"{groups.one_name} with {measured}{restriction} per {each}{order}",
        f"{groups.all_names} and {measured}{restriction} for each{order}",
    )
    direct: tuple[str, ...] = ()
    if measures == [Measure("count")]:
        counted = speaker.filtered(query)
        direct = (
            f"How many {counted} are there for each {each}{order}?" + groups.and_name,
            f"How many {counted} does each {each} have{order}?" + groups.and_name,
        )
    verb = speaker.pick("show", "find", "give", "list")
    commands = (f"For each {each}, {verb} {groups.one_name} and {measured}{restriction}{order}.",)
    phrase = speaker.pick(*options)
    return Request(phrase, phrase != options[1], direct, commands)


@dataclass(frozen=True)
class _Groups:
    """Ways to speak of the groups: `one` singer, `many` singers, and of the columns shown of them."""

    one: str
    many: str
    all_names: str
    one_name: str
    and_name: str


def _groups(speaker: Speaker, query: Query, keys: list[Ref]) -> _Groups:
    """Grouping by a column of the subject (`country`) or by a joined entity (`singer`) that its columns name."""
    occurrence = query.group[0].occurrence
    if occurrence == 0:
        nouns = [speaker.noun(query, ref) for ref in query.group]
        one, many = listing([slot(n) for n in nouns]), listing([slot(plural(n)) for n in nouns])
        show = speaker.pick(f"Show the {one} too.", f"Include the {one}.", f"Give the {one} and the number.")
        return _Groups(one, many, f"the {speaker.pick('', 'different ')}{many}", f"the {one}", f" {show}")
    entity = speaker.subject(query, occurrence)
    columns, plural_columns = speaker.columns(query, keys, False), speaker.columns(query, keys, True)
    one, many = slot(entity), slot(plural(entity))
    return _Groups(
        one,
        many,
        f"the {plural_columns} of {speaker.pick('all', 'the')} {many}",
        f"the {columns} of the {one}",
        f" Show the {columns} and the number.",
    )


def _chosen_groups(speaker: Speaker, query: Query, groups: _Groups, measures: list[Measure]) -> Request:
    """Groups picked by HAVING or by ORDER BY ... LIMIT."""
    restriction = f" {speaker.restriction(query)}" if query.filters else ""
    joined = query.group[0].occurrence != 0
    extra = "".join(f" and the {speaker.measure(query, m)}" for m in measures)
    if query.having:
        condition = _having(speaker, query, restriction)
        head = f"{groups.all_names} {condition}" if joined else f"the {groups.many} {condition}"
        also = f", along with{extra[4:]} for each" if extra else ""
        return Request(head + also + _ordering(speaker, query), True)
    order, one = query.order[0], query.limit == 1
    measure = speaker.measure(query, order.key)
    most = _most(speaker, query, order, restriction, measure)
    number = "" if one else f"{slot(query.limit)} "
    noun = groups.one if one else groups.many
    names = (groups.one_name if one else groups.all_names).rsplit(" of ", 1)[0] + " of " if joined else ""
    also = extra and f", along with{extra[4:]}"
    phrase = f"{names}the {number}{noun} {most}{also}"
    direct = (
        (f"Which {number}{noun} {'has' if one else 'have'} {most.removeprefix('with ')}?",)
        if not joined and not extra
        else ()
    )
    return Request(phrase, not one, direct)


def _most(speaker: Speaker, query: Query, order: Order, restriction: str, measure: str) -> str:
    if order.key.function == "count" and not order.key.distinct:
        subjects = speaker.subjects(query)
        word = (
            speaker.pick("most", "most", "largest number of")
            if order.descending
            else speaker.pick("fewest", "smallest number of")
        )
        return f"with the {word} {subjects}{restriction}"
    word = speaker.pick("highest", "largest") if order.descending else speaker.pick("lowest", "smallest")
    return f"with the {word} {measure}{restriction}"


def _having(speaker: Speaker, query: Query, restriction: str) -> str:
    item = query.having[0]
    if item.measure.function == "count":
        forms = {
            ">": ("more than {}", "over {}"),
            ">=": ("at least {}", "{} or more"),
            "<": ("fewer than {}", "less than {}"),
            "<=": ("at most {}", "{} or fewer"),
            "=": ("exactly {}",),
        }[item.op]
        number = speaker.pick(*forms).format(slot(item.value))
        noun = slot(speaker.subject(query)) if item.value == 1 else speaker.subjects(query)
        return f"{speaker.pick('with', 'that have', 'having')} {number} {noun}{restriction}"
    measure = speaker.measure(query, item.measure)
    of = f" of {speaker.subjects(query)}{restriction}"
    return f"whose {measure}{of} {speaker.predicate('', item.op, item.value)}"


__all__ = ["Request", "article", "request"]
