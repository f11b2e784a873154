"""Reasoning traces in steps: tables, join path, filters, grouping, order, output.

They are made from the syntax tree alone, so they work for any query: generated, or written by people.
"""

from collections.abc import Iterator
from itertools import groupby

from sqlglot import exp

from sqlr1.database.sql import to_sql

_SHORT = {
    "tables": "tables {}", "join": "{}", "where": "where {}", "group": "group by {}", "having": "having {}",
    "order": "order by {}", "offset": "skip {}", "limit": "first {}", "output": "output {}",
    "with": "first {}:", "set": "{}:",
}  # fmt: skip
_LONG = {
    "tables": "The question needs the tables {}.", "join": "They are {}.", "where": "Only rows where {} count.",
    "group": "Rows are grouped by {}.", "having": "Only groups with {} are kept.",
    "order": "The result is sorted by {}.", "offset": "The first {} of them are skipped.",
    "limit": "Only the first {} of them are returned.", "output": "The output is {}.",
    "with": "First compute {}.", "set": "Then combine both parts with {}.",
}  # fmt: skip


def trace(expression: exp.Expression, length: str, asked: str = "") -> str:
    """The reasoning for a query, `short` or `long`. `asked` (long only) is what the question asks for, in words.

    >>> import sqlglot
    >>> trace(sqlglot.parse_one("SELECT name FROM singer WHERE age > 20 ORDER BY age LIMIT 1"), "short")
    'tables singer; where age > 20; order by age; first 1; output name'
    """
    forms = _SHORT if length == "short" else _LONG
    steps = [(kind, forms[kind].format(text)) for kind, text in _steps(expression, length)]
    if length == "short":
        return "".join(step + (" " if kind in ("with", "set") else "; ") for kind, step in steps).removesuffix("; ")
    lead = [f"We are asked for {asked.rstrip('.?')}."] if asked else []
    return " ".join([*lead, *(step for _, step in steps)])


def _steps(expression: exp.Expression, length: str) -> Iterator[tuple[str, str]]:
    """(kind, text) of each step, in the order in which one would work out the query."""
    with_ = expression.args.get("with_")
    for cte in with_.expressions if with_ else ():
        yield "with", cte.alias
        yield from _steps(cte.this, length)
    if isinstance(expression, exp.SetOperation):
        yield from _steps(expression.left, length)
        yield "set", expression.key if expression.args.get("distinct", True) else f"{expression.key} all"
        yield from _steps(expression.right, length)
        yield from _ending(expression, {})
    elif isinstance(expression, exp.Subquery):
        yield from _steps(expression.this, length)
    elif isinstance(expression, exp.Select):
        yield from _select_steps(expression, length)


def _select_steps(select: exp.Select, length: str) -> Iterator[tuple[str, str]]:
    joins = select.args.get("joins") or ()
    sources = [node.this for node in (select.args.get("from_"), *joins) if node]
    for node in sources:
        if isinstance(node, exp.Subquery):
            yield "with", node.alias or "subquery"
            yield from _steps(node.this, length)
    real = {n.alias_or_name: n.name if isinstance(n, exp.Table) else n.alias or "subquery" for n in sources}
    short = length == "short"
    if real:
        yield "tables", ", ".join(f"{a} {t}" if short and a != t else t for a, t in real.items())
    names = {} if short else {a: t for a, t in real.items() if list(real.values()).count(t) == 1}
    for side, group in groupby(joins, key=lambda join: join.side.lower()):
        if conditions := [text for join in group if (text := _condition(join, names))]:
            yield "join", f"{side} {'join' if short else 'joined on'} {', '.join(conditions)}".strip()
    for kind in ("where", "group", "having"):
        if clause := select.args.get(kind):
            parts = clause.expressions if kind == "group" else [clause.this]
            yield kind, ", ".join(_text(part, names) for part in parts)
    yield from _ending(select, names)
    distinct = "distinct " if select.args.get("distinct") else ""
    yield "output", distinct + ", ".join(_text(e, names) for e in select.expressions)


def _condition(join: exp.Join, names: dict[str, str]) -> str:
    """What a join compares; empty for a cross join."""
    if join.args.get("using"):
        return f"using {', '.join(to_sql(column) for column in join.args['using'])}"
    return _text(join.args["on"], names) if join.args.get("on") else ""


def _ending(expression: exp.Expression, names: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Order and limits of a block or a set operation."""
    if expression.args.get("order"):
        yield "order", ", ".join(_text(key, names) for key in expression.args["order"].expressions)
    for kind in ("offset", "limit"):
        if expression.args.get(kind):
            yield kind, to_sql(expression.args[kind].expression)


def _text(node: exp.Expression, names: dict[str, str]) -> str:
    """SQL text, with table names instead of the aliases in `names`."""

    def rename(inner: exp.Expression) -> exp.Expression:
        if isinstance(inner, exp.Column) and inner.table in names:
            return exp.column(inner.this.copy(), table=names[inner.table])
        return inner

    return to_sql(node.transform(rename) if names else node)
