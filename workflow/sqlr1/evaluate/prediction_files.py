"""Predictions as people have them. The content of a file says what it is, never its suffix.

Read: JSON lines or a JSON list of objects, a JSON list of SQL, BIRD's JSON object, Spider's text (one line per
question). What looks like something else is refused with the reason, since lines that are out of step with the
questions would be scored as wrong answers.
"""

import json
import logging
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath
from typing import Any

from sqlr1.database.files import SUFFIXES
from sqlr1.evaluate.formats import BIRD_MARK, Answers, BenchmarkQuestion, by_index, read_candidates, whole_number
from sqlr1.prompt import Response
from sqlr1.records import InputError, read_text, readable

logger = logging.getLogger(__name__)
# The keys of an object that holds SQL, first choice first: beside a prediction, `SQL` and `query` hold the gold.
_SQL_KEYS = ("predicted", "prediction", "predicted_sql", "pred_sql", "SQL", "sql", "query")
_NUMBER_KEYS = ("index", "question_id")
_NEEDS = "needs 'index' or 'question_id' (a whole number) and 'predicted' or 'SQL' (text)"
_MOST_FIELDS = 9  # of a line that is searched for the end of its SQL
_JSON = re.compile(r"""\s*(?=\{\s*["'}]|\[\s*["\[{\]])""")
_SQL = re.compile(
    r"""(?: \s | \( | --[^\n]*+\n? | /\*.*?\*/ )*+
    (?:SELECT|WITH|VALUES|INSERT|REPLACE|UPDATE|DELETE|CREATE|DROP|ALTER|PRAGMA|EXPLAIN|ATTACH)\b""",
    re.IGNORECASE | re.DOTALL | re.VERBOSE,
)
_CLAUSE = re.compile(r"\s*(?:FROM|WHERE|(?:\w+ )?JOIN|GROUP BY|ORDER BY|HAVING|LIMIT|UNION|AND|OR|ON)\b", re.IGNORECASE)
_CSV = re.compile(r"""\s*(?:"|\d+\s*[,;]|[^,;\t"']{1,40}[,;]\s*"?(?:SELECT|WITH)\b)""", re.IGNORECASE)
_LONE_FENCE = re.compile(r"\s*```\w*\s*")
_WRAPPING = re.compile(r"\s*(?:(?:```(?:sqlite\b|sql\b)?|(?:\w+ )?SQL(?: query)?:)\s*)+", re.IGNORECASE)
_FENCED = re.compile(r"\s*```(?:sqlite\b|sql\b)?((?:(?!```).)*)```\s*", re.IGNORECASE | re.DOTALL)
_AFTER_SQL = {"ASC", "DESC", "ISNULL", "NOTNULL"}  # words that can end a query whose other words are one too

_Row = tuple[str, int, str | None, str]  # its place for messages, index or question_id, database if named, SQL


def read_answers(path: Path, questions: Sequence[BenchmarkQuestion]) -> dict[int, Answers]:
    """Read answers by question index. Raises InputError, in one line, for a file that is not understood.

    - `candidates.jsonl`, with samples. All other files have one answer per question:
    - A JSON object, question -> SQL, with or without BIRD's database mark. Its keys and the `question_id` of objects
      are ids of the questions file if they all fit there, else positions from 0. If they fit as both, but mean
      different questions, ids win, and a warning says so. A value that is no text is a wrong answer, as for BIRD.
    - JSON lines, or a list, of objects with `index` (a position) or `question_id`, and `predicted` or `SQL`.
    - A JSON list of SQL, in the order of the questions.
    - Text, one line per question: `SQL`, `SQL<tab>db_id`, or with more columns after the SQL. A blank line is an answer
      that fails, unless there is a line per question without the blank ones. Questions after the last line have none.
    """
    text = read_text(path)
    if not text.strip():
        raise InputError(f"{path}: empty, there is no prediction in it")
    first, rest = _first_value(path, text)
    if isinstance(first, dict) and "samples" in first:
        return read_candidates(path, questions)
    if first is None:
        rows = list(_text_rows(path, text, questions))
    elif rest and isinstance(first, dict):
        rows = _numbered(list(_json_lines(path, text)), questions)
    elif rest:
        raise InputError(f"{path}: there is more text after the JSON list")
    elif isinstance(first, list) and first and isinstance(first[0], str):
        rows = [(f"{path}: item {index}", index, *_sql(f"{path}: item {index}", s)) for index, s in enumerate(first)]
    elif isinstance(first, list):
        rows = _numbered([(f"{path}: item {index}", value) for index, value in enumerate(first)], questions)
    elif set(first) & set(_NUMBER_KEYS):
        rows = _numbered([(f"{path}:1", first)], questions)
    else:
        rows = _resolved(list(_bird_rows(path, first)), questions)
    answers = by_index(rows, questions)
    if not answers:
        raise InputError(f"{path}: there is no prediction in it")
    answers = _unwrapped(path, answers)
    return {index: Answers(Response("", "", sql, well_formed=True)) for index, sql in answers.items()}


