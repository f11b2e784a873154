"""`sqlr1 init`: an experiment from a user's own files, and one line for what it cannot use."""

import datetime
import decimal
import shlex
import shutil
import sqlite3
from dataclasses import replace
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import yaml
from conftest import copy_checkout, snakemake
from tiny_models import smollm2

from sqlgen import GenerationRequest, builtin_sources, generate
from sqlr1.cli import main
from sqlr1.config import Synthesize
from sqlr1.config_files import read_config
from sqlr1.data.readers import read_questions
from sqlr1.data.split import SUBSETS
from sqlr1.database.files import database_files
from sqlr1.database.schema import quote, read_schema
from sqlr1.evaluate.formats import database_path
from sqlr1.evaluate.formats import read_questions as read_benchmark
from sqlr1.model.base import load_tokenizer
from sqlr1.model.prompts import Prompts
from sqlr1.prompt import format_response
from sqlr1.records import SQL_CLASSES, Question, read_jsonl, sha256, write_json, write_jsonl
from sqlr1.sandbox import Limits
from sqlr1.stages import filter

CUSTOMERS = (
    "id;name;zip;joined;score;card;note\n1;Ada;00123;2020-01-02;1.5;12345678901234567890;\n2;Bob;;2021-03-04;2;1;\n"
)
SALES = "sale_id,customer_id,amount\n10,1,3\n11,1,4.25\n12,2,\n"


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    return copy_checkout(tmp_path_factory.mktemp("init"))


@pytest.fixture
def folder(checkout, monkeypatch):
    """The checkout as the working folder, without what another test wrote."""
    shutil.rmtree(checkout / "data", ignore_errors=True)
    for path in (checkout / "workflow/config").glob("t_*.yaml"):
        path.unlink()
    monkeypatch.chdir(checkout)
    return checkout


@pytest.fixture
def shop(tmp_path):
    path = tmp_path / "t_my shop.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE customer (id INTEGER PRIMARY KEY, name TEXT)")
        connection.execute("INSERT INTO customer VALUES (1, 'Ada'), (2, 'Bob')")
    connection.close()
    return path


def refused(capsys, *arguments):
    """The one line that `sqlr1 init` ends with."""
    with pytest.raises(SystemExit) as stopped:
        main(["init", *map(str, arguments)])
    assert stopped.value.code.startswith("error: ")
    assert "\n" not in stopped.value.code
    assert capsys.readouterr().out == ""
    return stopped.value.code


def configured(folder, name):
    return read_config([folder / "config.yaml", folder / f"workflow/config/{name}.yaml"])


def rows_of(path, table):
    connection = sqlite3.connect(path)
    rows = connection.execute(f'SELECT * FROM "{table}"').fetchall()
    connection.close()
    return rows


def test_a_sqlite_file_is_pointed_at_and_not_changed(folder, shop, capsys):
    before = sha256(shop)
    main(["init", str(shop)])
    config = configured(folder, "t_my_shop")
    assert config.experiment == "t_my_shop"
    assert config.synthesize.folders[0].databases == config.benchmarks["own"].databases == str(shop)
    assert [name for name, entry in config.benchmarks.items() if entry] == ["own"]
    assert config.filter.test_rows > 0
    assert config.prompt.max_length >= 384
    out = capsys.readouterr().out
    assert "customer" in out
    assert "id INTEGER, name TEXT" in out
    assert "snakemake --configfile workflow/config/t_my_shop.yaml" in out
    assert sha256(shop) == before
    assert [path.name for path in shop.parent.iterdir()] == [shop.name]


@pytest.mark.parametrize("name", ["t_shop.SQLITE", "t_shop.DB", "t_shop.Db3", "t_shop.data", "t_shop"])
def test_a_sqlite_file_of_any_suffix_is_known_by_its_content(folder, shop, tmp_path, name):
    path = shop.rename(tmp_path / name)
    main(["init", str(path)])
    assert configured(folder, "t_shop").benchmarks["own"].databases == str(path)
    assert database_files(path) == {"t_shop": path}
    assert database_path(path, "t_shop") == path


@pytest.mark.parametrize("place", ["t_dbs/{0}/{0}.sqlite", "t_dbs/{0}.db", "t_dbs/{0}.SQLITE", "t_dbs/{0}/{0}.DB"])
def test_a_folder_of_databases(folder, shop, tmp_path, capsys, place):
    for db_id in ("a", "b"):
        target = tmp_path / place.format(db_id)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(shop, target)
    main(["init", str(tmp_path / "t_dbs")])
    assert configured(folder, "t_dbs").synthesize.folders[0].databases == str(tmp_path / "t_dbs")
    assert {db_id: database_path(tmp_path / "t_dbs", db_id) for db_id in "ab"} == database_files(tmp_path / "t_dbs")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[2:4]] == [["a", "1", "2", "0"], ["b", "1", "2", "0"]]


