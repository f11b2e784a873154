"""Training curves, and what the monitor says of them: a policy may collapse while its reward rises.

Metrics have the names under which the training stages log them: TRL's own, `rollout/...` for what a batch of
completions came to, `validation/...` for the fixed questions.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sqlr1.evaluate.estimates import Bootstrap, Estimate
from sqlr1.records import read_jsonl
from sqlr1.rewards import PARTS
from sqlr1.train.monitor import COLLAPSE

Metrics = Sequence[Mapping[str, Any]]
Panels = dict[str, dict[str, list[tuple[float, Any]]]]
EXECUTABLE, MATCH = "rollout/executable", "rollout/match"
LENGTH, ZERO_VARIANCE = "completions/mean_length", "frac_reward_zero_std"
VALIDATION, VALIDATION_SIZE = "validation/match", "validation/questions"
# Panel -> {line: metric}.
COLD_START_PANELS = {"Cold start: loss": {"loss": "loss"}}
GRPO_PANELS = {
    "GRPO: reward parts": {part: f"rewards/{part}/mean" for part in PARTS},
    "GRPO: share of rollouts": {"executable": EXECUTABLE, "match": MATCH},
    "GRPO: completion length (tokens)": {"length": LENGTH},
    "GRPO: groups without variance": {"share": ZERO_VARIANCE},
}


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows `{"step": int, "<metric>": float or text, ...}` of a metrics.jsonl, in the order of the steps."""
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
    n = round(row.get(VALIDATION_SIZE, 0))
    if not n:
        return row[VALIDATION]
    return bootstrap.share(round(row[VALIDATION] * n), n)


def collapse_warnings(validation: Metrics) -> list[str]:
    """What the monitor that every run carries said of its validations: one text for each with signs of collapse."""
    return [row[COLLAPSE] for row in validation if COLLAPSE in row]
