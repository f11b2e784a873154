"""Work on many databases in several processes, each with its own executor of SQL."""

import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

from sqlr1.records import Question
from sqlr1.sandbox import Executor, Limits

Task = TypeVar("Task")
Result = TypeVar("Result")
WORTH_A_PROCESS = 1000  # starting processes takes as long as filtering, styling or generating about this many rows
_work: list[Callable[[Any], Any]] = []  # what a worker process does with a task


@contextmanager
def executor_processes(
    make: Callable[[Executor], Callable[[Task], Result]], limits: Limits, workers: int
) -> Iterator[Callable[[Iterable[Task]], Iterator[Result]]]:
    """Yield a `map` over tasks that keeps their order. `make(executor)` is called once in each of `workers` processes.

    With one worker everything happens in this process. Otherwise `make`, tasks and results are pickled.
    """
    if workers == 1:
        with Executor(workers=1, limits=limits) as executor:
            yield partial(map, make(executor))
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_start, initargs=(make, limits)) as pool:
        yield partial(pool.map, _run)


def by_database(rows: Iterable[Question]) -> dict[str, list[int]]:
    """The numbers of the rows over each database; first those that are asked again, which repeat no other row."""
    groups: dict[str, tuple[list[int], list[int]]] = {}
    for number, row in enumerate(rows):
        again, others = groups.setdefault(row.db_id, ([], []))
        (again if row.wrong_sql else others).append(number)
    return {db_id: again + others for db_id, (again, others) in groups.items()}


def _start(make: Callable[[Executor], Callable[[Any], Any]], limits: Limits) -> None:
    _work.append(make(Executor(workers=1, limits=limits)))


def _run(task: Any) -> Any:
    return _work[0](task)
