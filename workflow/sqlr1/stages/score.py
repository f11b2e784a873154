"""Score candidates on a benchmark: greedy, self-consistency vote and pass@k under the official semantics.

The vote is over the results of the samples (not the greedy one), as in SQL-R1's inference. Every completion is judged
under both official semantics, Spider's execution match and BIRD's set comparison; the benchmark's layout says which
is the headline. A question whose database is absent is counted and named, never wrong; neither is one whose gold
fails. Outputs: summary.json, questions.jsonl (one row a question), predictions.txt and predict_dev.json (the vote in
the official formats).
"""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlr1.database import read_schema
from sqlr1.evaluate.benchmark import database_path
from sqlr1.evaluate.estimates import Bootstrap, Estimate
from sqlr1.evaluate.formats import (
    BenchmarkQuestion,
    excluded_questions,
    read_questions,
    write_bird_json,
    write_spider_text,
)
from sqlr1.evaluate.rows import answer_row, preview, samples_row
from sqlr1.evaluate.summary import HEADLINE, SEMANTICS, flat_metrics, in_order, summarise
from sqlr1.evaluate.vote import majority
from sqlr1.prompt import Response, parse_response
from sqlr1.records import Candidates, InputError, read_records, write_json, write_jsonl
from sqlr1.report.figures import interval_panels
from sqlr1.sandbox import Executor, Limits, Pair, Query, instances
from sqlr1.stages.common import GOLD_CACHE, Job, add_workers, stage, stage_parser

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Answered:
    """A question whose database is here, with the policy's parsed completions."""

    question: BenchmarkQuestion
    database: Path
    greedy: Response
    samples: list[Response]


def main(argv: Sequence[str] | None = None) -> None:
    parser = stage_parser(__doc__)
    parser.add_argument("--questions", type=Path, required=True, help="the benchmark's questions file")
    parser.add_argument("--databases", type=Path, required=True, help="folder of <db_id>/<db_id>.sqlite")
    parser.add_argument("--exclude", type=Path, help="file with the indices of questions that are not to be trusted")
    parser.add_argument("--candidates", type=Path, required=True)
    add_workers(parser)
    with stage("score", parser, argv, inputs=["questions", "exclude", "candidates"]) as job:
        _score(job)


def _score(job: Job) -> None:
    questions = read_questions(job.settings["benchmark"]["layout"], job.args.questions)
    excluded = excluded_questions(job.args.exclude, len(questions))
    trusted = [question for question in questions if question.index not in excluded]
    candidates = read_records(job.args.candidates, Candidates)
    answered, missing = _join(job, trusted, candidates)
    job.reads(path for a in answered for path in instances(a.database))
    for database in sorted({a.database for a in answered}):
        read_schema(database)  # raises InputError for a corrupt file, whose golds would all seem to fail
    rows = _judge(job, answered)
    n_samples = len(answered[0].samples) if answered else 0
    scored = {row["id"] for row in rows if row["greedy"]["executable"] is not None}
    faults = [row["index"] for row in rows if row["greedy"]["executable"] is None]
    summary = _identity(job) | {
        "questions": len(rows) - len(faults),
        "missing_databases": dict(sorted(missing.items())),
        "excluded": len(excluded),
        # As where the prompt did not fit: scored, as wrong.
        "unanswered": sum(c.id in scored and not any((c.greedy, *c.samples)) for c in candidates),
        "gold_failed": faults,
        "n_samples": n_samples,
        "metrics": summarise(rows, n_samples, Bootstrap(**job.settings["score"])) if rows else {},
    }
    _write(job, questions, rows, summary)
    _track(job, rows, summary)


def _identity(job: Job) -> dict[str, Any]:
    """What was scored: the wildcards of the rule come as tags."""
    tags = dict(tag.split("=", 1) for tag in job.args.tag)
    layout = job.settings["benchmark"]["layout"]
    return {
        "benchmark": tags.get("benchmark", job.args.questions.parent.name),
        "layout": layout,
        "metric": HEADLINE[layout],
        "strategy": tags.get("strategy", ""),
        "reward": tags.get("reward", ""),
        "seed": job.seed,
    }


def _join(
    job: Job, questions: Sequence[BenchmarkQuestion], candidates: Sequence[Candidates]
) -> tuple[list[Answered], Counter[str]]:
    """The questions whose database is here with their candidates, and how many miss each absent database.

    With a limit, the questions are those that have candidates. Raises InputError where the files do not fit.
    """
    given = {candidate.id: candidate for candidate in candidates}
    answered, missing, unanswered = [], Counter[str](), []
    for question in questions:
        database = database_path(job.args.databases, question.db_id)
        candidate = given.get(str(question.index))
        if database is None:
            missing[question.db_id] += 1
        elif candidate is None:
            unanswered.append(question.index)
        else:
            answered.append(_answered(job.args.candidates, question, database, candidate, len(candidates[0].samples)))
    if unanswered and not job.settings["benchmark"].get("limit"):
        raise InputError(f"{job.args.candidates}: no candidates for question {unanswered[0]} of {job.args.questions}")
    if missing:
        names = ", ".join(f"{db_id} ({n})" for db_id, n in sorted(missing.items()))
        logger.warning("%d questions are not scored, their databases are absent: %s", missing.total(), names)
    return answered, missing


