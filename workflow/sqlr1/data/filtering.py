"""From raw rows to rows worth training on: every drop has one reason, and is counted."""

import multiprocessing
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

from sqlglot import exp
from tqdm import tqdm

from sqlr1.data.similarity import QuestionIndex, Sketch, sketches
from sqlr1.database.backward import write_backward
from sqlr1.database.sql import is_volatile, may_depend_on_order, normal_form, parse, to_sql, without_literals
from sqlr1.database.tie_probes import (
    fault,
    limited_blocks,
    own_rows,
    parts_ties,
    probe,
    same_result,
    unmentioned_value,
)
from sqlr1.records import Question
from sqlr1.sandbox import Executor, Limits, Query, Status

REASONS = (
    "not_parsed", "not_select", "non_deterministic",
    "contaminated_database", "contaminated_sql", "contaminated_question", "value_not_mentioned",
    "failed", "timed_out", "too_large", "empty", "all_null", "constant", "ties",
    "duplicate", "near_duplicate", "over_quota",
)  # fmt: skip
_BATCH = 16  # rows of a database in memory together, parsed and with their results: one may have 32 MiB
_WORTH_A_PROCESS = 1000  # starting processes takes as long as filtering about so many rows
_FAILURES = {Status.TIMED_OUT: "timed_out", Status.TOO_LARGE: "too_large"}


@dataclass(frozen=True)
class Benchmark:
    """What training rows must stay clear of: databases, questions, and gold SQL in normal form (literals kept).

    Names of databases are in lower case: one file system's `World_1` is the other's `world_1`.
    """

    db_ids: frozenset[str]
    questions: tuple[str, ...]
    sql: frozenset[str]

    @classmethod
    def of(cls, questions: Iterable[Question]) -> "Benchmark":
        """The benchmark made of these questions."""
        questions = list(questions)
        expressions = [parse(q.sql)[0] for q in questions]
        sql = frozenset(normal_form(e) for e in expressions if e)
        return cls(frozenset(q.db_id.lower() for q in questions), tuple(q.question for q in questions), sql)


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

    Databases are worked on one by one in `workers` processes, which look up the rows themselves: of a `RecordFile` few
    are ever in memory.
    """
    groups: dict[str, list[int]] = {}
    for number, row in enumerate(rows):
        groups.setdefault(row.db_id, []).append(number)
    tasks = [(numbers, paths[db_id]) for db_id, numbers in groups.items()]
    reasons: list[str | None] = [None] * len(rows)
    found = _in_processes(tasks, rows, benchmark, rules, limits, 1 if len(rows) < _WORTH_A_PROCESS else workers)
    for numbers, group in zip(groups.values(), found, strict=True):
        for number, reason in zip(numbers, group, strict=True):
            reasons[number] = reason
    return reasons


_Task = tuple[Sequence[int], Path]  # the numbers of the rows over one database, and its path
_filters: list["_Filter"] = []  # the one filter of a process


def _in_processes(
    tasks: list[_Task], rows: Sequence[Question], benchmark: Benchmark, rules: Rules, limits: Limits, workers: int
) -> Iterator[list[str | None]]:
    bar = partial(tqdm, total=len(tasks), desc="filter", unit="database", disable=None)
    if workers == 1:
        with Executor(workers=1, limits=limits) as executor:
            here = _Filter(rows, benchmark, rules, executor)
            yield from bar(here.reasons(*task) for task in tasks)
        return
    context = multiprocessing.get_context("spawn")
    given = (rows, benchmark, rules, limits)
    with ProcessPoolExecutor(workers, context, initializer=_start_process, initargs=given) as pool:
        yield from bar(pool.map(_work, tasks))


def _start_process(rows: Sequence[Question], benchmark: Benchmark, rules: Rules, limits: Limits) -> None:
    _filters.append(_Filter(rows, benchmark, rules, Executor(workers=1, limits=limits)))


def _work(task: _Task) -> list[str | None]:
    return _filters[0].reasons(*task)


@dataclass
class _Candidate:
    """A row on its way through the checks; `form` is its SQL's normal form, `result` what the probe returned."""

    row: Question
    reason: str | None = None
    expression: exp.Expression | None = None
    form: str = ""
    sketch: Sketch | None = None
    result: Sequence[tuple] = ()


@dataclass(frozen=True)
class _Database:
    """The database at `path`, and `folder` for a copy of it."""

    path: Path
    folder: Path

    @cached_property
    def backward(self) -> Path | None:
        """A copy that is read backwards, made when first needed; None where it would not serve."""
        copy = self.folder / self.path.name
        return copy if write_backward(self.path, copy) else None


