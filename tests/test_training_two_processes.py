"""Two CPU processes under `accelerate launch` train as one does: the same global batch and seeds, the same weights."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from accelerate import PartialState
from tiny_models import tiny_folder, tiny_tokenizer
from tiny_stages import PROMPT, prepare
from transformers import TrainerCallback

from sqlr1.training.checkpoints import MarkComplete, train_on

# Of the launchers of accelerate only the one for GPUs starts several processes without MPI; the environment says CPU.
LAUNCH = [
    *("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"),
    *("--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"),
]
PROMPTS = ["How many singers?", "Name?", "List the names of all the concerts held in 2014.", "a", "Which year?", "b c"]
# Adam divides by a gradient's size: at its default epsilon the rounding of vanishing gradients becomes whole steps.
COMMON = {
    "adam_epsilon": 1e-4,
    "learning_rate": 1e-2,
    "bf16": False,
    "max_steps": 10,
    "save_steps": 8,
    "lora": {"r": 4},
}
ROWS = 8  # a step, over all processes


def letters(completions, **_):
    """Any reward will do that differs within groups, and in some not at all."""
    return [float(len(c[0]["content"]) % 3) for c in completions]


def cold_start(model, work, per_device):
    from sqlr1.training.cold_start import make_trainer

    texts = [(list(range(3, 9 + 2 * i)), list(range(40, 44 + i))) for i in range(24)]
    rows = [{"input_ids": p + r, "labels": [-100] * len(p) + r} for p, r in texts]
    settings = COMMON | {"per_device_train_batch_size": per_device}
    return make_trainer(model, tiny_tokenizer(), rows, settings, work, seed=3)


def grpo(model, work, per_device, beta=0.05, refill_rounds=None):
    from datasets import Dataset

    from sqlr1.training.settings import grpo_config, lora_config
    from sqlr1.training.shared_prompt import SharedPromptTrainer

    settings = COMMON | {"num_generations": 4, "per_device_train_batch_size": per_device, "max_completion_length": 6}
    return SharedPromptTrainer(
        model=model,
        args=grpo_config(settings | {"beta": beta, "num_iterations": 2}, work, seed=3),
        reward_funcs=letters,
        train_dataset=Dataset.from_list([{"prompt": [{"role": "user", "content": text}]} for text in PROMPTS]),
        processing_class=tiny_tokenizer(),
        peft_config=lora_config(settings),
        callbacks=[MarkComplete()],
        refill_rounds=refill_rounds,
    )


def dropping(model, work, per_device):
    return grpo(model, work, per_device, beta=0.0, refill_rounds=0)


def refilling(model, work, per_device):
    return grpo(model, work, per_device, refill_rounds=1)


def validating(model, work, per_device):
    """GRPO that is validated on five questions: one process has three of them, the other two."""
    from sqlr1.execution import Executor, Limits
    from sqlr1.inference.prompts import Prompts
    from sqlr1.records import Catalogue, Question, read_records
    from sqlr1.rewards import reward_functions
    from sqlr1.training.grpo import grpo_rows
    from sqlr1.training.judge import Judge
    from sqlr1.training.validation import Validate

    questions, catalogue = read_records(work.parent / "questions.jsonl", Question), work.parent / "catalogue.jsonl"
    prompts = Prompts(tiny_tokenizer(), PROMPT)
    rows, _ = grpo_rows(questions[:5], Catalogue(catalogue, work.parent), prompts)
    judge = Judge(Executor(1, Limits(seconds=1.0)), "bird", reward_functions({}, "full"))
    trainer = grpo(model, work, per_device)
    for validate in (Validate(rows[:1], judge, every=4), Validate(rows, judge, every=4)):
        validate.trainer = trainer
        assert validate.score()["characters"] > 0  # of one question the second process has none
    trainer.add_callback(validate)
    return trainer


class End(TrainerCallback):
    """Ends the process once its checkpoint of the second epoch is there."""

    def on_save(self, args, state, control, **_):
        PartialState().wait_for_everyone()
        os._exit(0)


def main(case, folder, out, per_device, course):
    """What each process runs. `course`: cut (to the checkpoint, which the second process writes late) or whole."""
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(folder)
    work = Path(out).with_suffix(".work")
    trainer = globals()[case](model, work, int(per_device))
    if course == "cut":
        trainer.add_callback(End())
        save = trainer._save_rng_state
        trainer._save_rng_state = lambda folder: (time.sleep(trainer.args.process_index), save(folder))
    train_on(trainer, work)
    if trainer.is_world_process_zero():
        trained = {n: p.detach() for n, p in trainer.model.named_parameters() if p.requires_grad}
        losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
        validations = [line for line in trainer.state.log_history if "validation/match" in line]
        torch.save({"weights": trained, "losses": losses, "validations": validations}, out)


def run(case, folder, out, processes, course="whole"):
    command = [sys.executable, *(LAUNCH if processes == 2 else []), __file__, case, str(folder), str(out)]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, str(ROWS // processes), course],
        capture_output=True, text=True, check=False, timeout=300, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    return torch.load(out) if out.exists() else None


@pytest.mark.parametrize("case", ["cold_start", "grpo", "dropping"])
def test_two_processes_train_as_one(tmp_path, case):
    folder = tiny_folder(tmp_path / "model")
    one, two = (run(case, folder, tmp_path / f"{n}.pt", n) for n in (1, 2))
    # The matrices B of the adapters start at zero.
    assert max(w.abs().max() for n, w in one["weights"].items() if "lora_B" in n) > 1e-2
    assert max((one["weights"][n] - w).abs().max() for n, w in two["weights"].items()) < 1e-4
    assert two["losses"] == pytest.approx(one["losses"], abs=1e-4)


def test_two_processes_share_the_validation(tmp_path):
    prepare(tmp_path)
    one, two = (run("validating", tmp_path / "base/model", tmp_path / f"{n}.pt", n)["validations"] for n in (1, 2))
    assert [line["step"] for line in two] == [0, 4, 8, 10]
    # Before training; afterwards the weights differ in their last bits, which may decide a greedy token.
    assert two[0] == pytest.approx(one[0])
    assert two[0]["validation/questions"] == 5


@pytest.mark.parametrize("case", ["cold_start", "grpo"])
def test_two_processes_resume_within_a_later_epoch(tmp_path, case):
    folder = tiny_folder(tmp_path / "model")
    whole = run(case, folder, tmp_path / "whole.pt", 2)
    assert run(case, folder, tmp_path / "cut.pt", 2, "cut") is None
    checkpoint = tmp_path / "cut.work/checkpoint-8"
    assert (checkpoint / "complete").stat().st_mtime >= (checkpoint / "rng_state_1.pth").stat().st_mtime
    resumed = run(case, folder, tmp_path / "cut.pt", 2)
    assert all(torch.equal(whole["weights"][n], w) for n, w in resumed["weights"].items())
    assert resumed["losses"] == whole["losses"]


def test_two_processes_refill_together(tmp_path):
    """Each draws as many groups as the neediest: other groups than one process draws, but both go on to the end."""
    made = run("refilling", tiny_folder(tmp_path / "model"), tmp_path / "2.pt", 2)
    assert len(made["losses"]) == 10
    assert max(w.abs().max() for n, w in made["weights"].items() if "lora_B" in n) > 1e-2


if __name__ == "__main__":
    main(*sys.argv[1:])
