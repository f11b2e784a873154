"""Votes, estimators and tests, against cases worked out by hand."""

import itertools
import math
import random

import numpy as np
import pytest
import scipy.stats

from sqlr1.evaluate.metrics import highest
from sqlr1.evaluate.vote import majority
from sqlr1.statistics import Bootstrap, mcnemar_exact, pass_at_k, sign_flip


@pytest.mark.parametrize(
    ("fingerprints", "chosen"),
    [
        ([], None),
        ([None], 0),
        ([None, None], 0),
        (["a"], 0),
        ([None, "a"], 1),
        (["a", "b", "b"], 1),
        (["b", "a", "a", "b"], 0),
        (["a", "b", "b", "a"], 0),
        ([None, "c", "b", "a", "b", "a"], 2),
        ([None, None, None, "a"], 3),
    ],
)
def test_majority(fingerprints, chosen):
    """The largest class, ties to the earliest candidate; what did not run does not vote."""
    assert majority(fingerprints) == chosen


@pytest.mark.parametrize(
    ("n", "c", "k", "expected"),
    [(4, 1, 2, 1 / 2), (5, 2, 2, 7 / 10), (8, 0, 8, 0.0), (8, 1, 8, 1.0), (8, 3, 1, 3 / 8), (3, 2, 2, 1.0)],
)
def test_pass_at_k(n, c, k, expected):
    assert pass_at_k(n, c, k) == pytest.approx(expected)


def test_pass_at_k_is_the_share_of_subsets_with_a_right_sample():
    for n, c, k in itertools.product(range(1, 7), range(7), range(1, 7)):
        if c <= n >= k:
            subsets = list(itertools.combinations(range(n), k))
            share = sum(min(subset) < c for subset in subsets) / len(subsets)  # samples 0..c-1 are right
            assert pass_at_k(n, c, k) == pytest.approx(share)


@pytest.mark.parametrize(("n", "c", "k"), [(4, 5, 1), (4, -1, 1), (4, 1, 5), (4, 1, 0)])
def test_pass_at_k_refuses_impossible_counts(n, c, k):
    with pytest.raises(ValueError, match="pass@k"):
        pass_at_k(n, c, k)


def test_bootstrap_interval_by_enumeration():
    """Two values 0 and 1: the resampled mean is 0, 1/2, 1 with chances 1/4, 1/2, 1/4."""
    assert Bootstrap(0.4, 4000).interval([0, 1]) == (0.5, 0.5)
    assert Bootstrap(0.6, 4000).interval([0, 1]) == (0.0, 1.0)
    assert Bootstrap().interval([1, 1, 1]) == (1.0, 1.0)


def test_bootstrap_interval_is_near_the_normal_one():
    values = [1] * 300 + [0] * 700
    low, high = Bootstrap(0.95, 4000, seed=1).interval(values)
    half = 1.96 * math.sqrt(0.3 * 0.7 / 1000)
    assert low == pytest.approx(0.3 - half, abs=0.003)
    assert high == pytest.approx(0.3 + half, abs=0.003)


def test_bootstrap_interval_is_scipys():
    draw = random.Random(0)
    values = [draw.choice([0, 0, 1, 1, 1, draw.random()]) for _ in range(300)]
    theirs = scipy.stats.bootstrap((values,), np.mean, n_resamples=8000, method="percentile", rng=1).confidence_interval
    assert Bootstrap(resamples=8000).interval(values) == pytest.approx(tuple(theirs), abs=0.004)


def test_bootstrap_interval_depends_on_the_seed_alone():
    draw = random.Random(0)
    values = [draw.random() for _ in range(50)]
    first, again, other = (Bootstrap(seed=seed).interval(values) for seed in (3, 3, 4))
    assert first == again != other


def test_bootstrap_interval_covers_the_truth_about_as_often_as_it_says():
    draw = random.Random(0)
    hits = 0
    for seed in range(200):
        low, high = Bootstrap(0.9, 300, seed).interval([draw.random() < 0.4 for _ in range(80)])
        hits += low <= 0.4 <= high
    assert 0.82 <= hits / 200 <= 0.97


def test_paired_difference():
    change = Bootstrap().difference([1, 0, 0, 0])
    assert (change.value, change.low) == (0.25, 0.0)
    assert change.high == 0.75  # the one difference drawn three times of four or more: 5 % of resamples; four: 0.4 %
    assert Bootstrap().difference([]) is None


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("n", [1, 2, 5, 6, 30])
def test_a_difference_on_every_question_is_no_certainty(n, sign):
    """The interval leaves out 0 if, and only if, the exact McNemar test finds the difference significant."""
    differences = [float(sign)] * n
    change = Bootstrap().difference(differences)
    assert (change.value, change.n) == (sign, n)
    assert (change.low < 1 == change.high) if sign > 0 else (change.low == -1 < change.high)
    assert (change.low * change.high > 0) is (mcnemar_exact(differences) < 0.05)


@pytest.mark.parametrize("most", [1.0, highest("r_ves")])
def test_equal_values_inside_the_range_may_differ_both_ways(most):
    """R-VES may be 1 everywhere, which is not its highest value; a mean of three seeds 1/3."""
    for value in (1 / 3, 1.0):
        for n in (1, 7, 49):
            found = Bootstrap().mean([value] * n, most)
            assert found.low < found.value <= found.high
            assert (found.high > found.value) is (value < most)


def test_an_interval_holds_its_mean():
    for seed in range(50):
        values = [float(random.Random(seed * 100 + i).random() < 0.45) for i in range(24)]
        for found in (Bootstrap(0.01, 100, seed).mean(values), Bootstrap(0.01, 100, seed).difference(values)):
            assert found.low <= found.value <= found.high


@pytest.mark.parametrize(
    ("only_a", "only_b", "p"),
    [(0, 0, 1.0), (1, 0, 1.0), (5, 0, 2 / 32), (6, 1, 2 * 8 / 128), (3, 3, 1.0), (9, 2, 2 * (1 + 11 + 55) / 2048)],
)
def test_mcnemar_exact(only_a, only_b, p):
    differences = [1] * only_a + [-1] * only_b + [0] * 20
    assert mcnemar_exact(differences) == pytest.approx(p)
    assert mcnemar_exact([-d for d in differences]) == pytest.approx(p)


@pytest.mark.parametrize(("gained", "lost"), [(8, 2), (5, 5), (12, 1), (0, 0)])
def test_the_sign_flip_test_of_verdicts_is_mcnemars(gained, lost):
    differences = [1] * gained + [-1] * lost + [0] * 20
    assert sign_flip(differences) == pytest.approx(mcnemar_exact(differences), abs=0.01)


def test_the_sign_flip_test_weighs_how_much_differs():
    """Of the 16 sign patterns 2 are as extreme as the first four values, 8 as the others."""
    assert sign_flip([0.9, 0.3, 0.3, 0.3]) == pytest.approx(2 / 16, abs=0.01)
    assert sign_flip([0.9, 0.3, 0.3, -0.3]) == pytest.approx(8 / 16, abs=0.02)


def test_the_interval_of_all_or_none_is_exact():
    none, everything = Bootstrap().mean([0.0] * 8), Bootstrap().mean([1.0] * 8)
    assert (none.low, none.high) == pytest.approx((0.0, 1 - 0.025**0.125))
    assert (everything.low, everything.high) == pytest.approx((0.025**0.125, 1.0))
