"""The four complexity classes of SynSQL, decided by what the parsed SQL contains."""

from collections import Counter

from sqlglot import exp

_COUNTED = {
    exp.CTE: "ctes",
    exp.Join: "joins",
    exp.Window: "windows",
    exp.Case: "cases",
    exp.Union: "set_operations",
    exp.Intersect: "set_operations",
    exp.Except: "set_operations",
}


def features(expression: exp.Expression) -> Counter[str]:
    """Counts of what the class depends on."""
    found: Counter[str] = Counter()
    for node in expression.walk():
        name = _COUNTED.get(type(node))
        if name:
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
    """The class of a query.

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
    own = {table.alias_or_name for table in select.find_all(exp.Table)}
    own |= {subquery.alias for subquery in select.find_all(exp.Subquery)}
    return any(column.table and column.table not in own for column in select.find_all(exp.Column))
