"""Estimates with confidence intervals, and tests, for scores that are one number per question.

The bootstrap draws how often each distinct value occurs in a resample (one multinomial draw), which is the same as
drawing questions one by one, and for scores of 0 and 1 a hundred times as fast as `scipy.stats.bootstrap`.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# One run's scores: question id -> score in [0, 1].
Scores = Mapping[str, float]


@dataclass(frozen=True)
class Estimate:
    """A mean over `n` questions with its confidence interval; shares are in [0, 1]."""

    value: float
    low: float
    high: float
    n: int

    def percent(self) -> str:
        """`12.5 [10.1, 14.9]`, in percent."""
        return f"{100 * self.value:.1f} [{100 * self.low:.1f}, {100 * self.high:.1f}]"

    def points(self) -> str:
        """`+2.5 [-0.1, +5.0]`: a difference in percentage points."""
        return f"{100 * self.value:+.1f} [{100 * self.low:+.1f}, {100 * self.high:+.1f}]"


@dataclass(frozen=True)
class Bootstrap:
    """How intervals are made: level, number of resamples of the questions, seed."""

    confidence: float = 0.95
    resamples: int = 2000
    seed: int = 0

    def interval(self, values: Sequence[float]) -> tuple[float, float]:
        """The percentile bootstrap interval of the mean of `values` (at least one)."""
        import numpy as np

        distinct, counts = np.array(sorted(Counter(values).items()), dtype=float).T  # np.unique is slow to import
        generator = np.random.default_rng(self.seed)
        drawn = generator.multinomial(len(values), counts / len(values), size=self.resamples)  # (resamples, distinct)
        tail = (1 - self.confidence) / 2
        means = np.sort((drawn * distinct).sum(axis=1) / len(values))  # not @: starting its threads takes longer
        return _quantile(means, tail), _quantile(means, 1 - tail)

    def mean(self, values: Sequence[float], most: float = 1.0, least: float = 0.0) -> Estimate:
        """Mean of `values` in [least, most], one per question (at least one), with its interval.

        If all are equal, resampling gives an interval of width 0, which would be wrong for 0 of 8. The exact bound on
        the share of questions with another value (Clopper and Pearson 1934) replaces it: these may have any value.
        """
        n, value = len(values), sum(values) / len(values)
        if max(values) - min(values) < 1e-9:
            others = 1 - ((1 - self.confidence) / 2) ** (1 / n)
            low, high = value - others * (value - least), value + others * (most - value)
        else:
            low, high = self.interval(values)
        return Estimate(value, min(low, value), max(high, value), n)  # few resamples, rounding

    def share(self, successes: int, n: int) -> Estimate:
        """Share of `successes` among `n`."""
        return self.mean([1.0] * successes + [0.0] * (n - successes))

    def difference(self, differences: Sequence[float]) -> Estimate | None:
        """Mean of paired differences in [-1, 1], one per question; None if there are none."""
        return self.mean(differences, least=-1.0) if differences else None


def _quantile(ordered: Sequence[float], share: float) -> float:
    """As `numpy.quantile`, without its first import of `numpy.ma`, which takes as long as twenty intervals."""
    place = share * (len(ordered) - 1)
    low, part = int(place), place % 1
    below, above = float(ordered[low]), float(ordered[min(low + 1, len(ordered) - 1)])
    return below + (above - below) * part if part < 0.5 else above - (above - below) * (1 - part)


def pooled(runs: Sequence[Scores]) -> dict[str, float]:
    """Mean over the runs (seeds) of each question's score, over the questions that every run has."""
    shared = [key for key in runs[0] if all(key in run for run in runs)] if runs else []
    return {key: sum(run[key] for run in runs) / len(runs) for key in shared}


def paired_differences(new: Sequence[Scores], old: Sequence[Scores]) -> list[float]:
    """New - old for each question that all runs have; each side is the mean over its runs (seeds)."""
    new_pooled, old_pooled = pooled(new), pooled(old)
    return [score - old_pooled[key] for key, score in new_pooled.items() if key in old_pooled]


def mcnemar_exact(differences: Sequence[float]) -> float:
    """Two-sided p of the exact McNemar test, from the differences of two runs' 0/1 scores by question.

    Only questions on which the runs differ count: under the null each goes either way with probability 1/2.
    """
    from scipy.stats import binomtest

    gained, lost = sum(d > 0 for d in differences), sum(d < 0 for d in differences)
    return float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0


def sign_flip(differences: Sequence[float], flips: int = 20_000, seed: int = 0) -> float:
    """Two-sided p of a mean difference under Fisher's randomization test: exact, or by `flips` random sign patterns.

    For paired differences that are not verdicts, such as means over seeds: under the null each may have either sign.
    """
    import numpy as np
    from scipy.stats import permutation_test

    values = [d for d in differences if d]
    if len(values) < 2:
        return 1.0
    options = {"permutation_type": "samples", "vectorized": True, "n_resamples": flips, "batch": 1000}
    return float(permutation_test((values,), np.sum, rng=seed, **options).pvalue)


def pass_at_k(n: int, c: int, k: int) -> float:
    """The unbiased estimate of "one of k samples is right" from n samples of which c are (Chen et al. 2021, eq. 1).

    >>> pass_at_k(4, 1, 2)
    0.5
    """
    if not 0 <= c <= n or not 1 <= k <= n:
        raise ValueError(f"pass@k needs 0 <= c <= n and 1 <= k <= n, not n={n}, c={c}, k={k}")
    return 1.0 - math.comb(n - c, k) / math.comb(n, k)
