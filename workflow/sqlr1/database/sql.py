"""SQL text to syntax trees and back, in one style, the normal form to compare queries, and their complexity class."""

import re
from collections import Counter
from collections.abc import Callable

import sqlglot
from sqlglot import exp
from sqlglot.dialects.sqlite import SQLite
from sqlglot.errors import SqlglotError

_LITERAL = re.compile(r'("(?:[^"]|"")*")|\'(?:[^\']|\'\')*\'|(?<!\w)\d+(?:\.\d+)?(?:e[+-]?\d+)?')
_JOINS = re.compile(r"\b(?:JOIN|ON|USING|CROSS|NATURAL)\b")
_LONE_JOINS = 12
_SHALLOW = 200  # characters: too few to nest deeply
_COUNTED = {
    exp.CTE: "ctes", exp.Join: "joins", exp.Window: "windows", exp.Case: "cases",
    exp.Union: "set_operations", exp.Intersect: "set_operations", exp.Except: "set_operations",
}  # fmt: skip


def exact(number: float) -> float:
    """The number as both SQL and questions write it: 3.0 as 3, any other with all of its digits."""
    return int(number) if isinstance(number, float) and number.is_integer() and abs(number) < 1e15 else number


def _not(generator: SQLite.Generator, expression: exp.Not) -> str:
    """`x NOT IN (...)` and `x IS NOT NULL`, where sqlglot writes `NOT x IN (...)`.

    `(x NOT GLOB y) = 5` is no `NOT (x GLOB y = 5)`, so the other operators of this kind are written alike.
    """
    inner = expression.this
    if isinstance(inner, exp.Is):
        return f"{generator.sql(inner.this)} IS NOT {generator.sql(inner.expression)}"
    if not isinstance(inner, (exp.In, exp.Between, exp.Glob, exp.Match, exp.RegexpLike)):
        return generator.not_sql(expression)
    left, inner.args["this"] = inner.this, exp.column("x")  # the left side may be long, and is written once
    rest = generator.sql(inner).removeprefix("x")
    inner.args["this"] = left
    return f"{generator.sql(left)} NOT{rest}"


# Classes that sqlglot compiles (`sqlglot[c]`) cannot have subclasses, and it offers no other way to write some nodes
# differently (tobymao/sqlglot#7923).
_DISPATCH = SQLite.Generator()._dispatch | {
    exp.Not: _not,
    exp.NEQ: lambda generator, expression: generator.binary(expression, "!="),  # sqlglot writes `<>`
}


def to_sql(expression: exp.Expression) -> str:
    """SQLite text on one line. May change `expression`, where its SQL is not SQLite's."""
    generator = SQLite.Generator(dialect="sqlite", comments=False, normalize_functions=False)
    generator._dispatch = _DISPATCH
    return generator.generate(expression, copy=False)


def parse(sql: str) -> tuple[exp.Expression | None, str]:
    """(expression, "") for one SELECT or WITH statement; otherwise (None, reason): not_parsed or not_select.

    Nor is SQL parsed that is nested too deeply to be written again, or that joins many tables without a condition:
    sqlglot takes twice as long for each of them.
    """
    words = _JOINS.findall(sql.upper())
    if 2 * words.count("JOIN") - len(words) > _LONE_JOINS:
        return None, "not_parsed"
    try:
        statements = [s for s in sqlglot.parse(sql, read="sqlite") if s is not None]
        if len(sql) > _SHALLOW:
            for statement in statements:
                to_sql(statement.copy())
    except (SqlglotError, RecursionError):
        return None, "not_parsed"
    if len(statements) != 1 or not isinstance(statements[0], exp.Query):
        return None, "not_select"
    return statements[0], ""


def aliases_around(expression: exp.Expression) -> Callable[[exp.Expression], list[dict[str, str]]]:
    """For a node: alias -> table, in lower case, of each SELECT around it, the innermost first.

    One alias may stand for several tables of a query.
    """
    of_select: dict[int, dict[str, str]] = {}
    for table in expression.find_all(exp.Table):
        of_select.setdefault(id(table.parent_select), {})[table.alias_or_name.lower()] = table.name.lower()

    def around(node: exp.Expression) -> list[dict[str, str]]:
        select = node.parent_select
        return [of_select.get(id(select), {}), *around(select)] if select else []

    return around


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
    """SQL with `?` for each literal.

    >>> without_literals("select a1 from t where b = 'it''s' and c > 2.5")
    'select a1 from t where b = ? and c > ?'
    """
    return _LITERAL.sub(lambda found: found[1] or "?", form)


def features(expression: exp.Expression) -> Counter[str]:
    """Counts of what the complexity class depends on."""
    found: Counter[str] = Counter()
    for node in expression.walk():
        if name := _COUNTED.get(type(node)):
            found[name] += 1
        if isinstance(node, exp.Select):
            found["grouped"] += node.args.get("group") is not None
            if isinstance(node.parent, (exp.Subquery, exp.In, exp.Exists)):
                found["subqueries"] += 1
                found["correlated"] += _correlated(node)
        elif isinstance(node, exp.With):
            found["recursive"] += bool(node.args.get("recursive"))
    return found


def sql_class(expression: exp.Expression) -> str:
    """The complexity class of a query, one of SynSQL's four.

    Simple: one table. Moderate: a join, a grouping, a subquery or CASE. Complex: several joins, nesting, a window, a
    CTE or a set operation. Highly Complex: several or recursive CTEs, or windows, CTEs and set operations combined.

    >>> import sqlglot
    >>> sql_class(sqlglot.parse_one("SELECT a FROM t UNION SELECT b FROM u"))
    'Complex'
    """
    f = features(expression)
    advanced = (f["windows"] > 0) + (f["ctes"] > 0) + (f["set_operations"] > 0)
    if f["recursive"] or f["ctes"] > 1 or f["set_operations"] > 1 or advanced > 1:
        return "Highly Complex"
    nested = f["correlated"] or f["subqueries"] > 1 or (f["subqueries"] and (f["joins"] or f["grouped"]))
    if advanced or nested or f["joins"] > 1:
        return "Complex"
    return "Moderate" if f["joins"] or f["grouped"] or f["subqueries"] or f["cases"] else "Simple"


def _correlated(select: exp.Select) -> bool:
    """Whether a subquery refers to a table of an outer block."""
    own = {source.alias_or_name for source in select.find_all(exp.Table, exp.Subquery)}
    return any(column.table and column.table not in own for column in select.find_all(exp.Column))
