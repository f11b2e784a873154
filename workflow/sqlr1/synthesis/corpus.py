"""The whole corpus: which databases, how many questions of which class over each, and who generates them."""

import multiprocessing
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tqdm import tqdm

from sqlr1.databases import profile
from sqlr1.execution import Executor, Limits
from sqlr1.records import InputError, Question, read_json, read_records, sha256, write_jsonl
from sqlr1.synthesis.generate import Manner, generate
from sqlr1.synthesis.world import World


@dataclass(frozen=True)
class Source:
    """A database to ask about. `names` overrides column nouns: (table, column) in lower case -> words."""

    db_id: str
    path: Path
    names: Mapping[tuple[str, str], str]


@dataclass(frozen=True)
class Order:
    """`total` questions with these class shares, worded in this manner."""

    total: int
    classes: Mapping[str, float]
    manner: Manner
    seed: int


_Task = tuple[Source, Mapping[str, int], Order, Path]
_WORTH_A_PROCESS = 1000  # starting processes takes as long as generating about so many questions


def folder_sources(databases: Path, db_ids: Path | None = None, tables: Path | None = None) -> list[Source]:
    """The databases of a folder in Spider's layout, `<db_id>/<db_id>.sqlite`, in the order of their names.

    `db_ids` is a questions file in Spider's layout: only the databases it names are used. `tables` is a tables.json
    whose column names are used in questions. Raises InputError when nothing is left.
    """
    paths = {path.stem: path for path in sorted(databases.glob("*/*.sqlite")) if path.stem == path.parent.name}
    if db_ids:
        wanted = {row.get("db_id") for row in read_json(db_ids)}
        paths = {db_id: path for db_id, path in paths.items() if db_id in wanted}
    if not paths:
        raise InputError(
            f"{databases}: no databases of the form <db_id>/<db_id>.sqlite" + (f" named in {db_ids}" if db_ids else "")
        )
    names = _given_names(tables) if tables else {}
    return [Source(db_id, path, names.get(db_id, {})) for db_id, path in paths.items()]


def _given_names(tables: Path) -> dict[str, dict[tuple[str, str], str]]:
    given: dict[str, dict[tuple[str, str], str]] = {}
    for entry in read_json(tables):
        originals = entry["table_names_original"]
        pairs = zip(entry["column_names_original"], entry["column_names"], strict=True)
        given[entry["db_id"]] = {
            (originals[index].lower(), name.lower()): noun.lower() for (index, name), (_, noun) in pairs if index >= 0
        }
    return given


def shares(total: int, weights: Mapping[str, float]) -> dict[str, int]:
    """Split `total` by weights; the largest remainders get what rounding leaves."""
    whole = sum(weights.values())
    exact = {name: total * weight / whole for name, weight in weights.items()}
    counts = {name: int(value) for name, value in exact.items()}
    by_remainder = sorted(exact, key=lambda name: counts[name] - exact[name])
    for name in by_remainder[: total - sum(counts.values())]:
        counts[name] += 1
    return counts


def generate_all(sources: Sequence[Source], order: Order, limits: Limits, workers: int, work: Path) -> list[Question]:
    """The ordered questions, spread evenly over the sources and in their order, whatever the number of processes.

    A source that cannot yield its share is not made up for by the others. What a source yielded is kept in `work` until
    all are done, so that an interrupted run goes on where it was; `work` has to change with settings and code.
    """
    tasks = [(s, q, order, work) for s, q in zip(sources, quotas(len(sources), order), strict=True) if sum(q.values())]
    bar = partial(tqdm, total=len(tasks), desc="synthesize", unit="database", disable=None)
    if workers == 1 or order.total < _WORTH_A_PROCESS:
        with Executor(workers=1, limits=limits) as executor:
            return [row for rows in bar(_from_source(task, executor) for task in tasks) for row in rows]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_start_process, initargs=(limits,)) as pool:
        return [row for rows in bar(pool.map(_in_process, tasks)) for row in rows]


def quotas(sources: int, order: Order) -> list[dict[str, int]]:
    """How many questions of each class each source yields. Classes start at different sources: few rows spread out."""
    counts = [dict.fromkeys(order.classes, 0) for _ in range(sources)]
    for offset, (name, count) in enumerate(shares(order.total, order.classes).items()):
        for number in range(count):
            counts[(number + offset * 7) % sources][name] += 1
    return counts


_executors: list[Executor] = []  # the one executor of a generating process


def _start_process(limits: Limits) -> None:
    _executors.append(Executor(workers=1, limits=limits))


def _in_process(task: _Task) -> list[Question]:
    return _from_source(task, _executors[0])


def _from_source(task: _Task, executor: Executor) -> list[Question]:
    source, quota, order, work = task
    done = work / f"{source.db_id}-{sha256(source.path)[:16]}-{order.manner.held_out}.jsonl"
    if done.is_file():
        return read_records(done, Question)
    rows = generate(World(profile(source.path), source.names), source.db_id, quota, order.manner, order.seed, executor)
    write_jsonl(done, rows)
    return rows
