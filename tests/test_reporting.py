"""Estimates, ablation tables, curves and figures on small inputs whose numbers were worked out by hand."""

import csv
import json
import math
import os
import subprocess
import sys
from dataclasses import replace

import pytest

from sqlr1.records import InputError, write_json, write_jsonl
from sqlr1.report.curves import (
    VALIDATION,
    VALIDATION_SIZE,
    collapse_warnings,
    mean_curve,
    read_metrics,
    training_panels,
    validation_point,
    variance_sentence,
)
from sqlr1.report.data_tables import selection_rows
from sqlr1.report.examples import choose_examples
from sqlr1.report.figures import bars, curve_panels, interval_panels, save, smoothed
from sqlr1.report.policies import load_runs, policy_label, pooled_estimate, select
from sqlr1.report.score_tables import (
    Change,
    ablation_markdown,
    ablation_rows,
    change_markdown,
    changes,
    coincidences,
    csv_rows,
    headline_markdown,
    report_policies,
    score_rows,
)
from sqlr1.report.tables import markdown_table
from sqlr1.report.templates import render
from sqlr1.stages import ablation
from sqlr1.statistics import Bootstrap, Estimate, mcnemar_exact, paired_differences, pooled
from sqlr1.train.monitor import COLLAPSE

BOOTSTRAP = Bootstrap(resamples=500)


def answer(right):
    return {
        "sql": f"SELECT {right}", "reasoning": "why", "well_formed": 1, "executable": 1, "error": "",
        "verdict": "match" if right else "mismatch", "kinds": [] if right else ["tables"],
        "spider_exec": right, "bird_ex": right,
    }  # fmt: skip


def question_row(index, greedy, vote, right, n=2):
    preview = {"status": "ok", "columns": ["a"], "total": 1, "rows": [[1]]}
    return {
        "id": str(index), "index": index, "db_id": "zoo", "difficulty": "easy" if index % 2 else "hard",
        "question": f"question {index}?", "gold": "SELECT 1", "greedy": answer(greedy), "vote": answer(vote),
        "samples": {"n": n, "well_formed": n, "executable": n, "spider_exec": right, "bird_ex": right},
        # Results that differ: a tie, which the first sample wins.
        "each": {"result": [0, 1], "spider_exec": [vote, right - vote], "bird_ex": [vote, right - vote]},
        "preview": {"gold": preview, "vote": preview},
    }  # fmt: skip


def write_run(folder, strategy, reward, verdicts, seed=0, benchmark="tiny", n=2):
    """A score run; `verdicts` is (greedy, vote, samples right) a question. Returns the paths of its two files."""
    out = folder / strategy / reward / f"seed-{seed}" / benchmark
    identity = {"benchmark": benchmark, "layout": "spider", "strategy": strategy, "reward": reward, "seed": seed}
    coverage = {"questions": len(verdicts), "missing_databases": {}, "excluded": 0, "gold_failed": [], "unanswered": 0}
    write_json(out / "summary.json", identity | coverage | {"n_samples": n, "metric": "spider_exec", "metrics": {}})
    write_jsonl(out / "questions.jsonl", [question_row(i, *verdict, n) for i, verdict in enumerate(verdicts)])
    return out / "summary.json", out / "questions.jsonl"


BASE = [(0, 0, 0), (0, 0, 1), (1, 1, 2), (0, 1, 1)]  # greedy 1/4, vote 2/4, pass@2 3/4
FULL = [(1, 1, 2), (0, 1, 1), (1, 1, 2), (1, 0, 1)]  # greedy 3/4, vote 3/4, pass@2 4/4
FULL_AGAIN = [(1, 1, 2), (0, 0, 0), (1, 1, 2), (0, 0, 0)]  # another seed: greedy 2/4, vote 2/4


@pytest.fixture
def files(tmp_path):
    return [
        write_run(tmp_path, "none", "no_rl", BASE),
        write_run(tmp_path, "none", "full", FULL),
        write_run(tmp_path, "none", "full", FULL_AGAIN, seed=1),
        write_run(tmp_path, "none", "no_length", BASE),
    ]


