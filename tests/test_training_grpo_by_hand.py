"""GRPO's terms on cases computed by hand: advantage, clip, sign of the KL term, aggregation of the loss."""

import math

import pytest
import torch
from datasets import Dataset
from tiny_models import tiny_model, tiny_tokenizer
from trl import GRPOConfig

from sqlr1.train.shared_prompt import SharedPromptTrainer


def make(tmp_path, rewards=(0.0,) * 4, **settings):
    defaults = {"num_generations": 4, "per_device_train_batch_size": 4, "beta": 0.0, "loss_type": "grpo"}
    fixed = {"use_cpu": True, "bf16": False, "gradient_checkpointing": False, "report_to": "none", "temperature": 1.0}
    model = tiny_model()
    model.save_pretrained(tmp_path / "model")
    model.config._name_or_path = str(tmp_path / "model")  # where TRL finds the reference model
    trainer = SharedPromptTrainer(
        model=model,
        args=GRPOConfig(str(tmp_path), max_completion_length=4, **(fixed | defaults | settings)),
        reward_funcs=lambda completions, **_: list(rewards),
        train_dataset=Dataset.from_list([{"prompt": [{"role": "user", "content": "a"}]}]),
        processing_class=tiny_tokenizer(),
    )
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.train()
    return trainer


def loss_of(trainer, monkeypatch, now, before, advantages, mask, reference=None):
    """The loss for given log-probabilities (rows x tokens) of the policy now and before, and of the reference."""
    now, mask = torch.tensor(now), torch.tensor(mask)
    values = (now, torch.zeros_like(now), None)
    monkeypatch.setattr(trainer, "_get_per_token_logps_and_entropies", lambda *_, **__: values)
    inputs = {
        "prompt_ids": torch.ones(len(now), 1, dtype=torch.long), "prompt_mask": torch.ones(len(now), 1),
        "completion_ids": mask, "completion_mask": mask, "advantages": torch.tensor(advantages),
        "old_per_token_logps": torch.tensor(before), "num_items_in_batch": mask.sum(),
    }  # fmt: skip
    if reference is not None:
        inputs["ref_per_token_logps"] = torch.tensor(reference)
    return trainer.compute_loss(trainer.model, inputs).item()


# Two groups of four, means 1.25 and 1.5; a deviation has one degree of freedom less than there are rewards.
REWARDS = (7.0, 0.0, -1.0, -1.0, 3.0, 1.0, 1.0, 1.0)
LESS_THE_MEAN = (5.75, -1.25, -2.25, -2.25, 1.5, -0.5, -0.5, -0.5)
IN_GROUPS = [math.sqrt((5.75**2 + 1.25**2 + 2.25**2 * 2) / 3)] * 4 + [math.sqrt((1.5**2 + 0.5**2 * 3) / 3)] * 4
IN_ALL = [math.sqrt((5.625**2 + 1.375**2 + 2.375**2 * 2 + 1.625**2 + 0.375**2 * 3) / 7)] * 8


@pytest.mark.parametrize(("scale", "deviations"), [("group", IN_GROUPS), ("batch", IN_ALL), ("none", None)])
def test_advantages_are_rewards_less_their_groups_mean_over_a_deviation(tmp_path, monkeypatch, scale, deviations):
    trainer = make(tmp_path, rewards=REWARDS, scale_rewards=scale, per_device_train_batch_size=8)
    monkeypatch.setattr(trainer, "_generate_single_turn", lambda ids, *_: ([[5, 2]] * len(ids), None))
    rows = [{"prompt": [{"role": "user", "content": text}]} for text in "ab" for _ in range(4)]
    advantages = trainer._generate_and_score_completions(rows)["advantages"]
    expected = [x / (d + 1e-4) for x, d in zip(LESS_THE_MEAN, deviations or [1 - 1e-4] * 8, strict=True)]
    torch.testing.assert_close(advantages, torch.tensor(expected))


@pytest.mark.parametrize(
    ("ratio", "advantage", "objective"),
    [
        (1.1, 1.0, 1.1),  # within the clip
        (1.5, 1.0, 1.2),  # raised too far: no more to gain
        (1.5, -1.0, -1.5),  # raised although it was bad: the full loss
        (0.5, 1.0, 0.5),  # lowered although it was good: not clipped
        (0.5, -1.0, -0.8),  # lowered far enough
    ],
)
def test_the_ratio_is_clipped_where_it_would_gain(tmp_path, monkeypatch, ratio, advantage, objective):
    trainer = make(tmp_path, epsilon=0.2)
    loss = loss_of(trainer, monkeypatch, [[math.log(ratio) - 2.0]], [[-2.0]], [advantage], [[1]])
    assert loss == pytest.approx(-objective, rel=1e-5)


@pytest.mark.parametrize(("ratio", "objective"), [(1.3, 1.3), (1.5, 1.4), (0.5, 0.5)])
def test_the_upper_clip_is_epsilon_high(tmp_path, monkeypatch, ratio, objective):
    trainer = make(tmp_path, epsilon=0.2, epsilon_high=0.4)
    loss = loss_of(trainer, monkeypatch, [[math.log(ratio) - 2.0]], [[-2.0]], [1.0], [[1]])
    assert loss == pytest.approx(-objective, rel=1e-5)


@pytest.mark.parametrize("shift", [0.5, -0.5])
def test_leaving_the_reference_costs_in_either_direction(tmp_path, monkeypatch, shift):
    trainer = make(tmp_path, beta=0.1)
    now, reference = -1.0, -1.0 + shift
    loss = loss_of(trainer, monkeypatch, [[now]], [[now]], [0.0], [[1]], reference=[[reference]])
    assert loss == pytest.approx(0.1 * (math.exp(shift) - shift - 1), rel=1e-5)
    assert loss > 0


# Two rows of three tokens and of one, advantages 1 and 2, ratios 1: token losses -1, -1, -1 and -2.
@pytest.mark.parametrize(
    ("loss_type", "expected"),
    [("grpo", -(1 + 2) / 2), ("bnpo", -(3 + 2) / 4), ("dapo", -(3 + 2) / 4), ("dr_grpo", -(3 + 2) / (2 * 4))],
)
def test_token_losses_are_averaged_as_the_loss_type_says(tmp_path, monkeypatch, loss_type, expected):
    trainer = make(tmp_path, loss_type=loss_type)
    zeros = [[-1.0] * 3] * 2
    loss = loss_of(trainer, monkeypatch, zeros, zeros, [1.0, 2.0], [[1, 1, 1], [1, 0, 0]])
    assert loss == pytest.approx(expected, rel=1e-5)
