"""What can be said of a row's SQL without running it: whether it is one SELECT, deterministic, and its normal form."""

import re
from collections import Counter

import sqlglot
from sqlglot import exp
from sqlglot.dialects.sqlite import SQLite
from sqlglot.errors import SqlglotError

_CHANCE_OR_CLOCK = (exp.Rand, exp.CurrentDate, exp.CurrentTime, exp.CurrentTimestamp)
_SESSION = {"randomblob", "changes", "total_changes", "last_insert_rowid"}
_TIMES = {"time", "datetime", "julianday", "unixepoch"}  # of now, unless they are given a time
_BY_POSITION = (
    exp.Limit, exp.GroupConcat, exp.RowNumber, exp.Lag, exp.Lead, exp.FirstValue, exp.LastValue, exp.NthValue, exp.Ntile
)  # fmt: skip
_LITERAL = re.compile(r'("(?:[^"]|"")*")|\'(?:[^\']|\'\')*\'|(?<!\w)\d+(?:\.\d+)?(?:e[+-]?\d+)?')


def exact(number: float) -> float:
    """The number as SQL and words both write it: 3.0 as 3, any other with all of its digits."""
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


def is_volatile(expression: exp.Expression) -> bool:
    """Whether the result depends on chance or the clock, or on which rows an unordered LIMIT happens to take."""
    return any(_is_volatile(node) for node in expression.walk())


def _is_volatile(node: exp.Expression) -> bool:
    if isinstance(node, exp.Literal):
        return node.is_string and node.name.lower() == "now"
    if isinstance(node, exp.Anonymous):
        name = node.name.lower()
        return name in _SESSION or (name in _TIMES and not node.expressions)
    if isinstance(node, exp.Date):
        return not node.this
    if isinstance(node, exp.Query):
        return bool(node.args.get("limit")) and not node.args.get("order") and not _has_one_row(node)
    return isinstance(node, _CHANCE_OR_CLOCK)


def _has_one_row(query: exp.Query) -> bool:
    alone = isinstance(query, exp.Select) and not query.args.get("group")
    return alone and all(_aggregates(output) for output in query.expressions)


def _aggregates(output: exp.Expression) -> bool:
    return any(not isinstance(found.parent, exp.Window) for found in output.find_all(exp.AggFunc))


def may_depend_on_order(expression: exp.Expression) -> bool:
    """Whether the order in which tables are read may decide the result: never wrong in denying it.

    Up to the order of its rows, which ties may change without any of these.
    """
    return any(_may_depend_on_order(node) for node in expression.walk())


def _may_depend_on_order(node: exp.Expression) -> bool:
    if isinstance(node, exp.WindowSpec):
        return node.args.get("kind") != "RANGE"
    if isinstance(node, exp.Subquery):  # as a value it is its first row
        return not isinstance(node.parent, (exp.From, exp.Join, exp.In)) and not _has_one_row(node.this)
    return isinstance(node, _BY_POSITION) or (isinstance(node, exp.Select) and _has_bare_column(node))


def _has_bare_column(select: exp.Select) -> bool:
    """Whether a grouped query has a column that is neither grouped by nor aggregated: it is of any row."""
    group = select.args.get("group")
    if not group and not any(_aggregates(output) for output in select.expressions):
        return False
    keys = {column.name.lower() for column in group.find_all(exp.Column)} if group else set()
    clauses = [*select.expressions, *filter(None, [select.args.get("having")])]
    columns = [column for clause in clauses for column in clause.find_all(exp.Column, exp.Star)]
    return any(column.name.lower() not in keys and not column.find_ancestor(exp.AggFunc) for column in columns)


def normal_form(expression: exp.Expression) -> str:
    """The SQL in lower case with aliases replaced by table names. Changes `expression`.

    The second occurrence of a table is told from the first.
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
            alone = len(names) == 1
            node.set("table", None if alone else exp.to_identifier(names.get(node.table.lower(), node.table)))
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
