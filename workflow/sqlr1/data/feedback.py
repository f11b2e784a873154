"""What users said about answers: `sqlr1 ask` appends it to a JSONL file, `synthesize.mix` trains on it.

Right and corrected answers are golds. A wrong answer without a correction says which question to ask again: its gold is
that of an earlier answer, or of the same question among the training questions. Without one nothing can be trained.
"""

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from sqlr1.records import Feedback, InputError, Question, json_line, stream_records

VERDICTS = ("right", "wrong", "corrected")
log = logging.getLogger(__name__)


def append(path: Path, feedback: Feedback) -> None:
    """Append one line. Several processes may do so at once: each line is one write, at the end of the file.

    Raises InputError if the file cannot be written.
    """
    line = json_line(asdict(feedback)).encode(errors="backslashreplace")  # of a lone surrogate: JSON's escape
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            size = os.fstat(descriptor).st_size
            if size and os.pread(descriptor, 1, size - 1) != b"\n":  # an editor left the last line open
                line = b"\n" + line
            written = os.write(descriptor, line)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise InputError(f"{path}: cannot be written to ({error.strerror})") from error
    if written < len(line):
        raise InputError(f"{path}: the disk is full; delete the last, unfinished line")


def judged(path: Path) -> Iterator[dict[str, str]]:
    """Yield db_id, question, evidence, sql and wrong_sql of each question, evidence and database, by the last verdict.

    A wrong answer is `wrong_sql`; `sql` is then what an earlier verdict found right, unless it is that very answer,
    else empty. Raises InputError for a malformed line or an unknown verdict.
    """
    last: dict[tuple[str, str, str, str], dict[str, str]] = {}
    for number, given in enumerate(stream_records(path, Feedback), 1):
        if given.verdict not in VERDICTS:
            raise InputError(f"{path}: record {number} has the verdict {given.verdict!r}; known: {', '.join(VERDICTS)}")
        key = given.database, given.db_id, given.question, given.evidence
        known = last.pop(key, {}).get("sql", "")  # in the order of the last verdicts
        wrong = (given.sql or "-- no SQL") if given.verdict == "wrong" else ""
        gold = given.corrected if given.verdict == "corrected" else given.sql
        if wrong:
            gold = "" if _same_sql(known, wrong) else known
        asked = {"db_id": given.db_id, "question": given.question, "evidence": given.evidence}
        last[key] = asked | {"sql": gold, "wrong_sql": wrong}
    yield from last.values()


def marked(rows: Iterable[Question], wrong: Sequence[Question]) -> Iterator[Question]:
    """Yield the rows, with the `wrong_sql` of the question in `wrong` that is the same; then those in `wrong` that no
    row has, which have no gold. Questions are the same if database and text are, but for letter case, blanks and the
    final mark. A row whose SQL is the wrong answer itself loses it, because the user says that it is no gold.
    """
    by_text = {(q.db_id, _text(q)): q for q in wrong}
    found, known = set(), set()
    for row in rows:
        key = row.db_id, _text(row)
        if key in by_text:
            answer = by_text[key].wrong_sql
            if not row.wrong_sql:
                row = replace(row, wrong_sql=answer, sql="" if _same_sql(row.sql, answer) else row.sql)
            found.add(key)
            known |= {key} if row.sql else set()
        yield row
    yield from (question for key, question in by_text.items() if key not in found)
    if without := [f"{q.db_id}: {q.question}" for key, q in by_text.items() if key not in known]:
        log.warning(
            "%d answers are marked wrong and no gold is known, so nothing can be trained on these questions; ask again "
            "and give the SQL with :sql: %s", len(without), "; ".join(without),
        )  # fmt: skip


def _text(question: Question) -> str:
    return " ".join(question.question.casefold().split()).rstrip(" ?.!")


def _same_sql(first: str, second: str) -> bool:
    """Whether two queries are the same, but for blanks, aliases and the letter case of words. Literals keep theirs."""
    from sqlr1.database.sql import normal_form, parse  # late: sqlglot takes a while, and `sqlr1 ask` only appends

    parsed = [parse(sql)[0] for sql in (first, second)]
    return first == second or (None not in parsed and normal_form(parsed[0]) == normal_form(parsed[1]))
