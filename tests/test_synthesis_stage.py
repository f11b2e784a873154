"""The synthesize stage by hand: own databases, the built-in benchmark, folders, mixed-in questions, bad input."""

import contextlib
import hashlib
import json
import shutil
import sqlite3
from collections import Counter

import pytest
import sqlglot

from sqlr1.database.determinism import tie_orders
from sqlr1.database.schema import read_schema
from sqlr1.database.sql import to_sql
from sqlr1.evaluate.formats import read_questions as read_benchmark
from sqlr1.records import Catalogue, Database, Question, read_json, read_records, sha256
from sqlr1.sandbox import Executor, Limits, Query, Status
from sqlr1.stages.synthesize import main

CLASSES = {"Simple": 0.4, "Moderate": 0.3, "Complex": 0.2, "Highly Complex": 0.1}
OWN = {
    "domains": ["bookshop"], "held_out_domains": ["zoo"], "questions": 40, "benchmark_questions": 24,
    "classes": CLASSES, "folders": [], "folder_questions": 0, "mix": [],
}  # fmt: skip


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run the stage in a folder of its own; returns its output folder."""
    monkeypatch.chdir(tmp_path)

    def run_stage(seed=0, out="out", **settings):
        main(
            [
                "--settings",
                json.dumps({"synthesize": OWN | settings, "execution": {}}),
                "--seed",
                str(seed),
                "--out",
                out,
            ]
        )
        return tmp_path / out

    return run_stage


@pytest.fixture
def small_spider(tmp_path, monkeypatch):
    """A data root with one database in Spider's layout and two questions, one of them with a broken gold."""
    root = tmp_path / "data"
    (root / "spider/database/pets").mkdir(parents=True)
    with sqlite3.connect(root / "spider/database/pets/pets.sqlite") as connection:
        connection.executescript(
            "CREATE TABLE pet (pet_id INTEGER PRIMARY KEY, name TEXT, kind TEXT, weight REAL);"
            "INSERT INTO pet VALUES (1,'Rex','dog',20.5), (2,'Tom','cat',4), (3,'Ada','cat',5), (4,'Bob','dog',9);"
        )
    connection.close()
    rows = [
        {"db_id": "pets", "question": "Which cats?", "query": 'SELECT T1.name FROM pet as T1 WHERE kind  =  "cat"'},
        {"db_id": "pets", "question": "Broken?", "query": "SELECT colour FROM pet"},
    ]
    (root / "spider/train.json").write_text(json.dumps(rows))
    monkeypatch.setenv("SQLR1_DATA", str(root))
    return root


MIX = {"layout": "spider", "questions": "{data}/spider/train.json", "databases": "{data}/spider/database"}
FOLDER = {"databases": "{data}/spider/database", "db_ids": "{data}/spider/train.json"}


def test_own_domains_and_benchmark(run):
    out = run()
    questions = read_records(out / "questions.jsonl", Question)
    assert len(questions) == 40
    assert {q.db_id for q in questions} == {"bookshop"}
    catalogue = Catalogue(out / "catalogue.jsonl", out)
    assert catalogue["zoo"] == out / "databases/zoo/zoo.sqlite"
    assert {d.db_id: d.split for d in read_records(out / "catalogue.jsonl", Database)} == {
        "bookshop": "train",
        "zoo": "benchmark",
    }
    # A tenth of the question templates, by hash, is kept for the benchmark.
    assert all(hashlib.sha256(q.template.encode()).digest()[0] % 10 for q in questions)


def test_benchmark_is_readable_in_both_layouts_and_its_gold_runs(run):
    out = run()
    spider = read_benchmark("spider", out / "benchmark/spider/dev.json")
    bird = read_benchmark("bird", out / "benchmark/bird/dev.json")
    assert len(bird) == 24
    assert {q.gold for q in spider} <= {q.gold for q in bird}
    assert {q.db_id for q in bird} == {"zoo"}
    lines = (out / "benchmark/spider/dev_gold.sql").read_text().splitlines()
    assert [line.split("\t") for line in lines] == [[q.gold, q.db_id] for q in spider]
    with Executor(workers=1, limits=Limits()) as executor:
        done = executor.execute([Query(out / "databases/zoo/zoo.sqlite", q.gold) for q in bird])
    assert all(execution.status == Status.OK and execution.rows for execution in done)


