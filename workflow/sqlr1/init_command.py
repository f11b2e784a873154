"""An experiment over data of your own: a SQLite file, a folder of databases, or CSV and Parquet files.

Writes workflow/config/NAME.yaml, for CSV and Parquet data/NAME/NAME.sqlite, for --test-questions data/NAME/test.json.
Your own files are only read.
"""

import argparse
import contextlib
import json
import math
import re
import string
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from sqlr1.config_files import read_config
from sqlr1.data.readers import READERS, locate, read_questions
from sqlr1.data.table_files import load_tables
from sqlr1.database.files import SQLITE_MAGIC, SUFFIXES, database_files, sqlite_files, start_of
from sqlr1.database.schema import Schema, read_schema, row_counts
from sqlr1.database.sql import parse, sql_class
from sqlr1.database.text import schema_text
from sqlr1.prompt import INSTRUCTION
from sqlr1.records import SQL_CLASSES, InputError, Question, atomic_write, write_json
from sqlr1.sandbox import instances

_DEFAULTS, _CONFIGS, _MADE = Path("config.yaml"), Path("workflow/config"), Path("data")
# Tokens of a long generated question; of a Simple answer without its column names; of an answer without its SQL.
_QUESTION, _ANSWER, _AROUND = 100, 36, 32
_LETTERS = frozenset(string.ascii_lowercase)
_LONGEST = 6016  # tokens of a prompt: SmolLM2 reads 8,192, answers included
# Times that for the longest generated answers of a class. SmolLM2 writes at most 68, 129, 145 and 203 tokens over four
# domains (football_league, weather_service, bank, zoo; 200 questions of a class over each); 1.0 would give 59.
_LONGER = {"Simple": 1.2, "Moderate": 2.4, "Complex": 2.8, "Highly Complex": 3.6}
_TEMPLATE = """\
# Trains and scores on {path}. Written by `sqlr1 init`.
# What is not here is as in config.yaml; docs/configuration.md describes every key.
experiment: "{name}"
synthesize:
  # No built-in domains, only these databases, with questions that are generated over them.
  domains: []
  questions: 0
  held_out_domains: []
  benchmark_questions: 0
  benchmark_instances: 0
  folders:
    - databases: {databases}
  # Before filtering, which drops repeated SQL. More questions cost minutes, and give more rows on large schemas.
  folder_questions: 1500
{generated}{mix}filter:
  # The benchmark. None of its SQL, up to literals and aliases, is trained on or validated on.
  test_rows: 100
{classes}prompt:
  # {room}.
  # A guess: other tokenizers count differently.
  max_length: {prompt}
{linking}# Tokens of an answer.
select:
  max_new_tokens: {answer}
grpo:
  max_completion_length: {answer}
candidates:
  max_new_tokens: {answer}
benchmarks:
  built_in: null
  spider_dev: null
  bird_dev: null
  own:
    layout: spider
    questions: "{{results}}/filter/test.json"
    databases: {databases}
{test}"""
_TEST = """\
  # Your own test questions. The filter drops every row with one of their SQL, up to literals and aliases, or questions.
  own_questions:
    layout: spider
    questions: {questions}
    databases: {databases}
    same_databases: true
"""


