"""Shares with confidence intervals, and how results of several seeds are pooled."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlr1.evaluate.statistics import mcnemar_exact, mean_interval, paired_bootstrap_difference, sign_flip


@dataclass(frozen=True)
class Estimate:
    """A mean over `n` questions with its confidence interval; shares lie in [0, 1]."""

    value: float
    low: float
    high: float
    n: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

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

    def mean(self, values: Sequence[float]) -> Estimate:
        """Mean of `values` (one a question) with its interval. Raises ValueError if there are none."""
        if not values:
            raise ValueError("no values to estimate a mean from")
        low, high = mean_interval(values, self.confidence, self.resamples, self.seed)
        return Estimate(sum(values) / len(values), low, high, len(values))

    def share(self, successes: int, n: int) -> Estimate:
        """Share of `successes` among `n`."""
        return self.mean([1.0] * successes + [0.0] * (n - successes))

    def difference(self, new: Sequence[float], old: Sequence[float]) -> Estimate:
        """Mean of new - old, paired by question.

        Without any difference, resampling gives a width of 0; there the exact bound on the share of questions that
        may differ takes its place, as in `mean`.
        """
        if list(new) == list(old):
            bound = self.mean([0.0] * len(new)).high
            return Estimate(0.0, -bound, bound, len(new))
        mean, low, high = paired_bootstrap_difference(new, old, self.confidence, self.resamples, self.seed)
        return Estimate(mean, low, high, len(new))


# One run's scores: question id -> score in [0, 1].
Scores = Mapping[str, float]


def pooled(runs: Sequence[Scores]) -> dict[str, float]:
    """Mean over the runs (seeds) of each question's score, over the questions that every run has."""
    if not runs:
        return {}
    shared = [key for key in runs[0] if all(key in run for run in runs)]
    return {key: sum(run[key] for run in runs) / len(runs) for key in shared}


def paired_difference(new: Sequence[Scores], old: Sequence[Scores], bootstrap: Bootstrap) -> Estimate | None:
    """Difference of two policies, each pooled over its seeds, paired by question; None if they share no question."""
    new_pooled, old_pooled = pooled(new), pooled(old)
    shared = [key for key in new_pooled if key in old_pooled]
    if not shared:
        return None
    return bootstrap.difference([new_pooled[k] for k in shared], [old_pooled[k] for k in shared])


def pooled_p(new: Sequence[Scores], old: Sequence[Scores]) -> float:
    """Two-sided p of the sign-flip test between two policies, each pooled over its seeds."""
    new_pooled, old_pooled = pooled(new), pooled(old)
    return sign_flip([new_pooled[key] - old_pooled[key] for key in new_pooled if key in old_pooled])


def mcnemar(new: Scores, old: Scores) -> float:
    """Two-sided p of the exact McNemar test between two runs over the questions that both have."""
    shared = [key for key in new if key in old]
    return mcnemar_exact([new[key] for key in shared], [old[key] for key in shared])
