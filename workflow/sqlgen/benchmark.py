"""The built-in benchmark in the file layouts of Spider and BIRD, so that their own tools read it."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sqlgen.naming import words
from sqlr1.database import Schema, Table, read_schema
from sqlr1.records import Question, atomic_write, write_json

_DIFFICULTY = {"Simple": "simple", "Moderate": "moderate", "Complex": "challenging", "Highly Complex": "challenging"}


def write_benchmark(folder: Path, questions: Sequence[Question], databases: Mapping[str, Path]) -> list[Path]:
    """Write `spider/{dev.json,tables.json,dev_gold.sql}` and `bird/{dev.json,dev_tables.json}`; returns the files.

    Spider's layout has no evidence, so questions that need some are in BIRD's only. Beside each database go BIRD's
    `database_description/<table>.csv`.
    """
    tables = [spider_tables(db_id, read_schema(path)) for db_id, path in databases.items()]
    plain = [q for q in questions if not q.evidence]
    spider, bird = folder / "spider", folder / "bird"
    write_json(spider / "dev.json", [{"db_id": q.db_id, "query": q.sql, "question": q.question} for q in plain])
    write_json(spider / "tables.json", tables)
    with atomic_write(spider / "dev_gold.sql") as file:
        file.writelines(f"{q.sql}\t{q.db_id}\n" for q in plain)
    write_json(bird / "dev.json", [_bird_row(number, q) for number, q in enumerate(questions)])
    write_json(bird / "dev_tables.json", tables)
    written = [
        spider / "dev.json",
        spider / "tables.json",
        spider / "dev_gold.sql",
        bird / "dev.json",
        bird / "dev_tables.json",
    ]
    for path in databases.values():
        written += [_describe(path, table) for table in read_schema(path).tables]
    return written


def _bird_row(number: int, question: Question) -> dict[str, Any]:
    return {
        "question_id": number,
        "db_id": question.db_id,
        "question": question.question,
        "evidence": question.evidence,
        "SQL": question.sql,
        "difficulty": _DIFFICULTY[question.sql_class],
    }


def spider_tables(db_id: str, schema: Schema) -> dict[str, Any]:
    """One entry of Spider's tables.json; columns are numbered across tables, from 1 after `*`."""
    columns = [(i, c) for i, table in enumerate(schema.tables) for c in table.columns]
    index = {(schema.tables[i].name, c.name): n for n, (i, c) in enumerate(columns, 1)}
    keys = [[index[k.table, k.column], index[k.parent, k.parent_column]] for k in schema.foreign_keys]
    return {
        "db_id": db_id,
        "table_names_original": [t.name for t in schema.tables],
        "table_names": [" ".join(words(t.name)) for t in schema.tables],
        "column_names_original": [[-1, "*"], *([i, c.name] for i, c in columns)],
        "column_names": [[-1, "*"], *([i, " ".join(words(c.name))] for i, c in columns)],
        "column_types": ["text", *(_spider_type(c.type) for _, c in columns)],
        "primary_keys": [index[t.name, name] for t in schema.tables for name in t.primary_key],
        "foreign_keys": keys,
    }


def _spider_type(declared: str) -> str:
    kind = declared.upper()
    if any(word in kind for word in ("INT", "REAL", "NUM", "DEC", "FLOA", "DOUB")):
        return "number"
    return "time" if "DATE" in kind or "TIME" in kind else "boolean" if "BOOL" in kind else "text"


def _describe(database: Path, table: Table) -> Path:
    path = database.parent / "database_description" / f"{table.name}.csv"
    with atomic_write(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(
            ["original_column_name", "column_name", "column_description", "data_format", "value_description"]
        )
        for column in table.columns:
            noun = " ".join(words(column.name))
            writer.writerow([column.name, noun, column.description or noun, column.type.lower(), ""])
    return path
