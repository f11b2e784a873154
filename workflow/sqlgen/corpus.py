"""A whole corpus: how many questions of which class over which database, generated in several processes."""

import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from tqdm import tqdm

from sqlgen.generate import GenerationRequest, generate_over
from sqlgen.sources import Source
from sqlgen.speakable import SpeakableDatabase
from sqlr1.data.processes import WORTH_A_PROCESS, executor_processes
from sqlr1.data.split import shares
from sqlr1.database.profile import read_profile
from sqlr1.database.sql import without_literals
from sqlr1.records import InputError, Question, sha256, stream_records, write_jsonl
from sqlr1.sandbox import Executor, Limits

log = logging.getLogger(__name__)
_ROUNDS = 3  # what some databases cannot yield is asked of the others, in this many rounds altogether


# A source's part of a round: how many questions of each class, and earlier rounds' files, whose SQL is not repeated.
_Task = tuple[Source, Mapping[str, int], tuple[Path, ...]]
_Yield = tuple[Path, Counter[str]]  # the file of what a source yielded, and how many rows of each class it has


def generate(
    sources: Sequence[Source], request: GenerationRequest, limits: Limits, workers: int, work: Path
) -> Iterator[Question]:
    """The requested questions, spread evenly over the sources and in their order, whatever the number of processes.

    What a source cannot yield of its share is asked of the others. All questions are generated before this returns;
    then they are read from files in `work` one after another. An interrupted run resumes from these files, so `work`
    must be another folder if the code changes. Raises InputError if there is no source.
    """
    if not request.total:
        return iter(())
    if not sources:
        raise InputError("synthesize: no database to ask about; set domains or folders")
    make = partial(partial, _from_source, request, work)
    with executor_processes(make, limits, 1 if request.total < WORTH_A_PROCESS else workers) as run:
        files = _in_rounds(sources, request, run)
    return (row for file in files for row in stream_records(file, Question))


def _in_rounds(
    sources: Sequence[Source], request: GenerationRequest, run: Callable[[Iterable[_Task]], Iterator[_Yield]]
) -> list[Path]:
    """The files of what the sources yielded, in the order of the sources."""
    files: list[tuple[Path, ...]] = [() for _ in sources]
    missing = Counter(shares(request.total, request.classes))
    # Each class starts at another source, so that few questions are not all asked of the first sources.
    starts = {name: 7 * offset for offset, name in enumerate(request.classes)}
    able = {name: [(start + i) % len(sources) for i in range(len(sources))] for name, start in starts.items()}
    for _ in range(_ROUNDS):
        wanted = [dict.fromkeys(request.classes, 0) for _ in sources]
        for name, count in missing.items():
            for turn in range(count if able[name] else 0):
                wanted[able[name][turn % len(able[name])]][name] += 1
        if not (asked := [i for i, quota in enumerate(wanted) if sum(quota.values())]):
            break
        tasks = [(sources[i], wanted[i], files[i]) for i in asked]
        found = tqdm(run(tasks), total=len(tasks), desc="synthesize", unit="database", disable=None)
        able = {name: [] for name in request.classes}
        for i, (file, got) in zip(asked, found, strict=True):
            files[i] += (file,)
            missing.subtract(got)
            for name, count in wanted[i].items():
                if count and got[name] == count:
                    able[name].append(i)
    if short := {name: count for name, count in missing.items() if count}:
        log.warning("%d of %d questions could not be made: %s", sum(short.values()), request.total, short)
    return [file for own in files for file in own]


def _from_source(request: GenerationRequest, work: Path, executor: Executor, task: _Task) -> _Yield:
    """Generate one source's part of a round, unless an earlier run has written its file."""
    source, quota, before = task
    names = [file.name for file in before]
    asked = repr([sha256(source.path), sorted(source.names.items()), sorted(quota.items()), request, names])
    file = work / f"{source.db_id}-{hashlib.sha256(asked.encode()).hexdigest()[:16]}.jsonl"
    if not file.is_file():
        database = SpeakableDatabase(read_profile(source.path), source.names)
        taken = [without_literals(row.sql) for earlier in before for row in stream_records(earlier, Question)]
        write_jsonl(file, generate_over(database, source.db_id, quota, request, executor, taken))
    return file, Counter(row.sql_class for row in stream_records(file, Question))
