"""Attention of many completion rows to one copy of their prompt's keys and values.

`SharedPromptCache` stands where transformers passes its cache, `shared_prompt_attention` where it looks up an attention
function. Shapes: N prompts, R live rows, H query heads, K key/value heads (H = K * repeat), P prompt length, T the
completion's, D head size.
"""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from transformers.cache_utils import DynamicCache

NAME = "shared_prompt"
_GROWTH = 32
# Whose forward is no more than the head over the layers, with causal attention. Others scale or cap their logits, or
# limit what is attended to: they would get wrong probabilities and no error.
FAMILIES = ("llama", "qwen2")


class SharedPromptCache:
    """Keys and values of N prompts, held once, and of the completions of R rows; `keep` drops rows that have ended."""

    is_compileable = False

    def __init__(self, prefilled: "DynamicCache", present: torch.Tensor, prompt_of_row: torch.Tensor) -> None:
        # (N*K, P, D) each: the shape in which one batched product serves all rows of a prompt.
        self.prompt_keys = [layer.keys.flatten(0, 1).contiguous() for layer in prefilled.layers]
        self.prompt_values = [layer.values.flatten(0, 1).contiguous() for layer in prefilled.layers]
        keys = prefilled.layers[0].keys
        self.prompts, self.kv_heads, _, self.head_dim = keys.shape
        self.padding = None if present.all() else ~present  # (N, P)
        self.prompt_of_row = prompt_of_row
        self.length = 0
        self._keys: list[torch.Tensor | None] = [None] * len(prefilled.layers)
        self._values: list[torch.Tensor | None] = [None] * len(prefilled.layers)
        self.no_mask = torch.zeros(1, 1, 1, 1, device=keys.device)  # 4-D: the model builds no mask of its own
        self._place()

    def _place(self) -> None:
        """Give each row a slot among its prompt's: `slots` a prompt, row r at (prompt_of_row[r], slot[r])."""
        counts = torch.bincount(self.prompt_of_row, minlength=self.prompts)
        self.slots = int(counts.max())
        starts = counts.cumsum(0) - counts
        slot = torch.arange(len(self.prompt_of_row), device=counts.device) - starts[self.prompt_of_row]
        self.place = self.prompt_of_row * self.slots + slot  # (R,) into N*slots; rows are sorted by prompt
        self.full = len(self.place) == self.prompts * self.slots

    def keep(self, rows: torch.Tensor) -> None:
        """Keep only `rows` (indices into the live rows)."""
        self.prompt_of_row = self.prompt_of_row[rows]
        for layer, (keys, values) in enumerate(zip(self._keys, self._values, strict=True)):
            if keys is not None:
                self._keys[layer], self._values[layer] = keys[rows], values[rows]
        self._place()

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, layer: int, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append one position (R, K, 1, D) to a layer; returns the completion's keys and values so far (R, K, T, D)."""
        stored = self._keys[layer]
        if stored is None or self.length == stored.shape[2]:
            shape = (keys.shape[0], self.kv_heads, _GROWTH, self.head_dim)
            grown = [torch.cat([s, n.new_empty(shape)], 2) if s is not None else n.new_empty(shape)
                     for s, n in ((stored, keys), (self._values[layer], values))]  # fmt: skip
            self._keys[layer], self._values[layer] = grown
        self._keys[layer][:, :, self.length] = keys[:, :, 0]
        self._values[layer][:, :, self.length] = values[:, :, 0]
        end = self.length + 1
        if layer == len(self._keys) - 1:
            self.length = end
        return self._keys[layer][:, :, :end], self._values[layer][:, :, :end]

    def get_seq_length(self, layer: int = 0) -> int:
        """Completion positions stored so far."""
        return self.length