@pytest.fixture
def runs(files):
    return load_runs([summary for summary, _ in files], [rows for _, rows in files])


def test_an_interval_holds_the_mean():
    estimate = BOOTSTRAP.share(3, 12)
    assert (estimate.value, estimate.n) == (0.25, 12)
    assert 0 <= estimate.low < 0.25 < estimate.high < 0.6
    assert Estimate(0.125, 0.101, 0.1494, 9).percent() == "12.5 [10.1, 14.9]"


def test_none_right_and_all_right_are_no_certainty():
    # Clopper-Pearson: with 0 of 8 right the upper bound solves (1 - p)**8 = .025.
    none, everything = BOOTSTRAP.mean([0] * 8), BOOTSTRAP.mean([1] * 8)
    assert (none.value, none.low, none.high) == (0, 0, pytest.approx(0.3694, abs=1e-4))
    assert (everything.low, everything.high) == (pytest.approx(0.6306, abs=1e-4), 1)


def test_seeds_are_pooled_by_question():
    assert pooled([{"a": 1, "b": 0}, {"a": 0, "b": 0, "c": 1}]) == {"a": 0.5, "b": 0.0}
    assert pooled([]) == {}


def test_a_difference_is_paired_by_question():
    always_one_better = paired_differences([{"a": 1, "b": 1}], [{"a": 0, "b": 0, "c": 1}])
    assert always_one_better == [1, 1]
    assert BOOTSTRAP.difference(paired_differences([{"a": 1}], [{"b": 1}])) is None


def test_mcnemar_counts_only_the_questions_that_differ():
    # Five changes, all in one direction: 2 * (1/2)**5.
    new, old = {str(i): 1 for i in range(9)}, {str(i): int(i >= 5) for i in range(9)}
    assert mcnemar_exact(paired_differences([new], [old])) == pytest.approx(0.0625)


def test_estimates_over_two_seeds(runs):
    full = select(runs, ("none", "full"), "tiny")
    # By question, mean of two seeds: greedy 1, 0, 1, .5; vote 1, .5, 1, 0; pass@2 1, .5, 1, .5.
    assert pooled_estimate(full, "greedy", BOOTSTRAP).value == pytest.approx(2.5 / 4)
    assert pooled_estimate(full, "vote", BOOTSTRAP).value == pytest.approx(2.5 / 4)
    assert pooled_estimate(full, "pass@2", BOOTSTRAP).value == pytest.approx(3 / 4)
    assert pooled_estimate(full, "vote", BOOTSTRAP, "easy").value == pytest.approx(0.5 / 2)
    assert pooled_estimate(select(runs, ("none", "full"), "other"), "vote", BOOTSTRAP) is None


def test_summaries_and_rows_must_lie_side_by_side(files):
    with pytest.raises(InputError, match="beside its summary"):
        load_runs([summary for summary, _ in files], [rows for _, rows in reversed(files)])


def test_ablation_has_one_row_a_variant_beside_the_papers_number(runs):
    rows = ablation_rows("ablation_reward", runs, BOOTSTRAP)
    assert [(row["policy"][1], row["paper"]) for row in rows] == [("no_rl", 58.2), ("full", 63.1), ("no_length", 61.0)]
    cells = [row["tiny"] for row in rows]
    assert [cell["vote"].value for cell in cells] == [0.5, 0.625, 0.5]
    assert [cell["seeds"] for cell in cells] == [1, 2, 1]
    assert cells[1]["vote_change"] is None
    # Vote of no_length 0, 0, 1, 1 against full's 1, .5, 1, 0.
    assert cells[2]["vote_change"].value == pytest.approx(-0.125)
    assert cells[2]["greedy_change"].value == pytest.approx(0.25 - 0.625)
    assert cells[2]["vote_change"].low < -0.125 < cells[2]["vote_change"].high


def test_the_cold_start_ablation_is_compared_with_the_base_model(runs):
    rows = ablation_rows("ablation_cold_start", runs[:1] + runs[1:2], BOOTSTRAP)
    assert rows[0]["tiny"]["vote_change"] is None
    assert [row["paper"] for row in rows] == [58.2, 63.1]


