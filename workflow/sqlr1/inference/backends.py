"""Where completions come from, chosen by config: the shared-prompt sampler, or vLLM (extra `gpu`). One interface."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from sqlr1.base_model import eos_token_ids, load_model, load_tokenizer
from sqlr1.inference.sampler import Sampling, sample
from sqlr1.inference.shared_attention import why_not_shared
from sqlr1.records import InputError


class Backend(Protocol):
    """Completes prompts, given as token ids, once per seed; a seed of None is a greedy row."""

    def complete(
        self, prompts: Sequence[Sequence[int]], seeds: Sequence[Sequence[int | None]], sampling: Sampling
    ) -> list[list[str]]:
        """Texts, without special tokens: one list a prompt, in the order of its seeds."""


class TransformersBackend:
    """Any causal language model of transformers, each prompt computed once (`sqlr1.inference.sampler`)."""

    def __init__(self, model_folder: Path, dtype: str = "bfloat16") -> None:
        self.tokenizer = load_tokenizer(model_folder)
        self.model = load_model(model_folder, dtype)
        if reason := why_not_shared(self.model):
            raise InputError(f"candidates.backend: transformers does not serve {model_folder}: {reason}; use vllm")
        self.eos_token_ids = eos_token_ids(self.model, self.tokenizer)

    def complete(
        self, prompts: Sequence[Sequence[int]], seeds: Sequence[Sequence[int | None]], sampling: Sampling
    ) -> list[list[str]]:
        """See `Backend`."""
        drawn = sample(self.model, prompts, seeds, sampling, self.eos_token_ids)
        return [self.tokenizer.batch_decode(group, skip_special_tokens=True) for group in drawn]


class VllmBackend:
    """vLLM, which shares a prompt's cache between its samples by itself (prefix caching)."""

    def __init__(self, model_folder: Path, dtype: str = "bfloat16") -> None:
        try:
            from vllm import LLM
        except ImportError as error:
            raise InputError("candidates.backend: vllm is not installed; pip install 'sqlr1[gpu]'") from error
        self.engine = LLM(str(model_folder), dtype=dtype, enable_prefix_caching=True)

    def complete(
        self, prompts: Sequence[Sequence[int]], seeds: Sequence[Sequence[int | None]], sampling: Sampling
    ) -> list[list[str]]:
        """See `Backend`."""
        from vllm import SamplingParams, TokensPrompt

        requests = [(ids, seed) for ids, group in zip(prompts, seeds, strict=True) for seed in group]
        parameters = [
            SamplingParams(
                max_tokens=sampling.max_new_tokens,
                temperature=0.0 if seed is None else sampling.temperature,
                top_p=1.0 if seed is None else sampling.top_p,
                top_k=sampling.top_k if sampling.top_k and seed is not None else -1,
                seed=None if seed is None else seed % (1 << 32),
            )
            for _, seed in requests
        ]
        outputs = self.engine.generate([TokensPrompt(prompt_token_ids=list(ids)) for ids, _ in requests], parameters)
        texts = iter([output.outputs[0].text for output in outputs])
        return [[next(texts) for _ in group] for group in seeds]


BACKENDS: Mapping[str, Any] = {"transformers": TransformersBackend, "vllm": VllmBackend}


def make_backend(settings: Mapping[str, Any], model_folder: Path) -> Backend:
    """The backend that section `candidates` names. Raises InputError for an unknown one."""
    name = settings.get("backend", "transformers")
    if name not in BACKENDS:
        raise InputError(f"candidates.backend: {name!r} is none of {', '.join(BACKENDS)}")
    return BACKENDS[name](model_folder, settings.get("dtype", "bfloat16"))
