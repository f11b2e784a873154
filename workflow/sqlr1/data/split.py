"""Which of the kept rows serve validation, RL and the cold start: disjoint, balanced by class, drawn by seed."""

import random
from collections.abc import Collection, Iterable, Mapping, Sequence

from sqlr1.records import SQL_CLASSES, InputError

SUBSETS = ("validation", "rl", "cold_start")


def shares(total: int, weights: Mapping[str, float]) -> dict[str, int]:
    """Split `total` by weights; the largest remainders get what rounding leaves."""
    whole = sum(weights.values())
    exact = {name: total * weight / whole for name, weight in weights.items()}
    counts = {name: int(value) for name, value in exact.items()}
    by_remainder = sorted(exact, key=lambda name: counts[name] - exact[name])
    for name in by_remainder[: total - sum(counts.values())]:
        counts[name] += 1
    return counts


def balanced(available: Mapping[str, int], total: int, weights: Mapping[str, float]) -> dict[str, int]:
    """Split `total` over classes by weights; what a class lacks is taken from the others, as long as there is any.

    >>> balanced({"a": 10, "b": 1}, 6, {"a": 1, "b": 1})
    {'a': 5, 'b': 1}
    """
    counts = dict.fromkeys(available, 0)
    for _ in range(min(total, sum(n for name, n in available.items() if weights.get(name, 0) > 0))):
        open_classes = [n for n in available if counts[n] < available[n] and weights.get(n, 0) > 0]
        counts[min(open_classes, key=lambda n: (counts[n] + 1) / weights[n])] += 1
    return counts


def held_out(db_ids: Iterable[str], count: int, seed: int) -> frozenset[str]:
    """`count` of the databases, drawn by seed, for validation alone.

    Raises InputError where none would be left to train on.
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
    """Disjoint subsets of rows: validation, rl (both of `rl_classes` only) and cold_start; `surplus` is the rest.

    `classes` has the SQL class of each row by its number, and subsets are lists of numbers. Where RL and the cold start
    want more rows of a class than there are, they share it in proportion to their sizes. Where rows are held out
    `for_validation`, it is drawn from these, and the others from the rest.
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
    for name in SQL_CLASSES:
        random.Random(f"{seed}:{name}").shuffle(pools[name])
    demand = {s: _demand(sizes[s], SQL_CLASSES if s == "cold_start" else rl_classes, weights, pools) for s in SUBSETS}
    result: dict[str, list[int]] = {}
    for place, subset in enumerate(SUBSETS):
        available = {}
        for name in SQL_CLASSES:
            own, later = demand[subset].get(name, 0), sum(demand[s].get(name, 0) for s in SUBSETS[place + 1 :])
            enough = len(pools[name]) >= own + later
            available[name] = len(pools[name]) - later if enough else round(len(pools[name]) * own / (own + later))
            available[name] *= name in demand[subset]
        counts = balanced(available, sizes[subset], weights)
        taken = [pools[name].pop() for name in SQL_CLASSES for _ in range(counts[name])]
        random.Random(f"{seed}:{subset}").shuffle(taken)
        result[subset] = taken
    result["surplus"] = [number for name in SQL_CLASSES for number in pools[name]]
    return result


def cap_styles(styles: Mapping[int, str], most: int, seed: int) -> tuple[list[int], list[int]]:
    """(the numbers of at most `most` rows of each style, drawn by seed; those of the others), in the order of `styles`.

    `styles` has the style of each row by its number.
    """
    by_style: dict[str, list[int]] = {}
    for number, style in styles.items():
        by_style.setdefault(style, []).append(number)
    kept: set[int] = set()
    for style, numbers in by_style.items():
        kept |= set(random.Random(f"{seed}:{style}").sample(numbers, min(len(numbers), most)))
    return [n for n in styles if n in kept], [n for n in styles if n not in kept]


def _demand(
    size: int, allowed: Sequence[str], weights: Mapping[str, float], pools: Mapping[str, Sequence[int]]
) -> dict[str, int]:
    """How many rows of each class a subset would like, among the classes it may have and that exist."""
    open_weights = {name: weights.get(name, 0) for name in allowed if pools[name] and weights.get(name, 0) > 0}
    return shares(size, open_weights) if open_weights else {}
