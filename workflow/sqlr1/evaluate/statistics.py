"""Estimators and tests for scores that are one number a question."""

import math
from collections.abc import Sequence

import numpy as np


def pass_at_k(n: int, c: int, k: int) -> float:
    """The unbiased estimate of "one of k samples is right" from n samples of which c are (Chen et al. 2021, eq. 1).

    >>> pass_at_k(4, 1, 2)
    0.5
    """
    if not 0 <= c <= n or not 1 <= k <= n:
        raise ValueError(f"pass@k needs 0 <= c <= n and 1 <= k <= n, not n={n}, c={c}, k={k}")
    return 1.0 - math.comb(n - c, k) / math.comb(n, k)


def bootstrap_interval(
    values: Sequence[float], confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """The percentile bootstrap interval of the mean of `values`; (nan, nan) without values."""
    if len(values) == 0:
        return math.nan, math.nan
    return _percentiles(_resampled_means(np.asarray(values, dtype=float), resamples, seed), confidence)


def mean_interval(
    values: Sequence[float], confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """The bootstrap interval of the mean of `values` in [0, 1].

    Resampling values that are all 0 or all 1 gives a width of 0, which none of 8 right does not deserve: there the
    exact bound (Clopper and Pearson 1934) takes its place.
    """
    if len(values) and set(values) in ({0}, {1}):
        bound = ((1 - confidence) / 2) ** (1 / len(values))
        return (bound, 1.0) if values[0] else (0.0, 1 - bound)
    return bootstrap_interval(values, confidence, resamples, seed)


def paired_bootstrap_difference(
    a: Sequence[float], b: Sequence[float], confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> tuple[float, float, float]:
    """(mean of a - b, low, high): the difference of two systems on the same questions, in the same order."""
    if len(a) != len(b):
        raise ValueError(f"paired values must be equally many, not {len(a)} and {len(b)}")
    differences = np.asarray(a, dtype=float) - np.asarray(b, dtype=float)
    low, high = bootstrap_interval(differences, confidence, resamples, seed)
    return float(differences.mean()) if len(differences) else math.nan, low, high


def mcnemar_exact(a: Sequence[float], b: Sequence[float]) -> float:
    """The two-sided exact McNemar p-value for two systems' 0/1 verdicts on the same questions.

    Only questions on which they differ count: under the null each goes either way with probability 1/2.
    """
    if len(a) != len(b):
        raise ValueError(f"paired verdicts must be equally many, not {len(a)} and {len(b)}")
    only_a = sum(x > y for x, y in zip(a, b, strict=True))
    only_b = sum(x < y for x, y in zip(a, b, strict=True))
    n = only_a + only_b
    tail = sum(math.comb(n, i) for i in range(min(only_a, only_b) + 1))
    return min(1.0, 2 * tail / 2**n)


def sign_flip(differences: Sequence[float], flips: int = 20_000, seed: int = 0) -> float:
    """The two-sided p-value of a mean difference under Fisher's randomization test, by `flips` random sign patterns.

    For paired differences that are no verdicts, such as means over seeds: under the null each may have either sign.
    """
    values = np.asarray([d for d in differences if d], dtype=float)
    generator = np.random.default_rng(seed)
    # A hair below the observed sum, for equal sums are rounded differently; one pattern at a time, as below.
    observed = abs(values.sum()) - 1e-9
    extreme = sum(abs((values * generator.choice([-1.0, 1.0], len(values))).sum()) >= observed for _ in range(flips))
    return (1 + extreme) / (1 + flips)


def _resampled_means(values: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    # One resample at a time: a matrix of resamples x questions would take gigabytes for long lists.
    return np.array([values[generator.integers(0, len(values), len(values))].mean() for _ in range(resamples)])


def _percentiles(means: np.ndarray, confidence: float) -> tuple[float, float]:
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)
