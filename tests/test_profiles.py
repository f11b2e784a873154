"""The Slurm profile as far as it can be tried without Slurm: Snakemake reads it, and jobs get what it says."""

import json
import os
import re

import pytest
import yaml
from conftest import ROOT, copy_checkout, snakemake

from sqlr1.slurm import minutes, partition_limits, too_long

SLURM = yaml.safe_load((ROOT / "profiles/slurm/config.yaml").read_text())


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    return copy_checkout(tmp_path_factory.mktemp("profiles"))


def test_jobs_on_slurm_get_the_cores_of_the_profile_and_not_those_of_the_submitting_machine(checkout):
    """But for the executor, whose plugin is an extra of its own."""
    profile = ("--workflow-profile", "profiles/slurm", "--executor", "dryrun")
    run = snakemake(checkout, "filter", "-n", "-p", *profile, SQLR1_DATA="no_such_folder")
    assert run.returncode == 0, run.stderr
    workers = re.findall(r"--workers (\d+)", run.stdout + run.stderr)
    assert workers == ["8", "8"]  # synthesize and filter
    assert SLURM["max-threads"] == SLURM["cores"] == 8  # on the node `cores` are all of the node's


def test_every_rule_that_asks_for_gpus_gets_them_on_one_node_of_their_partition():
    """Snakemake takes resources for a rule that does not exist without a word."""
    rules = "\n".join(path.read_text() for path in (ROOT / "workflow/rules").glob("*.smk"))
    asking = re.findall(r"^rule (\w+):(?:(?!^rule ).)*?^        gpu=1,$", rules, re.MULTILINE | re.DOTALL)
    assert len(asking) >= 4
    asked = ("slurm_partition=gpu", "nodes=1", "cpus_per_gpu=8")
    assert sorted(SLURM["set-resources"]) == sorted(f"{rule}:{value}" for rule in asking for value in asked)


def test_a_run_time_that_no_named_partition_allows_is_said_once_per_rule():
    """`tests/engines/test_slurm.py` asks a real Slurm."""
    limits = {
        "gpu": minutes("2-00:00:00"),
        "short": minutes("30:00"),
        "": minutes("1:00:00"),
        "big": minutes("infinite"),
    }
    jobs = [("grpo", {"runtime": 4500, "slurm_partition": "gpu"})] * 2 + [
        ("select", {"runtime": 45, "slurm_partition": "short,gpu"}),
        ("score", {"runtime": 61}),
        ("filter", {"slurm_partition": "short"}),
        ("report", {"runtime": 99, "slurm_partition": "unknown"}),
        ("candidates", {"runtime": 99999, "slurm_partition": "big"}),
    ]
    grpo, score = too_long(jobs, limits)
    assert grpo.startswith("rule grpo: runtime is 4500 minutes, partition gpu allows 2880: Slurm would let it wait")
    assert score.startswith("rule score: runtime is 61 minutes, the default partition allows 60:")


@pytest.mark.parametrize(("overlay", "env"), [("", "sqlr1.yaml"), ("candidates: {backend: vllm}", "gpu.yaml")])
def test_the_conda_environment_has_the_extra_where_the_configuration_needs_it(checkout, overlay, env):
    snakefile = checkout / "Snakefile.env"
    snakefile.write_text((checkout / "Snakefile").read_text() + "\n\nPath('env.txt').write_text(ENV)\n")
    (checkout / "env.yaml").write_text(overlay)
    files = ["--configfile", "env.yaml"] if overlay else []
    snakemake(checkout, "base_model", "-n", "--snakefile", str(snakefile), *files)
    assert (checkout / "env.txt").read_text() == f"../../envs/{env}"


def test_parsing_changes_no_variable_that_the_user_set(checkout, tmp_path):
    """And the jobs find this copy's code all the same, whichever checkout is installed."""
    snakefile = checkout / "Snakefile.printing"
    snakefile.write_text(
        (checkout / "Snakefile").read_text()
        + "\n\nimport json\n\nPath('environment.json').write_text(json.dumps(dict(os.environ)))\n"
    )
    given = {"SQLR1_DATA": "no_such_folder", "GOMP_SPINCOUNT": "7", "PATH": f"{os.environ['PATH']}:{tmp_path}"}
    run = snakemake(checkout, "-n", "--snakefile", str(snakefile), **given)
    assert run.returncode == 0, run.stderr
    seen = json.loads((checkout / "environment.json").read_text())
    before = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTEST_CURRENT_TEST")}
    assert {name: seen.get(name) for name in before | given} == before | given


def test_jobs_run_this_checkouts_code_whatever_the_python_path(checkout, tmp_path):
    """Another checkout is installed, and a package of the same name is first in the user's PYTHONPATH."""
    (tmp_path / "sqlr1").mkdir()
    (tmp_path / "sqlr1/__init__.py").write_text("raise ImportError('not this one')")
    (checkout / "workflow/sqlr1/stages/base_model.py").write_text("print('code of', __file__)\nraise SystemExit(3)\n")
    run = snakemake(checkout, "base_model", SQLR1_DATA="", PYTHONPATH=str(tmp_path))
    assert f"code of {checkout / 'workflow/sqlr1/stages/base_model.py'}" in run.stdout + run.stderr


@pytest.mark.parametrize(
    ("says", "found"),
    [
        ("echo 'cpu* 30:00'; echo 'gpu infinite'", {"cpu": 30, "gpu": float("inf"), "": 30}),
        ("echo 'cpu n/a'", None),
        ("echo too many fields", None),
        ("echo down >&2; exit 1", None),
    ],
)
def test_limits_that_slurm_does_not_say_are_one_kind_of_error(says, found, tmp_path, monkeypatch):
    """The workflow then warns and goes on."""
    (tmp_path / "sinfo").write_text(f"#!/bin/sh\n{says}\n")
    (tmp_path / "sinfo").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    if found:
        assert partition_limits() == found
    else:
        with pytest.raises(OSError, match=r"sinfo|down"):
            partition_limits()