def test_tables_json_describes_the_schema_in_spiders_format(run):
    out = run()
    (entry,) = read_json(out / "benchmark/spider/tables.json")
    schema = read_schema(out / "databases/zoo/zoo.sqlite")
    assert entry["table_names_original"] == [t.name for t in schema.tables]
    assert entry["column_names_original"][0] == [-1, "*"]
    assert (
        len(entry["column_names_original"])
        == len(entry["column_types"])
        == 1 + sum(len(t.columns) for t in schema.tables)
    )
    for child, parent in entry["foreign_keys"]:
        assert parent in entry["primary_keys"]
        assert entry["column_names_original"][child][0] >= 0
    assert (out / "databases/zoo/database_description/animal.csv").read_text().startswith("original_column_name,")


def test_equal_seeds_make_equal_bytes(run):
    first, again, other = run(out="a"), run(out="b"), run(seed=1, out="c")
    names = [
        "questions.jsonl",
        "catalogue.jsonl",
        "databases/zoo/zoo.sqlite",
        "benchmark/bird/dev.json",
        "manifest.json",
    ]
    assert [sha256(first / n) for n in names] == [sha256(again / n) for n in names]
    assert sha256(first / "databases/zoo/zoo.sqlite") != sha256(other / "databases/zoo/zoo.sqlite")


def test_folder_and_mixed_questions(run, small_spider):
    out = run(folders=[FOLDER], folder_questions=12, mix=[MIX])
    questions = read_records(out / "questions.jsonl", Question)
    assert sum(q.db_id == "pets" and q.style != "human" for q in questions) >= 10
    (human,) = [q for q in questions if q.style == "human"]
    assert human.sql == "SELECT T1.name FROM pet AS T1 WHERE kind = 'cat'"
    assert human.reasoning == "tables T1 pet; where kind = 'cat'; output T1.name"
    assert [q.question for q in read_records(out / "failed_golds.jsonl", Question)] == ["Broken?"]
    entry = next(d for d in read_records(out / "catalogue.jsonl", Database) if d.db_id == "pets")
    assert entry.path == "{data}/spider/database/pets/pets.sqlite"
    assert Catalogue(out / "catalogue.jsonl", small_spider)["pets"].is_file()


def test_rows_of_two_mixed_files_of_one_name_have_ids_of_their_own(run, small_spider):
    other = small_spider / "other/train.json"
    other.parent.mkdir()
    other.write_text(json.dumps([{"db_id": "pets", "question": "Which dogs?", "query": "SELECT name FROM pet"}]))
    out = run(mix=[MIX, MIX | {"questions": "{data}/other/train.json"}])
    ids = [q.id for q in read_records(out / "questions.jsonl", Question) if q.style == "human"]
    assert len(ids) == len(set(ids)) == 2


def test_questions_use_the_column_names_of_birds_descriptions(run, small_spider):
    folder = small_spider / "spider/database/pets/database_description"
    folder.mkdir()
    header = "original_column_name,column_name,column_description,data_format,value_description\n"
    (folder / "pet.csv").write_bytes(
        (header + "name,pet's full naïve name,,,\nkind,animal species,,,\n").encode("latin-1")
    )
    out = run(folders=[FOLDER], folder_questions=12)
    asked = [q for q in read_records(out / "questions.jsonl", Question) if q.db_id == "pets" and "kind" in q.sql]
    assert asked
    assert all("species" in q.question and "kind" not in q.question for q in asked)


def test_training_depends_on_the_descriptions_that_there_are(run, small_spider):
    """The hash of a database in the catalogue counts them, and a copy has none that the source has lost."""

    def catalogued():
        out = run(folders=[FOLDER], folder_questions=4, instances=1)
        hashes = {d.db_id: d.sha256 for d in read_records(out / "catalogue.jsonl", Database)}
        return hashes["pets"], {path.name for path in out.glob("instances/pets/database_description/*")}

    folder = small_spider / "spider/database/pets/database_description"
    folder.mkdir()
    (folder / "pet.csv").write_text("original_column_name,column_description\nkind,the species\n")
    (folder / "more.csv").write_text("original_column_name\n")
    both = catalogued()
    (folder / "pet.csv").write_text("original_column_name,column_description\nkind,dog or cat\n")
    changed = catalogued()
    (folder / "more.csv").unlink()
    one = catalogued()
    assert both[1] == changed[1] == {"pet.csv", "more.csv"}
    assert one[1] == {"pet.csv"}
    assert len({both[0], changed[0], one[0]}) == 3