def test_a_reward_that_is_in_no_table_has_its_name_for_a_label_and_no_published_number(tmp_path, files):
    files = [*files, write_run(tmp_path, "none", "mine", FULL)]
    runs = load_runs([summary for summary, _ in files], [rows for _, rows in files])
    rows = ablation_rows("ablation_reward", runs, BOOTSTRAP)
    assert (rows[-1]["policy"], rows[-1]["variant"], rows[-1]["paper"]) == (("none", "mine"), "base model + mine", None)
    text = ablation_markdown("ablation_reward", rows, runs, BOOTSTRAP, False)
    assert "| base model + mine | 75.0 [" in text
    assert text.rstrip().endswith("| - |")
    assert "| tiny | mine | greedy | +50.0 [" in change_markdown(changes("none", ["mine"], runs, BOOTSTRAP))
    parts = training_panels([], [[{"step": 1, "rewards/format/mean": 1.0, "rewards/mine/mean": 2.0}]], {}, BOOTSTRAP)
    assert list(parts["GRPO: reward parts"]) == ["format", "mine"]


def test_a_missing_reference_is_named(runs):
    with pytest.raises(InputError, match="no score summary of the reference variant"):
        ablation_rows("ablation_reward", [run for run in runs if run.policy[1] != "full"], BOOTSTRAP)


def test_a_variant_without_scores_on_a_benchmark_leaves_its_cells_empty(tmp_path, files):
    files = [*files, write_run(tmp_path, "none", "full", FULL, benchmark="other")]
    runs = load_runs([summary for summary, _ in files], [rows for _, rows in files])
    first = csv_rows(ablation_rows("ablation_reward", runs, BOOTSTRAP), ["other", "tiny"])[0]
    assert (first["other_vote_value"], first["tiny_vote_value"]) == (None, 0.5)


def test_one_sample_has_no_vote(tmp_path):
    files = [write_run(tmp_path, "none", reward, [(1, 0, 0), (0, 0, 0)], n=1) for reward in ("full", "no_length")]
    runs = load_runs([summary for summary, _ in files], [rows for _, rows in files])
    rows = ablation_rows("ablation_reward", runs, BOOTSTRAP)
    assert [(row["tiny"]["vote"], row["tiny"]["vote_change"]) for row in rows] == [(None, None)] * 2
    assert [row["tiny"]["greedy"].value for row in rows] == [0.5, 0.5]
    text = ablation_markdown("ablation_reward", rows, runs, BOOTSTRAP, False)
    assert "] | - | - | 61.0 |" in text
    assert "masks" not in text
    assert {change.method for change in changes("none", ["full", "no_length"], runs, BOOTSTRAP)} <= {"greedy", "pass@1"}


def test_ablation_stage_writes_table_and_figure(tmp_path, monkeypatch, files):
    monkeypatch.chdir(tmp_path)
    settings = {"candidates": {"constrained": True}, "score": {"confidence": 0.95, "resamples": 100}}
    arguments = ["--settings", json.dumps(settings), "--out", "ablation"]
    arguments += ["--ablation", "ablation_reward", "--summaries", *(str(s) for s, _ in files)]
    ablation.main([*arguments, "--questions", *(str(q) for _, q in files)])
    with open("ablation/table.csv") as file:
        table = list(csv.DictReader(file))
    assert [row["reward"] for row in table] == ["no_rl", "full", "no_length"]
    assert float(table[1]["tiny_greedy_value"]) == 0.625
    text = (tmp_path / "ablation/table.md").read_text()
    assert "62.5 [" in text
    assert "another model" in text
    assert "paired by question. Our answers were given under masks, which" in text
    assert (tmp_path / "ablation/figure.svg").read_text().startswith("<?xml")
    assert sorted(json.loads((tmp_path / "ablation/manifest.json").read_text())["outputs"]) == [
        "figure.svg", "table.csv", "table.md",
    ]  # fmt: skip


