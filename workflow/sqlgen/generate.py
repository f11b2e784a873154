"""Questions over one database: plans are drawn, written as SQL and English, executed, kept if the result is good."""

import hashlib
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

import sqlglot
from sqlglot import exp

from sqlgen.english import HIDING, Speaker, plain, surface
from sqlgen.shapes.catalogue import SHAPES, Plan, Shape, draw, has_one_group, sql_of, unfiltered, wording_of
from sqlgen.speakable import SpeakableDatabase
from sqlgen.wording import in_style
from sqlr1.data.reasoning import trace
from sqlr1.database.determinism import rejection_reason, same_result, tie_orders
from sqlr1.database.sql import sql_class, to_sql, without_literals
from sqlr1.records import SQL_CLASSES, Question
from sqlr1.sandbox import Executor, Query, Status

T = TypeVar("T")
_BATCH = 64
_CHUNK = 16  # drafts executed at a time
_PATIENCE = 8  # a database is given up after so many batches without a new row
_PLANS = 8  # attempts to find a plan with a threshold that a vague question can hide
_WORDINGS = 30  # attempts to word a plan within the wanted templates


@dataclass(frozen=True)
class GenerationRequest:
    """What to generate: `total` questions, with shares of the SQL classes and of the question styles.

    `reasoning` is the length of the traces, short or long. `held_out` uses only the tenth of the question templates
    that is kept for the built-in benchmark; otherwise only the others are used.
    """

    total: int
    classes: Mapping[str, float]
    styles: Mapping[str, float]
    seed: int
    reasoning: str = "short"
    held_out: bool = False


@dataclass(frozen=True)
class _Draft:
    """A plan whose SQL is new, not yet executed or put into words."""

    shape: str
    style: str
    plan: Plan
    sql: str
    expression: exp.Expression
    sql_class: str


def held_out(template: str) -> bool:
    """Whether a surface template belongs to the tenth that only the built-in benchmark uses."""
    return hashlib.sha256(template.encode()).digest()[0] % 10 == 0


def generate_over(
    db: SpeakableDatabase,
    db_id: str,
    quotas: Mapping[str, int],
    request: GenerationRequest,
    executor: Executor,
    taken: Sequence[str] = (),
) -> Iterator[Question]:
    """Up to `quotas[class]` questions of each class over one database, determined by its content and the arguments.

    No two have the same SQL up to literals, nor that of `taken`, the rows made before; ids are numbered after theirs.
    """
    rng = random.Random(f"{request.seed}:{db_id}:{request.held_out}" + (f":{len(taken)}" if taken else ""))
    wanted = Counter({name: quotas.get(name, 0) for name in SQL_CLASSES})
    seen, number, path = set(taken), len(taken), db.profile.schema.path
    failures = 0 if db.tables else _PATIENCE
    while wanted.total() and failures < _PATIENCE:
        before = number
        for draft in _answerable(path, _drafts(db, wanted, request.styles, rng, seen), executor):
            row = _question(db, f"{db_id}-{number:05d}", db_id, draft, request, rng)
            if row and wanted[row.sql_class] > 0:
                wanted[row.sql_class] -= 1
                number += 1
                yield row
                if not wanted.total():
                    return
        failures = 0 if number > before else failures + 1


def _answerable(path: Path, drafts: Iterator[_Draft], executor: Executor) -> Iterator[_Draft]:
    """The drafts with a result that says something, which ties do not decide and each condition changes.

    A condition that changes nothing, such as "that have some song" where all singers have songs, is not said.
    """
    while chunk := list(islice(drafts, _CHUNK)):
        both = [[Query(path, sql) for sql in _both_orders(draft)] for draft in chunk]
        executions = executor.execute([first for first, _ in both])
        found = dict(zip((first for first, _ in both), executions, strict=True))
        good = [
            (draft, execution.rows, Query(path, unfiltered(draft.plan)), other)
            for draft, (_, other), execution in zip(chunk, both, executions, strict=True)
            if execution.status == Status.OK
            and not rejection_reason(draft.expression, execution.rows)
            and not has_one_group(draft.plan, execution.rows)
        ]
        queries = [query for *_, whole, other in good for query in (whole, other) if query.sql and query not in found]
        found |= dict(zip(queries, executor.execute(queries), strict=True))
        for draft, rows, whole, other in good:
            everything = found[whole].rows or () if whole.sql else ()
            loose = len(everything) == len(rows) and Counter(everything) == Counter(rows)
            tied = found[other].status != Status.OK or not same_result(rows, found[other].rows, ordered=True)
            if not loose and not tied:
                yield draft


