"""Many sequences in one row without padding; completions share their prompt: `[prompt | c1 .. cG | prompt | ...]`.

A prompt attends to itself causally. A completion attends to its prompt and causally to itself, never to another
completion, and its positions follow the prompt's. So a prompt is computed once for all of its completions. In
supervised fine-tuning the prompt is the schema, and each question with its response is a completion.

Shapes: L tokens in the row, G completions of a group, C their longest, P the prompt, N scored tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch


@dataclass
class Group:
    """A prompt and its completions in the row. `gather` (G, C): their positions; padding repeats the first one."""

    start: int
    prompt: int
    gather: torch.Tensor | None = None
    real: torch.Tensor | None = None  # (G, C) bool: not padding
    mask: torch.Tensor | None = None  # (C, P + C) bool: tokens of prompt and own completion that each token attends to


@dataclass
class Packed:
    """A packed row. The hidden states at `sources` (N,) predict the tokens `targets` (N,)."""

    input_ids: torch.Tensor  # (1, L)
    position_ids: torch.Tensor  # (1, L)
    sources: torch.Tensor
    targets: torch.Tensor
    groups: list[Group] = field(default_factory=list)

    def to(self, device: torch.device) -> "Packed":
        """The same on another device."""

        def moved(owner: "Group | Packed") -> dict[str, torch.Tensor]:
            return {name: value.to(device) for name, value in vars(owner).items() if isinstance(value, torch.Tensor)}

        return replace(self, **moved(self), groups=[replace(group, **moved(group)) for group in self.groups])


def pack_groups(prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[Sequence[int]]]) -> Packed:
    """Pack prompts and completions. All completion tokens are scored, in order; empty completions are skipped."""
    ids: list[int] = []
    positions: list[int] = []
    sources: list[int] = []
    targets: list[int] = []
    groups = []
    for prompt, group in zip(prompts, completions, strict=True):
        start, present = len(ids), [c for c in group if len(c)]
        ids += prompt
        positions += range(len(prompt))
        last = len(ids) - 1
        starts = []
        for completion in present:
            starts.append(len(ids))
            sources += [last, *range(len(ids), len(ids) + len(completion) - 1)]
            targets += completion
            ids += completion
            positions += range(len(prompt), len(prompt) + len(completion))
        packed = Group(start, len(prompt))
        if present:
            _lay_out(packed, starts, [len(c) for c in present])
        groups.append(packed)
    row = [torch.tensor(x, dtype=torch.long) for x in (ids, positions, sources, targets)]
    return Packed(row[0][None], row[1][None], row[2], row[3], groups)


def _lay_out(group: Group, starts: Sequence[int], lengths: Sequence[int]) -> None:
    """Set the group's `gather`, `real` and `mask` from the starts and lengths of its completions."""
    longest = max(lengths)
    offsets = torch.arange(longest)
    group.real = offsets[None] < torch.tensor(lengths)[:, None]
    group.gather = torch.tensor(starts)[:, None] + offsets[None] * group.real
    group.mask = torch.ones(longest, group.prompt + longest, dtype=torch.bool).tril(group.prompt)


def pack_sequences(input_ids: Sequence[Sequence[int]], labels: Sequence[Sequence[int]], ignored: int) -> Packed:
    """Pack sequences. Tokens whose label is not `ignored` are scored, except a first token: nothing predicts it.

    Sequences that begin alike, as the questions over one database do, share their beginning: it is computed once.
    """
    prompts, endings, flat = [], [], []
    for members, shared in _alike([np.asarray(ids) for ids in input_ids], [np.asarray(x) for x in labels], ignored):
        prompts.append(list(input_ids[members[0]][:shared]))
        endings.append([list(input_ids[i][shared:]) for i in members])
        flat += [ignored, *labels[members[0]][1:shared], *(x for i in members for x in labels[i][shared:])]
    packed = pack_groups(prompts, endings)
    flat = torch.tensor(flat)
    scored = (flat != ignored).nonzero().squeeze(1)
    packed.sources, packed.targets = scored - 1, flat[scored]
    return packed


def _alike(ids: Sequence[np.ndarray], labels: Sequence[np.ndarray], ignored: int) -> list[tuple[list[int], int]]:
    """Groups of sequences with at least half of a prompt in common: their indices, and how many tokens they share.

    A sequence alone shares all of its tokens. Otherwise one token before the first scored one is not shared, so that
    the token before a scored one is always in the same row.
    """
    prompts = [int((row != ignored).argmax()) for row in labels]
    groups: list[tuple[list[int], int]] = []
    for i, row in enumerate(ids):
        for k, (members, shared) in enumerate(groups):
            first = ids[members[0]]
            most = min(prompts[i], prompts[members[0]], shared) - 1
            differ = np.flatnonzero(row[:most] != first[:most])
            common = int(differ[0]) if len(differ) else most
            if 2 * common > prompts[i]:
                groups[k] = ([*members, i], common)
                break
        else:
            groups.append(([i], len(row)))
    return groups
