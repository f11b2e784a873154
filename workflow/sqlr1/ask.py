"""Ask a database: a trained policy answers questions over one SQLite file.

Prints the reasoning, the SQL and the rows, which the sandbox fetches. Without a question it asks for questions until
the end of the input. After an answer, `:right`, `:wrong` or `:sql SELECT ...` says what it was worth. That is kept in a
file (see `data/feedback.py`) that `synthesize.mix` can train on.
"""

import argparse
import contextlib
import io
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from tabulate import tabulate

from sqlr1.config import Candidates, Grpo, Prompt
from sqlr1.data.feedback import append
from sqlr1.database.files import portable
from sqlr1.database.schema import read_schema
from sqlr1.evaluate.vote import majority
from sqlr1.prompt import parse_response
from sqlr1.records import Feedback, InputError, Question, read_json
from sqlr1.sandbox import Executor, Limits, Query

RESULTS = Path("results")
_SHOWN_ROWS, _SHOWN_CHARACTERS = 20, 60
_HISTORY = Path("~/.sqlr1_history")
_COMMANDS = ":right, :wrong or :sql SELECT ... (the right SQL)"


@dataclass(frozen=True)
class Answering:
    """How a policy answers: greedily, or with `samples` by their vote."""

    samples: int = 0
    temperature: float = Candidates().temperature
    seed: int = 0
    max_new_tokens: int = Candidates().max_new_tokens
    constrained: bool | None = None  # under masks, as `candidates.constrained`; None: as its training drew rollouts


