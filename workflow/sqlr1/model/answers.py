"""Answers to questions: a greedy completion and n samples each, by our own sampler or by vLLM. Can be resumed."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from tqdm.auto import tqdm

from sqlr1 import config
from sqlr1.database.schema import read_schema
from sqlr1.model.base import eos_token_ids, load_model, load_tokenizer, native_precision
from sqlr1.model.constraint import Grammars
from sqlr1.model.grammar import response_grammar
from sqlr1.model.prefix_cache import why_not_shared
from sqlr1.model.sampler import GREEDY, Sampling, batches, row_seed, sample
from sqlr1.records import Candidates, InputError, read_records, write_jsonl

log = logging.getLogger(__name__)


class SamplerBackend:
    """Our own sampler (`sqlr1.model.sampler`) on a model of transformers."""

    def __init__(self, model_folder: Path, dtype: str) -> None:
        self.tokenizer = load_tokenizer(model_folder)
        self.model = load_model(model_folder, dtype).to("cuda" if torch.cuda.is_available() else "cpu")
        self.unshared_reason = why_not_shared(self.model)
        if self.unshared_reason:
            costs = "each sample computes its prompt again, one prompt at a time (backend vllm is faster)"
            log.warning("%s: %s", costs, self.unshared_reason)
        self.eos_token_ids = eos_token_ids(self.model, self.tokenizer)
        self.grammars = Grammars(self.tokenizer, self.model, self.eos_token_ids)

    def complete(
        self,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[Sequence[int | None]],
        sampling: Sampling,
        databases: Sequence[Path] | None = None,
    ) -> Iterator[tuple[int, list[str]]]:
        """Complete `prompts` (token ids), once per seed; a seed of GREEDY asks for the greedy completion.

        With `databases`, one per prompt, completions can name only what their database has (`model.grammar`).

        Yields (index of a prompt, its texts in the order of its seeds) whenever a prompt is finished. The texts hold no
        special tokens. Here the prompts are one batch and finish together.
        """
        if databases is not None and self.unshared_reason:
            off = "set candidates.constrained and grpo.constrained to false, or ask with --no-constrained"
            raise InputError(f"no masks for this model ({self.unshared_reason}): {off}")
        constraint = None if databases is None else self.grammars.over(databases, seeds)
        for number, group in enumerate(sample(self.model, prompts, seeds, sampling, self.eos_token_ids, constraint)):
            yield number, self.tokenizer.batch_decode(group, skip_special_tokens=True)


class VllmBackend:
    """vLLM: it batches any number of prompts itself and computes a prompt once for all of its samples."""

    def __init__(self, model_folder: Path, dtype: str) -> None:
        try:
            from vllm import LLM
        except ImportError as error:
            raise InputError("config key backend: vllm is not installed; pip install 'sqlr1[gpu]'") from error
        guided = {"backend": "guidance"}  # llguidance, if a request has a grammar
        llm = LLM(str(model_folder), dtype=dtype, enable_prefix_caching=True, structured_outputs_config=guided)
        self.engine = llm.llm_engine

    def complete(
        self,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[Sequence[int | None]],
        sampling: Sampling,
        databases: Sequence[Path] | None = None,
    ) -> Iterator[tuple[int, list[str]]]:
        """As for `SamplerBackend`. Steps the engine itself: `LLM.generate` returns nothing until all are done."""
        from vllm import SamplingParams
        from vllm.inputs import tokens_input
        from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

        common = {"max_tokens": sampling.max_new_tokens, "output_kind": RequestOutputKind.FINAL_ONLY}
        drawn = {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": sampling.top_k or -1}
        grammars = {path: response_grammar(read_schema(path)) for path in set(databases or ())}
        for number, (ids, group) in enumerate(zip(prompts, seeds, strict=True)):
            prompt = tokens_input(list(ids))  # as the renderer makes it; raw prompts are deprecated
            for row, seed in enumerate(group):
                how = {"temperature": 0.0} if seed is GREEDY else drawn | {"seed": seed % (1 << 32)}
                if databases:  # an object per request: vLLM fills it in
                    how["structured_outputs"] = StructuredOutputsParams(grammar=grammars[databases[number]])
                self.engine.add_request(f"{number}.{row}", prompt, SamplingParams(**common, **how))
        texts: list[dict[int, str]] = [{} for _ in prompts]
        while self.engine.has_unfinished_requests():
            for output in self.engine.step():
                if not output.finished:
                    continue
                number, row = map(int, output.request_id.split("."))
                texts[number][row] = output.outputs[0].text
                if len(texts[number]) == len(seeds[number]):
                    yield number, [texts[number][row] for row in range(len(seeds[number]))]


Backend = SamplerBackend | VllmBackend


def make_backend(settings: config.Candidates | config.Select, model_folder: Path) -> Backend:
    """The backend that a config section names; weights in its `dtype`, or in the machine's native precision if null."""
    dtype = settings.dtype or native_precision()
    log.info("%s, weights in %s", settings.backend, dtype)
    return (VllmBackend if settings.backend == "vllm" else SamplerBackend)(model_folder, dtype)


