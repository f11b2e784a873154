"""The data card: README.md with the metadata by which `datasets.load_dataset(folder)` finds the splits."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import yaml
from sqlglot import exp

from sqlr1.database.sql import parse
from sqlr1.database.sql_features import features
from sqlr1.records import SQL_CLASSES, Question

_FIELDS = {
    "id": "unique within the dataset",
    "db_id": "database, to be resolved in the catalogue of the synthesize stage",
    "question": "the question in natural language",
    "sql": "gold SQL (SQLite)",
    "evidence": "external knowledge that the question needs, mostly empty",
    "reasoning": "trace in steps, made from the same plan as the SQL",
    "sql_class": "complexity class as in SynSQL",
    "style": "question style as in SynSQL; human: written by people",
    "template": "shape and surface template of the question; empty for rows that were not generated here",
}
# SQL features beside those that decide the class -> whether a node shows one.
_FURTHER: dict[str, Callable[[exp.Expression], bool]] = {
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

    `examples` has a dropped row for each reason that dropped some.
    """
    files = [{"split": name, "path": f"{name}.jsonl"} for name, rows in subsets.items() if rows]
    metadata = {
        "language": ["en"],
        "task_categories": ["text-generation"],
        "tags": ["text-to-sql", "reasoning", "synthetic"],
        "configs": [{"config_name": "default", "data_files": files}],
    }
    kept = {name: len(rows) for name, rows in subsets.items()}
    sections = [
        f"---\n{yaml.safe_dump(metadata, sort_keys=False)}---",
        f"# {title}",
        "Questions with SQL and reasoning for text-to-SQL, executed and filtered.",
        "## Fields\n\n" + "\n".join(f"- `{name}`: {text}" for name, text in _FIELDS.items()),
        "## Funnel\n\n"
        + _table(["step", "rows"], [["input", funnel["input"]], *funnel["dropped"].items(), *kept.items()]),
        "## Dropped rows\n\nOne a reason.\n\n" + _examples(examples),
        "## Classes\n\n" + _distribution(subsets, lambda row: [row.sql_class], SQL_CLASSES),
        "## Styles\n\n" + _distribution(subsets, lambda row: [row.style]),
        "## SQL features\n\nRows that have at least one.\n\n" + _distribution(subsets, _features),
    ]
    return "\n\n".join(sections) + "\n"


def _features(row: Question) -> list[str]:
    expression, _ = parse(row.sql)
    if expression is None:
        return []
    counted = [name for name, count in features(expression).items() if count]
    nodes = list(expression.walk())
    return counted + [name for name, has in _FURTHER.items() if any(map(has, nodes))]


def _examples(examples: Mapping[str, Question]) -> str:
    rows = [[reason, f"`{row.db_id}`", row.question, f"`{row.sql}`"] for reason, row in examples.items()]
    return _table(["reason", "database", "question", "SQL"], rows)


def _distribution(subsets: Mapping[str, Sequence[Question]], labels: Any, order: Sequence[str] = ()) -> str:
    counts = {name: Counter(label for row in rows for label in labels(row)) for name, rows in subsets.items()}
    names = [*order, *sorted({label for c in counts.values() for label in c} - set(order))]
    return _table(["", *subsets], [[label, *(counts[subset][label] for subset in subsets)] for label in names])


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)


def _cell(value: Any) -> str:
    """The value on one line, without what would end the cell."""
    return " ".join(str(value).split()).replace("|", "\\|")
