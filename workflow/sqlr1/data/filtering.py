"""Which rows are worth training on; each dropped row gets one reason."""

import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from sqlglot import exp
from tqdm import tqdm

from sqlr1.data.mentions import unmentioned_value
from sqlr1.data.perturbed import determined_on_all
from sqlr1.data.processes import WORTH_A_PROCESS, by_database, executor_processes
from sqlr1.data.similarity import QuestionIndex, Sketch, sketches
from sqlr1.database import determinism
from sqlr1.database.determinism import is_volatile, may_depend_on_order
from sqlr1.database.instances import write_backward
from sqlr1.database.sql import normal_form, parse, to_sql, without_literals
from sqlr1.prompt import parse_response
from sqlr1.records import Question
from sqlr1.sandbox import Executor, Limits, Query, Status, instances
from sqlr1.strategies import STRATEGIES

if TYPE_CHECKING:
    from sqlr1.config import FilterRules

REASONS = (
    "no_gold", "not_parsed", "not_select", "response_not_parsed", "non_deterministic",
    "contaminated_database", "contaminated_sql", "contaminated_question", "value_not_mentioned",
    "failed", "timed_out", "too_large", "empty", "all_null", "constant", "ties",
    "undetermined", "duplicate", "near_duplicate", "over_quota",
)  # fmt: skip
_BATCH = 16  # rows in memory together, with their results, of up to 32 MiB each
_FAILURES = {Status.TIMED_OUT: "timed_out", Status.TOO_LARGE: "too_large"}


@dataclass(frozen=True)
class Benchmark:
    """What training rows must not contain: databases, questions, and gold SQL in normal form (with its literals).

    `forms` is gold SQL over databases that training may use, without its literals: there the same SQL with another
    literal is no new question. Database names are in lower case, because file systems differ in whether `World_1` and
    `world_1` are the same.
    """

    db_ids: frozenset[str]
    questions: tuple[str, ...]
    sql: frozenset[str]
    forms: frozenset[str] = frozenset()

    @classmethod
    def of(cls, questions: Iterable[Question], same_databases: Iterable[Question] = ()) -> "Benchmark":
        """The benchmark made of these questions, and of those whose databases training may use."""
        strict, own = list(questions), list(same_databases)
        sql, forms = (
            frozenset(normal_form(expression) for q in part if (expression := parse(q.sql)[0]))
            for part in (strict, own)
        )
        texts = tuple(q.question for q in strict + own)
        return cls(frozenset(q.db_id.lower() for q in strict), texts, sql, frozenset(map(without_literals, forms)))


def filter_rows(
    rows: Sequence[Question],
    paths: Mapping[str, Path],
    benchmark: Benchmark,
    rules: "FilterRules",
    limits: Limits,
    workers: int,
) -> list[str | None]:
    """For each row the reason to drop it (one of REASONS), or None. `paths` has the database of each row.

    Each of `workers` processes takes one database at a time and reads the rows itself. If `rows` is a `RecordFile`,
    only few of them are in memory.
    """
    groups = by_database(rows)
    tasks = [(numbers, paths[db_id]) for db_id, numbers in groups.items()]
    reasons: list[str | None] = [None] * len(rows)
    # Plain values: to unpickle the model, each process would load pydantic (8 MB).
    make = partial(_Filter, rows, benchmark, rules.model_dump())
    with executor_processes(make, limits, 1 if len(rows) < WORTH_A_PROCESS else workers) as run:
        found = tqdm(run(tasks), total=len(tasks), desc="filter", unit="database", disable=None)
        for numbers, group in zip(groups.values(), found, strict=True):
            for number, reason in zip(numbers, group, strict=True):
                reasons[number] = reason
    return reasons


@dataclass
class _Candidate:
    """A row with what the checks found out: its SQL's normal form, and `result`, its rows."""

    row: Question
    reason: str | None = None
    expression: exp.Expression | None = None
    form: str = ""
    sketch: Sketch | None = None
    result: Sequence[tuple] = ()


