"""Worked examples: three questions chosen by a fixed rule; `templates/example.md.j2` shows them."""

import random
from collections.abc import Callable, Mapping
from typing import Any

from sqlr1.report.policies import ScoreRun

Row = Mapping[str, Any]


def choose_examples(run: ScoreRun, seed: int = 0) -> dict[str, Row]:
    """A question that the greedy answer gets right, one that only the vote does, one that neither does.

    Right means right by the headline metric and, where that forgives a missing DISTINCT, with DISTINCT kept. Another
    question replaces a kind that does not occur.
    """
    measure, strict = run.summary["metric"], "spider_exec_keep_distinct"
    one_sample = run.summary["n_samples"] == 1
    kinds: dict[str, Callable[[float, float], bool]] = {
        "Right": lambda greedy, vote: greedy == 1,
        **({} if one_sample else {"Right only by the vote": lambda greedy, vote: greedy == 0 and vote == 1}),
        "Wrong": lambda greedy, vote: greedy == vote == 0,
    }
    scored = [row for row in run.rows if row["greedy"][measure] is not None]
    chosen = {}
    for kind, fits in kinds.items():
        rows = [row for row in scored if fits(row["greedy"][measure], row["vote"][measure])]
        if kind == "Right":
            rows = [row for row in rows if row["greedy"].get(strict) != 0] or rows
        if rows:
            chosen[kind] = random.Random(f"{seed} {kind}").choice(rows)
    others = [row for row in scored if row not in chosen.values()]
    random.Random(seed).shuffle(others)
    lacking = [kind for kind in kinds if kind not in chosen]
    return chosen | {f"Another, for lack of one {k.lower()}": row for k, row in zip(lacking, others, strict=False)}
