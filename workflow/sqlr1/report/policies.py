"""Score runs grouped into policies: base model, cold start, cold start + GRPO; estimates are pooled over seeds.

Labels, their order and the paper's numbers come from `strategies.STRATEGIES` and `rewards.REWARDS`. A name that is not
in these tables is its own label and has no number of the paper's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlr1.evaluate.evaluator import in_order
from sqlr1.evaluate.metrics import highest
from sqlr1.evaluate.vote import methods, vote_share
from sqlr1.records import InputError, read_json, read_jsonl
from sqlr1.rewards import REWARDS
from sqlr1.statistics import Bootstrap, Estimate, Scores, pass_at_k, pooled
from sqlr1.strategies import STRATEGIES

WITHOUT_RL = "no_rl"
Policy = tuple[str, str]  # (cold-start strategy, reward variant)


@dataclass(frozen=True)
class ScoreRun:
    """One policy of one seed on one benchmark: the score stage's summary and its questions' rows."""

    summary: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]

    @property
    def policy(self) -> Policy:
        return self.summary["strategy"], self.summary["reward"]

    @property
    def benchmark(self) -> str:
        return self.summary["benchmark"]

    @property
    def methods(self) -> list[str]:
        """greedy, vote and the pass rate at the number of samples; one sample has no vote."""
        n = self.summary["n_samples"]
        return [*methods(n), f"pass@{n}"]

    def scores(self, method: str, difficulty: str = "all", measure: str | None = None) -> Scores:
        """Each question's score by question id, for questions that have one; by default by the headline metric.

        `method` is one of `methods`, or vote@k: the mean over votes of k of the samples. `difficulty` may also be one
        of `features.FEATURES`.
        """
        measure = measure or self.summary["metric"]
        rows = [row for row in self.rows if row["greedy"].get(measure) is not None]
        rows = [row for row in rows if difficulty in ("all", row["difficulty"], *row.get("features", ()))]
        if method in ("greedy", "vote"):
            return {row["id"]: float(row[method][measure]) for row in rows}
        kind, k = method.split("@")[0], int(method.split("@")[1])
        if kind == "vote":
            return {row["id"]: vote_share(row["each"]["result"], row["each"][measure], k) for row in rows}
        return {row["id"]: pass_at_k(row["samples"]["n"], row["samples"][measure], k) for row in rows}


def load_runs(summaries: Sequence[Path], questions: Sequence[Path]) -> list[ScoreRun]:
    """Read score runs; `questions` holds the questions.jsonl beside each summary, in the same order.

    A path given twice is read once. Raises InputError if the two lists do not belong together.
    """
    if [p.parent for p in summaries] != [p.parent for p in questions]:
        raise InputError("--questions: each questions.jsonl must be beside its summary.json, in the order of --scores")
    files = dict(zip(summaries, questions, strict=True))
    runs = [ScoreRun(read_json(s), [row for _, row in read_jsonl(rows)]) for s, rows in files.items()]
    return sorted(runs, key=lambda run: run.summary["seed"])


def policy_label(strategy: str, reward: str) -> str:
    """The policy's name in tables and figures."""
    start = STRATEGIES[strategy].label if strategy in STRATEGIES else strategy
    if reward == WITHOUT_RL:
        return start
    return f"{start} + {REWARDS[reward].label if reward in REWARDS else reward}"


def select(runs: Sequence[ScoreRun], policy: Policy, benchmark: str) -> list[ScoreRun]:
    """The runs (one per seed) of a policy on a benchmark."""
    return [run for run in runs if run.policy == policy and run.benchmark == benchmark]


def benchmarks_of(runs: Sequence[ScoreRun]) -> list[str]:
    return sorted({run.benchmark for run in runs})


def policies_of(runs: Sequence[ScoreRun]) -> list[Policy]:
    """The policies among the runs, in the order of STRATEGIES, each without RL first."""
    strategies = in_order({run.policy[0] for run in runs}, STRATEGIES)
    rewards = in_order({run.policy[1] for run in runs}, (WITHOUT_RL, *REWARDS))
    found = {run.policy for run in runs}
    return [policy for s in strategies for r in rewards if (policy := (s, r)) in found]


def pooled_estimate(
    runs: Sequence[ScoreRun], method: str, bootstrap: Bootstrap, difficulty: str = "all", measure: str | None = None
) -> Estimate | None:
    """Mean over seeds and questions, with an interval from resampled questions; None if there is no question."""
    values = list(pooled([run.scores(method, difficulty, measure) for run in runs]).values())
    return bootstrap.mean(values, highest(measure or "")) if values else None
