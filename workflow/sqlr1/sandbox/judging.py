"""From pairs and metrics to the comparisons that the workers do, and from their replies to verdicts."""

import logging
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from sqlr1.database.files import SQLITE_MAGIC, start_of
from sqlr1.sandbox.protocol import Judgement, Pair, Query, Reply, Status, Verdict
from sqlr1.sql_tokens import COMMENT, FLAGS, QUOTED

logger = logging.getLogger(__name__)
# The metric that decides the verdict: Spider's comparison, the same with every DISTINCT kept, or BIRD's.
SEMANTICS = {"spider": "spider_exec", "spider_keep_distinct": "spider_exec_keep_distinct", "bird": "bird_ex"}
# `soft_f1` is BIRD's graded metric.
METRICS = ("spider_exec", "spider_exec_keep_distinct", "bird_ex", "soft_f1")
_GOLD_FAULTS = {Status.MISSING_DATABASE: Verdict.MISSING_DATABASE, Status.TIMED_OUT: Verdict.GOLD_TIMED_OUT}
# Literals, quoted names and comments are matched first, so that keywords inside them are ignored.
_BLANK = rf"(?: \s | {COMMENT} )++"
_PIECE = re.compile(rf"{QUOTED} | (?P<blank>{_BLANK})", FLAGS)
# IS [NOT] DISTINCT FROM is an operator: its DISTINCT is part of the match that begins with IS.
_DISTINCT = re.compile(
    rf"{QUOTED} | {_BLANK} | \bIS\b{_BLANK}(?:NOT\b{_BLANK})?DISTINCT\b | (?P<distinct>\bDISTINCT\b)", FLAGS
)
_CURRENT_YEAR = re.compile(r"YEAR\s*\(\s*CURDATE\s*\(\s*\)\s*\)", re.IGNORECASE)


class Comparison(NamedTuple):
    """One prediction against one gold by one comparator (a key of `worker.COMPARATORS`)."""

    gold: Query
    predicted: str
    comparator: str


# The comparisons that decide a metric, which must all succeed: one for each instance of the database.
ByMetric = dict[str, list[Comparison]]


def plan_comparisons(pairs: Iterable[Pair], metrics: Iterable[str]) -> dict[Pair, ByMetric]:
    """The comparisons for each pair; none if its database is missing."""
    files = {database: instances(database) for database in {pair.database for pair in pairs} if database}
    plan: dict[Pair, ByMetric] = {}
    for pair in dict.fromkeys(pairs):
        plan[pair] = {}
        for metric in metrics if pair.database else ():
            gold, *rest = _statements(pair, metric)
            plan[pair][metric] = [Comparison(Query(path, gold), *rest) for path in files[pair.database]]
    return plan


def judgement(
    by_metric: ByMetric,
    semantics: str,
    metrics: Iterable[str],
    golds: Mapping[Query, Reply],
    replies: Mapping[tuple[Query, str], Reply],
) -> Judgement:
    """The judgement on a pair by the replies to its comparisons. A metric whose gold could not be run is left out."""
    if not by_metric:
        return Judgement(Verdict.MISSING_DATABASE, {}, "the database is missing")
    decided = {metric: _decide(comparisons, golds, replies) for metric, comparisons in by_metric.items()}
    verdict, _, error = decided[SEMANTICS[semantics]]
    values = {m: decided[m][1] for m in metrics if not decided[m][0].is_gold_fault}
    deciding, alone = by_metric[SEMANTICS[semantics]], None
    if len(deciding) > 1 and not verdict.is_gold_fault:
        alone = _decide(deciding[:1], golds, replies)[0] == Verdict.MATCH
    return Judgement(verdict, values, error, alone)


