"""Spider's hardness of a query (easy, medium, hard, extra), by the official rules, from sqlglot's syntax tree.

The rules count in the outermost (for a set operation: the first) SELECT:

- component 1: WHERE, GROUP BY, ORDER BY, LIMIT, each joined table, each OR, each LIKE;
- component 2: queries nested in a condition, and a set operation;
- others: more than one aggregate, more than one selected column, WHERE condition, GROUP BY column.

Two habits of the official counter are kept, since its labels are the standard: a negated condition (NOT IN, NOT LIKE)
counts as an aggregate, an aggregate in HAVING does not, but each AND / OR there does.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlglot import exp

UNKNOWN = "unknown"


@dataclass(frozen=True)
class _Condition:
    """A leaf of a Boolean expression, or (when `leaf` is None) the connector "and" / "or" between two."""

    leaf: "exp.Expression | None"
    negated: bool = False
    connector: str = ""


def spider_hardness(sql: str) -> str:
    """The hardness of a query; "unknown" if it cannot be parsed as SQLite, or is nested too deep for the parser.

    >>> spider_hardness("SELECT name FROM singer WHERE age > 20")
    'easy'
    """
    import sqlglot
    from sqlglot import exp

    try:
        tree = sqlglot.parse_one(sql, dialect="sqlite")
        select = tree
        while isinstance(select, exp.SetOperation | exp.Subquery):
            select = select.this
        if not isinstance(select, exp.Select):
            return UNKNOWN
        return _level(_component1(select), _component2(select, tree), _others(select))
    except (sqlglot.errors.SqlglotError, RecursionError):
        return UNKNOWN


def _level(component1: int, component2: int, others: int) -> str:
    if component2 == 0:
        if component1 <= 1 and others == 0:
            return "easy"
        if (others <= 2 and component1 <= 1) or (component1 <= 2 and others < 2):
            return "medium"
        if (others > 2 and component1 <= 2) or (2 < component1 <= 3 and others <= 2):
            return "hard"
    elif component1 <= 1 and others == 0 and component2 <= 1:
        return "hard"
    return "extra"


def _component1(select: "exp.Select") -> int:
    from sqlglot import exp

    conditions = list(_conditions(select, "on", "where", "having"))
    clauses = sum(bool(select.args.get(clause)) for clause in ("where", "group", "order", "limit"))
    joins = len(select.args.get("joins") or [])
    likes = sum(isinstance(condition.leaf, exp.Like) for condition in conditions)
    return clauses + joins + likes + sum(condition.connector == "or" for condition in conditions)


def _component2(select: "exp.Select", tree: "exp.Expression") -> int:
    from sqlglot import exp

    operands = [part for condition in _conditions(select, "on", "where", "having") for part in _operands(condition)]
    nested = sum(isinstance(operand, exp.Query) for operand in operands)
    return nested + isinstance(tree, exp.SetOperation)


def _operands(condition: _Condition) -> Iterator["exp.Expression"]:
    """The two sides of a leaf condition (three of BETWEEN; the query of IN and EXISTS)."""
    if condition.leaf is not None:
        for operand in condition.leaf.iter_expressions():
            yield operand.unnest() if operand.key == "paren" else operand


def _others(select: "exp.Select") -> int:
    from sqlglot import exp

    where = list(_conditions(select, "where"))
    having = list(_conditions(select, "having"))
    group = select.args["group"].expressions if select.args.get("group") else []
    order = select.args["order"].expressions if select.args.get("order") else []
    aggregates = sum(expression.find(exp.AggFunc) is not None for expression in [*select.expressions, *order, *group])
    aggregates += sum(condition.negated for condition in where + having)
    aggregates += sum(condition.leaf is None for condition in having)
    return (aggregates > 1) + (len(select.expressions) > 1) + (len(where) > 1) + (len(group) > 1)


def _conditions(select: "exp.Select", *clauses: str) -> Iterator[_Condition]:
    """The conditions and connectors, from left to right, of the given clauses ("on": of all joins)."""
    for clause in clauses:
        if clause == "on":
            roots = [join.args.get("on") for join in select.args.get("joins") or []]
        else:
            roots = [select.args[clause].this] if select.args.get(clause) else []
        for root in roots:
            if root is not None:
                yield from _flat(root)


def _flat(node: "exp.Expression", negated: bool = False) -> Iterator[_Condition]:
    from sqlglot import exp

    if isinstance(node, exp.And | exp.Or):
        yield from _flat(node.this)
        yield _Condition(None, connector="or" if isinstance(node, exp.Or) else "and")
        yield from _flat(node.expression)
    elif isinstance(node, exp.Paren):
        yield from _flat(node.this, negated)
    elif isinstance(node, exp.Not):
        yield from _flat(node.this, not negated)
    else:
        yield _Condition(node, negated)