def test_a_training_domain_keeps_no_descriptions_of_an_earlier_run_as_a_benchmark(run):
    assert (run() / "databases/zoo/database_description").is_dir()
    out = run(domains=["zoo"], held_out_domains=["bookshop"])
    assert not (out / "databases/zoo/database_description").exists()


def test_a_single_file_is_a_database_too(run, small_spider, tmp_path):
    path = shutil.move(small_spider / "spider/database/pets/pets.sqlite", tmp_path / "animals.db")
    out = run(folders=[{"databases": str(path)}], folder_questions=12)
    assert sum(q.db_id == "animals" for q in read_records(out / "questions.jsonl", Question)) >= 10
    entry = next(d for d in read_records(out / "catalogue.jsonl", Database) if d.db_id == "animals")
    assert (entry.path, entry.source) == (str(path), str(tmp_path))


def test_the_benchmark_has_instances_on_which_each_gold_is_determined(run):
    out = run(benchmark_instances=3)
    files = sorted((out / "databases/zoo").glob("*.sqlite"))
    assert [path.name for path in files] == ["zoo.sqlite", "zoo_1.sqlite", "zoo_2.sqlite", "zoo_3.sqlite"]
    assert [path.name for path in (out / "databases/bookshop").glob("*.sqlite")] == ["bookshop.sqlite"]
    rows = read_json(out / "benchmark/bird/dev.json")
    assert len(rows) == 24
    assert Counter(row["difficulty"] for row in rows) == {"simple": 10, "moderate": 7, "challenging": 7}
    both = [query for row in rows for query in tie_orders(sqlglot.parse_one(row["SQL"], read="sqlite"))]
    with Executor(1, Limits()) as executor:
        for path in files:
            executions = executor.execute([Query(path, to_sql(query)) for query in both])
            assert {execution.status for execution in executions} == {Status.OK}
            for first, last in zip(executions[::2], executions[1::2], strict=True):
                assert first.rows == last.rows
    hashes = {d.db_id: d.sha256 for d in read_records(out / "catalogue.jsonl", Database)}
    again = run(benchmark_instances=0)
    assert [path.name for path in (again / "databases/zoo").glob("*.sqlite")] == ["zoo.sqlite"]  # stale ones are gone
    without = {d.db_id: d.sha256 for d in read_records(run(out="plain") / "catalogue.jsonl", Database)}
    assert hashes["bookshop"] == without["bookshop"]
    assert hashes["zoo"] != without["zoo"]  # candidates and scores depend on the instances too


def test_instances_of_training_databases_are_what_the_catalogue_names(run):
    out = run(instances=2)
    paths = {d.db_id: d.path for d in read_records(out / "catalogue.jsonl", Database)}
    assert paths == {"bookshop": "instances/bookshop/bookshop.sqlite", "zoo": "databases/zoo/zoo.sqlite"}
    assert len(list((out / "instances/bookshop").glob("*.sqlite"))) == 3


def test_small_tables_of_mixed_in_databases_are_filled_in_their_instances(run, small_spider, monkeypatch):
    monkeypatch.setattr("sqlr1.stages.synthesize._FEW", 0)
    out = run(instances=1, instance_rows=50, mix=[MIX])
    counts = []
    for name in ("pets", "pets_1"):
        with contextlib.closing(sqlite3.connect(out / f"instances/pets/{name}.sqlite")) as connection:
            counts += connection.execute("SELECT COUNT(*) FROM pet").fetchone()
    assert counts[0] == 4
    assert 30 < counts[1] <= 50
    entry = next(d for d in read_records(out / "catalogue.jsonl", Database) if d.db_id == "pets")
    assert entry.path == "instances/pets/pets.sqlite"


def fails(capfd, run, message, **settings):
    with pytest.raises(SystemExit) as stopped:
        run(**settings)
    assert stopped.value.code == 1
    assert message in capfd.readouterr().err