class _Filter:
    """Finds the reasons to drop rows, one database at a time."""

    def __init__(
        self, rows: Sequence[Question], benchmark: Benchmark, rules: Mapping[str, float], executor: Executor
    ) -> None:
        self._rows, self._benchmark, self._rules, self._executor = rows, benchmark, rules, executor
        self._contaminated = QuestionIndex(rules["contamination"])
        for sketch in sketches(benchmark.questions):
            self._contaminated.add(sketch)

    def __call__(self, task: tuple[Sequence[int], Path]) -> list[str | None]:
        """The reasons to drop rows, or None. `task` has the numbers of the rows over one database, and its path."""
        numbers, path = task
        found: list[str | None] = []
        with tempfile.TemporaryDirectory() as folder:
            backward = cache(lambda: write_backward(path, Path(folder) / path.name))  # copied when first needed
            results, ties = partial(self._results, path), partial(self._ties, path, backward)
            repetitions = partial(self._repetitions, Counter(), QuestionIndex(self._rules["near_duplicate"]))
            on_instances = partial(self._on_instances, instances(path)[1:] if self._rules["instances"] else [])
            checks = (partial(map, self._static), self._contaminations, results, ties, on_instances, repetitions)
            for start in range(0, len(numbers), _BATCH):
                batch = [_Candidate(self._rows[number]) for number in numbers[start : start + _BATCH]]
                for check in checks:  # cheap ones first, each on the rows that passed those before it
                    left = [candidate for candidate in batch if not candidate.reason]
                    for candidate, reason in zip(left, check(left), strict=True):
                        candidate.reason = reason
                found += [candidate.reason for candidate in batch]
        return found

    def _static(self, candidate: _Candidate) -> str | None:
        row = candidate.row
        if row.wrong_sql and not row.sql:
            return "no_gold"
        expression, reason = parse(row.sql)
        if expression is None:
            return reason
        if row.db_id.lower() in self._benchmark.db_ids:
            return "contaminated_database"
        taught = [parse_response(strategy.response(row)) for strategy in STRATEGIES.values() if strategy.response]
        if not all(response.well_formed and response.sql == row.sql.strip() for response in taught):
            return "response_not_parsed"  # three backticks or a tag inside the gold
        if is_volatile(expression):
            return "non_deterministic"
        candidate.expression, candidate.form = expression, normal_form(expression.copy())
        if candidate.form in self._benchmark.sql or without_literals(candidate.form) in self._benchmark.forms:
            return "contaminated_sql"
        # Only generated questions (with a template) must quote values: people say "females" for 'F'.
        return "value_not_mentioned" if row.template and unmentioned_value(row, expression) else None

    def _contaminations(self, candidates: list[_Candidate]) -> Iterator[str | None]:
        for candidate, sketch in zip(candidates, sketches(c.row.question for c in candidates), strict=True):
            candidate.sketch = sketch
            yield "contaminated_question" if self._contaminated.has_similar(sketch) else None

    def _results(self, path: Path, candidates: list[_Candidate]) -> Iterator[str | None]:
        executions = self._executor.execute([Query(path, candidate.row.sql) for candidate in candidates])
        for candidate, execution in zip(candidates, executions, strict=True):
            candidate.result = execution.rows
            if execution.status == Status.OK:
                yield determinism.rejection_reason(candidate.expression, execution.rows)
            else:
                yield _FAILURES.get(execution.status, "failed")

    def _ties(self, path: Path, backward: Callable[[], Path | None], candidates: list[_Candidate]) -> list[str | None]:
        """`ties` where the result changes when ties are broken otherwise, or when tables are read `backward`.

        Without LIMIT, only generated questions (with a template) must fix the order of ties.
        """
        found: list[tuple[_Candidate, bool, Query]] = []
        for candidate in candidates:
            order, limit = map(candidate.expression.args.get, ("order", "limit"))
            ordered = bool(order and (limit or candidate.row.template))
            doubtful = may_depend_on_order(candidate.expression)
            if ordered or doubtful:
                changed = (q for q in determinism.tie_orders(candidate.expression) if q != candidate.expression)
                found += [(candidate, ordered, Query(path, to_sql(query))) for query in changed]
            if doubtful and (copy := backward()):
                found.append((candidate, ordered, Query(copy, candidate.row.sql)))
        tied = set()
        executions = self._executor.execute([query for *_, query in found])
        for (candidate, ordered, _), execution in zip(found, executions, strict=True):
            same = determinism.same_result(candidate.result, execution.rows or (), ordered)
            if execution.status == Status.OK and not same:
                tied.add(id(candidate))
        return ["ties" if id(candidate) in tied else None for candidate in candidates]

    def _on_instances(self, others: Sequence[Path], candidates: list[_Candidate]) -> list[str | None]:
        """`undetermined` where the gold fails, or ties decide its result, on one of the `others`."""
        rows = [candidate.row for candidate in candidates]
        if not others or not rows:
            return [None] * len(rows)
        kept = {id(row) for row in determined_on_all(rows, {row.db_id: others for row in rows}, self._executor, None)}
        return [None if id(row) in kept else "undetermined" for row in rows]

    def _repetitions(
        self, forms: Counter[str], questions: QuestionIndex, candidates: list[_Candidate]
    ) -> Iterator[str | None]:
        """Reasons by the rows that were kept: their `forms` without literals, and their `questions`."""
        for candidate in candidates:
            form = without_literals(candidate.form)
            if forms[form] >= self._rules["max_per_sql"]:
                yield "duplicate"
            elif questions.has_similar(candidate.sketch):
                yield "near_duplicate"
            else:
                forms[form] += 1
                questions.add(candidate.sketch)
                yield None