def wide(path, tables, names):
    with sqlite3.connect(path) as connection:
        for number in range(tables):
            connection.execute(f'CREATE TABLE "{names[0]}_{number}" ({", ".join(map(quote, names))})')
            connection.execute(f'INSERT INTO "{names[0]}_{number}" VALUES ({", ".join("1" * len(names))})')
    connection.close()


@pytest.mark.parametrize(
    "name",
    [
        "measured_quantity",
        "BUKRS VBELN",
        "BUKRS",
        "q2019_01_31_",
        "дата_рождения",
        "πελάτες",
        "客户编号",
        "หมายเลขลูกค้า",
        "العملاء",
    ],
)
def test_prompts_over_wide_schemas_fit(folder, tmp_path, name):
    """Tokens per character differ by ten times between alphabets."""
    wide(tmp_path / "t_wide.sqlite", 4, [f"{name}{letter}" for letter in "abcdefghijkl"])
    main(["init", str(tmp_path / "t_wide.sqlite")])
    settings = configured(folder, "t_wide").prompt
    assert settings.linking is None
    question = Question("", "t_wide", f"How many {name} have a {name} of one?", "")
    ids = Prompts(load_tokenizer(smollm2()), settings).token_ids(question, tmp_path / "t_wide.sqlite")
    assert ids
    assert settings.max_length < 3 * len(ids) + 128


def test_a_schema_longer_than_the_models_context_is_cut_to_what_is_relevant(folder, tmp_path, capsys):
    wide(tmp_path / "t_huge.sqlite", 60, [f"VBELN_{number}" for number in range(40)])
    main(["init", str(tmp_path / "t_huge.sqlite")])
    assert "prompts leave out what is least relevant to a question (prompt.linking)" in capsys.readouterr().out
    config = configured(folder, "t_huge")
    assert config.prompt.linking == "fit"
    assert config.prompt.max_length + config.grpo.max_completion_length < 8192
    prompts = Prompts(load_tokenizer(smollm2()), config.prompt)
    assert prompts.token_ids(Question("", "t_huge", "How many VBELN_3?", ""), tmp_path / "t_huge.sqlite")


def test_csv_files_become_one_database_with_types_and_keys(folder, tmp_path, capsys):
    (tmp_path / "customers.csv").write_text(CUSTOMERS, encoding="utf-8-sig")
    (tmp_path / "Sales 2020.csv").write_text(SALES)
    main(["init", str(tmp_path), "--name", "t_csv"])
    made = folder / "data/t_csv/t_csv.sqlite"
    config = configured(folder, "t_csv")
    assert config.synthesize.folders[0].databases == config.benchmarks["own"].databases == "data/t_csv/t_csv.sqlite"
    schema = read_schema(made)
    assert [(c.name, c.type) for c in schema.table("customers").columns] == [
        ("id", "INTEGER"), ("name", "TEXT"), ("zip", "TEXT"), ("joined", "TEXT"), ("score", "REAL"), ("card", "TEXT"),
        ("note", "TEXT"),
    ]  # fmt: skip
    assert [table.primary_key for table in schema.tables] == [("sale_id",), ("id",)]
    (key,) = schema.foreign_keys
    assert (key.table, key.column, key.parent, key.parent_column) == ("Sales 2020", "customer_id", "customers", "id")
    assert rows_of(made, "customers") == [
        (1, "Ada", "00123", "2020-01-02", 1.5, "12345678901234567890", None),
        (2, "Bob", None, "2021-03-04", 2.0, "1", None),
    ]
    assert rows_of(made, "Sales 2020") == [(10, 1, 3.0), (11, 1, 4.25), (12, 2, None)]
    assert "customer_id -> customers.id" in capsys.readouterr().out
    assert [path.name for path in made.parent.iterdir()] == [made.name]


