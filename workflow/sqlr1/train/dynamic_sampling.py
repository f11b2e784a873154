"""Dynamic sampling (DAPO, arXiv 2503.14476, section 3.2): groups without variance are refilled or dropped.

A group whose completions all earn the same has advantages of zero: its pass costs time and moves nothing, and its
tokens dilute the mean of the loss.

Dropped rows have no term, not even of the KL. With `loss_type` dapo, cispo and vespo the mean is over the tokens that
are left; grpo, dr_grpo, luspo and sapo count a dropped row as one whose loss is 0, as they count a dead one. bnpo and
the entropy bonus are TRL's means within one micro-batch: one without live rows adds nothing to either.

Shapes: B rows in a batch of rollouts, G rows a group, groups contiguous.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

_ROUNDING = 1e-5  # of a sum in float32, relative
_LEFT_PADDED = ("prompt_ids", "prompt_mask")


def dead_groups(rewards: torch.Tensor, size: int) -> list[int]:
    """Numbers of the groups of `size` rows whose rewards (B,) are all equal; rows that cannot be judged are NaN.

    The advantages do not show it: the mean of equal rewards is rounded, and the deviation that divides is as small.
    """
    grouped, unjudged = rewards.view(-1, size), rewards.view(-1, size).isnan()
    highest = grouped.masked_fill(unjudged, -torch.inf).amax(1)
    spread = highest - grouped.masked_fill(unjudged, torch.inf).amin(1)
    live = spread > _ROUNDING * (1 + highest.abs())  # parts that add up to equal rewards round apart
    return (~live).nonzero().flatten().tolist()


def replace_groups(
    batch: Mapping[str, Any], fresh: Mapping[str, Any], places: Mapping[int, int], size: int, pad_token_id: int
) -> dict[str, Any]:
    """`batch` with the groups `places` (number in `batch` -> number in `fresh`) taken from `fresh`.

    Both are what GRPOTrainer makes of rollouts; rows are widened to the longer of the two.
    """
    merged = dict(batch)
    for name, value in batch.items():
        if not isinstance(value, torch.Tensor) or not value.dim():
            continue
        other = fresh[name]
        if value.dim() == 2:
            padding = pad_token_id if name in ("prompt_ids", "completion_ids") else 0
            width = max(value.size(1), other.size(1))
            value, other = (_widen(t, width, padding, left=name in _LEFT_PADDED) for t in (value, other))
        value = value.clone()
        for old, new in places.items():
            value[old * size : (old + 1) * size] = other[new * size : (new + 1) * size]
        merged[name] = value
    return merged


def drop_rows(micro_batches: Sequence[dict[str, Any]], dead: Sequence[torch.Tensor]) -> int:
    """Take the rows `dead` (one mask (B,) a micro-batch) out of the loss; returns the tokens that are left in it."""
    for inputs, rows in zip(micro_batches, dead, strict=True):
        inputs["completion_mask"] = inputs["completion_mask"] * (~rows)[:, None]
    return sum(int(inputs["completion_mask"].sum()) for inputs in micro_batches)


def _widen(rows: torch.Tensor, width: int, padding: float, left: bool) -> torch.Tensor:
    missing = width - rows.size(1)
    return torch.nn.functional.pad(rows, (missing, 0) if left else (0, missing), value=padding)
