"""SQL text to syntax trees and back, in one style, the normal form to compare queries, and their complexity class."""

import re
from collections import Counter
from collections.abc import Callable

import sqlglot
from sqlglot import exp
from sqlglot.dialects.sqlite import SQLite
from sqlglot.errors import SqlglotError

from sqlr1.sql_tokens import TOKEN

_LITERAL = re.compile(r'("(?:[^"]|"")*")|\'(?:[^\']|\'\')*\'|(?<!\w)\d+(?:\.\d+)?(?:e[+-]?\d+)?')
_OF_JOINS = ("JOIN", "ON", "USING", "NATURAL", "CROSS")
_LONE_JOINS = 12
_SHALLOW = 50  # levels that need far fewer frames than Python has
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

    SQL that sqlglot cannot write again counts as not parsed: nested too deeply, or with a JSON path that it does not
    know. So does SQL with many joins without a condition, because each of them doubles sqlglot's time.
    """
    if sql.upper().count("JOIN") > _LONE_JOINS and _lone_joins(sql) > _LONE_JOINS:
        return None, "not_parsed"
    try:
        statements = [s for s in sqlglot.parse(sql, read="sqlite") if s is not None]
        if len(statements) != 1 or not isinstance(statements[0], exp.Query):
            return None, "not_select"
        if "'$" in sql or _depth(statements[0]) > _SHALLOW:
            to_sql(statements[0].copy())
    except (SqlglotError, RecursionError, ValueError):  # the last for what its generator does not know
        return None, "not_parsed"
    return statements[0], ""


def _lone_joins(sql: str) -> int:
    """How many joins have neither a condition nor a word that does without."""
    words = [word for token in TOKEN.findall(sql) if (word := token.upper()) in _OF_JOINS]
    around = zip(["", *words], words, [*words[1:], ""], strict=False)
    return sum(
        word == "JOIN" and before not in ("NATURAL", "CROSS") and after not in ("ON", "USING")
        for before, word, after in around
    )


def _depth(expression: exp.Expression) -> int:
    level, depth = [expression], 0
    while level:
        level, depth = [child for node in level for child in node.iter_expressions()], depth + 1
    return depth


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
