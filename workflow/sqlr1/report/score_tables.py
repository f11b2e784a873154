"""The score tables of the report and of the ablations, from score runs."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from sqlr1.evaluate.evaluator import in_order
from sqlr1.evaluate.statistics import Bootstrap, Estimate, mcnemar_exact, paired_differences, sign_flip
from sqlr1.records import InputError
from sqlr1.report.figures import Rows
from sqlr1.report.policies import (
    WITHOUT_RL,
    Policy,
    ScoreRun,
    all_policies,
    benchmarks_of,
    differences,
    policy_label,
    pooled_estimate,
    select,
)
from sqlr1.report.tables import markdown_table
from sqlr1.report.templates import render
from sqlr1.rewards import REWARDS
from sqlr1.strategies import STRATEGIES

ABLATIONS = ("ablation_reward", "ablation_cold_start")
ESTIMATES = ("greedy", "greedy_change", "vote", "vote_change")


def report_policies(strategy: str, rewards: Sequence[str], runs: Sequence[ScoreRun]) -> list[Policy]:
    """Base model, cold start, cold start + GRPO by reward: those that were scored, in this order, each once."""
    wanted = dict.fromkeys([("none", WITHOUT_RL), (strategy, WITHOUT_RL), *((strategy, reward) for reward in rewards)])
    return [policy for policy in wanted if any(run.policy == policy for run in runs)]


def score_rows(policies: Sequence[Policy], runs: Sequence[ScoreRun], bootstrap: Bootstrap) -> list[dict[str, Any]]:
    """One row per estimate: benchmark, policy, method, difficulty, value, low, high, n, seeds."""
    rows = []
    for benchmark, policy in itertools.product(benchmarks_of(runs), policies):
        mine = select(runs, policy, benchmark)
        levels = in_order({"all", *(row["difficulty"] for run in mine for row in run.rows if row["difficulty"])})
        for method, level in itertools.product(mine[0].methods if mine else [], levels):
            if estimate := pooled_estimate(mine, method, bootstrap, level):
                row = {"benchmark": benchmark, "metric": mine[0].summary["metric"], "policy": policy_label(*policy)}
                row |= {"strategy": policy[0], "reward": policy[1], "method": method, "difficulty": level}
                rows.append(row | estimate.as_dict() | {"seeds": len(mine)})
    return rows


def _estimate(row: Mapping[str, Any]) -> Estimate:
    return Estimate(row["value"], row["low"], row["high"], row["n"])


def score_panels(rows: Sequence[Mapping[str, Any]]) -> dict[str, Rows]:
    """What `figures.interval_panels` draws: one panel per benchmark, one row per policy."""
    panels: dict[str, dict[str, dict[str, Estimate]]] = {}
    for row in rows:
        if row["difficulty"] == "all":
            labels = panels.setdefault(row["benchmark"], {})
            labels.setdefault(row["policy"], {})[row["method"]] = _estimate(row)
    return {benchmark: list(labels.items()) for benchmark, labels in panels.items()}


def headline_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Policy by benchmark, with intervals."""
    lines: dict[tuple[str, str], list[Any]] = {}
    overall = [row for row in rows if row["difficulty"] == "all"]
    for row in overall:
        lines.setdefault((row["benchmark"], row["policy"]), []).append(_estimate(row).percent())
    counts = {(row["benchmark"], row["policy"]): [row["n"], row["seeds"]] for row in overall}
    methods = list(dict.fromkeys(row["method"] for row in overall))[:3]
    columns = ["benchmark", "policy", *methods, "questions", "seeds"]
    return markdown_table(columns, [[*key, *cells, *counts[key]] for key, cells in lines.items()])