def test_score_tables(runs):
    policies = report_policies("none", ["full"], runs)
    assert [policy_label(*policy) for policy in policies] == ["base model", "base model + GRPO"]
    rows = score_rows(policies, runs, BOOTSTRAP)
    found = {(r["policy"], r["method"], r["difficulty"]): r["value"] for r in rows}
    assert found["base model", "pass@2", "all"] == 0.75
    assert found["base model", "vote", "easy"] == 0.5
    assert found["base model + GRPO", "greedy", "hard"] == 1.0
    assert "| tiny | base model | 25.0 [" in headline_markdown(rows)
    change = change_markdown(changes("none", ["full"], runs, BOOTSTRAP))
    # Seed 0 greedy: two gained, none lost, p = 2 * (1/2)**2; greedy pooled .625 against .25. Seed 1 starts from
    # the same base model, which has one seed: one gained, p = 1.
    assert "| tiny | full | greedy | +37.5 [" in change
    assert "| 0.5, 1 | 3 | 0 | 4 |" in change


def test_the_conclusion_says_what_was_gained_and_whether_it_may_be_chance():
    low, high, n = -0.1, 0.3, 200
    before, after = Estimate(0.1, 0.0, 0.2, n), Estimate(0.2, 0.1, 0.3, n)
    difference = Estimate(0.1, low, high, n)
    change = Change("built_in", "full", "greedy", before, after, difference, 0.08, [0.08], 30, 10)
    assert change.sentence() == (
        "GRPO raised greedy execution accuracy on built_in from 10.0 to 20.0 % (+10.0 [-10.0, +30.0] points, p = 0.08, "
        "200 questions, 30 won, 10 lost). This may be chance."
    )
    worse = replace(change, difference=Estimate(-0.1, low, high, n), p=0.0001)
    assert worse.sentence().startswith("GRPO lowered")
    assert "p < 0.001" in worse.sentence()
    assert "chance" not in worse.sentence()
    thirds = sum([1 / 3, 1 / 3, -2 / 3, 0.1, 0.2, -0.3])
    assert 0 < abs(thirds) < 1e-9
    equal = replace(change, difference=Estimate(thirds, low, high, n))
    assert equal.sentence() == "GRPO left greedy execution accuracy on built_in at 20.0 % (200 questions)."


def test_coincidences_are_answers_that_match_on_one_instance_alone(runs):
    run = runs[0]
    assert coincidences([run]) == "-"
    rows = [row | {"greedy": row["greedy"] | {"one_instance": 1}} for row in run.rows]
    wrong = sum(row["greedy"]["spider_exec"] == 0 for row in rows)
    assert coincidences([replace(run, rows=rows)]) == f"{wrong} of {len(rows)}"


def test_a_smoothed_curve_keeps_its_length_and_its_mean():
    assert smoothed([1.0, 1.0, 1.0]) == [1.0, 1.0, 1.0]
    noisy = [float(i % 2) for i in range(64)]
    assert len(smoothed(noisy)) == 64
    assert max(smoothed(noisy)) < 0.7


def test_the_share_of_groups_with_variance_is_said():
    grpo = [[{"step": 1, "frac_reward_zero_std": 0.5}, {"step": 2, "frac_reward_zero_std": 0.25}]]
    assert "50 % in the first step, 62 % on average over 2 steps, 50 % at least" in variance_sentence(grpo)
    assert variance_sentence([[]]) == ""


def test_examples_are_of_each_kind_and_drawn_by_seed(runs):
    run = select(runs, ("none", "no_rl"), "tiny")[0]
    chosen = choose_examples(run, seed=0)
    assert chosen == choose_examples(run, seed=0)
    assert {kind: row["index"] for kind, row in chosen.items() if kind != "Wrong"} == {
        "Right": 2, "Right only by the vote": 3,
    }  # fmt: skip
    assert chosen["Wrong"]["index"] in (0, 1)
    text = render("example.md.j2", kind="Right", row=chosen["Right"])
    for part in ("question 2?", "why", "SELECT 1", "| a |"):
        assert part in text


def test_three_examples_are_shown_where_a_kind_lacks(runs):
    full = select(runs, ("none", "full"), "tiny")[0]
    rows = [row for row in full.rows if row["greedy"][full.summary["metric"]] == 1]
    assert len(rows) == 3  # all right
    chosen = choose_examples(replace(full, rows=rows))
    assert list(chosen) == [
        "Right",
        "Another, for lack of one right only by the vote",
        "Another, for lack of one wrong",
    ]
    assert len({row["index"] for row in chosen.values()}) == 3


