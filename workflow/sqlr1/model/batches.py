"""Many prompts through the sampler, in batches that depend on the prompts alone."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tqdm.auto import tqdm

from sqlr1.model.sampler import Sampling, sample

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BATCH_TOKENS = 32768  # cached at once: the default of `batch_tokens`, and what validation takes beside the training


def batches(lengths: Sequence[int], rows: int, sampling: Sampling, batch_tokens: int) -> list[list[int]]:
    """Indices of prompts in batches of similar length, longest first, each of at most `batch_tokens` cached tokens.

    A prompt is cached once, its `rows` completions each for themselves. A prompt over the budget goes alone.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    grouped: list[list[int]] = []
    for index in order:
        longest = lengths[grouped[-1][0]] if grouped else 0
        if not grouped or (len(grouped[-1]) + 1) * (longest + rows * sampling.max_new_tokens) > batch_tokens:
            grouped.append([])
        grouped[-1].append(index)
    return grouped


def complete_all(
    model: "PreTrainedModel",
    prompts: Sequence[Sequence[int]],
    seeds: Sequence[Sequence[int | None]],
    sampling: Sampling,
    eos_token_ids: Sequence[int],
    batch_tokens: int,
    progress: str,
) -> list[list[list[int]]]:
    """`sampler.sample` over any number of prompts; results in their order."""
    results: list[list[list[int]]] = [[] for _ in prompts]
    rows = max((len(group) for group in seeds), default=0)
    with tqdm(total=len(prompts), desc=progress, disable=None, leave=False) as bar:
        for batch in batches([len(p) for p in prompts], rows, sampling, batch_tokens):
            drawn = sample(model, [prompts[i] for i in batch], [seeds[i] for i in batch], sampling, eos_token_ids)
            for index, group in zip(batch, drawn, strict=True):
                results[index] = group
            bar.update(len(batch))
    return results
