"""Kinds of error before and after GRPO: shares with intervals, and what became of each kind."""

from collections import Counter
from collections.abc import Mapping, Sequence

from sqlr1.evaluate.errors import KINDS
from sqlr1.report.figures import Flow, Rows
from sqlr1.report.policies import WITHOUT_RL, ScoreRun, benchmarks_of, select
from sqlr1.report.tables import markdown_table
from sqlr1.sandbox import Verdict
from sqlr1.statistics import Bootstrap, Estimate, pooled

RIGHT = "right"


def error_rows(strategy: str, reward: str, runs: Sequence[ScoreRun], bootstrap: Bootstrap) -> dict[str, Rows]:
    """By benchmark: for each kind of error the share of greedy answers with it as primary kind, before and after GRPO.

    Shares are means over seeds. A benchmark that was not scored on both sides is left out.
    """
    found: dict[str, Rows] = {}
    for benchmark in benchmarks_of(runs):
        sides = {"before": WITHOUT_RL, "after": reward}
        primary = {
            side: [_primary(run) for run in select(runs, (strategy, trained), benchmark)]
            for side, trained in sides.items()
        }
        kinds = {kind for side in primary.values() for run in side for kind in run.values() if kind}
        if not kinds or not all(side and set.intersection(*map(set, side)) for side in primary.values()):
            continue
        found[benchmark] = [
            (kind.replace("_", " "), {side: _share_of(kind, named, bootstrap) for side, named in primary.items()})
            for kind in KINDS
            if kind in kinds
        ]
    return found


def _share_of(kind: str, runs: Sequence[Mapping[str, str]], bootstrap: Bootstrap) -> Estimate:
    return bootstrap.mean(list(pooled([{i: float(k == kind) for i, k in run.items()} for run in runs]).values()))


def error_markdown(panels: Mapping[str, Rows]) -> str:
    """Number (mean over seeds) and share with its interval, before and after GRPO."""
    lines = [
        [benchmark, kind, *(f"{e.value * e.n:.4g}: {e.percent()}" for e in sides.values())]
        for benchmark, rows in panels.items()
        for kind, sides in rows
    ]
    return markdown_table(["benchmark", "primary kind", "before GRPO", "after GRPO"], lines) if lines else "None."


def error_flow(strategy: str, reward: str, runs: Sequence[ScoreRun]) -> dict[str, Flow]:
    """By benchmark: (before, after) -> how many greedy answers, over all seeds; "right" or the primary kind of error.

    Answers are paired by question and seed; the base model, asked with one seed, is the start of every run.
    """
    found = {}
    for benchmark in benchmarks_of(runs):
        old, new = (
            {run.summary["seed"]: _primary(run) for run in select(runs, (strategy, trained), benchmark)}
            for trained in (WITHOUT_RL, reward)
        )
        if strategy == "none" and len(old) == 1:
            old = dict.fromkeys(new, *old.values())
        pairs = ((old[seed], new[seed]) for seed in new if seed in old)
        counts = Counter((a[i] or RIGHT, b[i] or RIGHT) for a, b in pairs for i in a if i in b)
        order = [kind for kind in (RIGHT, *KINDS) if any(kind in pair for pair in counts)]
        if counts:
            found[benchmark] = order, counts
    return found


def _primary(run: ScoreRun) -> dict[str, str]:
    """The primary kind by question id, "" for a right answer. Questions whose gold cannot be judged are left out."""
    judged = [row for row in run.rows if not Verdict(row["greedy"]["verdict"]).is_gold_fault]
    return {row["id"]: (row["greedy"]["kinds"] or [""])[0] for row in judged}
