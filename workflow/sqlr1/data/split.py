"""Which kept rows are for validation, RL and the cold start: disjoint, balanced by class, drawn by seed.

Rows are known by their numbers, and subsets are lists of numbers: the rows themselves stay on disk.
"""

import random
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from sqlr1.records import SQL_CLASSES, InputError, Question

if TYPE_CHECKING:
    from sqlr1.config import Filter

SUBSETS = ("validation", "rl", "cold_start")


def divide(
    rows: Sequence[Question], reasons: Sequence[str | None], settings: "Filter", seed: int
) -> tuple[dict[str, list[int]], list[int]]:
    """(the numbers of each subset's rows, the numbers of rows over a quota), of the rows without a reason to drop them.

    Raises InputError as `held_out` does.
    """
    classes, styles, databases = {}, {}, {}
    for number, (row, reason) in enumerate(zip(rows, reasons, strict=True)):
        if not reason:
            classes[number], styles[number] = sys.intern(row.sql_class), sys.intern(row.style)
            databases[number] = sys.intern(row.db_id)
    sizes = {"validation": settings.validation_rows, "rl": settings.rl_rows, "cold_start": settings.cold_start_rows}
    over: list[int] = []
    if settings.max_per_style:
        kept, over = cap_styles(styles, round(settings.max_per_style * sum(sizes.values())), seed)
        classes = {number: classes[number] for number in kept}
    unseen = held_out((databases[number] for number in classes), settings.validation_databases, seed)
    for_validation = {number for number in classes if databases[number] in unseen}
    subsets = split(classes, sizes, settings.rl_classes, settings.classes, seed, for_validation)
    return subsets, over + subsets.pop("surplus")


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
        raise InputError(
            f"config key filter.validation_databases: {count} of the {len(found)} databases with usable rows "
            "leave none to train on"
        )
    return frozenset(random.Random(f"{seed}:databases").sample(found, count))


def split(
    classes: Mapping[int, str],
    sizes: Mapping[str, int],
    rl_classes: Sequence[str],
    weights: Mapping[str, float],
    seed: int,
    for_validation: Collection[int] = (),
) -> dict[str, list[int]]:
    """Disjoint subsets: validation and rl (with `rl_classes` only), cold_start; `surplus` is the rest.

    `classes` has the SQL class of each row. If RL and the cold start want more rows of a class than there are, they
    share these in proportion to their sizes. Validation is drawn from the rows `for_validation` and the other subsets
    from the rest; without such rows, all are drawn from the same rows.
    """
    if for_validation:
        held = {number: name for number, name in classes.items() if number in for_validation}
        others = {number: name for number, name in classes.items() if number not in for_validation}
        first = split(held, {**sizes, "rl": 0, "cold_start": 0}, rl_classes, weights, seed)
        second = split(others, {**sizes, "validation": 0}, rl_classes, weights, seed)
        return {name: first[name] + second[name] for name in first}
    pools: dict[str, list[int]] = {name: [] for name in SQL_CLASSES}
    for number, name in classes.items():
        pools[name].append(number)
    for name, pool in pools.items():
        random.Random(f"{seed}:{name}").shuffle(pool)
    allowed = {"validation": rl_classes, "rl": rl_classes, "cold_start": SQL_CLASSES}
    usable = {name: weights[name] for name in SQL_CLASSES if pools[name] and weights[name] > 0}
    demand = {s: shares(sizes[s], {name: usable[name] for name in allowed[s] if name in usable}) for s in SUBSETS}
    result: dict[str, list[int]] = {}
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
    return result | {"surplus": [number for name in SQL_CLASSES for number in pools[name]]}


def cap_styles(styles: Mapping[int, str], most: int, seed: int) -> tuple[list[int], list[int]]:
    """(the numbers of at most `most` rows of each style, drawn by seed; those of the others), in the order of `styles`.

    `styles` has the style of each row.
    """
    kept: set[int] = set()
    for style, group in groupby(sorted(styles, key=styles.__getitem__), styles.__getitem__):
        numbers = list(group)
        kept |= set(random.Random(f"{seed}:{style}").sample(numbers, min(len(numbers), most)))
    return [n for n in styles if n in kept], [n for n in styles if n not in kept]
