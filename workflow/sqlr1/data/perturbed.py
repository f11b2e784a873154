"""Benchmark questions over databases with perturbed instances: only those that have one right answer on each."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import sqlglot

from sqlr1.database.determinism import has_ties, limit_splits_ties, limited_blocks, tie_probe
from sqlr1.database.sql import to_sql
from sqlr1.records import Question
from sqlr1.sandbox import Executor, Query, Status


def determined_on_all(
    questions: Sequence[Question],
    instances: Mapping[str, Sequence[Path]],
    executor: Executor,
    progress: str | None = "instances",
) -> list[Question]:
    """The questions whose gold runs and is not decided by ties on any of the instances of their database.

    Without LIMIT, only generated questions (with a template) must fix the order of ties. Ties of a query with LIMIT
    cannot be seen if it has DISTINCT, `*` or a set operation outside: it is left out.
    """
    parsed = [sqlglot.parse_one(question.sql, read="sqlite") for question in questions]
    probes = [
        (number, path, block, has_ties if block is expression and fixed else limit_splits_ties)
        for number, (question, expression) in enumerate(zip(questions, parsed, strict=True))
        for fixed in [question.template or expression.args.get("limit")]
        for path in instances[question.db_id]
        for block in (expression, *limited_blocks(expression))
    ]
    executions = executor.execute([Query(path, to_sql(tie_probe(block))) for _, path, block, _ in probes], progress)
    unseen = {n for n, e in enumerate(parsed) if e.args.get("limit") and tie_probe(e) is e}
    bad = unseen | {
        number
        for (number, _, block, undetermined), execution in zip(probes, executions, strict=True)
        if execution.status != Status.OK or undetermined(block, execution.rows)
    }
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
