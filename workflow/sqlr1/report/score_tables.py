"""The score tables of the report and of the ablations, from score runs."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlr1.evaluate.evaluator import in_order
from sqlr1.evaluate.features import FEATURES
from sqlr1.records import InputError
from sqlr1.report.figures import Rows
from sqlr1.report.policies import (
    WITHOUT_RL,
    Policy,
    ScoreRun,
    benchmarks_of,
    policies_of,
    policy_label,
    pooled_estimate,
    select,
)
from sqlr1.report.tables import markdown_table
from sqlr1.report.templates import render
from sqlr1.rewards import REWARDS
from sqlr1.statistics import Bootstrap, Estimate, mcnemar_exact, paired_differences, sign_flip
from sqlr1.strategies import STRATEGIES

Row = dict[str, Any]
ABLATIONS = ("ablation_reward", "ablation_cold_start")
_SPOKEN = {"greedy": "greedy", "vote": "the vote's", "pass@1": "single samples'"}
ESTIMATES = ("greedy", "greedy_change", "vote", "vote_change")


def report_policies(strategy: str, rewards: Sequence[str], runs: Sequence[ScoreRun]) -> list[Policy]:
    """Base model, cold start, cold start + GRPO by reward: those that were scored, in this order, each once."""
    wanted = dict.fromkeys([("none", WITHOUT_RL), (strategy, WITHOUT_RL), *((strategy, reward) for reward in rewards)])
    return [policy for policy in wanted if any(run.policy == policy for run in runs)]


def score_rows(policies: Sequence[Policy], runs: Sequence[ScoreRun], bootstrap: Bootstrap) -> list[Row]:
    """One row per estimate: benchmark, policy, method, difficulty, value, low, high, n, seeds."""
    rows = []
    for benchmark, policy in itertools.product(benchmarks_of(runs), policies):
        mine = select(runs, policy, benchmark)
        levels = in_order({"all", *(row["difficulty"] for run in mine for row in run.rows if row["difficulty"])})
        for method, level in itertools.product(mine[0].methods if mine else [], levels):
            if estimate := pooled_estimate(mine, method, bootstrap, level):
                row = {"benchmark": benchmark, "metric": mine[0].summary["metric"], "policy": policy_label(*policy)}
                row |= {"strategy": policy[0], "reward": policy[1], "method": method, "difficulty": level}
                rows.append(row | vars(estimate) | {"seeds": len(mine)})
    return rows


def estimate_of(row: Mapping[str, Any]) -> Estimate | None:
    """The estimate in a row of a table; None if it has none."""
    return None if row["value"] is None else Estimate(row["value"], row["low"], row["high"], row["n"])


def score_panels(rows: Sequence[Mapping[str, Any]]) -> dict[str, Rows]:
    """What `figures.interval_panels` draws: one panel per benchmark, one row per policy."""
    panels: dict[str, dict[str, dict[str, Estimate]]] = {}
    for row in rows:
        if row["difficulty"] == "all":
            labels = panels.setdefault(row["benchmark"], {})
            labels.setdefault(row["policy"], {})[row["method"]] = estimate_of(row)
    return {benchmark: list(labels.items()) for benchmark, labels in panels.items()}


def headline_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Policy by benchmark, with intervals."""
    lines: dict[tuple[str, str], list[Any]] = {}
    overall = [row for row in rows if row["difficulty"] == "all"]
    for row in overall:
        lines.setdefault((row["benchmark"], row["policy"]), []).append(estimate_of(row).percent())
    counts = {(row["benchmark"], row["policy"]): [row["n"], row["seeds"]] for row in overall}
    methods = list(dict.fromkeys(row["method"] for row in overall))[:3]
    columns = ["benchmark", "policy", *methods, "questions", "seeds"]
    return markdown_table(columns, [[*key, *cells, *counts[key]] for key, cells in lines.items()])


