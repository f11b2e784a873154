"""Sampling several completions a prompt from one prefill, the prompt's keys and values held once.

`generate()` on G copies of a prompt computes and stores the prompt G times. Here each prompt is prefilled once, and
what several begin with, once for all of them (`prefill`); a prompt's rows then attend to one copy of its keys and
values, and to their own completion's. Rows that have ended leave the batch. The attention is exact: both score blocks
go through one softmax. Everything else is the model's own modules, which look their attention up in
transformers' interface; `FAMILIES` of `shared_attention` are served, the others refused.

Every row draws its own stream of uniform numbers from its own seed and inverts the cumulative distribution: a row's
tokens do not depend on which other rows share its batch, up to the last bits of the logits.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from sqlr1.model.prefill import prefill
from sqlr1.model.prefix_cache import SharedPromptCache, use_shared_attention, why_not_shared

if TYPE_CHECKING:
    from transformers import PreTrainedModel

GREEDY = None


@dataclass(frozen=True)
class Sampling:
    """How completions are drawn. `temperature` applies to rows with a seed; a row whose seed is None is greedy."""

    max_new_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0


@torch.no_grad()
def sample(
    model: "PreTrainedModel",
    prompts: Sequence[Sequence[int]],
    seeds: Sequence[Sequence[int | None]],
    sampling: Sampling,
    eos_token_ids: Sequence[int],
) -> list[list[list[int]]]:
    """Complete each prompt once per seed; `result[p][g]` are token ids, with the end token where one was drawn.

    `prompts` are token ids of any lengths; `seeds[p]` has one entry a row: an integer, or None for a greedy row.
    Raises ValueError for a model that cannot be computed so (`why_not_shared`).
    """
    if reason := why_not_shared(model):
        raise ValueError(f"the shared-prompt sampler does not serve this model: {reason}")
    with use_shared_attention(model):
        rows = [number for number, group in enumerate(seeds) for _ in group]
        prompt_of_row = torch.tensor(rows, device=model.device)
        hidden, prefilled, present = prefill(model, prompts)
        cache = SharedPromptCache(prefilled, present, prompt_of_row)
        logits = model.lm_head(hidden)[prompt_of_row]  # (R, V)
        noise = _uniforms([s for group in seeds for s in group], sampling.max_new_tokens, logits.device)
        eos = torch.tensor(list(eos_token_ids), device=logits.device)
        lengths = torch.tensor([len(p) for p in prompts], device=logits.device)
        drawn: list[torch.Tensor] = []
        live = torch.arange(len(rows), device=logits.device)  # (R,) row numbers still running
        for step in range(sampling.max_new_tokens):
            tokens = choose(logits, noise[live, step], sampling)  # (R,)
            column = torch.full((len(rows),), -1, device=logits.device)
            column[live] = tokens
            drawn.append(column)
            running = ~torch.isin(tokens, eos)
            if step + 1 == sampling.max_new_tokens or not running.any():
                break
            if not running.all():
                cache.keep(running.nonzero().squeeze(1))
                live, tokens = live[running], tokens[running]
            positions = lengths[cache.prompt_of_row] + step
            output = model(
                input_ids=tokens[:, None],
                position_ids=positions[:, None],
                attention_mask=cache.no_mask,
                past_key_values=cache,
                use_cache=True,
                shared_prompt=cache,
            )
            logits = output.logits[:, -1]
    return _grouped(torch.stack(drawn, 1), rows, len(prompts))


def choose(logits: torch.Tensor, uniforms: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """One token a row from logits (R, V): the argmax where `uniforms` (R,) is NaN, else drawn with that number."""
    greedy = uniforms.isnan() if sampling.temperature else torch.ones_like(uniforms, dtype=torch.bool)
    if greedy.all():
        return logits.argmax(-1)
    tokens = torch.empty_like(uniforms, dtype=torch.long)
    tokens[greedy] = logits[greedy].argmax(-1)
    scaled = logits[~greedy].float() / sampling.temperature
    if sampling.top_k:
        floor = scaled.topk(min(sampling.top_k, scaled.shape[-1])).values[:, -1:]
        scaled = scaled.masked_fill(scaled < floor, -torch.inf)
    probabilities = scaled.softmax(-1)
    order = None
    if sampling.top_p < 1.0:
        probabilities, order = probabilities.sort(dim=-1, descending=True)
        before = probabilities.cumsum(-1) - probabilities
        probabilities = probabilities.masked_fill(before >= sampling.top_p, 0.0)
    cumulative = probabilities.cumsum(-1)
    targets = uniforms[~greedy, None] * cumulative[:, -1:]
    # `right=True`: the first entry strictly above the target, which is never a token of probability 0.
    drawn = torch.searchsorted(cumulative, targets, right=True).clamp(max=cumulative.shape[-1] - 1)
    tokens[~greedy] = (drawn if order is None else order.gather(-1, drawn)).squeeze(-1)
    return tokens


def _uniforms(seeds: Sequence[int | None], steps: int, device: torch.device) -> torch.Tensor:
    """Uniform numbers (R, steps), each row from its own seed; NaN for greedy rows."""
    noise = torch.full((len(seeds), steps), torch.nan)
    for row, seed in enumerate(seeds):
        if seed is not GREEDY:
            noise[row] = torch.rand(steps, generator=torch.Generator().manual_seed(seed))
    return noise.to(device)


def _grouped(drawn: torch.Tensor, rows: Sequence[int], prompts: int) -> list[list[list[int]]]:
    """Tokens (R, T), -1 after a row's end, as lists per prompt."""
    grouped: list[list[list[int]]] = [[] for _ in range(prompts)]
    for prompt, tokens in zip(rows, drawn.tolist(), strict=True):
        grouped[prompt].append([t for t in tokens if t >= 0])
    return grouped


def row_seed(*parts: Any) -> int:
    """A 63-bit seed from the run's seed, a question's id, a sample number, ...: equal parts give equal seeds anywhere.

    >>> row_seed(0, "dev-1", 3) == row_seed(0, "dev-1", 3) != row_seed(0, "dev-1", 4)
    True
    """
    import hashlib

    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big") >> 1