class _Filter:
    """Finds the reasons to drop rows, one database at a time."""

    def __init__(self, rows: Sequence[Question], benchmark: Benchmark, rules: Rules, executor: Executor) -> None:
        self._rows = rows
        self._benchmark = benchmark
        self._rules = rules
        self._executor = executor
        self._contaminated = QuestionIndex(rules.contamination)
        for sketch in sketches(benchmark.questions):
            self._contaminated.add(sketch)

    def reasons(self, numbers: Sequence[int], path: Path) -> list[str | None]:
        """The reason to drop each of these rows, all over the database at `path`, or None."""
        kept = _Kept(self._rules)
        found: list[str | None] = []
        with tempfile.TemporaryDirectory() as folder:
            results = partial(self._results, path)
            ties = partial(self._ties, _Database(path, Path(folder)))
            checks = (self._static, self._contaminations, results, ties, kept.repetitions)
            for start in range(0, len(numbers), _BATCH):
                batch = [_Candidate(self._rows[number]) for number in numbers[start : start + _BATCH]]
                for check in checks:  # cheap ones first, each for what those before it leave
                    left = [candidate for candidate in batch if not candidate.reason]
                    for candidate, reason in zip(left, check(left), strict=True):
                        candidate.reason = reason
                found += [candidate.reason for candidate in batch]
        return found

    def _static(self, candidates: list[_Candidate]) -> Iterator[str | None]:
        for candidate in candidates:
            candidate.expression, reason = parse(candidate.row.sql)
            yield reason or self._static_fault(candidate)

    def _static_fault(self, candidate: _Candidate) -> str | None:
        row, expression = candidate.row, candidate.expression
        if row.db_id.lower() in self._benchmark.db_ids:
            return "contaminated_database"
        if is_volatile(expression):
            return "non_deterministic"
        candidate.form = normal_form(expression.copy())
        if candidate.form in self._benchmark.sql:
            return "contaminated_sql"
        # People say "females" for 'F'; only questions that were generated here, from a template, have to quote values.
        unsaid = row.template and unmentioned_value(row, expression)
        return "value_not_mentioned" if unsaid else None

    def _contaminations(self, candidates: list[_Candidate]) -> Iterator[str | None]:
        for candidate, sketch in zip(candidates, sketches(c.row.question for c in candidates), strict=True):
            candidate.sketch = sketch
            yield "contaminated_question" if self._contaminated.has_similar(sketch) else None

    def _results(self, path: Path, candidates: list[_Candidate]) -> Iterator[str | None]:
        """What is wrong with the results. Questions from elsewhere may leave the order of ties open."""
        probed = [bool(c.row.template or c.expression.args.get("limit")) for c in candidates]
        sql = [to_sql(probe(c.expression)) if p else c.row.sql for c, p in zip(candidates, probed, strict=True)]
        executions = self._executor.execute([Query(path, text) for text in sql])
        for candidate, execution in zip(candidates, executions, strict=True):
            candidate.result = execution.rows
            if execution.status != Status.OK:
                yield _FAILURES.get(execution.status, "failed")
            else:
                yield fault(candidate.expression, execution.rows)

    def _ties(self, database: _Database, candidates: list[_Candidate]) -> list[str | None]:
        """`ties` where the order in which tables are read, or ties in an inner block, may decide the result."""
        doubtful = [c for c in candidates if may_depend_on_order(c.expression)]
        tied = (*self._tied_inside(database.path, doubtful), *self._changed_backwards(database, doubtful))
        found = {id(candidate) for candidate in tied}
        return ["ties" if id(candidate) in found else None for candidate in candidates]

    def _tied_inside(self, path: Path, candidates: list[_Candidate]) -> Iterator[_Candidate]:
        """Those with an inner block that takes some of equal rows; correlated ones, which do not run alone, pass."""
        blocks = [(candidate, block) for candidate in candidates for block in limited_blocks(candidate.expression)]
        executions = self._executor.execute([Query(path, to_sql(probe(block))) for _, block in blocks])
        for (candidate, block), execution in zip(blocks, executions, strict=True):
            if execution.status == Status.OK and parts_ties(block, execution.rows):
                yield candidate

    def _changed_backwards(self, database: _Database, candidates: list[_Candidate]) -> Iterator[_Candidate]:
        """Those with another result when the tables are read backwards."""
        copy = database.backward if candidates else None
        if not copy:
            return
        executions = self._executor.execute([Query(copy, candidate.row.sql) for candidate in candidates])
        for candidate, execution in zip(candidates, executions, strict=True):
            own = own_rows(candidate.expression, candidate.result)
            if execution.status == Status.OK and not same_result(candidate.expression, own, execution.rows):
                yield candidate


class _Kept:
    """The rows of a database that are kept so far, as far as later ones must not repeat them."""

    def __init__(self, rules: Rules) -> None:
        self._most = rules.max_per_sql
        self._forms: Counter[str] = Counter()
        self._questions = QuestionIndex(rules.near_duplicate)

    def repetitions(self, candidates: list[_Candidate]) -> Iterator[str | None]:
        """What each candidate repeats; those that repeat nothing are kept."""
        for candidate in candidates:
            form = without_literals(candidate.form)
            if self._forms[form] >= self._most:
                yield "duplicate"
            elif self._questions.has_similar(candidate.sketch):
                yield "near_duplicate"
            else:
                self._forms[form] += 1
                self._questions.add(candidate.sketch)
                yield None
