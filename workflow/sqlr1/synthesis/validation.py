"""Whether a query's result is worth learning from, and whether its question says which values it filters on."""

import itertools
import re
from collections.abc import Sequence

from sqlglot import exp

from sqlr1.records import Question
from sqlr1.synthesis.plan import exact

_CONDITIONS = (exp.EQ, exp.NEQ, exp.GT, exp.GTE, exp.LT, exp.LTE, exp.Between, exp.In, exp.Like)


def probe(expression: exp.Expression) -> exp.Expression:
    """The query with its sort keys as further columns and one row more than its limit: shows what ties decide.

    A query without an outer ORDER BY is returned as it is, and so is one whose sort keys cannot be added (set
    operations, DISTINCT, `*`).
    """
    order = expression.args.get("order")
    if not isinstance(expression, exp.Select) or not order or expression.args.get("distinct") or expression.is_star:
        return expression
    probing = expression.copy()
    keys = [ordered.this.copy() for ordered in order.expressions]
    probing.set("expressions", [*probing.expressions, *keys])
    limit = probing.args.get("limit")
    if limit and limit.expression.is_int:
        probing.set("limit", exp.Limit(expression=exp.Literal.number(int(limit.expression.name) + 1)))
    return probing


def fault(expression: exp.Expression, rows: Sequence[tuple]) -> str | None:
    """Why the rows that `probe(expression)` returned disqualify the query: empty, all_null, constant, ties; or None."""
    width, limit = None if expression.is_star else len(expression.selects), expression.args.get("limit")
    shown = [row[:width] for row in rows]
    if limit and limit.expression.is_int:
        shown = shown[: int(limit.expression.name)]
    if not shown:
        return "empty"
    if all(value is None for row in shown for value in row):
        return "all_null"
    if not expression.find(exp.Table) or shown in ([(0,)], [(0.0,)]):
        return "constant"
    neighbours = itertools.pairwise(rows) if width and rows and len(rows[0]) > width else ()
    if any(a[width:] == b[width:] and a[:width] != b[:width] for a, b in neighbours):
        return "ties"
    return None


def unmentioned_value(question: Question, expression: exp.Expression) -> str | None:
    """A value the SQL filters on that neither question nor evidence mentions, or None.

    Values compared with an aggregate of a window (a rank) are the SQL's own affair.
    """
    said = f"{question.question} {question.evidence}".lower()
    ranks = {alias.alias for alias in expression.find_all(exp.Alias) if isinstance(alias.this, exp.Window)}
    for clause in expression.find_all(exp.Where, exp.Having):
        for literal in clause.find_all(exp.Literal):
            condition = literal.find_ancestor(*_CONDITIONS)
            inside = isinstance(literal.parent, (*_CONDITIONS, exp.Neg)) and condition
            ranked = inside and any(column.name in ranks for column in condition.find_all(exp.Column))
            if inside and not ranked and literal.name and not _mentions(said, literal):
                return literal.name
    return None


def _mentions(said: str, literal: exp.Literal) -> bool:
    value = literal.name.lower().strip("%")
    if literal.is_string:
        return value in said
    spellings = {value, str(exact(float(value)))}
    return any(re.search(rf"(?<![\d.]){re.escape(number)}(?!\d)", said) for number in spellings)
