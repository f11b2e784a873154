"""Questions and predictions in the benchmarks' own file formats."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlr1.evaluate.hardness import UNKNOWN, spider_hardness
from sqlr1.records import InputError, atomic_write, read_json, read_jsonl, readable
from sqlr1.sandbox import on_one_line

LAYOUTS = ("spider", "bird")
_BIRD_MARK = "\t----- bird -----\t"
_MOST_DIGITS = 18  # of a question's index; Python refuses to read numbers of thousands of digits
_GOLD_KEY = {"spider": "query", "bird": "SQL"}


@dataclass(frozen=True)
class BenchmarkQuestion:
    """A question of a benchmark. `index`: position in the file, from 0; `difficulty`: Spider's hardness or BIRD's."""

    index: int
    db_id: str
    question: str
    evidence: str
    gold: str
    difficulty: str


def read_questions(layout: str, path: Path) -> list[BenchmarkQuestion]:
    """Read `dev.json` in Spider's or BIRD's layout. Raises InputError naming the row and the key."""
    rows = read_json(path)
    if not isinstance(rows, list):
        raise InputError(f"{path}: expected a list of questions, found {type(rows).__name__}")
    return [_question(layout, path, index, row) for index, row in enumerate(rows)]


def _question(layout: str, path: Path, index: int, row: Any) -> BenchmarkQuestion:
    gold_key = _GOLD_KEY[layout]
    if not isinstance(row, dict):
        raise InputError(f"{path}: question {index}: expected an object, found {type(row).__name__}")
    for key in ("db_id", "question", gold_key):
        if not isinstance(row.get(key), str):
            raise InputError(f"{path}: question {index}: {key!r} is missing or not text ({layout} layout)")
    gold = row[gold_key]
    difficulty = spider_hardness(gold) if layout == "spider" else row.get("difficulty")
    if not isinstance(difficulty, str | None):
        raise InputError(f"{path}: question {index}: 'difficulty' must be text, not {difficulty!r}")
    return BenchmarkQuestion(
        index, row["db_id"], row["question"], row.get("evidence") or "", gold, difficulty or UNKNOWN
    )


def excluded_questions(path: Path | None, n: int) -> set[int]:
    """The indices (of `n` questions) that are not to be trusted, one a line; none without a file.

    Raises InputError for a missing file and for a line that is no such index.
    """
    if path is None:
        return set()
    with readable(path):
        lines = path.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, 1):
        if line.strip() and not (line.strip().isdecimal() and int(line) < n):
            raise InputError(f"{path}:{number}: {line!r} is not the index of one of the {n} questions")
    return {int(line) for line in lines if line.strip()}


def read_predictions(path: Path, questions: Sequence[BenchmarkQuestion]) -> dict[int, str]:
    """Read predictions by question index: JSONL (`.jsonl`), BIRD's JSON object (`.json`), else Spider's text.

    A blank line of Spider's text is an answer that fails, wherever it stands; questions beyond the last line have none.
    """
    if path.suffix == ".jsonl":
        return _read_jsonl(path, questions)
    if path.suffix == ".json":
        return _read_bird(path, questions)
    return _read_text(path, questions)


def _read_jsonl(path: Path, questions: Sequence[BenchmarkQuestion]) -> dict[int, str]:
    predictions: dict[int, str] = {}
    for number, row in read_jsonl(path):
        index, predicted = row.get("index"), row.get("predicted")
        if type(index) is not int or not isinstance(predicted, str):
            raise InputError(f"{path}:{number}: needs 'index' (a whole number) and 'predicted' (text)")
        _check_index(f"{path}:{number}", index, questions)
        if index in predictions:
            raise InputError(f"{path}:{number}: a second prediction for question {index}")
        _check_db_id(f"{path}:{number}", row.get("db_id"), questions[index])
        predictions[index] = predicted
    return predictions


def _read_bird(path: Path, questions: Sequence[BenchmarkQuestion]) -> dict[int, str]:
    rows = read_json(path, _without_repetition)
    if not isinstance(rows, dict):
        raise InputError(f"{path}: expected an object from question index to SQL, found {type(rows).__name__}")
    predictions = {}
    for key, value in rows.items():
        where = f"{path}: {key[:20]!r}"
        if not key.isdecimal() or len(key) > _MOST_DIGITS:
            raise InputError(f"{where}: expected a question index")
        index = int(key)
        _check_index(where, index, questions)
        if index in predictions:
            raise InputError(f"{where}: a second prediction for question {index}")
        # What is no text (a 0 for "no answer", say) is a wrong answer in BIRD's evaluator too.
        sql, _, db_id = value.partition(_BIRD_MARK) if isinstance(value, str) else ("", "", "")
        _check_db_id(where, db_id or None, questions[index])
        predictions[index] = sql
    return predictions


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    repeated = [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]
    if repeated:
        raise ValueError(f"the key {repeated[0]!r} occurs twice")
    return dict(pairs)


def _read_text(path: Path, questions: Sequence[BenchmarkQuestion]) -> dict[int, str]:
    with readable(path):
        lines = path.read_bytes().decode().split("\n")
    if not lines[-1]:  # the newline at the end of the file begins no line
        lines.pop()
    while len(lines) > len(questions) and not lines[-1].strip():
        lines.pop()
    known = {question.db_id for question in questions}
    predictions = {}
    for index, line in enumerate(lines):
        _check_index(f"{path}:{index + 1}", index, questions)
        sql, tab, last = line.rstrip().rpartition("\t")
        own = questions[index].db_id
        named = last.strip() in known or last.strip().casefold() == own.casefold()  # SHOP for shop is a mistake
        if not tab or not named:  # no db_id, but SQL, which may hold tabs of its own
            sql, last = line.rstrip(), own
        _check_db_id(f"{path}:{index + 1}", last.strip(), questions[index])
        predictions[index] = sql.rstrip()
    return predictions


def _check_index(where: str, index: int, questions: Sequence[BenchmarkQuestion]) -> None:
    if not 0 <= index < len(questions):
        raise InputError(f"{where}: there is no question {index}; the questions file has {len(questions)}")


def _check_db_id(where: str, db_id: Any, question: BenchmarkQuestion) -> None:
    if db_id is not None and db_id != question.db_id:
        raise InputError(
            f"{where}: question {question.index} is about {question.db_id!r}, the prediction about {db_id!r}"
        )


def write_spider_text(path: Path, questions: Sequence[BenchmarkQuestion], predictions: Mapping[int, str]) -> None:
    """Write `SQL<tab>db_id`, a line for each question as the format demands: `SELECT` where there is no prediction."""
    with atomic_write(path) as file:
        for question in questions:
            file.write(f"{on_one_line(predictions.get(question.index, '')) or 'SELECT'}\t{question.db_id}\n")


def write_bird_json(path: Path, questions: Sequence[BenchmarkQuestion], predictions: Mapping[int, str]) -> None:
    """Write BIRD's `predict_dev.json`: question index -> `SQL<tab>----- bird -----<tab>db_id`."""
    rows = {str(q.index): predictions[q.index] + _BIRD_MARK + q.db_id for q in questions if q.index in predictions}
    with atomic_write(path) as file:
        file.write(json.dumps(rows, ensure_ascii=False, indent=4) + "\n")