def test_numbers_in_a_csv_file_are_those_that_keep_their_value(folder, tmp_path):
    """`pandas` writes small and large numbers with an exponent; one column for each number."""
    numbers = ["1.10", "1e-05", "1.5E-7", "-2e+20", "1e+100", ".5", "0.0"]
    others = ["2E10", "1e999", "1.5e999", "01.5", "1.2.3", "1234567890123456.5", "1e"]
    header = ",".join(f"c{n}" for n in range(len(numbers + others)))
    (tmp_path / "t_e.csv").write_text(f"{header}\n{','.join(numbers + others)}\n{','.join(['0.5'] * 14)}\n")
    main(["init", str(tmp_path / "t_e.csv")])
    types = [c.type for c in read_schema(folder / "data/t_e/t_e.sqlite").tables[0].columns]
    assert types == ["REAL"] * 7 + ["TEXT"] * 7
    assert rows_of(folder / "data/t_e/t_e.sqlite", "t_e")[0] == (*map(float, numbers), *others)


def test_a_parquet_file_keeps_its_types(folder, tmp_path):
    rows = [
        {"code": "1", "n": 1, "ok": True, "day": datetime.date(2020, 1, 2), "price": decimal.Decimal("1.50"), "x": 1.0},
        {"code": "2", "n": None, "ok": False, "day": None, "price": None, "x": float("nan")},
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "t_item.parquet")
    main(["init", str(tmp_path / "t_item.parquet")])
    made = folder / "data/t_item/t_item.sqlite"
    assert rows_of(made, "t_item") == [("1", 1, 1, "2020-01-02", 1.5, 1.0), ("2", None, 0, None, None, None)]
    (table,) = read_schema(made).tables
    assert [c.type for c in table.columns] == ["TEXT", "INTEGER", "INTEGER", "TEXT", "REAL", "REAL"]
    assert table.primary_key == ("code",)


def test_own_questions_are_mixed_in_with_their_classes(folder, shop, tmp_path):
    sql = "SELECT name, COUNT(*) FROM customer GROUP BY name"
    (tmp_path / "asked.csv").write_text(f'question,sql\nHow many?,SELECT COUNT(*) FROM customer\nBy name?,"{sql}"\n')
    main(["init", str(shop), "--questions", str(tmp_path / "asked.csv")])
    config = configured(folder, "t_my_shop")
    (entry,) = config.synthesize.mix
    assert (entry.layout, entry.questions, entry.databases) == ("pairs", str(tmp_path / "asked.csv"), str(shop))
    assert config.filter.rl_classes == ["Simple", "Moderate"]
    assert config.filter.classes["Moderate"] == 1
    assert config.filter.classes["Complex"] == 0


def test_questions_of_the_classes_of_own_test_questions_are_generated_and_kept(folder, shop, tmp_path):
    sql = "SELECT name, COUNT(*) FROM customer GROUP BY name"
    (tmp_path / "kept.csv").write_text(f'question,sql\nHow many of each name?,"{sql}"\n')
    main(["init", str(shop), "--test-questions", str(tmp_path / "kept.csv")])
    config = configured(folder, "t_my_shop")
    for classes in (config.synthesize.classes, config.filter.classes):
        assert [name for name, weight in classes.items() if weight] == ["Simple", "Moderate"]
    assert config.filter.rl_classes == ["Simple", "Moderate"]


def test_answers_of_the_classes_that_are_generated_fit(folder, tmp_path):
    """Sizes follow the highest class of the given questions."""
    sources = builtin_sources(["bank", "zoo"], tmp_path / "t_domains", 0)
    (tmp_path / "work").mkdir()
    request = GenerationRequest(120, dict.fromkeys(SQL_CLASSES, 0.25), Synthesize().styles, 5)
    rows = list(generate(sources, request, Limits(), 1, tmp_path / "work"))
    tokenizer, longest = load_tokenizer(smollm2()), 0
    for number, name in enumerate(SQL_CLASSES):
        answers = [format_response("", row.sql) for row in rows if row.sql_class == name]
        longest = max(longest, *(len(ids) for ids in tokenizer(answers, add_special_tokens=False)["input_ids"]))
        shortest = min((row for row in rows if row.sql_class == name), key=lambda row: len(row.sql))
        asked = {"db_id": shortest.db_id, "question": shortest.question, "sql": shortest.sql}
        write_json(tmp_path / "asked.json", [asked])
        given = ["--name", f"t_{number}", "--test-questions", f"{tmp_path}/asked.json"]
        main(["init", f"{tmp_path}/t_domains", *given])
        config = configured(folder, f"t_{number}")
        [size] = {config.select.max_new_tokens, config.grpo.max_completion_length, config.candidates.max_new_tokens}
        assert longest < size < 3 * longest  # one more ends the answer


