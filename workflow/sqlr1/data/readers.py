"""Existing text-to-SQL data: rows of Spider, BIRD and SynSQL-2.5M, and pairs of one's own, as `Question` records, read
as a stream. Feedback, which `sqlr1 ask` writes, is a layout too: see `data/feedback.py`.
"""

import csv
import hashlib
import heapq
import logging
import re
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sqlr1.data.feedback import judged
from sqlr1.database.files import LONGEST_FIELD
from sqlr1.records import SQL_CLASSES, InputError, Picked, Question, json_line, read_json, read_jsonl, readable

log = logging.getLogger(__name__)

# For each layout, the fields of a `Question` and the keys that they come from.
_REQUIRED = {
    "spider": {"db_id": "db_id", "question": "question", "sql": "query"},
    "bird": {"db_id": "db_id", "question": "question", "sql": "SQL"},
    "synsql": {"db_id": "db_id", "question": "question", "sql": "sql", "sql_class": "sql_complexity"},
    "pairs": {"question": "question", "sql": "sql"},
    "feedback": {"db_id": "db_id", "question": "question", "sql": "sql"},
}
_OPTIONAL = {
    "spider": {},
    "bird": {"evidence": "evidence", "difficulty": "difficulty"},
    "synsql": {"evidence": "external_knowledge", "reasoning": "cot", "style": "question_style"},
    "pairs": {"db_id": "db_id", "evidence": "evidence"},
    "feedback": {"evidence": "evidence", "wrong_sql": "wrong_sql"},
}


def read_questions(layout: str, path: Path, unusable: Counter[str] | None = None) -> Iterator[Question]:
    """Yield the questions of a file in one of the layouts; ids are `<file stem>-<row>`, rows from 0.

    Layout `pairs` has `question`, `sql` or `query`, and perhaps `db_id` and `evidence`, in any letter case. CSV, JSONL
    and Parquet files, and SynSQL's JSON, are streamed. Raises InputError for a missing or malformed file, and for a row
    that lacks a field or has one that is not text. With `unusable`, such rows are skipped and counted there by what is
    wrong with them, and a missing file of feedback is an empty one.
    """
    if layout == "feedback" and unusable is not None and not Path(path).exists():
        log.info("%s: no feedback yet", path)
        return
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file")
    for number, row in enumerate(_rows(layout, Path(path))):
        read = _converted(layout, f"{Path(path).stem}-{number:07d}", row)
        if isinstance(read, Question):
            yield read
        elif unusable is None:
            raise InputError(f"{path}: row {number} {read} (layout {layout})")
        else:
            unusable[read] += 1


def _converted(layout: str, identity: str, row: Any) -> Question | str:
    """The question, or what is wrong with the row, in words that continue `the row ...`."""
    if not isinstance(row, dict):
        return f"is no JSON object but {type(row).__name__}"
    if "SpiderSynQuestion" in row:  # Spider-Syn's name for it
        row = {"question": row["SpiderSynQuestion"], **row}
    if layout == "pairs":
        row = {key.lower(): value for key, value in row.items()}
        row |= {"sql": row["query"]} if "query" in row else {}  # in Spider's files `sql` is a syntax tree
    if lacking := [key for key in _REQUIRED[layout].values() if key not in row]:
        return f"has no field {lacking[0]!r}"
    values = {field: row[key] for field, key in _REQUIRED[layout].items()}
    values |= {field: row.get(key) or "" for field, key in _OPTIONAL[layout].items()}
    for name, value in values.items():
        if not isinstance(value, str):
            return f"has no text as {name!r} but {type(value).__name__}"
        if not value.isascii() and value != value.encode(errors="replace").decode():
            return f"has half of a character (a lone surrogate) in {name!r}"
    if layout == "pairs" and (empty := [name for name in _REQUIRED[layout] if not values[name].strip()]):
        return f"has an empty {empty[0]!r}"
    if values.get("sql_class", "") not in ("", *SQL_CLASSES):
        return f"has the SQL class {values['sql_class']!r}, which is not one of {', '.join(SQL_CLASSES)}"
    values.setdefault("db_id", "")
    return Question(identity, **values | {"style": values.get("style", "").lower()})


def _rows(layout: str, path: Path) -> Iterator[Any]:
    if layout == "feedback":
        return judged(path)
    if path.suffix.lower() == ".jsonl":
        return (row for _, row in read_jsonl(path))
    if read_table := READERS.get(path.suffix.lower()):
        return read_table(path)
    if layout == "synsql":
        return _streamed_json(path)
    rows = read_json(path)
    if not isinstance(rows, list):
        raise InputError(f"{path}: expected a JSON list of objects")
    return iter(rows)


