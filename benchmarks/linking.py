"""Recall of the gold's tables, columns and values when the prompt's schema is cut to a share of its tokens.

    SQLR1_DATA=data python benchmarks/linking.py bird --tokenizer results/embedded/base_model/model --share 0.5

Sets: `bird` (dev; its databases are made without rows from dev_tables.json, with descriptions), `spider_train` and
`spider_dev`. For each question, `prompt.linking` gets the prompt's length with `--share` of its schema's tokens. What
was kept is read from the prompt itself, whose DDL SQLite runs. `possible` counts the questions whose gold and its keys
fit. `literals` are the texts of the gold that are in the database in this letter case. `--index N` instead measures a
database of N distinct values. The last line is JSON.
"""

import argparse
import json
import os
import random
import sqlite3
import tempfile
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

from tqdm import tqdm

from sqlr1.config import Prompt
from sqlr1.data.readers import locate, read_questions
from sqlr1.database.linking import Linker, gold_parts, recall_counts
from sqlr1.database.retrieval import ValueIndex
from sqlr1.database.schema import columns_of, identifier, read_schema
from sqlr1.database.text import schema_text
from sqlr1.model.prompts import Prompts
from sqlr1.prompt import prompt_messages
from sqlr1.records import Question, read_json

SPIDER = {"spider_train": "train_spider.json", "spider_dev": "dev.json"}


def read_set(name: str, data: Path, made: Path) -> tuple[list[Question], dict[str, Path]]:
    """Questions and databases of a set."""
    if name in SPIDER:
        paths = {p.stem: p for p in (data / "spider/database").glob("*/*.sqlite")}
        questions = read_questions("spider", data / "spider" / SPIDER[name])
    else:
        bird = data / "bird/dev"
        paths = {entry["db_id"]: without_rows(entry, bird, made) for entry in read_json(bird / "dev_tables.json")}
        questions = read_questions("bird", bird / "dev.json")
    return list(locate(questions, paths, Counter())), paths


def without_rows(entry: dict, bird: Path, made: Path) -> Path:
    """A database with the tables, types and keys of an entry of dev_tables.json; its path."""
    folder = made / entry["db_id"]
    folder.mkdir()
    described = bird / "dev_databases" / entry["db_id"] / "database_description"
    (folder / "database_description").symlink_to(described.resolve())
    tables = entry["table_names_original"]
    columns = [
        (t, identifier(name), kind)
        for (t, name), kind in zip(entry["column_names_original"], entry["column_types"], strict=True)
    ]
    path = folder / f"{entry['db_id']}.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        for number, table in enumerate(tables):
            parts = [f"{name} {kind}" for t, name, kind in columns if t == number]
            keys = [[k] if isinstance(k, int) else k for k in entry["primary_keys"]]
            parts += [
                f"PRIMARY KEY ({', '.join(columns[c][1] for c in key)})" for key in keys if columns[key[0]][0] == number
            ]
            parts += [
                f"FOREIGN KEY ({columns[c][1]}) REFERENCES {identifier(tables[columns[p][0]])} ({columns[p][1]})"
                for c, p in entry["foreign_keys"]
                if columns[c][0] == number
            ]
            connection.execute(f"CREATE TABLE {identifier(table)} ({', '.join(parts)})")
    return path


def least_length(linker: Linker, tables: set[str], columns: set[tuple[str, str]], tokenizer: Any) -> int:
    """Tokens of the smallest schema that has the gold's parts, with the keys that `Linker.cut` adds."""
    schema = linker.schema
    places = [(t.name, c.name) for t in schema.tables for c in t.columns if (t.name.lower(), c.name.lower()) in columns]
    without = tables - {table.lower() for table, _ in places}
    places += [(t.name, t.columns[0].name) for t in schema.tables if t.name.lower() in without]
    return len(tokenizer(schema_text(linker.cut(places), "ddl", 0))["input_ids"])


def columns_in(ddl: str) -> dict[str, set[str]]:
    """Columns by table, in lower case, as SQLite understands the prompt's schema."""
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(ddl)
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        pragma = "SELECT lower(name) FROM pragma_table_info(?)"
        return {table.lower(): {name for (name,) in connection.execute(pragma, (table,))} for table in tables}


def value_counts(index: ValueIndex, question: str, literals: set[str], count: int) -> Counter[str]:
    """How many of the gold's literals that the database holds are among the `count` values shown for the question."""
    known = {literal for literal in literals if literal in index.values}
    shown = {mention.value for mention in index.mentioned(question, count)}
    return Counter({
        "literals": len(known),
        "literals shown": len(known & shown),
        "values shown": len(shown),
        "questions without literal": not known,
        "their values shown": 0 if known else len(shown),
    })  # fmt: skip


