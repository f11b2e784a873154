"""What can be said of a row's SQL without running it: whether it is one SELECT, deterministic, and its normal form."""

from collections import Counter

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from sqlr1.synthesis.sql import to_sql

_VOLATILE = (exp.Rand, exp.CurrentDate, exp.CurrentTime, exp.CurrentTimestamp)


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
    if expression.find(*_VOLATILE) or any(n.name.lower() == "randomblob" for n in expression.find_all(exp.Anonymous)):
        return True
    if any(literal.is_string and literal.name.lower() == "now" for literal in expression.find_all(exp.Literal)):
        return True
    for select in expression.find_all(exp.Select):
        limited, ordered = select.args.get("limit"), select.args.get("order")
        single = not select.args.get("group") and all(e.find(exp.AggFunc) for e in select.expressions)
        if limited and not ordered and not single:
            return True
    return False


def normal_form(expression: exp.Expression, literals: bool = False) -> str:
    """The SQL in lower case with aliases replaced by table names, and `?` for literals unless they are kept.

    Changes `expression`. The second occurrence of a table is told from the first.
    """
    names: dict[str, str] = {}
    seen: Counter[str] = Counter()
    for table in expression.find_all(exp.Table):
        name = table.name.lower()
        seen[name] += 1
        names.setdefault(table.alias_or_name.lower(), name if seen[name] == 1 else f"{name}#{seen[name]}")
    for node in list(expression.walk()):
        if isinstance(node, exp.Column) and node.table:
            alone = len(names) == 1
            node.set("table", None if alone else exp.to_identifier(names.get(node.table.lower(), node.table)))
        elif isinstance(node, exp.Table) and node.alias:
            node.set("alias", None)
        elif isinstance(node, exp.Alias):
            node.set("alias", exp.to_identifier("_"))
        elif isinstance(node, exp.Literal) and not literals:
            node.set("this", "?")
    return to_sql(expression).lower()
