"""Which kept rows are for test, validation, RL and the cold start: disjoint, balanced by class, drawn by seed.

Rows are known by their numbers, and subsets are lists of numbers: the rows themselves stay on disk.
"""

import hashlib
import random
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from sqlr1.database.sql import normal_form, parse, without_literals
from sqlr1.records import SQL_CLASSES, InputError, Question

if TYPE_CHECKING:
    from sqlr1.config import Filter

SUBSETS = ("test", "validation", "rl", "cold_start")


def divide(
    rows: Sequence[Question], reasons: Sequence[str | None], settings: "Filter", seed: int
) -> tuple[dict[str, list[int]], list[int]]:
    """(the numbers of each subset's rows, the numbers of rows over a quota), of the rows without a reason to drop them.

    Rows with `wrong_sql` are in RL, whatever their class, unless their database is for validation alone.

    Raises InputError as `held_out` does.
    """
    classes, styles, databases, forms, again = {}, {}, {}, {}, []
    for number, (row, reason) in enumerate(zip(rows, reasons, strict=True)):
        if not reason:
            classes[number], styles[number] = sys.intern(row.sql_class), sys.intern(row.style)
            databases[number] = sys.intern(row.db_id)
            again += [number] if row.wrong_sql else []
            if settings.test_rows:
                form = without_literals(normal_form(parse(row.sql)[0]))
                forms[number] = _rank(form)  # the texts would fill the memory
    sizes = {name: getattr(settings, f"{name}_rows") for name in SUBSETS}
    over: list[int] = []
    if settings.max_per_style:
        asked = set(again)
        others = {number: style for number, style in styles.items() if number not in asked}
        kept, over = cap_styles(others, round(settings.max_per_style * sum(sizes.values())), seed)
        classes = {number: classes[number] for number in (*kept, *again)}
    unseen = held_out((databases[number] for number in classes), settings.validation_databases, seed)
    again = [number for number in again if databases[number] not in unseen]
    taken = {forms[number] for number in again if forms}  # else a row of the same form might be for test
    gone = {*over, *again}
    over += [number for number in classes if forms.get(number) in taken and number not in gone]
    gone |= set(over)
    classes = {number: name for number, name in classes.items() if number not in gone}
    for_validation = {number for number in classes if databases[number] in unseen}
    sizes["rl"] = max(0, sizes["rl"] - len(again))
    subsets = split(classes, sizes, settings.rl_classes, settings.classes, seed, for_validation, forms)
    subsets["rl"] = again + subsets["rl"]
    return subsets, over + subsets.pop("surplus")


