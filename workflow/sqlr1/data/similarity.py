"""Near-duplicate questions: MinHash finds candidates, then the Jaccard similarity of words and word pairs decides."""

import itertools
import re
from collections.abc import Iterable, Iterator
from functools import cache
from typing import NamedTuple

from datasketch import MinHash, MinHashLSH

_PERMUTATIONS = 128
_MARGIN = 0.8  # MinHash looks for candidates from this share of the threshold on, so that it misses few


class Sketch(NamedTuple):
    """The words and word pairs of a question in lower case, and their MinHash signature."""

    shingles: frozenset[bytes]
    signature: MinHash


def sketches(questions: Iterable[str]) -> Iterator[Sketch]:
    """The sketches of questions, all with the same permutations."""
    shingles = [_shingles(question) for question in questions]
    return map(Sketch, shingles, MinHash.bulk(shingles, num_perm=_PERMUTATIONS, seed=1))


def _shingles(question: str) -> frozenset[bytes]:
    words = re.findall(r"[\w.]+", question.lower())
    return frozenset(item.encode() for item in (*words, *(f"{a} {b}" for a, b in itertools.pairwise(words))))


@cache
def _bands(threshold: float) -> tuple[int, int]:
    """(bands, rows per band) for a threshold; to find them takes as long as to filter fifty rows."""
    index = MinHashLSH(threshold=threshold, num_perm=_PERMUTATIONS)
    return index.b, index.r


class QuestionIndex:
    """Finds questions whose Jaccard similarity to a known one is at least `threshold`."""

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._lsh = MinHashLSH(num_perm=_PERMUTATIONS, params=_bands(_MARGIN * threshold))
        self._known: list[Sketch] = []

    def add(self, sketch: Sketch) -> None:
        self._lsh.insert(len(self._known), sketch.signature, check_duplication=False)
        self._known.append(sketch)

    def has_similar(self, sketch: Sketch) -> bool:
        for known in (self._known[i] for i in self._lsh.query(sketch.signature)):
            both = len(known.shingles & sketch.shingles)
            if both > 0 and both >= self._threshold * (len(known.shingles) + len(sketch.shingles) - both):
                return True
        return False