def _both_orders(draft: _Draft) -> Iterable[str]:
    """The SQL with ties in its order broken both ways; twice the same if there is no order."""
    if " ORDER BY " not in draft.sql:
        return draft.sql, draft.sql
    return map(to_sql, tie_orders(draft.expression))


def _drafts(
    db: SpeakableDatabase, wanted: Counter[str], styles: Mapping[str, float], rng: random.Random, seen: set[str]
) -> Iterator[_Draft]:
    """A batch of drafts of the wanted classes; adds their SQL, up to literals, to `seen`.

    All of them are drawn at once, but parsed one by one: the caller may have enough before the last.
    A CTE with the name of a table would be read in its place.
    """
    tables = {table.name.lower() for table in db.profile.schema.tables}
    classes = {name for name in wanted if wanted[name] > 0}
    drawn = []
    for _ in range(_BATCH):
        shape, style = _drawn(SHAPES[_drawn(wanted, rng)], rng), _drawn(styles, rng)
        drawn.append((shape.__name__, style, _plan(db, shape, style, rng)))
    for shape, style, plan in drawn:
        sql = sql_of(plan) if plan else ""
        if not plan or without_literals(sql) in seen:
            continue
        expression = sqlglot.parse_one(sql, read="sqlite")
        name = sql_class(expression)
        if name in classes and not any(cte.alias.lower() in tables for cte in expression.find_all(exp.CTE)):
            seen.add(without_literals(sql))
            yield _Draft(shape, style, plan, sql, expression, name)


def _drawn(weights: Mapping[T, float], rng: random.Random) -> T:
    return rng.choices(list(weights), list(weights.values()))[0]


def _plan(db: SpeakableDatabase, shape: Shape, style: str, rng: random.Random) -> Plan | None:
    """A plan; for a style that hides thresholds, one that has a threshold to hide."""
    if style not in HIDING:
        return draw(shape, db, rng)
    for _ in range(_PLANS):
        plan = draw(shape, db, rng)
        speaker = Speaker(db.names, rng, style)
        if plan:
            wording_of(plan, speaker)  # fills `speaker.evidence`
            if speaker.evidence:
                return plan
    return None


def _question(
    db: SpeakableDatabase, identity: str, db_id: str, draft: _Draft, request: GenerationRequest, rng: random.Random
) -> Question | None:
    """The draft as a question whose surface template is (not) held out; None when no attempt gives one."""
    for _ in range(_WORDINGS):
        speaker = Speaker(db.names, rng, draft.style)
        wording = wording_of(draft.plan, speaker)
        text = in_style(speaker, draft.style, wording, speaker.subjects(getattr(draft.plan, "base", draft.plan)))
        template = f"{draft.shape}: {surface(text)}"
        # `text` is one of several wordings: explain only the words that it contains.
        evidence = [meaning for hidden, meaning in speaker.evidence.items() if hidden in plain(text)]
        if held_out(template) == request.held_out and bool(evidence) == (draft.style in HIDING):
            reasoning = trace(draft.expression, request.reasoning, plain(wording.phrase))
            about = {"sql_class": draft.sql_class, "style": draft.style, "template": template}
            return Question(identity, db_id, plain(text), draft.sql, "; ".join(evidence), reasoning, **about)
    return None