def test_own_test_questions_are_a_benchmark_and_nothing_like_them_is_trained_on(folder, shop, tmp_path):
    """The filter drops rows with their SQL, up to literals, or with their question; it keeps others over the file."""
    (tmp_path / "asked.csv").write_text(
        "question,sql\nWhat are customers called?,SELECT name FROM customer\n"
        "What is Bob's number?,SELECT id FROM customer WHERE name = 'Bob'\n"
        "How many are there?,SELECT MAX(id) FROM customer\n"
    )
    (tmp_path / "kept.csv").write_text(
        "question,sql\nHow many are there?,SELECT COUNT(*) FROM customer\n"
        "Which number has Ada?,SELECT c.id FROM customer AS c WHERE c.name = 'Ada'\n"
    )
    main(["init", str(shop), "--questions", f"{tmp_path}/asked.csv", "--test-questions", f"{tmp_path}/kept.csv"])
    config = configured(folder, "t_my_shop")
    entry = config.benchmarks["own_questions"]
    assert [(q.db_id, q.gold) for q in read_benchmark(entry.layout, folder / entry.questions)] == [
        (shop.stem, "SELECT COUNT(*) FROM customer"),
        (shop.stem, "SELECT c.id FROM customer AS c WHERE c.name = 'Ada'"),
    ]
    assert (entry.databases, entry.same_databases) == (str(shop), True)
    (mix,) = config.synthesize.mix
    rows = [replace(q, db_id=shop.stem, sql_class="Simple") for q in read_questions(mix.layout, Path(mix.questions))]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    catalogued = {"db_id": shop.stem, "path": str(shop), "source": "x", "split": "train", "sha256": ""}
    write_jsonl(tmp_path / "catalogue.jsonl", [catalogued])
    overlay = folder / "workflow/config/t_my_shop.yaml"
    run = snakemake(folder, "-np", "results/t_my_shop/filter/rl.jsonl", "--configfile", str(overlay))
    [command] = [line for line in run.stdout.splitlines() if "-m sqlr1.stages.filter" in line]
    words = shlex.split(command)
    arguments = words[words.index("sqlr1.stages.filter") + 1 :]
    arguments[arguments.index("--questions") + 1] = f"{tmp_path}/rows.jsonl"
    arguments[arguments.index("--catalogue") + 1] = f"{tmp_path}/catalogue.jsonl"
    arguments[arguments.index("--out") + 1] = f"{tmp_path}/filter"
    filter.main(arguments)
    dropped = {row["question"]: row["reason"] for _, row in read_jsonl(tmp_path / "filter/dropped.jsonl")}
    assert dropped == {
        "What is Bob's number?": "contaminated_sql",
        "How many are there?": "contaminated_question",
    }
    written = [r["question"] for name in SUBSETS for _, r in read_jsonl(tmp_path / f"filter/{name}.jsonl")]
    assert written == ["What are customers called?"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", b"a,A\n1,2\n", "two columns are named 'a'"),
        ("t.csv", b"a,b\n1,\xff\n", "not UTF-8 text"),
        ("t.csv", b"a,b\n", "no rows"),
        ("t.csv", b"id;Last, first\n1;Doe, J\n", "as many ',' as ';', so what separates is not clear"),
        ("t.csv", b"", "a column has no name"),
        ("t.parquet", b"PAR1", "not a readable Parquet file"),
        ("t.xlsx", b"PK", "save a spreadsheet as CSV"),
        ("t.sql", b"CREATE TABLE t (a);", "load a dump into a SQLite file"),
        ("t.sqlite", b"no database, but long enough for the header of one" * 9, "not a readable SQLite database"),
        ("t.sqlite", b"", "the database has no tables"),
        ("t{1}.csv", b"a\n1\n", "braces"),
    ],
)
def test_a_bad_file_is_refused_in_one_line_and_nothing_is_written(folder, tmp_path, capsys, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    line = refused(capsys, path, "--name", "t_bad")
    assert message in line
    assert str(path) in line
    assert not (folder / "workflow/config/t_bad.yaml").exists()
    assert not (folder / "data").exists()


def test_a_nested_parquet_column_is_named(folder, tmp_path, capsys):
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([{"id": 1, "tags": ["a"]}]), tmp_path / "t.parquet")
    assert "column 'tags' holds list" in refused(capsys, tmp_path / "t.parquet")


