"""Existing questions with gold SQL, made ready to train on: SQL in this package's style, a reasoning trace, a class.

A row that brings its own reasoning keeps its own SQL: SynSQL's reasoning quotes it, and the answer should not be the
same SQL in another style.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from sqlglot import exp
from tqdm.auto import tqdm

from sqlr1.config import Mix
from sqlr1.data.processes import WORTH_A_PROCESS, executor_processes
from sqlr1.data.readers import draw, locate, read_questions
from sqlr1.data.reasoning import trace
from sqlr1.database import Schema, read_schema
from sqlr1.database.files import database_files, resolve
from sqlr1.database.sql import parse, sql_class, to_sql
from sqlr1.records import Question
from sqlr1.sandbox import Executor, Limits, Pair, Query, Verdict

_AT_ONCE = 200  # rows per task: the results of their golds are in memory


@dataclass
class MixedQuestions:
    """`ready` to train on; `failed`: the gold SQL does not run; `databases`: (name, file) of both.

    `wrong` has questions to which a user marked an answer wrong and that have no gold yet (layout feedback).
    `missing` counts skipped rows by the database that was not found, `unusable` by what is wrong with the row.
    """

    ready: list[Question] = field(default_factory=list)
    failed: list[Question] = field(default_factory=list)
    wrong: list[Question] = field(default_factory=list)
    databases: list[tuple[str, Path]] = field(default_factory=list)
    missing: Counter[str] = field(default_factory=Counter)
    unusable: Counter[str] = field(default_factory=Counter)


def read_mix(
    entries: Sequence[Mix], length: str, seed: int, data_root: Path, limits: Limits, workers: int
) -> MixedQuestions:
    """Read and prepare the questions of every entry; `length` is that of the reasoning traces.

    Raises InputError as `read_questions` and `locate` do, except for faults that an entry says to skip.
    """
    mixed = MixedQuestions()
    for number, entry in enumerate(entries):
        paths = database_files(resolve(entry.databases, data_root))
        skip = entry.missing == "skip"
        rows = read_questions(entry.layout, resolve(entry.questions, data_root), mixed.unusable if skip else None)
        rows = locate(rows, paths, mixed.missing if skip else None)
        wanted = entry.classes or entry.limit
        questions = draw(rows, wanted, seed) if wanted else list(rows)
        before = {q.id for q in (*mixed.ready, *mixed.failed, *mixed.wrong)}
        if {q.id for q in questions} & before:  # two files with the same name
            questions = [replace(q, id=f"{q.id}-mix{number}") for q in questions]
        mixed.wrong += [q for q in questions if q.wrong_sql and not q.sql]
        ready, failed = prepare([q for q in questions if q.sql or not q.wrong_sql], paths, length, limits, workers)
        mixed.ready += ready
        mixed.failed += failed
        mixed.databases += [(db_id, paths[db_id]) for db_id in sorted({q.db_id for q in questions})]
    return mixed


def prepare(
    questions: Sequence[Question], paths: Mapping[str, Path], length: str, limits: Limits, workers: int
) -> tuple[list[Question], list[Question]]:
    """(rows ready for training, rows whose gold SQL fails), in their order. `paths` has the database of each row.

    A row without reasoning gets a trace of `length`, and its SQL is rewritten in this package's style if that returns
    the same result. The work is spread over `workers` processes.
    """
    groups: dict[str, list[int]] = {}
    for number, question in enumerate(questions):
        groups.setdefault(question.db_id, []).append(number)
    batches = [group[i : i + _AT_ONCE] for group in groups.values() for i in range(0, len(group), _AT_ONCE)]
    tasks = (([questions[n] for n in numbers], paths[questions[numbers[0]].db_id]) for numbers in batches)
    changes: dict[int, dict[str, str] | None] = {}
    make = partial(partial, _changes, length)
    with executor_processes(make, limits, 1 if len(questions) < WORTH_A_PROCESS else workers) as run:
        found = tqdm(run(tasks), total=len(batches), desc="mix", unit="batch", disable=None)
        for numbers, of_batch in zip(batches, found, strict=True):
            changes.update(zip(numbers, of_batch, strict=True))
    ready = [replace(q, **changes[n]) for n, q in enumerate(questions) if changes[n] is not None]
    return ready, [q for n, q in enumerate(questions) if changes[n] is None]


def _changes(length: str, executor: Executor, task: tuple[Sequence[Question], Path]) -> list[dict[str, str] | None]:
    """The fields that change of each row over one database; None if its gold SQL fails."""
    rows, path = task
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
