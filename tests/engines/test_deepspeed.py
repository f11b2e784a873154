"""DeepSpeed on the CPU, two processes over gloo, by the shipped files of `accelerate launch`: one process's weights."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))  # for the processes that the tests launch
from test_training_two_processes import cold_start, grpo, run, train
from tiny_stages import prepare
from transformers import AutoModelForCausalLM

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
            return cold_start(model, work, per_device, **settings)
        return drawn_beforehand(grpo(model, work, per_device, **settings))

    return made


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
    weights = one[case]["weights"]
    start = AutoModelForCausalLM.from_pretrained(data / "base/model").state_dict()  # and adapters' B is 0
    assert max((w - start.get(n, 0)).abs().max() for n, w in weights.items() if "lora_A" not in n) > 1e-3
    assert weights.keys() == made["weights"].keys()
    assert max((weights[n] - w).abs().max() for n, w in made["weights"].items()) < 1e-4
    assert made["losses"] == pytest.approx(one[case]["losses"], abs=1e-4)


def main(cases, data, out, per_device, course):
    """What each process runs."""
    torch.set_num_threads(1)
    for case in cases.split(","):
        train(case, data, Path(out) / f"{case}.work", int(per_device), course, make(case))


if __name__ == "__main__":
    main(*sys.argv[1:])
