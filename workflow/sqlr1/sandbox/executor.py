"""Run untrusted SQL and compare it with gold SQL: the one door to benchmark and training databases."""

import marshal
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from sqlr1.cpus import usable_cpus
from sqlr1.records import InputError
from sqlr1.sandbox.cache import GoldCache
from sqlr1.sandbox.judging import METRICS, SEMANTICS, SQLITE_MAGIC, Comparison, Gold, Plan, start_of
from sqlr1.sandbox.pool import Pool
from sqlr1.sandbox.protocol import Reply, Task
from sqlr1.sandbox.verdicts import Execution, Judgement, Limits, Pair, Query, Race, Status


class _Run(NamedTuple):
    """One run of a prediction, and by which comparators its result meets each gold."""

    database: Path
    predicted: str
    comparators: dict[Gold, list[str]]

    def task(self, golds: Mapping[Gold, tuple[str, Reply]]) -> Task:
        more = ((golds[gold][0], _rows(golds[gold][1]), tuple(names)) for gold, names in self.comparators.items())
        return ("compare", _absolute(self.database), self.predicted, *more)


_CORRUPT = "database disk image is malformed"


class Executor:
    """A pool of sandboxed workers. Use it as a context manager, from one thread at a time.

    `workers`, at least one, defaults to this process's share of the CPUs. `cache` is a folder in which the results of
    the golds that `judge` ran are kept for later runs and other stages. A file that is no SQLite database, or damaged
    where it is read, raises InputError; one that is absent is a verdict.
    """

    def __init__(self, workers: int | None = None, limits: Limits | None = None, cache: Path | None = None) -> None:
        if workers is not None and workers < 1:
            raise ValueError(f"an executor needs at least one worker, not {workers}")
        self.limits = limits or Limits()
        self._cache = GoldCache(cache, self.limits)
        self._pool = Pool(workers or usable_cpus(), self.limits)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the workers."""
        self._pool.close()
        self._cache.close()

    def worker_pids(self) -> list[int]:
        """The process ids of the workers that take tasks."""
        return self._pool.pids()

    def execute(self, queries: Sequence[Query], progress: str | None = None) -> list[Execution]:
        """Run the queries; results in their order. Equal queries run once. `progress` labels a progress bar."""
        replies = self._each("execute", queries, progress)
        return [_execution(*replies[query]) for query in queries]

    def fingerprints(self, queries: Sequence[Query], progress: str | None = None) -> list[str | None]:
        """One digest a query, equal exactly where BIRD's comparison calls the results equal; None if it did not run."""
        replies = self._each("fingerprint", queries, progress)
        return [replies[query][1] for query in queries]

    def judge(
        self, pairs: Sequence[Pair], semantics: str = "spider", metrics: Sequence[str] = (), progress: str | None = None
    ) -> list[Judgement]:
        """Compare predictions with golds; verdicts by `semantics` ("spider" or "bird"), in the order of `pairs`.

        `metrics` (of METRICS) are reported beside it. A match must hold on every `*.sqlite` file of a database's own
        folder (`NAME/NAME.sqlite`): Spider's test suites and our instances have several, BIRD's folders one.
        """
        if semantics not in SEMANTICS or not set(metrics) <= set(METRICS):
            raise ValueError(
                f"semantics are {list(SEMANTICS)}, metrics {list(METRICS)}; not {semantics!r}, {metrics!r}"
            )
        plan = Plan(pairs, semantics, metrics)
        comparisons = plan.comparisons()
        _check(comparison.gold.database for comparison in comparisons)
        golds = self._golds(dict.fromkeys(comparison.gold for comparison in comparisons), progress)
        replies = self._compare(comparisons, golds, progress)
        results = {gold: reply for gold, (_, reply) in golds.items()}
        return [plan.judge(pair, results, replies) for pair in pairs]

    def race(self, pairs: Sequence[Pair], repeats: int, progress: str | None = None) -> list[Race]:
        """For R-VES: time of the gold / time of the prediction, `repeats` of them a pair.

        Meant for matching pairs whose database is there. Wall time, so the figures differ from run to run.
        """
        tasks = [("race", _absolute(pair.database), pair.predicted, pair.gold, repeats) for pair in pairs]
        return [_race(*reply) for reply in self._run(tasks, progress, statements=2 * repeats + 2)]

    def _each(self, kind: str, queries: Sequence[Query], progress: str | None) -> dict[Query, Reply]:
        unique = list(dict.fromkeys(queries))
        _check(query.database for query in unique)
        replies = self._run([(kind, _absolute(query.database), query.sql) for query in unique], progress)
        return dict(zip(unique, replies, strict=True))

    def _golds(self, golds: Iterable[Gold], progress: str | None) -> dict[Gold, tuple[str, Reply]]:
        """The cache key and the result of each gold, kept from before or run now."""
        found: dict[Gold, tuple[str, Reply]] = {}
        missing: dict[Gold, str] = {}
        for gold in golds:
            if not os.path.isfile(gold.database):
                found[gold] = "", (Status.MISSING_DATABASE.value, None, f"{gold.database}: no such file")
                continue
            key = self._cache.key(*gold)
            reply = self._cache.get(key)
            if reply is None:
                missing[gold] = key
            else:
                found[gold] = key, reply
        replies = self._run([("execute", _absolute(gold.database), gold.sql) for gold in missing], progress and "golds")
        new = dict(zip(missing, replies, strict=True))
        kept = {gold: missing[gold] for gold, reply in new.items() if not _may_change(reply)}
        self._cache.put({key: new[gold] for gold, key in kept.items()})
        return found | {gold: (kept.get(gold, ""), reply) for gold, reply in new.items()}  # "": to be kept nowhere

    def _compare(
        self, comparisons: list[Comparison], golds: dict[Gold, tuple[str, Reply]], progress: str | None
    ) -> dict[Comparison, Reply]:
        """Run each distinct prediction once on a database, against all golds; not against one that did not run.

        (Once more for every `result_bytes` of golds: a worker has those of one task in memory.)
        """
        against: dict[tuple[Path, str], dict[Gold, list[str]]] = {}
        for gold, predicted, comparator in comparisons:
            if golds[gold][1][0] == Status.OK:
                against.setdefault((gold.database, predicted), {}).setdefault(gold, []).append(comparator)
        runs = [
            _Run(database, predicted, part)
            for (database, predicted), comparators in against.items()
            for part in _parts(comparators, golds, self.limits.result_bytes)
        ]
        found: dict[tuple[Gold, str], Reply] = {}
        for run, (status, values, error) in zip(
            runs, self._run([run.task(golds) for run in runs], progress), strict=True
        ):
            for place, gold in enumerate(run.comparators):
                found[gold, run.predicted] = status, values and values[place], error
        return {item: found[item[:2]] for item in comparisons if item[:2] in found}

    def _run(self, tasks: list[Task], progress: str | None, statements: int = 1) -> list[Reply]:
        if progress and sys.stderr.isatty():
            from tqdm import tqdm

            with tqdm(total=len(tasks), desc=progress, unit="query") as bar:
                replies = self._pool.run(tasks, bar.update, statements)
        else:
            replies = self._pool.run(tasks, statements=statements)
        for (_, database, *_), (_, _, error) in zip(tasks, replies, strict=True):
            if error in (_CORRUPT, f"{database}: {_CORRUPT}"):  # no fault of the statement, whose verdict would be one
                raise InputError(f"{database}: damaged ({_CORRUPT}); fetch or build it again")
        return replies


