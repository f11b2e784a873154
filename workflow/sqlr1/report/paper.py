"""The tables of the paper: its numbers beside ours.

A row is a mapping: `row` (its name), `benchmark`, `paper_percent`, `paper_on` (the benchmark of the paper's number),
ours as `value`, `low`, `high` (fractions) and `n` questions, `policy`, `answers`, `model`, `seeds`, `commit`, and
`not_run`: how to get ours, empty if it is there. What the paper has not or we have not is None.
"""

import csv
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlr1.config import Prompt
from sqlr1.evaluate.evaluator import in_order
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
from sqlr1.report.published import (
    ABLATED_ON,
    BIRD_LEVELS,
    FULL,
    MAIN_BENCHMARKS,
    MAIN_RESULTS,
    SPIDER_VARIANTS,
    VALUES,
    VOTES,
)
from sqlr1.report.score_tables import estimate_of, paper_number
from sqlr1.report.tables import markdown_table
from sqlr1.rewards import REWARDS
from sqlr1.statistics import Bootstrap, Estimate
from sqlr1.strategies import STRATEGIES

Row = dict[str, Any]
TITLES = {
    "main": "Main results",
    "spider_variants": "Variants of Spider",
    "bird_difficulty": "By difficulty",
    "cold_start": "Cold start",
    "reward": "Reward",
    "values": "Values in the prompt",
    "votes": "Number of candidates",
    "efficiency": "Tokens and seconds per answer",
}


@dataclass(frozen=True)
class Results:
    """The score runs of an experiment, and what its rows say about them.

    `main` is its main policy, `skipped` names benchmarks whose files are missing, with the reason.
    """

    runs: Sequence[ScoreRun]
    main: Policy
    model: str
    commit: str
    bootstrap: Bootstrap
    skipped: Mapping[str, str]

    @property
    def benchmarks(self) -> list[str]:
        return benchmarks_of(self.runs)

    def row(
        self,
        name: str,
        policy: Policy | None,
        benchmark: str,
        paper: float | None = None,
        paper_on: str = "",
        method: str = "",
        level: str = "all",
        not_run: str = "",
    ) -> Row:
        """Ours by `method`, by default the vote, or the greedy answer if there is one sample.

        No policy: none of ours stands for the paper's row, and `not_run` says how to train one.
        """
        runs = select(self.runs, policy, benchmark) if policy else []
        n = runs[0].summary["n_samples"] if runs else 0
        method = method or ("vote" if n > 1 else "greedy")
        ours = pooled_estimate(runs, method, self.bootstrap, level)
        row = {"row": name, "benchmark": benchmark, "paper_percent": paper}
        row |= {"paper_on": None if paper is None else paper_on or benchmark}
        row |= {part: getattr(ours, part, None) for part in ("value", "low", "high", "n")}
        if not ours:
            nothing = dict.fromkeys(("policy", "answers", "model", "seeds", "commit"))
            return row | nothing | {"not_run": not_run or self._to_run(policy, benchmark, level)}
        answers = f"vote of {n}" if method == "vote" else method.replace("@", " of ")
        seeds = ", ".join(str(run.summary["seed"]) for run in runs)
        facts = {"policy": policy_label(*policy), "answers": answers, "model": self.model, "seeds": seeds}
        return row | facts | {"commit": self.commit, "not_run": ""}

    def _to_run(self, policy: Policy, benchmark: str, level: str) -> str:
        if benchmark in self.skipped:
            return self.skipped[benchmark]
        scored = select(self.runs, policy, benchmark)
        if scored and level in ("all", *(row["difficulty"] for run in scored for row in run.rows)):
            return "scored, but no gold could be judged: see the coverage in the report"
        if benchmark not in self.benchmarks:
            entries = "config.yaml and workflow/config/paper.yaml have entries"
            return f"name the benchmark under `benchmarks` ({entries}), then `snakemake paper_tables`"
        if level != "all":
            return f"none of the questions is {level}"
        strategy, reward = policy
        if reward in (WITHOUT_RL, FULL) and strategy != self.main[0]:
            return "`snakemake ablation_cold_start`, then `snakemake paper_tables`"
        return "`snakemake ablation_reward`, then `snakemake paper_tables`"


