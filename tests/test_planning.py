"""The plan's formulas against counted FLOPs and kept bytes of real passes, and the command."""

import json
import subprocess
import sys

import pytest
import torch
from conftest import ROOT
from peft import LoraConfig, get_peft_model
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM

from sqlr1.planning import costs
from sqlr1.planning.costs import Tuning
from sqlr1.planning.shapes import SHAPES, Shape
from sqlr1.training.packed_forward import add_packed_forward
from sqlr1.training.packing import pack_groups, pack_sequences

# SmolLM2-135M with four of its layers and a tenth of its vocabulary; another with a wide MLP, as Qwen2.5's.
SMALL = {"smollm2": Shape(576, 4, 9, 3, 1536, 5000, True), "wide": Shape(512, 4, 8, 2, 2688, 5000, True)}
GROUPS, PROMPT, SIZE, RESPONSE = 2, 200, 8, 48


def measured(shape, rank, packed, checkpointing=False):
    """FLOPs of forward and backward, bytes kept between them; under bf16 autocast, as training runs."""
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        num_hidden_layers=shape.layers,
        vocab_size=shape.vocabulary,
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(config).to(torch.bfloat16 if rank else torch.float32)
    add_packed_forward(model)
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if rank:
        model = get_peft_model(model, LoraConfig(r=rank, target_modules="all-linear", task_type="CAUSAL_LM"))
    model.train()
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with FlopCounterMode(display=False) as counter:
        with (
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
            torch.autocast("cpu", torch.bfloat16),
        ):
            log_probs, _ = model(packed=packed)
        log_probs.sum().backward()
    kept_bytes = sum(t.untyped_storage().nbytes() for address, t in kept.items() if address not in weights)
    return counter.get_total_flops(), kept_bytes


def grouped():
    return pack_groups([[1] * PROMPT] * GROUPS, [[[2] * RESPONSE] * SIZE] * GROUPS)


@pytest.mark.parametrize("rank", [0, 32], ids=["full", "lora"])
@pytest.mark.parametrize("shape", SMALL.values(), ids=SMALL)
def test_a_grpo_pass_costs_what_the_plan_says(shape, rank):
    work, tuning = costs.groups(GROUPS, PROMPT, SIZE, RESPONSE), Tuning(rank, False, 1)
    flops, kept = measured(shape, rank, grouped())
    assert costs.training_flops(shape, work, tuning) == pytest.approx(flops, rel=0.1)
    logits = 12 * shape.vocabulary * (64 if rank else 1024)
    assert costs.activation_bytes(shape, work.tokens, tuning) - logits == pytest.approx(kept, rel=0.2)


def test_a_cold_start_pass_costs_what_the_plan_says():
    shape, work = SMALL["smollm2"], costs.sequences(4, PROMPT, RESPONSE)
    ids, labels = [1] * (PROMPT + RESPONSE), [-100] * PROMPT + [2] * RESPONSE
    flops, _ = measured(shape, 32, pack_sequences([ids] * 4, [labels] * 4, -100))
    assert costs.training_flops(shape, work, Tuning(32, False, 1)) == pytest.approx(flops, rel=0.1)


def test_checkpointing_costs_a_forward_pass_more():
    shape, work = SMALL["smollm2"], costs.groups(GROUPS, PROMPT, SIZE, RESPONSE)
    plain, checkpointed = (measured(shape, 0, grouped(), on)[0] for on in (False, True))
    predicted = [costs.training_flops(shape, work, Tuning(0, on, 1)) for on in (False, True)]
    assert checkpointed > 1.2 * plain
    assert predicted[1] / predicted[0] == pytest.approx(checkpointed / plain, rel=0.1)


def test_shapes_give_the_published_numbers_of_weights():
    billions = {"SmolLM2-135M": 0.1345, "Qwen2.5-Coder-3B": 3.09, "Qwen2.5-Coder-7B": 7.62, "Qwen2.5-Coder-14B": 14.8}
    for name, published in billions.items():
        assert SHAPES[name].parameters / 1e9 == pytest.approx(published, rel=0.01)


def plan(*arguments):
    command = [sys.executable, "-m", "sqlr1.cli", "plan", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("size", ["3b", "7b", "14b"])
def test_the_paper_overlays_are_planned(size):
    done = plan("--configfile", f"workflow/config/paper-{size}.yaml", "--json")
    assert done.returncode == 0, done.stderr
    stages = {stage["stage"]: stage for stage in json.loads(done.stdout)["stages"]}
    assert list(stages) == ["cold_start", "grpo", "candidates"]  # the paper selects nothing
    assert stages["grpo"]["devices"] == 8
    # Ten epochs of 4,000 questions, each with 8 completions: sampled, then trained on.
    assert stages["grpo"]["tokens"] == 2 * 40_000 * (4096 + 8 * 2048)
    assert 1 < stages["grpo"]["hours"] < 1000


def test_lengths_accelerator_and_table():
    done = plan("--accelerator", "cpu", "--prompt-tokens", "200", "--completion-tokens", "40")
    assert done.returncode == 0, done.stderr
    assert "embedded: 0.13 G weights on cpu" in done.stdout
    assert "| select " in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--configfile", "nowhere.yaml"], "nowhere.yaml: no such file"),
        (["--mfu", "7"], "--mfu: 7.0 is not between 0 and 1"),
    ],
)
def test_bad_input_is_one_line(arguments, message):
    done = plan(*arguments)
    assert done.returncode == 1
    assert done.stderr == f"error: {message}\n"


def test_an_unknown_model_is_named(tmp_path):
    (tmp_path / "x.yaml").write_text("base_model: {source: hub, name: acme/Unknown-9B}")
    done = plan("--configfile", str(tmp_path / "x.yaml"), "--base", "config.yaml")
    assert done.returncode == 1
    assert "no published shape of 'acme/Unknown-9B'" in done.stderr