def test_a_completion_cannot_break_out_of_its_fence(runs):
    row = {**runs[0].rows[0]}
    row["vote"] = row["vote"] | {"reasoning": "```\n# a heading"}
    assert "````text\n```\n# a heading\n````" in render("example.md.j2", kind="Wrong", row=row)


def test_markdown_cells_are_escaped():
    assert markdown_table(["a"], [["x|y\nz"]]).splitlines()[2] == "| x\\|y<br>z |"


def test_only_runs_with_selection_have_a_row():
    rate = {"matches": 1, "samples": 4, "selected": True}
    assert selection_rows({"a": [rate], "b": []}) == [["a", 1, "25.0", 0, 0, 1]]


def test_the_report_tells_what_the_monitor_said():
    rows = [{"step": 0, VALIDATION: 0.2}, {"step": 5, VALIDATION: 0.1, COLLAPSE: "step 5: fell"}, {"step": 10}]
    assert collapse_warnings(rows) == ["step 5: fell"]  # also what is over by the end
    assert collapse_warnings(rows[:1]) == []


def test_curves_are_means_over_seeds(tmp_path):
    write_jsonl(tmp_path / "metrics.jsonl", [{"step": 2, "loss": 1.0}, {"step": 1, "loss": 3.0}])
    metrics = read_metrics(tmp_path / "metrics.jsonl")
    assert mean_curve(
        [metrics, [{"step": 1, "loss": 5.0}, {"step": 1, "kl": 0.1}, {"step": 2, "loss": math.nan}]], "loss"
    ) == [(1, 4.0), (2, 1.0)]
    panels = training_panels([metrics], [], {"seed 0": [{"step": 0, VALIDATION: 0.25, VALIDATION_SIZE: 8}]}, BOOTSTRAP)
    assert list(panels) == ["Cold start: loss", "Validation: execution accuracy"]
    assert panels["Validation: execution accuracy"]["seed 0"][0][1] == BOOTSTRAP.share(2, 8)
    assert validation_point({VALIDATION: 0.0, VALIDATION_SIZE: 0}, BOOTSTRAP) == 0.0  # no gold ran


DRAW = """
from pathlib import Path
from sqlr1.statistics import Estimate
from sqlr1.report.figures import bars, curve_panels, interval_panels, save
estimate = Estimate(0.5, 0.4, 0.6, 10)
save(interval_panels({"tiny": [("base", {"greedy": estimate, "vote": estimate}), ("none", {})]}, "%"), Path("a.svg"))
save(bars({"kept": 10, "duplicate": 2}, ["kept"]), Path("b.svg"))
save(curve_panels({"loss": {"x": [(1, 2.0), (2, 1.0)]}, "ex": {"s": [(0, estimate)]}}), Path("c.svg"))
"""


def test_figures_are_the_same_bytes_in_another_process(tmp_path):
    for seed in ("1", "2"):
        (tmp_path / seed).mkdir()
        inherited = {"PYTHONPATH": os.environ.get("PYTHONPATH", "")}
        environment = inherited | {"PYTHONHASHSEED": seed, "PATH": "", "HOME": str(tmp_path)}
        subprocess.run([sys.executable, "-c", DRAW], cwd=tmp_path / seed, env=environment, check=True)
    for name in ("a.svg", "b.svg", "c.svg"):
        first = (tmp_path / "1" / name).read_bytes()
        assert first == (tmp_path / "2" / name).read_bytes()
        assert b"<dc:date>" not in first


def test_figures_of_nothing_are_still_figures(tmp_path):
    for name, figure in {"a": interval_panels({}, "%"), "b": bars({}), "c": curve_panels({})}.items():
        save(figure, tmp_path / f"{name}.svg")
        assert (tmp_path / f"{name}.svg").stat().st_size > 500


def test_equal_scores_leave_room_for_a_difference():
    change = BOOTSTRAP.difference([0.0] * 20)
    assert change.value == 0
    assert change.high == -change.low == pytest.approx(1 - 0.025 ** (1 / 20))
