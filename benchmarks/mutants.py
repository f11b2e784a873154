"""Wrong queries made from right ones, one change each: what a policy might get rewarded for by coincidence."""

from collections.abc import Callable, Iterator

from sqlglot import exp

_AGGREGATES = (exp.Count, exp.Sum, exp.Avg, exp.Min, exp.Max)
_COMPARISONS = {exp.GT: exp.GTE, exp.GTE: exp.GT, exp.LT: exp.LTE, exp.LTE: exp.LT, exp.EQ: exp.NEQ, exp.NEQ: exp.EQ}


def mutants(expression: exp.Expression) -> Iterator[tuple[str, exp.Expression]]:
    """Yield (kind of change, changed copy) for every place where a change applies; `expression` stays as it is."""
    for kind, change in _CHANGES.items():
        for position, _ in enumerate(expression.walk()):
            copy = expression.copy()
            node = next(n for i, n in enumerate(copy.walk()) if i == position)
            if change(node):
                yield kind, copy


def _drop_predicate(node: exp.Expression) -> bool:
    """One operand of a WHERE's AND or OR, or the whole WHERE of one condition."""
    if isinstance(node, exp.Where) and not isinstance(node.this, (exp.And, exp.Or)):
        node.pop()
        return True
    if isinstance(node, (exp.And, exp.Or)) and node.find_ancestor(exp.Where):
        node.replace(node.this)
        return True
    return False


def _other_aggregate(node: exp.Expression) -> bool:
    if not isinstance(node, _AGGREGATES) or isinstance(node.this, (exp.Star, exp.Distinct)):
        return False
    following = _AGGREGATES[(_AGGREGATES.index(type(node)) + 1) % len(_AGGREGATES)]
    node.replace(following(this=node.this))
    return True


def _other_join(node: exp.Expression) -> bool:
    if not isinstance(node, exp.Join):
        return False
    node.set("side", None if node.side else "LEFT")
    return True


def _other_comparison(node: exp.Expression) -> bool:
    if type(node) not in _COMPARISONS or node.find_ancestor(exp.Join):
        return False
    node.replace(_COMPARISONS[type(node)](this=node.this, expression=node.expression))
    return True


def _off_by_one(node: exp.Expression) -> bool:
    if not isinstance(node, exp.Literal) or node.is_string or not node.name.isdigit():
        return False
    node.set("this", str(int(node.name) + 1))
    return True


def _other_distinct(node: exp.Expression) -> bool:
    if isinstance(node, exp.Distinct) and isinstance(node.parent, exp.Count):
        node.replace(node.expressions[0])
        return True
    if not isinstance(node, exp.Select) or node.args.get("group"):
        return False
    node.set("distinct", None if node.args.get("distinct") else exp.Distinct())
    return True


def _other_direction(node: exp.Expression) -> bool:
    if not isinstance(node, exp.Ordered):
        return False
    node.set("desc", not node.args.get("desc"))
    node.set("nulls_first", not node.args.get("desc"))
    return True


_CHANGES: dict[str, Callable[[exp.Expression], bool]] = {
    "dropped predicate": _drop_predicate,
    "other aggregate": _other_aggregate,
    "other join": _other_join,
    "other comparison": _other_comparison,
    "off by one": _off_by_one,
    "distinct": _other_distinct,
    "other direction": _other_direction,
}
