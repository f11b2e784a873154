"""The report stage on hand-made results: everything asked for is in it, and equal inputs give equal bytes."""

import json
from pathlib import Path

import pytest
from mlflow import MlflowClient
from test_reporting import BASE, FULL, write_run

from sqlr1.records import Database, read_json, read_yaml, sha256, write_json, write_jsonl
from sqlr1.report.curves import EXECUTABLE, LENGTH, MATCH, VALIDATION, VALIDATION_SIZE
from sqlr1.stages import report
from sqlr1.train.monitor import COLLAPSE

FUNNEL = {
    "input": 100,
    "dropped": {"empty": 7, "duplicate": 13, "failed": 0},
    "subsets": {"cold_start": 60, "rl": 15, "validation": 5},
    "asked_again": 0,
    "classes": {"cold_start": {"Simple": 60}, "rl": {"Complex": 15}, "validation": {"Complex": 5}},
    "styles": {"cold_start": {"formal": 30, "vague": 30}, "rl": {"formal": 15}, "validation": {"formal": 5}},
}
SETTINGS = {
    "experiment": "tiny",
    "seeds": [0],
    "cold_start": {"strategy": "reasoning", "learning_rate": 0.001},
    "reward": {"variants": ["full"]},
    "grpo": {"beta": 0.002},
    "candidates": {"constrained": True},
    "score": {"confidence": 0.95, "resamples": 200},
    "skipped": {"bird_dev": "data/bird/dev.json is missing."},
}


@pytest.fixture
def results(tmp_path, monkeypatch):
    """Everything the stage reads: a collapsing GRPO run, three policies scored."""
    monkeypatch.chdir(tmp_path)
    write_json(tmp_path / "funnel.json", FUNNEL)
    databases = [
        Database(f"d{i}", f"d{i}.sqlite", "embedded", split, "0")
        for i, split in enumerate(["train"] * 3 + ["benchmark"])
    ]
    write_jsonl(tmp_path / "catalogue.jsonl", databases)
    write_jsonl(tmp_path / "cold_start/seed-0/metrics.jsonl", [{"step": i, "loss": 3 / i} for i in range(1, 6)])
    collapse = [{"step": i, EXECUTABLE: i / 8, MATCH: 0.2 - i / 50, LENGTH: 30 - 3 * i} for i in range(1, 9)]
    write_jsonl(tmp_path / "grpo/seed-0/metrics.jsonl", collapse)
    rates = [
        {"id": f"q{i}", "sql_class": "Simple", "samples": 4, "executable": 4, "matches": m, "selected": 0 < m < 4}
        for i, m in enumerate((0, 0, 1, 3, 4))
    ]
    write_jsonl(tmp_path / "select/seed-0/pass_rates.jsonl", rates)
    recall = {"asked": 5, "questions": 2, "tables": 4, "tables kept": 3, "columns": 0}
    write_json(tmp_path / "select/seed-0/linking.json", recall)
    validation = [{"step": step, VALIDATION: 0.25, VALIDATION_SIZE: 40} for step in (0, 8)]
    validation[1][COLLAPSE] = "step 8: the policy may be collapsing: executable share 30 % -> 80 %"
    write_jsonl(tmp_path / "grpo/seed-0/validation.jsonl", validation)
    for strategy, reward, verdicts in (
        ("none", "no_rl", BASE),
        ("reasoning", "no_rl", BASE),
        ("reasoning", "full", FULL),
    ):
        summary, _ = write_run(tmp_path / "score", strategy, reward, verdicts)
        write_json(
            summary,
            read_json(summary) | {"missing_databases": {"ark": 2}, "gold_failed": [3], "excluded": 8, "unanswered": 7},
        )
    return tmp_path


def run(folder, *more, settings=SETTINGS, out="report"):
    summaries = sorted(map(str, (folder / "score").rglob("summary.json")))
    arguments = ["--settings", json.dumps(settings), "--out", out, "--funnel", "funnel.json"]
    arguments += ["--catalogue", "catalogue.jsonl", "--cold-start", "cold_start/seed-0/metrics.jsonl"]
    arguments += ["--pass-rates", "select/seed-0/pass_rates.jsonl", "--linking", "select/seed-0/linking.json"]
    arguments += ["--grpo", "grpo/seed-0/metrics.jsonl", "--validation", "grpo/seed-0/validation.jsonl"]
    arguments += [
        "--scores",
        *summaries,
        "--questions",
        *(s.replace("summary.json", "questions.jsonl") for s in summaries),
    ]
    report.main([*arguments, *more])
    return (folder / out / "../report.md").resolve().read_text()


