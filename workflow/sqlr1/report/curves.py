"""Training curves, and the monitor's warnings: a policy may collapse while its reward rises.

Metrics have the names under which the training stages log them: TRL's own, `rollout/...` for a batch of completions,
`validation/...` for the fixed questions.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sqlr1.evaluate.evaluator import in_order
from sqlr1.records import read_jsonl
from sqlr1.rewards import PARTS
from sqlr1.statistics import Bootstrap, Estimate
from sqlr1.train.monitor import COLLAPSE, best_step

Metrics = Sequence[Mapping[str, Any]]
Panels = dict[str, dict[str, list[tuple[float, Any]]]]
EXECUTABLE, MATCH = "rollout/executable", "rollout/match"
LENGTH, ZERO_VARIANCE = "completions/mean_length", "frac_reward_zero_std"
VALIDATION, VALIDATION_SIZE = "validation/match", "validation/questions"
VALIDATION_PANEL = "Validation: execution accuracy"
# Panel -> {line: metric}.
GRPO_PANELS = {
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
    """What `figures.curve_panels` draws; lines are means over seeds, validation has one line per run (the key)."""
    names = {name.split("/")[1] for run in grpo for row in run for name in row if name.startswith("rewards/")}
    parts = {part: f"rewards/{part}/mean" for part in in_order(names, tuple(PARTS))}
    titles = [(cold_start, "Cold start: loss", {"loss": "loss"}), (grpo, "GRPO: reward parts", parts)]
    panels: Panels = {}
    for runs, title, series in [*titles, *((grpo, title, series) for title, series in GRPO_PANELS.items())]:
        curves = {name: points for name, metric in series.items() if (points := mean_curve(runs, metric))}
        if curves:
            panels[title] = curves
    if validation:
        panels[VALIDATION_PANEL] = {
            name: [(row["step"], validation_point(row, bootstrap)) for row in rows] for name, rows in validation.items()
        }
    return panels


# Panels of shares: their axis always runs from 0 to 1, so that two reports can be compared by eye.
SHARES = frozenset({"GRPO: share of rollouts", "GRPO: groups without variance", VALIDATION_PANEL})


def variance_sentence(grpo: Sequence[Metrics]) -> str:
    """How many groups had different rewards, so that they could teach something: in the first step, and in all."""
    curve = [(step, 1 - share) for step, share in mean_curve(grpo, ZERO_VARIANCE)]
    if not curve:
        return ""
    mean, least = sum(share for _, share in curve) / len(curve), min(share for _, share in curve)
    return (
        f"Groups whose rewards differ, so that they teach something: {100 * curve[0][1]:.0f} % in the first step, "
        f"{100 * mean:.0f} % on average over {len(curve)} steps, {100 * least:.0f} % at least."
    )


def validation_point(row: Mapping[str, float], bootstrap: Bootstrap) -> Estimate | float:
    """Execution accuracy on the validation set, with its interval if the row says of how many questions."""
    n = round(row.get(VALIDATION_SIZE, 0))
    return bootstrap.share(round(row[VALIDATION] * n), n) if n else row[VALIDATION]


def validation_rows(validation: Mapping[str, Metrics], bootstrap: Bootstrap, keep: str = "last") -> list[list[str]]:
    """Two rows per run, before and after training: run, step, execution accuracy in %.

    With `keep` best (config key grpo.keep) a third is of the step whose policy was saved.
    """
    rows = []
    for name, metrics in validation.items():
        shown_steps = [("before", metrics[0]), ("after", metrics[-1])]
        if keep == "best":
            saved = best_step(metrics)
            shown_steps.append(("saved, best", next(row for row in metrics if row["step"] == saved)))
        for when, row in shown_steps:
            point = validation_point(row, bootstrap)
            shown = point.percent() if isinstance(point, Estimate) else f"{100 * point:.1f}"
            rows.append([name, f"{when} (step {row['step']})", shown])
    return rows


def collapse_warnings(validation: Metrics) -> list[str]:
    """The monitor's texts about this run's validations: one for each with signs of collapse."""
    return [row[COLLAPSE] for row in validation if COLLAPSE in row]
