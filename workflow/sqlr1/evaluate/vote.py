"""Self-consistency: choose among candidates by what their queries return."""

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import combinations
from math import comb

_CHOICES = 256  # of k among the candidates: all of them up to 10 candidates, else so many at random


def methods(samples: int) -> tuple[str, ...]:
    """The ways to one answer of a system that gave a greedy answer and so many samples; one sample has no vote."""
    return ("greedy", "vote") if samples > 1 else ("greedy",)


def majority(fingerprints: Sequence[str | None]) -> int | None:
    """The index of the chosen candidate: the earliest of the largest class of equal results.

    Candidates that did not run (None) do not vote; a tie goes to the class whose first member comes first. If
    nothing ran, the first candidate is chosen; without candidates the result is None.

    >>> majority([None, "a", "b", "b"])
    2
    """
    votes = Counter(fingerprint for fingerprint in fingerprints if fingerprint is not None)
    if not votes:
        return 0 if fingerprints else None
    winner, _ = votes.most_common(1)[0]  # counts in order of first appearance, so ties go to the earliest
    return fingerprints.index(winner)


def vote_share(fingerprints: Sequence[object], right: Sequence[int], k: int) -> float:
    """How often the vote over k of the candidates is right: the share among the choices of k, in their order.

    Over one it is the share of right candidates, over all of them the vote itself.

    >>> [vote_share(["a", "b", "b"], [0, 1, 1], k) for k in (1, 3)]
    [0.6666666666666666, 1.0]
    """
    outcomes = [right[chosen[majority([fingerprints[i] for i in chosen])]] for chosen in _choices(len(right), k)]
    return sum(outcomes) / len(outcomes)


def _choices(n: int, k: int) -> Iterator[Sequence[int]]:
    if comb(n, k) <= _CHOICES:
        return combinations(range(n), k)
    draw = random.Random(0)
    return (sorted(draw.sample(range(n), k)) for _ in range(_CHOICES))
