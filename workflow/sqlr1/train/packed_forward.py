"""Many sequences in one row without padding, and their log-probabilities in one forward pass.

Completions share their prompt: `[prompt | c1 .. cG | prompt | ...]`. A prompt attends to itself causally. A completion
attends to its prompt and causally to itself, never to another completion, and its positions follow the prompt's. So a
prompt is computed once for all of its completions. In supervised fine-tuning the prompt is the schema, and
each question with its response is a completion. For the models that `prefix_cache.why_not_shared` allows.

Shapes: L tokens in the row, G completions of a group, C their longest, P the prompt, N scored tokens.
"""

import functools
import types
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import scaled_dot_product_attention as attend

from sqlr1.model.constraint import unpacked
from sqlr1.model.prefix_cache import refuse_unknown

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NAME = "packed"
# Rows of logits computed at once: few enough for the processor's cache, enough for fast products. If the head is
# trained, its whole gradient is added once per tile, so tiles are larger.
_TILE, _TILE_TRAINED_HEAD = 64, 1024
_FORBIDDEN = -1e30


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
    allowed: torch.Tensor | None = None  # (N, W) masks of `model.constraint`: other tokens have no probability

    def to(self, device: torch.device) -> "Packed":
        """The same on another device."""

        def moved(owner: "Group | Packed") -> dict[str, torch.Tensor]:
            return {name: value.to(device) for name, value in vars(owner).items() if isinstance(value, torch.Tensor)}

        return replace(self, **moved(self), groups=[replace(group, **moved(group)) for group in self.groups])


def pack_groups(prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[Sequence[int]]]) -> Packed:
    """Pack prompts and completions. All completion tokens are scored, in order; empty completions are skipped."""
    ids, positions, sources, targets, groups = [], [], [], [], []
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


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    packed: Packed | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention within each group of a packed row: query (1, H, L, D), key and value (1, K, L, D) -> (1, L, H, D).

    A token sees the last `sliding_window` tokens of its sequence, itself among them. Without `packed` this is
    transformers' SDPA attention.
    """
    if packed is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    refuse_unknown(kwargs)
    query, key, value = query[0], key[0], value[0]
    parts = []
    for group in packed.groups:
        prompt = slice(group.start, group.start + group.prompt)
        own = [x[None, :, prompt] for x in (query, key, value)]
        band = {"is_causal": True}
        if sliding_window is not None and group.prompt > sliding_window:
            square = torch.ones(group.prompt, group.prompt, dtype=torch.bool, device=query.device)
            band = {"attn_mask": square.tril().triu(1 - sliding_window)}
        output = attend(*own, **band, scale=scaling, enable_gqa=True)  # (1, H, P, D)
        parts.append(output[0].transpose(0, 1))
        if group.gather is not None:
            parts.append(_completions(group, query, key, value, scaling, sliding_window))
    return torch.cat(parts)[None], None


def _completions(
    group: Group, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float, window: int | None
) -> torch.Tensor:
    """Attention of all completions of a group -> (their tokens, H, D).

    Query heads that share a key/value head become rows of it, so that keys and values need not be repeated.
    """
    heads, kv_heads, dim = query.shape[0], key.shape[0], query.shape[-1]
    repeat = heads // kv_heads
    rows, longest = group.gather.shape
    index = group.gather.flatten()
    folded = query[:, index].view(kv_heads, repeat, rows, longest, dim).permute(2, 0, 1, 3, 4)
    folded = folded.reshape(rows, kv_heads, repeat * longest, dim)
    keys, values = (_prompt_and_own(group, states, index) for states in (key, value))
    seen = group.mask if window is None else group.mask.triu(group.prompt - window + 1)
    mask = torch.zeros(seen.shape, dtype=query.dtype, device=query.device).masked_fill(~seen, -torch.inf)
    output = attend(folded, keys, values, attn_mask=mask.repeat(repeat, 1)[None, None], scale=scaling)
    output = output.view(rows, kv_heads, repeat, longest, dim).permute(0, 3, 1, 2, 4)
    return output.reshape(rows, longest, heads, dim)[group.real]


def _prompt_and_own(group: Group, states: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Keys or values (K, L, D) of the prompt and of each completion: (G, K, P + C, D)."""
    rows, longest = group.gather.shape
    own = states[:, index].view(states.shape[0], rows, longest, -1).transpose(0, 1)
    prompt = states[:, group.start : group.start + group.prompt]
    return torch.cat([prompt[None].expand(rows, -1, -1, -1), own], 2)


