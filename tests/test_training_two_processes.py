"""Two CPU processes under `accelerate launch` train the same weights as one process (same global batch and seeds)."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from accelerate import PartialState
from tiny_models import tiny_tokenizer
from tiny_stages import PROMPT, kill_when, prepare
from tiny_stages import run as run_stage
from transformers import TrainerCallback

from sqlr1.config import ColdStart, Grpo, Lora, Reward
from sqlr1.train.checkpoints import MarkComplete, train_on
from sqlr1.train.policy import whole_weights

# accelerate starts several processes without MPI only with --multi_gpu; the environment selects the CPU.
LAUNCH = [
    *("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"),
    *("--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"),
]
PROMPTS = ["How many singers?", "Name?", "List the names of all the concerts held in 2014.", "a", "Which year?", "b c"]
COMMON = {"learning_rate": 1e-2, "bf16": False, "max_steps": 10, "save_steps": 8, "lora": Lora(r=4)}
LIVE_GROUPS, ZERO_VARIANCE = "dynamic_sampling/live_groups", "frac_reward_zero_std"
ROWS = 8  # per step, over all processes


def letters(completions, **_):
    """Any reward that differs within some groups and not within others."""
    return [float(len(c[0]["content"]) % 3) for c in completions]


def cold_start(model, work, per_device, **settings):
    from sqlr1.train.sft import make_trainer

    texts = [(list(range(3, 9 + 2 * i)), list(range(40, 44 + i))) for i in range(24)]
    rows = [{"input_ids": p + r, "labels": [-100] * len(p) + r, "database": "abc"[len(r) % 3]} for p, r in texts]
    size = 4  # of a pass, for any number of processes: it has rows over one database
    batch = {"per_device_train_batch_size": size, "gradient_accumulation_steps": per_device // size}
    settings = ColdStart(**COMMON | batch | settings)
    return make_trainer(model, tiny_tokenizer(), rows, settings, work, seed=3)


def grpo(model, work, per_device, beta=0.05, refill_rounds=None, **settings):
    from datasets import Dataset

    from sqlr1.train.shared_prompt import SharedPromptTrainer
    from sqlr1.train.trainer_config import lora_config, trainer_config

    batch = {"num_generations": 4, "per_device_train_batch_size": per_device, "num_iterations": 2}
    settings = Grpo(**COMMON | batch | settings, max_completion_length=6, beta=beta)
    return SharedPromptTrainer(
        model=model,
        args=trainer_config(settings, work, seed=3),
        reward_funcs=letters,
        train_dataset=Dataset.from_list([{"prompt": [{"role": "user", "content": text}]} for text in PROMPTS]),
        processing_class=tiny_tokenizer(),
        peft_config=lora_config(settings.lora),
        callbacks=[MarkComplete()],
        refill_rounds=refill_rounds,
    )


def dropping(model, work, per_device):
    return grpo(model, work, per_device, beta=0.0, refill_rounds=0)


def refilling(model, work, per_device):
    trainer = grpo(model, work, per_device, refill_rounds=1)
    trainer.refilled, scored = [], trainer._scored_aside
    trainer._scored_aside = lambda rows: (trainer.refilled.append(len(rows)), scored(rows))[1]
    return trainer


def validating(model, work, per_device):
    """GRPO with validation on five questions: one process answers three of them, the other two."""
    from sqlr1.model.prompts import Prompts
    from sqlr1.records import Catalogue, Question, read_records
    from sqlr1.rewards import reward_functions
    from sqlr1.sandbox import Executor, Limits
    from sqlr1.train.grpo_trainer import ExecutionReward, grpo_rows
    from sqlr1.train.validation import Validate

    data, prompts = work.parents[1], Prompts(tiny_tokenizer(), PROMPT)
    questions = read_records(data / "questions.jsonl", Question)[:5]
    rows, _ = grpo_rows(questions, Catalogue(data / "catalogue.jsonl", data), prompts)
    trainer = grpo(model, work, per_device)
    own = []

    class Counting(ExecutionReward):
        def outcomes(self, completions, *rest):
            own.append(len(completions))
            return super().outcomes(completions, *rest)

    reward = Counting(Executor(1, Limits(seconds=1.0)), "bird", reward_functions(Reward(), "full"))
    few, all_of_them = Validate(rows[:1], reward, every=4), Validate(rows, reward, every=4)
    few.trainer = all_of_them.trainer = trainer
    few.score()
    all_of_them.score()
    assert own == {1: [[1, 5]], 2: [[1, 3], [0, 2]]}[PartialState().num_processes][PartialState().process_index]
    trainer.add_callback(all_of_them)
    return trainer


class End(TrainerCallback):
    """Ends the process once its checkpoint of the second epoch is there."""

    def on_save(self, args, state, control, **_):
        PartialState().wait_for_everyone()
        os._exit(0)


def main(cases, data, out, per_device, course):
    """What each process runs."""
    torch.set_num_threads(1)
    for case in cases.split(","):
        train(case, data, Path(out) / f"{case}.work", int(per_device), course)


def train(case, data, work, per_device, course, make=None):
    """`course`: cut (to the checkpoint, which the second process writes late) or whole. `make` makes the trainer."""
    from transformers import AutoModelForCausalLM

    print("training", case, file=sys.stderr)
    torch.manual_seed(0)  # the adapters start with the same weights, whatever was trained before
    trainer = (make or globals()[case])(AutoModelForCausalLM.from_pretrained(f"{data}/base/model"), work, per_device)
    # Adam divides by a gradient's size: at its default epsilon, rounding errors of tiny gradients become whole steps.
    trainer.args.adam_epsilon = 1e-4
    if course == "cut":
        trainer.add_callback(End())
        save = trainer._save_rng_state
        trainer._save_rng_state = lambda folder: (time.sleep(trainer.args.process_index), save(folder))
    train_on(trainer, work)
    with whole_weights(trainer) as model:
        trained = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
    if trainer.is_world_process_zero():
        history = trainer.state.log_history
        made = {
            "weights": trained,
            "losses": [line["loss"] for line in history if "loss" in line],
            "validations": [line for line in history if "validation/match" in line],
            "live_groups": [line[LIVE_GROUPS] for line in history if LIVE_GROUPS in line],
            "zero_variance": [line[ZERO_VARIANCE] for line in history if ZERO_VARIANCE in line],
            "refilled": getattr(trainer, "refilled", []),
        }
        torch.save(made, work.with_suffix(".pt"))


def run(cases, data, out, processes, course="whole", launch=LAUNCH, script=__file__):
    """The results of each of `cases` in the first process. One launch trains them all; they write to `data`/`out`."""
    command = [sys.executable, *(launch if processes == 2 else []), script, ",".join(cases), str(data)]
    environment = {"ACCELERATE_USE_CPU": "true"} | os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, str(data / out), str(ROWS // processes), course],
        capture_output=True, text=True, check=False, timeout=600 * len(cases), env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    return {path.stem: torch.load(path) for path in (data / out).glob("*.pt")}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    prepare(folder)
    return folder


TRAINERS = ["cold_start", "grpo"]


@pytest.fixture(scope="module")
def one(data):
    return run(TRAINERS, data, "one", 1)


@pytest.fixture(scope="module")
def two(data):
    return run(TRAINERS, data, "two", 2)


@pytest.fixture(scope="module")
def more_of_one(data):
    return run(["dropping", "validating"], data, "more-of-one", 1)


@pytest.fixture(scope="module")
def more_of_two(data):
    return run(["dropping", "validating", "refilling"], data, "more-of-two", 2)


def largest_update(made):
    """The largest weight of the adapters' matrices B, which start at zero."""
    return max(weights.abs().max() for name, weights in made["weights"].items() if "lora_B" in name)


