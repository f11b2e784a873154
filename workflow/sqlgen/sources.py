"""The databases to ask about, and what their columns are called in questions."""

import csv
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlgen.naming import words
from sqlgen.populate import build_database
from sqlr1.database.files import database_files
from sqlr1.records import InputError, read_json

Names = Mapping[tuple[str, str], str]  # (table, column) in lower case -> the words for the column in a question


@dataclass(frozen=True)
class Source:
    """A database to ask about. `names` are words for columns whose own names say too little."""

    db_id: str
    path: Path
    names: Names


def builtin_sources(domains: Sequence[str], folder: Path, seed: int) -> list[Source]:
    """Build the databases of built-in domains as `folder/<domain>/<domain>.sqlite`. Equal seeds give equal bytes."""
    sources = [Source(domain, folder / domain / f"{domain}.sqlite", {}) for domain in domains]
    for source in sources:
        build_database(source.db_id, seed, source.path)
    return sources


def folder_sources(databases: Path, db_ids: Path | None = None, tables: Path | None = None) -> list[Source]:
    """The databases of a folder, or one file, as `database_files` finds them.

    Column names come from `tables`, a Spider tables.json. If it has none for a database, they come from BIRD's
    `database_description` beside the database. Raises InputError if there is no database or `tables` is malformed.
    """
    names = _spider_names(tables) if tables else {}
    paths = database_files(databases, db_ids)
    return [Source(db_id, path, names.get(db_id) or described_names(path)) for db_id, path in paths.items()]


def _spider_names(tables: Path) -> dict[str, Names]:
    """Column names by database. Raises InputError naming the entry that is not in Spider's layout."""
    names: dict[str, Names] = {}
    for number, entry in enumerate(read_json(tables)):
        try:
            originals = entry["table_names_original"]
            pairs = zip(entry["column_names_original"], entry["column_names"], strict=True)
            names[entry["db_id"]] = {
                (originals[i].lower(), name.lower()): noun.lower() for (i, name), (_, noun) in pairs if i >= 0
            }
        except (KeyError, TypeError, ValueError, IndexError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise InputError(
                f"{tables}: entry {number} is not in the layout of Spider's tables.json ({reason})"
            ) from error
    return names


def described_names(database: Path) -> Names:
    """Column names of at most four words from `database_description/<table>.csv`; none that two columns share.

    Some of BIRD's files are not valid UTF-8: the bytes in question are replaced.
    """
    names: dict[tuple[str, str], str] = {}
    for path in sorted(database.parent.glob("database_description/*.csv")):
        with open(path, encoding="utf-8-sig", errors="replace", newline="") as file:
            for row in csv.DictReader(file):
                column, noun = row.get("original_column_name") or "", " ".join(words(row.get("column_name") or ""))
                if re.fullmatch(r"[a-z][a-z0-9]*( [a-z0-9]+){0,3}", noun):
                    names[path.stem.lower(), column.strip().lower()] = noun
    uses = Counter((table, noun) for (table, _), noun in names.items())
    return {(table, column): noun for (table, column), noun in names.items() if uses[table, noun] == 1}
