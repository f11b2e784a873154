"""Near-duplicate questions: MinHash finds the candidates, their word pairs decide."""

import itertools
import re
from collections.abc import Iterable, Iterator
from functools import cache

from datasketch import MinHash, MinHashLSH

_PERMUTATIONS = 128
_MARGIN = 0.8  # the share of the threshold at which candidates are looked for: few that count are missed


class Sketch:
    """A question as the set of its words and word pairs in lower case, and their MinHash signature."""

    def __init__(self, shingles: frozenset[bytes], signature: MinHash) -> None:
        self.shingles, self.signature = shingles, signature


def sketches(questions: Iterable[str]) -> Iterator[Sketch]:
    """The sketches of questions, all with the same permutations."""
    shingles = [_shingles(question) for question in questions]
    return map(Sketch, shingles, MinHash.bulk(shingles, num_perm=_PERMUTATIONS, seed=1))


def _shingles(question: str) -> frozenset[bytes]:
    words = re.findall(r"[\w.]+", question.lower())
    return frozenset(item.encode() for item in (*words, *(f"{a} {b}" for a, b in itertools.pairwise(words))))


@cache
def _bands(threshold: float) -> tuple[int, int]:
    """Bands and rows of a band for a threshold; looking for them takes as long as filtering fifty rows."""
    index = MinHashLSH(threshold=threshold, num_perm=_PERMUTATIONS)
    return index.b, index.r


class QuestionIndex:
    """Finds questions whose Jaccard similarity with a known one is at least `threshold`."""

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._lsh = MinHashLSH(num_perm=_PERMUTATIONS, params=_bands(_MARGIN * threshold))
        self._known: list[Sketch] = []

    def add(self, sketch: Sketch) -> None:
        """Make a question known."""
        self._lsh.insert(len(self._known), sketch.signature, check_duplication=False)
        self._known.append(sketch)

    def has_similar(self, sketch: Sketch) -> bool:
        """Whether a known question is similar."""
        return any(self._similar(self._known[i], sketch) for i in self._lsh.query(sketch.signature))

    def _similar(self, known: Sketch, sketch: Sketch) -> bool:
        both = len(known.shingles & sketch.shingles)
        return both > 0 and both >= self._threshold * (len(known.shingles) + len(sketch.shingles) - both)
