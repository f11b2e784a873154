"""The built-in benchmark in the file layouts of Spider and BIRD, so that their official tools can read it."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sqlgen.naming import words
from sqlr1.database import Schema, Table, read_schema
from sqlr1.records import Question, atomic_write, write_json

_DIFFICULTY = {"Simple": "simple", "Moderate": "moderate", "Complex": "challenging", "Highly Complex": "challenging"}


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
