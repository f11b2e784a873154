"""Existing questions with gold SQL, made ready to train on: SQL in this package's style, a reasoning trace, a class.

A row that brings its own reasoning keeps its own SQL: SynSQL's reasoning quotes it, and the answer should not be the
same SQL in another style.
"""

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from sqlglot import exp
from tqdm.auto import tqdm

from sqlr1.config import Mix
from sqlr1.data.processes import WORTH_A_PROCESS, by_database, executor_processes
from sqlr1.data.readers import draw, locate, read_questions
from sqlr1.data.reasoning import trace
from sqlr1.database.files import database_files, resolve
from sqlr1.database.schema import Schema, read_schema
from sqlr1.database.sql import parse, sql_class, to_sql
from sqlr1.records import Picked, Question, json_line
from sqlr1.sandbox import Executor, Limits, Pair, Query, Verdict

_AT_ONCE = 200  # rows per task: the results of their golds are in memory


@dataclass
class MixedQuestions:
    """`ready` to train on; `failed`: the gold SQL does not run; one sequence per entry, which stays on disk.

    `databases` are the (name, file) of both. `wrong` has questions to which a user marked an answer wrong and that have
    no gold yet (layout feedback). `missing` counts skipped rows by the database that was not found, `unusable` by what
    is wrong with the row.
    """

    ready: list[Picked[Question]] = field(default_factory=list)
    failed: list[Picked[Question]] = field(default_factory=list)
    wrong: list[Question] = field(default_factory=list)
    databases: list[tuple[str, Path]] = field(default_factory=list)
    missing: Counter[str] = field(default_factory=Counter)
    unusable: Counter[str] = field(default_factory=Counter)


def read_mix(
    entries: Sequence[Mix], length: str, seed: int, limits: Limits, workers: int, scratch: Path
) -> MixedQuestions:
    """Read and prepare the questions of every entry; `length` is that of the reasoning traces.

    The rows are in files in the folder `scratch`, few of them in memory. Raises InputError as `read_questions` and
    `locate` do, except for faults that an entry says to skip.
    """
    mixed = MixedQuestions()
    stems: set[str] = set()
    for number, entry in enumerate(entries):
        paths = database_files(resolve(entry.databases))
        file = resolve(entry.questions)
        skip = entry.missing == "skip"
        rows = read_questions(entry.layout, file, mixed.unusable if skip else None)
        rows = locate(rows, paths, mixed.missing if skip else None)
        if file.stem in stems:  # ids are by the name of the file
            rows = (replace(row, id=f"{row.id}-mix{number}") for row in rows)
        stems.add(file.stem)
        without_gold = len(mixed.wrong)
        rows = _with_gold(rows, mixed.wrong)
        questions = draw(rows, entry.classes or entry.limit, seed, scratch / f"drawn-{number}.jsonl")
        groups = by_database(questions)
        tasks = [(numbers, paths[db_id]) for db_id, numbers in groups.items()]
        ready, failed = prepare(questions, tasks, length, limits, workers, scratch / f"prepared-{number}.jsonl")
        mixed.ready.append(ready)
        mixed.failed.append(failed)
        db_ids = {*groups, *(q.db_id for q in mixed.wrong[without_gold:])}
        mixed.databases += [(db_id, paths[db_id]) for db_id in sorted(db_ids)]
    return mixed


def _with_gold(rows: Iterable[Question], wrong: list[Question]) -> Iterator[Question]:
    """Yield the rows that have a gold; the others are appended to `wrong`."""
    for row in rows:
        if row.wrong_sql and not row.sql:
            wrong.append(row)
        else:
            yield row


def prepare(
    questions: Sequence[Question],
    tasks: Sequence[tuple[Sequence[int], Path]],
    length: str,
    limits: Limits,
    workers: int,
    scratch: Path,
) -> tuple[Picked[Question], Picked[Question]]:
    """(rows ready for training, rows whose gold SQL fails), in their order. `tasks`: rows' numbers and their database.

    A row without reasoning gets a trace of `length`, and its SQL is rewritten in this package's style if that returns
    the same result. The work is spread over `workers` processes, which read the rows themselves; the file `scratch`
    gets the rows.
    """
    batches = [(group[i : i + _AT_ONCE], path) for group, path in tasks for i in range(0, len(group), _AT_ONCE)]
    offsets, runs = array("Q", bytes(8 * len(questions))), bytearray(len(questions))
    make = partial(partial, _changes, length, questions)
    with (
        executor_processes(make, limits, 1 if len(questions) < WORTH_A_PROCESS else workers) as run,
        open(scratch, "wb") as file,
    ):
        found = tqdm(run(batches), total=len(batches), desc="mix", unit="batch", disable=None)
        for (numbers, _), of_batch in zip(batches, found, strict=True):
            for number, changes in zip(numbers, of_batch, strict=True):
                offsets[number], runs[number] = file.tell(), changes is not None
                file.write(json_line(vars(questions[number]) | (changes or {})).encode())
    ready, failed = (
        Picked(scratch, Question, (o for o, r in zip(offsets, runs, strict=True) if r == ok)) for ok in (True, False)
    )
    return ready, failed


def _changes(
    length: str, questions: Sequence[Question], executor: Executor, task: tuple[Sequence[int], Path]
) -> list[dict[str, str] | None]:
    """The fields that change of each row over one database; None if its gold SQL fails. `task` has their numbers."""
    numbers, path = task
    rows = [questions[number] for number in numbers]
    own = [row for row in rows if row.reasoning]
    digests = executor.fingerprints([Query(path, row.sql) for row in own])
    changes = {
        row.id: None if digest is None else _explained(row, row.sql, length)
        for row, digest in zip(own, digests, strict=True)
    }
    if others := [row for row in rows if not row.reasoning]:
        schema = read_schema(path)
        styled = [_styled(row.sql, schema) for row in others]
        pairs = [Pair(path, row.sql, sql) for row, sql in zip(others, styled, strict=True)]
        judgements = executor.judge(pairs, "spider")
        for row, sql, judgement in zip(others, styled, judgements, strict=True):
            failed = judgement.verdict in (Verdict.GOLD_FAILED, Verdict.GOLD_TIMED_OUT)
            sql = sql if judgement.verdict == Verdict.MATCH else row.sql
            changes[row.id] = None if failed else _explained(row, sql, length)
    return [changes[row.id] for row in rows]


def _styled(sql: str, schema: Schema) -> str:
    """The SQL as this package writes it, or as it is if sqlglot cannot parse it."""
    expression, _ = parse(sql)
    if expression is None:
        return sql
    known = {c.name.lower() for t in schema.tables for c in t.columns}
    known |= {alias.alias.lower() for alias in expression.find_all(exp.Alias, exp.TableAlias)}

    def with_text_literal(node: exp.Expression) -> exp.Expression:
        """`= "France"` with double quotes means text in SQLite if there is no such column; other dialects reject it."""
        is_quoted = isinstance(node, exp.Column) and not node.table and node.this.args.get("quoted")
        return exp.Literal.string(node.name) if is_quoted and node.name.lower() not in known else node

    return to_sql(expression.transform(with_text_literal))


def _explained(question: Question, sql: str, length: str) -> dict[str, str]:
    """The fields that change if `sql` is the question's SQL. What it brings itself stays."""
    if question.reasoning and question.sql_class:
        return {"sql": sql, "style": question.style or "human"}
    expression, _ = parse(sql)
    if expression is None:
        return {"sql": sql}
    return {
        "sql": sql,
        "reasoning": question.reasoning or trace(expression, length),
        "sql_class": question.sql_class or sql_class(expression),
        "style": question.style or "human",
    }
