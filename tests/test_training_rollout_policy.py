"""The copy of the policy for rollouts: equal weights, same device, no use of the random generator."""

from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny_models import tiny_model
from trl.generation import vllm_generation

from sqlr1.config import Grpo
from sqlr1.train import grpo_trainer
from sqlr1.train.policy import _plain_copy, rollout_policy

LORA = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")


def trainer(bf16):
    return SimpleNamespace(args=SimpleNamespace(bf16=bf16), rollout_model=None)


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])  # tied and separate head
def test_the_copy_answers_as_the_adapted_policy(architecture):
    policy = get_peft_model(tiny_model(architecture), LORA).eval()
    ids = torch.arange(3, 60)[None]
    copied = rollout_policy(policy, trainer(bf16=False))
    with torch.no_grad():
        torch.testing.assert_close(copied(ids).logits, policy(ids).logits, atol=1e-4, rtol=1e-4)


def test_the_copy_rounds_weights_but_not_the_rotary_frequencies():
    policy = tiny_model()
    copied = rollout_policy(policy, trainer(bf16=True))
    assert copied.dtype == torch.bfloat16
    assert torch.equal(copied.model.rotary_emb.inv_freq, policy.model.rotary_emb.inv_freq)
    assert torch.equal(copied.model.layers[0].mlp.up_proj.weight, policy.model.layers[0].mlp.up_proj.weight.bfloat16())


def test_the_copy_takes_no_random_numbers():
    policy = get_peft_model(tiny_model(), LORA)
    before = torch.get_rng_state()
    rollout_policy(policy, trainer(bf16=True))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_copy_is_on_the_policys_device():
    policy = get_peft_model(tiny_model().to("meta"), LORA)  # a device that every machine has
    assert {p.device.type for p in _plain_copy(policy, None).parameters()} == {"meta"}


@pytest.mark.parametrize(("bf16", "dtype"), [(True, "bfloat16"), (False, "float32")])
def test_colocated_vllm_is_made_in_the_precision_of_the_products(bf16, dtype, tmp_path, monkeypatch):
    """As TRL makes it, without a dtype; vLLM itself is not needed."""
    made = []
    monkeypatch.setattr(vllm_generation, "LLM", lambda model, dtype="auto": made.append(dtype), raising=False)
    monkeypatch.setattr(grpo_trainer, "SharedPromptTrainer", lambda **_: vllm_generation.LLM("model"))
    rows = [{"prompt": [], "gold": "", "database": ""}]
    reward = SimpleNamespace(functions=list)
    settings = Grpo(bf16=bf16, num_generations=8, per_device_train_batch_size=8, gradient_accumulation_steps=1)
    grpo_trainer.make_trainer(None, SimpleNamespace(), rows, reward, SimpleNamespace(), settings, tmp_path, seed=0)
    vllm_generation.LLM("model")
    assert made == [dtype, "auto"]
