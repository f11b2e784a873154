"""The databases to ask about, what their columns are called, and the benchmark in the layouts of Spider and BIRD."""

import csv
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlgen.naming import words
from sqlgen.populate import build_database
from sqlr1.database.files import database_files, description_rows
from sqlr1.database.schema import Schema, Table, read_schema
from sqlr1.records import InputError, Question, atomic_write, read_json, write_json

_DIFFICULTY = {"Simple": "simple", "Moderate": "moderate", "Complex": "challenging", "Highly Complex": "challenging"}
_SPIDER_KEYS = ("db_id", "table_names_original", "column_names_original", "column_names")
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
    entries = read_json(tables)
    if not isinstance(entries, list):
        raise InputError(f"{tables}: expected a list of databases, found {type(entries).__name__}")
    for number, entry in enumerate(entries):
        try:
            db_id, originals, own, other = (entry[key] for key in _SPIDER_KEYS)
            if not isinstance(originals, list):
                raise TypeError("'table_names_original' is no list")
            for name in (db_id, *originals, *(name for _, name in [*own, *other])):
                if not isinstance(name, str):
                    raise TypeError(f"{name!r:.40} where a name belongs")
            pairs = zip(own, other, strict=True)
            names[db_id] = {(originals[i].lower(), c.lower()): noun.lower() for (i, c), (_, noun) in pairs if i >= 0}
        except (KeyError, TypeError, ValueError, IndexError) as error:
            reason = f"{error} is missing" if isinstance(error, KeyError) else error
            layout = "the layout of Spider's tables.json"
            raise InputError(f"{tables}: entry {number} is not in {layout} ({reason})") from error
    return names


def described_names(database: Path) -> Names:
    """Column names of at most four words from BIRD's descriptions; none that two of the described columns share."""
    nouns, names = {}, {}
    for table, row in description_rows(database):
        column, given = row.get("original_column_name", "").strip(), row.get("column_name", "").strip()
        key, noun = (table.lower(), column.lower()), " ".join(words(given)) if given else ""
        nouns.setdefault(key, " ".join(words(column)))
        if re.fullmatch(r"[a-z][a-z0-9]*( [a-z0-9]+){0,3}", noun):
            nouns[key] = names[key] = noun
    uses = Counter((table, noun) for (table, _), noun in nouns.items())
    return {(table, column): noun for (table, column), noun in names.items() if uses[table, noun] == 1}


def write_benchmark(folder: Path, questions: Sequence[Question], databases: Mapping[str, Path]) -> list[Path]:
    """Write `spider/{dev.json,tables.json,dev_gold.sql}` and `bird/{dev.json,dev_tables.json}`; returns all files.

    Spider's layout has no evidence, so questions that need some are in BIRD's only. BIRD's
    `database_description/<table>.csv` are written beside each database.
    """
    schemas = {db_id: read_schema(path) for db_id, path in databases.items()}
    tables = [_spider_tables(db_id, schema) for db_id, schema in schemas.items()]
    plain = [q for q in questions if not q.evidence]
    bird = [
        {"question_id": number, "db_id": q.db_id, "question": q.question, "evidence": q.evidence, "SQL": q.sql}
        | {"difficulty": _DIFFICULTY[q.sql_class]}
        for number, q in enumerate(questions)
    ]
    contents = {
        "spider/dev.json": [{"db_id": q.db_id, "query": q.sql, "question": q.question} for q in plain],
        "spider/tables.json": tables,
        "bird/dev.json": bird,
        "bird/dev_tables.json": tables,
    }
    for name, content in contents.items():
        write_json(folder / name, content)
    gold = folder / "spider/dev_gold.sql"
    with atomic_write(gold) as file:
        file.writelines(f"{q.sql}\t{q.db_id}\n" for q in plain)
    described = [_describe(databases[db_id], table) for db_id, schema in schemas.items() for table in schema.tables]
    return [*(folder / name for name in contents), gold, *described]


def _spider_tables(db_id: str, schema: Schema) -> dict[str, Any]:
    """One entry of Spider's tables.json; columns are numbered across tables, from 1: 0 is `*`."""
    columns = [(i, c) for i, table in enumerate(schema.tables) for c in table.columns]
    index = {(schema.tables[i].name, c.name): n for n, (i, c) in enumerate(columns, 1)}
    return {
        "db_id": db_id,
        "table_names_original": [t.name for t in schema.tables],
        "table_names": [" ".join(words(t.name)) for t in schema.tables],
        "column_names_original": [[-1, "*"], *([i, c.name] for i, c in columns)],
        "column_names": [[-1, "*"], *([i, " ".join(words(c.name))] for i, c in columns)],
        "column_types": ["text", *(_spider_type(c.type) for _, c in columns)],
        "primary_keys": [index[t.name, name] for t in schema.tables for name in t.primary_key],
        "foreign_keys": [[index[k.table, k.column], index[k.parent, k.parent_column]] for k in schema.foreign_keys],
    }


def _spider_type(declared: str) -> str:
    kind = declared.upper()
    if any(word in kind for word in ("INT", "REAL", "NUM", "DEC", "FLOA", "DOUB")):
        return "number"
    return "time" if "DATE" in kind or "TIME" in kind else "boolean" if "BOOL" in kind else "text"


def _describe(database: Path, table: Table) -> Path:
    """Write BIRD's description of a table; returns the file."""
    path = database.parent / "database_description" / f"{table.name}.csv"
    header = ["original_column_name", "column_name", "column_description", "data_format", "value_description"]
    nouns = {column: " ".join(words(column.name)) for column in table.columns}
    with atomic_write(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows([c.name, noun, c.description or noun, c.type.lower(), ""] for c, noun in nouns.items())
    return path
