"""Several completions per prompt, each prompt computed and stored once.

`generate()` on G copies of a prompt computes and stores the prompt G times. Here each prompt is computed once, and a
prefix that several prompts share once for all of them (`prefix_cache.prefill`). All completions of a prompt attend to
one copy of its keys and values. Completions that have ended leave the batch. The attention is exact: the scores of
prompt and completion go through one softmax. Everything else is the model's own code. Models whose attention or head
is of another kind (`prefix_cache.why_not_shared`) use their own `generate`.

Each completion (a row) has a seed and a stream of uniform numbers of its own, and inverts the cumulative distribution.
So its tokens do not depend on the other rows of the batch, except through the last bits of the logits.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import torch

from sqlr1.model.prefix_cache import decode, start, use_shared_attention, why_not_shared

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from sqlr1.model.constraint import Constraint

GREEDY = None  # the seed of a row that is not drawn but takes the most likely token
_STEPS_BETWEEN_LOOKS = 8
BATCH_TOKENS = 32768  # default of `batch_tokens`; validation, which runs beside the training, always uses it


@dataclass(frozen=True)
class Sampling:
    """How completions are drawn. Rows whose seed is GREEDY ignore all but `max_new_tokens`."""

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
    constraint: "Constraint | None" = None,
) -> list[list[list[int]]]:
    """Complete each prompt once per seed; `result[p][g]` are token ids, including the end token if one was drawn.

    `prompts` are token ids of any lengths; `seeds[p]` has one entry per completion: an integer or GREEDY. For a model
    that cannot share its prompts (`why_not_shared`), its own `generate` computes each prompt once per completion.
    `constraint` has the rows of `result` one after another; ValueError if it is given and prompts cannot be shared.
    """
    if all(seed is GREEDY for group in seeds for seed in group):
        sampling = replace(sampling, temperature=0.0)
    if reason := why_not_shared(model):
        if constraint:
            raise ValueError(f"constrained answers need a prompt that is shared, and {reason}")
        return [_generated(model, *asked, sampling, eos_token_ids) for asked in zip(prompts, seeds, strict=True)]
    with use_shared_attention(model):
        rows = [number for number, group in enumerate(seeds) for _ in group]
        logits, cache = start(model, prompts, torch.tensor(rows, device=model.device))  # (R, V)
        noise = _uniforms([s for group in seeds for s in group], sampling.max_new_tokens, logits.device)
        eos = torch.tensor(list(eos_token_ids), device=logits.device)
        # To look whether rows have ended, the processor waits for a GPU: there only now and then.
        look = 1 if constraint or logits.device.type == "cpu" else _STEPS_BETWEEN_LOOKS
        drawn: list[torch.Tensor] = []
        live = torch.arange(len(rows), device=logits.device)  # (R,) numbers of the rows that are computed
        ended = torch.zeros_like(live, dtype=torch.bool)
        for step in range(sampling.max_new_tokens):
            if constraint:
                logits = constraint.masked(logits, live)
            tokens = choose(logits, noise[live, step], sampling)  # (R,)
            if constraint:
                constraint.take(live, tokens)
            column = torch.full((len(rows),), -1, device=logits.device)  # -1: the row is not computed any more
            column[live] = tokens
            drawn.append(column)
            ended = ended | torch.isin(tokens, eos)
            if step + 1 == sampling.max_new_tokens:
                break
            if (step + 1) % look == 0:
                running = (~ended).nonzero().squeeze(1)
                if not len(running):
                    break
                if len(running) < len(live):
                    cache.keep(running)
                    live, tokens, ended = live[running], tokens[running], ended[running]
            logits = decode(model, cache, tokens)
    completions: list[list[list[int]]] = [[] for _ in prompts]
    for prompt, tokens in zip(rows, torch.stack(drawn, 1).tolist(), strict=True):
        completions[prompt].append(_to_its_end(tokens, eos_token_ids))
    return completions


def _generated(
    model: "PreTrainedModel",
    prompt: Sequence[int],
    seeds: Sequence[int | None],
    sampling: Sampling,
    eos_token_ids: Sequence[int],
) -> list[list[int]]:
    """The completions of one prompt by the model's own `generate`, which computes the prompt for each of them.

    The first seed is that of all; the global random state stays as it was.
    """
    ids = torch.tensor([list(prompt)], device=model.device)
    ends = {"eos_token_id": list(eos_token_ids) or None, "pad_token_id": next(iter(eos_token_ids), 0)}
    given = {"attention_mask": torch.ones_like(ids), "max_new_tokens": sampling.max_new_tokens, **ends}
    given |= {"repetition_penalty": 1.0}  # Qwen's own default is another
    drawn = {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": sampling.top_k}
    wanted = [seed for seed in seeds if seed is not GREEDY and sampling.temperature]
    training, sampled = model.training, []
    model.eval()
    try:
        if wanted:
            with torch.random.fork_rng([model.device] if model.device.type == "cuda" else []):
                torch.manual_seed(wanted[0])
                drawn |= {"do_sample": True, "num_return_sequences": len(wanted)}
                sampled = model.generate(ids, **given, **drawn).tolist()
        best = model.generate(ids, **given, do_sample=False).tolist() if len(wanted) < len(seeds) else []
    finally:
        model.train(training)
    rows = iter(sampled)
    found = [next(rows) if seed is not GREEDY and sampling.temperature else best[0] for seed in seeds]
    return [_to_its_end(row[len(prompt) :], eos_token_ids) for row in found]


def _to_its_end(tokens: Sequence[int], eos_token_ids: Sequence[int]) -> list[int]:
    """`tokens` up to the first end token, or to the first -1."""
    drawn = list(takewhile(lambda token: token >= 0, tokens))
    return drawn[: next((n for n, token in enumerate(drawn, 1) if token in eos_token_ids), None)]


def batches(lengths: Sequence[int], rows: int, sampling: Sampling, batch_tokens: int) -> list[list[int]]:
    """Indices of prompts in batches of similar length, longest first, at most `batch_tokens` cached tokens per batch.

    A prompt is cached once, and each of its `rows` completions once. A prompt above the budget gets a batch of its own.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    grouped: list[list[int]] = []
    for index in order:
        longest = lengths[grouped[-1][0]] if grouped else 0
        if not grouped or (len(grouped[-1]) + 1) * (longest + rows * sampling.max_new_tokens) > batch_tokens:
            grouped.append([])
        grouped[-1].append(index)
    return grouped


