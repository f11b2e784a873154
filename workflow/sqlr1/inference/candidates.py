"""Candidates for a benchmark's questions: a greedy answer and n samples each, resumable batch by batch."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from sqlr1.inference.backends import Backend
from sqlr1.inference.batches import batches
from sqlr1.inference.sampler import GREEDY, Sampling, row_seed
from sqlr1.records import Candidates, read_records, write_jsonl

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prompted:
    """A question of a benchmark with its prompt as token ids; None where the prompt is over the limit."""

    id: str
    db_id: str
    token_ids: list[int] | None


def generate(
    questions: Sequence[Prompted],
    make_backend: Callable[[], Backend],
    settings: Mapping[str, Any],
    seed: int,
    work: Path,
    greedy: bool = True,
) -> list[Candidates]:
    """Answer `questions` with section `candidates`; results in their order. Without `greedy` there are samples alone.

    Every question's seeds follow from `seed` and its id, and the batches from the questions alone. A finished batch
    lies in `work` as a file, so that a killed run repeats at most one batch and ends with the same bytes. A question
    without a prompt gets empty completions: it stays in the score, as wrong.
    """
    n = settings["n"]
    sampling = Sampling(
        settings["max_new_tokens"], settings["temperature"], settings.get("top_p", 1.0), settings.get("top_k", 0)
    )
    asked = [q for q in questions if q.token_ids is not None]
    planned = batches([len(q.token_ids) for q in asked], n + greedy, sampling, settings.get("batch_tokens", 32768))
    done: dict[str, Candidates] = {q.id: Candidates(q.id, q.db_id, "", [""] * n) for q in questions}
    backend: Backend | None = None
    with tqdm(total=len(asked), desc="candidates", disable=None) as bar:
        for number, batch in enumerate(planned):
            finished = work / f"{number}.jsonl"
            if not finished.exists():
                backend = backend or make_backend()
                answers = _answer(backend, [asked[i] for i in batch], n, sampling, seed, greedy)
                write_jsonl(finished, map(asdict, answers))
            done |= {c.id: c for c in read_records(finished, Candidates)}
            bar.update(len(batch))
    return [done[q.id] for q in questions]


def _answer(
    backend: Backend, questions: Sequence[Prompted], n: int, sampling: Sampling, seed: int, greedy: bool
) -> list[Candidates]:
    first = [GREEDY] if greedy else []
    seeds = [first + [row_seed(seed, q.id, k) for k in range(n)] for q in questions]
    texts = backend.complete([q.token_ids or [] for q in questions], seeds, sampling)
    texts = texts if greedy else [["", *samples] for samples in texts]
    return [Candidates(q.id, q.db_id, best, samples) for q, (best, *samples) in zip(questions, texts, strict=True)]
