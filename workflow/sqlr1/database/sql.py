"""SQL text to syntax trees and back, in one style, and the normal form by which queries are compared."""

import re
from collections import Counter

import sqlglot
from sqlglot import exp
from sqlglot.dialects.sqlite import SQLite
from sqlglot.errors import SqlglotError

_LITERAL = re.compile(r'("(?:[^"]|"")*")|\'(?:[^\']|\'\')*\'|(?<!\w)\d+(?:\.\d+)?(?:e[+-]?\d+)?')


def exact(number: float) -> float:
    """The number as both SQL and questions write it: 3.0 as 3, any other with all of its digits."""
    return int(number) if isinstance(number, float) and number.is_integer() and abs(number) < 1e15 else number


class _Generator(SQLite.Generator):
    """Writes `x NOT IN (...)`, `x IS NOT NULL` and `x != y`, where sqlglot writes `NOT x IN (...)` and `x <> y`."""

    def neq_sql(self, expression: exp.NEQ) -> str:
        return self.binary(expression, "!=")

    def not_sql(self, expression: exp.Not) -> str:
        inner = expression.this
        if isinstance(inner, exp.In):
            return self.sql(inner).replace(" IN (", " NOT IN (", 1)
        if isinstance(inner, exp.Is):
            return f"{self.sql(inner.this)} IS NOT {self.sql(inner.expression)}"
        return super().not_sql(expression)


def to_sql(expression: exp.Expression) -> str:
    """SQLite text on one line."""
    return _Generator(dialect="sqlite", comments=False, normalize_functions=False).generate(expression, copy=False)


def parse(sql: str) -> tuple[exp.Expression | None, str]:
    """(expression, "") for one SELECT or WITH statement; otherwise (None, reason): not_parsed or not_select."""
    try:
        statements = [s for s in sqlglot.parse(sql, read="sqlite") if s is not None]
    except (SqlglotError, RecursionError):
        return None, "not_parsed"
    if len(statements) != 1 or not isinstance(statements[0], exp.Query):
        return None, "not_select"
    return statements[0], ""


def normal_form(expression: exp.Expression) -> str:
    """The SQL in lower case, with table names for table aliases and `_` for other aliases. Changes `expression`.

    The second occurrence of a table is named `table#2`.
    """
    names: dict[str, str] = {}
    seen: Counter[str] = Counter()
    nodes = list(expression.walk())
    for table in nodes:
        if isinstance(table, exp.Table):
            name = table.name.lower()
            seen[name] += 1
            names.setdefault(table.alias_or_name.lower(), name if seen[name] == 1 else f"{name}#{seen[name]}")
    for node in nodes:
        if isinstance(node, exp.Column) and node.table:
            name = None if len(names) == 1 else names.get(node.table.lower(), node.table)
            node.set("table", exp.to_identifier(name))
        elif isinstance(node, exp.Table) and node.alias:
            node.set("alias", None)
        elif isinstance(node, exp.Alias):
            node.set("alias", exp.to_identifier("_"))
    return to_sql(expression).lower()


def without_literals(form: str) -> str:
    """A normal form with `?` for each literal.

    >>> without_literals("select a1 from t where b = 'it''s' and c > 2.5")
    'select a1 from t where b = ? and c > ?'
    """
    return _LITERAL.sub(lambda found: found[1] or "?", form)