def test_a_faulty_tables_file_is_named_with_its_entry(run, capfd, small_spider, tmp_path):
    (tmp_path / "tables.json").write_text('[{"db_id": "pets"}]')
    folder = {"databases": str(small_spider / "spider/database"), "tables": str(tmp_path / "tables.json")}
    message = "tables.json: entry 0 is not in the layout of Spider's tables.json ('table_names_original' is missing)"
    fails(capfd, run, message, folders=[folder], folder_questions=4)


def test_unknown_domain_is_named(run, capfd):
    fails(capfd, run, "config key synthesize.domains.atlantis: unknown; known: airline", domains=["atlantis"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"classes": dict.fromkeys(CLASSES, 0)}, "synthesize.classes: no class has a share above 0"),
        ({"classes": {"Easy": 1}}, "synthesize.classes.Easy: 'Easy': input should be 'Simple', 'Moderate'"),
        ({"styles": {"formal": 0}}, "synthesize.styles: no style has a share above 0"),
        ({"styles": {"shouting": 1}}, "synthesize.styles.shouting: 'shouting': input should be 'interrogative'"),
    ],
)
def test_shares_that_cannot_be_met_are_named(run, capfd, settings, message):
    fails(capfd, run, message, **settings)


def test_unknown_database_of_a_mixed_question_is_named(run, small_spider, capfd):
    rows = [{"db_id": "gone", "question": "q", "query": "SELECT 1"}]
    (small_spider / "spider/train.json").write_text(json.dumps(rows))
    fails(capfd, run, "train-0000000 names the unknown database 'gone'", mix=[MIX])


def test_missing_databases_are_skipped_and_counted_on_demand(run, small_spider, capfd):
    rows = [{"db_id": "gone", "question": "q", "query": "SELECT 1"}, {"db_id": "pets"}]
    (small_spider / "spider/train.json").write_text(json.dumps(rows))
    out = run(mix=[MIX | {"missing": "skip"}])
    assert len(read_records(out / "questions.jsonl", Question)) == 40
    log = capfd.readouterr().err
    assert "1 mixed-in questions skipped: no database gone" in log
    assert "1 mixed-in questions skipped: the row has no field 'question'" in log


def test_corrupt_database_is_named(run, small_spider, capfd):
    (small_spider / "spider/database/pets/pets.sqlite").write_bytes(b"nonsense" * 200)
    fails(capfd, run, "pets.sqlite: not a readable SQLite database", folders=[FOLDER], folder_questions=4)


def test_malformed_questions_file_is_named_with_its_line(run, small_spider, capfd):
    (small_spider / "spider/train.json").write_text('[\n{"db_id": "pets",\n]')
    fails(capfd, run, "train.json:3: not valid JSON", mix=[MIX])


def test_row_without_a_field_is_named(run, small_spider, capfd):
    (small_spider / "spider/train.json").write_text('[{"db_id": "pets", "question": "q"}]')
    fails(capfd, run, "row 0 has no field 'query'", mix=[MIX])


def test_two_databases_of_one_name_are_named(run, small_spider, capfd):
    copy_of_pets(small_spider, "INSERT INTO pet VALUES (5,'Eve','fish',1)")
    others = {"databases": "{data}/other"}
    fails(capfd, run, "other/pets/pets.sqlite are different databases of one name", folders=[FOLDER, others])
    fails(capfd, run, "are different databases of one name", folders=[others], mix=[MIX | {"missing": "skip"}])


def test_one_database_in_two_folders_is_asked_about_once(run, small_spider):
    copy_of_pets(small_spider, "")
    questions = read_records(
        run(folders=[FOLDER, {"databases": "{data}/other"}], folder_questions=12) / "questions.jsonl", Question
    )
    assert len({q.id for q in questions}) == len(questions) > 40


def copy_of_pets(root, change):
    (root / "other/pets").mkdir(parents=True)
    path = shutil.copy(root / "spider/database/pets/pets.sqlite", root / "other/pets")
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript(change)


def test_empty_folder_is_named(run, small_spider, capfd):
    fails(capfd, run, "no databases of the form", folders=[{"databases": "{data}/nowhere"}], folder_questions=4)
