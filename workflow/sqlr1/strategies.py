"""How the cold start writes a response: one row per strategy.

Apart from `prompt.py`, so that a new strategy runs again only what trains or names strategies.
"""

from collections.abc import Callable
from dataclasses import dataclass

from sqlr1.prompt import format_response
from sqlr1.records import Question


@dataclass(frozen=True)
class Strategy:
    """A cold start: `response` writes the response to learn for a question; None copies the base model untrained.

    `published`: the paper's vote on BIRD dev, in percent, without and with RL (Qwen2.5-Coder-7B).
    """

    label: str
    response: Callable[[Question], str] | None
    published: tuple[float, float] | None = None


# A strategy needs no other edit than a row here: targets, schema, tables and labels follow from it.
STRATEGIES = {
    "none": Strategy("base model", None, (58.2, 63.1)),
    "sql_only": Strategy("cold start (SQL only)", lambda question: format_response("", question.sql)),
    "reasoning": Strategy(
        "cold start (reasoning)", lambda question: format_response(question.reasoning, question.sql), (57.0, 59.2)
    ),
}