def add_parser(commands: Any) -> None:
    parser = commands.add_parser("ask", help="ask a database", description=__doc__, allow_abbrev=False)
    parser.add_argument("database", type=Path, metavar="DATABASE.sqlite")
    parser.add_argument("question", nargs="?", help="without one: asks for questions")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--model", type=Path, metavar="FOLDER", help="a model (default: the newest trained policy)")
    which.add_argument("--experiment", metavar="NAME", help="the newest policy of this experiment")
    parser.add_argument("--evidence", default="", help="a hint about the database, as in BIRD's questions")
    for name, default, about in (
        ("samples", Answering.samples, "answer by the vote of so many samples; 0: greedily"),
        ("temperature", Answering.temperature, "of the samples"),
        ("seed", Answering.seed, "of the samples"),
        ("max-new-tokens", Answering.max_new_tokens, "length of an answer"),
        ("seconds", Limits().seconds, "wall time a query may take"),
    ):
        parser.add_argument(f"--{name}", type=type(default), default=default, help=f"{about} (default: {default})")
    masks = "name only tables and columns that the database has (default: as in the policy's training)"
    parser.add_argument("--constrained", action=argparse.BooleanOptionalAction, default=None, help=masks)
    parser.add_argument("--json", action="store_true", help="print one JSON object per question")
    said = parser.add_mutually_exclusive_group()
    said.add_argument("--feedback", choices=["right", "wrong"], help="note what the answer to the question was")
    said.add_argument("--correct", metavar="SQL", help="note the right SQL of the question")
    where = "where to note it (default: results/<experiment>/feedback.jsonl; beside a model that is elsewhere)"
    parser.add_argument("--feedback-file", type=Path, metavar="FILE", help=where)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Answer the question, or each line of the input. Raises InputError for a bad database, model or number."""
    for name, least in (("samples", 0), ("max_new_tokens", 1), ("temperature", 0.01), ("seconds", 0.001)):
        if not getattr(args, name) >= least:
            raise InputError(f"--{name.replace('_', '-')} must be at least {least}, not {getattr(args, name)}")
    if args.question is not None and not args.question.strip():
        raise InputError("the question is empty")
    said = [f":{args.feedback}"] if args.feedback else [f":sql {args.correct}"] if args.correct is not None else []
    if said and not args.question:
        raise InputError("--feedback and --correct need a question")
    read_schema(args.database)  # before the model, which takes seconds to load
    answering = Answering(**{field.name: getattr(args, field.name) for field in fields(Answering)})
    policy = Policy(args.model or newest_policy(args.experiment), answering)
    print(f"{policy.folder} on {args.database}", file=sys.stderr)
    show = partial(json.dumps, ensure_ascii=False) if args.json else _as_text
    with Executor(1, Limits(args.seconds)) as executor, contextlib.suppress(KeyboardInterrupt):
        answer = None
        for line in [args.question, *said] if args.question else _lines():
            try:
                if line.startswith(":"):
                    feedback = _feedback(line, answer, policy, args, executor)
                    file = args.feedback_file or feedback_file(policy.folder)
                    append(file, feedback)
                    print(f"noted in {file}", file=sys.stderr)
                else:
                    answer = None  # of this question, should it fail
                    answer = policy.answer(line, args.database, executor, args.evidence)
                    print(show(answer), flush=True)
            except InputError as error:
                if args.question:
                    raise
                print(f"error: {error}", file=sys.stderr)  # the next question may fit


def newest_policy(experiment: str | None = None) -> Path:
    """The model folder of the policy that was trained last: by GRPO, else by the cold start.

    Raises InputError if there is none.
    """
    where = RESULTS / experiment if experiment else RESULTS
    for stage in ("grpo", "cold_start"):
        manifests = [*where.glob(f"{'' if experiment else '*/'}{stage}/**/manifest.json")]
        if manifests:
            return max(manifests, key=lambda path: path.stat().st_mtime).parent / "model"
    raise InputError(f"{where}: no trained policy; run `snakemake --cores all` first, or name a model with --model")


class Policy:
    """A model with the prompt that it was trained on."""

    def __init__(self, folder: Path, how: Answering) -> None:
        from transformers.utils.logging import disable_progress_bar

        from sqlr1.model.answers import SamplerBackend
        from sqlr1.model.base import context_length, native_precision
        from sqlr1.model.prompts import Prompts
        from sqlr1.model.sampler import GREEDY, Sampling, row_seed

        if not (folder / "config.json").is_file():
            raise InputError(f"{folder}: no model (it has no config.json)")
        disable_progress_bar()  # of loading the weights, which takes a moment and would be among the messages
        self.how = how
        room = context_length(folder) - how.max_new_tokens
        manifests = (folder / "manifest.json", folder.parent / "manifest.json")  # `sqlr1 export` puts it inside
        made = next((read_json(path) for path in manifests if path.is_file()), {})
        trained_on = {"prompt": {}, "grpo": {}} | made.get("settings", {})
        as_trained = trained_on["grpo"].get("constrained", Grpo().constrained)
        self.constrained = as_trained if how.constrained is None else how.constrained
        self.folder, self.sha256 = folder, made.get("outputs", {}).get("model/model.safetensors", "")
        self.backend = SamplerBackend(folder, native_precision())
        self.prompts = Prompts(self.backend.tokenizer, Prompt.model_validate(trained_on["prompt"]), room)
        self.sampling = Sampling(how.max_new_tokens, how.temperature)
        self.seeds = [row_seed(how.seed, k) for k in range(how.samples)] or [GREEDY]

    def answer(self, question: str, database: Path, executor: Executor, evidence: str = "") -> dict[str, Any]:
        """The answer as a record: reasoning, SQL, status, columns, rows, error; with samples, how many agree."""
        if any("\ud800" <= letter <= "\udfff" for letter in question + evidence):
            raise InputError("the question or the evidence is not UTF-8 text")
        ids = self.prompts.token_ids(Question("", "", question, "", evidence), database)
        if ids is None:
            raise InputError(f"{database}: schema and question do not fit into the model's context")
        masks = [database] if self.constrained else None
        [(_, texts)] = self.backend.complete([ids], [self.seeds], self.sampling, masks)
        responses = [parse_response(text) for text in texts]
        queries = [Query(database, response.sql) for response in responses]
        chosen, record = 0, {"question": question}
        if self.how.samples:
            prints = executor.fingerprints(queries)
            chosen = majority(prints)
            agree = sum(prints[chosen] is not None and p == prints[chosen] for p in prints)
            record |= {"samples": len(prints), "agree": agree}
        [execution] = executor.execute([queries[chosen]])
        record |= {"reasoning": responses[chosen].think.strip(), "sql": responses[chosen].sql}
        record |= {"status": execution.status.value, "error": execution.error, "columns": execution.columns}
        return record | {"rows": execution.shown(_SHOWN_ROWS), "total_rows": execution.total}


def feedback_file(folder: Path) -> Path:
    """Where feedback on the model in `folder` is kept: beside the experiment that made it, else beside the folder."""
    folder, results = folder.resolve(), RESULTS.resolve()
    if folder.is_relative_to(results) and folder != results:
        return RESULTS / folder.relative_to(results).parts[0] / "feedback.jsonl"
    return folder.parent / "feedback.jsonl"


def _feedback(
    line: str, answer: dict[str, Any] | None, policy: Policy, args: argparse.Namespace, executor: Executor
) -> Feedback:
    """What a command says about the last answer. Raises InputError for failing SQL and an unfit command."""
    command, sql = (*map(str.strip, line.split(maxsplit=1)), "")[:2]
    if line not in (":right", ":wrong") and not (command == ":sql" and sql):
        raise InputError(f"{command}: expected {_COMMANDS}")
    if answer is None:
        raise InputError(f"{command}: there is no answer yet")
    if command == ":right" and answer["rows"] is None:
        raise InputError(":right: the SQL of this answer does not run; give the right one with :sql")
    if sql and (execution := executor.execute([Query(args.database, sql)])[0]).rows is None:
        raise InputError(f"the SQL does not run: {execution.error or execution.status.value.replace('_', ' ')}")
    asked = answer["question"], args.evidence, portable(args.database), args.database.stem
    verdict, now = "corrected" if sql else command[1:], datetime.now(UTC).isoformat(timespec="seconds")
    return Feedback(*asked, answer["sql"], verdict, sql, policy.sha256, now)


def _lines() -> Iterator[str]:
    """Questions and commands from the terminal, with line editing and a history; or the lines of a pipe."""
    if not sys.stdin.isatty():
        if isinstance(sys.stdin, io.TextIOWrapper):
            sys.stdin.reconfigure(errors="surrogateescape")  # a line that is not UTF-8 must not end the others
        yield from filter(None, map(str.strip, sys.stdin))
        return
    import readline

    history = _HISTORY.expanduser()
    try:
        readline.read_history_file(history)
    except FileNotFoundError:
        pass  # the first session
    except OSError as error:
        print(f"warning: {history}: no history ({error.strerror})", file=sys.stderr)
    print(f"Ask a question. After an answer: {_COMMANDS}. Ctrl-D ends.", file=sys.stderr)
    try:
        while True:
            if question := input("> ").strip():
                yield question
    except (EOFError, KeyboardInterrupt):
        print(file=sys.stderr)
    finally:
        readline.set_history_length(1000)
        try:
            readline.write_history_file(history)
        except OSError as error:
            print(f"warning: {history}: the history is not kept ({error.strerror})", file=sys.stderr)


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
