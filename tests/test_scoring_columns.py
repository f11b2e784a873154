"""Result comparison: equal to the naive definition on small tables, and bounded on large ones."""

import itertools
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sqlr1.sandbox import compare
from sqlr1.sandbox.compare import bird_equal, soft_f1, spider_exec_equal

# Some differ and have equal hashes: -1 and -2, "1" and b"1".
VALUES = st.sampled_from([None, 0, 1, 1.0, 2, -1, -2, "1", "", b"1", "a", float("inf"), 0.5])


def naive_spider(predicted, gold, ordered):
    """Spider's definition, literally: try every permutation of the columns."""
    if not predicted and not gold:
        return True
    if len(predicted) != len(gold) or len(predicted[0]) != len(gold[0]):
        return False
    for order in itertools.permutations(range(len(gold[0]))):
        permuted = [tuple(row[i] for i in order) for row in predicted]
        if (permuted == gold) if ordered else (Counter(permuted) == Counter(gold)):
            return True
    return False


@st.composite
def tables(draw):
    """A gold, and a prediction that is near it: shuffled rows and columns, at times with one cell changed."""
    width = draw(st.integers(1, 5))
    few = st.sampled_from([0, 1]) if draw(st.booleans()) else VALUES
    gold = draw(st.lists(st.tuples(*[few] * width), max_size=7))
    order = draw(st.permutations(range(width)))
    predicted = [tuple(row[i] for i in order) for row in draw(st.permutations(gold))]
    if predicted and draw(st.booleans()):
        row = draw(st.integers(0, len(predicted) - 1))
        predicted[row] = draw(st.tuples(*[few] * width))
    return predicted, gold


@settings(max_examples=1500, deadline=None, derandomize=True)
@given(tables(), st.booleans())
def test_equal_to_the_naive_definition(pair, ordered):
    predicted, gold = pair
    assert spider_exec_equal(predicted, gold, ordered) == naive_spider(predicted, gold, ordered)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(st.tuples(VALUES, VALUES), max_size=5), st.lists(st.tuples(VALUES, VALUES), max_size=5))
def test_unrelated_tables(predicted, gold):
    for ordered in (True, False):
        assert spider_exec_equal(predicted, gold, ordered) == naive_spider(predicted, gold, ordered)
    assert bird_equal(predicted, gold) == (set(predicted) == set(gold))
    assert 0.0 <= soft_f1(predicted, gold) <= 1.0
    assert soft_f1(gold, gold) == 1.0


@pytest.fixture
def passes(monkeypatch):
    """Grows by one for each pass over all cells of one table: what the time of a comparison is made of."""
    counted = []
    colour = compare._Side._row_colours
    monkeypatch.setattr(compare._Side, "_row_colours", lambda self, *more: counted.append(1) or colour(self, *more))
    return counted


def incidence(edges, vertices):
    """A graph as a table: a row per edge, a column per vertex."""
    return [tuple(int(vertex in edge) for vertex in range(vertices)) for edge in edges]


def cycles(*lengths):
    edges, start = [], 0
    for length in lengths:
        edges += [(start + i, start + (i + 1) % length) for i in range(length)]
        start += length
    return edges


ROOK = [(0, d) for d in (1, 2, 3)] + [(d, 0) for d in (1, 2, 3)]
SHRIKHANDE = [(0, 1), (0, 3), (1, 0), (3, 0), (1, 1), (3, 3)]


def grid_neighbours(steps):
    """The edges between the cells of a 4 x 4 torus that are one of `steps` apart: here, strongly regular graphs."""
    pairs = [((i, j), ((i + di) % 4, (j + dj) % 4)) for i in range(4) for j in range(4) for di, dj in steps]
    return sorted({tuple(sorted((4 * i + j, 4 * k + m))) for (i, j), (k, m) in pairs})


