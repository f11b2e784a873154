"""Score candidates on a benchmark: greedy, self-consistency vote and pass@k by the official metrics.

The work is `evaluate.evaluator`'s, as in `sqlr1 score`. Outputs: summary.json, questions.jsonl (one row per question),
predictions.txt and predict_dev.json (the vote, or of one sample the greedy answer, in the official formats).
"""

import functools
import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sqlr1.database.schema import read_schema
from sqlr1.evaluate import formats
from sqlr1.evaluate.errors import add_kinds, primary_counts
from sqlr1.evaluate.evaluator import Evaluation, evaluate, in_order, summarise
from sqlr1.evaluate.features import add_features, by_feature
from sqlr1.evaluate.vote import methods
from sqlr1.records import InputError, read_json, sha256, write_json, write_jsonl
from sqlr1.report.figures import interval_panels
from sqlr1.sandbox import SEMANTICS, Executor, Limits, instances
from sqlr1.stages.common import GOLD_CACHE, Job, add_workers, stage, stage_parser
from sqlr1.statistics import Bootstrap, Estimate

logger = logging.getLogger(__name__)

TRACED = 20  # questions per run that have a trace in MLflow, evenly spaced: a trace costs 7 ms


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
    benchmark, settings = job.settings["benchmark"], job.settings["score"]
    questions = formats.read_questions(benchmark.layout, job.args.questions)
    excluded = formats.excluded_questions(job.args.exclude, len(questions))
    trusted = [question for question in questions if question.index not in excluded]
    found = _evaluate(job, trusted, formats.read_candidates(job.args.candidates, questions))
    add_kinds(found.rows, job.args.databases)
    add_features(found.rows)
    bootstrap = Bootstrap(settings.confidence, settings.resamples)
    n_samples = found.rows[0]["samples"]["n"] if found.rows else 0
    answered = methods(n_samples)
    summary = _identity(job) | {
        "questions": len(found.scored),
        "missing_databases": dict(sorted(Counter(found.missing.values()).items())),
        "excluded": len(excluded),
        "unanswered": sum(not row["asked"] for row in found.scored),  # scored, as wrong
        "gold_failed": [row["index"] for row in found.gold_faults],
        "n_samples": n_samples,
        "error_kinds": {method: primary_counts(found.rows, method) for method in answered},
        "metrics": summarise(found.rows, bootstrap) if found.rows else {},
        "features": by_feature(found.rows, SEMANTICS[benchmark.layout], bootstrap, answered),
    }
    chosen = {row["index"]: row[answered[-1]]["sql"] for row in found.rows}
    write_json(job.out / "summary.json", summary)
    write_jsonl(job.out / "questions.jsonl", found.rows)
    formats.write_spider_text(job.out / "predictions.txt", questions, chosen)
    formats.write_bird_json(job.out / "predict_dev.json", questions, chosen)
    job.outputs("summary.json", "questions.jsonl", "predictions.txt", "predict_dev.json")
    _track(job, found.rows, summary)


def _evaluate(job: Job, questions: Sequence[formats.BenchmarkQuestion], answers: Mapping[int, Any]) -> Evaluation:
    """With a limit the questions are those that have candidates; without one, each must have some."""
    benchmark = job.settings["benchmark"]
    paths = {q.index: path for q in questions if (path := formats.database_path(job.args.databases, q.db_id))}
    unanswered = [index for index in paths if index not in answers]
    if unanswered and not benchmark.limit:
        raise InputError(f"{job.args.candidates}: no candidates for question {unanswered[0]} of {job.args.questions}")
    databases = sorted({path for index, path in paths.items() if index in answers})
    job.reads(path for database in databases for path in instances(database))
    for database in databases:
        read_schema(database)  # raises InputError for a corrupt file, on which all golds would seem to fail
    limits = Limits.of(job.settings["execution"], benchmark.seconds)
    repeats = job.settings["score"].ves
    with Executor(job.args.workers, limits, cache=GOLD_CACHE) as executor:
        found = evaluate(executor, benchmark.layout, questions, job.args.databases, answers, repeats, previews=True)
    if missing := Counter(found.missing.values()):
        names = ", ".join(f"{db_id} ({n})" for db_id, n in sorted(missing.items()))
        logger.warning("%d questions are not scored, their databases are missing: %s", missing.total(), names)
    return found


