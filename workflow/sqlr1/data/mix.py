"""Questions that people wrote, made to serve beside synthetic ones: SQL in one style, a reasoning trace, a class."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import sqlglot
from sqlglot import exp

from sqlr1.data.reasoning import trace
from sqlr1.database import Schema, read_schema
from sqlr1.database.sql import to_sql
from sqlr1.database.sql_features import sql_class
from sqlr1.records import Question
from sqlr1.sandbox import Executor, Pair, Verdict

# All results of a batch's golds are held while it is judged.
_AT_ONCE = 20_000


def prepare(
    questions: Sequence[Question], paths: Mapping[str, Path], length: str, executor: Executor
) -> tuple[list[Question], list[Question]]:
    """(rows ready for training, rows whose gold SQL fails).

    The SQL is rewritten in this package's own style where that returns the same rows there, and gets a reasoning of
    `length` unless the row brings one. `paths` has the database of each row.
    """
    ready: list[Question] = []
    failed: list[Question] = []
    for start in range(0, len(questions), _AT_ONCE):
        batch = questions[start : start + _AT_ONCE]
        schemas = {db_id: read_schema(paths[db_id]) for db_id in dict.fromkeys(q.db_id for q in batch)}
        styled = [_styled(question.sql, schemas[question.db_id]) for question in batch]
        pairs = [Pair(paths[q.db_id], q.sql, s or q.sql) for q, s in zip(batch, styled, strict=True)]
        judgements = executor.judge(pairs, "spider", progress="mix")
        for question, sql, judgement in zip(batch, styled, judgements, strict=True):
            if judgement.verdict in (Verdict.GOLD_FAILED, Verdict.GOLD_TIMED_OUT):
                failed.append(question)
            else:
                kept = sql if judgement.verdict == Verdict.MATCH and sql else question.sql
                ready.append(_explained(question, kept, length))
    return ready, failed


def _styled(sql: str, schema: Schema) -> str | None:
    """The SQL as this package writes it, or None when sqlglot cannot parse it."""
    try:
        expression = sqlglot.parse_one(sql, read="sqlite")
    except sqlglot.errors.SqlglotError:
        return None
    known = {c.name.lower() for t in schema.tables for c in t.columns}
    known |= {alias.alias.lower() for alias in expression.find_all(exp.Alias, exp.TableAlias)}
    return to_sql(expression.transform(_text_literals, known))


def _text_literals(node: exp.Expression, known: set[str]) -> exp.Expression:
    """`= "France"` is text, not a column: SQLite falls back to that, and other dialects do not."""
    if (
        isinstance(node, exp.Column)
        and not node.table
        and node.this.args.get("quoted")
        and node.name.lower() not in known
    ):
        return exp.Literal.string(node.name)
    return node


def _explained(question: Question, sql: str, length: str) -> Question:
    try:
        expression = sqlglot.parse_one(sql, read="sqlite")
    except sqlglot.errors.SqlglotError:
        return replace(question, sql=sql)
    return replace(
        question,
        sql=sql,
        reasoning=question.reasoning or trace(expression, length),
        sql_class=question.sql_class or sql_class(expression),
        style=question.style or "human",
    )
