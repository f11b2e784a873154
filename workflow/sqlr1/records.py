"""The record types that every stage reads and writes, and their files.

All files are JSON lines in UTF-8, one record per line, keys in the order of the dataclass, so that equal content means
equal bytes. Files are written under a temporary name and renamed: a reader never sees an unfinished file.
"""

import contextlib
import hashlib
import json
import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import IO, Any, TypeVar

SQL_CLASSES = ("Simple", "Moderate", "Complex", "Highly Complex")
# The nine question styles of OmniSQL.
STYLES = (
    "interrogative", "imperative", "formal", "colloquial", "descriptive", "concise", "vague", "metaphorical", "dialogue"
)  # fmt: skip


class InputError(Exception):
    """Bad input: the message names the file, key or row and says what to do. Stages print it and exit 1."""


@dataclass(frozen=True)
class Question:
    """A question over a database with its gold SQL. `id` is unique within a file; `db_id` resolves in a `Catalogue`.

    `template` is the shape and wording that it was generated from; empty if it was not generated here. `wrong_sql` is
    an answer that a user marked wrong: RL asks the question again.
    """

    id: str
    db_id: str
    question: str
    sql: str
    evidence: str = ""
    reasoning: str = ""
    sql_class: str = ""
    style: str = ""
    template: str = ""
    difficulty: str = ""
    wrong_sql: str = ""


@dataclass(frozen=True)
class Database:
    """One line of a catalogue. `path`: relative to the catalogue's folder, absolute, or below `{data}`, the data root.

    `source` is `embedded` or the configured folder, `split` is `train` or `benchmark`, `sha256` is the hash of the
    file's bytes, or with instances or descriptions the hash of all their hashes.
    """

    db_id: str
    path: str
    source: str
    split: str
    sha256: str


@dataclass(frozen=True)
class Candidates:
    """The raw completions of a policy for one question: the greedy one, and samples."""

    id: str
    db_id: str
    greedy: str
    samples: list[str]


@dataclass(frozen=True)
class Feedback:
    """What a user said about an answer, `sql`: `verdict` is right, wrong or corrected, and then `corrected` is the SQL.

    `database` is absolute or starts with `{data}`, `model` is the hash of the weights (empty without a manifest).
    """

    question: str
    evidence: str
    database: str
    db_id: str
    sql: str
    verdict: str
    corrected: str
    model: str
    time: str


Record = TypeVar("Record", Question, Database, Candidates, Feedback)


def stream_records(path: Path, kind: type[Record]) -> Iterator[Record]:
    """Yield the records of a JSONL file. Raises InputError naming the file and line of the first malformed record."""
    for number, row in read_jsonl(path):
        yield _record(f"{path}:{number}", row, kind)


def _record(where: str, row: dict[str, Any], kind: type[Record]) -> Record:
    if unknown := set(row) - {f.name for f in fields(kind)}:
        raise InputError(f"{where}: unknown field {sorted(unknown)[0]!r} for a {kind.__name__} record")
    for name, value in row.items():
        texts = value if name == "samples" else [value]
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            wanted = "a list of texts" if name == "samples" else "text"
            raise InputError(f"{where}: {name!r} must be {wanted}, not {value!r:.60}")
    try:
        return kind(**row)
    except TypeError as error:
        raise InputError(f"{where}: not a {kind.__name__} record: {error}") from error


def read_records(path: Path, kind: type[Record]) -> list[Record]:
    """All records of a JSONL file. Raises InputError as `stream_records` does."""
    return list(stream_records(path, kind))


class RecordFile(Sequence[Record]):
    """A JSONL file of `kind` as a sequence whose records stay on disk; only the offsets of its lines are in memory.

    Each record is checked when it is read, as by `stream_records`. Read by index, an error names it by its number.
    """

    def __init__(self, path: Path, kind: type[Record]) -> None:
        self.path, self.kind = Path(path), kind
        self._offsets = array("Q")
        offset = 0
        with readable(path), open(path, "rb") as file:
            for line in file:
                if line.strip():
                    self._offsets.append(offset)
                offset += len(line)

    def __len__(self) -> int:
        return len(self._offsets)

    def __iter__(self) -> Iterator[Record]:
        return stream_records(self.path, self.kind)

    def __getitem__(self, number: int) -> Record:
        with readable(self.path), open(self.path, "rb") as file:
            file.seek(self._offsets[number])
            line = file.readline()
        where = f"{self.path}: record {range(1, len(self) + 1)[number]}"
        return _record(where, _object(where, line), self.kind)


