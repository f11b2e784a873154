"""Score a file of predicted SQL as the official evaluators do, in a sandbox and faster.

The table shows, by difficulty, each metric in per cent with its 95 % bootstrap interval. Questions without a
prediction, without a database or with a broken gold are counted apart, never as wrong.
"""

import argparse
import json
import os
from pathlib import Path
from typing import Any

from sqlr1.evaluate.benchmark import Scores, score, summarize
from sqlr1.evaluate.formats import LAYOUTS, read_predictions, read_questions
from sqlr1.records import InputError, write_jsonl
from sqlr1.sandbox import Executor, Limits

_OFFICIAL_REPEATS = 100
_COMPARISON_SECONDS = 30.0  # patience for one file, where a batch of GRPO's has none
_RANGES = {
    "seconds": (0.001, 86_400.0),
    "rows": (1, 1_000_000_000),
    "workers": (1, 4 * (os.cpu_count() or 1)),
    "ves": (0, 100_000),
}


def add_parser(commands: Any) -> None:
    """Add the sub-command `score` to argparse's sub-parsers."""
    parser = commands.add_parser("score", help="score a predictions file", description=__doc__, allow_abbrev=False)
    parser.add_argument("--benchmark", choices=LAYOUTS, required=True, help="file layout and meaning of the verdict")
    parser.add_argument("--questions", type=Path, required=True, metavar="FILE", help="the benchmark's dev.json")
    parser.add_argument("--databases", type=Path, required=True, metavar="DIR", help="folder of DB_ID/DB_ID.sqlite")
    parser.add_argument(
        "--predictions",
        type=Path,
        required=True,
        metavar="FILE",
        help="JSONL (.jsonl), BIRD's .json, or Spider's text, in which a blank line is an answer that fails",
    )
    parser.add_argument("--out", type=Path, metavar="FILE.jsonl", help="write one JSON line a scored question")
    parser.add_argument(
        "--ves",
        type=int,
        nargs="?",
        const=_OFFICIAL_REPEATS,
        default=0,
        metavar="REPEATS",
        help=f"also time matching queries for R-VES ({_OFFICIAL_REPEATS} times each, as BIRD does; slow, and noisy)",
    )
    parser.add_argument("--json", action="store_true", help="print the summary as one JSON object instead of a table")
    parser.add_argument("--seconds", type=float, default=30.0, help="wall time a query may take (default: 30)")
    parser.add_argument(
        "--rows", type=int, default=Limits.rows, help=f"rows a result may have (default: {Limits.rows:,})"
    )
    parser.add_argument("--workers", type=int, help="worker processes (default: one a CPU)")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="keep gold results here for later runs")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Score and print. Raises InputError for bad files or values."""
    if not args.databases.is_dir():
        raise InputError(f"{args.databases}: no such folder (--databases)")
    for name, (least, most) in _RANGES.items():
        value = getattr(args, name)
        if value is not None and not least <= value <= most:  # written so that NaN is refused too
            raise InputError(f"--{name} must be between {least} and {most}, not {value}")
    if args.out:
        _check_writable(args.out, [args.questions, args.predictions])
    questions = read_questions(args.benchmark, args.questions)
    predictions = read_predictions(args.predictions, questions)
    limits = Limits(args.seconds, args.rows, comparison_seconds=_COMPARISON_SECONDS)
    with Executor(args.workers, limits, args.cache) as executor:
        scores = score(executor, args.benchmark, questions, args.databases, predictions, args.ves, "predictions")
    if args.out:
        write_jsonl(args.out, scores.records)
    print(_as_json(args.benchmark, scores) if args.json else _as_text(scores))


def _check_writable(out: Path, inputs: list[Path]) -> None:
    """Raise InputError, before the work, where the output cannot be written or would take the place of an input."""
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


def _as_json(benchmark: str, scores: Scores) -> str:
    summary = {
        "benchmark": benchmark,
        "scored": len(scores.records),
        "unscored": scores.unscored,
        "missing_databases": scores.missing_databases,
        "gold_errors": scores.gold_errors,
        "summary": summarize(scores),
    }
    return json.dumps(summary, allow_nan=False)


def _as_text(scores: Scores) -> str:
    header = ["difficulty", "questions", *scores.metrics]
    lines = [
        [row["difficulty"], str(row["questions"]), *(_cell(row[m]) for m in scores.metrics)]
        for row in summarize(scores)
    ]
    widths = [max(map(len, column)) for column in zip(header, *lines, strict=True)]
    text = ["  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in [header, *lines]]
    for reason, indices in scores.unscored.items():
        named = ", ".join(scores.missing_databases if reason == "missing_database" else map(str, indices[:10]))
        more = ", ..." if reason != "missing_database" and len(indices) > 10 else ""
        why = f"; {indices[0]}: {scores.gold_errors[indices[0]]}" if indices[0] in scores.gold_errors else ""
        text.append(f"not scored, {reason.replace('_', ' ')}: {len(indices)} ({named}{more}){why}")
    return "\n".join(text)


def _cell(estimate: dict[str, float | None]) -> str:
    if estimate["mean"] is None:
        return "-"
    mean, low, high = (100 * estimate[key] for key in ("mean", "low", "high"))
    return f"{mean:.1f} [{low:.1f}, {high:.1f}]"
