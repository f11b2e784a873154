"""Existing questions with gold SQL, made ready to train on: SQL in this package's style, a reasoning trace, a class."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from sqlglot import exp

from sqlr1.config import Mix
from sqlr1.data.readers import draw, locate, read_questions
from sqlr1.data.reasoning import trace
from sqlr1.database import Schema, read_schema
from sqlr1.database.files import database_files, resolve
from sqlr1.database.sql import parse, sql_class, to_sql
from sqlr1.records import Question
from sqlr1.sandbox import Executor, Pair, Verdict

_AT_ONCE = 20_000  # rows per batch: the results of all golds in a batch are in memory


@dataclass
class MixedQuestions:
    """`ready` to train on; `failed`: the gold SQL does not run; `databases`: (name, file) of both.

    `missing` counts skipped rows by the database that was not found, `unusable` by what is wrong with the row.
    """

    ready: list[Question] = field(default_factory=list)
    failed: list[Question] = field(default_factory=list)
    databases: list[tuple[str, Path]] = field(default_factory=list)
    missing: Counter[str] = field(default_factory=Counter)
    unusable: Counter[str] = field(default_factory=Counter)


def read_mix(entries: Sequence[Mix], length: str, seed: int, data_root: Path, executor: Executor) -> MixedQuestions:
    """Read and prepare the questions of every entry; `length` is that of the reasoning traces.

    Raises InputError as `read_questions` and `locate` do, except for faults that an entry says to skip.
    """
    mixed = MixedQuestions()
    for number, entry in enumerate(entries):
        paths = database_files(resolve(entry.databases, data_root))
        skip = entry.missing == "skip"
        rows = read_questions(entry.layout, resolve(entry.questions, data_root), mixed.unusable if skip else None)
        rows = locate(rows, paths, mixed.missing if skip else None)
        limits = entry.classes or entry.limit
        questions = draw(rows, limits, seed) if limits else list(rows)
        if {q.id for q in questions} & {q.id for q in (*mixed.ready, *mixed.failed)}:  # two files with the same name
            questions = [replace(q, id=f"{q.id}-mix{number}") for q in questions]
        ready, failed = prepare(questions, paths, length, executor)
        mixed.ready += ready
        mixed.failed += failed
        mixed.databases += [(db_id, paths[db_id]) for db_id in sorted({q.db_id for q in questions})]
    return mixed


def prepare(
    questions: Sequence[Question], paths: Mapping[str, Path], length: str, executor: Executor
) -> tuple[list[Question], list[Question]]:
    """(rows ready for training, rows whose gold SQL fails). `paths` has the database of each row.

    The SQL is rewritten in this package's style if that returns the same result. A row without reasoning gets a trace
    of `length`.
    """
    ready: list[Question] = []
    failed: list[Question] = []
    for start in range(0, len(questions), _AT_ONCE):
        batch = questions[start : start + _AT_ONCE]
        schemas = {db_id: read_schema(paths[db_id]) for db_id in dict.fromkeys(q.db_id for q in batch)}
        styled = [_styled(question.sql, schemas[question.db_id]) for question in batch]
        pairs = [Pair(paths[q.db_id], q.sql, s) for q, s in zip(batch, styled, strict=True)]
        judgements = executor.judge(pairs, "spider", progress="mix")
        for question, sql, judgement in zip(batch, styled, judgements, strict=True):
            if judgement.verdict in (Verdict.GOLD_FAILED, Verdict.GOLD_TIMED_OUT):
                failed.append(question)
            else:
                ready.append(_explained(question, sql if judgement.verdict == Verdict.MATCH else question.sql, length))
    return ready, failed


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


def _explained(question: Question, sql: str, length: str) -> Question:
    expression, _ = parse(sql)
    if expression is None:
        return replace(question, sql=sql)
    return replace(
        question,
        sql=sql,
        reasoning=question.reasoning or trace(expression, length),
        sql_class=question.sql_class or sql_class(expression),
        style=question.style or "human",
    )
