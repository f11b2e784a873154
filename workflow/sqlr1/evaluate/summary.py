"""From judged questions to a score summary: each measure, by method and by difficulty, with intervals."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from sqlr1.evaluate.estimates import Bootstrap
from sqlr1.evaluate.statistics import pass_at_k

# The headline measure of a benchmark's layout.
HEADLINE = {"spider": "spider_exec", "bird": "bird_ex"}
SEMANTICS = {"spider_exec": "spider", "bird_ex": "bird"}
DIFFICULTIES = ("easy", "medium", "hard", "extra", "simple", "moderate", "challenging")

Row = Mapping[str, Any]


def summarise(rows: Sequence[Row], n_samples: int, bootstrap: Bootstrap) -> dict[str, dict[str, dict[str, Any]]]:
    """`{measure: {method: {"all" | difficulty: estimate}}}` of the rows of `questions.jsonl`.

    Measures are the two execution accuracies, and the shares of executable and of well-formed completions. A row
    whose gold failed under a measure's semantics (score None) does not count in that measure.
    """
    metrics = {measure: _accuracy(rows, measure, n_samples, bootstrap) for measure in SEMANTICS}
    return metrics | {measure: _share(rows, measure, bootstrap) for measure in ("executable", "well_formed")}


def _accuracy(rows: Sequence[Row], measure: str, n_samples: int, bootstrap: Bootstrap) -> dict[str, dict[str, Any]]:
    scored = [row for row in rows if row["greedy"][measure] is not None]
    values: dict[str, Callable[[Row], float]] = {
        "greedy": lambda row: row["greedy"][measure],
        "vote": lambda row: row["vote"][measure],
        **{f"pass@{k}": partial(_pass_rate, measure, k) for k in (1, n_samples)},
    }
    return {method: _by_difficulty(scored, value, bootstrap) for method, value in values.items()}


def _pass_rate(measure: str, k: int, row: Row) -> float:
    return pass_at_k(row["samples"]["n"], row["samples"][measure], k)


def _share(rows: Sequence[Row], measure: str, bootstrap: Bootstrap) -> dict[str, dict[str, Any]]:
    ran = [row for row in rows if row["greedy"][measure] is not None]
    return {
        "greedy": _by_difficulty(ran, lambda row: row["greedy"][measure], bootstrap),
        "samples": _by_difficulty(ran, lambda row: row["samples"][measure] / row["samples"]["n"], bootstrap),
    }


def _by_difficulty(rows: Sequence[Row], value: Callable[[Row], float], bootstrap: Bootstrap) -> dict[str, Any]:
    groups: dict[str, list[float]] = {"all": []}
    for row in rows:
        groups["all"].append(float(value(row)))
        if row["difficulty"]:
            groups.setdefault(row["difficulty"], []).append(float(value(row)))
    return {name: bootstrap.mean(groups[name]).as_dict() for name in in_order(groups) if groups[name]}


def in_order(difficulties: Iterable[str]) -> list[str]:
    """`all` first, then from easy to hard, unknown labels last by name."""
    known = ("all", *DIFFICULTIES)
    return sorted(difficulties, key=lambda name: (known.index(name) if name in known else len(known), name))


def flat_metrics(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The values as `measure/method[/difficulty]`, in names that MLflow accepts (it refuses `@`)."""
    flat = {}
    for measure, methods in metrics.items():
        for method, groups in methods.items():
            for group, estimate in groups.items():
                suffix = "" if group == "all" else f"/{group}"
                flat[f"{measure}/{method.replace('@', '_at_')}{suffix}"] = estimate["value"]
    return flat
