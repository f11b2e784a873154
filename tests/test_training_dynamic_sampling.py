"""Zero-variance groups are refilled from other prompts or dropped from the loss; the others count as before."""

import pytest
import torch
from test_training_shared_prompt import LORA, assert_equal_gradients, first_update, folders, make  # noqa: F401

from sqlr1.train.shared_prompt import SharedPromptTrainer, replace_groups, share_limited, with_variance


def test_groups_of_equal_rewards_have_no_variance():
    assert with_variance(torch.tensor([3.0, 3, 1, -1, 0, 0, 0, 2]), 2).tolist() == [False, True, False, True]
    assert with_variance(torch.tensor([0.0, 1e-3]), 2).tolist() == [True]


def test_rows_that_cannot_be_judged_make_no_variance():
    nan = torch.nan
    assert with_variance(torch.tensor([nan, nan, nan, 1, nan, 1, 1, nan, 2]), 3).tolist() == [False, False, True]
    assert with_variance(torch.tensor([0.0] * 3 + [nan] * 3), 3).tolist() == [False, False]


@pytest.mark.parametrize("reward", [0.1, 6.7])
def test_equal_rewards_have_no_variance_though_their_mean_is_rounded(folders, tmp_path, reward):  # noqa: F811
    trainer = make(folders, tmp_path, True, num_generations=8)
    trainer.reward_funcs, trainer.refill_rounds = [lambda completions, **_: [reward] * len(completions)], 0
    inputs = prepared(trainer)
    assert inputs["advantages"].any()  # TRL's advantages of a rounded mean
    assert trainer._metrics["train"]["dynamic_sampling/live_groups"] == [0.0]


@pytest.mark.parametrize(
    ("rewards", "share"),
    [
        ([6.7] * 16, 1.0),  # TRL's standard deviation of 6.7 in float32 is not 0
        ([None] * 8 + [6.7] * 8, 1.0),  # a gold that failed: TRL's is NaN
        ([None] * 7 + [6.7] + [6.7] * 7 + [6.6], 0.5),
    ],
)
def test_the_logged_share_of_zero_variance_groups_is_right(folders, tmp_path, rewards, share):  # noqa: F811
    trainer = make(folders, tmp_path, True, num_generations=8, per_device_train_batch_size=16)
    trainer.reward_funcs = [lambda completions, **_: rewards]
    prepared(trainer)
    assert trainer._metrics["train"]["frac_reward_zero_std"] == [share]


def test_replaced_groups_are_padded_on_their_own_side():
    batch = {
        "prompt_ids": torch.tensor([[1, 2], [1, 2], [3, 4], [3, 4]]),
        "completion_ids": torch.tensor([[5], [6], [7], [8]]),
        "completion_mask": torch.ones(4, 1, dtype=torch.long),
        "advantages": torch.tensor([0.0, 0, 1, -1]),
        "num_items_in_batch": torch.tensor(4),
    }
    fresh = {
        "prompt_ids": torch.tensor([[9, 9, 9], [9, 9, 9]]),
        "completion_ids": torch.tensor([[5, 5], [6, 6]]),
        "completion_mask": torch.ones(2, 2, dtype=torch.long),
        "advantages": torch.tensor([2.0, -2]),
        "num_items_in_batch": torch.tensor(4),
    }
    merged = replace_groups(batch, fresh, {0: 0}, 2, pad_token_id=77)
    assert merged["prompt_ids"].tolist() == [[9, 9, 9], [9, 9, 9], [77, 3, 4], [77, 3, 4]]
    assert merged["completion_ids"].tolist() == [[5, 5], [6, 6], [7, 77], [8, 77]]
    assert merged["completion_mask"].tolist() == [[1, 1], [1, 1], [1, 0], [1, 0]]
    assert merged["advantages"].tolist() == [2, -2, 1, -1]
    assert batch["advantages"].tolist() == [0, 0, 1, -1]


def flat(completions, **_):
    """Rewards without variance in the first group of four."""
    return [float(i % 4) if i >= 4 else 0.0 for i in range(len(completions))]


def with_refill(folders, out, rounds, **settings):  # noqa: F811
    trainer = make(folders, out, True, lora=LORA, **settings)
    trainer.reward_funcs, trainer.refill_rounds = [flat], rounds
    return trainer


