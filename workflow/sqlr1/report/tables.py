"""Tables as Markdown and CSV."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from sqlr1.records import atomic_write


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table; `|` and newlines inside cells are escaped.

    >>> print(markdown_table(["a", "b"], [[1, "x|y"]]))
    | a | b |
    |---|---|
    | 1 | x\\|y |
    """
    head, *body = ([str(cell).replace("|", "\\|").replace("\n", "<br>") for cell in line] for line in [columns, *rows])
    return tabulate(body, head, tablefmt="github", stralign=None, numalign=None, disable_numparse=True)


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as CSV, columns in the order of the first row, atomically; None is an empty cell."""
    from pandas import DataFrame

    with atomic_write(path) as file:
        DataFrame(rows, dtype=object).to_csv(file, index=False, lineterminator="\n")