def _answered(
    path: Path, question: BenchmarkQuestion, database: Path, candidate: Candidates, n_samples: int
) -> Answered:
    if candidate.db_id != question.db_id:
        raise InputError(
            f"{path}: candidates {candidate.id} are for {candidate.db_id!r}, the question is on {question.db_id!r}"
        )
    if len(candidate.samples) != n_samples or not n_samples:
        raise InputError(
            f"{path}: candidates {candidate.id} hold {len(candidate.samples)} samples, the first {n_samples}"
        )
    samples = [parse_response(completion) for completion in candidate.samples]
    return Answered(question, database, parse_response(candidate.greedy), samples)


def _judge(job: Job, answered: Sequence[Answered]) -> list[dict[str, Any]]:
    """Run everything: the vote, the judgements under both semantics, the rows to look at."""
    layout = job.settings["benchmark"]["layout"]
    with Executor(job.args.workers, _limits(job), cache=GOLD_CACHE) as executor:
        samples = [Query(a.database, response.sql) for a in answered for response in a.samples]
        prints = iter(executor.fingerprints(samples, progress="vote"))
        chosen = [majority([next(prints) for _ in a.samples]) for a in answered]
        pairs = [Pair(a.database, a.question.gold, r.sql) for a in answered for r in (a.greedy, *a.samples)]
        judgements = iter(executor.judge(pairs, layout, metrics=tuple(SEMANTICS), progress="judge"))
        judged = [[next(judgements) for _ in (a.greedy, *a.samples)] for a in answered]
        shown = [
            Query(a.database, sql)
            for a, vote in zip(answered, chosen, strict=True)
            for sql in (a.question.gold, a.samples[vote].sql)
        ]
        previews = [preview(execution) for execution in executor.execute(shown, progress="preview")]
    return [
        _row(a, vote, own, {"gold": previews[2 * i], "vote": previews[2 * i + 1]})
        for i, (a, vote, own) in enumerate(zip(answered, chosen, judged, strict=True))
    ]


def _row(answered: Answered, vote: int, judgements: Sequence[Any], previews: dict[str, Any]) -> dict[str, Any]:
    question = answered.question
    return {
        "id": str(question.index),
        "index": question.index,
        "db_id": question.db_id,
        "difficulty": question.difficulty,
        "question": question.question,
        "gold": question.gold,
        "greedy": answer_row(answered.greedy, judgements[0]),
        "vote": answer_row(answered.samples[vote], judgements[1 + vote]),
        "samples": samples_row(answered.samples, judgements[1:]),
        "preview": previews,
    }


def _write(
    job: Job, questions: Sequence[BenchmarkQuestion], rows: Sequence[dict[str, Any]], summary: dict[str, Any]
) -> None:
    predictions = {row["index"]: row["vote"]["sql"] for row in rows}
    write_json(job.out / "summary.json", summary)
    write_jsonl(job.out / "questions.jsonl", rows)
    write_spider_text(job.out / "predictions.txt", questions, predictions)
    write_bird_json(job.out / "predict_dev.json", questions, predictions)
    job.outputs("summary.json", "questions.jsonl", "predictions.txt", "predict_dev.json")


def _track(job: Job, rows: Sequence[dict[str, Any]], summary: dict[str, Any]) -> None:
    """Metrics, per-question table and figure for MLflow; the headline for the log."""
    headline = summary["metrics"].get(summary["metric"], {})
    logger.info("%d questions scored, %d golds failed", summary["questions"], len(summary["gold_failed"]))
    for method, groups in headline.items():
        if "all" in groups:
            logger.info("%s %s: %s", summary["metric"], method, Estimate(**groups["all"]).percent())
    counts = {"questions": summary["questions"], "missing": sum(summary["missing_databases"].values())}
    job.run.metrics(flat_metrics(summary["metrics"]) | counts | {"gold_failed": len(summary["gold_failed"])})
    if not rows:
        return
    job.run.table([_table_row(row, summary["metric"]) for row in rows], "questions.json")
    shown = {method: groups for method, groups in headline.items() if method != "pass@1"}
    labels = in_order({name for groups in shown.values() for name in groups})
    panel = [(name, {m: Estimate(**groups[name]) for m, groups in shown.items() if name in groups}) for name in labels]
    job.run.figure(interval_panels({summary["benchmark"]: panel}, f"{summary['metric']}, %"), "scores.png")


def _table_row(row: dict[str, Any], measure: str) -> dict[str, Any]:
    keys = ("index", "db_id", "difficulty", "question", "gold")
    return {key: row[key] for key in keys} | {
        "greedy_sql": row["greedy"]["sql"],
        "greedy": row["greedy"]["verdict"],
        "vote_sql": row["vote"]["sql"],
        "vote": row["vote"]["verdict"],
        "samples_right": row["samples"][measure],
        "samples": row["samples"]["n"],
    }


def _limits(job: Job) -> Limits:
    """Those of section `execution`, but for the benchmark's own time."""
    seconds = job.settings["benchmark"].get("seconds", job.settings["execution"].get("seconds", Limits.seconds))
    return Limits(**job.settings["execution"] | {"seconds": seconds})


if __name__ == "__main__":
    main()
