"""How two results compare: the semantics of the official evaluators, as pure functions over rows.

Values compare as in Python: 2 == 2.0, '2' != 2, NULL (None) equals itself only. Rows are tuples.
"""

import hashlib
from collections.abc import Sequence

from sqlr1.sandbox.columns import equal_up_to_columns

Rows = Sequence[tuple]


def bird_equal(predicted: Rows, gold: Rows) -> bool:
    """BIRD's execution accuracy: equal as sets of rows. Column order counts; row order and duplicates do not.

    >>> bird_equal([(2,), (1,), (1,)], [(1.0,), (2,)])
    True
    """
    return set(predicted) == set(gold)


def spider_exec_equal(predicted: Rows, gold: Rows, ordered: bool) -> bool:
    """Spider's execution match: equal multisets of rows (lists, if `ordered`) under some permutation of the columns.

    Two empty results match whatever their columns. `ordered`: whether the gold sorts (see `rewriting.is_ordered`).

    >>> spider_exec_equal([(1, "a"), (2, "b")], [("b", 2), ("a", 1)], ordered=False)
    True
    """
    if len(predicted) != len(gold):
        return False
    if not gold:
        return True
    if len(predicted[0]) != len(gold[0]):
        return False
    return equal_up_to_columns(gold, predicted, ordered)


def soft_f1(predicted: Rows, gold: Rows) -> float:
    """BIRD's Soft-F1, 0..1: duplicate rows dropped, row i against row i, cells weighted by the gold's column count.

    >>> soft_f1([(1, 9)], [(1,)])
    0.6666666666666666
    """
    predicted, gold = list(dict.fromkeys(predicted)), list(dict.fromkeys(gold))
    if predicted == gold:
        return 1.0
    matched = predicted_only = gold_only = 0.0
    for ours, theirs in zip(predicted, gold, strict=False):
        shared = sum(cell in theirs for cell in ours)
        matched += shared / len(theirs)
        predicted_only += (len(ours) - shared) / len(theirs)
        gold_only += sum(cell not in ours for cell in theirs) / len(theirs)
    predicted_only += max(0, len(predicted) - len(gold))
    gold_only += max(0, len(gold) - len(predicted))
    if not matched:
        return 0.0
    precision, recall = matched / (matched + predicted_only), matched / (matched + gold_only)
    return 2 * precision * recall / (precision + recall)


def fingerprint(rows: Rows) -> str:
    """A digest that is equal exactly for results that `bird_equal` calls equal."""
    encoded = sorted({"\x1f".join(map(_canonical, row)) for row in rows})
    digest = hashlib.sha256()
    for row in encoded:
        digest.update(f"{len(row)}:{row}".encode())
    return digest.hexdigest()


def _canonical(value: object) -> str:
    """One text per class of equal values: whole floats as integers (2.0 is 2, -0.0 is 0), types kept apart."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = value.hex() if isinstance(value, bytes | float) else str(value)
    return f"{type(value).__name__}{len(text)}:{text}"
