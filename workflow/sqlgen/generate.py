"""Questions over one database: plans drawn, written as SQL and English, executed, kept when the result is worth it."""

import hashlib
import random
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlglot import exp

from sqlgen.english import HIDING, Speaker, plain, surface
from sqlgen.shapes.catalogue import (
    SHAPES,
    Shape,
    SomePlan,
    expression_of,
    is_of_one_group,
    request_of,
    topic_of,
)
from sqlgen.styles import put
from sqlgen.world import World
from sqlr1.data.reasoning import trace
from sqlr1.database.sql import to_sql
from sqlr1.database.sql_features import sql_class
from sqlr1.database.tie_probes import rejection_reason, tie_probe
from sqlr1.records import SQL_CLASSES, Question
from sqlr1.sandbox import Executor, Query, Status

_BATCH = 64
_PATIENCE = 8  # batches without a new row before a database is given up
_LITERAL = re.compile(r"'(?:[^']|'')*'|\b\d+(?:\.\d+)?\b")  # rows are unique up to literals
_PLANS = 8  # attempts to find a plan with a threshold that a vague question can hide
_WORDINGS = 30  # attempts to word a plan within the wanted templates
DEFAULT_STYLES = {
    "interrogative": 0.34, "imperative": 0.3, "formal": 0.07, "colloquial": 0.07, "descriptive": 0.07, "concise": 0.06,
    "vague": 0.03, "metaphorical": 0.02, "dialogue": 0.04,
}  # fmt: skip


@dataclass(frozen=True)
class Manner:
    """How questions are worded: style shares, reasoning length, held-out templates only or none of them."""

    styles: Mapping[str, float]
    reasoning: str = "short"
    held_out: bool = False


@dataclass(frozen=True)
class _Draft:
    """A plan whose SQL is new, not yet executed or put into words."""

    shape: str
    style: str
    plan: SomePlan
    expression: exp.Expression
    sql: str
    sql_class: str


def held_out(template: str) -> bool:
    """Whether a surface template belongs to the tenth that only the built-in benchmark uses."""
    return hashlib.sha256(template.encode()).digest()[0] % 10 == 0


def sql_key(sql: str) -> str:
    """The SQL up to literals: two rows of a database never share it."""
    return _LITERAL.sub("?", sql)


def generate(
    world: World,
    db_id: str,
    quotas: Mapping[str, int],
    manner: Manner,
    seed: int,
    executor: Executor,
    taken: Sequence[str] = (),
) -> Iterator[Question]:
    """Up to `quotas[class]` questions of each class, determined by `db_id`, database content, settings and `seed`.

    `taken` are the `sql_key`s of rows made before: they are not made again, and ids go on after them.
    """
    rng = random.Random(f"{seed}:{db_id}:{manner.held_out}" + (f":{len(taken)}" if taken else ""))
    wanted = Counter({name: quotas.get(name, 0) for name in SQL_CLASSES})
    seen = set(taken)
    number = len(taken)
    barren = 0 if world.tables else _PATIENCE
    while wanted.total() and barren < _PATIENCE:
        before = number
        drafts = _drafts(world, wanted, manner, rng, seen)
        for draft in _valid(world.profile.schema.path, drafts, executor):
            row = _worded(world, f"{db_id}-{number:05d}", db_id, draft, manner, rng)
            if row and wanted[row.sql_class] > 0:
                wanted[row.sql_class] -= 1
                number += 1
                yield row
        barren = 0 if number > before else barren + 1


def _drafts(world: World, wanted: Counter[str], manner: Manner, rng: random.Random, seen: set[str]) -> list[_Draft]:
    """A batch of drafts of the wanted classes; `seen` holds the SQL of all drafts so far, up to literals."""
    drafts = []
    for _ in range(_BATCH):
        shapes = SHAPES[rng.choices(list(wanted), list(wanted.values()))[0]]
        shape: Shape = rng.choices(list(shapes), list(shapes.values()))[0]
        style = rng.choices(list(manner.styles), list(manner.styles.values()))[0]
        plan = _plan(world, shape, style, rng)
        if plan is None:
            continue
        expression = expression_of(plan)
        sql, name = to_sql(expression), sql_class(expression)
        key = sql_key(sql)
        if wanted[name] > 0 and key not in seen:
            seen.add(key)
            drafts.append(_Draft(shape.__name__, style, plan, expression, sql, name))
    return drafts


def _plan(world: World, shape: Shape, style: str, rng: random.Random) -> SomePlan | None:
    """A plan; for a style that hides thresholds, one that has some to hide."""
    if style not in HIDING:
        return shape(world, rng)
    for _ in range(_PLANS):
        plan = shape(world, rng)
        speaker = Speaker(world.names, rng, style)
        if plan and (request_of(plan, speaker), speaker.evidence)[1]:
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
        and not is_of_one_group(draft.plan, execution.rows)
    ]


def _worded(
    world: World, identity: str, db_id: str, draft: _Draft, manner: Manner, rng: random.Random
) -> Question | None:
    """The draft as a question whose surface template is (not) held out."""
    for _ in range(_WORDINGS):
        speaker = Speaker(world.names, rng, draft.style)
        asked = request_of(draft.plan, speaker)
        text = put(speaker, draft.style, asked, topic_of(draft.plan, speaker))
        template = f"{draft.shape}: {surface(text)}"
        # A request has several wordings: only what this one hides is explained.
        evidence = [meaning for hidden, meaning in speaker.evidence.items() if hidden in plain(text)]
        if held_out(template) == manner.held_out and bool(evidence) == (draft.style in HIDING):
            return Question(
                id=identity,
                db_id=db_id,
                question=plain(text),
                sql=draft.sql,
                evidence="; ".join(evidence),
                reasoning=trace(draft.expression, manner.reasoning, plain(asked.phrase)),
                sql_class=draft.sql_class,
                style=draft.style,
                template=template,
            )
    return None
