"""Whether a query's result is worth learning from, and whether its question says which values it filters on."""

import itertools
import re
from collections import Counter
from collections.abc import Sequence

from sqlglot import exp

from sqlr1.database.sql import exact
from sqlr1.records import Question

_READING = (exp.Column, exp.Star, exp.AggFunc, exp.Window)
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


def own_rows(expression: exp.Expression, rows: Sequence[tuple]) -> list[tuple]:
    """The query's own result, out of the rows that `probe(expression)` returned."""
    width, limit = None if expression.is_star else len(expression.selects), expression.args.get("limit")
    shown = [row[:width] for row in rows]
    return shown[: int(limit.expression.name)] if limit and limit.expression.is_int else shown


def fault(expression: exp.Expression, rows: Sequence[tuple]) -> str | None:
    """Why the rows that `probe(expression)` returned disqualify the query: empty, all_null, constant, ties; or None."""
    shown = own_rows(expression, rows)
    if not shown:
        return "empty"
    if all(value is None for row in shown for value in row):
        return "all_null"
    if _is_constant(expression, shown):
        return "constant"
    return "ties" if has_ties(expression, rows) else None


def _is_constant(expression: exp.Expression, shown: Sequence[tuple]) -> bool:
    """Whether the result says nothing: no output reads a table, or all there is are zeros or one yes or no.

    Or a window function had one row to work on: every rank is 1 and every share is 100 % then.
    """
    outputs = [output.unalias() for output in expression.selects]
    if not expression.find(exp.Table) or not any(output.find(*_READING) for output in outputs):
        return True
    asserts = len(outputs) == 1 and isinstance(outputs[0], (exp.Predicate, exp.Connector, exp.Not))
    return len(shown) == 1 and (asserts or not any(shown[0]) or _has_outer_window(expression))


def _has_outer_window(expression: exp.Expression) -> bool:
    """Whether an output is a window function (a rank, a share, a running total) over just the rows that are shown."""
    if not isinstance(expression, exp.Select) or expression.args.get("limit") or expression.args.get("distinct"):
        return False
    windows = (window for output in expression.selects for window in output.find_all(exp.Window))
    return any(window.parent_select is expression for window in windows)


def has_ties(expression: exp.Expression, rows: Sequence[tuple]) -> bool:
    """Whether different rows that `probe(expression)` returned have equal sort keys."""
    width = len(expression.selects)
    neighbours = itertools.pairwise(rows) if rows and len(rows[0]) > width and not expression.is_star else ()
    return any(a[width:] == b[width:] and a[:width] != b[:width] for a, b in neighbours)


def parts_ties(expression: exp.Expression, rows: Sequence[tuple]) -> bool:
    """Whether the query takes one and leaves another row with equal sort keys, by what `probe(expression)` returned."""
    return has_ties(expression, rows[len(own_rows(expression, rows)) - 1 :])


def limited_blocks(expression: exp.Expression) -> list[exp.Expression]:
    """Copies of the inner queries that sort and take some rows, each with the CTEs that it may refer to."""
    blocks = []
    for block in expression.find_all(exp.Select):
        if block is not expression and block.args.get("limit") and block.args.get("order"):
            blocks.append(block.copy())
            if ctes := expression.args.get("with_"):
                blocks[-1].set("with_", ctes.copy())
    return blocks


def same_result(expression: exp.Expression, first: Sequence[tuple], second: Sequence[tuple]) -> bool:
    """Whether two results of the query are equal: as lists where it sorts and takes some, else whatever their order.

    Floats are compared to nine digits, because sums depend on the order of their terms.
    """
    first, second = ([tuple(map(_rounded, row)) for row in rows] for rows in (first, second))
    if expression.args.get("order") and expression.args.get("limit"):
        return first == second
    return Counter(first) == Counter(second)


def _rounded(value: object) -> object:
    return float(f"{value:.9g}") if isinstance(value, float) else value


def unmentioned_value(question: Question, expression: exp.Expression) -> str | None:
    """A value in a condition (of WHERE, HAVING, CASE, a join) that neither question nor evidence mentions, or None.

    Values compared with an aggregate of a window (a rank) are the SQL's own affair.
    """
    said = f"{question.question} {question.evidence}".lower()
    nodes = list(expression.walk())
    ranks = {node.alias for node in nodes if isinstance(node, exp.Alias) and isinstance(node.this, exp.Window)}
    for literal in nodes:
        if isinstance(literal, exp.Literal) and literal.name and not _mentions(said, literal):
            condition = literal.parent.parent if isinstance(literal.parent, exp.Neg) else literal.parent
            if isinstance(condition, _CONDITIONS) and not any(c.name in ranks for c in condition.find_all(exp.Column)):
                return literal.name
    return None


def _mentions(said: str, literal: exp.Literal) -> bool:
    value = literal.name.lower()
    if literal.is_string:
        parts = value.split("%") if isinstance(literal.parent, exp.Like) else [value]
        return all(_says(said, part) for part in parts if part)
    spellings = {value, str(exact(float(value)))}
    return any(re.search(rf"(?<![\d.]){re.escape(number)}(?:\.0+)?(?!\.?\d)", said) for number in spellings)


def _says(said: str, value: str) -> bool:
    """Whether `value` stands in the text as words of their own; the plural of the last one will do."""
    place = said.find(value)
    while place >= 0:
        before, after = said[:place][-1:], said[place + len(value) :]
        after = after[1:2] if len(value) > 2 and after[:1] == "s" else after[:1]
        if not (before.isalnum() and value[0].isalnum()) and not (after.isalnum() and value[-1].isalnum()):
            return True
        place = said.find(value, place + 1)
    return False
