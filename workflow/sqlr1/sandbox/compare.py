"""Compare two query results as the official evaluators do. Pure functions over rows; a worker calls them.

Values compare as in Python: 2 == 2.0, '2' != 2, and NULL (None) equals only NULL. Rows are tuples.
"""

import hashlib
import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from operator import itemgetter, mul

# Of a hash's 64 bits 30 are kept where hashes are multiplied: products of small integers are fast.
_SHIFT = 34
Rows = Sequence[tuple]


def bird_equal(predicted: Rows, gold: Rows) -> bool:
    """BIRD's execution accuracy: equal as sets of rows. Column order counts; row order and duplicates do not.

    >>> bird_equal([(2,), (1,), (1,)], [(1.0,), (2,)])
    True
    """
    return set(predicted) == set(gold)


def spider_exec_equal(predicted: Rows, gold: Rows, ordered: bool) -> bool:
    """Spider's execution match: equal multisets of rows (lists, if `ordered`) under some permutation of the columns.

    Two empty results match whatever their columns. `ordered`: whether the gold sorts (see `judging.is_ordered`).

    >>> spider_exec_equal([(1, "a"), (2, "b")], [("b", 2), ("a", 1)], ordered=False)
    True
    """
    if len(predicted) != len(gold):
        return False
    if not gold:
        return True
    if len(predicted[0]) != len(gold[0]):
        return False
    if ordered:
        return Counter(zip(*gold, strict=True)) == Counter(zip(*predicted, strict=True))
    return _equal_up_to_columns(Counter(gold), Counter(predicted))


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
    # A whole float equals an integer: 2.0 is 2, -0.0 is 0.
    shown = {repr([int(v) if isinstance(v, float) and v.is_integer() else v for v in row]) for row in rows}
    return hashlib.sha256("\n".join(sorted(shown)).encode()).hexdigest()


def _equal_up_to_columns(gold: Counter[tuple], predicted: Counter[tuple]) -> bool:
    """Whether a permutation of the columns makes the two multisets of rows equal."""
    if gold == predicted:
        return True
    # How often a row occurs and the set of values in it: no permutation changes them.
    tables = gold, predicted
    keys = [list(map(hash, zip(rows.values(), map(frozenset, rows), strict=True))) for rows in tables]
    if sorted(keys[0]) != sorted(keys[1]):
        return False
    if len(set(keys[0])) == len(gold):  # only one way to pair the rows: in the order of their keys
        keyed = (sorted(zip(own, rows, strict=True), key=itemgetter(0)) for own, rows in zip(keys, tables, strict=True))
        columns = [Counter(zip(*(row for _, row in side), strict=True)) for side in keyed]
        return columns[0] == columns[1]
    draw = random.Random(0)
    weights: defaultdict[object, int] = defaultdict(lambda: draw.getrandbits(64 - _SHIFT))
    sides = _Side(gold, weights), _Side(predicted, weights)
    return _search(sides, (sides[0].first_colours(), sides[1].first_colours()))