def test_the_report_holds_everything_asked_for(results):
    text = run(results)
    for heading in (
        "# Report: tiny",
        "## Scores",
        "## Worked examples",
        "## Training",
        "## Data",
        "## Appendix: configuration",
    ):
        assert f"\n{heading}\n" in f"\n{text}"
    expected = [
        "sample is right. Our answers were given under masks, which allow",
        "| commit | ", "| machine | ", "| torch | ", "beta: 0.002", "learning_rate: 0.001",
        "1 embedded (benchmark), 3 embedded (train)", "| dropped: duplicate | 13 |", "| RL | 0 | 15 |",
        "| seed 0 | 5 | 40.0 | 2 | 1 | 2 |",
        "\nseed 0: linking cut the schema of 2 of 5 RL questions and kept 75.0 % of their golds' tables.\n",
        "| seed 0 | before (step 0) | 25.0 [", "| seed 0 | after (step 8) | 25.0 [",
        "| tiny | base model | 25.0 [", "| tiny | cold start (reasoning) + GRPO | 75.0 [",
        "| tiny | full | greedy | +50.0 [",
        "| tiny | 4 | 7 | ark (2) | 8 | 3 |", "**bird_dev** was skipped: data/bird/dev.json is missing.",
        "### Right: question", "### Right only by the vote: question 1",
        "### Another, for lack of one wrong: question",
    ]  # fmt: skip
    for part in expected:
        assert part in text, part
    assert "failed | 0" not in text


def test_a_collapse_is_named_in_report_and_log(results, capsys):
    text = run(results)
    told = "step 8: the policy may be collapsing: executable share 30 % -> 80 %"
    assert f"**GRPO, seed 0**: {told}" in text
    assert f"GRPO, seed 0: {told}" in capsys.readouterr().err


def test_equal_input_gives_equal_bytes(results):
    names = [
        "report.md",
        "report/funnel.svg",
        "report/selection.svg",
        "report/training.svg",
        "report/scores.svg",
        "report/scores.csv",
        "report/errors.svg",
        "report/error_flow.svg",
        "report/conclusion.txt",
    ]
    run(results)
    first = {name: (results / name).read_bytes() for name in [*names, "report/manifest.json"]}
    run(results)
    assert {name: (results / name).read_bytes() for name in first} == first
    assert set(read_json(results / "report/manifest.json")["outputs"]) == {
        "../report.md", "funnel.svg", "selection.svg", "training.svg", "scores.svg", "scores.csv", "conclusion.txt",
        "errors.svg",
        "error_flow.svg",
    }  # fmt: skip


def test_without_a_cold_start_base_model_and_start_are_one(results):
    settings = SETTINGS | {"cold_start": {"strategy": "none"}}
    write_run(results / "score", "none", "full", FULL)
    text = run(results, settings=settings)
    assert "| tiny | base model + GRPO | 75.0 [" in text
    assert text.count("| tiny | base model | 25.0 [") == 1


def test_the_policy_is_registered_under_the_experiments_name(results, monkeypatch):
    """Each report makes a version, the newest is `best`; the report itself is the same as without."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    manifest = results / "grpo/seed-0/manifest.json"
    write_json(manifest, {"outputs": {}})
    plain = run(results)
    for _ in range(2):
        assert run(results, "--policy", "grpo/seed-0/manifest.json", "--experiment", "tiny") == plain
    client = MlflowClient(f"sqlite:///{results}/results/mlflow.db")
    version = client.get_model_version_by_alias("tiny", "best")
    assert version.version == 2
    served = read_yaml(Path(version.source.removeprefix("file://")) / "MLmodel")["flavors"]["python_function"]["config"]
    assert served == {"manifest": str(manifest), "sha256": sha256(manifest)}
