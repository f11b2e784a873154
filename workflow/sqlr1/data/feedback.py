"""What users said about answers: `sqlr1 ask` appends it to a JSONL file, `synthesize.mix` trains on it.

Right and corrected answers are golds. A wrong answer without a correction has no gold, so nothing can be trained on it.
"""

import logging
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from sqlr1.records import Feedback, InputError, json_line, stream_records

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


def judged_right(path: Path) -> Iterator[dict[str, str]]:
    """Yield db_id, question, evidence and sql of each question with a right or corrected answer.

    The last verdict on a question, its evidence and the database counts. Questions whose
    last verdict is wrong are logged. Raises InputError for a malformed line or an unknown verdict.
    """
    last: dict[tuple[str, str, str, str], Feedback] = {}
    for number, given in enumerate(stream_records(path, Feedback), 1):
        if given.verdict not in VERDICTS:
            raise InputError(f"{path}: record {number} has the verdict {given.verdict!r}; known: {', '.join(VERDICTS)}")
        key = given.database, given.db_id, given.question, given.evidence
        last.pop(key, None)  # in the order of the last verdicts
        last[key] = given
    if wrong := [f"{given.db_id}: {given.question}" for given in last.values() if given.verdict == "wrong"]:
        log.warning(
            "%s: %d answers are wrong and not corrected, so there is no gold to train on; ask again and give the SQL "
            "with :sql: %s", path, len(wrong), "; ".join(wrong),
        )  # fmt: skip
    for given in last.values():
        if given.verdict != "wrong":
            sql = given.corrected if given.verdict == "corrected" else given.sql
            yield {"db_id": given.db_id, "question": given.question, "evidence": given.evidence, "sql": sql}
