"""Prompts computed and stored once, for all of their completions and for other prompts with the same prefix.

`prefill` computes many prompts in one pass, or in two if many of them share a prefix. Questions over one database
share instruction and schema, most of a prompt. `SharedPromptCache` takes the place of transformers' cache, and
`shared_prompt_attention` that of its attention function.

Shapes: N prompts, R rows (completions) that have not ended, H query heads, K key/value heads (H = K * repeat), P prompt
length, T completion length, D head size, E hidden size.
"""

import contextlib
from collections.abc import Iterator, Sequence
from itertools import takewhile
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel
    from transformers.cache_utils import DynamicCache

NAME = "shared_prompt"
_GROWTH = 32  # positions by which the completions' cache grows
# Two passes (prefixes, then the rest) are made if they have at most this share of the tokens of a single pass.
_LARGEST_SHARE = 0.8
# What transformers' models hand to every attention function and that changes nothing here. Another argument, such as
# `softcap` (Gemma 2) or `s_aux` (GPT-OSS), changes the scores.
_NEUTRAL = {
    "dropout", "position_ids", "cache_position", "use_cache", "output_attentions", "output_hidden_states",
    "output_router_logits",
}  # fmt: skip
_PROBE, _PROBED_STEPS = 6, 3  # tokens of the prompt and of each completion with which a model is tried
_unlike_plain: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()  # what `_probe` found