def test_a_bad_folder_or_question_file_is_refused(folder, shop, tmp_path, capsys):
    assert "no such file or folder" in refused(capsys, tmp_path / "gone")
    (tmp_path / "empty").mkdir()
    assert "neither a SQLite file" in refused(capsys, tmp_path / "empty")
    (tmp_path / "t.csv").write_text("a\n1\n")
    assert "has databases" in refused(capsys, tmp_path)
    (tmp_path / "t").mkdir()
    for name in ("t.csv", "T.csv"):
        (tmp_path / "t" / name).write_text("a\n1\n")
    assert "are tables of one name" in refused(capsys, tmp_path / "t")
    (tmp_path / "asked.jsonl").write_text('{"question": "q"}\n')
    assert "row 0 has no field 'sql'" in refused(capsys, shop, "--questions", tmp_path / "asked.jsonl")
    (tmp_path / "asked.jsonl").write_text("")
    assert "no questions" in refused(capsys, shop, "--questions", tmp_path / "asked.jsonl")
    assert "no questions" in refused(capsys, shop, "--test-questions", tmp_path / "asked.jsonl")
    assert "--name '../x'" in refused(capsys, shop, "--name", "../x")
    assert not list((folder / "workflow/config").glob("t_*.yaml"))
    assert not (folder / "data").exists()


def test_a_database_that_is_not_what_it_seems_is_refused(folder, shop, tmp_path, capsys):
    """An unfinished write-ahead log is not read, and a folder with a database of its name has copies of that one."""
    (tmp_path / f"{shop.name}-wal").write_text("x")
    assert "close the program that writes it" in refused(capsys, shop)
    (tmp_path / "zoo").mkdir()
    for name in ("zoo", "park"):
        shutil.copy2(shop, tmp_path / f"zoo/{name}.sqlite")
    for path in (tmp_path / "zoo", tmp_path / "zoo/zoo.sqlite", tmp_path):
        assert "zoo/park.sqlite: in a folder zoo with zoo.sqlite, other databases are copies" in refused(capsys, path)
    (tmp_path / "zoo").rename(tmp_path / "t_other")
    main(["init", str(tmp_path / "t_other/zoo.sqlite"), "--name", "t_zoo"])
    capsys.readouterr()
    with sqlite3.connect(tmp_path / "t_none.sqlite") as connection:
        connection.execute("CREATE TABLE t (a)")
    connection.close()
    assert "no rows to ask about" in refused(capsys, tmp_path / "t_none.sqlite")


def test_nothing_is_overwritten_without_force(folder, tmp_path, capsys):
    (tmp_path / "t_a.csv").write_text("id\n1\n")
    main(["init", str(tmp_path / "t_a.csv")])
    config, made = folder / "workflow/config/t_a.yaml", folder / "data/t_a/t_a.sqlite"
    before = sha256(config), sha256(made)
    (tmp_path / "t_a.csv").write_text("id\n1\n2\n")
    capsys.readouterr()
    assert "t_a.yaml is there already" in refused(capsys, tmp_path / "t_a.csv")
    config.unlink()
    assert "t_a.sqlite is there already" in refused(capsys, tmp_path / "t_a.csv")
    assert sha256(made) == before[1]
    main(["init", str(tmp_path / "t_a.csv"), "--force"])
    assert (sha256(config), rows_of(made, "t_a")) == (before[0], [(1,), (2,)])


def test_the_database_is_not_written_among_the_users_own_files(folder, capsys):
    (folder / "data/t_b").mkdir(parents=True)
    (folder / "data/t_b/sales.csv").write_text(SALES)
    assert "data/t_b/t_b.sqlite would be written among your own files" in refused(capsys, "data/t_b")
    for again in ([], ["--force"]):
        main(["init", "data/t_b", "--name", "t_c", *again])
    assert [path.name for path in (folder / "data/t_b").iterdir()] == ["sales.csv"]


def test_outside_a_checkout_it_says_where_to_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert "in the folder of the Snakefile" in refused(capsys, "x.sqlite")


def test_the_workflow_plans_it_and_names_a_benchmark_without_rows(folder, shop):
    main(["init", str(shop)])
    overlay = folder / "workflow/config/t_my_shop.yaml"
    run = snakemake(folder, "-n", "--configfile", str(overlay))
    assert run.returncode == 0, run.stdout + run.stderr
    for rule in ("synthesize", "filter", "score: own", "report"):
        assert f": {rule}" in run.stdout + run.stderr
    settings = yaml.safe_load(overlay.read_text())
    settings["filter"]["test_rows"] = 0
    overlay.write_text(yaml.safe_dump(settings))
    run = snakemake(folder, "-n", "--configfile", str(overlay))
    assert run.returncode != 0
    assert "config key benchmarks.own: is made of filter.test_rows, which is 0" in run.stdout + run.stderr
