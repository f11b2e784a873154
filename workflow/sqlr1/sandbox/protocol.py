"""What goes into the executor and comes out of it, and the messages between the executor and its workers.

A message is the length of a marshalled value (four bytes), then the value. Unlike pickle, marshal runs no code when it
is read. A worker first says "ready". Then it gets tasks, at most two at a time, and replies to each. A task is
`(kind, database, sql, *more)`, a reply `(status, payload, error)`:

| kind        | more                                   | payload if ok                                              |
|-------------|----------------------------------------|------------------------------------------------------------|
| execute     |                                        | (column names, marshalled rows, whether it is volatile)    |
| fingerprint |                                        | digest of the result                                       |
| compare     | for each gold: (marshalled rows, comparators) | for each gold: {comparator: 0..1}                   |
| race        | gold SQL, repeats                      | for each repeat: time of the gold / time of the prediction |

A result is volatile if it may change from run to run. The payload of a race that is not ok names the statement that
failed, "gold" or "predicted". Otherwise the payload is None if the status is not ok.
"""

import enum
import marshal
import math
import socket
from pathlib import Path
from typing import Any, NamedTuple

Task = tuple
Reply = tuple[str, Any, str]
_LENGTH_BYTES = 4
_CHUNK_BYTES = 1 << 18


class Status(enum.StrEnum):
    """How one statement ended."""

    OK = "ok"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    TOO_LARGE = "too_large"
    REFUSED = "refused"
    CRASHED = "crashed"
    MISSING_DATABASE = "missing_database"


class Verdict(enum.StrEnum):
    """How a prediction compares with its gold. A fault of the gold is never counted against the prediction."""

    MATCH = "match"
    MISMATCH = "mismatch"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    TOO_LARGE = "too_large"
    REFUSED = "refused"
    CRASHED = "crashed"
    GOLD_FAILED = "gold_failed"
    GOLD_TIMED_OUT = "gold_timed_out"
    MISSING_DATABASE = "missing_database"

    @property
    def executes(self) -> bool:
        """Whether prediction and gold both ran."""
        return self in (Verdict.MATCH, Verdict.MISMATCH)

    @property
    def is_gold_fault(self) -> bool:
        """Whether the gold or a missing database is at fault, so that nothing can be said about the prediction."""
        return self in (Verdict.GOLD_FAILED, Verdict.GOLD_TIMED_OUT, Verdict.MISSING_DATABASE)


class Limits(NamedTuple):
    """What one statement may use.

    `seconds`: wall time to execute and fetch. `rows`, `result_bytes`: size of the result; a single value may not
    exceed `result_bytes` either. `memory_bytes`: SQLite's heap in a worker; the worker's address space is limited to
    three times that plus eight times `result_bytes`. `sql_length`: bytes of the statement. `expression_depth`: depth
    of its parse tree. `comparison_seconds`: CPU time to compare the result with all its golds; not wall time, so that
    a busy machine does not turn a right answer into a wrong one.
    """

    seconds: float = 2.0
    rows: int = 500_000
    result_bytes: int = 32 << 20
    memory_bytes: int = 256 << 20
    sql_length: int = 100_000
    expression_depth: int = 500
    comparison_seconds: float = 10.0

    @classmethod
    def of(cls, settings: Any, seconds: float | None = None) -> "Limits":
        """The limits in the config section `execution`; `seconds` replaces its wall time."""
        return cls(**settings.model_dump() | ({"seconds": seconds} if seconds else {}))


class Query(NamedTuple):
    """One statement to run on one database file."""

    database: Path
    sql: str


class Pair(NamedTuple):
    """A prediction and its gold. `database` is None if the question's database is missing."""

    database: Path | None
    gold: str
    predicted: str


class Execution(NamedTuple):
    """What a statement returned. `rows` is None unless `status` is ok; column names may repeat."""

    status: Status
    columns: list[str]
    rows: list[tuple] | None
    error: str

    @property
    def total(self) -> int | None:
        """The number of rows; None if there is no result."""
        return None if self.rows is None else len(self.rows)

    def shown(self, count: int) -> list[list[Any]] | None:
        """The first `count` rows as JSON can hold them; None if there is no result."""
        return None if self.rows is None else [[_json_cell(cell) for cell in row] for row in self.rows[:count]]


class Race(NamedTuple):
    """The speed of a prediction: `ratios` are time of the gold / time of the prediction, empty unless `status` is ok.

    `failed`: which of the two did not run, "gold" or "predicted"; empty if unknown (the worker died).
    """

    status: Status
    ratios: list[float]
    failed: str
    error: str


class Judgement(NamedTuple):
    """The verdict on a pair. `metrics` maps each requested metric to 0..1; `error` says why a statement did not run.

    `one_instance`: whether it would be a match on the database alone, for one with further instances; else None.
    """

    verdict: Verdict
    metrics: dict[str, float]
    error: str
    one_instance: bool | None = None


def _json_cell(cell: Any) -> Any:
    if isinstance(cell, bytes):
        return f"x'{cell.hex()}'"
    return str(cell) if isinstance(cell, float) and not math.isfinite(cell) else cell


def encoded(value: Any) -> bytes:
    """A value as a message."""
    data = marshal.dumps(value, 2)
    return len(data).to_bytes(_LENGTH_BYTES, "big") + data


class Inbox:
    """Reads the messages that arrive at a socket."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._received = bytearray()

    def receive(self) -> list[Any]:
        """Wait for bytes, and return the messages that are complete. Raises EOFError if the other side is gone."""
        data = self._connection.recv(_CHUNK_BYTES)
        if not data:
            raise EOFError("the other side has closed the connection")
        self._received += data
        complete = []
        while len(self._received) >= (end := _LENGTH_BYTES + int.from_bytes(self._received[:_LENGTH_BYTES], "big")):
            complete.append(marshal.loads(self._received[_LENGTH_BYTES:end]))
            del self._received[:end]
        return complete
