"""The sandbox: worker processes that run untrusted SQL on read-only databases, and verdicts on the results.

    with Executor(workers=2, limits=Limits(seconds=2.0)) as executor:
        [judgement] = executor.judge([Pair(database, gold, predicted)], semantics="bird")

No other part of the project runs a model's SQL. Other code imports from here only, not from the modules inside.

What is covered:

- Writing. The file is opened read-only and immutable, in defensive mode, with `query_only`, and its schema is not
  trusted. An authorizer allows reading the database's own tables and calling listed pure functions, and nothing else:
  no ATTACH, VACUUM, PRAGMA (not as a table either; `data_version`, which full-text search runs, excepted), transaction,
  temporary object, virtual table (except `json_each`, `json_tree`, and the database's own of full-text search and
  R-tree), extension, file function or shell function. The process may not write a byte to any file (RLIMIT_FSIZE), not
  start other processes (RLIMIT_NPROC, which the kernel does not enforce for root) and open few files. Of the
  environment it gets only the library path. Temporary tables stay in memory.
- One statement at a time, with limits on its length and depth.
- Time. SQLite stops itself at the limit, which it checks every few thousand steps of its virtual machine. Inside one
  function call or sort it does not check: there the kernel ends the process 10 ms later. Fetching counts towards the
  limit. Comparing has its own limit, in CPU time; a result that exceeds it is `too_large`: the query was not slow.
- Memory. SQLite's heap, the process's address space (not enforced on macOS), rows and bytes of a result.
- Workers that die. A waiting spare replaces them at once. The query is tried once more, unless it ran out of time, and
  then it is `crashed`. No other query is lost.
- Workers that hang. One that is stopped (SIGSTOP) is replaced three seconds after its limit. One that is stopped when
  it is sent a large task delays the others by at most three seconds. One that is not stopped but does not answer may
  be comparing results with little CPU time: it is killed when four times the comparison limit has passed as well.
- A gold that fails is `gold_failed` or `gold_timed_out`, whatever the prediction did.

What is not covered:

- A bug in SQLite or Python that lets a query run machine code. The worker is an ordinary process of the same user,
  without seccomp, namespaces or a container, so that code could read whatever the user can read.
- Secrecy. A query may read everything in the database it is given, including the schema.
- Randomness and the clock. RANDOM() and date('now') work as in SQLite. Golds with them, also in views, are not cached.
- A database that is changed in place while a statement reads it (`immutable`). A change between two statements is
  noticed. A database with a journal (`-wal`, `-journal`) that may hold rows is refused with InputError.
- The same verdict each time for a query that takes about as long as the limit. Load does not matter for quick ones.
- Text that is not UTF-8 loses the bytes that cannot be decoded, as in Spider's evaluator (BIRD's fails on it).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sqlr1.sandbox.protocol import Execution, Judgement, Limits, Pair, Query, Race, Status, Verdict

if TYPE_CHECKING:  # `provenance.sources` finds these modules here
    from sqlr1.sandbox.executor import Executor
    from sqlr1.sandbox.judging import METRICS, SEMANTICS, instances, is_ordered, mend, on_one_line

__all__ = [
    "METRICS", "SEMANTICS", "Execution", "Executor", "Judgement", "Limits", "Pair", "Query", "Race", "Status",
    "Verdict", "instances", "is_ordered", "mend", "on_one_line",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import on first use what a worker does not need: workers import this package too, and must start fast."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"sqlr1.sandbox.{'executor' if name == 'Executor' else 'judging'}"), name)
