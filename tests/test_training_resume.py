"""SIGKILL at several points, then the same command: the same bytes as a run that was never interrupted."""

import functools
import subprocess
import time
from pathlib import Path

import pytest
from tiny_stages import command, hashes, kill_when, prepare, run, teach

from sqlr1.records import read_jsonl


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("resume")
    prepare(folder)
    teach(folder)
    return folder


@pytest.fixture(scope="module")
def whole(folder):
    """What an uninterrupted run of a stage writes."""

    @functools.cache
    def written(stage):
        run(folder, stage, f"whole/{stage}")
        return hashes(folder / "whole" / stage)

    return written


def work(folder: Path, pattern: str) -> list[Path]:
    return list((folder / "results/.work").glob(f"*/{pattern}"))


KILLS = {
    "cold_start before a checkpoint": ("cold_start", "checkpoint-2"),
    "cold_start within a save": ("cold_start", "checkpoint-4/trainer_state.json"),
    "cold_start after a checkpoint": ("cold_start", "checkpoint-6/complete"),
    "cold_start after the last step": ("cold_start", "checkpoint-8/complete"),
    "grpo after a checkpoint": ("grpo", "checkpoint-2/complete"),
    "grpo in the second epoch": ("grpo", "checkpoint-8/complete"),
    "grpo after the last step": ("grpo", "checkpoint-10/complete"),
    "grpo within a save": ("grpo", "checkpoint-4/optimizer.pt"),
    "candidates": ("candidates", "1-*.jsonl"),  # the second question's answers
}


@pytest.mark.parametrize(("stage", "file"), KILLS.values(), ids=KILLS.keys())
def test_a_killed_run_ends_with_the_same_bytes(folder, whole, stage, file):
    out = f"killed/{stage}-{file.translate(str.maketrans('/*', '--'))}"
    kill_when(folder, stage, out, lambda: bool(work(folder, file)))
    assert not (folder / out / "manifest.json").exists()
    log = run(folder, stage, out)
    if file.endswith("complete"):
        assert "resuming from" in log
    assert hashes(folder / out) == whole(stage)
    assert not work(folder, "*")  # the work folder is gone


def test_what_is_killed_earns_rewards(folder, whole):
    """Or the runs compared above would be of a policy that nothing moves."""
    assert whole("grpo")
    lines = [row for _, row in read_jsonl(folder / "whole/grpo/metrics.jsonl")]
    assert max(row.get("rewards/result/std", 0) for row in lines) > 0
    assert {row["dynamic_sampling/live_groups"] for row in lines if "dynamic_sampling/live_groups" in row} - {0.0}


def test_an_orphan_and_its_successor_never_write_the_same_folder(folder, whole):
    """Also not where the settings have changed in between."""
    call = [*command(folder, "candidates", "orphan"), "--seed", "1"]
    orphan = subprocess.Popen(call, cwd=folder, stderr=subprocess.DEVNULL)
    while not (folder / "orphan").exists():
        assert orphan.poll() is None
        time.sleep(0.05)
    assert "still alive: waiting" in run(folder, "candidates", "orphan")
    assert orphan.wait() == 0
    assert hashes(folder / "orphan") == whole("candidates")
