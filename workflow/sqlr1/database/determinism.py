"""Whether a query's result is worth learning from, above all whether it is determined.

`is_volatile` and `may_depend_on_order` read the query's text. The results of `tie_orders` show what most ties decide.
"""

from collections import Counter
from collections.abc import Sequence

from sqlglot import exp

_READS = (exp.Column, exp.Star, exp.AggFunc, exp.Window)
_CHANCE_OR_CLOCK = (exp.Rand, exp.CurrentDate, exp.CurrentTime, exp.CurrentTimestamp)
_SESSION = {"randomblob", "changes", "total_changes", "last_insert_rowid"}
_TIMES = {"time", "datetime", "julianday", "unixepoch"}  # without arguments they mean now
_BY_POSITION = (
    exp.Limit, exp.GroupConcat, exp.RowNumber, exp.Lag, exp.Lead, exp.FirstValue, exp.LastValue, exp.NthValue, exp.Ntile
)  # fmt: skip


def is_volatile(expression: exp.Expression) -> bool:
    """Whether the result depends on chance, the clock, or which rows a LIMIT without ORDER BY happens to take."""
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


def may_depend_on_order(expression: exp.Expression) -> bool:
    """Whether the order in which tables are read may change the rows of the result (their own order aside).

    False is certain, True is not.
    """
    return any(_may_depend_on_order(node) for node in expression.walk())


def _may_depend_on_order(node: exp.Expression) -> bool:
    if isinstance(node, exp.WindowSpec):
        return node.args.get("kind") != "RANGE"
    if isinstance(node, exp.Subquery):  # used as a value, a subquery means its first row
        return not isinstance(node.parent, (exp.From, exp.Join, exp.In)) and not _has_one_row(node.this)
    return isinstance(node, _BY_POSITION) or (isinstance(node, exp.Select) and _has_bare_column(node))


def _has_one_row(query: exp.Query) -> bool:
    ungrouped = isinstance(query, exp.Select) and not query.args.get("group")
    return ungrouped and all(_aggregates(output) for output in query.expressions)


def _aggregates(output: exp.Expression) -> bool:
    return any(not isinstance(found.parent, exp.Window) for found in output.find_all(exp.AggFunc))


def _has_bare_column(select: exp.Select) -> bool:
    """Whether a grouped query has a column that is neither grouped by nor aggregated: SQLite takes it from any row."""
    group = select.args.get("group")
    if not group and not any(_aggregates(output) for output in select.expressions):
        return False
    keys = {column.name.lower() for column in group.find_all(exp.Column)} if group else set()
    clauses = [*select.expressions, *filter(None, [select.args.get("having")])]
    columns = [column for clause in clauses for column in clause.find_all(exp.Column, exp.Star)]
    return any(column.name.lower() not in keys and not column.find_ancestor(exp.AggFunc) for column in columns)


def rejection_reason(expression: exp.Expression, rows: Sequence[tuple]) -> str | None:
    """Why to reject a query with this result: empty, all_null, constant; or None."""
    if not rows:
        return "empty"
    if all(value is None for row in rows for value in row):
        return "all_null"
    return "constant" if _is_constant(expression, rows) else None


def _is_constant(expression: exp.Expression, rows: Sequence[tuple]) -> bool:
    """Whether the result says nothing about the data: no output reads a table, or one row has only zeros or a yes/no.

    Or one row has a window function over just itself: every rank is then 1 and every share 100 %.
    """
    outputs = [output.unalias() for output in expression.selects]
    if not expression.find(exp.Table) or not any(output.find(*_READS) for output in outputs):
        return True
    is_yes_or_no = len(outputs) == 1 and isinstance(outputs[0], (exp.Predicate, exp.Connector, exp.Not))
    if len(rows) > 1 or is_yes_or_no or not any(rows[0]):
        return len(rows) == 1
    # Without LIMIT and DISTINCT, a window is over exactly the rows of the result.
    if expression.args.get("limit") or expression.args.get("distinct"):
        return False
    windows = (window for output in outputs for window in output.find_all(exp.Window))
    return isinstance(expression, exp.Select) and any(window.parent_select is expression for window in windows)


def tie_orders(expression: exp.Expression) -> tuple[exp.Expression, exp.Expression]:
    """The query with ties in the ORDER BY of each block broken by its outputs, once ascending and once descending.

    If the two results differ, ties decide the query's own. Equal ones do not prove the opposite: what `*` returns is
    unknown here, so it breaks no tie; ties in the ORDER BY of a window or aggregate are not broken, and a column that
    is neither grouped nor aggregated comes from any row.
    """
    both = expression.copy(), expression.copy()
    for query, descending in zip(both, (False, True), strict=True):
        for block in query.find_all(exp.Select, exp.SetOperation):
            if block.args.get("order") and not block.is_star:
                for place in range(1, len(block.selects) + 1):
                    key = exp.Ordered(this=exp.Literal.number(place), desc=descending, nulls_first=not descending)
                    block.args["order"].append("expressions", key)
    return both


def same_result(first: Sequence[tuple], second: Sequence[tuple], ordered: bool) -> bool:
    """Whether two results are equal: as lists, or, unless `ordered`, in any order of rows.

    Floats are compared to nine digits, because a sum depends on the order of its terms.
    """

    def rounded(value: object) -> object:
        return float(f"{value:.9g}") if isinstance(value, float) else value

    if first == second:
        return True
    first, second = ([tuple(map(rounded, row)) for row in rows] for rows in (first, second))
    return first == second if ordered else Counter(first) == Counter(second)
