"""Shared prompts against TRL's own code on the same completions: losses, log-probabilities, gradients, weights."""

import math
import random
import sys
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from datasets import Dataset
from peft import LoraConfig
from tiny_models import ARCHITECTURES, UNSHARED, smollm2, tiny_folder
from transformers import AutoModelForCausalLM
from trl import GRPOConfig, GRPOTrainer

from sqlr1.model.base import load_tokenizer
from sqlr1.train.shared_prompt import SharedPromptTrainer

PROMPTS = [
    "How many singers?",
    "Name?",
    "List the names of all the concerts held in 2014.",
    "a",
    "Which year?",
    "b c d",
]
LORA = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")


class FixedRollouts:
    """The same completions for both trainers: of mixed lengths, some truncated, a few of one token, some equal."""

    def _generate_single_turn(self, prompt_ids, images, multimodal_fields, num_generations, *rest, **more):
        rng = random.Random(self._step)
        rows = [[rng.randrange(3, 259) for _ in range(rng.randint(0, 11))] for _ in prompt_ids]
        rows = [[*row, 2] if rng.random() < 0.7 or not row else row for row in rows]
        return [rows[n - 1] if n and rng.random() < 0.3 else row for n, row in enumerate(rows)], None


class Stock(FixedRollouts, GRPOTrainer):
    pass


class Ours(FixedRollouts, SharedPromptTrainer):
    pass


def letters(completions, **_):
    """Any reward that differs within groups."""
    return [float(len(c[0]["content"]) % 5) for c in completions]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    kinds = [*ARCHITECTURES, *UNSHARED]
    return {a: tiny_folder(tmp_path_factory.mktemp("model"), a) for a in kinds} | {"smollm2": smollm2()}


def make(folders, out, shared, architecture="llama", lora=None, dtype=torch.float32, **settings):
    defaults = {
        "num_generations": 4, "per_device_train_batch_size": 8, "max_completion_length": 12, "learning_rate": 1e-2,
        "use_cpu": True, "bf16": False, "gradient_checkpointing": False, "report_to": "none", "save_strategy": "no",
        "logging_steps": 1, "max_steps": 1, "beta": 0.0, "seed": 3, "disable_tqdm": True, "temperature": 0.9,
    }  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(folders[architecture], dtype=dtype)
    # Enough for five steps within the first epoch; in later ones our order of prompts differs from TRL's.
    rows = [{"prompt": [{"role": "user", "content": f"{text} {n}"}]} for n in range(4) for text in PROMPTS]
    trainer = (Ours if shared else Stock)(
        model=model,
        args=GRPOConfig(str(out), **(defaults | settings)),
        reward_funcs=letters,
        train_dataset=Dataset.from_list(rows),
        processing_class=load_tokenizer(folders[architecture]),
        peft_config=lora,
    )
    assert not (shared and trainer.unshared_reason)
    return trainer


def first_update(trainer, old=None):
    """Loss and gradients of the first micro-batch. `old` is the log-probability that each token was drawn with, if not
    the present one: with ratios of 1 the loss would not depend on the log-probabilities.
    """
    trainer.create_optimizer_and_scheduler(1)
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = trainer.args.gradient_accumulation_steps
    inputs = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
    if old is not None:
        inputs["old_per_token_logps"] = torch.full(inputs["completion_ids"].shape, old)
    loss = trainer.compute_loss(trainer.model, inputs)
    loss.backward()
    return loss.item(), {n: p.grad for n, p in trainer.model.named_parameters() if p.grad is not None}


def assert_equal_gradients(ours, stock, tolerance):
    assert ours.keys() == stock.keys()
    for name, gradient in stock.items():
        assert (ours[name] - gradient).norm() <= tolerance * gradient.norm() + 1e-9, name


CASES = {
    "grpo": {"loss_type": "grpo"},
    "dr_grpo": {"loss_type": "dr_grpo"},
    "dapo": {"loss_type": "dapo"},
    "bnpo": {"loss_type": "bnpo"},
    "kl": {"beta": 0.1},
    "sequence": {"importance_sampling_level": "sequence", "loss_type": "grpo"},
    "batch scale": {"scale_rewards": "batch"},
    "no scale": {"scale_rewards": "none"},
    "wide clip": {"epsilon_high": 0.4, "num_iterations": 2},
    "truncated": {"mask_truncated_completions": True},
    "checkpointed": {"gradient_checkpointing": True},
    "entropy": {"entropy_coef": 0.01},
}


# 0.25 below the log-probability of a uniform choice: ratios are about 1.3, some of them clipped and some not.
OLD = -math.log(259) - 0.25
# Equal to the default, without effect on numbers, or (kl) zero because the policy equals its reference.
NO_EFFECT = ("dapo", "bnpo", "checkpointed", "kl")


@pytest.fixture(scope="module")
def default(folders, tmp_path_factory):
    return first_update(make(folders, tmp_path_factory.mktemp("default"), True, lora=LORA), OLD)


