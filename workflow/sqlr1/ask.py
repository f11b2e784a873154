"""Ask a database: a trained policy answers questions over one SQLite file.

Prints the reasoning, the SQL and the rows, which the sandbox fetches. Without a question it asks for questions until
the end of the input.
"""

import argparse
import contextlib
import json
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tabulate import tabulate

from sqlr1.config import Prompt
from sqlr1.database import read_schema
from sqlr1.evaluate.vote import majority
from sqlr1.prompt import parse_response
from sqlr1.records import InputError, read_json
from sqlr1.sandbox import Execution, Executor, Limits, Query

RESULTS = Path("results")
_SHOWN_ROWS, _SHOWN_CHARACTERS = 20, 60
_HISTORY = Path("~/.sqlr1_history")


def add_parser(commands: Any) -> None:
    """Add the sub-command `ask` to argparse's sub-parsers."""
    parser = commands.add_parser("ask", help="ask a database", description=__doc__, allow_abbrev=False)
    parser.add_argument("database", type=Path, metavar="DATABASE.sqlite")
    parser.add_argument("question", nargs="?", help="without one: asks for questions")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--model", type=Path, metavar="FOLDER", help="a model (default: the newest trained policy)")
    which.add_argument("--experiment", metavar="NAME", help="the newest policy of this experiment")
    parser.add_argument("--evidence", default="", help="a hint about the database, as in BIRD's questions")
    parser.add_argument(
        "--samples", type=int, default=0, metavar="N", help="the vote of N samples, not the greedy answer"
    )
    parser.add_argument("--temperature", type=float, default=0.8, help="of the samples (default: 0.8)")
    parser.add_argument("--seed", type=int, default=0, help="of the samples")
    parser.add_argument(
        "--max-new-tokens", type=int, default=256, metavar="N", help="length of an answer (default: 256)"
    )
    parser.add_argument(
        "--seconds", type=float, default=Limits().seconds, help="wall time a query may take (default: 2)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object per question")
    parser.set_defaults(run=run)


@dataclass(frozen=True)
class Asked:
    """A question as `model.prompts` wants it."""

    question: str
    evidence: str
    db_id: str = ""


def run(args: argparse.Namespace) -> None:
    """Answer the question, or each line of the input. Raises InputError for a bad database, model or number."""
    for name, least in (("samples", 0), ("max_new_tokens", 1), ("temperature", 0.01), ("seconds", 0.001)):
        if not getattr(args, name) >= least:
            raise InputError(f"--{name.replace('_', '-')} must be at least {least}, not {getattr(args, name)}")
    if args.question is not None and not args.question.strip():
        raise InputError("the question is empty")
    read_schema(args.database)  # before the model, which takes seconds to load
    policy = Policy(args.model or newest_policy(args.experiment), args)
    print(f"{policy.folder} on {args.database}", file=sys.stderr)
    show = _as_json if args.json else _as_text
    with Executor(1, Limits(args.seconds)) as executor, contextlib.suppress(KeyboardInterrupt):
        for question in [args.question] if args.question else _questions():
            try:
                print(show(policy.answer(question, executor)), flush=True)
            except InputError as error:
                if args.question:
                    raise
                print(f"error: {error}", file=sys.stderr)  # the next question may fit


def newest_policy(experiment: str | None = None) -> Path:
    """The model folder of the policy that was trained last: by GRPO, else by the cold start.

    Raises InputError if there is none.
    """
    for stage in ("grpo", "cold_start"):
        manifests = [*RESULTS.glob(f"{experiment or '*'}/{stage}/**/manifest.json")]
        if manifests:
            return max(manifests, key=lambda path: path.stat().st_mtime).parent / "model"
    where = RESULTS / experiment if experiment else RESULTS
    raise InputError(f"{where}: no trained policy; run `snakemake --cores all` first, or name a model with --model")


