"""The score tables of the report: policy by benchmark, by difficulty, and what GRPO changed."""

import itertools
from collections.abc import Sequence
from typing import Any

from sqlr1.evaluate.estimates import Bootstrap, mcnemar, paired_difference, pooled_p
from sqlr1.evaluate.summary import in_order
from sqlr1.report.figures import Rows
from sqlr1.report.policies import WITHOUT_RL, ScoreRun, benchmarks_of, policy_label, pooled_estimate, select
from sqlr1.report.tables import markdown_table

Policy = tuple[str, str]


def report_policies(strategy: str, rewards: Sequence[str], runs: Sequence[ScoreRun]) -> list[Policy]:
    """Base model, cold start, cold start + GRPO by reward: those that were scored, in this order, each once."""
    wanted = dict.fromkeys([("none", WITHOUT_RL), (strategy, WITHOUT_RL), *((strategy, reward) for reward in rewards)])
    return [policy for policy in wanted if any(run.policy == policy for run in runs)]


def score_rows(policies: Sequence[Policy], runs: Sequence[ScoreRun], bootstrap: Bootstrap) -> list[dict[str, Any]]:
    """Long form, one row an estimate: benchmark, policy, method, difficulty, value, low, high, n, seeds."""
    rows = []
    for benchmark in benchmarks_of(runs):
        for policy in policies:
            mine = select(runs, policy, benchmark)
            for method in mine[0].methods if mine else []:
                for difficulty in _difficulties(mine):
                    estimate = pooled_estimate(mine, method, bootstrap, difficulty)
                    if estimate:
                        rows.append(
                            {
                                "benchmark": benchmark,
                                "metric": mine[0].summary["metric"],
                                "policy": policy_label(*policy),
                                "strategy": policy[0],
                                "reward": policy[1],
                                "method": method,
                                "difficulty": difficulty,
                                **estimate.as_dict(),
                                "seeds": len(mine),
                            }
                        )
    return rows


def _difficulties(runs: Sequence[ScoreRun]) -> list[str]:
    return ["all", *in_order({row["difficulty"] for run in runs for row in run.rows if row["difficulty"]})]


def score_panels(policies: Sequence[Policy], runs: Sequence[ScoreRun], bootstrap: Bootstrap) -> dict[str, Rows]:
    """What `figures.interval_panels` draws: a panel a benchmark, a row a policy."""
    panels: dict[str, Rows] = {}
    for benchmark in benchmarks_of(runs):
        rows = []
        for policy in policies:
            mine = select(runs, policy, benchmark)
            estimates = {m: pooled_estimate(mine, m, bootstrap) for m in (mine[0].methods if mine else [])}
            rows.append((policy_label(*policy), {m: e for m, e in estimates.items() if e is not None}))
        panels[benchmark] = rows
    return panels


def headline_markdown(policies: Sequence[Policy], runs: Sequence[ScoreRun], bootstrap: Bootstrap) -> str:
    """Policy by benchmark, with intervals."""
    lines = []
    for benchmark in benchmarks_of(runs):
        for policy in policies:
            mine = select(runs, policy, benchmark)
            if not mine:
                continue
            cells = [pooled_estimate(mine, method, bootstrap) for method in mine[0].methods]
            n = cells[0].n if cells[0] else 0
            lines.append([benchmark, policy_label(*policy), *(c.percent() if c else "-" for c in cells), n, len(mine)])
    pass_at = next((run.methods[-1] for run in runs), "pass@k")
    return markdown_table(["benchmark", "policy", "greedy", "vote", pass_at, "questions", "seeds"], lines)


def difficulty_markdown(policies: Sequence[Policy], runs: Sequence[ScoreRun], bootstrap: Bootstrap) -> str:
    """Vote accuracy by difficulty, one table a benchmark."""
    tables = []
    for benchmark in benchmarks_of(runs):
        here = [run for run in runs if run.benchmark == benchmark]
        difficulties = _difficulties(here)[1:]
        if not difficulties:
            continue
        lines = []
        for policy in policies:
            mine = select(here, policy, benchmark)
            cells = [pooled_estimate(mine, "vote", bootstrap, d) for d in difficulties]
            lines.append([policy_label(*policy), *(f"{c.percent()}, n {c.n}" if c else "-" for c in cells)])
        tables.append(f"**{benchmark}** (vote)\n\n{markdown_table(['policy', *difficulties], lines)}")
    return "\n\n".join(tables)


def change_markdown(strategy: str, rewards: Sequence[str], runs: Sequence[ScoreRun], bootstrap: Bootstrap) -> str:
    """What GRPO changed against its own start: paired difference, its test, and the exact McNemar test of each seed."""
    lines = []
    for benchmark, trained in itertools.product(benchmarks_of(runs), rewards):
        before, after = (select(runs, (strategy, reward), benchmark) for reward in (WITHOUT_RL, trained))
        for method in ("greedy", "vote"):
            old, new = ({run.summary["seed"]: run.scores(method) for run in side} for side in (before, after))
            difference = paired_difference(list(new.values()), list(old.values()), bootstrap)
            if difference is None:
                continue
            if strategy == "none" and len(old) == 1:  # the base model, asked with one seed, is the start of every run
                old = dict.fromkeys(new, *old.values())
            p_values = ", ".join(f"{mcnemar(new[seed], old[seed]):.3g}" for seed in new if seed in old)
            together = f"{pooled_p(list(new.values()), list(old.values())):.3g}"
            lines.append([benchmark, trained, method, difference.points(), together, p_values, difference.n])
    p_columns = ["p (sign flip, over all seeds)", "p (exact McNemar, by seed)"]
    columns = ["benchmark", "reward", "method", "change, points", *p_columns, "questions"]
    return markdown_table(columns, lines) if lines else "GRPO and its start were not both scored."
