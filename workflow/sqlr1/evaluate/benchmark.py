"""Score the predictions for a benchmark: one record a question, and their summary by difficulty."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlr1.evaluate.formats import BenchmarkQuestion
from sqlr1.evaluate.metrics import r_ves
from sqlr1.evaluate.statistics import mean_interval
from sqlr1.sandbox import METRICS, Executor, Judgement, Pair, Race, Status, Verdict

_LEVELS = ("easy", "medium", "hard", "extra", "simple", "moderate", "challenging")
# A question with one of these verdicts says nothing about the prediction: it is not scored.
_UNSCORED = (Verdict.MISSING_DATABASE, Verdict.GOLD_FAILED, Verdict.GOLD_TIMED_OUT)


@dataclass
class Scores:
    """`records`: one row a scored question. `unscored`: reason -> indices. `missing_databases`: names, sorted.

    `gold_errors`: question index -> why its gold did not run.
    """

    metrics: tuple[str, ...]
    records: list[dict[str, Any]] = field(default_factory=list)
    unscored: dict[str, list[int]] = field(default_factory=dict)
    missing_databases: list[str] = field(default_factory=list)
    gold_errors: dict[int, str] = field(default_factory=dict)


def database_path(databases: Path, db_id: str) -> Path | None:
    """`DIR/db_id/db_id.sqlite`, the layout of Spider and BIRD; None if it is not there."""
    path = databases / db_id / f"{db_id}.sqlite"
    return path if os.path.isfile(path) else None  # Path.is_file raises where the name is too long for a file


def score(
    executor: Executor,
    benchmark: str,
    questions: Sequence[BenchmarkQuestion],
    databases: Path,
    predictions: Mapping[int, str],
    ves_repeats: int = 0,
    progress: str | None = None,
) -> Scores:
    """Judge `predictions` (question index -> SQL) by the semantics of `benchmark`, "spider" or "bird".

    With `ves_repeats`, matching queries are also timed that often, for the metric `r_ves`.
    """
    asked = [question for question in questions if question.index in predictions]
    pairs = [Pair(database_path(databases, q.db_id), q.gold, predictions[q.index]) for q in asked]
    judgements = executor.judge(pairs, benchmark, METRICS, progress)
    scores = Scores((*METRICS, "r_ves") if ves_repeats else METRICS)
    if without := [question.index for question in questions if question.index not in predictions]:
        scores.unscored["without_prediction"] = without
    scored = [place for place, judgement in enumerate(judgements) if judgement.verdict not in _UNSCORED]
    scores.records = [_record(asked[place], judgements[place]) for place in scored]
    _count_unscored(scores, asked, judgements)
    if ves_repeats:
        _add_r_ves(executor, scores.records, [pairs[place] for place in scored], ves_repeats, progress)
    return scores


def _count_unscored(scores: Scores, asked: list[BenchmarkQuestion], judgements: list[Judgement]) -> None:
    missing = set()
    for question, judgement in zip(asked, judgements, strict=True):
        if judgement.verdict not in _UNSCORED:
            continue
        scores.unscored.setdefault(judgement.verdict.value, []).append(question.index)
        if judgement.verdict is Verdict.MISSING_DATABASE:
            missing.add(question.db_id)
        else:
            scores.gold_errors[question.index] = judgement.error
    scores.missing_databases = sorted(missing)


def _record(question: BenchmarkQuestion, judgement: Judgement) -> dict[str, Any]:
    record: dict[str, Any] = {"index": question.index, "db_id": question.db_id, "difficulty": question.difficulty}
    record["verdict"] = judgement.verdict.value
    for metric in METRICS:  # None where only this metric's form of the gold did not run
        value = judgement.metrics.get(metric)
        record[metric] = int(value) if value is not None and metric != "soft_f1" else value
    return record


def _add_r_ves(
    executor: Executor, records: list[dict[str, Any]], pairs: list[Pair], repeats: int, progress: str | None
) -> None:
    """Where the gold did not run as BIRD runs it, or could not be timed, the metric is None."""
    matching = [place for place, record in enumerate(records) if record["bird_ex"]]
    races = executor.race([pairs[place] for place in matching], repeats, progress and "timing")
    values = dict(zip(matching, map(_efficiency, races), strict=True))
    for place, record in enumerate(records):
        record["r_ves"] = None if record["bird_ex"] is None else values.get(place, 0.0)


def _efficiency(race: Race) -> float | None:
    """0 for a prediction that itself failed to run again; a fault of the gold or of the sandbox says nothing of it."""
    if race.status is Status.OK:
        return r_ves(race.ratios)
    return 0.0 if race.failed == "predicted" else None


def summarize(scores: Scores) -> list[dict[str, Any]]:
    """One row a difficulty that occurs and one for all: `questions`, and a `mean`, `low`, `high` of each metric.

    Shares (0..1) with their 95 % bootstrap intervals; None without a question.
    """
    present = {record["difficulty"] for record in scores.records}
    levels = [level for level in _LEVELS if level in present] + sorted(present - set(_LEVELS))
    rows = []
    for level in [*levels, "all"]:
        chosen = [record for record in scores.records if level in ("all", record["difficulty"])]
        row: dict[str, Any] = {"difficulty": level, "questions": len(chosen)}
        for metric in scores.metrics:
            row[metric] = _estimate([record[metric] for record in chosen if record[metric] is not None])
        rows.append(row)
    return rows


def _estimate(values: list[float]) -> dict[str, float | None]:
    if not values:
        return {"mean": None, "low": None, "high": None}
    low, high = mean_interval(values)
    return {"mean": sum(values) / len(values), "low": low, "high": high}
