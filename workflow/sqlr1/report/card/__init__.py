"""The data card: README.md with the metadata by which `datasets.load_dataset(folder)` finds the splits.

A package of its own, so that an edit of its template runs again only the filter stage.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Template
from sqlglot import exp

from sqlr1.database.sql import features, parse
from sqlr1.records import SQL_CLASSES, Question
from sqlr1.report.tables import markdown_table

# SQL features that do not decide the class, and whether a node shows one.
_OTHER_FEATURES: dict[str, Callable[[exp.Expression], bool]] = {
    "left joins": lambda node: isinstance(node, exp.Join) and node.side == "LEFT",
    "DISTINCT": lambda node: isinstance(node, exp.Distinct),
    "LIKE": lambda node: isinstance(node, exp.Like),
    "HAVING": lambda node: isinstance(node, exp.Having),
    "ORDER BY": lambda node: isinstance(node, exp.Order) and not isinstance(node.parent, exp.Window),
    "LIMIT": lambda node: isinstance(node, exp.Limit),
}


def data_card(
    subsets: Mapping[str, Sequence[Question]], funnel: Mapping[str, Any], examples: Mapping[str, Question], title: str
) -> str:
    """The card's text: metadata, fields, funnel, and the distribution of classes, styles and SQL features.

    `examples` has one dropped row for each reason that occurred.
    """
    files = [{"split": name, "path": f"{name}.jsonl"} for name, rows in subsets.items() if rows]
    metadata = {"language": ["en"], "task_categories": ["text-generation"]}
    metadata |= {"tags": ["text-to-sql", "reasoning", "synthetic"]}
    metadata |= {"configs": [{"config_name": "default", "data_files": files}]}
    steps = [("input", funnel["input"]), *funnel["dropped"].items(), *((name, len(r)) for name, r in subsets.items())]
    dropped = [[reason, f"`{row.db_id}`", row.question, f"`{row.sql}`"] for reason, row in examples.items()]
    one_line = [[" ".join(cell.split()) for cell in line] for line in dropped]
    template = Path(__file__).with_name("card.md.j2").read_text(encoding="utf-8")
    return Template(template, keep_trailing_newline=True).render(
        metadata=yaml.safe_dump(metadata, sort_keys=False),
        title=title,
        funnel=markdown_table(["step", "rows"], steps),
        dropped=markdown_table(["reason", "database", "question", "SQL"], one_line),
        classes=_distribution(subsets, lambda row: [row.sql_class], SQL_CLASSES),
        styles=_distribution(subsets, lambda row: [row.style]),
        features=_distribution(subsets, _features),
    )


def _features(row: Question) -> list[str]:
    expression, _ = parse(row.sql)
    if expression is None:
        return []
    counted = [name for name, count in features(expression).items() if count]
    nodes = list(expression.walk())
    return counted + [name for name, has in _OTHER_FEATURES.items() if any(map(has, nodes))]


def _distribution(
    subsets: Mapping[str, Sequence[Question]], labels: Callable[[Question], list[str]], order: Sequence[str] = ()
) -> str:
    counts = {name: Counter(label for row in rows for label in labels(row)) for name, rows in subsets.items()}
    names = [*order, *sorted(set().union(*counts.values()) - set(order))]
    return markdown_table(["", *subsets], [[label, *(counts[name][label] for name in subsets)] for label in names])
