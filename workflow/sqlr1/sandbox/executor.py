"""Run untrusted SQL and compare it with gold SQL: the only way to run a model's SQL on a database."""

import marshal
import os
import sys
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from itertools import chain, repeat
from pathlib import Path

from sqlr1.cpus import usable_cpus
from sqlr1.database.files import SQLITE_MAGIC, check_journals, start_of
from sqlr1.records import InputError
from sqlr1.sandbox.cache import GoldCache
from sqlr1.sandbox.judging import METRICS, SEMANTICS, Comparison, judgement, plan_comparisons
from sqlr1.sandbox.pool import Pool
from sqlr1.sandbox.protocol import Execution, Judgement, Limits, Pair, Query, Race, Reply, Status, Task

_CORRUPT = "database disk image is malformed"


class Executor(AbstractContextManager):
    """A pool of sandboxed workers. Use it as a context manager, from one thread at a time.

    `workers`: at least one; by default this process's share of the CPUs. `cache`: a folder that keeps the results of
    the golds that `judge` ran, for later runs and other stages. A file that is no SQLite database, or is damaged where
    it is read, raises InputError; a file that is missing gives a verdict.
    """

    def __init__(self, workers: int | None = None, limits: Limits | None = None, cache: Path | None = None) -> None:
        if workers is not None and workers < 1:
            raise ValueError(f"an executor needs at least one worker, not {workers}")
        self.limits = limits or Limits()
        self._cache = GoldCache(cache, self.limits)
        self._pool = Pool(workers or usable_cpus(), self.limits)

    def __exit__(self, *_: object) -> None:
        self._pool.close()
        self._cache.close()

    def worker_pids(self) -> list[int]:
        return [process.pid for process in self._pool.processes]

    def execute(self, queries: Sequence[Query], progress: str | None = None) -> list[Execution]:
        """Run the queries; results in their order. Equal queries run once. `progress` labels a progress bar."""
        replies = self._each("execute", queries, progress)
        executions = []
        for status, payload, error in (replies[query] for query in queries):
            columns, rows = (payload[0], marshal.loads(payload[1])) if payload else ([], None)
            executions.append(Execution(Status(status), columns, rows, error))
        return executions

    def fingerprints(self, queries: Sequence[Query], progress: str | None = None) -> list[str | None]:
        """One digest per query, equal exactly if BIRD's comparison calls the results equal; None if it did not run."""
        replies = self._each("fingerprint", queries, progress)
        return [replies[query][1] for query in queries]

    def judge(
        self, pairs: Sequence[Pair], semantics: str = "spider", metrics: Sequence[str] = (), progress: str | None = None
    ) -> list[Judgement]:
        """Compare predictions with golds; verdicts by `semantics` (a key of `SEMANTICS`), in the order of `pairs`.

        `metrics` (a choice of METRICS) are reported as well. A match must hold on every `*.sqlite` file in a database's
        own folder (`NAME/NAME.sqlite`): Spider's test suites and our instances have several, BIRD's folders one.
        """
        if semantics not in SEMANTICS or not set(metrics) <= set(METRICS):
            raise ValueError(f"semantics: {list(SEMANTICS)}, metrics: {list(METRICS)}; not {semantics!r}, {metrics!r}")
        plan = plan_comparisons(pairs, dict.fromkeys((SEMANTICS[semantics], *metrics)))
        groups = (group for by_metric in plan.values() for group in by_metric.values())
        comparisons = list(dict.fromkeys(chain.from_iterable(groups)))
        _check(comparison.gold.database for comparison in comparisons)
        golds = self._golds(dict.fromkeys(comparison.gold for comparison in comparisons), progress)
        replies = self._compare(comparisons, golds, progress)
        return [judgement(plan[pair], semantics, metrics, golds, replies) for pair in pairs]

    def race(self, pairs: Sequence[Pair], repeats: int, progress: str | None = None) -> list[Race]:
        """For R-VES: `repeats` times per pair, time of the gold / time of the prediction.

        Meant for matching pairs whose database exists. These are wall times, so they differ from run to run.
        """
        tasks = [("race", pair.database, pair.predicted, pair.gold, repeats) for pair in pairs]
        return [
            Race(Status.OK, payload, "", "") if status == Status.OK else Race(Status(status), [], payload or "", error)
            for status, payload, error in self._run(tasks, progress, statements=2 * repeats + 2)
        ]

    def _each(self, kind: str, queries: Sequence[Query], progress: str | None) -> dict[Query, Reply]:
        unique = list(dict.fromkeys(queries))
        _check(query.database for query in unique)
        return dict(zip(unique, self._run([(kind, *query) for query in unique], progress), strict=True))

    def _golds(self, golds: Iterable[Query], progress: str | None) -> dict[Query, Reply]:
        """The result of each gold, from the cache or run now."""
        replies: dict[Query, Reply] = {}
        to_run: dict[Query, str] = {}  # with their keys in the cache
        for gold in golds:
            if not os.path.isfile(gold.database):
                replies[gold] = Status.MISSING_DATABASE, None, f"{gold.database}: no such file"
                continue
            key = self._cache.key(*gold)
            if reply := self._cache.get(key):
                replies[gold] = reply
            else:
                to_run[gold] = key
        new = dict(zip(to_run, self._run([("execute", *gold) for gold in to_run], progress and "golds"), strict=True))
        volatile = {gold for gold, (_, payload, _) in new.items() if payload and payload[2]}
        self._cache.put({to_run[gold]: reply for gold, reply in new.items() if gold not in volatile})
        return replies | new

    def _compare(
        self, comparisons: list[Comparison], golds: dict[Query, Reply], progress: str | None
    ) -> dict[tuple[Query, str], Reply]:
        """Run each distinct prediction once per database and compare it with all its golds that ran.

        It runs again for every `result_bytes` of golds, because a worker holds the golds of one task in memory. The
        payload of a reply maps comparators to values.
        """
        against: dict[Query, dict[Query, list[str]]] = {}  # prediction -> its golds -> comparators
        for gold, predicted, comparator in comparisons:
            if golds[gold][0] == Status.OK:
                prediction = Query(gold.database, predicted)
                against.setdefault(prediction, {}).setdefault(gold, []).append(comparator)
        parts: list[tuple[Query, dict[Query, list[str]]]] = []
        for prediction, comparators in against.items():
            room = 0
            for gold, names in comparators.items():
                size = len(golds[gold][1][1])
                if size > room:  # a larger gold is a part by itself
                    parts.append((prediction, {}))
                    room = self.limits.result_bytes
                parts[-1][1][gold] = names
                room -= size
        tasks = [
            ("compare", *prediction, *((golds[gold][1][1], tuple(names)) for gold, names in part.items()))
            for prediction, part in parts
        ]
        found: dict[tuple[Query, str], Reply] = {}
        for (prediction, part), (status, values, error) in zip(parts, self._run(tasks, progress), strict=True):
            for gold, value in zip(part, values or repeat(None), strict=False):
                found[gold, prediction.sql] = status, value, error
        return found

    def _run(self, tasks: Iterable[Task], progress: str | None, statements: int = 1) -> list[Reply]:
        tasks = [(kind, os.path.abspath(database), *more) for kind, database, *more in tasks]
        if progress and sys.stderr.isatty():
            from tqdm import tqdm

            with tqdm(total=len(tasks), desc=progress, unit="query") as bar:
                replies = self._pool.run(tasks, bar.update, statements)
        else:
            replies = self._pool.run(tasks, statements=statements)
        for (_, database, *_), (_, _, error) in zip(tasks, replies, strict=True):
            if error in (_CORRUPT, f"{database}: {_CORRUPT}"):  # not the statement's fault, so it gets no verdict
                raise InputError(f"{database}: damaged ({_CORRUPT}); fetch or build it again")
        return replies


def _check(databases: Iterable[Path]) -> None:
    """Raise InputError for a file that is no SQLite database, or that has an unfinished journal.

    SQLite accepts an empty file as a database.
    """
    for database in dict.fromkeys(databases):
        check_journals(database)
        if start_of(database) not in (SQLITE_MAGIC, b""):
            raise InputError(f"{database}: not a SQLite database; fetch or build it again")
