"""Self-consistency: choose among candidates by what their queries return."""

from collections import Counter
from collections.abc import Sequence


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
