"""From raw rows to rows worth training on: every drop has one reason, and is counted."""

import multiprocessing
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from sqlglot import exp
from tqdm import tqdm

from sqlr1.execution import Executor, Limits, Query, Status
from sqlr1.filtering.similarity import QuestionIndex, shingles, signatures
from sqlr1.filtering.sql import is_volatile, normal_form, parse
from sqlr1.records import Question
from sqlr1.synthesis.sql import to_sql
from sqlr1.synthesis.validation import fault, probe, unmentioned_value

REASONS = (
    "not_parsed", "not_select", "non_deterministic",
    "contaminated_database", "contaminated_sql", "contaminated_question", "value_not_mentioned",
    "failed", "timed_out", "too_large", "empty", "all_null", "constant", "ties",
    "duplicate", "near_duplicate", "over_quota",
)  # fmt: skip
_WORTH_A_PROCESS = 1000  # starting processes takes as long as filtering about so many rows
_FAILURES = {Status.TIMED_OUT: "timed_out", Status.TOO_LARGE: "too_large"}


@dataclass(frozen=True)
class Benchmark:
    """What training rows must stay clear of: databases, questions, and gold SQL in normal form (literals kept)."""

    db_ids: frozenset[str]
    questions: tuple[str, ...]
    sql: frozenset[str]

    @classmethod
    def of(cls, questions: Iterable[Question]) -> "Benchmark":
        """The benchmark made of these questions."""
        questions = list(questions)
        expressions = [parse(q.sql)[0] for q in questions]
        sql = frozenset(normal_form(e, literals=True) for e in expressions if e)
        return cls(frozenset(q.db_id for q in questions), tuple(q.question for q in questions), sql)


@dataclass(frozen=True)
class Rules:
    """What counts as a repetition.

    At most `max_per_sql` rows of a database have equal SQL up to literals and aliases. `near_duplicate` and
    `contamination` are the Jaccard similarities to a question of the same database, or of a benchmark, from which on a
    row is dropped.
    """

    max_per_sql: int = 1
    near_duplicate: float = 0.9
    contamination: float = 0.9


def filter_rows(
    rows: Sequence[Question],
    paths: Mapping[str, Path],
    benchmark: Benchmark,
    rules: Rules,
    limits: Limits,
    workers: int,
) -> list[str | None]:
    """For each row the reason to drop it (one of REASONS), or None. `paths` has the database of each row.

    Databases are worked on one by one, so that memory does not grow with the rows, in `workers` processes.
    """
    groups: dict[str, list[int]] = {}
    for number, row in enumerate(rows):
        groups.setdefault(row.db_id, []).append(number)
    tasks = [([rows[n] for n in numbers], paths[db_id]) for db_id, numbers in groups.items()]
    reasons: list[str | None] = [None] * len(rows)
    found = _in_processes(tasks, benchmark, rules, limits, 1 if len(rows) < _WORTH_A_PROCESS else workers)
    for numbers, group in zip(groups.values(), found, strict=True):
        for number, reason in zip(numbers, group, strict=True):
            reasons[number] = reason
    return reasons


_Task = tuple[list[Question], Path]
_filters: list["_Filter"] = []  # the one filter of a process


def _in_processes(
    tasks: list[_Task], benchmark: Benchmark, rules: Rules, limits: Limits, workers: int
) -> Iterator[list[str | None]]:
    bar = partial(tqdm, total=len(tasks), desc="filter", unit="database", disable=None)
    if workers == 1:
        with Executor(workers=1, limits=limits) as executor:
            here = _Filter(benchmark, rules, executor)
            yield from bar(here.reasons(*task) for task in tasks)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_start_process, initargs=(benchmark, rules, limits)) as pool:
        yield from bar(pool.map(_work, tasks))


def _start_process(benchmark: Benchmark, rules: Rules, limits: Limits) -> None:
    _filters.append(_Filter(benchmark, rules, Executor(workers=1, limits=limits)))


def _work(task: _Task) -> list[str | None]:
    return _filters[0].reasons(*task)


class _Filter:
    """Finds the reasons to drop rows, one database at a time."""

    def __init__(self, benchmark: Benchmark, rules: Rules, executor: Executor) -> None:
        self._benchmark = benchmark
        self._rules = rules
        self._executor = executor
        self._contaminated = QuestionIndex(rules.contamination)
        for signature in signatures([shingles(question) for question in benchmark.questions]):
            self._contaminated.add(signature)

    def reasons(self, rows: list[Question], path: Path) -> list[str | None]:
        """The reason to drop each row, or None; cheap checks first, execution for what they leave."""
        found = [self._static(row) for row in rows]
        reasons = [reason for reason, _ in found]
        expressions = [expression for _, expression in found]
        for number, signature in enumerate(signatures([shingles(row.question) for row in rows])):
            if not reasons[number] and self._contaminated.has_similar(signature):
                reasons[number] = "contaminated_question"
        left = [n for n, reason in enumerate(reasons) if not reason]
        for number, reason in zip(left, self._results(rows, expressions, left, path), strict=True):
            reasons[number] = reason
        left = [n for n, reason in enumerate(reasons) if not reason]
        for number, reason in zip(left, self._repeated(rows, expressions, left), strict=True):
            reasons[number] = reason
        return reasons

    def _static(self, row: Question) -> tuple[str | None, exp.Expression | None]:
        expression, reason = parse(row.sql)
        if expression is None:
            return reason, None
        if row.db_id in self._benchmark.db_ids:
            return "contaminated_database", expression
        if is_volatile(expression):
            return "non_deterministic", expression
        if self._benchmark.sql and normal_form(expression.copy(), literals=True) in self._benchmark.sql:
            return "contaminated_sql", expression
        # People say "females" for 'F'; only questions that were generated here, from a template, have to quote values.
        unsaid = row.template and unmentioned_value(row, expression)
        return "value_not_mentioned" if unsaid else None, expression

    def _results(
        self, rows: list[Question], expressions: list[exp.Expression], left: list[int], path: Path
    ) -> Iterator[str | None]:
        """What is wrong with the results. Ties count in generated rows only: people's golds are what they are."""
        human = [rows[n].style == "human" for n in left]
        sql = [rows[n].sql if h else to_sql(probe(expressions[n])) for n, h in zip(left, human, strict=True)]
        for number, execution in zip(left, self._executor.execute([Query(path, s) for s in sql]), strict=True):
            if execution.status != Status.OK:
                yield _FAILURES.get(execution.status, "failed")
            else:
                yield fault(expressions[number], execution.rows)

    def _repeated(
        self, rows: list[Question], expressions: list[exp.Expression], left: list[int]
    ) -> Iterator[str | None]:
        seen: Counter[str] = Counter()
        index = QuestionIndex(self._rules.near_duplicate)
        for number, signature in zip(left, signatures([shingles(rows[n].question) for n in left]), strict=True):
            form = normal_form(expressions[number])
            if seen[form] >= self._rules.max_per_sql:
                yield "duplicate"
            elif index.has_similar(signature):
                yield "near_duplicate"
            else:
                seen[form] += 1
                index.add(signature)
                yield None