def _unwrapped(path: Path, answers: dict[int, str]) -> dict[int, str]:
    """Answers without the code fence around them, and without `SQL:` or an open fence before them if most have that.

    Raises InputError if none is SQL.
    """
    starts = {index: found.end() for index, sql in answers.items() if (found := _WRAPPING.match(sql))}
    if 2 * len(starts) > len(answers):
        bare = {i: answers[i][start:].rstrip().removesuffix("```").rstrip() for i, start in starts.items()}
    else:
        bare = {index: found[1].strip() for index, sql in answers.items() if (found := _FENCED.fullmatch(sql))}
    if bare:
        logger.warning("%s: code fences or 'SQL:' around %d answers are left out", path, len(bare))
        answers |= bare
    if not any(map(_SQL.match, answers.values())):
        index, sql = next(iter(answers.items()))
        raise InputError(f"{path}: no answer is SQL; question {index} has {sql!r:.60}")
    return answers


def _first_value(path: Path, text: str) -> tuple[Any, str]:
    """The JSON value that the text begins with, and what follows it; (None, text) for text that is no JSON."""
    start = _JSON.match(text)
    if not start:
        return None, text
    with readable(path):
        value, end = json.JSONDecoder(object_pairs_hook=_without_repetition).raw_decode(text, start.end())
    return value, text[end:].strip()


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        repeated = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"the key {repeated!r} occurs twice")
    return made


