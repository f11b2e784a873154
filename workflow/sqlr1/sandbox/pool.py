"""The pool of worker processes: assigns tasks, collects replies, replaces workers that die or hang."""

import functools
import logging
import marshal
import math
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

from sqlr1.sandbox.protocol import Inbox, Limits, Reply, Status, Task, encoded

logger = logging.getLogger(__name__)
_PACKAGE_ROOT = Path(__file__).parents[2]
_START = "import sys; sys.path.insert(0, sys.argv.pop(1)); from sqlr1.sandbox.worker import main; main()"
# Where Python finds its own libraries; a worker gets nothing else of the environment.
_ENVIRONMENT = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
# A worker this much later than its limit is checked, and then again each time as much has passed.
_HANG_SECONDS = 3.0
# A comparison's limit is in CPU time. A worker that gets little CPU is killed after this many times that long.
_STARVATION = 4
# A task whose worker died is tried once more: something outside may have killed it.
_ATTEMPTS = 2
_FAILED_STARTS = 100  # in a row
# While more than _PLENTY tasks per worker wait, a worker is sent a second one of at most _SMALL_BYTES. Waiting for this
# process between two tasks would cost quick queries a quarter of their time. The price: the second task may wait behind
# a slow one, so near the end none is sent. A large one could block this process until the worker reads it.
_PLENTY = 8
_SMALL_BYTES = 1 << 15
_ENDED_BY_LIMIT = {  # the replies for a worker that the kernel ended, by its exit code
    -signal.SIGALRM: (Status.TIMED_OUT, None, "interrupted"),
    -signal.SIGPROF: (Status.TOO_LARGE, None, "the result takes too long to compare"),
}


