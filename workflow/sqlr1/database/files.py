"""Where databases are (a file, or a folder of `<db_id>/<db_id>.sqlite` or `<db_id>.sqlite`), and their catalogue."""

import csv
import hashlib
import logging
import os
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from sqlr1.records import Database, InputError, read_json, readable, sha256

log = logging.getLogger(__name__)
SUFFIXES = (".sqlite", ".sqlite3", ".db", ".db3", ".sl3", ".s3db")  # in any letter case
SQLITE_MAGIC = b"SQLite format 3\0"


def sqlite_files(databases: Path) -> list[Path]:
    """The SQLite files of a folder, `<folder>/*.sqlite` before those in the folder itself; or the one file `databases`,
    whatever its suffix.

    With them are the instances of a database, which are beside `<db_id>/<db_id>.sqlite`.
    """
    if databases.is_file():
        return [databases]
    inner, flat = ([p for p in sorted(databases.glob(level)) if p.suffix.lower() in SUFFIXES] for level in ("*/*", "*"))
    return [p for p in inner if p.suffix.lower() == ".sqlite" or p.stem == p.parent.name] + flat


def start_of(path: Path) -> bytes:
    """The first bytes of the file, as many as `SQLITE_MAGIC` has; b"" if there is no such file."""
    if not os.path.isfile(path):
        return b""
    with open(path, "rb") as file:
        return file.read(len(SQLITE_MAGIC))


LONGEST_FIELD = 2**31 - 1  # of a CSV; Python's own limit is 128 kB
_HOT_JOURNAL = bytes.fromhex("d9d505f920a163d7")  # first bytes of a rollback journal; zero in one that is finished


def data_root() -> Path:
    """The folder of benchmarks and databases: SQLR1_DATA, which the Snakefile sets from `data.root`."""
    return Path(os.environ.get("SQLR1_DATA") or "data").expanduser()


def database_files(databases: Path, db_ids: Path | None = None) -> dict[str, Path]:
    """The databases of a folder by name; or the one file `databases`. A folder with a database of its own name is that
    database with its instances.

    `db_ids` is a questions file in Spider's layout: only databases that it names are used. Raises InputError if there
    are none, or two of one name.
    """
    found = sqlite_files(databases)
    if databases.is_dir():
        own = [p for p in found if p.parent == databases and p.name.lower() == f"{databases.name}.sqlite".lower()]
        found = own or [p for p in found if p.parent in (databases, databases / p.stem)]
    paths = merged((path.stem, path) for path in found)
    if db_ids:
        rows = read_json(db_ids)
        if not (isinstance(rows, list) and all(isinstance(r, dict) and isinstance(r.get("db_id"), str) for r in rows)):
            raise InputError(f"{db_ids}: not a list of questions in Spider's layout, each with its db_id")
        wanted = {row["db_id"] for row in rows}
        if absent := sorted(wanted - set(paths)):
            log.warning("%s: %d databases of %s are absent: %s", databases, len(absent), db_ids, ", ".join(absent[:20]))
        paths = {db_id: path for db_id, path in paths.items() if db_id in wanted}
    if not paths:
        named = f" named in {db_ids}" if db_ids else ""
        raise InputError(f"{databases}: no databases of the form <db_id>/<db_id>.sqlite or <db_id>.sqlite{named}")
    return paths


def check_journals(database: Path) -> None:
    """Raise InputError if rows of the database may still be in a journal beside it (sqlite.org/tempfiles.html).

    We open databases as immutable, so that SQL cannot change them. SQLite then reads the file alone.
    """
    for suffix, start in (("-wal", b""), ("-journal", _HOT_JOURNAL)):
        journal = f"{os.path.realpath(database)}{suffix}"
        if os.path.isfile(journal) and os.path.getsize(journal):
            with open(journal, "rb") as file:
                if not file.read(len(start)).startswith(start):
                    continue
            name = os.path.basename(journal)
            command = "SELECT count(*) FROM sqlite_master; PRAGMA wal_checkpoint(TRUNCATE)"
            raise InputError(
                f"{database}: some of its rows may still be in {name}; close the program that writes it, then "
                f"run: sqlite3 {shlex.quote(str(database))} '{command}'"
            )


def description_rows(database: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """(table, row) of BIRD's `database_description/<table>.csv` beside a database; empty fields are left out.

    Bytes that are no UTF-8, which some of BIRD's files have, are replaced. Raises InputError for an unreadable file.
    """
    csv.field_size_limit(LONGEST_FIELD)
    for path in sorted(database.parent.glob("database_description/*.csv")):
        with readable(path), open(path, encoding="utf-8-sig", errors="replace", newline="") as file:
            for row in csv.DictReader(file):
                yield path.stem, {name: text for name, text in row.items() if name and text}


def merged(databases: Iterable[tuple[str, Path]]) -> dict[str, Path]:
    """Files by database name, the first one of each name.

    Raises InputError if files of one name differ: questions identify their database by its name alone.
    """
    found: dict[str, Path] = {}
    for db_id, path in databases:
        first = found.setdefault(db_id, path)
        if first.resolve() != path.resolve() and sha256(first) != sha256(path):
            raise InputError(f"{first} and {path} are different databases of one name; rename one of them")
    return found


def catalogue_entry(
    db_id: str, files: Sequence[Path], source: str, split: str, out: Path, hashes: Mapping[str, str]
) -> Database:
    """The catalogue line of a database whose instances are `files`; the first one stands for all.

    `hashes` has those of files that were hashed already. The path is relative to the catalogue's folder `out` if it is
    inside, else to the data root if it is inside there.
    """
    shown = files[0].relative_to(out).as_posix() if files[0].is_relative_to(out) else portable(files[0])
    # Of all that training depends on: each instance, and the descriptions that prompts are made with.
    descriptions = sorted(files[0].parent.glob("database_description/*.csv")) if split == "train" else []
    contents = [hashes.get(str(file)) or sha256(file) for file in (*files, *filter(Path.is_file, descriptions))]
    contents += [csv.name for csv in descriptions]
    combined = contents[0] if len(contents) == 1 else hashlib.sha256("".join(contents).encode()).hexdigest()
    return Database(db_id, shown, source, split, combined)


def portable(path: Path) -> str:
    """`{data}/...` for a path inside the data root, so that it holds on other machines; else the absolute path."""
    root, path = data_root().resolve(), path.resolve()
    return "{data}/" + path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


def resolve(path: str) -> Path:
    """A path of the configuration, with the data root for `{data}`."""
    return Path(path.replace("{data}", str(data_root())))