class SharedPromptCache:
    """Keys and values of N prompts, each stored once, and of R completions; `keep` drops rows that have ended."""

    is_compileable = False

    def __init__(self, prefilled: "DynamicCache", present: torch.Tensor, prompt_of_row: torch.Tensor) -> None:
        # (N*K, P, D) each: in this shape one batched product covers all rows of a prompt.
        self.prompt_keys = [layer.keys.flatten(0, 1).contiguous() for layer in prefilled.layers]
        self.prompt_values = [layer.values.flatten(0, 1).contiguous() for layer in prefilled.layers]
        keys = prefilled.layers[0].keys
        self.prompts, self.kv_heads, _, self.head_dim = keys.shape
        self.padding = None if present.all() else ~present  # (N, P)
        self.positions = present.cumsum(1) - 1  # (N, P) of the prompts' tokens
        self.lengths = present.sum(1)  # (N,)
        self.windowed = False  # whether a layer has named its window
        self.prompt_of_row = prompt_of_row
        self.length = 0
        self._stored: list[torch.Tensor | None] = [None] * len(prefilled.layers)  # keys and values (2, R, K, T, D)
        self.no_mask = torch.zeros(1, 1, 1, 1, device=keys.device)  # 4-D, so that the model builds no mask itself
        self._place()

    def _place(self) -> None:
        """Give each row a slot: a prompt has `slots` of them, and row r is at (prompt_of_row[r], slot[r])."""
        counts = torch.bincount(self.prompt_of_row, minlength=self.prompts)
        self.slots = int(counts.max())
        starts = counts.cumsum(0) - counts
        slot = torch.arange(len(self.prompt_of_row), device=counts.device) - starts[self.prompt_of_row]
        self.place = self.prompt_of_row * self.slots + slot  # (R,) indices into N*slots; rows are sorted by prompt
        self.full = len(self.place) == self.prompts * self.slots

    def keep(self, rows: torch.Tensor) -> None:
        """Keep only `rows` (indices into the present rows)."""
        self.prompt_of_row = self.prompt_of_row[rows]
        self._stored = [None if stored is None else stored[:, rows] for stored in self._stored]
        self._place()

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, layer: int, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append one position (R, K, 1, D) to a layer; returns the completions' keys and values so far (R, K, T, D)."""
        stored = self._stored[layer]
        if stored is None or self.length == stored.shape[3]:
            room = keys.new_empty(2, len(keys), self.kv_heads, _GROWTH, self.head_dim)
            self._stored[layer] = stored = room if stored is None else torch.cat([stored, room], 3)
        stored[0, :, :, self.length] = keys[:, :, 0]
        stored[1, :, :, self.length] = values[:, :, 0]
        end = self.length + 1
        if layer == len(self._stored) - 1:
            self.length = end
        return stored[0, :, :, :end], stored[1, :, :, :end]

    def hidden(self, drawn: int, window: int | None) -> torch.Tensor | None:
        """Prompt positions (R, P) that the `drawn`-th token of each row must not see; None if it sees all of them."""
        hidden = None if self.padding is None else self.padding[self.prompt_of_row]
        self.windowed |= window is not None
        if window is None or self.positions.shape[1] + drawn <= window:
            return hidden
        newest = self.lengths + drawn - 1
        too_old = (newest[:, None] - self.positions >= window)[self.prompt_of_row]
        return too_old if hidden is None else too_old | hidden

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
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """One decoding step of all rows: query (R, H, 1, D), the completions' key and value (R, K, T, D) -> (R, 1, H, D).

    A token sees the last `sliding_window` tokens, itself among them. Without `shared_prompt` (in `prefill`) this is
    transformers' SDPA attention. Raises ValueError for arguments that would change the scores.
    """
    refuse_unknown(kwargs)
    if shared_prompt is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    cache, layer = shared_prompt, module.layer_idx
    rows, heads, _, dim = query.shape
    kv_heads = cache.kv_heads
    repeat = heads // kv_heads
    query = query.view(rows, kv_heads, repeat, dim) * scaling
    own = torch.matmul(query, key.transpose(-1, -2))  # (R, K, repeat, T)
    # One product per prompt and key/value head, for all rows of the prompt: (R, K, repeat, P).
    prompt = _by_row(cache, torch.bmm(_by_prompt(cache, query), cache.prompt_keys[layer].transpose(1, 2)), repeat)
    drawn = key.shape[2]
    if (hidden := cache.hidden(drawn, sliding_window)) is not None:
        prompt = prompt.masked_fill(hidden[:, None, None], -torch.inf)
    if sliding_window is not None and drawn > sliding_window:
        own[..., : drawn - sliding_window] = -torch.inf
    weights = torch.cat([prompt, own], -1).softmax(-1, dtype=torch.float32).to(query.dtype)
    split = prompt.shape[-1]
    from_prompt = _by_row(cache, torch.bmm(_by_prompt(cache, weights[..., :split]), cache.prompt_values[layer]), repeat)
    output = torch.matmul(weights[..., split:], value) + from_prompt
    return output.view(rows, 1, heads, dim), None


def _by_prompt(cache: SharedPromptCache, rows: torch.Tensor) -> torch.Tensor:
    """(R, K, repeat, X) -> (N*K, slots*repeat, X); slots without a row are zero."""
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


def refuse_unknown(arguments: dict[str, Any]) -> None:
    """Raise ValueError if a model gives its attention an argument that changes the scores in a way we do not know."""
    for name in arguments.keys() - _NEUTRAL:
        if arguments[name] is not None and arguments[name] is not False:
            raise ValueError(f"its attention takes {name}")


def why_not_shared(model: "PreTrainedModel") -> str:
    """The reason why completions of `model` cannot share their prompt; empty if they can.

    Everything but the attention is the model's own code, so any family will do whose attention and head are plain. At
    the first call the model is tried: a few tokens through the shared prompt and through its own forward.
    """
    config, head = model.config.get_text_config(), model.get_output_embeddings()
    if not isinstance(model.get_input_embeddings(), nn.Embedding) or not isinstance(head, nn.Linear):
        return "the embeddings or the head are not plain layers (an adapter?)"
    if head.bias is not None:
        return "the head has a bias"
    if any(value for name, value in config.to_dict().items() if "drop" in name and "att" in name):
        return "the model has attention dropout"
    # A few tokens would not show what depends on the length.
    if others := set(getattr(config, "layer_types", None) or []) - {"full_attention", "sliding_attention"}:
        return f"the model has layers of type {', '.join(sorted(others))}"
    rope = getattr(config, "rope_parameters", None) or {}  # of the model, or of each type of layer
    if {"dynamic", "longrope"} & {part.get("rope_type") for part in (rope, *rope.values()) if isinstance(part, dict)}:
        return "the model's rotary frequencies depend on the longest row of a batch"
    if model not in _unlike_plain:
        _unlike_plain[model] = _probe(model)
    return _unlike_plain[model]


