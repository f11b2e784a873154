"""Candidates for questions: a greedy answer and n samples each.

Resumable question by question, of which our own sampler finishes those of a batch together.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tqdm.auto import tqdm

from sqlr1 import config
from sqlr1.model.backends import Backend
from sqlr1.model.batches import batches
from sqlr1.model.sampler import GREEDY, Sampling, row_seed
from sqlr1.records import Candidates, read_records, write_jsonl


@dataclass(frozen=True)
class Prompted:
    """A question of a benchmark with its prompt as token ids; None where the prompt is over the limit."""

    id: str
    db_id: str
    token_ids: list[int] | None


def generate(
    questions: Sequence[Prompted],
    make_backend: Callable[[], Backend],
    settings: config.Candidates | config.Select,
    seed: int,
    work: Path,
    greedy: bool = True,
) -> list[Candidates]:
    """Answer `questions` with section `candidates`; results in their order. Without `greedy` there are samples alone.

    Every question's seeds follow from `seed` and its id. A finished question lies in `work` as a file of its own, and a
    killed run goes on from there. A question without a prompt gets empty completions: it stays in the score, as wrong.
    """
    n = settings.n
    sampling = Sampling(settings.max_new_tokens, settings.temperature, settings.top_p, settings.top_k)
    asked = [q for q in questions if q.token_ids is not None]
    # Named by the prompt too: a database or template that changed since the kill asks something else.
    files = [work / f"{number}-{row_seed(q.token_ids)}.jsonl" for number, q in enumerate(asked)]
    missing = [number for number, file in enumerate(files) if not file.exists()]
    together = _together(asked, missing, n + greedy, sampling, settings)
    if together:
        backend = make_backend()
        with tqdm(total=sum(map(len, together)), desc="candidates", disable=None) as bar:
            for batch in together:
                for place, answer in _answers(backend, [asked[number] for number in batch], n, sampling, seed, greedy):
                    write_jsonl(files[batch[place]], [asdict(answer)])
                    bar.update()
    done = {q.id: Candidates(q.id, q.db_id, "", [""] * n) for q in questions if q.token_ids is None}
    done |= {c.id: c for file in files for c in read_records(file, Candidates)}
    return [done[q.id] for q in questions]


def _together(
    asked: Sequence[Prompted],
    missing: Sequence[int],
    rows: int,
    sampling: Sampling,
    settings: config.Candidates | config.Select,
) -> list[list[int]]:
    """The questions (numbers in `asked`, `rows` answers each) that go to the backend in one call, call by call.

    vLLM schedules itself and gets all that are missing. Our own sampler gets batches that depend on `asked` alone, and
    one of which anything is missing as a whole: other company would change the last bits of its logits.
    """
    if settings.backend == "vllm":
        return [list(missing)] if missing else []
    lengths = [len(q.token_ids or []) for q in asked]
    planned = batches(lengths, rows, sampling, settings.batch_tokens)
    return [batch for batch in planned if not set(missing).isdisjoint(batch)]


def _answers(
    backend: Backend, questions: Sequence[Prompted], n: int, sampling: Sampling, seed: int, greedy: bool
) -> Iterator[tuple[int, Candidates]]:
    """(Place among `questions`, its candidates), as questions are finished."""
    first = [GREEDY] if greedy else []
    seeds = [[*first, *(row_seed(seed, q.id, k) for k in range(n))] for q in questions]
    for place, texts in backend.complete([q.token_ids or [] for q in questions], seeds, sampling):
        best, samples = (texts[0], texts[1:]) if greedy else ("", texts)
        yield place, Candidates(questions[place].id, questions[place].db_id, best, samples)
