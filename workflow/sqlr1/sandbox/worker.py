"""The worker process: reads tasks from a socket, runs their SQL in a sandbox, replies. Imports nothing heavy."""

import contextlib
import functools
import gc
import marshal
import os
import resource
import signal
import socket
import sqlite3
import stat
import sys
import time
from pathlib import Path
from typing import Any

from sqlr1.sandbox.compare import bird_equal, fingerprint, soft_f1, spider_exec_equal
from sqlr1.sandbox.connection import Sandbox, defend_connections
from sqlr1.sandbox.protocol import Inbox, Limits, Reply, Status, encoded

_OPEN_DATABASES = 24
_LARGEST_KEPT = 1 << 20
COMPARATORS = {
    "bird": bird_equal,
    "soft_f1": soft_f1,
    "ordered": lambda predicted, gold: spider_exec_equal(predicted, gold, ordered=True),
    "unordered": lambda predicted, gold: spider_exec_equal(predicted, gold, ordered=False),
}
# A gold is often compared with several predictions in a row.
_decoded = functools.lru_cache(maxsize=16)(marshal.loads)


class Worker:
    """The state of a worker: the sandboxes used last."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._sandboxes: dict[tuple, Sandbox] = {}  # the one used last comes last

    def answer(self, kind: str, database: str, sql: str, *more: Any) -> Reply:
        try:
            sandbox = self._sandbox(database)
        except OSError as error:
            return Status.MISSING_DATABASE, None, f"{database}: {error.strerror or 'no such file'}"
        except sqlite3.Error as error:
            return Status.FAILED, None, f"{database}: {error}"
        if kind == "race":  # its statements have their own limits
            return _race(sandbox, sql, *more)
        status, result, error = sandbox.run(sql)
        if status is not Status.OK:
            return status, None, error
        signal.setitimer(signal.ITIMER_PROF, self._limits.comparison_seconds)
        try:
            return Status.OK, _payload(kind, *result, *more), ""
        except MemoryError:
            return Status.TOO_LARGE, None, "out of memory"
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)

    def _sandbox(self, database: str) -> Sandbox:
        """The open connection, or a new one if the file has changed, which an immutable connection does not notice.

        Raises OSError if there is no regular file.
        """
        found = os.stat(database)
        if not stat.S_ISREG(found.st_mode):
            raise FileNotFoundError(database)
        key = (database, found.st_ino, found.st_size, found.st_mtime_ns)
        sandbox = self._sandboxes.pop(key, None) or Sandbox(Path(database), self._limits)
        self._sandboxes[key] = sandbox
        if len(self._sandboxes) > _OPEN_DATABASES:
            self._sandboxes.pop(next(iter(self._sandboxes))).close()
        return sandbox


def _payload(kind: str, columns: list[str], rows: list[tuple], volatile: bool, *more: Any) -> Any:
    if kind == "execute":
        return columns, marshal.dumps(rows, 2), volatile
    if kind == "fingerprint":
        return fingerprint(rows)
    golds = ((_decoded(gold) if len(gold) < _LARGEST_KEPT else marshal.loads(gold), names) for gold, names in more)
    # Equal lists are a match by each: it is the usual case, and quickly seen.
    return [{name: float(rows == gold or COMPARATORS[name](rows, gold)) for name in names} for gold, names in golds]


def _race(sandbox: Sandbox, predicted: str, gold: str, repeats: int) -> Reply:
    """Run both statements in turn, once untimed as a warm-up and then `repeats` times; the ratios, or what failed."""
    ratios = []
    for _ in range(1 + repeats):
        seconds = {}
        for name, statement in (("gold", gold), ("predicted", predicted)):
            start = time.perf_counter()
            status, _, error = sandbox.run(statement)
            seconds[name] = time.perf_counter() - start
            if status is not Status.OK:
                return status, name, error
        ratios.append(seconds["gold"] / seconds["predicted"])
    return Status.OK, ratios[1:], ""


def _confine(limits: Limits) -> None:
    """Limit the process: memory, no byte written to a file, no core dump, few open files, no child process."""
    most = dict.fromkeys((resource.RLIMIT_FSIZE, resource.RLIMIT_CORE, resource.RLIMIT_NPROC), 0)
    most |= {resource.RLIMIT_NOFILE: 64, resource.RLIMIT_AS: 3 * limits.memory_bytes + 8 * limits.result_bytes}
    for kind, value in most.items():
        _, hard = resource.getrlimit(kind)
        lowered = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (lowered, lowered))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # on Ctrl-C the executor ends its workers
    for limit in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(limit, signal.SIG_DFL)


def main() -> None:
    """Serve the socket whose descriptor is the first argument, under the limits in the second, until it closes."""
    limits = Limits(*marshal.loads(bytes.fromhex(sys.argv[2])))
    connection = socket.socket(fileno=int(sys.argv[1]))
    inbox = Inbox(connection)
    gc.disable()  # a result is many small objects without cycles: searching for cycles is lost time
    with defend_connections():
        _confine(limits)  # last: after this an error message may have nowhere to go
        worker = Worker(limits)
        connection.sendall(encoded("ready"))
        with contextlib.suppress(ConnectionError, EOFError):  # the executor is gone, or has dropped this worker
            while True:
                for task in inbox.receive():
                    try:
                        status, payload, error = worker.answer(*task)
                    except Exception as unexpected:  # this query gets a verdict with the reason, others go on
                        status, payload, error = Status.CRASHED, None, f"{type(unexpected).__name__}: {unexpected}"
                    connection.sendall(encoded((status.value, payload, error)))
