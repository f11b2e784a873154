"""Near-duplicate questions, by MinHash signatures over word pairs."""

import itertools
import re
from collections.abc import Sequence

from datasketch import MinHash, MinHashLSH

_PERMUTATIONS = 32


def shingles(question: str) -> list[bytes]:
    """The question's words and word pairs in lower case."""
    words = re.findall(r"[a-z0-9.]+", question.lower())
    pairs = [f"{a} {b}" for a, b in itertools.pairwise(words)]
    return [item.encode() for item in {*words, *pairs}]


class QuestionIndex:
    """Finds questions whose estimated Jaccard similarity with a known one is at least `threshold`."""

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._lsh = MinHashLSH(threshold=threshold, num_perm=_PERMUTATIONS)
        self._signatures: list[MinHash] = []

    def add(self, signature: MinHash) -> None:
        """Make a signature known."""
        self._lsh.insert(len(self._signatures), signature, check_duplication=False)
        self._signatures.append(signature)

    def has_similar(self, signature: MinHash) -> bool:
        """Whether a known signature is similar."""
        return any(self._signatures[i].jaccard(signature) >= self._threshold for i in self._lsh.query(signature))


def signatures(items: Sequence[list[bytes]]) -> list[MinHash]:
    """MinHash signatures, all with the same permutations."""
    return MinHash.bulk(items, num_perm=_PERMUTATIONS, seed=1)
