"""What SQL a gold uses, so that scores can be read by it, as NL2SQL360 filters them."""

from collections.abc import Iterable, Sequence
from typing import Any

from sqlglot import exp

from sqlr1.database.sql import features, parse
from sqlr1.statistics import Bootstrap

FEATURES = ("join", "nesting", "set operation", "grouping", "none of these")


def add_features(rows: Iterable[dict[str, Any]]) -> None:
    """Set `features` in the evaluator's rows: those of FEATURES that the gold has; empty if it does not parse."""
    for row in rows:
        row["features"] = features_of(row["gold"])


def features_of(sql: str) -> list[str]:
    """Those of FEATURES that a query has.

    >>> features_of("SELECT a FROM t JOIN u USING (id) GROUP BY a"), features_of("SELECT 1"), features_of("SELECT")
    (['join', 'grouping'], ['none of these'], [])
    """
    expression, _ = parse(sql)
    if expression is None:
        return []
    counts = features(expression)
    # Set operations too, which `features` leaves out: it decides classes.
    nested = [q for q in expression.find_all(exp.Query) if isinstance(q.parent, (exp.Subquery, exp.In, exp.Exists))]
    used = (counts["joins"], len(nested) + counts["ctes"], counts["set_operations"], counts["grouped"])
    return [name for name, count in zip(FEATURES, used, strict=False) if count] or [FEATURES[-1]]


def by_feature(
    rows: Sequence[dict[str, Any]], metric: str, bootstrap: Bootstrap, methods: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """`{method: {feature: estimate}}` of the answers by `methods` (greedy, vote), of questions whose gold runs."""
    found: dict[str, dict[str, Any]] = {}
    for method in methods:
        judged = [row for row in rows if row[method].get(metric) is not None]
        by_name = {name: [float(row[method][metric]) for row in judged if name in row["features"]] for name in FEATURES}
        found[method] = {name: vars(bootstrap.mean(values)) for name, values in by_name.items() if values}
    return found
