"""The data card: README.md with the metadata by which `datasets.load_dataset(folder)` finds the splits."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import yaml
from sqlglot import exp
from tabulate import tabulate

from sqlr1.database.sql import features, parse
from sqlr1.records import SQL_CLASSES, Question

_CARD = """---
{metadata}---

# {title}

Questions with SQL and reasoning for text-to-SQL, executed and filtered.

## Fields

- `id`: unique within the dataset
- `db_id`: database; the catalogue of the synthesize stage has its file
- `question`: the question in natural language
- `sql`: gold SQL (SQLite)
- `evidence`: external knowledge that the question needs, mostly empty
- `reasoning`: trace in steps, made from the SQL
- `sql_class`: complexity class as in SynSQL
- `style`: question style as in SynSQL; human: written by people
- `template`: shape and surface template of the question; empty for rows that were not generated here

## Funnel

{funnel}

## Dropped rows

One per reason.

{dropped}

## Classes

{classes}

## Styles

{styles}

## SQL features

Rows that have at least one.

{features}
"""
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
    metadata = {
        "language": ["en"],
        "task_categories": ["text-generation"],
        "tags": ["text-to-sql", "reasoning", "synthetic"],
        "configs": [{"config_name": "default", "data_files": files}],
    }
    kept = [(name, len(rows)) for name, rows in subsets.items()]
    dropped = [[reason, f"`{row.db_id}`", row.question, f"`{row.sql}`"] for reason, row in examples.items()]
    return _CARD.format(
        metadata=yaml.safe_dump(metadata, sort_keys=False),
        title=title,
        funnel=_table(["step", "rows"], [("input", funnel["input"]), *funnel["dropped"].items(), *kept]),
        dropped=_table(["reason", "database", "question", "SQL"], dropped),
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
    return _table(["", *subsets], [[label, *(counts[subset][label] for subset in subsets)] for label in names])


def _table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table; each value is on one line, with `|` escaped."""
    cells = [[" ".join(str(value).split()).replace("|", "\\|") for value in row] for row in rows]
    return tabulate(cells, header, tablefmt="github", stralign=None, disable_numparse=True)