def difficulty_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Accuracy by difficulty, one table per benchmark and method."""
    tables = []
    wanted = [row for row in rows if row["method"] in ("greedy", "vote") and row["difficulty"] != "all"]
    for benchmark, method in dict.fromkeys((row["benchmark"], row["method"]) for row in wanted):
        mine = [row for row in wanted if (row["benchmark"], row["method"]) == (benchmark, method)]
        here = {(row["policy"], row["difficulty"]): estimate_of(row) for row in mine}
        levels = in_order({level for _, level in here})
        lines = [
            [label, *(f"{e.percent()}, n {e.n}" if (e := here.get((label, level))) else "-" for level in levels)]
            for label in dict.fromkeys(label for label, _ in here)
        ]
        tables.append(f"**{benchmark}** ({method})\n\n{markdown_table(['policy', *levels], lines)}")
    return "\n\n".join(tables)


def feature_markdown(policies: Sequence[Policy], runs: Sequence[ScoreRun], bootstrap: Bootstrap) -> str:
    """Accuracy of the greedy answers by what the gold uses; a gold may count in several columns."""
    lines = []
    for benchmark, policy in itertools.product(benchmarks_of(runs), policies):
        mine = select(runs, policy, benchmark)
        estimates = [pooled_estimate(mine, "greedy", bootstrap, name) for name in FEATURES]
        cells = [f"{estimate.percent()}, n {estimate.n}" if estimate else "-" for estimate in estimates]
        lines.append([benchmark, policy_label(*policy), *cells])
    return markdown_table(["benchmark", "policy", *FEATURES], lines)


def metrics_markdown(policies: Sequence[Policy], runs: Sequence[ScoreRun], bootstrap: Bootstrap) -> str:
    """The greedy answers by every measure; for perturbed benchmarks also how many match on one instance alone."""
    lines = []
    found = [run.summary["metrics"] for run in runs]
    measures = [m for m in dict.fromkeys(name for metrics in found for name in metrics) if m != "one_instance"]
    for benchmark, policy in itertools.product(benchmarks_of(runs), policies):
        mine = select(runs, policy, benchmark)
        estimates = [pooled_estimate(mine, "greedy", bootstrap, measure=measure) for measure in measures]
        cells = [estimate.percent() if estimate else "-" for estimate in estimates]
        lines.append([benchmark, policy_label(*policy), *cells, coincidences(mine)])
    names = [measure.replace("_", " ") for measure in measures]
    return markdown_table(["benchmark", "policy", *names, "right on one instance only"], lines)


def coincidences(runs: Sequence[ScoreRun]) -> str:
    """How many greedy answers match on the database itself, but not on all of its instances; "-" without instances."""
    answers = [(row["greedy"], run.summary["metric"]) for run in runs for row in run.rows]
    alone = [answer["one_instance"] - answer[metric] for answer, metric in answers if "one_instance" in answer]
    return f"{sum(alone)} of {len(alone)}" if alone else "-"


@dataclass(frozen=True)
class Change:
    """What GRPO changed on a benchmark against its own start, for one reward and one method of answering.

    `by_seed`: exact McNemar tests of greedy or vote. `p`: the same if there is one; else by sign flips over questions,
    whose scores are means over seeds or samples. `won`, `lost`: answers (of single samples: questions), over all seeds.
    """

    benchmark: str
    reward: str
    method: str
    before: Estimate
    after: Estimate
    difference: Estimate
    p: float
    by_seed: list[float]
    won: int
    lost: int

    def sentence(self) -> str:
        """The result in words."""
        answers = f"{_SPOKEN[self.method]} execution accuracy on {self.benchmark}"
        if abs(self.difference.value) < 1e-9:  # a sum of thirds may not be exactly 0
            return f"GRPO left {answers} at {100 * self.after.value:.1f} % ({self.difference.n} questions)."
        verb = "raised" if self.difference.value > 0 else "lowered"
        p = "p < 0.001" if self.p < 0.001 else f"p = {self.p:.2g}"
        counts = f"{self.difference.n} questions, {self.won} won, {self.lost} lost"
        text = (
            f"GRPO {verb} {answers} from {100 * self.before.value:.1f} to {100 * self.after.value:.1f} % "
            f"({self.difference.points()} points, {p}, {counts})."
        )
        return text if self.p < 0.05 else f"{text} This may be chance."


def _differences(new: Sequence[ScoreRun], old: Sequence[ScoreRun], method: str) -> list[float]:
    """New - old, paired by question, each pooled over its seeds."""
    return paired_differences([run.scores(method) for run in new], [run.scores(method) for run in old])


def changes(strategy: str, rewards: Sequence[str], runs: Sequence[ScoreRun], bootstrap: Bootstrap) -> list[Change]:
    """The change by GRPO for each benchmark, reward and method; those that were scored before and after."""
    found = []
    for benchmark, trained, method in itertools.product(benchmarks_of(runs), rewards, ("greedy", "vote", "pass@1")):
        before, after = (select(runs, (strategy, reward), benchmark) for reward in (WITHOUT_RL, trained))
        change = _differences(after, before, method)
        answered = all(method in (*run.methods, "pass@1") for run in (*before, *after))
        if not answered or not (estimate := bootstrap.difference(change)):
            continue
        old, new = ({run.summary["seed"]: run.scores(method) for run in side} for side in (before, after))
        if strategy == "none" and len(old) == 1:  # the base model, asked with one seed, is the start of every run
            old = dict.fromkeys(new, *old.values())
        paired = [paired_differences([new[seed]], [old[seed]]) for seed in new if seed in old]
        # A single sample's score is a share of several samples: no verdict, as McNemar's test needs.
        by_seed = [] if method == "pass@1" else [mcnemar_exact(differences) for differences in paired]
        p = by_seed[0] if len(by_seed) == 1 else sign_flip(change)
        won, lost = (sum(sign * d > 0 for differences in paired for d in differences) for sign in (1, -1))
        ends = [pooled_estimate(side, method, bootstrap) for side in (before, after)]
        found.append(Change(benchmark, trained, method, *ends, estimate, p, by_seed, won, lost))
    return found


def change_markdown(found: Sequence[Change]) -> str:
    """The changes as a table."""
    lines = []
    for c in found:
        by_seed = ", ".join(f"{p:.3g}" for p in c.by_seed) or "-"
        found_by = [c.difference.points(), f"{c.p:.3g}", by_seed, c.won, c.lost, c.difference.n]
        lines.append([c.benchmark, c.reward, c.method, *found_by])
    columns = ["benchmark", "reward", "method", "change, points", "p (all seeds)", "p (exact McNemar, by seed)"]
    columns += ["won", "lost", "questions"]
    return markdown_table(columns, lines) if lines else "GRPO and its start were not both scored."


def reference(ablation: str, runs: Sequence[ScoreRun]) -> Policy:
    """What a variant is compared with: the full reward, or the base model. Raises InputError if it was not scored."""
    wanted = "full" if ablation == "ablation_reward" else WITHOUT_RL
    for policy in policies_of(runs):
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


def ablation_rows(ablation: str, runs: Sequence[ScoreRun], bootstrap: Bootstrap) -> list[Row]:
    """One row per variant; by benchmark the estimates `greedy`, `vote`, and the change of each from the reference.

    An estimate is None without scores; the vote also if there is one sample.
    """
    base = reference(ablation, runs)
    rows = []
    for policy in policies_of(runs):
        row = {"policy": policy, "variant": policy_label(*policy), "paper": paper_number(ablation, policy)}
        for benchmark in benchmarks_of(runs):
            mine, start = select(runs, policy, benchmark), select(runs, base, benchmark)
            row[benchmark] = {"seeds": len(mine)}
            for method in ("greedy", "vote"):
                new, old = ([run for run in side if method in run.methods] for side in (mine, start))
                change = None if policy == base else bootstrap.difference(_differences(new, old, method))
                row[benchmark] |= {method: pooled_estimate(new, method, bootstrap), f"{method}_change": change}
        rows.append(row)
    return rows


def csv_rows(rows: Sequence[Row], benchmarks: Sequence[str]) -> list[Row]:
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
    ablation: str, rows: Sequence[Row], runs: Sequence[ScoreRun], bootstrap: Bootstrap, masks: bool
) -> str:
    """One table per benchmark, with notes, of answers that were given under `masks` or freely."""
    compared = reference(ablation, runs)
    counts = [row[name]["seeds"] for row in rows for name in benchmarks_of(runs)]
    return render(
        "ablation.md.j2",
        title=ablation.removeprefix("ablation_").replace("_", " "),
        level=f"{100 * bootstrap.confidence:.0f}",
        seeds=f"{max(counts)} seed(s)" + (", of the base model one" if min(counts) < max(counts) else ""),
        base=policy_label(*compared),
        masks=masks,
        after_cold_start=ablation == "ablation_reward" and compared[0] != "none",
        rows=rows,
        benchmarks=benchmarks_of(runs),
    )


def ablation_panels(rows: Sequence[Row], benchmarks: Sequence[str]) -> dict[str, Rows]:
    """What `figures.interval_panels` draws: one panel per benchmark, one row per variant."""
    return {
        name: [(row["variant"], {m: row[name][m] for m in ("greedy", "vote") if row[name][m]}) for row in rows]
        for name in benchmarks
    }