def _has_window(config: "PreTrainedConfig") -> bool:
    if layer_types := getattr(config, "layer_types", None):
        return "sliding_attention" in layer_types
    return bool(getattr(config, "sliding_window", None)) and getattr(config, "use_sliding_window", True)


@torch.no_grad()
def _probe(model: "PreTrainedModel") -> str:
    """Whether the model computes something else with a shared prompt than without: the reason, or an empty text."""
    vocabulary, training = model.get_input_embeddings().num_embeddings, model.training
    ids = torch.arange(_PROBE + 2 * _PROBED_STEPS, device=model.device) * 7919 % vocabulary
    prompt, rows = ids[:_PROBE], ids[_PROBE:].view(2, _PROBED_STEPS)
    model.eval()
    try:
        inputs = torch.cat([prompt.expand(2, -1), rows], 1)
        plain = model(input_ids=inputs, use_cache=False, output_hidden_states=True)
        by_head = model.get_output_embeddings()(plain.hidden_states[-1])
        with use_shared_attention(model):
            logits, cache = start(model, [prompt.tolist()], torch.zeros(2, dtype=torch.long, device=model.device))
            ours = [logits]
            for step in range(_PROBED_STEPS):
                ours.append(decode(model, cache, rows[:, step]))
    # Whatever a model's own code raises on unexpected arguments: it then keeps to its own path.
    except Exception as error:
        return f"a trial failed: {' '.join(str(error).split()) or type(error).__name__}"
    finally:
        model.train(training)
    if not torch.equal(by_head, plain.logits):
        return "its logits are not the head's alone (scaled or capped)"
    # Some models have their window in the mask alone, and so few tokens are all within it.
    if _has_window(model.config.get_text_config()) and not cache.windowed:
        return "its attention does not say how far it looks back"
    wanted = plain.logits[:, _PROBE - 1 :].float()
    error = (torch.stack(ours, 1).float() - wanted).norm() / wanted.norm()
    # Rounding in all layers; in float32 at most 1e-5 was seen, in bfloat16 0.02.
    if not error <= max(1e-3, 8 * torch.finfo(plain.logits.dtype).eps):
        return f"with a shared prompt its logits differ by {error:.1%}"
    return ""


@contextlib.contextmanager
def use_shared_attention(model: "PreTrainedModel") -> Iterator[None]:
    """Let `model` use our attention, in evaluation mode, within the block. Both are restored afterwards."""
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


def start(
    model: "PreTrainedModel", prompts: Sequence[Sequence[int]], prompt_of_row: torch.Tensor
) -> tuple[torch.Tensor, SharedPromptCache]:
    """Logits (R, V) of the rows' first tokens and the cache to go on with, within `use_shared_attention`."""
    hidden, prefilled, present = prefill(model, prompts)
    cache = SharedPromptCache(prefilled, present, prompt_of_row)
    return model.get_output_embeddings()(hidden)[prompt_of_row], cache


def decode(model: "PreTrainedModel", cache: SharedPromptCache, tokens: torch.Tensor) -> torch.Tensor:
    """Logits (R, V) after one more token of each row."""
    positions = cache.lengths[cache.prompt_of_row] + cache.length
    output = model(
        input_ids=tokens[:, None],
        position_ids=positions[:, None],
        attention_mask=cache.no_mask,
        past_key_values=cache,
        use_cache=True,
        shared_prompt=cache,
    )
    return output.logits[:, -1]


