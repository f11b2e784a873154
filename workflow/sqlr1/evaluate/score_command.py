"""Score a file of predicted SQL, or of sampled candidates, by the official metrics, in a sandbox and faster.

The table shows, by difficulty, each metric in percent with its 95 % bootstrap interval; with samples, for the greedy
answer, the vote and pass@k. Questions without prediction, database or working gold are counted apart, never as wrong.
"""

import argparse
import contextlib
import gc
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from sqlr1.evaluate.evaluator import Evaluation, evaluate, in_order, summarise
from sqlr1.evaluate.formats import LAYOUTS, read_questions
from sqlr1.evaluate.prediction_files import read_answers
from sqlr1.evaluate.vote import methods
from sqlr1.records import InputError, write_jsonl
from sqlr1.sandbox import METRICS, Executor, Limits
from sqlr1.statistics import Bootstrap, Estimate

logger = logging.getLogger(__name__)
_OFFICIAL_REPEATS = 100
_COMPARISON_SECONDS = 30.0  # longer than in training, where a batch waits for the slowest comparison
# SQLite's messages; the last is that for a blank answer.
_SYNTAX_ERRORS = ("syntax error", "unrecognized token", "incomplete input", "there is no statement")
_RANGES = {
    "seconds": (0.001, 86_400.0),
    "rows": (1, 1_000_000_000),
    "workers": (1, 4 * (os.cpu_count() or 1)),
    "ves": (0, 100_000),
}