def prepared(trainer):
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = trainer.args.gradient_accumulation_steps
    return trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))


def test_dropping_keeps_the_gradient_of_the_other_group(folders, tmp_path):  # noqa: F811
    """One of two groups has no variance: only its tokens leave the mean of the loss."""
    kept = with_refill(folders, tmp_path, None, loss_type="dapo")
    _, all_rows = first_update(kept)
    dropping = with_refill(folders, tmp_path, 0, loss_type="dapo")
    _, live_rows = first_update(dropping)
    before, after = (sum(int(i["completion_mask"].sum()) for i in t._buffered_inputs) for t in (kept, dropping))
    assert 0 < after < before
    for name, gradient in all_rows.items():
        torch.testing.assert_close(live_rows[name], gradient * (before / after), rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("loss_type", ["dapo", "grpo", "dr_grpo"])
def test_the_loss_does_not_depend_on_micro_batches(folders, tmp_path, loss_type):  # noqa: F811
    """A zero-variance group and another one, in one micro-batch or in two: same KL, same gradient."""
    results = []
    for number in (1, 2):
        sizes = {"per_device_train_batch_size": 8 // number, "gradient_accumulation_steps": number}
        trainer = with_refill(folders, tmp_path, 0, loss_type=loss_type, beta=0.5, **sizes)
        with torch.no_grad():  # unlike the reference model, so that the KL has a gradient
            for name, parameter in trainer.model.named_parameters():
                if "lora_B" in name:
                    parameter.fill_(0.02)
        prepared(trainer)
        assert trainer._metrics["train"]["dynamic_sampling/live_groups"] == [0.5]
        losses = [trainer.compute_loss(trainer.model, inputs) for inputs in trainer._buffered_inputs]
        sum(losses).backward()
        gradients = {n: p.grad for n, p in trainer.model.named_parameters() if p.grad is not None}
        results.append((sum(losses).item(), gradients))
    (one_loss, one), (two_loss, two) = results
    assert two_loss == pytest.approx(one_loss, rel=1e-5)
    assert_equal_gradients(two, one, 1e-4)


def test_refilling_replaces_the_zero_variance_group(folders, tmp_path, monkeypatch):  # noqa: F811
    trainer = with_refill(folders, tmp_path, 2)
    calls = []
    score = SharedPromptTrainer._generate_and_score_completions

    def counted(self, rows):
        calls.append(len(rows))
        if len(calls) == 2:  # in the first refill every group has variance
            self.reward_funcs = [lambda completions, **_: [float(i % 4) for i in range(len(completions))]]
        return score(self, rows)

    monkeypatch.setattr(SharedPromptTrainer, "_generate_and_score_completions", counted)
    prepared(trainer)
    assert calls == [8, 4]
    assert trainer._metrics["train"]["dynamic_sampling/live_groups"] == [1.0]
    assert trainer._metrics["train"]["reward"] == [0.75]  # of the batch alone: four times 0, then 0 to 3
    assert trainer._metrics["train"]["frac_reward_zero_std"] == [0.5]  # as drawn, before the refill
    assert all(i["advantages"].ne(0).any() for i in trainer._buffered_inputs)
    assert trainer._round == 0


def test_groups_are_dropped_without_shared_prompts_too(folders, tmp_path):  # noqa: F811
    shared, unshared = (with_refill(folders, tmp_path, 0) for _ in range(2))
    unshared.unshared_reason = "any"
    (loss, gradients), (stock_loss, stock) = first_update(shared), first_update(unshared)
    assert loss == pytest.approx(stock_loss, rel=1e-5, abs=1e-7)
    assert_equal_gradients(gradients, stock, 1e-4)
    assert unshared._metrics["train"]["dynamic_sampling/live_groups"] == [0.5]


def test_the_share_of_masked_and_truncated_ratios_to_vllm():
    mask = torch.tensor([[1, 1, 1], [1, 0, 0]])
    assert share_limited(torch.tensor([[0.0], [0.7]]), mask, 3.0) == 0.5  # of the completions
    of_tokens = torch.tensor([[3.0, 0.5, 1.0], [1.2, 0.0, 3.0]])
    assert share_limited(of_tokens, mask, 3.0) == 0.25  # of the tokens; the padding does not count
    assert share_limited(of_tokens, mask, None) == 0
    assert share_limited(of_tokens, 0 * mask, 3.0) == 0