def prefill(
    model: "PreTrainedModel", prompts: Sequence[Sequence[int]]
) -> tuple[torch.Tensor, "DynamicCache", torch.Tensor]:
    """Hidden states (N, E) of the prompts' last tokens, the cache, and which of its positions are tokens (N, P)."""
    from transformers import DynamicCache  # without a configuration, layers with a sliding window keep all tokens too

    groups = shared_prefixes(prompts)
    prefixes = [prompts[members[0]][:length] for length, members in groups]
    length_of = {number: length for length, members in groups for number in members}
    suffixes = [prompt[length_of[number] :] for number, prompt in enumerate(prompts)]
    # Beyond a sliding window the model's mask would count the padding within a row.
    padded = max(map(len, prefixes)) + max(map(len, suffixes))
    window = getattr(model.config.get_text_config(), "sliding_window", None)
    windowed = window is not None and padded > window
    if windowed or _tokens(prefixes) + _tokens(suffixes) > _LARGEST_SHARE * _tokens(prompts):
        ids, present = _padded(prompts, model.device)
        lengths = present.sum(1)
        cache = DynamicCache()
        after = {}  # no mask is needed: the padding is on the right, where causal attention does not look
    else:
        ids, present = _padded(prefixes, model.device)
        cache = model.base_model(input_ids=ids, use_cache=True, past_key_values=DynamicCache()).past_key_values
        group_of = {number: group for group, (_, members) in enumerate(groups) for number in members}
        group_of_prompt = torch.tensor([group_of[number] for number in range(len(prompts))], device=model.device)
        cache.batch_select_indices(group_of_prompt)
        prefix_present = present[group_of_prompt]
        ids, present = _padded(suffixes, model.device)
        lengths = present.sum(1)
        positions = prefix_present.sum(1)[:, None] + torch.arange(ids.shape[1], device=model.device)
        present = torch.cat([prefix_present, present], 1)
        after = {"attention_mask": present, "position_ids": positions}
    output = model.base_model(input_ids=ids, use_cache=True, past_key_values=cache, **after)
    last = output.last_hidden_state[torch.arange(len(prompts), device=model.device), lengths - 1]
    return last, output.past_key_values, present


def shared_prefixes(prompts: Sequence[Sequence[int]]) -> list[tuple[int, list[int]]]:
    """Groups of prompts as (length of the shared prefix, numbers of the prompts).

    A group shares at least half of each prompt, but never a whole one. A prompt that shares with no other is cut so
    that its rest is no longer than the others'.

    >>> shared_prefixes([[1, 2, 3, 4], [9, 8], [1, 2, 3, 5]])
    [(3, [0, 2]), (1, [1])]
    """
    groups: list[tuple[int, list[int]]] = []
    for number in sorted(range(len(prompts)), key=lambda i: list(prompts[i])):
        prompt = prompts[number]
        if groups:
            length, members = groups[-1]
            pairs = zip(prompts[members[0]][:length], prompt[:-1], strict=False)
            common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
            if 2 * common >= max(len(prompts[member]) for member in (*members, number)):
                groups[-1] = (common, [*members, number])
                continue
        groups.append((len(prompt) - 1, [number]))
    rests = [len(prompts[n]) - length for length, members in groups if len(members) > 1 for n in members]
    rest = max(rests, default=1)
    return [
        (length if len(members) > 1 else max(0, len(prompts[members[0]]) - rest), members) for length, members in groups
    ]


def _tokens(rows: Sequence[Sequence[int]]) -> int:
    """Tokens of a pass over `rows`, padding included."""
    return len(rows) * max(map(len, rows))


def _padded(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-padded ids, and which of them are tokens."""
    longest = max(1, *map(len, rows))
    ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], device=device)
    lengths = torch.tensor([len(row) for row in rows], device=device)
    return ids, torch.arange(longest, device=device)[None] < lengths[:, None]