def main_results(results: Results) -> list[Row]:
    """The paper's policies on its benchmarks, then the other policies and benchmarks of ours."""
    own = next((p.model for p in MAIN_RESULTS if p.model and p.model in results.model.lower()), "")
    rows, shown = [], set()
    for published in MAIN_RESULTS:
        mine = published.model == own
        policy = (published.policy or results.main) if mine else None
        command = "" if mine else published.command
        for benchmark, number in zip(MAIN_BENCHMARKS, published.numbers, strict=True):
            rows.append(results.row(published.label, policy, benchmark, number, not_run=command))
            shown.add((policy, benchmark))
    others = itertools.product(policies_of(results.runs), results.benchmarks)
    scored = [(p, b) for p, b in others if (p, b) not in shown and select(results.runs, p, b)]
    return rows + [results.row(policy_label(*policy), policy, benchmark) for policy, benchmark in scored]


def spider_variants(results: Results) -> list[Row]:
    """SQL-R1 7B on Spider's variants, beside our main policy."""
    return [results.row("SQL-R1 7B", results.main, name, number) for name, number in SPIDER_VARIANTS.items()]


def by_difficulty(results: Results) -> list[Row]:
    """BIRD dev by difficulty, then our other benchmarks."""
    rows = [results.row(level, results.main, ABLATED_ON, number, level=level) for level, number in BIRD_LEVELS.items()]
    for benchmark in results.benchmarks:
        found = {row["difficulty"] for run in select(results.runs, results.main, benchmark) for row in run.rows}
        if benchmark != ABLATED_ON:
            rows += [results.row(level, results.main, benchmark, level=level) for level in in_order(found - {""})]
    return rows


def cold_start(results: Results) -> list[Row]:
    """Each cold start, without RL and with the paper's reward."""
    return [
        results.row(policy_label(*policy), policy, benchmark, paper_number("ablation_cold_start", policy), ABLATED_ON)
        for policy in itertools.product(STRATEGIES, (WITHOUT_RL, FULL))
        for benchmark in results.benchmarks
    ]


def reward(results: Results) -> list[Row]:
    """The reward and each of its parts dropped, after our cold start; the paper starts from the base model."""
    ablated = {name: variant.label for name, variant in REWARDS.items() if variant.ablated}
    return [
        results.row(label, policy, benchmark, paper_number("ablation_reward", policy), ABLATED_ON)
        for name, label in {WITHOUT_RL: "without GRPO", **ablated}.items()
        if (policy := (results.main[0], name))
        for benchmark in results.benchmarks
    ]


def has_values(prompt: Prompt) -> bool:
    """Whether prompts show values of the database."""
    return bool(prompt.example_values or prompt.retrieved_values)


def values(results: Results, prompt: Prompt, other: Results | None, not_run: str) -> list[Row]:
    """The main policy with and without values in its prompts; `other` was trained with the prompt that we have not."""
    rows = []
    for shown, number in VALUES.items():
        with_prompt = results if shown == has_values(prompt) else other
        name = "with values" if shown else "without values"
        for benchmark in results.benchmarks:
            policy, by = (with_prompt.main, with_prompt) if with_prompt else (None, results)
            rows.append(by.row(name, policy, benchmark, number, ABLATED_ON, not_run=not_run))
    return rows


def votes(results: Results, policies: Sequence[Policy]) -> list[Row]:
    """The greedy answer, and the vote over 1 to n of the same samples: the mean over the choices among them."""
    rows = []
    for policy, benchmark in itertools.product(policies, results.benchmarks):
        of_main = VOTES if policy == results.main else {}
        n = max((run.summary["n_samples"] for run in select(results.runs, policy, benchmark)), default=0)
        names = {"greedy": "greedy"} | {f"vote of {k}": f"vote@{k}" for k in range(1, n + 1) if n > 1}
        rows += [results.row(name, policy, benchmark, of_main.get(name), ABLATED_ON, m) for name, m in names.items()]
        for name in [name for name in of_main if name not in names]:
            command = "`candidates: {n: 8}` in the configuration, then `snakemake paper_tables`"
            rows.append(results.row(name, None, benchmark, of_main[name], ABLATED_ON, not_run=command))
    return rows


def vote_panels(rows: Sequence[Row]) -> dict[str, dict[str, list[tuple[float, Estimate]]]]:
    """What `figures.curve_panels` draws of the rows of `votes`: a panel per benchmark, a line per policy."""
    panels: dict[str, dict[str, list[tuple[float, Estimate]]]] = {}
    for row in rows:
        if row["row"] != "greedy" and (ours := estimate_of(row)):
            lines = panels.setdefault(f"{row['benchmark']}: execution accuracy", {})
            lines.setdefault(row["policy"], []).append((int(row["row"].split()[-1]), ours))
    return panels