def csv_rows(path: Path) -> Iterator[dict[str, str]]:
    """Yield the rows of a UTF-8 CSV file by the names in its first line; blank lines are skipped.

    Commas, semicolons, tabs or bars separate, whichever the first line has most of, outside quotes and brackets. Raises
    InputError for a file that is missing or not UTF-8, if the first line has as many of two of them, for names that are
    empty or repeated, and for a row of another length.
    """
    csv.field_size_limit(LONGEST_FIELD)
    with readable(path), open(path, encoding="utf-8-sig", newline="") as file:
        counts = Counter(re.sub(r'"[^"]*"|\([^)]*\)|\[[^]]*\]', "", file.readline()))
        file.seek(0)
        delimiter, other = sorted(",;\t|", key=lambda mark: -counts[mark])[:2]
        if counts[other] and counts[other] == counts[delimiter]:
            marks = f"as many {delimiter!r} as {other!r}"
            raise InputError(f"{path}:1: {marks}, so what separates is not clear; put names of columns into quotes")
        lines = csv.reader(file, delimiter=delimiter, skipinitialspace=True, strict=True)
        try:
            names = [name.strip() for name in next(lines, [])]
            check_names(path, names)
            for values in filter(None, lines):
                if len(values) != len(names):
                    raise InputError(f"{path}:{lines.line_num}: {len(values)} values for {len(names)} columns")
                yield dict(zip(names, values, strict=True))
        except csv.Error as error:
            raise InputError(f"{path}:{lines.line_num}: not valid CSV ({error})") from error


def check_names(path: Path, names: Sequence[str]) -> None:
    """Raises InputError if a column has no name, or two have one, in any letter case as in SQL."""
    if not names or not all(names):
        raise InputError(f"{path}: a column has no name; name each (in a CSV file by the first line)")
    if repeated := [name for name, count in Counter(name.lower() for name in names).items() if count > 1]:
        raise InputError(f"{path}: two columns are named {repeated[0]!r}; rename one")


def parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a Parquet file. Raises InputError if it is none, or damaged."""
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
        check_names(path, file.schema_arrow.names)
        for batch in file.iter_batches(batch_size=1000):
            yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a readable Parquet file ({error})") from error


READERS: dict[str, Callable[[Path], Iterator[dict[str, Any]]]] = {".csv": csv_rows, ".parquet": parquet_rows}


def _streamed_json(path: Path) -> Iterator[Any]:
    """Rows of SynSQL's data.json, which is one list of 9 GB."""
    import ijson

    with open(path, "rb") as file:
        try:
            yield from ijson.items(file, "item", use_float=True)
        except ijson.JSONError as error:
            reason = str(error).splitlines()[0]  # the other lines draw an arrow under the text
            raise InputError(f"{path}: not valid JSON near byte {file.tell()} ({reason})") from error


def draw(
    rows: Iterable[Question], limits: Mapping[str, int] | int | None, seed: int, scratch: Path
) -> Picked[Question]:
    """Draw at most `limits` rows, or that many of each class, or all, in one pass; in the order of `rows`.

    Each row has a pseudo-random rank by seed and id, and the lowest ranks are taken, so a larger limit only adds rows.
    Rows are written to `scratch` when they are among the lowest so far, and stay there: only places in that file are
    in memory. SynSQL-200K is 50,000 of each class, SynSQL-Complex-5K is {"Complex": 5000}.
    """
    heaps: dict[str, list[tuple[int, int]]] = {}
    all_rows = array("Q")
    offset = 0
    scratch.parent.mkdir(parents=True, exist_ok=True)
    with open(scratch, "wb") as file:
        for row in rows:
            if limits is None:
                all_rows.append(offset)
            else:
                name = row.sql_class if isinstance(limits, Mapping) else ""
                limit = limits.get(name, 0) if isinstance(limits, Mapping) else limits
                heap = heaps.setdefault(name, [])
                rank = int.from_bytes(hashlib.sha256(f"{seed}:{row.id}".encode()).digest()[:8], "big")
                if len(heap) < limit:
                    heapq.heappush(heap, (-rank, offset))
                elif not heap or heapq.heappushpop(heap, (-rank, offset))[1] == offset:
                    continue
            offset += file.write(json_line(vars(row)).encode())
    return Picked(scratch, Question, all_rows or sorted(place for heap in heaps.values() for _, place in heap))


def locate(rows: Iterable[Question], paths: Mapping[str, Path], missing: Counter[str] | None) -> Iterator[Question]:
    """Yield the rows whose database is in `paths`, with its name there; count the others by database in `missing`.

    SynSQL's names have stray newlines, spaces and quotes. So names are also compared by their letters and digits, if
    only one database in `paths` has these. A row without a name is about the only database in `paths`. If `missing` is
    None, raises InputError for the first row without a database.
    """

    def tidy(name: str) -> str:
        return "".join(character for character in name.lower() if character.isalnum())

    alike = Counter(map(tidy, paths))
    by_tidy_name = {tidy(name): name for name in paths if tidy(name) and alike[tidy(name)] == 1}
    only = next(iter(paths)) if len(paths) == 1 else None
    for row in rows:
        named = by_tidy_name.get(tidy(row.db_id)) if row.db_id else only
        name = row.db_id if row.db_id in paths else named
        if name is not None:
            yield row if name == row.db_id else replace(row, db_id=name)
        elif missing is None and not row.db_id:
            raise InputError(f"{row.id} names no database, and there are {len(paths)}: add the column db_id")
        elif missing is None:
            raise InputError(f"{row.id} names the unknown database {row.db_id!r}: add it, or set mix.missing to skip")
        else:
            missing[row.db_id] += 1
