"""The one evaluator, used by the command `sqlr1 score` and by the workflow's rule `score`.

Every answer is judged by all official metrics (`sandbox.METRICS`); the benchmark's layout says which one decides the
verdict. With samples there are also the vote over their results (as in SQL-R1's inference; the greedy answer has no
vote) and pass@k. A question whose database is missing or whose gold fails is named and not scored, never wrong.

If a database has several instances, an answer must be right on all of them. `one_instance` also counts answers that
are right on the database itself and wrong on another instance: they match by coincidence.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from sqlr1.evaluate.formats import Answers, BenchmarkQuestion, database_path
from sqlr1.evaluate.metrics import highest, r_ves
from sqlr1.evaluate.vote import majority, methods
from sqlr1.prompt import Response
from sqlr1.sandbox import METRICS, Execution, Executor, Judgement, Pair, Query, Race, Status, Verdict, instances
from sqlr1.statistics import Bootstrap, pass_at_k

log = logging.getLogger(__name__)

DIFFICULTIES = ("easy", "medium", "hard", "extra", "simple", "moderate", "challenging")
EXACT = tuple(metric for metric in METRICS if metric != "soft_f1")  # right or wrong, so that samples can be counted
SHARES = ("executable", "well_formed")
PREVIEW_ROWS = 5
PREVIEW_CHARACTERS = 80

Row = dict[str, Any]


@dataclass(frozen=True)
class Evaluation:
    """The result for each question.

    `rows`: one per judged question, in their order (see `evaluate`). `missing`: question index -> the name of its
    missing database. `unanswered`: the indices of questions without answers.
    """

    rows: list[Row]
    missing: dict[int, str]
    unanswered: list[int]

    @cached_property
    def scored(self) -> list[Row]:
        """The rows whose gold ran."""
        return [row for row in self.rows if not Verdict(row["greedy"]["verdict"]).is_gold_fault]

    @cached_property
    def gold_faults(self) -> list[Row]:
        """The rows whose gold did not run."""
        return [row for row in self.rows if Verdict(row["greedy"]["verdict"]).is_gold_fault]


@dataclass(frozen=True)
class _Answered:
    """A question with its database and the answers to it.

    `vote` is the index of the chosen sample, if any; `results` has a digest of each sample's result, None if it failed.
    """

    question: BenchmarkQuestion
    database: Path
    answers: Answers
    vote: int | None = None
    results: Sequence[str | None] = ()

    @property
    def chosen(self) -> Response:
        return self.answers.greedy if self.vote is None else self.answers.samples[self.vote]

    def pair(self, response: Response) -> Pair:
        return Pair(self.database, self.question.gold, response.sql)


def evaluate(
    executor: Executor,
    layout: str,
    questions: Sequence[BenchmarkQuestion],
    databases: Path,
    answers: Mapping[int, Answers],
    ves_repeats: int = 0,
    previews: bool = False,
) -> Evaluation:
    """Judge `answers` (by question index) by the semantics of `layout`, "spider" or "bird".

    A row holds the question, `greedy` and (with samples) `vote`: SQL, verdict and 0..1 by each metric, None where the
    gold does not run as that metric runs it; `samples`: how many of n are right; and `each`: lists over the samples, of
    the number of the first one with an equal `result` (None if it failed) and of 0 or 1 by each metric. With
    `ves_repeats`, matching queries are also timed that often, for `r_ves`. With `previews`, a row also shows the first
    rows of gold and vote.
    Raises InputError for a damaged database.
    """
    missing: dict[int, str] = {}
    unanswered: list[int] = []
    asked: list[_Answered] = []
    paths = {db_id: database_path(databases, db_id) for db_id in {question.db_id for question in questions}}
    if databases.is_file() and (beside := [path.name for path in instances(databases)[1:]]):
        copies = "an answer must also match on the databases beside it, as on copies of it with other values"
        log.warning("%s: %s (%s); if they are none, move them to another folder", databases, copies, ", ".join(beside))
    for question in questions:
        if (database := paths[question.db_id]) is None:
            missing[question.index] = question.db_id
        elif question.index not in answers:
            unanswered.append(question.index)
        else:
            asked.append(_Answered(question, database, answers[question.index]))
    samples = [Query(a.database, response.sql) for a in asked for response in a.answers.samples]
    prints = iter(executor.fingerprints(samples, progress="vote"))
    if samples:
        asked = [replace(a, results=[next(prints) for _ in a.answers.samples]) for a in asked]
        asked = [replace(a, vote=majority(a.results)) for a in asked]
    pairs = [a.pair(response) for a in asked for response in (a.answers.greedy, *a.answers.samples)]
    judgements = iter(executor.judge(pairs, layout, METRICS, progress="predictions"))
    rows = [_row(a, next(judgements), [next(judgements) for _ in a.answers.samples]) for a in asked]
    if ves_repeats:
        _add_r_ves(executor, asked, rows, ves_repeats)
    if previews:
        shown = [Query(a.database, sql) for a in asked for sql in (a.question.gold, a.chosen.sql)]
        executions = iter(executor.execute(shown, progress="preview"))
        for row in rows:
            row["preview"] = {"gold": _preview(next(executions)), "vote": _preview(next(executions))}
    return Evaluation(rows, missing, unanswered)


def _row(asked: _Answered, greedy: Judgement, samples: Sequence[Judgement]) -> Row:
    question, answers = asked.question, asked.answers
    row: Row = {"id": str(question.index), "index": question.index, "db_id": question.db_id}
    row |= {"difficulty": question.difficulty, "question": question.question, "gold": question.gold}
    row |= {"asked": answers.asked, "greedy": _answer(answers.greedy, greedy)}
    if samples:
        row["vote"] = _answer(asked.chosen, samples[asked.vote])
        row["samples"] = {
            "n": len(samples),
            "well_formed": sum(response.well_formed for response in answers.samples),
            "executable": sum(judgement.verdict.executes for judgement in samples),
            **{metric: int(sum(j.metrics.get(metric, 0) for j in samples)) for metric in EXACT},
        }
        equal = [None if result is None else asked.results.index(result) for result in asked.results]
        row["each"] = {"result": equal} | {m: [int(j.metrics.get(m, 0)) for j in samples] for m in EXACT}
    return row


def _answer(response: Response, judgement: Judgement) -> Row:
    metrics = {metric: judgement.metrics.get(metric) for metric in METRICS}
    fault = judgement.verdict.is_gold_fault
    return {
        "sql": response.sql,
        "reasoning": response.think.strip(),
        "well_formed": None if fault else int(response.well_formed),
        "executable": None if fault else int(judgement.verdict.executes),
        **({} if judgement.one_instance is None else {"one_instance": int(judgement.one_instance)}),
        "verdict": judgement.verdict.value,
        "error": judgement.error,
        **{metric: int(v) if v is not None and metric in EXACT else v for metric, v in metrics.items()},
    }


def _add_r_ves(executor: Executor, asked: Sequence[_Answered], rows: Sequence[Row], repeats: int) -> None:
    """Add `r_ves` to each answer; None if the gold does not run as BIRD runs it, or could not be timed."""
    answers = [
        (a.pair(response), row[method])
        for a, row in zip(asked, rows, strict=True)
        for method, response in (("greedy", a.answers.greedy), ("vote", a.chosen))
        if method in row
    ]
    pairs = list(dict.fromkeys(pair for pair, answer in answers if answer["bird_ex"]))
    races = dict(zip(pairs, executor.race(pairs, repeats, "timing"), strict=True))
    for pair, answer in answers:
        answer["r_ves"] = _efficiency(races[pair]) if answer["bird_ex"] else answer["bird_ex"]


def _efficiency(race: Race) -> float | None:
    """0 if the prediction failed when run again; None if the gold or the sandbox failed."""
    if race.status is Status.OK:
        return r_ves(race.ratios)
    return 0.0 if race.failed == "predicted" else None


def _preview(execution: Execution) -> Row:
    """Status, column names, number of rows and the first few of them, as JSON can hold them."""
    rows = execution.shown(PREVIEW_ROWS)
    shown = {"status": execution.status.value, "columns": list(execution.columns), "total": execution.total}
    return shown | {"rows": rows and [list(map(_shortened, row)) for row in rows]}


def _shortened(cell: Any) -> Any:
    return f"{cell[: PREVIEW_CHARACTERS - 1]}…" if isinstance(cell, str) and len(cell) > PREVIEW_CHARACTERS else cell


def summarise(rows: Sequence[Row], bootstrap: Bootstrap, shares: Sequence[str] = SHARES) -> dict[str, dict[str, Row]]:
    """`{measure: {method: {"all" | difficulty: estimate}}}` of the rows of an evaluation.

    Measures are the metrics and the `shares` (of executable and of well-formed answers). Methods are `greedy` and, with
    samples, `vote` (of several) and `pass@1`, `pass@n` (of a share: `samples`). Questions whose gold cannot be run are
    left out.
    """
    some = [name for name in ("r_ves", "one_instance") if any(name in row["greedy"] for row in rows)]
    measures = [*METRICS, *some, *shares]
    return {
        measure: _by_method([(row, _values(row, measure)) for row in rows], bootstrap, highest(measure))
        for measure in measures
    }


def _values(row: Row, measure: str) -> dict[str, float | None]:
    """A question's value by each method; None where it is undecided."""
    values = {"greedy": row["greedy"].get(measure)}
    if "samples" not in row:
        return values
    n, right = row["samples"]["n"], row["samples"].get(measure, 0)
    decided = values["greedy"] is not None
    if measure in SHARES:
        return values | {"samples": right / n if decided else None}
    if "vote" in methods(n):
        values["vote"] = row["vote"].get(measure)
    if measure in EXACT:
        values |= {f"pass@{k}": pass_at_k(n, right, k) if decided else None for k in (1, n)}
    return values


def _by_method(
    valued: Sequence[tuple[Row, Mapping[str, float | None]]], bootstrap: Bootstrap, most: float
) -> dict[str, Row]:
    groups: dict[str, dict[str, list[float]]] = {}
    for row, values in valued:
        for method, value in values.items():
            for group in dict.fromkeys(("all", row["difficulty"])):
                kept = groups.setdefault(method, {}).setdefault(group, [])
                kept += [] if value is None else [float(value)]
    return {
        method: {group: vars(bootstrap.mean(found[group], most)) for group in in_order(found) if found[group]}
        for method, found in groups.items()
    }


def in_order(names: Iterable[str], known: Iterable[str] = ("all", *DIFFICULTIES)) -> list[str]:
    """`names` in the order of `known`, unknown ones last by name; by default from easy to hard, `all` first."""
    known = list(known)
    return sorted(names, key=lambda name: (known.index(name) if name in known else len(known), name))