def _identity(job: Job) -> dict[str, Any]:
    """What was scored: the wildcards of the rule come as tags."""
    tags = {"benchmark": job.args.questions.parent.name, "strategy": "", "reward": ""}
    tags |= dict(tag.split("=", 1) for tag in job.args.tag)
    layout = job.settings["benchmark"].layout
    identity = {key: tags[key] for key in ("benchmark", "strategy", "reward")}
    return identity | {"layout": layout, "metric": SEMANTICS[layout], "seed": job.seed}


def _track(job: Job, rows: Sequence[dict[str, Any]], summary: dict[str, Any]) -> None:
    """Metrics, per-question table and figure for MLflow; the headline for the log."""
    headline = summary["metrics"].get(summary["metric"], {})
    logger.info("%d questions scored, %d golds failed", summary["questions"], len(summary["gold_failed"]))
    for method, groups in headline.items():
        if "all" in groups:
            logger.info("%s %s: %s", summary["metric"], method, Estimate(**groups["all"]).percent())
    counts = {"questions": summary["questions"], "missing": sum(summary["missing_databases"].values())}
    counts |= {f"error/{m}/{kind}": n for m, by in summary["error_kinds"].items() for kind, n in by.items()}
    counts |= {"gold_failed": len(summary["gold_failed"])}
    job.run.metrics(_flat(summary["metrics"]) | _flat({summary["metric"]: summary["features"]}) | counts)
    if not rows:
        return
    from sqlr1.traces import Answer  # imports MLflow

    answers = [Answer.of(row, summary["metric"]) for row in rows[:: -(-len(rows) // TRACED)]]
    whole = {method: {"all": groups["all"]} for method, groups in headline.items()}
    scores = _flat({summary["metric"]: whole})
    dataset = summary["benchmark"], sha256(job.args.questions)
    job.run.evaluation(_policy(job.args.candidates), dataset, scores, answers)
    job.run.table([_table_row(row, summary["metric"]) for row in rows], "questions.json")
    shown = {method: groups for method, groups in headline.items() if method != "pass@1"}
    labels = in_order({name for groups in shown.values() for name in groups})
    panel = [(name, {m: Estimate(**groups[name]) for m, groups in shown.items() if name in groups}) for name in labels]
    job.run.figure(interval_panels({summary["benchmark"]: panel}, f"{summary['metric']}, %"), "scores.png")


def _policy(candidates: Path) -> Path | None:
    """The folder of the policy whose answers these are, by their manifest; None if they come from elsewhere."""
    manifest = candidates.with_name("manifest.json")
    inputs = read_json(manifest)["inputs"] if manifest.is_file() else {}
    return next((Path(p).parent for p in inputs if Path(p).name == manifest.name and Path(p).is_file()), None)


def _flat(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The values as `measure/method[/difficulty]`, in names that MLflow accepts: it refuses `@`, and brackets."""
    plain = functools.partial(re.sub, r"[^\w\- ]", "-")
    return {
        f"{measure}/{method.replace('@', '_at_')}{'' if group == 'all' else '/' + plain(group)}": estimate["value"]
        for measure, by_method in metrics.items()
        for method, groups in by_method.items()
        for group, estimate in groups.items()
    }


def _table_row(row: dict[str, Any], measure: str) -> dict[str, Any]:
    found = {key: row[key] for key in ("index", "db_id", "difficulty", "question", "gold")}
    for method in methods(row["samples"]["n"]):
        found |= {f"{method}_sql": row[method]["sql"], method: row[method]["verdict"]}
    return found | {"samples_right": row["samples"][measure], "samples": row["samples"]["n"]}


if __name__ == "__main__":
    main()
