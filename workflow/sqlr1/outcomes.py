"""Outcomes: each completion is parsed, executed and judged once; rewards, selection and validation read the result."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlr1.prompt import parse_response
from sqlr1.sandbox import Executor, Pair, Verdict

# A regular expression, because most SQL of a weak model does not parse. Tables joined by a comma are not counted.
_JOINS_OR_GROUPS = re.compile(r"\bJOIN\b|\bGROUP\s+BY\b", re.IGNORECASE)


@dataclass(frozen=True)
class Outcome:
    """What became of one completion. Lengths are in characters. `judged` is False if its gold cannot be run."""

    well_formed: bool
    executes: bool
    matches: bool
    think_length: int
    answer_length: int
    sql_length: int
    judged: bool = True
    joins_or_groups: bool = False


def outcomes(
    executor: Executor, completions: Sequence[str], golds: Sequence[str], databases: Sequence[Path], semantics: str
) -> list[Outcome]:
    """The outcomes of a batch of completions; the i-th has the i-th gold and SQLite file.

    SQL in a malformed completion is executed too, so that the shares of executable and matching SQL do not depend on
    the format. `semantics` is a key of `judging.SEMANTICS`.
    """
    responses = [parse_response(completion) for completion in completions]
    pairs = [Pair(d, gold, r.sql) for d, gold, r in zip(databases, golds, responses, strict=True)]
    return [
        Outcome(
            well_formed=response.well_formed,
            executes=judgement.verdict.executes,
            matches=judgement.verdict is Verdict.MATCH,
            think_length=len(response.think),
            answer_length=len(response.answer),
            sql_length=len(response.sql),
            judged=not judgement.verdict.is_gold_fault,
            joins_or_groups=bool(_JOINS_OR_GROUPS.search(response.sql)),
        )
        for response, judgement in zip(responses, executor.judge(pairs, semantics), strict=True)
    ]
