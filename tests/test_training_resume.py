"""A run that is killed (SIGKILL) at several points and restarted writes the same bytes as an uninterrupted one."""

import functools
import re
import subprocess
import time
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from tiny_stages import command, hashes, kill_when, prepare, run, teach

from sqlr1.model.base import load_model
from sqlr1.records import read_json, read_jsonl
from sqlr1.train.monitor import MATCH


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


def seen(folder: Path, out: str, pattern: str) -> list[Path]:
    """Files matching `pattern` in the stage's work folder or among its outputs."""
    return work(folder, pattern) + list((folder / out).glob(pattern))


# One run is killed as soon as each of these files appears; with it the checkpoints from which the run may then resume
# (several, because a save may end before the kill).
KILLS = {
    "cold_start": {
        "checkpoint-2": ("", "2"),  # before the first complete one
        "checkpoint-4/optimizer.pt": ("2", "4"),  # within a save
        "checkpoint-6/complete": ("6", "7"),
        "metrics.jsonl": ("7",),  # after the last step, which is logged separately, while the outputs are written
    },
    "grpo": {
        "checkpoint-2/complete": ("2",),
        "checkpoint-4/optimizer.pt": ("2", "4"),  # within a save
        "checkpoint-8/complete": ("8",),  # in the second epoch
        "metrics.jsonl": ("10",),  # after the last step, while the outputs are written
    },
    "grpo_constrained": {"checkpoint-4/optimizer.pt": ("2", "4"), "checkpoint-8/complete": ("8",)},
    "grpo_all_weights": {"checkpoint-2/complete": ("2",), "checkpoint-4/complete": ("4",)},
    "grpo_best": {"checkpoint-4/optimizer.pt": ("2", "4"), "checkpoint-8/complete": ("8",), "metrics.jsonl": ("10",)},
    "candidates": {
        "1-*.jsonl": ("",),
        "5-*.jsonl": ("",),
    },  # answers of a question in an early batch and in a later one
}


WITHIN_A_SAVE = "checkpoint-4/optimizer.pt"


@pytest.mark.parametrize("stage", ["cold_start", "grpo_constrained"])
def test_a_run_killed_within_a_save_ends_with_the_same_bytes(folder, whole, stage):
    """30 to 45 s: three processes, each of which imports torch and trl, and trains."""
    check_kills(folder, whole, stage, {WITHIN_A_SAVE: KILLS[stage][WITHIN_A_SAVE]}, f"once/{stage}")


@pytest.mark.slow
@pytest.mark.parametrize("stage", KILLS)
def test_a_run_killed_again_and_again_ends_with_the_same_bytes(folder, whole, stage):
    check_kills(folder, whole, stage, KILLS[stage], f"killed/{stage}")


def check_kills(folder, whole, stage, kills, out):
    logs = []
    for file in kills:
        logs.append(kill_when(folder, stage, out, functools.partial(seen, folder, out, file)))
        assert not (folder / out / "manifest.json").exists(), file
    logs.append(run(folder, stage, out))
    for (file, expected), log in zip(kills.items(), logs[1:], strict=True):
        assert "".join(re.findall(r"resuming from \S+checkpoint-(\d+)", log)) in expected, file
        assert all(line in (folder / f"{out}.log").read_text() for line in re.findall(r".*resuming from.*", log)), file
    assert hashes(folder / out) == whole(stage)
    assert not work(folder, "*")  # the work folder is gone


@pytest.mark.slow
def test_the_best_validated_policy_is_kept_over_a_kill(folder, whole):
    """About 30 s: three runs of GRPO. The best checkpoint is still there when the last one has been written."""
    written = whole("grpo_best")
    manifest = read_json(folder / "whole/grpo_best/manifest.json")
    validated = {row["step"]: row[MATCH] for _, row in read_jsonl(folder / "whole/grpo_best/validation.jsonl")}
    best = min((-match, step) for step, match in validated.items() if step)[1]
    assert manifest["kept_step"] == best < 8  # neither of the last two
    kill_when(folder, "grpo_best", "best", functools.partial(seen, folder, "best", "metrics.jsonl"), seconds=600)
    (work_folder,) = {path.parent for path in work(folder, "checkpoint-*")}
    assert {path.name for path in work_folder.glob("checkpoint-*")} == {f"checkpoint-{step}" for step in (best, 8, 10)}
    policy = PeftModel.from_pretrained(load_model(folder / "base/model", "float32"), work_folder / f"checkpoint-{best}")
    expected = policy.merge_and_unload().state_dict()
    run(folder, "grpo_best", "best")
    assert hashes(folder / "best") == written
    saved = load_model(folder / "best/model", "float32").state_dict()
    assert all(torch.equal(saved[name], expected[name]) for name in expected)


@pytest.mark.parametrize("stage", [pytest.param("grpo", marks=pytest.mark.slow), "grpo_constrained"])
def test_what_is_killed_earns_rewards(folder, whole, stage):
    """Otherwise the runs compared above would not change the policy."""
    assert whole(stage)
    lines = [row for _, row in read_jsonl(folder / f"whole/{stage}/metrics.jsonl")]
    assert max(row.get("rewards/result/std", 0) for row in lines) > 0
    assert {row["dynamic_sampling/live_groups"] for row in lines if "dynamic_sampling/live_groups" in row} - {0.0}


def test_a_killed_run_under_masks_has_masks(folder, whole):
    """Answers that end name only what is there, so they run. Without masks the sum is 0.6."""
    assert whole("grpo_constrained")
    rows = [
        row for _, row in read_jsonl(folder / "whole/grpo_constrained/metrics.jsonl") if "rollout/executable" in row
    ]
    shares = [row["rollout/executable"] + row["completions/clipped_ratio"] for row in rows]
    assert sum(shares) / len(shares) > 0.9


@pytest.mark.slow
def test_an_orphan_and_its_successor_never_write_the_same_folder(folder, whole):
    """Not even if the settings have changed in between. Some 20 s: three runs of a stage."""
    call = [*command(folder, "candidates", "orphan"), "--seed", "1"]
    orphan = subprocess.Popen(call, cwd=folder, stderr=subprocess.DEVNULL)
    while not (folder / "orphan").exists():
        assert orphan.poll() is None
        time.sleep(0.05)
    assert "still alive: waiting" in run(folder, "candidates", "orphan")
    assert orphan.wait() == 0
    assert "\0" not in (folder / "orphan.log").read_text()
    assert (folder / "orphan.log").read_text().count("files and their manifest") == 1  # the orphan's lines are gone
    assert hashes(folder / "orphan") == whole("candidates")