class _Side:
    """One of two tables that are compared up to the order of rows and columns: its distinct rows and columns.

    A colour is a number for a column that depends on what is in the table, but not on the order of its rows and
    columns. So two tables whose colours differ as multisets do not match, and if they match, each column has a partner
    of its colour. Hashes may collide: then two columns look alike that are not, which only costs time.
    `value_weights` gives every value a random number, the same for both tables.
    """

    def __init__(self, rows: Counter[tuple], value_weights: Mapping[object, int]) -> None:
        self._row_counts = list(rows.values())
        self._columns = Counter(zip(*rows, strict=True))
        self._weights = [list(map(value_weights.__getitem__, column)) for column in self._columns]

    def first_colours(self) -> list[int]:
        """By how often the column occurs and by the values in it."""
        return list(map(hash, zip(self._columns.values(), map(sum, self._weights), strict=True)))

    def refined(self, colours: list[int]) -> list[int]:
        """Tell columns apart by their values in rows that already differ, until no more columns can be told apart."""
        kinds = 0
        while kinds < len(set(colours)) < len(colours):
            kinds = len(set(colours))
            factors = [colour >> _SHIFT for colour in self._row_colours(colours)]
            sums = (sum(map(mul, factors, column)) for column in self._weights)
            colours = list(map(hash, zip(colours, sums, strict=True)))
        return colours

    def _row_colours(self, colours: list[int]) -> list[int]:
        """By the row's count and the (column colour, value) pairs in it."""
        factors = [colour >> _SHIFT for colour in colours]
        sums = (sum(map(mul, factors, row)) for row in zip(*self._weights, strict=True))
        return list(map(hash, zip(self._row_counts, sums, strict=True)))

    def looked_ahead(self, colours: list[int]) -> list[int]:
        """Tell columns of one colour apart by how the colours of the whole table refine once that column is marked."""
        shared = Counter(colours)
        return [
            hash((colour, *sorted(self.refined(_marked(colours, place))))) if shared[colour] > 1 else colour
            for place, colour in enumerate(colours)
        ]

    def rows_by(self, colours: list[int]) -> dict[tuple, int]:
        """The rows with their counts, with the columns in the order of their colours."""
        ordered = sorted(zip(colours, self._columns, strict=True), key=itemgetter(0))
        return dict(zip(zip(*(column for _, column in ordered), strict=True), self._row_counts, strict=True))


def _search(sides: tuple[_Side, _Side], colours: tuple[list[int], list[int]]) -> bool:
    """Whether the tables match, if each column may only be paired with one of its colour. `sides`: gold, predicted.

    Backtracks over the pairs of columns. It first pairs them greedily: columns that look alike because the table is
    symmetric are exchangeable, so that any pairs do. If that fails, it looks one step ahead to tell columns apart, and
    then tries the candidates that are left one by one. With n symmetric columns and rows a match takes about n^3 steps
    and a mismatch n^4; strongly regular graphs take more. `Limits.comparison_seconds` ends those.
    """
    gold, predicted = greedy = tuple(side.refined(own) for side, own in zip(sides, colours, strict=True))
    while (answer := _answer(sides, greedy)) is None:
        column, candidates = _tied(*greedy)
        marked = _marked(greedy[0], column), _marked(greedy[1], candidates[0])
        greedy = tuple(side.refined(own) for side, own in zip(sides, marked, strict=True))
    if answer or _answer(sides, (gold, predicted)) is False:
        return answer
    ahead = sides[0].looked_ahead(gold), sides[1].looked_ahead(predicted)
    if sorted(ahead[0]) != sorted(ahead[1]):
        return False
    if len(set(ahead[0])) > len(set(gold)):
        return _search(sides, ahead)
    column, candidates = _tied(gold, predicted)
    return any(_search(sides, (_marked(gold, column), _marked(predicted, place))) for place in candidates)


def _answer(sides: tuple[_Side, _Side], colours: tuple[list[int], list[int]]) -> bool | None:
    """True if the tables are equal with their columns sorted by colour, False if they cannot be; None if open."""
    if sorted(colours[0]) != sorted(colours[1]):
        return False
    if sides[0].rows_by(colours[0]) == sides[1].rows_by(colours[1]):
        return True
    return False if len(set(colours[0])) == len(colours[0]) else None


def _tied(gold: list[int], predicted: list[int]) -> tuple[int, list[int]]:
    """The first gold column that shares its colour with another, and the predicted columns of that colour."""
    colour = next(colour for colour, count in Counter(gold).items() if count > 1)
    return gold.index(colour), [place for place, other in enumerate(predicted) if other == colour]


def _marked(colours: list[int], place: int) -> list[int]:
    """The colours with a new one for the column at `place`."""
    return [*colours[:place], hash((colours[place], "marked")), *colours[place + 1 :]]
