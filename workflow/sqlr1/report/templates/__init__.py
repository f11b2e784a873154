"""Markdown documents from the templates in this folder.

A package of its own, so that an edit of a template runs again only the stages that fill it in.
"""

from pathlib import Path
from typing import Any

from sqlr1.report.tables import markdown_table


def render(template: str, **values: Any) -> str:
    """Fill in TEMPLATE; a name that it uses and that is not given is an error."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    folder = FileSystemLoader(Path(__file__).parent)
    blanks = dict.fromkeys(("trim_blocks", "lstrip_blocks", "keep_trailing_newline"), True)
    environment = Environment(loader=folder, undefined=StrictUndefined, **blanks)
    environment.globals |= {"table": markdown_table, "fence": fence}
    return environment.get_template(template).render(values)


def fence(text: str, language: str) -> str:
    """A fenced block. A model may write any number of backticks: the fence is longer than any run of them."""
    ticks = "```"
    while ticks in text:
        ticks += "`"
    return f"{ticks}{language}\n{text}\n{ticks}"
