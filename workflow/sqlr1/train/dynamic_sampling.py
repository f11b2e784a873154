"""Dynamic sampling (DAPO, arXiv 2503.14476, section 3.2): zero-variance groups are refilled or dropped.

If all completions of a group have the same reward, their advantages are zero: the group costs a pass, teaches nothing,
and its tokens lower the mean loss.

Dropped rows add nothing to the loss, not even a KL term. With `loss_type` dapo the mean is over the remaining tokens;
grpo and dr_grpo count a dropped row as one with loss 0. TRL computes bnpo and the entropy bonus as means within a
micro-batch; one that has only dropped rows adds nothing to them.

Shapes: B rows in a batch of rollouts; the rows of a group are contiguous.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

_ROUNDING = 1e-5  # relative error of a sum in float32
_LEFT_PADDED = ("prompt_ids", "prompt_mask")


def zero_variance_groups(rewards: torch.Tensor, size: int) -> list[int]:
    """Numbers of the groups of `size` rows whose rewards (B,) are all equal. NaN rewards (no verdict) are ignored.

    The advantages do not show it: the mean of equal rewards has a rounding error, which is divided by an equally small
    standard deviation.
    """
    grouped, unjudged = rewards.view(-1, size), rewards.view(-1, size).isnan()
    highest = grouped.masked_fill(unjudged, -torch.inf).amax(1)
    spread = highest - grouped.masked_fill(unjudged, torch.inf).amin(1)
    differ = spread > _ROUNDING * (1 + highest.abs())  # equal sums of different parts differ by rounding
    return (~differ).nonzero().flatten().tolist()


def replace_groups(
    batch: Mapping[str, Any], fresh: Mapping[str, Any], places: Mapping[int, int], size: int, pad_token_id: int
) -> dict[str, Any]:
    """`batch` with some groups replaced by groups of `fresh`: `places` maps numbers in `batch` to numbers in `fresh`.

    Both are GRPOTrainer's batches of rollouts. Rows are padded to the longer of the two.
    """
    merged = dict(batch)
    for name, value in batch.items():
        if not isinstance(value, torch.Tensor) or not value.dim():
            continue
        other = fresh[name]
        if value.dim() == 2:
            padding = pad_token_id if name in ("prompt_ids", "completion_ids") else 0
            width = max(value.size(1), other.size(1))
            value, other = (_pad(rows, width, padding, left=name in _LEFT_PADDED) for rows in (value, other))
        value = value.clone()
        for old, new in places.items():
            value[old * size : (old + 1) * size] = other[new * size : (new + 1) * size]
        merged[name] = value
    return merged


def drop_rows(micro_batches: Sequence[dict[str, Any]], dropped: Sequence[torch.Tensor]) -> int:
    """Take the rows `dropped` (a mask (B,) per micro-batch) out of the loss; returns how many tokens remain in it."""
    for inputs, rows in zip(micro_batches, dropped, strict=True):
        inputs["completion_mask"] = inputs["completion_mask"] * (~rows)[:, None]
    return sum(int(inputs["completion_mask"].sum()) for inputs in micro_batches)


def _pad(rows: torch.Tensor, width: int, padding: float, left: bool) -> torch.Tensor:
    missing = width - rows.size(1)
    return torch.nn.functional.pad(rows, (missing, 0) if left else (0, missing), value=padding)