@pytest.mark.parametrize(
    ("gold", "predicted"),
    [
        (cycles(6), cycles(3, 3)),
        (cycles(20), cycles(10, 10)),
        (cycles(5, 5, 10), cycles(4, 6, 10)),
        (cycles(4, 4, 4, 4, 4), cycles(4, 4, 4, 5, 3)),
        (cycles(3, 3, 3, 3, 3, 3), cycles(3, 3, 3, 3, 6)),
        (grid_neighbours(ROOK), grid_neighbours(SHRIKHANDE)),
    ],
    ids=["6", "20", "5+5+10", "five 4s", "six 3s", "strongly regular"],
)
def test_tables_that_refinement_alone_cannot_tell_apart(gold, predicted, passes):
    """Regular graphs: every row and column looks alike, and yet no permutation makes the tables equal."""
    size = 1 + max(map(max, gold))
    assert not spider_exec_equal(incidence(predicted, size), incidence(gold, size), ordered=False)
    draw = random.Random(0)
    for _ in range(5):
        names = draw.sample(range(size), size)
        shuffled = [tuple(names[vertex] for vertex in edge) for edge in gold]
        assert spider_exec_equal(incidence(shuffled, size), incidence(gold, size), ordered=False)
    assert len(passes) < 3_000  # where every combination of partners is tried: without end, for some


@pytest.mark.parametrize("lengths", [(60,), (30, 30), (12,) * 5], ids=str)
def test_a_right_answer_over_symmetric_columns_needs_few_passes(lengths, passes):
    """Some as many as there are columns; marking every column of both tables first takes thirty times as many."""
    gold, draw = incidence(cycles(*lengths), 60), random.Random(0)
    order = draw.sample(range(60), 60)
    predicted = [tuple(row[i] for i in order) for row in draw.sample(gold, 60)]
    assert spider_exec_equal(predicted, gold, ordered=False)
    assert len(passes) < 3 * 60


@pytest.mark.parametrize("values", [(-1, -2), ("1", b"1")], ids=str)
def test_values_of_equal_hashes_are_told_apart(values, passes):
    """Ten columns in which each row has one of two values; in the mismatch two of a column are exchanged."""
    draw = random.Random(0)
    gold = [tuple(draw.choice(values) for _ in range(10)) for _ in range(12)]
    order = draw.sample(range(10), 10)
    predicted = [tuple(row[i] for i in order) for row in draw.sample(gold, 12)]
    assert spider_exec_equal(predicted, gold, ordered=False)
    assert not spider_exec_equal(with_two_cells_exchanged(predicted), gold, ordered=False)
    assert len(passes) < 20


def large_tables():
    """Twenty columns of one domain, 10,000 rows."""
    draw = random.Random(0)
    same = [list(range(10_000)) for _ in range(20)]
    halves = [[0] * 5_000 + [1] * 5_000 for _ in range(20)]
    for column in same + halves:
        draw.shuffle(column)
    return {
        "digits": [tuple(draw.randrange(10) for _ in range(20)) for _ in range(10_000)],
        "texts": [tuple(draw.choice("abc") for _ in range(20)) for _ in range(10_000)],
        "the same values in every column": list(zip(*same, strict=True)),
        "as many ones as zeros in every column": list(zip(*halves, strict=True)),
        "equal columns": [(i,) * 20 for i in range(10_000)],
        "one-hot": [tuple(int(j == i % 20) for j in range(20)) for i in range(10_000)],
        "every subset of four": [tuple(int(j in s) for j in range(20)) for s in itertools.combinations(range(20), 4)],
    }


def with_two_cells_exchanged(table):
    """The first two cells of column 0 that differ change places: every column keeps its values."""
    rows = [list(row) for row in table]
    other = next(row for row in rows if row[0] != rows[0][0])
    rows[0][0], other[0] = other[0], rows[0][0]
    return list(map(tuple, rows))


@pytest.mark.parametrize("gold", large_tables().values(), ids=large_tables())
def test_wide_tables_of_one_domain_need_few_passes(gold, passes):
    """A match, a mismatch and a close one; trying permutations would take years."""
    draw = random.Random(1)
    order = draw.sample(range(20), 20)
    predicted = [tuple(row[i] for i in order) for row in gold]
    draw.shuffle(predicted)
    assert spider_exec_equal(predicted, gold, ordered=False)
    assert not spider_exec_equal([(9, *predicted[0][1:]), *predicted[1:]], gold, ordered=False)
    assert not spider_exec_equal(with_two_cells_exchanged(predicted), gold, ordered=False)
    assert len(passes) <= 3 * 2
