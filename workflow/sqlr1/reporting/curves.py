"""Training curves, and the warnings they give: a policy that collapses while its reward rises.

Metrics have the names under which the training stages log them: TRL's own, `rollout/...` for what a batch of
completions came to, `validation/...` for the fixed questions.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sqlr1.records import read_jsonl
from sqlr1.reporting.estimates import Bootstrap, Estimate

Metrics = Sequence[Mapping[str, float]]
Panels = dict[str, dict[str, list[tuple[float, Any]]]]
EXECUTABLE, MATCH, DISTINCT = "rollout/executable", "rollout/match", "rollout/distinct"
LENGTH, ZERO_VARIANCE, REWARD = "completions/mean_length", "frac_reward_zero_std", "reward"
VALIDATION, VALIDATION_SIZE = "validation/match", "validation/questions"
# Panel -> {line: metric}.
COLD_START_PANELS = {"Cold start: loss": {"loss": "loss"}}
GRPO_PANELS = {
    "GRPO: reward parts": {part: f"rewards/{part}/mean" for part in ("format", "execution", "result", "length")},
    "GRPO: share of rollouts": {"executable": EXECUTABLE, "match": MATCH},
    "GRPO: completion length (tokens)": {"length": LENGTH},
    "GRPO: groups without variance": {"share": ZERO_VARIANCE},
}
# What counts as a change between the first and the last quarter of a run.
SHARE_RISE = 0.10
SHARE_FALL = 0.02
HALF = 0.5


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The rows `{"step": int, "<metric>": float, ...}` of a metrics.jsonl, in the order of the steps."""
    return sorted((row for _, row in read_jsonl(path)), key=lambda row: row["step"])


def mean_curve(runs: Sequence[Metrics], metric: str) -> list[tuple[float, float]]:
    """(step, mean over the runs that logged the metric at that step)."""
    values: dict[float, list[float]] = {}
    for run in runs:
        for row in run:
            if math.isfinite(row.get(metric, math.nan)):
                values.setdefault(row["step"], []).append(row[metric])
    return [(step, sum(values[step]) / len(values[step])) for step in sorted(values)]


def training_panels(
    cold_start: Sequence[Metrics], grpo: Sequence[Metrics], validation: Mapping[str, Metrics], bootstrap: Bootstrap
) -> Panels:
    """What `figures.curve_panels` draws; lines are means over seeds, validation has one line a seed (the key)."""
    panels: Panels = {}
    for runs, titles in ((cold_start, COLD_START_PANELS), (grpo, GRPO_PANELS)):
        for title, series in titles.items():
            curves = {name: mean_curve(runs, metric) for name, metric in series.items()}
            if curves := {name: points for name, points in curves.items() if points}:
                panels[title] = curves
    if validation:
        panels["Validation: execution accuracy"] = {
            name: [(row["step"], validation_point(row, bootstrap)) for row in rows] for name, rows in validation.items()
        }
    return panels


def validation_point(row: Mapping[str, float], bootstrap: Bootstrap) -> Estimate | float:
    """Execution accuracy on the validation set, with its interval where the row says of how many questions."""
    if VALIDATION_SIZE not in row:
        return row[VALIDATION]
    n = round(row[VALIDATION_SIZE])
    return bootstrap.share(round(row[VALIDATION] * n), n)


def collapse_warnings(metrics: Metrics, validation: Metrics) -> list[str]:
    """What looks wrong in a GRPO run, one sentence each; empty when nothing does.

    A rising mean reward alone proves nothing: the policy may learn to write queries that merely run
    (`SELECT count(*) FROM t`), which shows as a rising executable share beside a falling match share and shrinking
    completions. First and last quarter of the run are compared; each step has other prompts, so single steps are not.
    """
    warnings = []
    executable, match = _ends(metrics, EXECUTABLE), _ends(metrics, MATCH)
    if executable and match and executable[1] - executable[0] > SHARE_RISE and match[0] - match[1] > SHARE_FALL:
        warnings.append(
            f"the executable share rose from {_percent(executable)} while the match share fell from "
            f"{_percent(match)}: the policy learns to write queries that run, not queries that are right"
        )
    length, distinct = _ends(metrics, LENGTH), _ends(metrics, DISTINCT)
    if length and length[1] < HALF * length[0]:
        warnings.append(f"completions shrank from {length[0]:.0f} to {length[1]:.0f} tokens")
    if distinct and distinct[1] < HALF * distinct[0]:
        warnings.append(f"the share of distinct completions fell from {_percent(distinct)}")
    if len(validation) > 1 and validation[-1][VALIDATION] < validation[0][VALIDATION] - SHARE_FALL:
        reward = _ends(metrics, REWARD)
        rose = " although the mean reward rose" if reward and reward[1] > reward[0] else ""
        ends = (validation[0][VALIDATION], validation[-1][VALIDATION])
        warnings.append(f"validation execution accuracy fell from {_percent(ends)}{rose}")
    return warnings


def _ends(metrics: Metrics, name: str) -> tuple[float, float] | None:
    """Mean of a metric over the first and over the last quarter of a run; None if it was logged fewer than 4 times."""
    values = [row[name] for row in metrics if math.isfinite(row.get(name, math.nan))]
    if len(values) < 4:
        return None
    quarter = len(values) // 4
    return sum(values[:quarter]) / quarter, sum(values[-quarter:]) / quarter


def _percent(ends: tuple[float, float]) -> str:
    return f"{100 * ends[0]:.1f} % to {100 * ends[1]:.1f} %"
