"""Are two tables equal up to the order of their rows and a permutation of their columns? Exact, without trying all.

Spider's evaluator tries column permutations one by one. Here both tables are refined together, as in a test for graph
isomorphism (colour refinement, then individualisation): rows are coloured by their values, columns by the colours of
their rows, rows by the colours of their columns, until all rows or all columns of a table look different, or nothing
changes any more. Equal tables always get equal colours, so a difference proves a mismatch; and a match is only reported
for a pairing of rows or columns under which the tables were compared cell by cell. Columns that refinement cannot tell
apart are first paired as they come, refining after each pair: where they look alike because the table is symmetric that
is already a match. Else they are marked one at a time, and told apart by what refinement then shows; those that still
look alike are tried one after the other, with all of this again after each choice.

A right answer over n symmetric columns and n rows costs some n^3 steps, a wrong one that refinement cannot tell from
it n^4, and more where marks do not help either (strongly regular graphs). `Limits.comparison_seconds` ends those.
"""

import random
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from itertools import repeat
from operator import itemgetter, mul

# Colours are sums of products of random weights: exact integers, so small enough to be fast.
_WEIGHT_BITS = 30
Table = Sequence[tuple]


def equal_up_to_columns(gold: Table, predicted: Table, ordered: bool) -> bool:
    """Whether a permutation of the columns makes the tables equal: as lists of rows if `ordered`, else as multisets.

    Both have the same number of rows (at least one) and of columns. Values are equal as in Python: 2 == 2.0, '2' != 2.
    """
    if ordered:
        return gold == predicted or _equal_columns(gold, predicted)
    gold_rows, predicted_rows = Counter(gold), Counter(predicted)
    if gold_rows == predicted_rows:
        return True
    if sorted(gold_rows.values()) != sorted(predicted_rows.values()):
        return False
    sides = _Side(gold_rows), _Side(predicted_rows)
    decided = _decided_by_rows(sides, [side.first_row_colours() for side in sides])
    return _Refinement(sides).search() if decided is None else decided


def _equal_columns(gold: Table, predicted: Table) -> bool:
    """Whether the columns are the same ones, in whatever order, with the rows as they stand."""
    return Counter(zip(*gold, strict=True)) == Counter(zip(*predicted, strict=True))


def _decided_by_rows(sides: "tuple[_Side, _Side]", colours: list[list[int]]) -> bool | None:
    """The answer, if the colours differ or leave one way only to pair the rows; else None."""
    if sorted(colours[0]) != sorted(colours[1]):
        return False
    if len(set(colours[0])) < len(colours[0]):
        return None
    gold, predicted = (
        [side.rows[i] for i in sorted(range(len(own)), key=own.__getitem__)]
        for side, own in zip(sides, colours, strict=True)
    )
    return _equal_columns(gold, predicted)


class _Side:
    """One table, as distinct rows with their counts."""

    def __init__(self, counted: Counter[tuple]) -> None:
        self.rows = list(counted)
        self.counts = list(counted.values())

    @cached_property
    def places(self) -> dict[tuple, list[int]]:
        """Where each distinct column stands."""
        places: dict[tuple, list[int]] = {}
        for place, column in enumerate(zip(*self.rows, strict=True)):
            places.setdefault(column, []).append(place)
        return places

    def first_row_colours(self) -> list[int]:
        """Colours from the set of values in each row."""
        return list(map(hash, zip(self.counts, map(frozenset, self.rows), strict=True)))


class _Weights(dict):
    """A random weight for every key, drawn when it is first asked for."""

    def __init__(self) -> None:
        self._random = random.Random(0)

    def __missing__(self, key: object) -> int:
        self[key] = weight = self._random.getrandbits(_WEIGHT_BITS)
        return weight


