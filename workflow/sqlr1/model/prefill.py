"""One pass over many prompts, in which prompts with a shared prefix compute it once, where that pays.

Questions over one database share instruction and schema, most of a prompt. Shapes: N prompts, P cached positions,
H hidden size.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from transformers.cache_utils import DynamicCache

_LARGEST_SHARE = 0.8  # of the tokens of a plain pass, that two passes may have


def prefill(
    model: "PreTrainedModel", prompts: Sequence[Sequence[int]]
) -> tuple[torch.Tensor, "DynamicCache", torch.Tensor]:
    """Hidden states (N, H) of the prompts' last tokens, the cache, and which of its positions are theirs (N, P)."""
    groups = shared_prefixes(prompts)
    prefixes = [prompts[members[0]][:length] for length, members in groups]
    length_of = {number: length for length, members in groups for number in members}
    suffixes = [prompt[length_of[number] :] for number, prompt in enumerate(prompts)]
    if _tokens(prefixes) + _tokens(suffixes) > _LARGEST_SHARE * _tokens(prompts):
        ids, present = _padded(prompts, model.device)
        # A causal mask keeps real tokens from seeing the padding to their right, so none is needed.
        output = model.model(input_ids=ids, use_cache=True)
        return _last(output.last_hidden_state, present), output.past_key_values, present
    ids, prefix_present = _padded(prefixes, model.device)
    cache = model.model(input_ids=ids, use_cache=True).past_key_values
    group_of = {number: group for group, (_, members) in enumerate(groups) for number in members}
    group_of_prompt = torch.tensor([group_of[number] for number in range(len(prompts))], device=model.device)
    cache.batch_select_indices(group_of_prompt)
    ids, suffix_present = _padded(suffixes, model.device)
    present = torch.cat([prefix_present[group_of_prompt], suffix_present], 1)
    positions = prefix_present.sum(1)[group_of_prompt, None] + torch.arange(ids.shape[1], device=model.device)
    output = model.model(
        input_ids=ids, attention_mask=present, position_ids=positions, past_key_values=cache, use_cache=True
    )
    return _last(output.last_hidden_state, suffix_present), output.past_key_values, present


def shared_prefixes(prompts: Sequence[Sequence[int]]) -> list[tuple[int, list[int]]]:
    """(Tokens in common, numbers of the prompts): groups that share at least half of each prompt, never all of it.

    A prompt that shares with none is cut so that its end is no longer than the others'.

    >>> shared_prefixes([[1, 2, 3, 4], [9, 8], [1, 2, 3, 5]])
    [(3, [0, 2]), (1, [1])]
    """
    groups: list[tuple[int, list[int]]] = []
    for number in sorted(range(len(prompts)), key=lambda i: list(prompts[i])):
        prompt = prompts[number]
        if groups:
            length, members = groups[-1]
            common = min(_common(prompts[members[0]][:length], prompt), len(prompt) - 1)
            if 2 * common >= max(len(prompt), *(len(prompts[member]) for member in members)):
                groups[-1] = (common, [*members, number])
                continue
        groups.append((len(prompt) - 1, [number]))
    suffix_lengths = [len(prompts[n]) - length for length, members in groups if len(members) > 1 for n in members]
    alone = {members[0]: max(0, len(prompts[members[0]]) - max(suffix_lengths, default=1)) for _, members in groups}
    return [(length if len(members) > 1 else alone[members[0]], members) for length, members in groups]


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _tokens(rows: Sequence[Sequence[int]]) -> int:
    """Tokens of a pass over `rows`, padding included."""
    return len(rows) * max(map(len, rows))


def _padded(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-padded ids, and which of them are real."""
    longest = max(1, *map(len, rows))
    ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], device=device)
    lengths = torch.tensor([len(row) for row in rows], device=device)
    return ids, torch.arange(longest, device=device)[None] < lengths[:, None]


def _last(hidden: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
    return hidden[torch.arange(len(hidden), device=hidden.device), present.sum(1) - 1]