@dataclass(frozen=True)
class Prompted:
    """A question with its prompt as token ids; None if the prompt is too long.

    `database` constrains the answer to what that SQLite file has; None does not.
    """

    id: str
    db_id: str
    token_ids: list[int] | None
    database: Path | None = None


def generate(
    questions: Sequence[Prompted],
    make_backend: Callable[[], Backend],
    settings: config.Candidates | config.Select,
    seed: int,
    work: Path,
    greedy: bool = True,
) -> list[Candidates]:
    """Answer `questions`; results in their order. `greedy=False` draws the samples only.

    A question's seeds depend on `seed` and its id alone. Each finished question is written to a file in `work`, so
    that a killed run continues with the others. A question without a prompt gets empty completions and thus counts as
    wrong.
    """
    n = settings.n
    sampling = Sampling(settings.max_new_tokens, settings.temperature, settings.top_p, settings.top_k)
    asked = [q for q in questions if q.token_ids is not None]
    # The prompt is part of the name: if a database or the template changes after a kill, the question is asked again.
    files = [work / f"{number}-{row_seed(q.token_ids)}.jsonl" for number, q in enumerate(asked)]
    missing = {number for number, file in enumerate(files) if not file.exists()}
    if settings.backend == "vllm":
        calls = [sorted(missing)] if missing else []
    else:
        # The batches depend on all questions, and a batch is repeated as a whole: with other prompts beside it, a
        # prompt's logits would differ in their last bits.
        planned = batches([len(q.token_ids) for q in asked], n + greedy, sampling, settings.batch_tokens)
        calls = [batch for batch in planned if not missing.isdisjoint(batch)]
    if calls:
        backend = make_backend()
        with tqdm(total=sum(map(len, calls)), desc="candidates", disable=None) as bar:
            for numbers in calls:
                batch = [asked[number] for number in numbers]
                first = [GREEDY] if greedy else []
                seeds = [[*first, *(row_seed(seed, q.id, k) for k in range(n))] for q in batch]
                constrained = [[q.database for q in batch]] if batch[0].database else []
                for place, texts in backend.complete([q.token_ids for q in batch], seeds, sampling, *constrained):
                    best, samples = (texts[0], texts[1:]) if greedy else ("", texts)
                    answer = Candidates(batch[place].id, batch[place].db_id, best, samples)
                    write_jsonl(files[numbers[place]], [asdict(answer)])
                    bar.update()
    done = {q.id: Candidates(q.id, q.db_id, "", [""] * n) for q in questions if q.token_ids is None}
    done |= {c.id: c for file in files for c in read_records(file, Candidates)}
    return [done[q.id] for q in questions]