class TokenLogProbs(torch.autograd.Function):
    """Log-probabilities (N,) of targets and entropies (N,) from hidden states (N, E); E is the hidden size.

    Logits are computed in tiles and again in the backward pass, to save memory. They are divided by `temperature`.
    With `allowed` (N, W) the distribution is over the tokens that these masks allow.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        targets: torch.Tensor,
        temperature: float,
        allowed: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        kind = hidden.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
        ctx.arguments = (dtype, temperature)
        log_probs, entropies, normalizers = (hidden.new_empty(len(targets), dtype=torch.float32) for _ in range(3))
        cast = weight.to(dtype)
        for rows in _tiles(len(targets), weight.requires_grad):
            scores = _scores(hidden[rows], cast, temperature, allowed, rows)  # (tile, V)
            normalizers[rows] = scores.logsumexp(-1)
            log_probs[rows] = scores.gather(-1, targets[rows, None]).squeeze(-1) - normalizers[rows]
            probabilities = (scores - normalizers[rows, None]).exp_()
            entropies[rows] = normalizers[rows] - torch.linalg.vecdot(probabilities, scores)
        ctx.save_for_backward(hidden, weight, targets, normalizers, entropies, allowed)
        return log_probs, entropies

    @staticmethod
    def backward(ctx: Any, d_log_probs: torch.Tensor, d_entropies: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        hidden, weight, targets, normalizers, entropies, allowed = ctx.saved_tensors
        dtype, temperature = ctx.arguments
        cast = weight.to(dtype)
        d_hidden = torch.empty_like(hidden)
        d_weight = torch.zeros_like(weight, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        by_entropy = bool(d_entropies.any())
        for rows in _tiles(len(targets), ctx.needs_input_grad[1]):
            log_p = _scores(hidden[rows], cast, temperature, allowed, rows) - normalizers[rows, None]
            p = log_p.exp()
            # d log p_t / dz_j = [j = t] - p_j;  d entropy / dz_j = -p_j (log p_j + entropy)
            d_scores = p * -d_log_probs[rows, None]
            if by_entropy:
                d_scores -= p * (log_p + entropies[rows, None]) * d_entropies[rows, None]
            d_scores.scatter_add_(1, targets[rows, None], d_log_probs[rows, None].float())
            d_scores = (d_scores / temperature).to(dtype)
            d_hidden[rows] = (d_scores @ cast).to(hidden.dtype)
            if d_weight is not None:
                d_weight.addmm_(d_scores.float().T, hidden[rows].float())
        return d_hidden, None if d_weight is None else d_weight.to(weight.dtype), None, None, None


def _tiles(number: int, head_is_trained: bool) -> list[slice]:
    size = _TILE_TRAINED_HEAD if head_is_trained else _TILE
    return [slice(start, min(start + size, number)) for start in range(0, number, size)]


def _scores(
    hidden: torch.Tensor, weight: torch.Tensor, temperature: float, allowed: torch.Tensor | None, rows: slice
) -> torch.Tensor:
    """Logits / temperature in float32; the product has the precision of `weight` (V, E).

    Tokens that `allowed[rows]` forbids get a number whose exponential is 0. Of -inf entropy and gradient would be NaN.
    """
    scores = (hidden.to(weight.dtype) @ weight.T).float()
    scores = scores if temperature == 1.0 else scores.div_(temperature)
    return scores if allowed is None else scores.masked_fill_(~unpacked(allowed[rows], scores.shape[1]), _FORBIDDEN)


def add_packed_forward(model: "PreTrainedModel", temperature: float = 1.0) -> None:
    """Let `model(packed=...)` return the log-probabilities and entropies of a packed row's targets, (N,) each.

    This is part of the model's own forward, so that wrappers (PEFT, DDP, DeepSpeed) see an ordinary call.
    """
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register(NAME, packed_attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, sdpa_mask)
    model.config._attn_implementation = NAME
    original = model.forward

    @functools.wraps(original)  # `generate` and the Trainer read the signature
    def forward(self: "PreTrainedModel", *args: Any, packed: Packed | None = None, **kwargs: Any) -> Any:
        if packed is None:
            return original(*args, **kwargs)
        no_mask = torch.zeros(1, 1, 1, 1, device=packed.input_ids.device)  # 4-D: the model then builds no mask itself
        output = self.base_model(
            input_ids=packed.input_ids,
            position_ids=packed.position_ids,
            attention_mask=no_mask,
            use_cache=False,
            packed=packed,
        )
        hidden = output.last_hidden_state[0, packed.sources]
        head = self.get_output_embeddings().weight
        return TokenLogProbs.apply(hidden, head, packed.targets, temperature, packed.allowed)

    model.forward = types.MethodType(forward, model)