def _json_lines(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            where = f"{path}:{number}"
            with readable(where, one_line=True):
                yield where, json.loads(line, object_pairs_hook=_without_repetition)


def _numbered(values: list[tuple[str, Any]], questions: Sequence[BenchmarkQuestion]) -> list[_Row]:
    """Rows of objects that say which question they answer, all by the same key."""
    key = next((key for key in _NUMBER_KEYS if values and isinstance(values[0][1], dict) and key in values[0][1]), None)
    rows = []
    for where, value in values:
        number = value.get(key) if isinstance(value, dict) else None
        if isinstance(number, str):
            number = whole_number(where, number)
        if type(number) is not int:
            raise InputError(f"{where}: {_NEEDS}")
        db_id, sql = _sql(where, value)
        rows.append((where, number, db_id, sql))
    return _resolved(rows, questions) if key == "question_id" else rows


def _sql(where: str, value: Any) -> tuple[str | None, str]:
    """The database, if it is named, and the SQL of one answer: text, or an object that holds it."""
    db_id = None
    if isinstance(value, dict):
        db_id = value.get("db_id")
        value = next((value[key] for key in _SQL_KEYS if key in value), None)
    if not isinstance(value, str):
        raise InputError(f"{where}: {_NEEDS}")
    sql, _, marked = value.partition(BIRD_MARK)
    return marked.strip() or db_id, sql


def _bird_rows(path: Path, found: dict[str, Any]) -> Iterator[_Row]:
    for key, value in found.items():
        where = f"{path}: {key[:20]!r}"
        number = whole_number(where, key)
        if isinstance(value, list):
            raise InputError(f"{where}: expected one SQL, found a list")
        # A value that is not text (a 0 for "no answer", say) is a wrong answer in BIRD's evaluator too.
        db_id, sql = _sql(where, value) if isinstance(value, str | dict) else (None, "")
        yield where, number, db_id, sql


def _resolved(rows: list[_Row], questions: Sequence[BenchmarkQuestion]) -> list[_Row]:
    """The rows by position; their numbers are ids of the questions, or positions (see `read_answers`)."""
    ids = {question.question_id: question for question in questions if question.question_id is not None}
    positions = dict(enumerate(questions))

    def fitting(by: dict[int, BenchmarkQuestion]) -> int:
        return sum(number in by and db_id in (None, by[number].db_id) for _, number, db_id, _ in rows)

    if fitting(ids) < max(fitting(positions), 1):
        return rows
    resolved = []
    for where, number, db_id, sql in rows:
        if number not in ids:
            raise InputError(f"{where}: there is no question {number}; no row of the questions file has this id")
        resolved.append((where, ids[number].index, db_id, sql))
    if fitting(positions) == len(rows) and any(row[1] != own[1] for row, own in zip(resolved, rows, strict=True)):
        logger.warning(
            "%s: read by the questions' question_id; as positions the keys would fit too (JSON lines with 'index')",
            rows[0][0],
        )
    return resolved


def _text_rows(path: Path, text: str, questions: Sequence[BenchmarkQuestion]) -> Iterator[_Row]:
    known = {question.db_id for question in questions}
    for index, (number, line) in enumerate(_lines(path, text, questions, known)):
        own = questions[index].db_id
        sql, db_id = _without_columns(f"{path}:{number}", line.rstrip(), own, known)
        yield f"{path}:{number}", index, db_id, sql.rstrip()


def _lines(path: Path, text: str, questions: Sequence[BenchmarkQuestion], known: set[str]) -> list[tuple[int, str]]:
    """(line number, line), one per question. Raises InputError with the reason if they cannot be that."""
    lines = list(enumerate(text.removesuffix("\n").split("\n"), 1))
    while len(lines) > len(questions) and not lines[-1][1].strip():
        lines.pop()
    filled = [(number, line) for number, line in lines if line.strip()]
    if len(lines) > len(questions) == len(filled):
        lines = filled
    if reason := _misfit([line for _, line in filled], len(lines) - len(questions), known):
        raise InputError(f"{path}: {reason}; write one SQL per line, or JSON lines with 'index' and 'predicted'")
    if inner := [(number, line) for number, line in filled if _CLAUSE.match(line)]:
        found = f"{len(inner)} lines begin inside a query, line {inner[0][0]} with {inner[0][1]!r:.40}"
        logger.warning("%s: %s; if SQL spans lines, later answers are out of step with the questions", path, found)
    if len(lines) > len(questions):
        raise InputError(
            f"{path}:{lines[len(questions)][0]}: there is no question {len(questions)}; "
            f"the questions file has {len(questions)}, this file {len(lines)} lines"
        )
    if len(lines) < len(questions) and not lines[0][1].strip():
        raise InputError(f"{path}:1: a blank line, and fewer lines than questions; delete it, or write a line for each")
    return lines


def _misfit(filled: Sequence[str], surplus: int, known: set[str]) -> str:
    """Why lines are not an answer each, or "". `surplus`: lines beyond the number of questions."""
    few = 2 * sum(bool(_SQL.match(line)) for line in filled) < len(filled)
    ends = [line.rstrip().rpartition(",") for line in filled]
    named = sum(bool(comma) and last.strip("\"'") in known for _, comma, last in ends)
    columns = sum(bool(_CSV.match(line)) for line in filled)
    if 2 * columns >= len(filled) or (named > 1 and 2 * named > len(filled)):  # one may be `FROM item,shop`
        return "looks like a CSV"
    if any(map(_LONE_FENCE.fullmatch, filled)):
        return "has code fences on lines of their own"
    inner = sum(bool(_CLAUSE.match(line)) for line in filled)
    if inner and (few or surplus or 4 * inner >= len(filled)):
        return "SQL spans lines"
    return ""


def _without_columns(where: str, line: str, own: str, known: set[str]) -> tuple[str, str | None]:
    """The SQL of a line, which may hold tabs of its own, and the database that a column after it names, if any.

    Raises InputError if the only word after the SQL names no database.
    """
    fields = line.split("\t")
    names = [_database_name(field) for field in fields]
    ends = [place for place, name in enumerate(names) if place and name == own]
    if not ends:  # SHOP for shop is a mistake
        ends = [p for p, name in enumerate(names) if p and (name in known or name.casefold() == own.casefold())]
    word = fields[-1].strip()
    if 2 < len(fields) <= _MOST_FIELDS or (len(fields) == 2 and not ends):
        if not ends and re.fullmatch(r"[\w./-]+", word) and word.upper() not in _AFTER_SQL and _parses(fields[:-1]):
            raise InputError(f"{where}: {word!r} after the tab is the name of no database of the questions file")
        for end in ends or [len(fields)]:
            for stop in range(end, 0, -1):
                if _parses(fields[:stop]):
                    return "\t".join(fields[:stop]), names[end] if ends else None
    if ends and (names[ends[-1]] == own or ends[-1] == len(fields) - 1):
        return "\t".join(fields[: ends[-1]]), names[ends[-1]]
    return line, None


def _database_name(field: str) -> str:
    """`shop` of ` shop `, `shop.sqlite` and `database/shop/shop.sqlite`."""
    path = PurePath(field.strip())
    return path.stem if path.suffix.lower() in SUFFIXES else field.strip()


def _parses(fields: Sequence[str]) -> bool:
    from sqlr1.database.sql import parse  # sqlglot takes long to import, and few files need it

    return parse("\t".join(fields))[0] is not None