class _Process:
    """A worker process, its socket, and its tasks (their indices): the one that it runs, and maybe the next one."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.socket, theirs = socket.socketpair()
        for end, buffer in ((self.socket, socket.SO_SNDBUF), (theirs, socket.SO_RCVBUF)):
            end.setsockopt(socket.SOL_SOCKET, buffer, 4 * _SMALL_BYTES)  # macOS has less
        with theirs:
            arguments = [str(_PACKAGE_ROOT), str(theirs.fileno()), marshal.dumps(tuple(limits), 2).hex()]
            # -I -S: no environment, no site-packages. With the standard library only, a worker starts fast.
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _START, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                cwd="/",
                env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
            )
        self.socket.settimeout(_HANG_SECONDS)
        self._inbox = Inbox(self.socket)
        self.pid = self._process.pid
        self.ready = False
        self.tasks: deque[int] = deque()
        self._statements = 1  # of a task
        self._expect_message()

    def _expect_message(self) -> None:
        """Set when to check the process (`deadline`, infinite if it is idle) and when to kill it (`last_deadline`)."""
        soon = time.monotonic() + _HANG_SECONDS
        self.deadline = soon + self._limits.seconds
        comparison = _STARVATION * self._limits.comparison_seconds
        self.last_deadline = soon + self._limits.seconds * self._statements + comparison

    def assign(self, task: int, message: bytes, statements: int) -> None:
        """Send a task of so many statements."""
        self.tasks.append(task)
        if len(self.tasks) == 1:
            self._statements = statements
            self._expect_message()
        try:
            self.socket.sendall(message)
        except OSError:  # dead, or stopped and not reading
            self._process.kill()  # and its socket ends

    def replies(self) -> list[tuple[int, Reply]]:
        """Read what has arrived: (task, reply) for each complete message. Raises EOFError or OSError at the end."""
        messages = self._inbox.receive()
        if messages and not self.ready:
            messages.pop(0)  # "ready"
            self.ready = True
        found = [(self.tasks.popleft(), message) for message in messages]
        if self.tasks:
            self._expect_message()
        elif self.ready:
            self.deadline = math.inf
        return found

    def hangs(self, now: float) -> bool:
        """Whether a process past its deadline is stopped (SIGSTOP), dead, or past its last deadline."""
        if now >= self.last_deadline:
            return True
        import psutil

        try:
            return psutil.Process(self.pid).status() == psutil.STATUS_STOPPED
        except psutil.NoSuchProcess:
            return True

    def end(self) -> int:
        """Kill the process, which has nothing to save. Returns its exit code, or minus the signal."""
        self.socket.close()
        self._process.kill()
        return self._process.wait()


class Pool:
    """`workers` processes under `limits`. Threads must not share it."""

    def __init__(self, workers: int, limits: Limits) -> None:
        self._limits = limits
        self._selector = selectors.DefaultSelector()
        self.processes: list[_Process] = []
        self._failed_starts = 0
        self._spare: _Process | None = None
        for _ in range(workers):
            self._add(_Process(limits))

    def close(self) -> None:
        for process in list(self.processes):
            self._remove(process)
        if self._spare:
            self._spare.end()
        self._selector.close()

    def run(self, tasks: Sequence[Task], done: Callable[[], object] = lambda: None, statements: int = 1) -> list[Reply]:
        """The replies to `tasks`, in their order; calls `done` after each. Raises RuntimeError if no worker starts.

        `statements`: how many statements a task runs at most, each with the full time limit.
        """
        waiting = deque(range(len(tasks)))
        # Kept: a large one is looked at again and again until a worker is free.
        message = functools.lru_cache(maxsize=1)(lambda task: encoded(tasks[task]))
        replies: dict[int, Reply] = {}
        deaths = [0] * len(tasks)
        try:
            while len(replies) < len(tasks):
                for process in [process for process in self.processes if process.ready]:
                    while waiting and len(process.tasks) < 1 + (len(waiting) > _PLENTY * len(self.processes)):
                        if process.tasks and len(message(waiting[0])) > _SMALL_BYTES:
                            break
                        process.assign(waiting[0], message(waiting.popleft()), statements)
                for task, reply in self._collect():
                    deaths[task] += reply is not None and reply[0] == Status.CRASHED
                    if reply is None or (reply[0] == Status.CRASHED and deaths[task] < _ATTEMPTS):
                        waiting.appendleft(task)
                    else:
                        replies[task] = reply
                        done()
        finally:  # after an exception (such as Ctrl-C) the next call must not receive replies to these tasks
            for process in [process for process in self.processes if process.tasks]:
                self._remove(process)
                self._add(_Process(self._limits))
        return [replies[task] for task in range(len(tasks))]

    def _collect(self) -> list[tuple[int, Reply | None]]:
        """Wait for messages: (task, reply); None for a task that was not begun. Replaces workers that died or hang."""
        found: list[tuple[int, Reply | None]] = []
        wait = min(process.deadline for process in self.processes) - time.monotonic()
        for process in [key.data for key, _ in self._selector.select(max(0.0, wait))]:
            try:
                found += process.replies()
            except (OSError, EOFError):
                found += self._replace(process)
            else:
                self._failed_starts = 0
        now = time.monotonic()
        for process in [process for process in self.processes if process.deadline < now]:
            if process.hangs(now):
                found += self._replace(process)
            else:  # comparing, racing, or short of CPU time
                process.deadline = now + _HANG_SECONDS
        return found

    def _replace(self, process: _Process) -> list[tuple[int, Reply | None]]:
        """End a process and start another. The reply to the task that it ran says why, if it ran one."""
        code = self._remove(process)
        self._failed_starts += not process.ready
        if self._failed_starts >= _FAILED_STARTS:
            raise RuntimeError(f"SQL workers do not start (exit code {code}); see their error above")
        # The spare has already started. Starting a process takes as long as a hundred quick queries.
        self._add(self._spare or _Process(self._limits))
        self._spare = _Process(self._limits)
        if not process.tasks:
            return []
        running, *others = process.tasks
        if not (reply := _ENDED_BY_LIMIT.get(code)):
            logger.warning("a SQL worker died (exit code %d); another replaces it", code)
            reply = Status.CRASHED, None, f"the worker died (exit code {code})"
        return [*((task, None) for task in others), (running, reply)]

    def _add(self, process: _Process) -> None:
        self.processes.append(process)
        self._selector.register(process.socket, selectors.EVENT_READ, process)

    def _remove(self, process: _Process) -> int:
        self._selector.unregister(process.socket)
        self.processes.remove(process)
        return process.end()
