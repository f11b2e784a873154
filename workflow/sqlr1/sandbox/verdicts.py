"""What goes into the executor and what comes out of it."""

import enum
from dataclasses import dataclass, field
from pathlib import Path


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
    """How a prediction compares with its gold. A gold's own fault is never charged to the prediction."""

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


@dataclass(frozen=True)
class Limits:
    """What one statement may use.

    `seconds`: wall time of execution and fetching. `rows`, `result_bytes`: of the result (a single value may not be
    larger either). `memory_bytes`: SQLite's heap in a worker; the worker's address space is capped at three times that
    plus eight times `result_bytes`. `sql_length`: bytes of the statement. `expression_depth`: depth of its parse tree.
    `comparison_seconds`: CPU time to compare its result, with all golds it meets, once it has run; not wall time, so
    that a busy machine does not turn a right answer into a wrong one.
    """

    seconds: float = 2.0
    rows: int = 500_000
    result_bytes: int = 32 << 20
    memory_bytes: int = 256 << 20
    sql_length: int = 100_000
    expression_depth: int = 500
    comparison_seconds: float = 10.0


@dataclass(frozen=True)
class Query:
    """One statement to run on one database file."""

    database: Path
    sql: str


@dataclass(frozen=True)
class Pair:
    """A prediction and its gold. `database` is None when the question's database is not there."""

    database: Path | None
    gold: str
    predicted: str


@dataclass(frozen=True)
class Execution:
    """What a statement returned. `rows` is None unless `status` is ok; column names may repeat."""

    status: Status
    columns: list[str] = field(default_factory=list)
    rows: list[tuple] | None = None
    error: str = ""


@dataclass(frozen=True)
class Race:
    """A prediction's time beside its gold's: `ratios` of gold time to predicted time, none unless `status` is ok.

    `failed`: which of the two did not run, "gold" or "predicted"; empty where that is unknown (the worker died).
    """

    status: Status
    ratios: list[float] = field(default_factory=list)
    failed: str = ""
    error: str = ""


@dataclass(frozen=True)
class Judgement:
    """The verdict on a pair; `metrics` maps each metric asked for to 0..1, `error` says why a statement did not run."""

    verdict: Verdict
    metrics: dict[str, float] = field(default_factory=dict)
    error: str = ""
