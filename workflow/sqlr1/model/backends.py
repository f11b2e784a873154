"""Where completions come from, chosen by config: the shared-prompt sampler, or vLLM (extra `gpu`). One interface."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from sqlr1 import config
from sqlr1.model.base import eos_token_ids, load_model, load_tokenizer
from sqlr1.model.numerics import native_precision
from sqlr1.model.prefix_cache import why_not_shared
from sqlr1.model.sampler import Sampling, sample
from sqlr1.records import InputError

log = logging.getLogger(__name__)


class Backend(Protocol):
    """Completes prompts, given as token ids, once per seed; a seed of None is a greedy row."""

    def complete(
        self, prompts: Sequence[Sequence[int]], seeds: Sequence[Sequence[int | None]], sampling: Sampling
    ) -> Iterator[tuple[int, list[str]]]:
        """(Number of a prompt, its texts in the order of its seeds), as prompts are finished; no special tokens."""


class TransformersBackend:
    """A Llama or Qwen2 model of transformers, each prompt computed once (`sqlr1.model.sampler`)."""

    def __init__(self, model_folder: Path, dtype: str) -> None:
        self.tokenizer = load_tokenizer(model_folder)
        self.model = load_model(model_folder, dtype).to("cuda" if torch.cuda.is_available() else "cpu")
        if reason := why_not_shared(self.model):
            raise InputError(f"config key backend: transformers does not serve {model_folder}: {reason}; use vllm")
        self.eos_token_ids = eos_token_ids(self.model, self.tokenizer)

    def complete(
        self, prompts: Sequence[Sequence[int]], seeds: Sequence[Sequence[int | None]], sampling: Sampling
    ) -> Iterator[tuple[int, list[str]]]:
        """See `Backend`. The prompts are one batch: all finish together."""
        drawn = sample(self.model, prompts, seeds, sampling, self.eos_token_ids)
        for number, group in enumerate(drawn):
            yield number, self.tokenizer.batch_decode(group, skip_special_tokens=True)


class VllmBackend:
    """vLLM, which schedules any number of prompts itself and shares a prompt's cache between its samples."""

    def __init__(self, model_folder: Path, dtype: str) -> None:
        try:
            from vllm import LLM
        except ImportError as error:
            raise InputError("config key backend: vllm is not installed; pip install 'sqlr1[gpu]'") from error
        self.engine = LLM(str(model_folder), dtype=dtype, enable_prefix_caching=True).llm_engine

    def complete(
        self, prompts: Sequence[Sequence[int]], seeds: Sequence[Sequence[int | None]], sampling: Sampling
    ) -> Iterator[tuple[int, list[str]]]:
        """See `Backend`. The engine is stepped by hand: `LLM.generate` would keep all answers back to the last one."""
        from vllm import TokensPrompt

        for number, (ids, group) in enumerate(zip(prompts, seeds, strict=True)):
            prompt = TokensPrompt(prompt_token_ids=list(ids))
            for row, seed in enumerate(group):
                self.engine.add_request(f"{number}.{row}", prompt, _parameters(seed, sampling))
        texts: list[dict[int, str]] = [{} for _ in prompts]
        while self.engine.has_unfinished_requests():
            for output in self.engine.step():
                if not output.finished:
                    continue
                number, row = map(int, output.request_id.split("."))
                texts[number][row] = output.outputs[0].text
                if len(texts[number]) == len(seeds[number]):
                    yield number, [texts[number][row] for row in range(len(seeds[number]))]


def _parameters(seed: int | None, sampling: Sampling) -> Any:
    """vLLM's SamplingParams of one row."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    common = {"max_tokens": sampling.max_new_tokens, "output_kind": RequestOutputKind.FINAL_ONLY}
    if seed is None:
        return SamplingParams(temperature=0.0, **common)
    return SamplingParams(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k or -1,
        seed=seed % (1 << 32),
        **common,
    )


def make_backend(settings: config.Candidates | config.Select, model_folder: Path) -> Backend:
    """The backend that a config section names, with its weights in `dtype` or in the machine's native precision."""
    dtype = settings.dtype or native_precision()
    log.info("%s, weights in %s", settings.backend, dtype)
    return (VllmBackend if settings.backend == "vllm" else TransformersBackend)(model_folder, dtype)
