"""One row of questions.jsonl: a question, the greedy answer, the vote, how many samples are right, rows to look at."""

import math
from collections.abc import Sequence
from typing import Any

from sqlr1.evaluate.summary import SEMANTICS
from sqlr1.prompt import Response
from sqlr1.sandbox import Execution, Judgement, Verdict

GOLD_FAULTS = (Verdict.GOLD_FAILED, Verdict.GOLD_TIMED_OUT)
EXECUTABLE = (Verdict.MATCH, Verdict.MISMATCH)
PREVIEW_ROWS = 5
PREVIEW_CHARACTERS = 80


def answer_row(response: Response, judgement: Judgement) -> dict[str, Any]:
    """An answer with its verdict and its 0/1 under each semantics; None where the gold's fault decides."""
    return {
        "sql": response.sql,
        "reasoning": response.think.strip(),
        "well_formed": int(response.well_formed),
        "executable": None if judgement.verdict in GOLD_FAULTS else int(judgement.verdict in EXECUTABLE),
        "verdict": judgement.verdict.value,
        "error": judgement.error,
        **{measure: _whole(judgement.metrics.get(measure)) for measure in SEMANTICS},
    }


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)


def samples_row(responses: Sequence[Response], judgements: Sequence[Judgement]) -> dict[str, int]:
    """How many of the n samples are right, executable, well formed; what a gold's fault hides counts 0."""
    return {
        "n": len(responses),
        "well_formed": sum(response.well_formed for response in responses),
        "executable": sum(judgement.verdict in EXECUTABLE for judgement in judgements),
        **{measure: int(sum(j.metrics.get(measure, 0) for j in judgements)) for measure in SEMANTICS},
    }


def preview(execution: Execution) -> dict[str, Any]:
    """Status, column names, number of rows and the first few of them, as JSON can hold them."""
    rows = execution.rows
    return {
        "status": execution.status.value,
        "columns": list(execution.columns),
        "total": None if rows is None else len(rows),
        "rows": None if rows is None else [[_json_cell(cell) for cell in row] for row in rows[:PREVIEW_ROWS]],
    }


def _json_cell(cell: Any) -> Any:
    if isinstance(cell, bytes):
        cell = f"x'{cell.hex()}'"
    if isinstance(cell, float) and not math.isfinite(cell):
        return str(cell)
    if isinstance(cell, str) and len(cell) > PREVIEW_CHARACTERS:
        return cell[: PREVIEW_CHARACTERS - 1] + "…"
    return cell
