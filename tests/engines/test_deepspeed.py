"""DeepSpeed on the CPU, two processes over gloo, by the shipped files of `accelerate launch`: one process's weights."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))  # for the processes that the tests launch
from test_training_two_processes import cold_start, grpo, run, train
from tiny_stages import prepare
from transformers import AutoModelForCausalLM, TrainerCallback

from sqlr1.model.sampler import row_seed

pytestmark = pytest.mark.engines
ALL = {"lora": None, "learning_rate": 1e-3}
CASES = ["cold_start", "cold_start_all_weights", "grpo", "grpo_all_weights"]


def launch(stage):
    """As the paper overlays launch training, on two processors instead of eight GPUs."""
    file = Path(__file__).parents[2] / f"workflow/config/accelerate/zero{stage}.yaml"
    two = ["--num_processes", "2", "--mixed_precision", "no", "--main_process_port", "0"]
    return ["-m", "accelerate.commands.launch", "--config_file", str(file), *two]


def make(case):
    def made(model, work, per_device):
        settings = ALL if case.endswith("all_weights") else {}
        if case.startswith("cold_start"):
            return sharded(cold_start(model, work, per_device, **settings))
        return sharded(drawn_beforehand(grpo(model, work, per_device, **settings)))

    return made


def sharded(trainer):
    """ZeRO-3 leaves small weights whole in each process, and the tiny model has no others: here it divides them all."""
    if plugin := trainer.accelerator.state.deepspeed_plugin:
        plugin.deepspeed_config["zero_optimization"]["stage3_param_persistence_threshold"] = 0
        trainer.add_callback(Divided(plugin.zero_stage))
    return trainer


class Divided(TrainerCallback):
    """Checks that the weights are in parts under ZeRO-3, and only there."""

    def __init__(self, stage):
        self.stage = stage

    def on_step_end(self, args, state, control, model=None, **_):
        parts = [w.ds_tensor.numel() * 2 <= w.ds_numel + 1 and not w.ds_persist for w in model.parameters()
                 if hasattr(w, "ds_tensor")]  # fmt: skip
        assert (parts and all(parts)) if self.stage == 3 else not parts


def drawn_beforehand(trainer):
    """Rollouts that depend on step and row alone: under ZeRO-3 TRL draws others in two processes than in one."""

    def rollouts(prompt_ids, *_, **__):
        first, drawn = trainer.accelerator.process_index * len(prompt_ids), []
        for row in range(len(prompt_ids)):
            generator = torch.Generator().manual_seed(row_seed(trainer._step, first + row))
            length = 2 + int(torch.randint(4, (1,), generator=generator))
            drawn.append(torch.randint(3, 259, (length,), generator=generator).tolist())
        return drawn, None

    trainer._generate_single_turn = rollouts
    return trainer


@pytest.fixture(autouse=True)
def _on_cpu(monkeypatch):
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "false")  # otherwise accelerate leaves DeepSpeed out


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("deepspeed")
    prepare(folder)
    return folder


@pytest.fixture(scope="module")
def one(data):
    return run(CASES, data, "one", 1, script=__file__)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("stage", [2, 3])
def test_the_weights_of_a_single_process(data, one, stage, case):
    made = run([case], data, f"zero{stage}-{case}", 2, launch=launch(stage), script=__file__)[case]
    shards = (data / f"zero{stage}-{case}/{case}.work").glob("checkpoint-8/global_step8/*_model_states.pt")
    assert len(list(shards)) == {2: 1, 3: 2}[stage]  # only ZeRO-3 has a part of the weights in each process
    check_equal(one[case], made, data)


@pytest.mark.parametrize("stage", [2, 3])
def test_a_run_that_ended_early_resumes_from_its_checkpoint(data, one, stage):
    case, again = "grpo_all_weights", {"launch": launch(stage), "script": __file__}
    assert run([case], data, f"cut{stage}", 2, "cut", **again) == {}
    assert (data / f"cut{stage}/{case}.work/checkpoint-8/complete").exists()
    made = run([case], data, f"cut{stage}", 2, **again)[case]
    assert len(made["losses"]) == len(one[case]["losses"])
    check_equal(one[case], made, data)


def check_equal(one, made, data):
    weights = one["weights"]
    start = AutoModelForCausalLM.from_pretrained(data / "base/model").state_dict()  # and adapters' B is 0
    assert max((w - start.get(n, 0)).abs().max() for n, w in weights.items() if "lora_A" not in n) > 1e-3
    assert weights.keys() == made["weights"].keys()
    assert max((weights[n] - w).abs().max() for n, w in made["weights"].items()) < 1e-4
    assert made["losses"] == pytest.approx(one["losses"], abs=1e-4)


def main(cases, data, out, per_device, course):
    """What each process runs."""
    torch.set_num_threads(1)
    for case in cases.split(","):
        train(case, data, Path(out) / f"{case}.work", int(per_device), course, make(case))


if __name__ == "__main__":
    main(*sys.argv[1:])