class _Refinement:
    """Refines the colours of the columns of two tables together."""

    def __init__(self, sides: tuple[_Side, _Side]) -> None:
        self._sides = sides
        values = _Weights()
        self._columns = [[list(map(values.__getitem__, column)) for column in side.places] for side in sides]
        self._factors = _Weights()
        self._row_weights = _Weights()

    def search(self) -> bool:
        """The answer."""
        colours = [
            [(len(places), sum(column)) for places, column in zip(side.places.values(), columns, strict=True)]
            for side, columns in zip(self._sides, self._columns, strict=True)
        ]
        return self._search(colours)

    def _search(self, signatures: list[list[tuple]]) -> bool:
        refined = self._refined(signatures)
        return refined if isinstance(refined, bool) else self._guess(refined) or self._try_each(refined)

    def _refined(self, signatures: list[list[tuple]]) -> bool | list[list[int]]:
        """The answer, or the colours of the columns when they do not change any more and some are still alike."""
        kinds = 0
        while True:
            if sorted(signatures[0]) != sorted(signatures[1]):
                return False
            number = _numbered(signatures[0])
            colours = [[number[signature] for signature in side] for side in signatures]
            if len(number) == len(colours[0]):
                return self._equal_under(colours)
            if len(number) == kinds:
                return colours
            kinds = len(number)
            rows = [self._row_colours(side, own) for side, own in enumerate(colours)]
            if (decided := _decided_by_rows(self._sides, rows)) is not None:
                return decided
            signatures = [self._signatures(side, own, rows[side]) for side, own in enumerate(colours)]

    def _row_colours(self, side: int, colours: list[int]) -> list[int]:
        """A weight for each distinct row: by its count and the (column colour, value) pairs in it."""
        factors = [self._factors[colour] for colour in colours]
        scaled = [map(mul, repeat(factor), column) for factor, column in zip(factors, self._columns[side], strict=True)]
        mixed = map(sum, zip(*scaled, strict=True))
        return list(map(self._row_weights.__getitem__, zip(self._sides[side].counts, mixed, strict=True)))

    def _signatures(self, side: int, colours: list[int], rows: list[int]) -> list[tuple]:
        """For each column, its colour and a sum over the (row colour, value) pairs in it."""
        sums = (sum(map(mul, rows, column)) for column in self._columns[side])
        return list(zip(colours, sums, strict=True))

    def _equal_under(self, colours: list[list[int]]) -> bool:
        """Pair the columns by colour (alike ones as they stand) and compare the rows."""
        sources = []
        for side, own in zip(self._sides, colours, strict=True):
            places = list(side.places.values())
            sources.append([place for i in sorted(range(len(own)), key=own.__getitem__) for place in places[i]])
        gold, predicted = (
            dict(zip(map(itemgetter(*source), side.rows), side.counts, strict=True))
            for side, source in zip(self._sides, sources, strict=True)
        )
        return gold == predicted

    def _guess(self, colours: list[list[int]] | bool) -> bool:
        """Pair the first of the gold's alike columns with the first of its partners, again and again.

        True is a match; False may be due to a wrong pair.
        """
        while not isinstance(colours, bool):
            if self._equal_under(colours):
                return True
            chosen, partners = _choice(*colours)
            colours = self._refined([_marked(colours[0], chosen), _marked(colours[1], partners[0])])
        return colours

    def _try_each(self, colours: list[list[int]]) -> bool:
        """Tell columns apart by their traces; failing that, pair one of the gold's with each partner in turn."""
        traced = [self._traced(side, own) for side, own in enumerate(colours)]
        # All traces first: else partners that differ only as a whole would be tried in every combination.
        if sorted(traced[0]) != sorted(traced[1]):
            return False
        if len(set(traced[0])) > len(set(colours[0])):
            return self._search(traced)
        gold, predicted = colours
        chosen, partners = _choice(gold, predicted)
        return any(self._search([_marked(gold, chosen), _marked(predicted, place)]) for place in partners)

    def _traced(self, side: int, colours: list[int]) -> list[tuple]:
        """For each column, its colour and, where others share it, what refinement shows once the column is marked."""
        shared = Counter(colours)
        return [
            (colour, self._trace(side, _marked(colours, place)) if shared[colour] > 1 else 0)
            for place, colour in enumerate(colours)
        ]

    def _trace(self, side: int, signatures: list[tuple]) -> int:
        """A digest of one table's refinement until it is stable: the same wherever the columns stand."""
        seen: list[object] = []
        kinds = 0
        while len(number := _numbered(signatures)) > kinds:
            kinds = len(number)
            colours = [number[signature] for signature in signatures]
            rows = self._row_colours(side, colours)
            signatures = self._signatures(side, colours, rows)
            seen += (sum(rows), *sorted(signatures))
        return hash(tuple(seen))


def _numbered(signatures: list[tuple]) -> dict[tuple, int]:
    return {signature: i for i, signature in enumerate(sorted(set(signatures)))}


def _choice(gold: list[int], predicted: list[int]) -> tuple[int, list[int]]:
    """The first of the gold's columns that is not alone in its colour, and the predicted columns that look like it."""
    alike = next(colour for colour, count in Counter(gold).items() if count > 1)
    return gold.index(alike), [place for place, colour in enumerate(predicted) if colour == alike]


def _marked(colours: list[int], marked: int) -> list[tuple]:
    return [(colour, place == marked) for place, colour in enumerate(colours)]
