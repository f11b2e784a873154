"""Which of the kept rows serve validation, RL and the cold start: disjoint, balanced by class, drawn by seed."""

import random
from collections.abc import Mapping, Sequence

from sqlr1.records import SQL_CLASSES, Question
from sqlr1.synthesis.corpus import shares

SUBSETS = ("validation", "rl", "cold_start")


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


def split(
    rows: Sequence[Question],
    sizes: Mapping[str, int],
    rl_classes: Sequence[str],
    weights: Mapping[str, float],
    seed: int,
) -> dict[str, list[Question]]:
    """Disjoint subsets of `rows`: validation, rl (both of `rl_classes` only) and cold_start; `surplus` is the rest.

    Where RL and the cold start want more rows of a class than there are, they share it in proportion to their sizes.
    """
    pools: dict[str, list[Question]] = {name: [] for name in SQL_CLASSES}
    for row in rows:
        pools[row.sql_class].append(row)
    for name in SQL_CLASSES:
        random.Random(f"{seed}:{name}").shuffle(pools[name])
    demand = {s: _demand(sizes[s], SQL_CLASSES if s == "cold_start" else rl_classes, weights, pools) for s in SUBSETS}
    result: dict[str, list[Question]] = {}
    for number, subset in enumerate(SUBSETS):
        available = {}
        for name in SQL_CLASSES:
            own, later = demand[subset].get(name, 0), sum(demand[s].get(name, 0) for s in SUBSETS[number + 1 :])
            enough = len(pools[name]) >= own + later
            available[name] = len(pools[name]) - later if enough else round(len(pools[name]) * own / (own + later))
            available[name] *= name in demand[subset]
        counts = balanced(available, sizes[subset], weights)
        taken = [pools[name].pop() for name in SQL_CLASSES for _ in range(counts[name])]
        random.Random(f"{seed}:{subset}").shuffle(taken)
        result[subset] = taken
    result["surplus"] = [row for name in SQL_CLASSES for row in pools[name]]
    return result


def cap_styles(rows: Sequence[Question], most: int, seed: int) -> tuple[list[Question], list[Question]]:
    """(at most `most` rows of each style, drawn by seed; the others), both in the order of `rows`."""
    styles: dict[str, list[int]] = {}
    for number, row in enumerate(rows):
        styles.setdefault(row.style, []).append(number)
    kept: set[int] = set()
    for style, numbers in styles.items():
        kept |= set(random.Random(f"{seed}:{style}").sample(numbers, min(len(numbers), most)))
    return [rows[n] for n in sorted(kept)], [row for n, row in enumerate(rows) if n not in kept]


def _demand(
    size: int, allowed: Sequence[str], weights: Mapping[str, float], pools: Mapping[str, Sequence[Question]]
) -> dict[str, int]:
    """How many rows of each class a subset would like, among the classes it may have and that exist."""
    open_weights = {name: weights.get(name, 0) for name in allowed if pools[name] and weights.get(name, 0) > 0}
    return shares(size, open_weights) if open_weights else {}
