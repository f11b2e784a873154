"""Ablation tables: one row a variant, its execution accuracy on each benchmark beside the paper's number."""

from collections.abc import Sequence
from typing import Any

from sqlr1.evaluate.estimates import Bootstrap, Estimate, paired_difference
from sqlr1.prompt import STRATEGIES
from sqlr1.records import InputError
from sqlr1.report.figures import Rows
from sqlr1.report.policies import WITHOUT_RL, ScoreRun, benchmarks_of, policy_label, pooled_estimate, select
from sqlr1.report.tables import markdown_table
from sqlr1.rewards import REWARDS

PAPER_NOTE = (
    "The paper's numbers are SQL-R1's (arXiv 2504.08600): another model (Qwen2.5-Coder-7B), another benchmark "
    "(BIRD dev, vote of 8). They are here for the direction of each effect, not its size."
)
# Cold start: the paper has one strategy, SFT on 200K rows with reasoning.
_PAPER_START = (
    " The paper ablates its reward in RL from the base model, without a cold start: the same reward stands beside it."
)
ESTIMATES = ("greedy", "greedy_change", "vote", "vote_change")


def variants(runs: Sequence[ScoreRun]) -> list[tuple[str, str]]:
    """The policies among the runs, weakest cold start first, each without RL first."""
    strategies, rewards = list(STRATEGIES), [WITHOUT_RL, *REWARDS]
    return sorted({run.policy for run in runs}, key=lambda p: (strategies.index(p[0]), rewards.index(p[1])))


def reference(ablation: str, runs: Sequence[ScoreRun]) -> tuple[str, str]:
    """What a variant is compared with: the full reward, or the base model. Raises InputError if it was not scored."""
    wanted = "full" if ablation == "ablation_reward" else WITHOUT_RL
    for policy in variants(runs):
        if policy[1] == wanted:
            return policy
    raise InputError(f"{ablation}: no score summary of the reference variant (reward {wanted!r}) among --summaries")


def paper_number(ablation: str, policy: tuple[str, str]) -> float | None:
    """The paper's vote on BIRD dev for this row, in percent, if it has one."""
    strategy, reward = policy
    without, with_rl = (STRATEGIES["none"] if ablation == "ablation_reward" else STRATEGIES[strategy]).published or (
        None,
        None,
    )
    if reward == WITHOUT_RL:
        return without
    return REWARDS[reward].published if ablation == "ablation_reward" else with_rl if reward == "full" else None


def ablation_rows(ablation: str, runs: Sequence[ScoreRun], bootstrap: Bootstrap) -> list[dict[str, Any]]:
    """One row a variant; by benchmark the estimates `greedy`, `vote`, and the change of each against the reference."""
    base = reference(ablation, runs)
    rows = []
    for policy in variants(runs):
        row: dict[str, Any] = {
            "policy": policy,
            "variant": policy_label(*policy),
            "paper": paper_number(ablation, policy),
        }
        for benchmark in benchmarks_of(runs):
            mine, start = select(runs, policy, benchmark), select(runs, base, benchmark)
            row[benchmark] = {
                "seeds": len(mine),
                "greedy": pooled_estimate(mine, "greedy", bootstrap),
                "vote": pooled_estimate(mine, "vote", bootstrap),
                "greedy_change": None if policy == base else _change("greedy", mine, start, bootstrap),
                "vote_change": None if policy == base else _change("vote", mine, start, bootstrap),
            }
        rows.append(row)
    return rows


def _change(method: str, mine: Sequence[ScoreRun], start: Sequence[ScoreRun], bootstrap: Bootstrap) -> Estimate | None:
    return paired_difference([run.scores(method) for run in mine], [run.scores(method) for run in start], bootstrap)


def csv_rows(rows: Sequence[dict[str, Any]], benchmarks: Sequence[str]) -> list[dict[str, Any]]:
    """The same as flat records, shares as fractions; an absent number is an empty cell."""
    records = []
    for row in rows:
        strategy, reward = row["policy"]
        record = {"variant": row["variant"], "strategy": strategy, "reward": reward}
        for benchmark in benchmarks:
            for name in ESTIMATES:
                estimate = row[benchmark][name]
                record |= {
                    f"{benchmark}_{name}_{part}": getattr(estimate, part, "") for part in ("value", "low", "high")
                }
            record |= {
                f"{benchmark}_n": getattr(row[benchmark]["greedy"], "n", ""),
                f"{benchmark}_seeds": row[benchmark]["seeds"],
            }
        records.append(record | {"paper_bird_dev_7b_percent": "" if row["paper"] is None else row["paper"]})
    return records


def ablation_markdown(
    ablation: str, rows: Sequence[dict[str, Any]], runs: Sequence[ScoreRun], bootstrap: Bootstrap
) -> str:
    """One table a benchmark, with notes."""
    compared = reference(ablation, runs)
    base, base_strategy = policy_label(*compared), compared[0]
    counts = [row[name]["seeds"] for row in rows for name in benchmarks_of(runs)]
    seeds = f"{max(counts)} seed(s)" + (", of the base model one" if min(counts) < max(counts) else "")
    note = (
        f"Execution accuracy in % with {100 * bootstrap.confidence:.0f} % intervals (bootstrap over questions, mean of "
        f"{seeds}); a change is in points, against *{base}*, paired by question."
    )
    title = ablation.removeprefix("ablation_").replace("_", " ")
    columns = ["variant", "greedy", "change", "vote", "change", "paper (7B, BIRD dev, vote)"]
    starts = _PAPER_START if ablation == "ablation_reward" and base_strategy != "none" else ""
    parts = [f"# Ablation: {title}", note, PAPER_NOTE + starts]
    for benchmark in benchmarks_of(runs):
        lines = [_line(row, benchmark) for row in rows]
        parts.append(f"## {benchmark}\n\n{markdown_table(columns, lines)}")
    return "\n\n".join(parts) + "\n"


def _line(row: dict[str, Any], benchmark: str) -> list[str]:
    cell = row[benchmark]
    line = [row["variant"]]
    for method in ("greedy", "vote"):
        line.append(cell[method].percent() if cell[method] else "-")
        line.append(cell[f"{method}_change"].points() if cell[f"{method}_change"] else "-")
    return [*line, "-" if row["paper"] is None else f"{row['paper']:.1f}"]


def ablation_panels(rows: Sequence[dict[str, Any]], benchmarks: Sequence[str]) -> dict[str, Rows]:
    """What `figures.interval_panels` draws: a panel a benchmark, a row a variant."""
    return {
        name: [
            (row["variant"], {m: row[name][m] for m in ("greedy", "vote") if row[name][m] is not None}) for row in rows
        ]
        for name in benchmarks
    }