def choose(logits: torch.Tensor, uniforms: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """One token per row from logits (R, V): the argmax where `uniforms` (R,) is NaN, else drawn with that number."""
    best = logits.argmax(-1)
    if not sampling.temperature:
        return best
    scaled = logits.float() / sampling.temperature  # of greedy rows too: to pick the others, a GPU would be waited for
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
    targets = uniforms.nan_to_num()[:, None] * cumulative[:, -1:]
    # `right=True` finds the first entry strictly above the target; a token of probability 0 is never found.
    drawn = torch.searchsorted(cumulative, targets, right=True).clamp(max=cumulative.shape[-1] - 1)
    drawn = (drawn if order is None else order.gather(-1, drawn)).squeeze(-1)
    return torch.where(uniforms.isnan(), best, drawn)


def _uniforms(seeds: Sequence[int | None], steps: int, device: torch.device) -> torch.Tensor:
    """Uniform numbers (R, steps), each row from its own seed; NaN in greedy rows."""
    noise = torch.full((len(seeds), steps), torch.nan)
    for row, seed in enumerate(seeds):
        if seed is not GREEDY:
            noise[row] = torch.rand(steps, generator=torch.Generator().manual_seed(seed))
    return noise.to(device)


def row_seed(*parts: Any) -> int:
    """A 63-bit seed from the run's seed, a question's id, a sample's number, ...; the same on every machine.

    >>> row_seed(0, "dev-1", 3) == row_seed(0, "dev-1", 3) != row_seed(0, "dev-1", 4)
    True
    """
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big") >> 1