def measure(name: str, args: argparse.Namespace, made: Path) -> dict[str, float]:
    """Recall over the questions of a set."""
    from transformers import AutoTokenizer

    questions, paths = read_set(name, Path(os.environ.get("SQLR1_DATA", "data")), made)
    if args.databases != "all":
        half = sorted({q.db_id for q in questions})[args.databases == "odd" :: 2]
        questions = [q for q in questions if q.db_id in half]
    if args.limit and args.limit < len(questions):
        questions = random.Random(0).sample(questions, args.limit)
    tokenizer = AutoTokenizer.from_pretrained(args.tokenizer)
    base = {"schema": "ddl", "retrieved_values": args.values, "max_length": 1_000_000}
    whole, linked = Prompts(tokenizer, Prompt(**base)), Prompts(tokenizer, Prompt(**base, linking=args.linking))
    columns = {db_id: columns_of(read_schema(path)) for db_id, path in paths.items()}
    sums, seconds = Counter(), 0.0
    for question in tqdm(questions, disable=None):
        database = paths[question.db_id]
        messages, ids = whole.prompt(question, database)
        without = prompt_messages("", question.question, question.evidence)
        rest = len(tokenizer.apply_chat_template(without, add_generation_prompt=True, return_dict=False))
        limit = rest + (args.tokens or round(args.share * (len(ids) - rest)))
        linked.settings = linked.settings.model_copy(update={"max_length": limit})
        start = time.perf_counter()
        messages, cut = linked.prompt(question, database)
        seconds += time.perf_counter() - start
        user = messages[1]["content"]
        ddl = user.rpartition("\n);\n")[0]
        kept = columns_in(ddl + "\n);") if cut else {}
        tables, gold, literals = gold_parts(question.sql, columns[question.db_id])
        missed = {(t, c) for t, c in gold if c not in kept.get(t, ())}
        possible = least_length(linked._databases[database].linker, tables, gold, tokenizer) <= limit - rest
        sums["possible"] += possible
        sums["possible, all tables"] += possible and tables <= set(kept)
        sums["possible, all columns"] += possible and not missed
        if args.misses and (tables - set(kept) or missed):
            said = (question.question, question.evidence, sorted(missed), sorted(tables - set(kept)))
            print(question.db_id, *said, sep=" | ")
        sums["fit"] += cut is not None
        sums.update(recall_counts(tables, gold, kept))
        sums["schema tables"] += len(columns[question.db_id])
        sums["schema tables kept"] += len(kept)
        sums["tokens"] += len(ids) - rest
        sums["tokens kept"] += len(cut) - rest if cut else 0
        if args.values:
            asked = f"{question.question}\n{question.evidence}"
            sums.update(value_counts(whole._databases[database].values, asked, literals, args.values))
    n = sums["questions"]
    return dict(sums) | {
        "recall of tables": sums["tables kept"] / sums["tables"],
        "questions with all tables": sums["all tables"] / n,
        "recall of columns": sums["columns kept"] / sums["columns"],
        "questions with all columns": sums["all columns"] / n,
        "where possible, questions with all tables": sums["possible, all tables"] / sums["possible"],
        "where possible, questions with all columns": sums["possible, all columns"] / sums["possible"],
        "share of tokens": sums["tokens kept"] / sums["tokens"],
        "ms per prompt": 1000 * seconds / n,
    }  # fmt: skip


def index_time(count: int, folder: Path) -> dict[str, float]:
    """Seconds to build and to load the index of `count` distinct values of three words, and to look a question up."""
    rng = random.Random(0)
    syllables = ["ka", "ro", "mi", "ten", "sol", "ver", "da", "lu", "pex", "no"]
    names = ["".join(rng.choices(syllables, k=3)) for _ in range(5000)]
    path = folder / "many.sqlite"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE t (v TEXT)")
        connection.executemany(
            "INSERT INTO t VALUES (?)", ((f"{' '.join(rng.choices(names, k=3))} {n}",) for n in range(count))
        )
    figures = {}
    for name in ("built", "loaded"):
        start = time.perf_counter()
        index = ValueIndex(read_schema(path), folder / "cache")
        figures[f"seconds {name}"] = time.perf_counter() - start
    start = time.perf_counter()
    found = index.mentioned(f"How many are called {index.values[count // 2]}?", 5)
    return figures | {"seconds per question": time.perf_counter() - start, "found": len(found)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("sets", nargs="*", choices=[*SPIDER, "bird", []])
    parser.add_argument("--tokenizer", type=Path, help="folder of a model")
    parser.add_argument("--share", type=float, default=0.5)
    parser.add_argument("--tokens", type=int, help="room for the schema in every prompt, in place of --share")
    parser.add_argument("--values", type=int, default=0, help="prompt.retrieved_values")
    parser.add_argument("--linking", type=lambda text: text if text == "fit" else int(text), default="fit")
    parser.add_argument("--limit", type=int, help="questions, sampled")
    parser.add_argument("--databases", choices=["all", "even", "odd"], default="all", help="a half, by sorted name")
    parser.add_argument("--misses", action="store_true", help="print what is missing")
    parser.add_argument("--index", type=int, metavar="N")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = {name: measure(name, args, Path(folder)) for name in args.sets}
        if args.index:
            results["index"] = index_time(args.index, Path(folder))
    for name, figures in results.items():
        print(name, *(f"{key} {value:.4g}" for key, value in figures.items()), sep="\n  ")
    print(
        json.dumps(
            {
                "benchmark": "linking",
                "share": args.share,
                "linking": args.linking,
                "tokens": args.tokens,
                "results": results,
            }
        )
    )


if __name__ == "__main__":
    main()
