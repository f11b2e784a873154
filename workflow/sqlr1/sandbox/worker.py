"""The worker process: reads tasks from a socket, runs their SQL in a sandbox, answers. Imports nothing heavy."""

import contextlib
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
from collections import OrderedDict
from pathlib import Path
from typing import Any

from sqlr1.sandbox.compare import bird_equal, fingerprint, soft_f1, spider_exec_equal
from sqlr1.sandbox.connection import Outcome, Sandbox, defend_connections
from sqlr1.sandbox.protocol import Inbox, Reply, Task, send
from sqlr1.sandbox.verdicts import Limits, Status

_OPEN_DATABASES = 24
_DECODED_GOLDS = 16
_LARGEST_DECODED_GOLD = 1 << 20
COMPARATORS = {
    "bird": bird_equal,
    "soft_f1": soft_f1,
    "ordered": lambda predicted, gold: spider_exec_equal(predicted, gold, ordered=True),
    "unordered": lambda predicted, gold: spider_exec_equal(predicted, gold, ordered=False),
}


class Worker:
    """The state of a worker: the sandboxes used last, and the golds decoded last."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._sandboxes: OrderedDict[tuple, Sandbox] = OrderedDict()
        self._golds: OrderedDict[str, list[tuple]] = OrderedDict()

    def answer(self, kind: str, database: str, sql: str, *more: Any) -> Reply:
        """Do one task."""
        try:
            sandbox = self._sandbox(database)
        except OSError as error:
            return Status.MISSING_DATABASE.value, None, f"{database}: {error.strerror or 'no such file'}"
        except sqlite3.Error as error:
            return Status.FAILED.value, None, f"{database}: {error}"
        if kind == "race":  # its statements have limits of their own
            return _race(sandbox, sql, *more)
        outcome = sandbox.run(sql)
        if outcome.status is not Status.OK:
            return outcome.status.value, None, outcome.error
        signal.setitimer(signal.ITIMER_PROF, self._limits.comparison_seconds)
        try:
            return Status.OK.value, self._payload(kind, outcome, *more), ""
        except MemoryError:
            return Status.TOO_LARGE.value, None, "out of memory"
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)

    def _payload(self, kind: str, outcome: Outcome, *more: Any) -> Any:
        match kind:
            case "execute":
                return outcome.columns, marshal.dumps(outcome.rows, 2), outcome.volatile
            case "fingerprint":
                return fingerprint(outcome.rows)
            case "compare":
                return [self._compare(outcome, *gold) for gold in more]

    def _compare(self, outcome: Outcome, key: str, rows: bytes, comparators: tuple[str, ...]) -> dict[str, float]:
        gold = self._golds.get(key)
        if gold is None:
            gold = marshal.loads(rows)
            if key and len(rows) < _LARGEST_DECODED_GOLD:
                self._golds[key] = gold
            if len(self._golds) > _DECODED_GOLDS:
                self._golds.popitem(last=False)
        return {name: float(COMPARATORS[name](outcome.rows, gold)) for name in comparators}

    def _sandbox(self, database: str) -> Sandbox:
        """The open connection; a new one when the file changed since (an immutable connection would not notice).

        Raises OSError where there is no regular file.
        """
        found = os.stat(database)
        if not stat.S_ISREG(found.st_mode):
            raise FileNotFoundError(database)
        key = (database, found.st_ino, found.st_size, found.st_mtime_ns)
        if key in self._sandboxes:
            self._sandboxes.move_to_end(key)
        else:
            self._sandboxes[key] = Sandbox(Path(database), self._limits)
            if len(self._sandboxes) > _OPEN_DATABASES:
                _, oldest = self._sandboxes.popitem(last=False)
                oldest.close()
        return self._sandboxes[key]


def _race(sandbox: Sandbox, predicted: str, gold: str, repeats: int) -> Reply:
    """Run both statements in turn, once untimed to warm up and then `repeats` times; the ratios, or what failed."""
    ratios = []
    for _ in range(1 + repeats):
        seconds = {}
        for name, statement in (("gold", gold), ("predicted", predicted)):
            start = time.perf_counter()
            outcome = sandbox.run(statement)
            seconds[name] = time.perf_counter() - start
            if outcome.status is not Status.OK:
                return outcome.status.value, name, outcome.error
        ratios.append(seconds["gold"] / seconds["predicted"])
    return Status.OK.value, ratios[1:], ""


def _confine(limits: Limits) -> None:
    """Bound the process itself: memory, no byte written to a file, no core dump, few open files, no child process."""
    for kind, value in (
        (resource.RLIMIT_AS, 3 * limits.memory_bytes + 8 * limits.result_bytes),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_NPROC, 0),
    ):
        _, hard = resource.getrlimit(kind)
        lowered = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (lowered, lowered))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the executor's affair; it ends its workers
    for limit in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(limit, signal.SIG_DFL)


def _answer(worker: Worker, task: Task) -> Reply:
    try:
        return worker.answer(*task)
    except Exception as error:  # unforeseen: the query gets its verdict, with the reason, and the worker goes on
        return Status.CRASHED.value, None, f"{type(error).__name__}: {error}"


def main() -> None:
    """Serve the socket whose descriptor is the first argument, under the limits in the second, until it closes."""
    limits = Limits(*marshal.loads(bytes.fromhex(sys.argv[2])))
    connection = socket.socket(fileno=int(sys.argv[1]))
    inbox = Inbox(connection)
    gc.disable()  # a result is many small objects without cycles: looking for them is lost time
    with defend_connections():
        _confine(limits)  # last: afterwards an error message may find no place to be written to
        worker = Worker(limits)
        send(connection, "ready")
        with contextlib.suppress(ConnectionError):  # the executor is gone, or needs this worker no more
            while True:
                for task in inbox.receive():
                    send(connection, _answer(worker, task))
