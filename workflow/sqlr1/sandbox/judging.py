"""From pairs and metrics to the comparisons the workers do, and from their replies back to verdicts."""

import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from sqlr1.sandbox.protocol import Reply
from sqlr1.sandbox.rewriting import is_ordered, mend, remove_distinct
from sqlr1.sandbox.verdicts import Judgement, Pair, Status, Verdict

logger = logging.getLogger(__name__)
# What each official evaluator calls right; `soft_f1` is BIRD's graded metric.
SEMANTICS = {"spider": "spider_exec", "bird": "bird_ex"}
METRICS = ("spider_exec", "spider_exec_keep_distinct", "bird_ex", "soft_f1")
SQLITE_MAGIC = b"SQLite format 3\0"


class Gold(NamedTuple):
    """A gold statement on one database file."""

    database: Path
    sql: str


class Comparison(NamedTuple):
    """One prediction against one gold by one comparator (a key of `worker.COMPARATORS`)."""

    gold: Gold
    predicted: str
    comparator: str


def instances(database: Path) -> list[Path]:
    """The files on which a match must hold: all `*.sqlite` in the database's own folder, itself first."""
    if database.parent.name != database.stem:
        return [database]
    others = sorted(path for path in database.parent.glob("*.sqlite") if path.name != database.name)
    return [database, *filter(_is_instance, others)]


def _is_instance(path: Path) -> bool:
    if start_of(path) == SQLITE_MAGIC:
        return True
    logger.warning("%s: not a SQLite database, and so not run as an instance of the one beside it", path)
    return False


def start_of(path: Path) -> bytes:
    """What stands in the file where SQLite writes `SQLITE_MAGIC`; b"" where there is no such file."""
    if not os.path.isfile(path):
        return b""
    with open(path, "rb") as file:
        return file.read(len(SQLITE_MAGIC))


class Plan:
    """The comparisons that decide the metrics of pairs: all those of a metric must hold."""

    def __init__(self, pairs: Iterable[Pair], semantics: str, metrics: Iterable[str]) -> None:
        self._verdict_metric = SEMANTICS[semantics]
        self._metrics = tuple(metrics)
        self._instances: dict[Path, list[Path]] = {}
        self._by_pair: dict[Pair, dict[str, list[Comparison]]] = {}
        for pair in pairs:
            if pair not in self._by_pair:
                wanted = {self._verdict_metric, *self._metrics} if pair.database else ()
                self._by_pair[pair] = {metric: self._decide(pair, metric) for metric in wanted}

    def _decide(self, pair: Pair, metric: str) -> list[Comparison]:
        gold, predicted, comparator = _statements(pair, metric)
        if pair.database not in self._instances:
            self._instances[pair.database] = instances(pair.database)
        return [Comparison(Gold(path, gold), predicted, comparator) for path in self._instances[pair.database]]

    def comparisons(self) -> list[Comparison]:
        """All of them, each once."""
        groups = (group for by_metric in self._by_pair.values() for group in by_metric.values())
        return list(dict.fromkeys(comparison for group in groups for comparison in group))

    def judge(self, pair: Pair, golds: Mapping[Gold, Reply], replies: Mapping[Comparison, Reply]) -> Judgement:
        """The judgement on a pair. A metric that the gold's own fault leaves undecided is left out."""
        by_metric = self._by_pair[pair]
        if not by_metric:
            return Judgement(Verdict.MISSING_DATABASE, {}, "the database is not there")
        decided = {metric: _decide(comparisons, golds, replies) for metric, comparisons in by_metric.items()}
        verdict, _, error = decided[self._verdict_metric]
        values = {m: decided[m][1] for m in self._metrics if not decided[m][0].is_gold_fault}
        return Judgement(verdict, values, error)


def _statements(pair: Pair, metric: str) -> tuple[str, str, str]:
    """The gold and the prediction as the metric runs them, and its comparator."""
    if metric in ("bird_ex", "soft_f1"):
        return pair.gold, pair.predicted, "bird" if metric == "bird_ex" else metric
    gold, predicted = mend(pair.gold), mend(pair.predicted)
    if metric == "spider_exec":
        gold, predicted = remove_distinct(gold), remove_distinct(predicted)
    return gold, predicted, "ordered" if is_ordered(gold) else "unordered"


def _decide(
    comparisons: list[Comparison], golds: Mapping[Gold, Reply], replies: Mapping[Comparison, Reply]
) -> tuple[Verdict, float, str]:
    """Verdict, value 0..1 and error of one metric. Golds come first: their fault is never the prediction's."""
    for comparison in comparisons:
        status, _, error = golds[comparison.gold]
        if status == Status.MISSING_DATABASE:
            return Verdict.MISSING_DATABASE, 0.0, error
        if status != Status.OK:
            return Verdict.GOLD_TIMED_OUT if status == Status.TIMED_OUT else Verdict.GOLD_FAILED, 0.0, error
    value = 1.0
    for comparison in comparisons:
        status, values, error = replies[comparison]
        if status != Status.OK:
            return Verdict(status), 0.0, error
        value = min(value, values[comparison.comparator])
    return Verdict.MATCH if value == 1.0 else Verdict.MISMATCH, value, ""