def _decide(
    comparisons: list[Comparison], golds: Mapping[Query, Reply], replies: Mapping[tuple[Query, str], Reply]
) -> tuple[Verdict, float, str]:
    """Verdict, value 0..1 and error of one metric. Golds are checked first: their fault is never the prediction's."""
    for comparison in comparisons:
        status, _, error = golds[comparison.gold]
        if status != Status.OK:
            return _GOLD_FAULTS.get(status, Verdict.GOLD_FAILED), 0.0, error
    value = 1.0
    for comparison in comparisons:
        status, values, error = replies[comparison.gold, comparison.predicted]
        if status != Status.OK:
            return Verdict(status), 0.0, error
        value = min(value, values[comparison.comparator])
    return Verdict.MATCH if value == 1.0 else Verdict.MISMATCH, value, ""


def instances(database: Path) -> list[Path]:
    """The files on which a match must hold: the database itself, then all other `*.sqlite` in its own folder.

    A file beside it that is no SQLite database is logged and left out.
    """
    found = [database]
    folder = database.parent
    for path in sorted(folder.glob("*.sqlite")) if folder.name == database.stem else ():
        if path.name != database.name and start_of(path) == SQLITE_MAGIC:
            found.append(path)
        elif path.name != database.name:
            logger.warning("%s: not a SQLite database, not used as an instance of the one beside it", path)
    return found


def _statements(pair: Pair, metric: str) -> tuple[str, str, str]:
    """The gold and the prediction as the metric's official evaluator runs them, and its comparator."""
    if metric in ("bird_ex", "soft_f1"):
        return pair.gold, pair.predicted, "bird" if metric == "bird_ex" else metric
    gold, predicted = mend(pair.gold), mend(pair.predicted)
    if metric == "spider_exec":
        gold, predicted = remove_distinct(without_tail(gold)), remove_distinct(without_tail(predicted))
    return gold, predicted, "ordered" if is_ordered(gold) else "unordered"


def mend(sql: str) -> str:
    """Spider's corrections of predictions and golds: `> =` becomes `>=`, and `YEAR(CURDATE())` becomes 2020.

    >>> mend("SELECT a FROM t WHERE a > = YEAR(CURDATE())")
    'SELECT a FROM t WHERE a >= 2020'
    """
    for broken, whole in (("> =", ">="), ("< =", "<="), ("! =", "!=")):
        sql = sql.replace(broken, whole)
    return _CURRENT_YEAR.sub("2020", sql)


def remove_distinct(sql: str) -> str:
    """Drop every DISTINCT keyword, as Spider's evaluator does by default, but not that of `IS DISTINCT FROM`.

    >>> remove_distinct("SELECT count(DISTINCT a) FROM t WHERE b = 'distinct'")
    "SELECT count( a) FROM t WHERE b = 'distinct'"
    """
    if "distinct" not in sql.lower():
        return sql
    return _DISTINCT.sub(lambda match: "" if match["distinct"] else match[0], sql)


def without_tail(sql: str) -> str:
    """Drop the semicolons, and a code fence after them, at the end: Spider's evaluator runs what is before the first.

    >>> without_tail("SELECT 1;;"), without_tail("SELECT 1; ```"), without_tail("SELECT 1; SELECT 2")
    ('SELECT 1', 'SELECT 1', 'SELECT 1; SELECT 2')
    """
    whole = sql.rstrip().removesuffix("```").rstrip()
    return whole.rstrip("; \t\r\n\f") if whole.endswith(";") else sql


def is_ordered(gold: str) -> bool:
    """Spider's rule: the order of rows matters if the gold contains "order by" anywhere, even in a subquery."""
    return "order by" in gold.lower()


def on_one_line(sql: str) -> str:
    """The same statement without line breaks, tabs and comments, for the official text formats.

    >>> on_one_line("SELECT a -- the name\\nFROM t")
    'SELECT a FROM t'
    """

    def flattened(token: re.Match[str]) -> str:
        text = token[0]
        if token["blank"]:
            return " "
        if text.startswith("'"):
            for code in (9, 10, 13):
                text = text.replace(chr(code), f"'||char({code})||'")
            return text
        return re.sub(r"[\t\r\n]", " ", text)  # a quoted name, or an unclosed one

    return _PIECE.sub(flattened, sql).strip()