@pytest.mark.parametrize("name", CASES)
def test_options_give_the_stock_loss_and_gradient(folders, tmp_path, default, name):
    (stock_loss, stock), (loss, ours) = (
        first_update(make(folders, tmp_path, shared, lora=LORA, **CASES[name]), OLD) for shared in (False, True)
    )
    assert loss == pytest.approx(stock_loss, rel=1e-5, abs=1e-7)
    assert_equal_gradients(ours, stock, 1e-4)
    changed = [(ours[n] - g).norm() > 1e-3 * g.norm() for n, g in default[1].items() if g.norm() > 0]
    assert any(changed) is (name not in NO_EFFECT)


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_architectures_give_the_stock_loss_and_gradient(folders, tmp_path, architecture, lora):
    (stock_loss, stock), (loss, ours) = (
        first_update(make(folders, tmp_path, shared, architecture, lora, beta=0.05)) for shared in (False, True)
    )
    assert loss == pytest.approx(stock_loss, rel=1e-5, abs=1e-7)
    assert_equal_gradients(ours, stock, 1e-4)


class Engine(torch.nn.Module):
    """As DeepSpeed's engine, whose `config` hides the model's."""

    def __init__(self, module):
        super().__init__()
        self.module, self.config = module, {"zero_optimization": {"stage": 0}}

    def forward(self, *args, **kwargs):
        return self.module(*args, **kwargs)


def test_a_reference_inside_an_engine_gives_the_same_loss_and_gradient(folders, tmp_path, monkeypatch):
    plain_loss, plain = first_update(make(folders, tmp_path, True, beta=0.05))
    monkeypatch.setattr("accelerate.utils.other.is_deepspeed_available", lambda: True)
    monkeypatch.setitem(sys.modules, "deepspeed", SimpleNamespace(DeepSpeedEngine=Engine))
    prepare = Accelerator.prepare_model

    def in_engine(self, model, *args, evaluation_mode=False, **more):
        prepared = prepare(self, model, *args, evaluation_mode=evaluation_mode, **more)
        return Engine(prepared) if evaluation_mode else prepared

    monkeypatch.setattr(Accelerator, "prepare_model", in_engine)
    trainer = make(folders, tmp_path, True, beta=0.05)
    assert isinstance(trainer.ref_model, Engine)
    loss, gradients = first_update(trainer)
    assert loss == plain_loss
    assert_equal_gradients(gradients, plain, 0)


def test_smollm2_gives_the_stock_log_probabilities_loss_and_gradient(folders, tmp_path):
    results, inputs = [], None
    for shared in (False, True):
        trainer = make(folders, tmp_path, shared, "smollm2", LORA)
        loss, gradients = first_update(trainer)
        inputs = inputs or trainer._buffered_inputs[0]  # the trainers shuffle their rollouts differently
        results.append((loss, gradients, log_probs(trainer, inputs)[0]))
    (stock_loss, stock, stock_values), (loss, ours, values) = results
    torch.testing.assert_close(values, stock_values, atol=1e-4, rtol=0)
    assert loss == pytest.approx(stock_loss, rel=1e-5, abs=1e-7)
    assert_equal_gradients(ours, stock, 1e-4)


def test_bfloat16_rounds_no_more_than_in_stock(folders, tmp_path):
    rounded = AutoModelForCausalLM.from_pretrained(folders["llama"], dtype=torch.bfloat16).float()
    rounded.save_pretrained(tmp_path / "rounded")
    load_tokenizer(folders["llama"]).save_pretrained(tmp_path / "rounded")
    _, exact = first_update(make({"llama": tmp_path / "rounded"}, tmp_path, False, lora=LORA))
    settings = {"bf16": True, "lora": LORA, "dtype": torch.bfloat16}
    stock, ours = (first_update(make(folders, tmp_path, shared, **settings))[1] for shared in (False, True))

    def error(gradients):
        return math.sqrt(sum((gradients[n].float() - g).square().sum().item() for n, g in exact.items()))

    assert 0 < error(ours) < 1.2 * error(stock)
    assert_equal_gradients(ours, stock, 0.15)


@pytest.fixture(scope="module", params=["llama", "qwen2"])
def architecture(request):
    return request.param


@pytest.fixture(scope="module")
def batch(folders, tmp_path_factory, architecture):
    """One batch of rollouts from the stock trainer."""
    trainer = make(folders, tmp_path_factory.mktemp("batch"), False, architecture)
    trainer.model.train()
    return trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))


def log_probs(trainer, inputs):
    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
    mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1)
    length = inputs["completion_ids"].size(1)
    with torch.no_grad():
        values, entropy, _ = trainer._get_per_token_logps_and_entropies(
            trainer.model, ids, mask, length, compute_entropy=True
        )
    present = inputs["completion_mask"].bool()
    return values[present], entropy[present]


