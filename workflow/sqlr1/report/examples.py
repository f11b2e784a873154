"""Worked examples: question, reasoning, SQL and rows of three questions chosen by a fixed rule."""

import random
from collections.abc import Callable, Mapping
from typing import Any

from sqlr1.report.policies import ScoreRun
from sqlr1.report.tables import markdown_table

Row = Mapping[str, Any]


def choose_examples(run: ScoreRun, seed: int = 0) -> dict[str, Row]:
    """A question the greedy answer gets right, one only the vote does, one neither does; others where a kind lacks."""
    measure = run.summary["metric"]
    kinds: dict[str, Callable[[float, float], bool]] = {
        "Right": lambda greedy, vote: greedy == 1,
        "Right only by the vote": lambda greedy, vote: greedy == 0 and vote == 1,
        "Wrong": lambda greedy, vote: greedy == vote == 0,
    }
    scored = [row for row in run.rows if row["greedy"][measure] is not None]
    chosen = {}
    for kind, fits in kinds.items():
        rows = [row for row in scored if fits(row["greedy"][measure], row["vote"][measure])]
        if rows:
            chosen[kind] = random.Random(f"{seed} {kind}").choice(rows)
    others = [row for row in scored if row not in chosen.values()]
    random.Random(seed).shuffle(others)
    lacking = [kind for kind in kinds if kind not in chosen]
    return chosen | {f"Another, for lack of one {k.lower()}": row for k, row in zip(lacking, others, strict=False)}


def example_markdown(kind: str, row: Row) -> str:
    """The section of one example; the answers shown are the vote's, and the greedy one where it differs."""
    difficulty = f", {row['difficulty']}" if row["difficulty"] else ""
    parts = [
        f"### {kind}: question {row['index']} ({row['db_id']}{difficulty})",
        f"> {row['question']}",
        _answer("Answer of the vote", row["vote"]),
    ]
    if row["greedy"]["sql"] != row["vote"]["sql"]:
        parts.append(_answer("Greedy answer", row["greedy"]))
    parts += [f"**Gold**\n\n{_fence(row['gold'], 'sql')}", _rows("Rows of the gold", row["preview"]["gold"])]
    parts.append(_rows("Rows of the vote's answer", row["preview"]["vote"]))
    return "\n\n".join(parts)


def _answer(title: str, answer: Row) -> str:
    reasoning = answer["reasoning"].strip() or "(no reasoning)"
    sql = answer["sql"] or "-- no SQL in the completion"
    return f"**{title}** ({answer['verdict']})\n\n{_fence(reasoning, 'text')}\n\n{_fence(sql, 'sql')}"


def _fence(text: str, language: str) -> str:
    # A model may write any number of backticks: the fence must be longer than the longest run of them.
    ticks = "```"
    while ticks in text:
        ticks += "`"
    return f"{ticks}{language}\n{text}\n{ticks}"


def _rows(title: str, preview: Mapping[str, Any]) -> str:
    if preview["rows"] is None:
        return f"{title}: none, the query ended as {preview['status']}"
    if not preview["rows"]:
        return f"{title}: the result is empty"
    total = f"first {len(preview['rows'])} of {preview['total']}" if preview["total"] > len(preview["rows"]) else "all"
    return f"{title} ({total}):\n\n{markdown_table(preview['columns'], preview['rows'])}"
