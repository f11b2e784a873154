"""The whole corpus: which databases, how many questions of which class over each, and who generates them."""

import csv
import hashlib
import logging
import multiprocessing
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from sqlgen.generate import Manner, check_shares, generate, sql_key
from sqlgen.naming import words
from sqlgen.speakable import SpeakableDatabase
from sqlr1.data.split import shares
from sqlr1.database import profile
from sqlr1.records import SQL_CLASSES, InputError, Question, read_json, sha256, stream_records, write_jsonl
from sqlr1.sandbox import Executor, Limits

log = logging.getLogger(__name__)


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

    def __post_init__(self) -> None:
        """Raises InputError for an unknown class, and when no class has a share."""
        check_shares("synthesize.classes", self.classes, SQL_CLASSES)


# What a source is asked for in one round, and the files of the rounds before: their SQL is not wanted again.
_Task = tuple[Source, Mapping[str, int], Order, Path, tuple[Path, ...]]
_Yield = tuple[Path, Counter[str]]  # the file of what a source yielded, and how many rows of each class it has
_ROUNDS = 3  # what some databases cannot yield is asked of the others so many times in all
_WORTH_A_PROCESS = 1000  # starting processes takes as long as generating about so many questions


def folder_sources(databases: Path, db_ids: Path | None = None, tables: Path | None = None) -> list[Source]:
    """The databases of a folder in Spider's layout, `<db_id>/<db_id>.sqlite`, in the order of their names; or one file.

    `db_ids` is a questions file in Spider's layout: only the databases it names are used. `tables` is a tables.json
    whose column names are used in questions; else those of BIRD's `database_description` beside a database are. Raises
    InputError when nothing is left.
    """
    if databases.is_file():
        paths = {databases.stem: databases}
    else:
        paths = {path.stem: path for path in sorted(databases.glob("*/*.sqlite")) if path.stem == path.parent.name}
    if db_ids:
        wanted = {row.get("db_id") for row in read_json(db_ids)}
        if absent := sorted(map(str, wanted - set(paths))):
            log.warning("%s: %d databases of %s are absent: %s", databases, len(absent), db_ids, ", ".join(absent[:20]))
        paths = {db_id: path for db_id, path in paths.items() if db_id in wanted}
    if not paths:
        raise InputError(
            f"{databases}: no databases of the form <db_id>/<db_id>.sqlite" + (f" named in {db_ids}" if db_ids else "")
        )
    names = _given_names(tables) if tables else {}
    return [Source(db_id, path, names.get(db_id) or _described_names(path)) for db_id, path in paths.items()]


def distinct(sources: Iterable[Source]) -> list[Source]:
    """The sources, each database once. Raises InputError for two different files of one name: rows name it alone."""
    found: dict[str, Source] = {}
    for source in sources:
        first = found.setdefault(source.db_id, source)
        if first.path.resolve() != source.path.resolve() and sha256(first.path) != sha256(source.path):
            raise InputError(f"{first.path} and {source.path} are different databases of one name; rename one of them")
    return list(found.values())


