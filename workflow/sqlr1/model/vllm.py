"""Completions by vLLM (extra `gpu`)."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sqlr1.model.sampler import GREEDY, Sampling
from sqlr1.records import InputError


class VllmBackend:
    """vLLM: it batches any number of prompts itself and computes a prompt once for all of its samples."""

    def __init__(self, model_folder: Path, dtype: str) -> None:
        try:
            from vllm import LLM
        except ImportError as error:
            raise InputError("config key backend: vllm is not installed; pip install 'sqlr1[gpu]'") from error
        self.engine = LLM(str(model_folder), dtype=dtype, enable_prefix_caching=True).llm_engine

    def complete(
        self, prompts: Sequence[Sequence[int]], seeds: Sequence[Sequence[int | None]], sampling: Sampling
    ) -> Iterator[tuple[int, list[str]]]:
        """See `answers.Backend`. Steps the engine itself, because `LLM.generate` returns nothing until all are done."""
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
    """vLLM's SamplingParams for one completion."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    common = {"max_tokens": sampling.max_new_tokens, "output_kind": RequestOutputKind.FINAL_ONLY}
    if seed is GREEDY:
        return SamplingParams(temperature=0.0, **common)
    return SamplingParams(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k or -1,
        seed=seed % (1 << 32),
        **common,
    )