def test_log_probabilities_and_entropies_equal_stock(folders, tmp_path, batch, architecture):
    stock, ours = (log_probs(make(folders, tmp_path, shared, architecture), batch) for shared in (False, True))
    torch.testing.assert_close(ours[0], stock[0], atol=1e-4, rtol=0)
    torch.testing.assert_close(ours[1], stock[1], atol=1e-4, rtol=0)


def test_one_wrong_bit_of_the_mask_shows(folders, tmp_path, batch, architecture, monkeypatch):
    from sqlr1.train import packed_forward

    lay_out = packed_forward._lay_out

    def flipped(group, starts, lengths):
        lay_out(group, starts, lengths)
        if len(group.mask) > 1:
            group.mask[0, -len(group.mask) + 1] ^= True  # the first completion token now sees the second

    stock = log_probs(make(folders, tmp_path, False, architecture), batch)
    monkeypatch.setattr(packed_forward, "_lay_out", flipped)
    ours = log_probs(make(folders, tmp_path, True, architecture), batch)
    assert (ours[0] - stock[0]).abs().max() > 1e-3


FIVE_STEPS = {
    "kl": {"beta": 0.05},
    "kl of all weights": {"beta": 0.05, "lora": None},
    "sequence": {"importance_sampling_level": "sequence", "loss_type": "grpo", "num_iterations": 2},
    "iterations": {"num_iterations": 2, "gradient_accumulation_steps": 1, "steps_per_generation": 1},
    "accumulation": {"gradient_accumulation_steps": 2},
    "micro-batches": {"per_device_train_batch_size": 4, "steps_per_generation": 2, "gradient_accumulation_steps": 2},
}


@pytest.mark.parametrize(
    ("architecture", "case"),
    [
        pytest.param(
            name, case, marks=() if (name, case) in [("llama", "kl"), ("qwen2", "iterations")] else pytest.mark.slow
        )
        for name in ("llama", "qwen2")
        for case in FIVE_STEPS
    ],
)
def test_five_steps_give_the_stock_weights(folders, tmp_path, architecture, case):
    assert_equal_weights_after_five_steps(folders, tmp_path, architecture, **({"lora": LORA} | FIVE_STEPS[case]))


@pytest.mark.slow
def test_five_steps_on_smollm2_give_the_stock_weights(folders, tmp_path):
    assert_equal_weights_after_five_steps(folders, tmp_path, "smollm2", lora=LORA, learning_rate=3e-3)


def assert_equal_weights_after_five_steps(folders, tmp_path, architecture, **settings):
    # Adam divides by a gradient's size: at its default epsilon, rounding errors of tiny gradients become whole steps.
    weights = []
    for shared in (False, True):
        trainer = make(folders, tmp_path, shared, architecture, max_steps=5, adam_epsilon=1e-4, **settings)
        before = {n: p.detach().clone() for n, p in trainer.model.named_parameters() if p.requires_grad}
        trainer.train()
        weights.append({n: p.detach() for n, p in trainer.model.named_parameters() if p.requires_grad})
        assert max((weights[-1][n] - before[n]).abs().max() for n in before) > trainer.args.learning_rate
    assert max((weights[0][n] - weights[1][n]).abs().max() for n in weights[0]) < 1e-4


def test_a_clip_that_is_wider_upwards_binds_on_the_second_update_as_in_stock(folders, tmp_path):
    """On the first update of a batch the ratios are 1 and no clip binds."""
    settings = {"epsilon": 0.02, "epsilon_high": 0.04, "num_iterations": 2, "max_steps": 2, "adam_epsilon": 1e-4}
    logs = []
    for shared, changes in ((False, {}), (True, {}), (True, {"epsilon_high": 0.02})):
        trainer = make(folders, tmp_path, shared, lora=LORA, **(settings | changes))
        trainer.train()
        logs.append([line for line in trainer.state.log_history if "clip_ratio/high_mean" in line])
    stock, ours, narrow = logs
    assert [line["clip_ratio/high_mean"] > 0 for line in ours] == [False, True]
    assert ours[1]["clip_ratio/high_mean"] == pytest.approx(stock[1]["clip_ratio/high_mean"])
    assert ours[1]["loss"] == pytest.approx(stock[1]["loss"], rel=1e-3, abs=1e-5)
    assert narrow[1]["loss"] > ours[1]["loss"] + 1e-3  # a narrower clip gives less gain


def test_prompts_keep_their_order_unless_shuffled_and_are_shuffled_anew_each_epoch(folders, tmp_path):
    orders = {}
    for shuffle in (False, True):
        trainer = make(folders, tmp_path, True, shuffle_dataset=shuffle)
        for trainer.state.epoch in (0.0, 1.0):
            orders[shuffle, trainer.state.epoch] = list(trainer._get_train_sampler())[::4]  # one of each group
    assert orders[False, 0.0] == orders[False, 1.0] == list(range(4 * len(PROMPTS)))
    assert len({tuple(order) for order in orders.values()}) == 3