class Policy:
    """A model with the prompt that it was trained on."""

    def __init__(self, folder: Path, args: argparse.Namespace) -> None:
        from sqlr1.model.answers import SamplerBackend
        from sqlr1.model.base import context_length, native_precision
        from sqlr1.model.prompts import Prompts
        from sqlr1.model.sampler import GREEDY, Sampling, row_seed

        if not (folder / "config.json").is_file():
            raise InputError(f"{folder}: no model (it has no config.json)")
        self.folder, self.args = folder, args
        room = context_length(folder) - args.max_new_tokens
        manifest = folder.parent / "manifest.json"
        trained_on = read_json(manifest)["settings"].get("prompt", {}) if manifest.is_file() else {}
        self.backend = SamplerBackend(folder, native_precision())
        settings = Prompt.model_validate(trained_on).model_copy(update={"max_length": room})
        self.prompts = Prompts(self.backend.tokenizer, settings)
        self.sampling = Sampling(args.max_new_tokens, args.temperature)
        self.seeds = [row_seed(args.seed, k) for k in range(args.samples)] or [GREEDY]

    def answer(self, question: str, executor: Executor) -> dict[str, Any]:
        """The answer as a record: reasoning, SQL, status, columns, rows, error; with samples, how many agree."""
        ids = self.prompts.token_ids(Asked(question, self.args.evidence), self.args.database)
        if ids is None:
            raise InputError(f"{self.args.database}: schema and question do not fit into the model's context")
        [(_, texts)] = self.backend.complete([ids], [self.seeds], self.sampling)
        responses = [parse_response(text) for text in texts]
        queries = [Query(self.args.database, response.sql) for response in responses]
        chosen, record = 0, {"question": question}
        if self.args.samples:
            prints = executor.fingerprints(queries)
            chosen = majority(prints)
            agree = sum(prints[chosen] is not None and p == prints[chosen] for p in prints)
            record |= {"samples": len(prints), "agree": agree}
        [execution] = executor.execute([queries[chosen]])
        record |= {"reasoning": responses[chosen].think.strip(), "sql": responses[chosen].sql}
        return record | _result(execution)


def _result(execution: Execution) -> dict[str, Any]:
    rows = execution.rows
    shown = None if rows is None else [[_plain(value) for value in row] for row in rows[:_SHOWN_ROWS]]
    total = None if rows is None else len(rows)
    named = {"status": execution.status.value, "error": execution.error, "columns": execution.columns}
    return named | {"rows": shown, "total_rows": total}


def _plain(value: Any) -> Any:
    """The value as JSON can hold it."""
    if isinstance(value, bytes):
        return f"x'{value.hex()}'"
    return value if not isinstance(value, float) or math.isfinite(value) else str(value)


def _questions() -> Iterator[str]:
    """Questions from the terminal, with line editing and a history; or the lines of a pipe."""
    if not sys.stdin.isatty():
        yield from filter(None, map(str.strip, sys.stdin))
        return
    import readline

    history = _HISTORY.expanduser()
    if history.exists():
        readline.read_history_file(history)
    print("Ask a question. Ctrl-D ends.", file=sys.stderr)
    try:
        while True:
            if question := input("> ").strip():
                yield question
    except (EOFError, KeyboardInterrupt):
        print(file=sys.stderr)
    finally:
        readline.set_history_length(1000)
        readline.write_history_file(history)


def _as_json(record: dict[str, Any]) -> str:
    return json.dumps(record, ensure_ascii=False)


def _as_text(record: dict[str, Any]) -> str:
    lines = [record["reasoning"], ""] if record["reasoning"] else []
    lines += [record["sql"] or "(the answer has no SQL)", ""]
    if "samples" in record:
        lines.append(f"{record['agree']} of {record['samples']} samples agree")
    if record["rows"] is None:
        reason = record["error"] or record["status"].replace("_", " ")
        lines.append(f"No rows: the SQL did not run ({reason})." if record["sql"] else "No rows.")
    elif not record["rows"]:
        lines.append("No rows: the result is empty.")
    else:
        cells = [[_short(value) for value in row] for row in record["rows"]]
        lines.append(tabulate(cells, record["columns"], disable_numparse=True))
        if record["total_rows"] > len(cells):
            lines.append(f"... {record['total_rows']} rows in all")
    return "\n".join(lines) + "\n"


def _short(value: Any) -> str:
    text = "NULL" if value is None else " ".join(str(value).split())
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 1] + "…"
