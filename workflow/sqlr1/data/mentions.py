"""Whether a question names the values that its SQL filters on."""

import re

from sqlglot import exp

from sqlr1.database.sql import exact
from sqlr1.records import Question

_CONDITIONS = (exp.EQ, exp.NEQ, exp.GT, exp.GTE, exp.LT, exp.LTE, exp.Between, exp.In, exp.Like)


def unmentioned_value(question: Question, expression: exp.Expression) -> str | None:
    """The first value in a condition (WHERE, HAVING, CASE, a join) that neither question nor evidence names, or None.

    Values compared with the output of a window function (a rank) need not be named.
    """
    text = f"{question.question} {question.evidence}".lower()
    nodes = list(expression.walk())
    ranks = {node.alias for node in nodes if isinstance(node, exp.Alias) and isinstance(node.this, exp.Window)}
    for literal in nodes:
        if isinstance(literal, exp.Literal) and literal.name and not _is_mentioned(literal, text):
            condition = literal.parent.parent if isinstance(literal.parent, exp.Neg) else literal.parent
            if isinstance(condition, _CONDITIONS) and not any(c.name in ranks for c in condition.find_all(exp.Column)):
                return literal.name
    return None


def _is_mentioned(literal: exp.Literal, text: str) -> bool:
    value = literal.name.lower()
    if literal.is_string:
        parts = value.split("%") if isinstance(literal.parent, exp.Like) else [value]
        return all(_has_words(text, part) for part in parts if part)
    spellings = {value, str(exact(float(value)))}
    return any(re.search(rf"(?<![\d.]){re.escape(number)}(?:\.0+)?(?!\.?\d)", text) for number in spellings)


def _has_words(text: str, value: str) -> bool:
    """Whether `value` occurs in the text as whole words; a plural -s may follow."""
    before = r"(?<![^\W_])" if value[0].isalnum() else ""
    plural = "s?" if len(value) > 2 else ""
    after = plural + r"(?![^\W_])" if value[-1].isalnum() else ""
    return re.search(before + re.escape(value) + after, text) is not None