def _check(databases: Iterable[Path]) -> None:
    """Raise InputError for a file that is no SQLite database (an empty one is, to SQLite)."""
    for database in dict.fromkeys(databases):
        if start_of(database) not in (SQLITE_MAGIC, b""):
            raise InputError(f"{database}: not a SQLite database; fetch or build it again")


def _may_change(reply: Reply) -> bool:
    """Whether the statement's result depends on the clock or on chance, as far as a worker can tell."""
    _, payload, _ = reply
    return payload is not None and payload[2]


def _absolute(database: Path) -> str:
    return os.path.abspath(database)


def _rows(reply: Reply) -> bytes:
    _, (_, rows, _), _ = reply
    return rows


def _parts(
    comparators: dict[Gold, list[str]], golds: Mapping[Gold, tuple[str, Reply]], most: int
) -> list[dict[Gold, list[str]]]:
    """Split what one prediction meets, so that no part has more than `most` bytes of golds, if it has several."""
    parts: list[dict[Gold, list[str]]] = []
    room = 0
    for gold, names in comparators.items():
        size = len(_rows(golds[gold][1]))
        if size > room:
            parts.append({})
            room = most
        parts[-1][gold] = names
        room -= size
    return parts


def _race(status: str, payload: list[float] | str | None, error: str) -> Race:
    if status == Status.OK:
        return Race(Status.OK, payload)
    return Race(Status(status), failed=payload or "", error=error)


def _execution(status: str, payload: tuple | None, error: str) -> Execution:
    if payload is None:
        return Execution(Status(status), error=error)
    columns, rows, _ = payload
    return Execution(Status(status), columns, marshal.loads(rows))
