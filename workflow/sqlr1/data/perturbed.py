"""Benchmark questions over databases with perturbed instances: only those that have one right answer on each."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import sqlglot
from sqlglot import exp

from sqlr1.database.determinism import same_result, tie_orders
from sqlr1.database.sql import to_sql
from sqlr1.records import Question
from sqlr1.sandbox import Execution, Executor, Query, Status


def determined_on_all(
    questions: Sequence[Question],
    instances: Mapping[str, Sequence[Path]],
    executor: Executor,
    progress: str | None = "instances",
) -> list[Question]:
    """The questions whose gold runs and is not decided by ties on any of the instances of their database.

    Without LIMIT, only generated questions (with a template) must fix the order of ties. Ties of a query with LIMIT
    cannot be seen if it has DISTINCT or `*` outside: it is left out. What `tie_orders` does not break is not seen.
    """
    unseen: set[int] = set()
    runs: list[tuple[int, bool, Query, Query]] = []  # question, whether the order of rows counts, both orders of ties
    for number, question in enumerate(questions):
        expression = sqlglot.parse_one(question.sql, read="sqlite")
        limit = expression.args.get("limit")
        distinct = isinstance(expression, exp.Select) and expression.args.get("distinct")
        if limit and (distinct or expression.is_star):
            unseen.add(number)
            continue
        first, last = map(to_sql, tie_orders(expression))
        ordered = bool(question.template or limit)
        runs += [(number, ordered, Query(path, first), Query(path, last)) for path in instances[question.db_id]]
    queries = [query for *_, first, last in runs for query in (first, last)]
    found = dict(zip(queries, executor.execute(queries, progress), strict=True))

    def agree(ordered: bool, first: Execution, last: Execution) -> bool:
        return first.status == last.status == Status.OK and same_result(first.rows, last.rows, ordered)

    bad = unseen | {n for n, ordered, first, last in runs if not agree(ordered, found[first], found[last])}
    return [question for number, question in enumerate(questions) if number not in bad]


def balanced(questions: Sequence[Question], wanted: Mapping[str, int]) -> list[Question]:
    """At most `wanted[class]` questions of each class, as evenly over the databases as they allow; order kept."""
    seen, left = Counter[tuple[str, str]](), Counter(wanted)
    turns, kept = [], []  # (how many of its class its database had so far, place in the list)
    for place, question in enumerate(questions):
        seen[question.sql_class, question.db_id] += 1
        turns.append((seen[question.sql_class, question.db_id], place))
    for _, place in sorted(turns):
        if left[questions[place].sql_class] > 0:
            left[questions[place].sql_class] -= 1
            kept.append(place)
    return [questions[place] for place in sorted(kept)]