def add_parser(commands: Any) -> None:
    parser = commands.add_parser("score", help="score a predictions file", description=__doc__, allow_abbrev=False)
    parser.add_argument("--benchmark", choices=LAYOUTS, required=True, help="file layout and meaning of the verdict")
    parser.add_argument("--questions", type=Path, required=True, metavar="FILE", help="the benchmark's dev.json")
    where = "folder of DB_ID/DB_ID.sqlite or DB_ID.sqlite, or one file"
    parser.add_argument("--databases", type=Path, required=True, metavar="DIR", help=where)
    read = "JSON lines, BIRD's JSON, Spider's text (a blank line fails) or candidates.jsonl; the suffix does not matter"
    parser.add_argument("--predictions", type=Path, required=True, metavar="FILE", help=read)
    parser.add_argument("--out", type=Path, metavar="FILE.jsonl", help="write one JSON line per scored question")
    ves = f"also time matching queries for R-VES ({_OFFICIAL_REPEATS} times each, as BIRD does; slow, and noisy)"
    parser.add_argument("--ves", type=int, nargs="?", const=_OFFICIAL_REPEATS, default=0, metavar="REPEATS", help=ves)
    parser.add_argument("--kinds", action="store_true", help="also name kinds of error, as `sqlr1 compare` needs")
    parser.add_argument("--json", action="store_true", help="print the summary as one JSON object instead of a table")
    parser.add_argument("--seconds", type=float, default=30.0, help="wall time a query may take (default: 30)")
    parser.add_argument("--rows", type=int, default=Limits().rows, help=f"a result's rows (default: {Limits().rows:,})")
    parser.add_argument("--workers", type=int, help="worker processes (default: one per CPU)")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="keep gold results here for later runs")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Score and print. Raises InputError for bad files or values."""
    if not args.databases.exists():
        raise InputError(f"{args.databases}: no such folder or file (--databases)")
    if args.cache and args.cache.exists() and not args.cache.is_dir():
        raise InputError(f"{args.cache}: not a folder for the cache (--cache)")
    for name, (least, most) in _RANGES.items():
        if (
            value := getattr(args, name)
        ) is not None and not least <= value <= most:  # written so that NaN is refused too
            raise InputError(f"--{name} must be between {least} and {most}, not {value}")
    if args.out:
        _check_writable(args.out, [args.questions, args.predictions])
    limits = Limits(args.seconds, args.rows, comparison_seconds=_COMPARISON_SECONDS)
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # NumPy's threads are not used, and take long to start
    # The workers start while the files are read.
    with Executor(args.workers, limits, args.cache) as executor, contextlib.ExitStack() as at_end:
        gc.disable()  # questions, answers and verdicts are many small objects without cycles
        at_end.callback(gc.enable)
        questions = read_questions(args.benchmark, args.questions)
        answers = read_answers(args.predictions, questions)
        # A question without a prediction is named as that, whether or not its database is here.
        asked = [question for question in questions if question.index in answers]
        found = evaluate(executor, args.benchmark, asked, args.databases, answers, args.ves)
        found = replace(found, unanswered=[q.index for q in questions if q.index not in answers])
    _warn_of_broken_sql(args.predictions, found)
    counts = None
    if args.kinds:
        from sqlr1.evaluate import errors  # sqlglot takes long to import

        errors.add_kinds(found.scored, args.databases)
        counts = errors.primary_counts(found.scored)
    if args.out:
        write_jsonl(args.out, map(_record, found.scored))
    table = _table(found)
    print(_as_json(args.benchmark, found, table, counts) if args.json else _as_text(found, table, counts))


def _warn_of_broken_sql(path: Path, found: Evaluation) -> None:
    """Warn if SQLite cannot parse most answers: the file may hold more than the SQL."""
    broken = [row for row in found.scored if any(error in row["greedy"]["error"] for error in _SYNTAX_ERRORS)]
    if 2 * len(broken) > len(found.scored):
        index, answer = broken[0]["index"], broken[0]["greedy"]
        few = f"{len(broken)} of {len(found.scored)} answers do not parse as SQL"
        logger.warning("%s: %s; question %d: %s in %.60r", path, few, index, answer["error"], answer["sql"])


def _check_writable(out: Path, inputs: list[Path]) -> None:
    """Raise InputError, before the work, if the output cannot be written or would replace an input."""
    if out.is_dir():
        raise InputError(f"{out}: is a folder (--out)")
    if any(out.exists() and path.exists() and out.samefile(path) for path in inputs):
        raise InputError(f"{out}: is an input file; choose another name (--out)")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out.parent}: cannot be written to ({error.strerror}) (--out)") from error
    if not os.access(out.parent, os.W_OK):
        raise InputError(f"{out.parent}: cannot be written to (--out)")


def _record(row: Mapping[str, Any]) -> dict[str, Any]:
    """A line of `--out`: the greedy answer's verdict and metrics; with samples, their vote's and the counts too."""

    def judged(answer: Mapping[str, Any]) -> dict[str, Any]:
        return {key: answer[key] for key in ("verdict", *METRICS, "r_ves", "kinds") if key in answer}

    record = {key: row[key] for key in ("index", "db_id", "difficulty")} | judged(row["greedy"])
    if "samples" not in row:
        return record
    _, *votes = methods(row["samples"]["n"])
    return record | {method: judged(row[method]) for method in votes} | {"samples": row["samples"]}


def _table(found: Evaluation) -> list[dict[str, Any]]:
    """One row per method and difficulty, and one for all: `questions`, and the estimate of each metric or None."""
    rows = found.scored
    metrics = summarise(rows, Bootstrap(), shares=())
    methods = list(dict.fromkeys(method for by in metrics.values() for method in by)) or ["greedy"]
    _, *levels = in_order({"all", *(row["difficulty"] for row in rows)})
    return [
        {
            "method": method,
            "difficulty": level,
            "questions": sum(level in ("all", row["difficulty"]) for row in rows),
            **{metric: by.get(method, {}).get(level) for metric, by in metrics.items()},
        }
        for method in methods
        for level in (*levels, "all")
    ]


def _unscored(found: Evaluation) -> dict[str, list[int]]:
    """Reason -> the indices of the questions that it kept from being scored."""
    reasons = {"without_prediction": found.unanswered, "missing_database": list(found.missing)}
    for row in found.gold_faults:
        reasons.setdefault(row["greedy"]["verdict"], []).append(row["index"])
    return {reason: indices for reason, indices in reasons.items() if indices}


def _as_json(benchmark: str, found: Evaluation, table: list[dict[str, Any]], counts: dict[str, int] | None) -> str:
    for row in table:
        for metric, estimate in row.items():
            if metric not in ("method", "difficulty", "questions"):
                named = zip(("mean", "low", "high"), ("value", "low", "high"), strict=True)
                row[metric] = {name: estimate and estimate[key] for name, key in named}
    summary = {
        "benchmark": benchmark,
        "scored": len(found.scored),
        "unscored": _unscored(found),
        "missing_databases": sorted(set(found.missing.values())),
        "gold_errors": {row["index"]: row["greedy"]["error"] for row in found.gold_faults},
        "summary": table,
    } | ({} if counts is None else {"error_kinds": counts})
    return json.dumps(summary, allow_nan=False)


def _as_text(found: Evaluation, table: list[dict[str, Any]], counts: dict[str, int] | None) -> str:
    hidden = () if len({row["method"] for row in table}) > 1 else ("method",)
    header = [name for name in table[0] if name not in hidden]
    lines = [[_cell(row[name]) for name in header] for row in table]
    widths = [max(map(len, column)) for column in zip(header, *lines, strict=True)]
    text = ["  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in [header, *lines]]
    if counts:
        text += ["", f"wrong answers (greedy) by primary kind: {sum(counts.values())}"]
        text += [f"{n:5}  {kind.replace('_', ' ')}" for kind, n in counts.items()]
    errors = {row["index"]: f"; {row['index']}: {row['greedy']['error']}" for row in found.gold_faults}
    for reason, indices in _unscored(found).items():
        named = ", ".join(map(str, indices[:10])) + (", ..." if len(indices) > 10 else "")
        if reason == "missing_database":
            named = ", ".join(sorted(set(found.missing.values())))
        text.append(f"not scored, {reason.replace('_', ' ')}: {len(indices)} ({named}){errors.get(indices[0], '')}")
    return "\n".join(text)


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return Estimate(**value).percent()
    return "-" if value is None else str(value)