def _rank(text: str) -> int:
    """A pseudo-random number that depends on the text alone, the same in every process."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def shares(total: int, weights: Mapping[str, float]) -> dict[str, int]:
    """Split `total` by weights; what rounding down leaves goes to the largest remainders."""
    whole = sum(weights.values())
    exact = {name: total * weight / whole for name, weight in weights.items()}
    counts = {name: int(value) for name, value in exact.items()}
    by_remainder = sorted(exact, key=lambda name: counts[name] - exact[name])
    for name in by_remainder[: total - sum(counts.values())]:
        counts[name] += 1
    return counts


def balanced(available: Mapping[str, int], total: int, weights: Mapping[str, float]) -> dict[str, int]:
    """Split `total` over classes by weights; what a class lacks is taken from the others as long as they have rows.

    >>> balanced({"a": 10, "b": 1}, 6, {"a": 1, "b": 1})
    {'a': 5, 'b': 1}
    """
    counts = dict.fromkeys(available, 0)
    for _ in range(min(total, sum(count for name, count in available.items() if weights[name] > 0))):
        open_classes = [name for name in available if counts[name] < available[name] and weights[name] > 0]
        counts[min(open_classes, key=lambda name: (counts[name] + 1) / weights[name])] += 1
    return counts


def held_out(db_ids: Iterable[str], count: int, seed: int) -> frozenset[str]:
    """`count` of the databases, drawn by seed, to be used for validation alone.

    Raises InputError if none would be left to train on.
    """
    found = sorted(set(db_ids))
    if count and count >= len(found):
        where = f"config key filter.validation_databases: {count} of the {len(found)} databases"
        raise InputError(f"{where} with usable rows leave none to train on")
    return frozenset(random.Random(f"{seed}:databases").sample(found, count))


def split(
    classes: Mapping[int, str],
    sizes: Mapping[str, int],
    rl_classes: Sequence[str],
    weights: Mapping[str, float],
    seed: int,
    for_validation: Collection[int] = (),
    forms: Mapping[int, int] | None = None,
) -> dict[str, list[int]]:
    """Disjoint subsets: test, validation and rl (with `rl_classes` only), cold_start; `surplus` is the rest.

    `classes` has the SQL class of each row. If subsets want more rows of a class than there are, they share these in
    proportion to their sizes. Validation is drawn from the rows `for_validation` and the other subsets from the rest;
    without such rows, all are drawn from the same rows. `forms` has the SQL form of each row: no form of test is in
    another subset, and none of validation in RL or the cold start. Rows that this excludes are surplus.
    """
    forms = forms or {}
    if for_validation:
        held = {number: name for number, name in classes.items() if number in for_validation}
        others = {number: name for number, name in classes.items() if number not in for_validation}
        second = split(others, {**sizes, "validation": 0}, rl_classes, weights, seed, forms=forms)
        trained = {forms[n] for name in SUBSETS for n in second[name]} if forms else set()
        unlike = {number: name for number, name in held.items() if forms.get(number) not in trained}
        first = split(unlike, {"validation": sizes["validation"]}, rl_classes, weights, seed, forms=forms)
        first["surplus"] += [number for number in held if number not in unlike]
        return {name: first[name] + second[name] for name in first}
    pools: dict[str, list[int]] = {name: [] for name in SQL_CLASSES}
    for number, name in classes.items():
        pools[name].append(number)
    for name, pool in pools.items():
        if forms:  # subsets cut few forms in two, and new rows leave the others where they were
            pool.sort(key=lambda number, name=name: _rank(f"{seed}:{name}:{forms[number]}"))
        else:
            random.Random(f"{seed}:{name}").shuffle(pool)
    sizes = dict.fromkeys(SUBSETS, 0) | dict(sizes)
    allowed = {"test": SQL_CLASSES, "validation": rl_classes, "rl": rl_classes, "cold_start": SQL_CLASSES}
    usable = {name: weights[name] for name in SQL_CLASSES if pools[name] and weights[name] > 0}
    demand = {s: shares(sizes[s], {name: usable[name] for name in allowed[s] if name in usable}) for s in SUBSETS}
    result: dict[str, list[int]] = {}
    surplus: list[int] = []
    for place, subset in enumerate(SUBSETS):
        available = {}
        for name in sorted(demand[subset], key=SQL_CLASSES.index):
            own, later = demand[subset][name], sum(demand[s].get(name, 0) for s in SUBSETS[place + 1 :])
            left = len(pools[name])
            available[name] = left - later if left >= own + later else round(left * own / (own + later))
        counts = balanced(available, sizes[subset], weights)
        taken = [pools[name].pop() for name in SQL_CLASSES for _ in range(counts.get(name, 0))]
        random.Random(f"{seed}:{subset}").shuffle(taken)
        result[subset] = taken
        if forms and subset in ("test", "validation"):
            known = {forms[number] for number in taken}
            surplus += [number for pool in pools.values() for number in pool if forms[number] in known]
            pools = {name: [n for n in pool if forms[n] not in known] for name, pool in pools.items()}
    return result | {"surplus": surplus + [number for name in SQL_CLASSES for number in pools[name]]}


def cap_styles(styles: Mapping[int, str], most: int, seed: int) -> tuple[list[int], list[int]]:
    """(the numbers of at most `most` rows of each style, drawn by seed; those of the others), in the order of `styles`.

    `styles` has the style of each row.
    """
    kept: set[int] = set()
    for style, group in groupby(sorted(styles, key=styles.__getitem__), styles.__getitem__):
        numbers = list(group)
        kept |= set(random.Random(f"{seed}:{style}").sample(numbers, min(len(numbers), most)))
    return [n for n in styles if n in kept], [n for n in styles if n not in kept]
