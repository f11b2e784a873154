"""Any causal model: the shared prompt equals the model's own code where it is used, and gives way to it elsewhere."""

import logging

import pytest
import torch
from test_inference_sampler import generated
from test_training_shared_prompt import assert_equal_gradients, make
from test_training_shared_prompt_paths import trainer_of
from tiny_models import ARCHITECTURES, tiny_folder, tiny_model, tiny_tokenizer
from transformers import AutoModelForCausalLM

from sqlr1.config import Candidates, ColdStart, Lora
from sqlr1.model.answers import make_backend
from sqlr1.model.prefix_cache import why_not_shared
from sqlr1.model.sampler import GREEDY, Sampling, sample
from sqlr1.train import sft

# Shorter and longer than the sliding windows of 8, with a shared prefix and without.
SCHEMA = [3, *range(30, 60)]
PROMPTS = [[*SCHEMA, 90], [*SCHEMA, 91, 92, 93, 94], [5, 6, 7], [*range(100, 112)], [50]]
ROWS = [
    {"input_ids": [*prompt, *range(200, 204 + 3 * i)], "labels": [-100] * len(prompt) + [*range(200, 204 + 3 * i)]}
    for i, prompt in enumerate(PROMPTS)
]
REASONS = {
    "dropout": "the model has attention dropout",
    "scaled logits": "its logits are not the head's alone",
    "capped scores": "a trial failed: its attention takes softcap",
    "capped logits": "its logits are not the head's alone",
    "sinks": "a trial failed: its attention takes s_aux",
    "long rotary": "the model's rotary frequencies depend on the longest row",
    "no positions": "a trial failed: ",
}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_greedy_tokens_with_a_shared_prompt_equal_generate(architecture):
    model = tiny_model(architecture)
    assert why_not_shared(model) == ""
    drawn = sample(model, PROMPTS, [[GREEDY, 1]] * len(PROMPTS), Sampling(24), [2, 9, 77])
    assert [group[0] for group in drawn] == [generated(model.eval(), p, 24, [2, 9, 77]) for p in PROMPTS]


@pytest.mark.parametrize("architecture", ["gemma3", "mistral", "phi3"])
def test_the_windows_are_short_enough_to_matter(architecture):
    narrow, wide = (tiny_model(architecture, sliding_window=window) for window in (8, 4096))
    drawn, other = (sample(model, PROMPTS, [[GREEDY]] * 5, Sampling(24), [2]) for model in (narrow, wide))
    assert drawn != other


def test_a_recurrent_model_is_not_shared():
    """Its training without fast kernels would take too long here."""
    assert why_not_shared(tiny_model("recurrent")) == "the model has layers of type linear_attention"


def cold_start(model, tmp_path, **settings):
    settings = ColdStart(**{"bf16": False, "per_device_train_batch_size": 5, "max_steps": 1, "threads": 1} | settings)
    rows = [{**row, "database": "d"} for row in ROWS]
    return sft.make_trainer(model, tiny_tokenizer(), rows, settings, tmp_path, 0)


def loss_and_gradients(trainer, batch):
    trainer.model.train()
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    return loss.item(), {n: p.grad for n, p in trainer.model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_packed_cold_start_has_the_loss_and_gradient_of_transformers(architecture, tmp_path):
    trainer = cold_start(tiny_model(architecture), tmp_path)
    loss, ours = loss_and_gradients(trainer, trainer.data_collator(ROWS))
    plain = tiny_model(architecture).train()
    expected = plain(**sft.pad(ROWS)).loss
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    assert_equal_gradients(ours, {n: p.grad for n, p in plain.named_parameters() if p.grad is not None}, 1e-4)


@pytest.mark.parametrize("kind", REASONS)
def test_what_cannot_be_shared_is_computed_by_the_models_own_code(kind, tmp_path, caplog):
    """A cold start, two steps of GRPO and candidates. Each warns once, with the reason."""
    tiny_folder(tmp_path / "model", kind)
    load = AutoModelForCausalLM.from_pretrained
    batch = sft.pad(ROWS)
    with caplog.at_level(logging.WARNING, "sqlr1"):
        supervised = cold_start(load(tmp_path / "model"), tmp_path)
        assert supervised.data_collator is sft.pad
        if kind != "dropout":
            expected = load(tmp_path / "model").train()(**batch).loss.item()
            assert loss_and_gradients(supervised, batch)[0] == pytest.approx(expected, rel=1e-5)
        supervised.train()
        trainer_of(load(tmp_path / "model"), tmp_path, ("How many?", "b c"), max_steps=2, save_strategy="no").train()
        backend = make_backend(Candidates(dtype="float32"), tmp_path / "model")
        seeds = [[GREEDY, 1, 2]] * 2
        answers, again = (dict(backend.complete(PROMPTS[2:4], seeds, Sampling(6))) for _ in range(2))
    assert answers == again
    best = [
        backend.tokenizer.decode(generated(backend.model, p, 6, [2]), skip_special_tokens=True) for p in PROMPTS[2:4]
    ]
    assert [answers[n][0] for n in range(2)] == best
    warned = [r.getMessage() for r in caplog.records if REASONS[kind] in r.getMessage()]
    assert len(warned) == 3, caplog.text
    assert "each prompt is computed 4 times" in warned[1]


@pytest.mark.parametrize("architecture", ["qwen3", "gemma3", "phi3"])
def test_a_cold_start_and_grpo_train_an_adapter(architecture, tmp_path):
    lora = Lora(r=2, lora_alpha=4)
    cold_start(tiny_model(architecture), tmp_path, lora=lora).train()
    tiny_folder(tmp_path / "model", architecture)
    trainer = make({architecture: tmp_path / "model"}, tmp_path, True, architecture, max_steps=2)
    before = {n: p.detach().clone() for n, p in trainer.model.named_parameters()}
    trainer.train()
    assert any(not torch.equal(before[n], p) for n, p in trainer.model.named_parameters())