def shared_prompt_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    shared_prompt: SharedPromptCache | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """One decoding step of all rows: query (R, H, 1, D), the completion's key and value (R, K, T, D).

    Without a `shared_prompt` this is transformers' SDPA attention (the prefill). Returns (R, 1, H, D).
    """
    if shared_prompt is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    cache, layer = shared_prompt, module.layer_idx
    rows, heads, _, dim = query.shape
    kv_heads = cache.kv_heads
    repeat = heads // kv_heads
    query = query.view(rows, kv_heads, repeat, dim) * scaling
    own = torch.matmul(query, key.transpose(-1, -2))  # (R, K, repeat, T)
    prompt = _prompt_scores(cache, query, layer)  # (R, K, repeat, P)
    weights = torch.cat([prompt, own], -1).softmax(-1, dtype=torch.float32).to(query.dtype)
    split = prompt.shape[-1]
    output = torch.matmul(weights[..., split:], value) + _prompt_output(cache, weights[..., :split], layer)
    return output.view(rows, 1, heads, dim), None


def _prompt_scores(cache: SharedPromptCache, query: torch.Tensor, layer: int) -> torch.Tensor:
    """Scores of all rows (R, K, repeat, D) against their own prompt: one product per prompt and key/value head."""
    scores = _by_row(
        cache, torch.bmm(_by_prompt(cache, query), cache.prompt_keys[layer].transpose(1, 2)), query.shape[2]
    )
    if cache.padding is not None:
        scores = scores.masked_fill(cache.padding[cache.prompt_of_row][:, None, None], -torch.inf)
    return scores


def _prompt_output(cache: SharedPromptCache, weights: torch.Tensor, layer: int) -> torch.Tensor:
    """Attention weights (R, K, repeat, P) times the prompts' values: (R, K, repeat, D)."""
    return _by_row(cache, torch.bmm(_by_prompt(cache, weights), cache.prompt_values[layer]), weights.shape[2])


def _by_prompt(cache: SharedPromptCache, rows: torch.Tensor) -> torch.Tensor:
    """(R, K, repeat, X) -> (N*K, slots*repeat, X); slots without a live row are zero."""
    _, kv_heads, repeat, size = rows.shape
    if not cache.full:
        placed = rows.new_zeros(cache.prompts * cache.slots, kv_heads, repeat, size)
        placed[cache.place] = rows
        rows = placed
    rows = rows.view(cache.prompts, cache.slots, kv_heads, repeat, size).transpose(1, 2)
    return rows.reshape(cache.prompts * kv_heads, cache.slots * repeat, size)


def _by_row(cache: SharedPromptCache, grouped: torch.Tensor, repeat: int) -> torch.Tensor:
    """The inverse of `_by_prompt`."""
    grouped = grouped.view(cache.prompts, cache.kv_heads, cache.slots, repeat, -1).transpose(1, 2)
    rows = grouped.reshape(cache.prompts * cache.slots, cache.kv_heads, repeat, -1)
    return rows if cache.full else rows[cache.place]


def why_not_shared(model: "PreTrainedModel") -> str:
    """Why rows of `model` cannot attend to one copy of their prompt; empty where they can."""
    config = model.config
    if config.model_type not in FAMILIES:
        return f"models of type {config.model_type} are not among {', '.join(FAMILIES)}"
    if config.attention_dropout:
        return "the model has attention dropout"
    if set(getattr(config, "layer_types", None) or ["full_attention"]) != {"full_attention"}:
        return "the model has layers without full attention"
    if type(model.get_input_embeddings()) is not nn.Embedding or type(model.get_output_embeddings()) is not nn.Linear:
        return "the embeddings or the head are not plain layers (an adapter?)"
    return ""


@contextlib.contextmanager
def use_shared_attention(model: "PreTrainedModel") -> Iterator[None]:
    """Within the block, `model` looks attention up under our name; in evaluation mode. Restored afterwards."""
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register(NAME, shared_prompt_attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, sdpa_mask)
    before, training = model.config._attn_implementation, model.training
    model.config._attn_implementation = NAME
    model.eval()
    try:
        yield
    finally:
        model.config._attn_implementation = before
        model.train(training)
