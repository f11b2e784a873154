"""Questions over one database: plans are drawn, written as SQL and English, executed, kept if the result is good."""

import hashlib
import random
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import sqlglot
from sqlglot import exp

from sqlgen.english import HIDING, Speaker, plain, surface
from sqlgen.shapes.catalogue import SHAPES, Plan, Shape, draw, has_one_group, sql_of, topic_of, wording_of
from sqlgen.speakable import SpeakableDatabase
from sqlgen.styles import in_style
from sqlr1.data.reasoning import trace
from sqlr1.database.determinism import rejection_reason, tie_probe
from sqlr1.database.sql import sql_class, to_sql
from sqlr1.records import SQL_CLASSES, Question
from sqlr1.sandbox import Executor, Query, Status

_BATCH = 64
_PATIENCE = 8  # a database is given up after so many batches without a new row
_LITERAL = re.compile(r"'(?:[^']|'')*'|\b\d+(?:\.\d+)?\b")
_PLANS = 8  # attempts to find a plan with a threshold that a vague question can hide
_WORDINGS = 30  # attempts to word a plan within the wanted templates


@dataclass(frozen=True)
class Manner:
    """How questions are worded: shares of the styles, reasoning length, and only or no held-out templates."""

    styles: Mapping[str, float]
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


def sql_key(sql: str) -> str:
    """The SQL up to literals: two rows of a database never share it."""
    return _LITERAL.sub("?", sql)


def generate(
    db: SpeakableDatabase,
    db_id: str,
    quotas: Mapping[str, int],
    manner: Manner,
    seed: int,
    executor: Executor,
    taken: Sequence[str] = (),
) -> Iterator[Question]:
    """Up to `quotas[class]` questions of each class, determined by `db_id`, database content, settings and `seed`.

    `taken` are the `sql_key`s of rows made before: they are not made again, and new ids are numbered after theirs.
    """
    rng = random.Random(f"{seed}:{db_id}:{manner.held_out}" + (f":{len(taken)}" if taken else ""))
    wanted = Counter({name: quotas.get(name, 0) for name in SQL_CLASSES})
    seen = set(taken)
    number = len(taken)
    failures = 0 if db.tables else _PATIENCE
    while wanted.total() and failures < _PATIENCE:
        before = number
        drafts = _drafts(db, wanted, manner, rng, seen)
        for draft in _valid(db.profile.schema.path, drafts, executor):
            row = _worded(db, f"{db_id}-{number:05d}", db_id, draft, manner, rng)
            if row and wanted[row.sql_class] > 0:
                wanted[row.sql_class] -= 1
                number += 1
                yield row
        failures = 0 if number > before else failures + 1


def _drafts(
    db: SpeakableDatabase, wanted: Counter[str], manner: Manner, rng: random.Random, seen: set[str]
) -> list[_Draft]:
    """A batch of drafts of the wanted classes; adds their SQL, up to literals, to `seen`."""
    drafts = []
    for _ in range(_BATCH):
        shapes = SHAPES[rng.choices(list(wanted), list(wanted.values()))[0]]
        shape: Shape = rng.choices(list(shapes), list(shapes.values()))[0]
        style = rng.choices(list(manner.styles), list(manner.styles.values()))[0]
        plan = _plan(db, shape, style, rng)
        if plan is None:
            continue
        sql = sql_of(plan)
        key = sql_key(sql)
        if key in seen:
            continue
        expression = sqlglot.parse_one(sql, read="sqlite")
        name = sql_class(expression)
        if wanted[name] > 0:
            seen.add(key)
            drafts.append(_Draft(shape.__name__, style, plan, sql, expression, name))
    return drafts


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


def _valid(path: Path, drafts: list[_Draft], executor: Executor) -> list[_Draft]:
    """The drafts whose results are worth learning from."""
    executions = executor.execute([Query(path, to_sql(tie_probe(draft.expression))) for draft in drafts])
    return [
        draft
        for draft, execution in zip(drafts, executions, strict=True)
        if execution.status == Status.OK
        and not rejection_reason(draft.expression, execution.rows)
        and not has_one_group(draft.plan, execution.rows)
    ]


def _worded(
    db: SpeakableDatabase, identity: str, db_id: str, draft: _Draft, manner: Manner, rng: random.Random
) -> Question | None:
    """The draft as a question whose surface template is (not) held out; None when no attempt gives one."""
    for _ in range(_WORDINGS):
        speaker = Speaker(db.names, rng, draft.style)
        wording = wording_of(draft.plan, speaker)
        text = in_style(speaker, draft.style, wording, topic_of(draft.plan, speaker))
        template = f"{draft.shape}: {surface(text)}"
        # `text` is one of several wordings: explain only the words that it contains.
        evidence = [meaning for hidden, meaning in speaker.evidence.items() if hidden in plain(text)]
        if held_out(template) == manner.held_out and bool(evidence) == (draft.style in HIDING):
            return Question(
                id=identity,
                db_id=db_id,
                question=plain(text),
                sql=draft.sql,
                evidence="; ".join(evidence),
                reasoning=trace(draft.expression, manner.reasoning, plain(wording.phrase)),
                sql_class=draft.sql_class,
                style=draft.style,
                template=template,
            )
    return None