def efficiency(
    results: Results, policies: Sequence[Policy], manifests: Mapping[tuple[str, ...], Row], times: Path
) -> list[Row]:
    """Mean tokens of prompt and answers, and seconds per answer, over the seeds; no number of the paper is known.

    `manifests` are the candidates' by (strategy, reward, seed-N, benchmark). Seconds are those of the whole job, by the
    file that Snakemake wrote below `times`, divided by its answers; None if it is missing.
    """
    rows = []
    for policy, benchmark in itertools.product(policies, results.benchmarks):
        runs = select(results.runs, policy, benchmark)
        if not runs:
            continue
        keys = [(*policy, f"seed-{run.summary['seed']}", benchmark) for run in runs]
        tokens = [manifests[key]["tokens"] for key in keys]
        answers = sum(manifests[key]["answers"] for key in keys)
        seconds = [_seconds(times.joinpath(*key).with_suffix(".tsv")) for key in keys]
        found = {
            f"{what}_tokens": sum(t[what] for t in tokens) / len(tokens) for what in ("prompt", "greedy", "sample")
        }
        found |= {"seconds_per_answer": None if None in seconds else sum(seconds) / answers, "answers": answers}
        row = {"row": policy_label(*policy), "benchmark": benchmark, "paper_percent": None, **found}
        seeds = ", ".join(str(run.summary["seed"]) for run in runs)
        rows.append(row | {"model": results.model, "seeds": seeds, "commit": results.commit})
    return rows


def _seconds(path: Path) -> float | None:
    if not path.is_file():
        return None
    with path.open(encoding="utf-8") as file:
        return float(next(csv.DictReader(file, delimiter="\t"))["s"])


def comparison_panels(tables: Mapping[str, Sequence[Row]], benchmark: str) -> dict[str, Rows]:
    """What `figures.interval_panels` draws: the paper's number beside ours on a benchmark, a panel per table."""
    panels = {}
    for name, rows in tables.items():
        drawn = []
        for row in rows:
            paper = row["paper_percent"]
            series = {} if paper is None else {"paper": Estimate(paper / 100, paper / 100, paper / 100, 0)}
            series |= {"ours": ours} if (ours := estimate_of(row)) else {}
            drawn += [(row["row"], series)] if row["benchmark"] == benchmark and series else []
        panels[TITLES[name]] = drawn
    return panels


COLUMNS = ("", "benchmark", "paper, %", "ours, %", "policy", "answers", "questions", "seeds", "model", "commit")


def markdown(rows: Sequence[Row]) -> str:
    """A table. Rows that were not run are one if they have one name and need the same; a list below says what."""
    lines, wanted = [], []
    for (name, not_run), group in itertools.groupby(rows, key=lambda row: (row["row"], row["not_run"])):
        same = list(group)
        if not_run and not_run not in wanted:
            wanted.append(not_run)
        for some in [same] if not_run else [[row] for row in same]:
            first = some[0]
            ours = f"not run ({wanted.index(not_run) + 1})" if not_run else estimate_of(first).percent()
            facts = [first[column] or "-" for column in ("policy", "answers", "n", "seeds", "model")]
            benchmarks, papers = ", ".join(row["benchmark"] for row in some), dict.fromkeys(map(_paper, some))
            lines.append([name, benchmarks, ", ".join(papers), ours, *facts, short(first["commit"] or "-")])
    table = markdown_table(COLUMNS, lines)
    return "\n\n".join([table, *(f"{number}. Not run: {text}" for number, text in enumerate(wanted, 1))])


def efficiency_markdown(rows: Sequence[Row]) -> str:
    """The rows of `efficiency`."""
    numbers = ("prompt_tokens", "greedy_tokens", "sample_tokens", "seconds_per_answer")
    lines = []
    for row in rows:
        cells = ["-" if row[number] is None else f"{row[number]:.4g}" for number in numbers]
        facts = [row["answers"], row["seeds"], row["model"], short(row["commit"])]
        lines.append([row["row"], row["benchmark"], *cells, *facts])
    columns = ["policy", "benchmark", "tokens: prompt", "greedy answer", "sample", "seconds per answer", "answers"]
    return markdown_table([*columns, "seeds", "model", "commit"], lines)


def short(commit: str) -> str:
    """`0123456789-dirty` for a whole hash."""
    return re.sub(r"^([0-9a-f]{10})[0-9a-f]{30}", r"\1", commit)


def _paper(row: Row) -> str:
    if row["paper_percent"] is None:
        return "-"
    elsewhere = f" ({row['paper_on']})" if row["paper_on"] != row["benchmark"] else ""
    return f"{row['paper_percent']:.1f}{elsewhere}"