def _given_names(tables: Path) -> dict[str, dict[tuple[str, str], str]]:
    given: dict[str, dict[tuple[str, str], str]] = {}
    for number, entry in enumerate(read_json(tables)):
        try:
            originals = entry["table_names_original"]
            pairs = zip(entry["column_names_original"], entry["column_names"], strict=True)
            given[entry["db_id"]] = {
                (originals[i].lower(), name.lower()): noun.lower() for (i, name), (_, noun) in pairs if i >= 0
            }
        except (KeyError, TypeError, ValueError, IndexError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise InputError(
                f"{tables}: entry {number} is not in the layout of Spider's tables.json ({reason})"
            ) from error
    return given


def _described_names(database: Path) -> dict[tuple[str, str], str]:
    """Column names in at most four words, from `database_description/<table>.csv`, where they tell columns apart.

    Some of BIRD's files are not quite UTF-8.
    """
    given: dict[tuple[str, str], str] = {}
    for path in sorted(database.parent.glob("database_description/*.csv")):
        with open(path, encoding="utf-8-sig", errors="replace", newline="") as file:
            for row in csv.DictReader(file):
                column, noun = row.get("original_column_name") or "", " ".join(words(row.get("column_name") or ""))
                if re.fullmatch(r"[a-z][a-z0-9]*( [a-z0-9]+){0,3}", noun):
                    given[path.stem.lower(), column.strip().lower()] = noun
    meanings = Counter((table, noun) for (table, _), noun in given.items())
    return {key: noun for key, noun in given.items() if meanings[key[0], noun] == 1}


def generate_all(
    sources: Sequence[Source], order: Order, limits: Limits, workers: int, work: Path
) -> Iterator[Question]:
    """The ordered questions, spread evenly over the sources and in their order, whatever the number of processes.

    What a source cannot yield of its share is asked of those that yielded theirs. All are made when this returns, and
    read from `work` one after another. An interrupted run goes on where it was; `work` has to change with settings and
    code.
    """
    if workers == 1 or order.total < _WORTH_A_PROCESS:
        with Executor(workers=1, limits=limits) as executor:
            files = _in_rounds(sources, order, work, lambda tasks: (_from_source(task, executor) for task in tasks))
    else:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, context, initializer=_start_process, initargs=(limits,)) as pool:
            files = _in_rounds(sources, order, work, lambda tasks: pool.map(_in_process, tasks))
    return (row for file in files for row in stream_records(file, Question))


def _in_rounds(
    sources: Sequence[Source], order: Order, work: Path, run: Callable[[list[_Task]], Iterable[_Yield]]
) -> list[Path]:
    """The files of what the sources yielded, in the order of the sources."""
    files: list[tuple[Path, ...]] = [() for _ in sources]
    missing = Counter(shares(order.total, order.classes))
    wanted = quotas(len(sources), order)
    for _ in range(_ROUNDS):
        asked = [i for i, quota in enumerate(wanted) if sum(quota.values())]
        tasks = [(sources[i], wanted[i], order, work, files[i]) for i in asked]
        found = tqdm(run(tasks), total=len(tasks), desc="synthesize", unit="database", disable=None)
        able: dict[str, list[int]] = {name: [] for name in order.classes}
        for i, (file, got) in zip(asked, found, strict=True):
            files[i] += (file,)
            missing.subtract(got)
            for name, count in wanted[i].items():
                if count and got[name] == count:
                    able[name].append(i)
        wanted = [dict.fromkeys(order.classes, 0) for _ in sources]
        for name, count in missing.items():
            for turn in range(count if able[name] else 0):
                wanted[able[name][turn % len(able[name])]][name] += 1
        if not any(sum(quota.values()) for quota in wanted):
            break
    if short := {name: count for name, count in missing.items() if count}:
        log.warning("%d of %d questions could not be made: %s", sum(short.values()), order.total, short)
    return [file for own in files for file in own]


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


def _in_process(task: _Task) -> _Yield:
    return _from_source(task, _executors[0])


def _from_source(task: _Task, executor: Executor) -> _Yield:
    source, quota, order, work, before = task
    names = [file.name for file in before]
    asked = repr([sha256(source.path), sorted(source.names.items()), sorted(quota.items()), order, names])
    done = work / f"{source.db_id}-{hashlib.sha256(asked.encode()).hexdigest()[:16]}.jsonl"
    if not done.is_file():
        db = SpeakableDatabase(profile(source.path), source.names)
        taken = [sql_key(row.sql) for file in before for row in stream_records(file, Question)]
        rows = generate(db, source.db_id, quota, order.manner, order.seed, executor, taken)
        write_jsonl(done, rows)
    return done, Counter(row.sql_class for row in stream_records(done, Question))