@pytest.mark.parametrize("case", TRAINERS)
def test_two_processes_train_as_one(one, two, case):
    """About 30 s: a launch of one process and one of two."""
    check_equal(one, two, case)


@pytest.mark.slow
def test_two_processes_that_drop_groups_train_as_one(more_of_one, more_of_two):
    check_equal(more_of_one, more_of_two, "dropping")


def check_equal(one, two, case):
    assert largest_update(one[case]) > 1e-2
    assert max((one[case]["weights"][n] - w).abs().max() for n, w in two[case]["weights"].items()) < 1e-4
    assert two[case]["losses"] == pytest.approx(one[case]["losses"], abs=1e-4)


@pytest.mark.slow
def test_two_processes_share_the_validation(more_of_one, more_of_two):
    alone, shared = more_of_one["validating"]["validations"], more_of_two["validating"]["validations"]
    assert [line["step"] for line in shared] == [0, 4, 8, 10]
    # Only before training: afterwards the weights' last bits differ, which may change a greedy token.
    assert shared[0] == pytest.approx(alone[0])


@pytest.mark.slow
@pytest.mark.parametrize("case", TRAINERS)
def test_two_processes_resume_within_a_later_epoch(data, two, case):
    assert run([case], data, f"cut-{case}", 2, "cut") == {}
    checkpoint = data / f"cut-{case}/{case}.work/checkpoint-8"
    assert (checkpoint / "complete").stat().st_mtime >= (checkpoint / "rng_state_1.pth").stat().st_mtime
    resumed = run([case], data, f"cut-{case}", 2)[case]
    assert all(torch.equal(two[case]["weights"][n], w) for n, w in resumed["weights"].items())
    assert resumed["losses"] == two[case]["losses"]


@pytest.mark.slow
def test_a_launched_stage_resumes_after_a_kill_and_writes_its_outputs_once(data, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    works = data / "results/.work"
    kill_when(data, "grpo", "launched", lambda: list(works.glob("*/checkpoint-4/complete")), LAUNCH, 400)
    assert not (data / "launched/manifest.json").exists()
    assert "checkpoint-4" in "".join(re.findall(r"resuming from (\S+)", run_stage(data, "grpo", "launched", LAUNCH)))
    manifest = json.loads((data / "launched/manifest.json").read_text())
    assert {"metrics.jsonl", "validation.jsonl", "model/model.safetensors"} <= manifest["outputs"].keys()
    assert [path.suffix for path in works.iterdir()] == [".lock"] * 2  # one per process


@pytest.mark.slow
def test_two_processes_refill_together(more_of_two):
    """Each draws as many groups as the one that needs most. The groups differ from those of a single process."""
    assert len(more_of_two["refilling"]["losses"]) == 10
    assert largest_update(more_of_two["refilling"]) > 1e-2
    assert more_of_two["refilling"]["refilled"]


@pytest.mark.slow
def test_dropped_groups_are_counted_over_all_processes(more_of_one, more_of_two):
    assert 0.5 in more_of_one["dropping"]["live_groups"]  # one of two groups was dropped
    assert more_of_two["dropping"]["live_groups"] == more_of_one["dropping"]["live_groups"]
    for made in (more_of_one, more_of_two):  # no refill: what is dropped is what was drawn without variance
        assert made["dropping"]["zero_variance"] == [1 - live for live in made["dropping"]["live_groups"]]


if __name__ == "__main__":
    main(*sys.argv[1:])