def difficulty_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Vote accuracy by difficulty, one table per benchmark."""
    tables = []
    votes = [row for row in rows if row["method"] == "vote" and row["difficulty"] != "all"]
    for benchmark in dict.fromkeys(row["benchmark"] for row in votes):
        here = {(row["policy"], row["difficulty"]): _estimate(row) for row in votes if row["benchmark"] == benchmark}
        levels = in_order({level for _, level in here})
        lines = [
            [label, *(f"{e.percent()}, n {e.n}" if (e := here.get((label, level))) else "-" for level in levels)]
            for label in dict.fromkeys(label for label, _ in here)
        ]
        tables.append(f"**{benchmark}** (vote)\n\n{markdown_table(['policy', *levels], lines)}")
    return "\n\n".join(tables)


def change_markdown(strategy: str, rewards: Sequence[str], runs: Sequence[ScoreRun], bootstrap: Bootstrap) -> str:
    """What GRPO changed against its own start: paired difference, its test, and the exact McNemar test of each seed."""
    lines = []
    for benchmark, trained, method in itertools.product(benchmarks_of(runs), rewards, ("greedy", "vote")):
        before, after = (select(runs, (strategy, reward), benchmark) for reward in (WITHOUT_RL, trained))
        changes = differences(after, before, method)
        if not (estimate := bootstrap.difference(changes)):
            continue
        old, new = ({run.summary["seed"]: run.scores(method) for run in side} for side in (before, after))
        if strategy == "none" and len(old) == 1:  # the base model, asked with one seed, is the start of every run
            old = dict.fromkeys(new, *old.values())
        by_seed = [mcnemar_exact(paired_differences([new[seed]], [old[seed]])) for seed in new if seed in old]
        p_values = ", ".join(f"{p:.3g}" for p in by_seed)
        lines.append([benchmark, trained, method, estimate.points(), f"{sign_flip(changes):.3g}", p_values, estimate.n])
    columns = ["benchmark", "reward", "method", "change, points", "p (sign flip, over all seeds)"]
    columns += ["p (exact McNemar, by seed)", "questions"]
    return markdown_table(columns, lines) if lines else "GRPO and its start were not both scored."


def reference(ablation: str, runs: Sequence[ScoreRun]) -> Policy:
    """What a variant is compared with: the full reward, or the base model. Raises InputError if it was not scored."""
    wanted = "full" if ablation == "ablation_reward" else WITHOUT_RL
    for policy in all_policies(runs):
        if policy[1] == wanted:
            return policy
    raise InputError(f"{ablation}: no score summary of the reference variant (reward {wanted!r}) among --summaries")


def paper_number(ablation: str, policy: Policy) -> float | None:
    """The paper's vote on BIRD dev for this row, in percent, if it has one."""
    strategy, reward = ("none", policy[1]) if ablation == "ablation_reward" else policy
    if ablation == "ablation_reward" and reward in REWARDS:
        return REWARDS[reward].published
    published = STRATEGIES[strategy].published if strategy in STRATEGIES else None
    return dict(zip((WITHOUT_RL, "full"), published or (), strict=False)).get(reward)


def ablation_rows(ablation: str, runs: Sequence[ScoreRun], bootstrap: Bootstrap) -> list[dict[str, Any]]:
    """One row per variant; by benchmark the estimates `greedy`, `vote`, and the change of each from the reference."""
    base = reference(ablation, runs)
    rows = []
    for policy in all_policies(runs):
        row = {"policy": policy, "variant": policy_label(*policy), "paper": paper_number(ablation, policy)}
        for benchmark in benchmarks_of(runs):
            mine, start = select(runs, policy, benchmark), select(runs, base, benchmark)
            row[benchmark] = {"seeds": len(mine)}
            for method in ("greedy", "vote"):
                change = None if policy == base else bootstrap.difference(differences(mine, start, method))
                row[benchmark] |= {method: pooled_estimate(mine, method, bootstrap), f"{method}_change": change}
        rows.append(row)
    return rows


def csv_rows(rows: Sequence[dict[str, Any]], benchmarks: Sequence[str]) -> list[dict[str, Any]]:
    """The same as flat records, shares as fractions; a missing number is None."""
    records = []
    for row in rows:
        strategy, reward = row["policy"]
        record = {"variant": row["variant"], "strategy": strategy, "reward": reward}
        for name in benchmarks:
            for key, part in itertools.product(ESTIMATES, ("value", "low", "high")):
                record[f"{name}_{key}_{part}"] = getattr(row[name][key], part, None)
            record |= {f"{name}_n": getattr(row[name]["greedy"], "n", None), f"{name}_seeds": row[name]["seeds"]}
        records.append(record | {"paper_bird_dev_7b_percent": row["paper"]})
    return records


def ablation_markdown(
    ablation: str, rows: Sequence[dict[str, Any]], runs: Sequence[ScoreRun], bootstrap: Bootstrap
) -> str:
    """One table per benchmark, with notes."""
    compared = reference(ablation, runs)
    counts = [row[name]["seeds"] for row in rows for name in benchmarks_of(runs)]
    return render(
        "ablation.md.j2",
        title=ablation.removeprefix("ablation_").replace("_", " "),
        level=f"{100 * bootstrap.confidence:.0f}",
        seeds=f"{max(counts)} seed(s)" + (", of the base model one" if min(counts) < max(counts) else ""),
        base=policy_label(*compared),
        after_cold_start=ablation == "ablation_reward" and compared[0] != "none",
        rows=rows,
        benchmarks=benchmarks_of(runs),
    )


def ablation_panels(rows: Sequence[dict[str, Any]], benchmarks: Sequence[str]) -> dict[str, Rows]:
    """What `figures.interval_panels` draws: one panel per benchmark, one row per variant."""
    return {
        name: [(row["variant"], {m: row[name][m] for m in ("greedy", "vote") if row[name][m]}) for row in rows]
        for name in benchmarks
    }
