"""The sandbox: worker processes that run untrusted SQL on read-only databases, and verdicts on what came out.

    with Executor(workers=2, limits=Limits(seconds=2.0)) as executor:
        [judgement] = executor.judge([Pair(database, gold, predicted)], semantics="bird")

Nothing else in the package opens a benchmark or training database to run a model's SQL.

What is covered:

- Nothing is written. The file is opened read-only and immutable, in defensive mode, `query_only`, schema not trusted;
  an authorizer allows reading the database's own tables and a list of pure functions, and nothing else: no ATTACH,
  VACUUM, PRAGMA (nor as a table), transaction, temporary object, virtual table (but `json_each` and `json_tree`),
  extension, file or shell function. The process itself may write no byte to any file (RLIMIT_FSIZE), start no other
  (RLIMIT_NPROC; not enforced for root) and open few; of the environment it gets the library path alone; temporary
  tables stay in memory.
- One statement at a time, bounded in length and depth.
- Time: SQLite stops at the limit by itself, checked every few thousand steps of its virtual machine. Where it does not
  check (inside one function call or sort) the kernel ends the process 10 ms later. Fetching counts towards the limit.
  Comparing results has a limit of its own, in CPU time, and a result beyond it is called `too_large`: the query was not
  slow.
- Memory: SQLite's heap, the process's address space (not enforced on macOS), rows and bytes of a result.
- A worker that dies is replaced at once by one that stands by. Its query is tried once more, unless time was up, and
  then called `crashed`; no other query is lost. One that is stopped (SIGSTOP) is replaced three seconds after its
  limit; one that is stopped while a large gold is sent to it holds up the others, by at most three seconds. One that is
  not stopped and does not answer either passes for one that compares and is short of CPU time: it is killed when four
  times the limit on comparisons is over too.
- A gold that fails is `gold_failed` or `gold_timed_out`, whatever the prediction did.

What is not:

- A fault in SQLite or Python that lets a query run machine code: the worker is an ordinary process of the same user,
  without seccomp, namespaces or a container. It could then read what the user can read.
- Secrecy: a query may read everything in the database it is given, the schema included.
- Chance and the clock: RANDOM() and date('now') work as in SQLite. Golds that call such functions, also through a view,
  are not cached.
- A database changed in place while a statement reads it (`immutable`). A change between statements is noticed. Writes
  that lie in an unfinished write-ahead log (`-wal`) are not seen.
- Equal verdicts for a query that takes about as long as the limit. Quick ones do not depend on the machine's load.
- Virtual tables: where a database has some (full-text search, R-tree), every query on them is refused, also a gold. Of
  SQLite's own, `json_each` and `json_tree` alone can be read.
- Text that is not UTF-8 loses the undecodable bytes, as in Spider's evaluator (BIRD's fails on it).
"""

from typing import TYPE_CHECKING, Any

from sqlr1.sandbox.verdicts import Execution, Judgement, Limits, Pair, Query, Race, Status, Verdict

if TYPE_CHECKING:
    from sqlr1.sandbox.executor import METRICS, Executor

__all__ = ["METRICS", "Execution", "Executor", "Judgement", "Limits", "Pair", "Query", "Race", "Status", "Verdict"]


def __getattr__(name: str) -> Any:
    # Only when asked for: a worker imports this package too, and must start fast.
    if name in ("METRICS", "Executor"):
        from sqlr1.sandbox import executor

        return getattr(executor, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
