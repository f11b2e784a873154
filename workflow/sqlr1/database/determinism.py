"""What the text of a query says about whether its result is determined. `tie_probes` decides by results instead."""

from sqlglot import exp

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
