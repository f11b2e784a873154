"""GRPO under constraint: probabilities, gradients and entropies are those of what the grammar allows."""

import math
import sqlite3
from contextlib import closing

import numpy as np
import pytest
import torch
from datasets import Dataset
from tiny_models import tiny_model, tiny_tokenizer
from trl import GRPOConfig

from sqlr1.model.constraint import Grammars, unpacked
from sqlr1.records import InputError
from sqlr1.train.packed_forward import TokenLogProbs
from sqlr1.train.shared_prompt import SharedPromptTrainer


def packed_bits(allowed):
    """Booleans (N, V) as masks (N, W)."""
    padded = np.zeros((len(allowed), -(-allowed.shape[1] // 32) * 32), bool)
    padded[:, : allowed.shape[1]] = allowed
    return torch.from_numpy(np.packbits(padded, axis=1, bitorder="little").view(np.int32))


def test_probability_and_entropy_by_hand():
    """Four tokens of weights 1, 2, 3, 4, of which the first and third are allowed: 1/4 and 3/4."""
    logits = torch.tensor([[1.0, 2.0, 3.0, 4.0]]).log()
    masks = packed_bits(np.array([[True, False, True, False]]))
    log_probs, entropies = TokenLogProbs.apply(logits, torch.eye(4), torch.tensor([2]), 1.0, masks)
    assert log_probs.item() == pytest.approx(math.log(0.75), abs=1e-6)
    assert entropies.item() == pytest.approx(-0.25 * math.log(0.25) - 0.75 * math.log(0.75), abs=1e-6)


def test_values_and_gradients_equal_autograd_over_masked_logits():
    torch.manual_seed(0)
    hidden, weight = torch.randn(70, 8, requires_grad=True), torch.randn(37, 8, requires_grad=True)
    allowed = torch.rand(70, 37) < 0.4
    targets = torch.randint(37, (70,))
    allowed[range(70), targets] = True
    allowed[0] = False
    allowed[0, targets[0]] = True  # a forced token: probability 1, entropy 0, no gradient
    masks, factors = packed_bits(allowed.numpy()), torch.randn(2, 70)
    assert torch.equal(unpacked(masks, 37), allowed)

    def gradients(log_probs, entropies):
        loss = (log_probs * factors[0] + entropies * factors[1]).sum()
        return [log_probs.detach(), entropies.detach(), *torch.autograd.grad(loss, [hidden, weight])]

    ours = gradients(*TokenLogProbs.apply(hidden, weight, targets, 0.7, masks))
    log_p = (hidden @ weight.T / 0.7).masked_fill(~allowed, -torch.inf).log_softmax(-1)
    finite = log_p.masked_fill(~allowed, 0.0)
    expected = gradients(log_p[range(70), targets], -(finite.exp() * allowed * finite).sum(-1))
    for own, other in zip(ours, expected, strict=True):
        assert own.isfinite().all()
        torch.testing.assert_close(own, other, atol=1e-5, rtol=1e-4)


@pytest.fixture
def database(tmp_path):
    path = tmp_path / "music.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE singer (name TEXT, age INTEGER)")
    return path


def make(tmp_path, database, **settings):
    rows = [{"prompt": [{"role": "user", "content": text}], "database": str(database)} for text in "ab"]
    model = tiny_model()
    model.save_pretrained(tmp_path / "model")
    model.config._name_or_path = str(tmp_path / "model")  # where TRL finds the reference model
    fixed = {
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "report_to": "none",
        "max_steps": 2,
        "logging_steps": 1,
    }
    sizes = {"num_generations": 4, "per_device_train_batch_size": 8, "max_completion_length": 20, "temperature": 0.8}
    quiet = {"save_strategy": "no", "disable_tqdm": True, "logging_steps": 1}
    return SharedPromptTrainer(
        model=model,
        args=GRPOConfig(str(tmp_path), beta=0.1, **(fixed | sizes | quiet)),
        reward_funcs=lambda completions, **_: [float(number % 3) for number in range(len(completions))],
        train_dataset=Dataset.from_list(rows),
        processing_class=tiny_tokenizer(),
        constrained=True,
        **settings,
    )


def test_log_probabilities_are_those_of_the_constrained_policy(tmp_path, database):
    """Brute force: one pass per completion through the model's own forward, under masks made anew."""
    trainer = make(tmp_path, database)
    rows = [trainer.train_dataset[i] for i in range(2) for _ in range(4)]
    batch = trainer._generate_and_score_completions(rows)
    for part in ("completion_ids", "completion_mask"):  # two equal completions of a prompt
        batch[part][1] = batch[part][0]
    whole = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
    present = torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1)
    length = batch["completion_ids"].shape[1]
    ours, entropies, _ = trainer._get_per_token_logps_and_entropies(
        trainer.model, whole, present, length, compute_entropy=True
    )
    free = 0
    for row in range(8):
        prompt, completion = (
            batch[f"{part}_ids"][row][batch[f"{part}_mask"][row].bool()] for part in ("prompt", "completion")
        )
        constraint = Grammars(trainer.processing_class, trainer.model, [2]).over([database], [[0]])
        logits = trainer.model(torch.cat([prompt, completion])[None]).logits[0, len(prompt) - 1 : -1] / 0.8
        for place, token in enumerate(completion):
            masked = constraint.masked(logits[place][None], torch.tensor([0]))
            constraint.take(torch.tensor([0]), token[None])
            expected = masked.log_softmax(-1)[0]
            allowed = expected.isfinite()
            free += int(allowed.sum() > 1)
            assert ours[row, place].item() == pytest.approx(expected[token].item(), abs=2e-4)
            entropy = -(expected[allowed].exp() * expected[allowed]).sum().item()
            assert entropies[row, place].item() == pytest.approx(entropy, abs=2e-4)
    assert free > 20


def test_training_under_constraint_with_a_kl_term_and_refilled_groups(tmp_path, database):
    trainer = make(tmp_path, database, refill_rounds=1)
    trainer.train()
    losses = [line for line in trainer.state.log_history if "kl" in line and "loss" in line]
    assert len(losses) == 2
    assert losses[0]["kl"] == pytest.approx(0, abs=1e-6)  # the policy is its reference
    assert all(math.isfinite(line["loss"]) and math.isfinite(line["grad_norm"]) for line in losses)


def test_rollouts_that_our_sampler_does_not_draw_cannot_be_constrained(tmp_path, database):
    with pytest.raises(InputError, match=r"config key grpo.constrained: .*grpo.shared_prompt is false"):
        make(tmp_path, database, shared_prompt=False)
