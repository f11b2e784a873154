"""The traces of validation questions: what the kept policy answers, its verdict and kind of error.

Apart from `train`, because no result depends on it: an edit of the kinds of error must not train again.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sqlr1.evaluate.errors import error_kinds
from sqlr1.prompt import parse_response
from sqlr1.sandbox import Executor, Pair, Verdict
from sqlr1.traces import Answer


def validation_answers(
    rows: Sequence[Mapping[str, Any]], completions: Sequence[str], executor: Executor, semantics: str
) -> list[Answer]:
    """One answer per row (of `grpo_rows`) and its completion, judged by `semantics`."""
    responses = [parse_response(completion) for completion in completions]
    pairs = [Pair(Path(r["database"]), r["gold"], a.sql) for r, a in zip(rows, responses, strict=True)]
    judged = executor.judge(pairs, semantics)
    answers = []
    for row, response, pair, judgement in zip(rows, responses, pairs, judged, strict=True):
        verdict = judgement.verdict
        answer = {"sql": response.sql, "verdict": verdict, "error": judgement.error}
        kinds = error_kinds(answer, pair.gold, pair.database)
        right = {} if verdict.is_gold_fault else {"right": verdict is Verdict.MATCH}
        feedback = right | {"verdict": verdict.value, "error_kind": (kinds or ["none"])[0]}
        inputs = {"question": row["question"], "database": pair.database.stem}
        outputs = {"sql": response.sql, "reasoning": response.think.strip()}
        answers.append(Answer(f"validation {row['id']}", inputs, outputs, pair.gold, feedback))
    return answers
