"""What is around the stages' commands: their settings, what a call says at its end, set-up and CI."""

import json
import os
import re
import subprocess

import pytest
from conftest import ROOT, copy_checkout, snakemake

from sqlr1.model.base import MODEL_FILES

OLD = "GRPO is better than before."


@pytest.fixture
def checkout(tmp_path):
    return copy_checkout(tmp_path)


def test_a_weight_changes_the_settings_of_only_those_rewards_that_have_its_part(checkout):
    """Snakemake runs a job again when its settings, a parameter, change."""

    def trainings():
        targets = [f"results/embedded/grpo/sql_only/{reward}/seed-0/manifest.json" for reward in ("full", "graded")]
        run = snakemake(checkout, *targets, "-n", "-p", SQLR1_DATA="no_such_folder")
        assert run.returncode == 0, run.stdout + run.stderr
        found = re.findall(r"stages\.grpo --settings '(.*?)' .*?--reward-variant (\w+)", run.stdout + run.stderr)
        return {reward: json.loads(settings)["reward"] for settings, reward in found}

    before = trainings()
    assert before["graded"].keys() == {"semantics"}
    config = (checkout / "config.yaml").read_text()
    changed = config.replace("format: {right: 1, wrong: -1}", "format: {right: 1, wrong: -2}")
    assert changed != config
    (checkout / "config.yaml").write_text(changed)
    after = trainings()
    assert after["graded"] == before["graded"]
    assert (before["full"].pop("format"), after["full"].pop("format")["wrong"]) == ({"right": 1, "wrong": -1}, -2)
    assert after["full"] == before["full"]


def test_a_call_that_makes_no_report_does_not_show_an_old_ones_sentence(checkout):
    """The stage is one that makes empty files."""
    report = checkout / "results/embedded/report/conclusion.txt"
    report.parent.mkdir(parents=True)
    report.write_text(OLD)
    files = ["manifest.json", *(f"model/{name}" for name in MODEL_FILES)]
    stage = f"from pathlib import Path\n[Path('results/embedded/base_model', name).touch() for name in {files}]\n"
    module = checkout / "workflow/sqlr1/stages/base_model.py"
    module.write_text(stage)
    run = snakemake(checkout, "base_model", SQLR1_DATA="no_such_folder")
    assert run.returncode == 0, run.stdout + run.stderr
    assert OLD not in run.stdout + run.stderr
    assert "Report: not made by this call; results in results/embedded/" in run.stdout + run.stderr
    module.write_text(f"{stage}Path('{report}').write_text('As of now.')\n")
    run = snakemake(checkout, "base_model", SQLR1_DATA="no_such_folder")
    assert "As of now." in run.stdout + run.stderr
    assert "Report: results/embedded/report.md" in run.stdout + run.stderr


@pytest.mark.parametrize("made_in", ["here", "elsewhere"])
def test_an_environment_that_was_moved_is_made_anew(tmp_path, made_in):
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    (tmp_path / ".venv").mkdir()
    folder = tmp_path if made_in == "here" else "/else where"
    (tmp_path / ".venv/pyvenv.cfg").write_text(f"command = /usr/bin/python3 -m venv {folder}/.venv\n")
    (tmp_path / ".venv/.installed").touch()
    make = subprocess.run(["make", "-n", "setup"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert ("-m venv --clear .venv" in make.stdout) == (made_in == "elsewhere"), make.stdout


def test_ci_fails_without_the_data_that_tests_read(tmp_path):
    (tmp_path / ".ci").mkdir()
    (tmp_path / ".ci/run").write_text((ROOT / ".ci/run").read_text())
    environment = os.environ | {"SQLR1_DATA": str(tmp_path / "absent")}
    run = subprocess.run(
        ["bash", ".ci/run"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 1
    assert run.stderr.startswith(f"error: {tmp_path}/absent/spider/dev.json is missing")
