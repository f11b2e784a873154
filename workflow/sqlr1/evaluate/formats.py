"""Questions in the benchmarks' own file formats, this package's `candidates.jsonl`, and writers of predictions."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from sqlr1.database.files import SUFFIXES
from sqlr1.evaluate.hardness import UNKNOWN, spider_hardness
from sqlr1.prompt import Response, parse_response
from sqlr1.records import Candidates, InputError, atomic_write, read_json, read_records, readable
from sqlr1.sandbox import on_one_line

LAYOUTS = ("spider", "bird")
BIRD_MARK = "\t----- bird -----\t"
_MOST_DIGITS = 18  # of a question's index; Python refuses to read numbers of thousands of digits
_GOLD_KEY = {"spider": "query", "bird": "SQL"}
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class BenchmarkQuestion:
    """A question of a benchmark. `index`: position in the file, from 0; `difficulty`: Spider's hardness or BIRD's.

    `question_id` is the file's own (BIRD's files have it), or None if not every row has one of its own.
    """

    index: int
    db_id: str
    question: str
    evidence: str
    gold: str
    difficulty: str
    question_id: int | None = None


@dataclass(frozen=True)
class Answers:
    """A system's answers to one question: one greedy answer and, for the vote and pass@k, n samples (or none)."""

    greedy: Response
    samples: Sequence[Response] = ()
    asked: bool = True
    """False if all completions are empty, for instance because the prompt did not fit the model's context."""


def read_questions(layout: str, path: Path) -> list[BenchmarkQuestion]:
    """Read `dev.json` in Spider's or BIRD's layout. Raises InputError naming the row and the key."""
    rows = read_json(path)
    if not isinstance(rows, list):
        raise InputError(f"{path}: expected a list of questions, found {type(rows).__name__}")
    questions = [_question(layout, path, index, row) for index, row in enumerate(rows)]
    ids = [row.get("question_id") for row in rows]
    if all(type(own) is int for own in ids) and len(set(ids)) == len(ids):
        return [replace(question, question_id=own) for question, own in zip(questions, ids, strict=True)]
    return questions


def _question(layout: str, path: Path, index: int, row: Any) -> BenchmarkQuestion:
    gold_key = _GOLD_KEY[layout]
    if not isinstance(row, dict):
        raise InputError(f"{path}: question {index}: expected an object, found {type(row).__name__}")
    if "SpiderSynQuestion" in row:  # Spider-Syn's name for it
        row = {"question": row["SpiderSynQuestion"], **row}
    for key in ("db_id", "question", gold_key):
        if not isinstance(row.get(key), str):
            raise InputError(f"{path}: question {index}: {key!r} is missing or not text ({layout} layout)")
    gold = row[gold_key]
    difficulty = spider_hardness(gold) if layout == "spider" else row.get("difficulty") or UNKNOWN
    if not isinstance(difficulty, str):
        raise InputError(f"{path}: question {index}: 'difficulty' must be text, not {difficulty!r}")
    return BenchmarkQuestion(index, row["db_id"], row["question"], row.get("evidence") or "", gold, difficulty)


def excluded_questions(path: Path | None, n: int) -> set[int]:
    """The indices (of `n` questions) in a file of questions that are not to be trusted, one per line.

    Raises InputError for a missing file and for a line that is not the index of a question. No path, no indices.
    """
    if path is None:
        return set()
    with readable(path):
        lines = path.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, 1):
        if line.strip() and not (line.strip().isdecimal() and int(line) < n):
            raise InputError(f"{path}:{number}: {line!r} is not the index of one of the {n} questions")
    return {int(line) for line in lines if line.strip()}


def database_path(databases: Path, db_id: str) -> Path | None:
    """`DIR/db_id/db_id.sqlite`, the layout of Spider and BIRD, or `DIR/db_id.sqlite`; or DIR itself, if it is the file.

    The suffix is one of SUFFIXES, in any letter case. None if there is no such file.
    """
    folders = (databases / db_id, databases)
    try:
        for path in (folder / f"{db_id}{suffix}" for folder in folders for suffix in SUFFIXES):
            if path.is_file():
                return path
        others = (p for folder in folders if folder.is_dir() for p in folder.iterdir() if p.stem == db_id)
        fitting = sorted(p for p in others if p.suffix.lower() in SUFFIXES)
        return next((p for p in (*fitting, databases) if p.stem == db_id and p.is_file()), None)
    except (OSError, ValueError):  # the name is too long for a file, or holds a null byte
        return None


def read_candidates(path: Path, questions: Sequence[BenchmarkQuestion]) -> dict[int, Answers]:
    """Read `candidates.jsonl` by question index. Raises InputError if it does not fit the questions."""
    candidates = read_records(path, Candidates)
    n = len(candidates[0].samples) if candidates else 0
    rows = []
    for candidate in candidates:
        where = f"{path}: candidates {candidate.id[:20]!r}"
        index = whole_number(where, candidate.id)
        if len(candidate.samples) != n or not n:
            raise InputError(f"{path}: candidates {index} hold {len(candidate.samples)} samples, the first {n}")
        texts = (candidate.greedy, *candidate.samples)
        greedy, *samples = map(parse_response, texts)
        rows.append((where, index, candidate.db_id, Answers(greedy, samples, asked=any(texts))))
    return by_index(rows, questions)


def by_index(rows: Iterable[tuple[str, int, Any, Answer]], questions: Sequence[BenchmarkQuestion]) -> dict[int, Answer]:
    """Answers by question index. A row is its place for messages, the index, the database if it is named, the answer.

    Raises InputError for an unknown or a repeated index, and for a database that is not the question's.
    """
    answers: dict[int, Answer] = {}
    for where, index, db_id, answer in rows:
        if not 0 <= index < len(questions):
            raise InputError(f"{where}: there is no question {index}; the questions file has {len(questions)}")
        if index in answers:
            raise InputError(f"{where}: a second prediction for question {index}")
        own = questions[index].db_id
        if db_id not in (None, own):
            raise InputError(f"{where}: question {index} is about {own!r}, the prediction about {db_id!r}")
        answers[index] = answer
    return answers


def whole_number(where: str, text: str) -> int:
    """The number of a question, 0 or more. Raises InputError for other text."""
    if not text.isdecimal() or len(text) > _MOST_DIGITS:
        raise InputError(f"{where}: expected a question index")
    return int(text)


def write_spider_text(path: Path, questions: Sequence[BenchmarkQuestion], predictions: Mapping[int, str]) -> None:
    """Write `SQL<tab>db_id`, one line per question as the format demands: `SELECT` where there is no prediction."""
    with atomic_write(path) as file:
        for question in questions:
            file.write(f"{on_one_line(predictions.get(question.index, '')) or 'SELECT'}\t{question.db_id}\n")


def write_bird_json(path: Path, questions: Sequence[BenchmarkQuestion], predictions: Mapping[int, str]) -> None:
    """Write BIRD's `predict_dev.json`: `SQL<tab>----- bird -----<tab>db_id` by question_id, else by question index."""
    keys = {q.index: q.index if q.question_id is None else q.question_id for q in questions}
    rows = {keys[q.index]: predictions[q.index] + BIRD_MARK + q.db_id for q in questions if q.index in predictions}
    with atomic_write(path) as file:
        file.write(json.dumps(rows, ensure_ascii=False, indent=4) + "\n")