class Picked(RecordFile[Record]):
    """The records at byte `offsets` of a JSONL file of `kind`, in that order, as a sequence that stays on disk."""

    def __init__(self, path: Path, kind: type[Record], offsets: Iterable[int]) -> None:
        self.path, self.kind = Path(path), kind
        self._offsets = array("Q", offsets)

    def __iter__(self) -> Iterator[Record]:
        return map(self.__getitem__, range(len(self)))


@contextlib.contextmanager
def readable(where: Path | str, one_line: bool = False) -> Iterator[None]:
    """Turn errors of reading a text or JSON file into an InputError that names `where`, and the line if it has several.

    `where` is the file, or `one_line` of it.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise InputError(f"{where}: no such file") from error
    except OSError as error:
        raise InputError(f"{where}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        kind = error.encoding.upper()
        raise InputError(f"{where}: not {kind} text ({error.reason} at byte {error.start})") from error
    except json.JSONDecodeError as error:
        line = "" if one_line else f":{error.lineno}"
        raise InputError(f"{where}{line}: not valid JSON ({error.msg}, column {error.colno})") from error
    except (RecursionError, ValueError) as error:  # nested too deeply, or a number with too many digits
        raise InputError(f"{where}: not usable as JSON ({error})") from error


def read_jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number from 1, object). Raises InputError for a missing file and a line that is no JSON object."""
    with readable(path), open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield number, _object(f"{path}:{number}", line)


def _object(where: str, line: bytes) -> dict[str, Any]:
    with readable(where, one_line=True):
        row = json.loads(line.decode())
    if not isinstance(row, dict):
        raise InputError(f"{where}: expected a JSON object, found {type(row).__name__}")
    return row


def read_text(path: Path) -> str:
    """A file's text in UTF-8, -16 or -32, with or without a byte order mark; every line break becomes "\\n".

    Raises InputError for a missing file and for bytes that are no text.
    """
    with readable(path):
        data = Path(path).read_bytes()
        text = data.decode(json.detect_encoding(data))
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def read_json(path: Path) -> Any:
    """Read a JSON file. Raises InputError for a missing or malformed one, naming the line."""
    text = read_text(path)
    with readable(path):
        return json.loads(text)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file, empty if the file is. Raises InputError if it is missing or holds something else."""
    import yaml  # not in the sandbox's workers

    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        read = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(read, dict):
        raise InputError(f"{path}: not a mapping")
    return read


@contextlib.contextmanager
def atomic_write(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a file for writing that gets its name only if the block ends without an error."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_jsonl(path: Path, records: Iterable[Any]) -> None:
    """Write dataclass records (or plain dicts) as JSONL, atomically."""
    with atomic_write(path) as file:
        for record in records:
            file.write(json_line(record if isinstance(record, dict) else asdict(record)))


def json_line(row: dict[str, Any]) -> str:
    """A row as a line of a JSONL file."""
    return json.dumps(row, ensure_ascii=False) + "\n"


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file with sorted keys, atomically."""
    with atomic_write(path) as file:
        file.write(json.dumps(value, ensure_ascii=False, indent=1, sort_keys=True) + "\n")


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Catalogue:
    """The databases of the questions: `catalogue[db_id]` is the path of the SQLite file."""

    def __init__(self, path: Path, data_root: Path) -> None:
        self.path = Path(path)
        self.databases = {d.db_id: d for d in read_records(self.path, Database)}
        self._data_root = Path(data_root)

    def __getitem__(self, db_id: str) -> Path:
        """Raises InputError for a database that is not in the catalogue or whose file is missing."""
        if db_id not in self.databases:
            raise InputError(f"{self.path}: no database {db_id!r}; run the synthesize stage over its folder first")
        entry = self.databases[db_id].path
        inside = entry.removeprefix("{data}/")
        path = (self.path.parent if inside == entry else self._data_root) / inside
        if not path.is_file():
            raise InputError(f"{path}: database {db_id!r} is missing (data root: {self._data_root})")
        return path