def add_parser(commands: Any) -> None:
    parser = commands.add_parser("init", help="an experiment over your data", description=__doc__, allow_abbrev=False)
    parser.add_argument("path", type=Path, metavar="PATH", help="SQLite, CSV or Parquet file, or a folder of them")
    parser.add_argument("--name", help="of the experiment (default: that of PATH)")
    asked = "CSV, JSONL, JSON or Parquet with question, sql (or query) and db_id"
    parser.add_argument("--questions", type=Path, metavar="FILE", help=asked)
    tested = "the same, for a benchmark: nothing like them is trained on"
    parser.add_argument("--test-questions", type=Path, metavar="FILE", help=tested)
    parser.add_argument("--force", action="store_true", help="overwrite what is there under this name")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Write the experiment and show what was found. Raises InputError for bad input; then nothing is written."""
    if not (_CONFIGS.is_dir() and _DEFAULTS.is_file()):
        raise InputError(f"{_CONFIGS}: no such folder; run `sqlr1 init` in the folder of the Snakefile")
    tables = _table_files(args.path)
    name = args.name or re.sub(r"[^A-Za-z0-9_-]+", "_", args.path.resolve().stem).strip("_-")
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", name):
        raise InputError(f"--name {name!r}: needs letters, digits, `_`, `-` or `.`, a letter or digit first")
    config, made, test = _CONFIGS / f"{name}.yaml", _MADE / name / f"{name}.sqlite", _MADE / name / "test.json"
    if tables and tables[0].resolve().parent == made.resolve().parent:
        raise InputError(f"{made} would be written among your own files; choose another --name")
    written = [config] + [made] * bool(tables) + [test] * bool(args.test_questions)
    for path in written:
        if path.exists() and not args.force:
            raise InputError(f"{path} is there already; choose another --name, or overwrite it with --force")
    try:
        with _made_folder(made.parent), contextlib.ExitStack() as files:
            databases = {} if tables else _databases(args.path)
            if tables:
                databases[name] = Path(files.enter_context(atomic_write(made, "wb")).name)
                load_tables(tables, databases[name])
            overview = _write(args, name, config, made if tables else args.path, databases, test)
    except OSError as error:
        raise InputError(f"{error.filename or args.path}: {error.strerror or error}") from error
    print(f"{overview}\n\nWrote {', '.join(map(str, written))}. Next:\n  snakemake --configfile {config}")


@contextlib.contextmanager
def _made_folder(folder: Path) -> Iterator[None]:
    """After a failure in the block, `folder` and the one that it is in are not left behind if the block made them."""
    made = [path for path in (folder, folder.parent) if not path.exists()]
    try:
        yield
    except BaseException:
        for path in made:
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()
        raise


def _table_files(path: Path) -> list[Path]:
    """The CSV and Parquet files at `path`, none if it has databases. Raises InputError if it has both, or neither."""
    if set("{}") & set(str(path)):
        raise InputError(f"{path}: rename it; braces have a meaning in paths of the configuration")
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    tables = [p for p in (sorted(path.iterdir()) if path.is_dir() else [path]) if p.suffix.lower() in READERS]
    databases = [p for p in sqlite_files(path) if p.suffix.lower() in SUFFIXES or start_of(p) == SQLITE_MAGIC]
    if tables and databases:
        raise InputError(f"{path}: has databases ({databases[0].name}) and tables ({tables[0].name}); name one kind")
    if not tables and not databases:
        raise InputError(
            f"{path}: neither a SQLite file ({', '.join(SUFFIXES)}) nor {' or '.join(READERS)}, nor a folder of these; "
            "save a spreadsheet as CSV, and load a dump into a SQLite file"
        )
    return tables


def _databases(path: Path) -> dict[str, Path]:
    """The SQLite files at `path`. Raises InputError for one that would be taken for a copy."""
    databases = database_files(path)
    beside = (file for database in databases.values() for file in instances(database)[1:])
    for file in [*sqlite_files(path), *beside]:
        if file not in databases.values():
            folder = file.resolve().parent
            copies = f"in a folder {folder.name} with {folder.name}.sqlite, other databases are copies of that one with"
            raise InputError(f"{file}: {copies} other values; move it to another folder, or rename the folder")
    return databases


def _write(
    args: argparse.Namespace, name: str, config: Path, place: Path, databases: Mapping[str, Path], test: Path
) -> str:
    """Write the config file over `databases`, which are at `place` or will be, and the questions for `test`.

    Returns what to say about them.
    """
    if set("{}") & set(str(args.questions or "")):
        raise InputError(f"{args.questions}: rename it; braces have a meaning in paths of the configuration")
    schemas = {db_id: read_schema(path) for db_id, path in databases.items()}
    rows = {db_id: row_counts(schema) for db_id, schema in schemas.items()}
    if not sum(map(sum, rows.values())):
        raise InputError(f"{args.path}: no rows to ask about")
    asked, tested = (_questions(path, databases) for path in (args.questions, args.test_questions))
    text, note = _config_text(name, place, args.questions, schemas, asked, tested)
    with atomic_write(config) as file:
        file.write(text)
        file.flush()
        read_config([_DEFAULTS, Path(file.name)])  # before it gets its name
        if tested:
            keys = ("db_id", "question", "evidence")
            write_json(test, [{key: getattr(q, key) for key in keys} | {"query": q.sql} for q in tested])
    files = {args.questions: asked, args.test_questions: tested}
    found = [f"\n\n{path}: {len(read)} questions with SQL" for path, read in files.items() if read]
    return _overview(schemas, rows) + "".join(found) + note


def _questions(path: Path | None, databases: Mapping[str, Path]) -> list[Question]:
    """The questions of a file, if one is given. Raises InputError if it has none."""
    found = list(locate(read_questions("pairs", path), databases, None)) if path else []
    if path and not found:
        raise InputError(f"{path}: no questions")
    return found


def _overview(schemas: Mapping[str, Schema], rows: Mapping[str, Sequence[int]]) -> str:
    """The tables of one database, or one line for each of several."""
    if len(schemas) > 1:
        lines = [[db_id, len(s.tables), sum(rows[db_id]), len(s.foreign_keys)] for db_id, s in schemas.items()]
        return tabulate(lines, ["database", "tables", "rows", "foreign keys"])
    [(db_id, schema)] = schemas.items()
    lines = []
    for table, count in zip(schema.tables, rows[db_id], strict=True):
        columns = ", ".join(f"{c.name} {c.type}".strip() for c in table.columns)
        links = [f"{k.column} -> {k.parent}.{k.parent_column}" for k in schema.foreign_keys if k.table == table.name]
        lines.append([table.name, count, columns, ", ".join(table.primary_key), ", ".join(links)])
    return tabulate(lines, ["table", "rows", "columns", "key", "refers to"], maxcolwidths=[None, None, 50, None, 40])


def _config_text(
    name: str,
    place: Path,
    questions: Path | None,
    schemas: Mapping[str, Schema],
    asked: Sequence[Question],
    tested: Sequence[Question],
) -> tuple[str, str]:
    """The config file, and what to say about it. Prompts and answers have room for the largest schema and the longest
    of the questions."""
    databases = _quoted(place)
    generated, mix, classes, found = "", "", "", {"Simple"}
    test = _TEST.format(questions=_quoted(_MADE / name / "test.json"), databases=databases) if tested else ""
    if questions:
        mix = f"  # Your own questions.\n  mix:\n    - {{layout: pairs, questions: {_quoted(questions)}, "
        mix += f"databases: {databases}}}\n"
    given = [*asked, *tested]
    if given:
        found |= {sql_class(expression) for q in given if (expression := parse(q.sql)[0])}
        weights = ", ".join(f"{c}: {float(c in found)}" for c in SQL_CLASSES)
        generated = f"  # The classes of your questions, here and below.\n  classes: {{{weights}}}\n"
        classes = f"  rl_classes: [{', '.join(c for c in SQL_CLASSES if c in found)}]\n  classes: {{{weights}}}\n"
    texts = [schema_text(schema, "compact", 0) for schema in schemas.values()]
    longest = max([_QUESTION, *(_tokens(q.question) + _tokens(q.evidence) for q in given)])
    prompt = _rounded(_tokens(INSTRUCTION) + 1.25 * max(map(_tokens, texts)) + longest, 64)
    column = max(_tokens(c.name) for schema in schemas.values() for table in schema.tables for c in table.columns)
    generated_answer = max(_LONGER[name] for name in found) * (_ANSWER + 5 * column)
    answer = _rounded(max([generated_answer, *(_AROUND + _tokens(q.sql) for q in given)]), 8)
    room, linking = "Enough for the largest schema", ""
    if prompt > _LONGEST:
        room = f"The largest schema takes some {prompt} tokens: prompts leave out what is least relevant to a question"
        prompt, linking = _LONGEST, "  linking: fit\n"
    text = _TEMPLATE.format(
        path=place, name=name, databases=databases, generated=generated, mix=mix, classes=classes, room=room,
        linking=linking, prompt=max(384, prompt), answer=max(56, answer), test=test,
    )  # fmt: skip
    return text, f"\n\n{room} (prompt.linking)." if linking else ""


def _quoted(path: Path) -> str:
    """A path for YAML: relative inside this folder, else absolute."""
    path, here = path.resolve(), Path.cwd()
    return json.dumps(str(path.relative_to(here) if path.is_relative_to(here) else path), ensure_ascii=False)


def _tokens(text: str) -> float:
    """How many tokens a text has at most, about: a letter of English a third, a digit one, else two for three bytes.

    Measured with SmolLM2: upper-case abbreviations have 1.6 characters per token, Cyrillic 1.2, Chinese and Thai 0.7.
    """
    return sum(1 / 3 if c in _LETTERS else 1 if c.isdigit() else len(c.encode()) * 2 / 3 for c in text)


def _rounded(tokens: float, step: int) -> int:
    return step * math.ceil(tokens / step)
