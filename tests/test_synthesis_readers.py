"""Spider, BIRD and SynSQL files as records."""

import json
import tracemalloc
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from test_execution import make

from sqlr1.data import mix
from sqlr1.data.processes import by_database
from sqlr1.data.readers import csv_rows, draw, locate, read_questions
from sqlr1.records import InputError, Question
from sqlr1.sandbox import Limits

SYNSQL = {
    "db_id": "shop's\n db", "sql_complexity": "Complex", "question_style": "Formal", "question": "q",
    "external_knowledge": "", "cot": "because", "sql": "SELECT 1",
}  # fmt: skip


def test_spider(data_root):
    train = list(read_questions("spider", data_root / "spider/train_spider.json"))
    dev = list(read_questions("spider", data_root / "spider/dev.json"))
    assert (len(train), len(dev)) == (7000, 1034)
    assert len({q.id for q in train}) == 7000
    assert dev[0].sql == "SELECT count(*) FROM singer"


def prepared(scratch, rows, paths, workers=1):
    tasks = [(numbers, paths[db_id]) for db_id, numbers in by_database(rows).items()]
    return [list(part) for part in mix.prepare(rows, tasks, "short", Limits(), workers, scratch / "rows.jsonl")]


def test_questions_asked_again_come_first_in_their_own_order():
    wrong = ["", "SELECT 1", "", "SELECT 2", "SELECT 3"]
    rows = [Question(str(n), "shop", "q", "SELECT 0", wrong_sql=sql) for n, sql in enumerate(wrong)]
    assert by_database([*rows, replace(rows[0], db_id="zoo")]) == {"shop": [1, 3, 4, 0, 2], "zoo": [5]}


def test_rows_are_prepared_the_same_in_several_batches(data_root, tmp_path, monkeypatch):
    rows = [q for q in read_questions("spider", data_root / "spider/dev.json") if q.db_id == "concert_singer"][:9]
    rows[4] = replace(rows[4], sql="SELECT nothing FROM singer")
    paths = {"concert_singer": data_root / "spider/database/concert_singer/concert_singer.sqlite"}
    rows[5] = replace(rows[5], reasoning="because", sql="SELECT   count(*) from  singer")
    whole = prepared(tmp_path, rows, paths)
    monkeypatch.setattr(mix, "_AT_ONCE", 4)
    monkeypatch.setattr(mix, "WORTH_A_PROCESS", 1)
    assert prepared(tmp_path, rows, paths, workers=2) == whole
    assert [[q.id for q in part] for part in whole] == [[q.id for q in rows if q != rows[4]], [rows[4].id]]
    assert all(q.reasoning and q.sql_class for q in whole[0])


def test_a_row_with_its_own_reasoning_keeps_its_own_sql(tmp_path):
    """As SynSQL's, whose reasoning quotes the SQL; other rows are restyled."""
    path = make(tmp_path / "shop.sqlite", "CREATE TABLE item AS SELECT 1 AS price")
    sql = "SELECT\n    MAX(price)\nFROM\n    item;"
    own = Question("a", "shop", "q", sql, reasoning=f"Take the highest:\n{sql}", sql_class="Simple", style="vague")
    rows = [own, replace(own, id="b", reasoning=""), replace(own, id="c", sql="SELECT nothing FROM item")]
    rows += [replace(own, id="d", sql_class="", style="")]
    ready, failed = prepared(tmp_path, rows, {"shop": path})
    assert ready[0] == own
    assert ready[1].sql == "SELECT MAX(price) FROM item"
    assert ready[2] == replace(own, id="d", style="human")
    assert failed == [rows[2]]


def test_bird(data_root):
    dev = list(read_questions("bird", data_root / "bird/dev/dev.json"))
    assert len(dev) == 1534
    assert Counter(q.difficulty for q in dev) == {"simple": 925, "moderate": 464, "challenging": 145}
    assert sum(bool(q.evidence) for q in dev) > 1000


def test_synsql_rows_without_their_databases_are_counted(data_root):
    rows = list(read_questions("synsql", data_root / "synsql/synsql_complex_500.jsonl"))
    assert len(rows) == 500
    assert {q.sql_class for q in rows} == {"Complex"}
    assert all(q.reasoning and q.sql for q in rows)
    missing = Counter()
    assert list(locate(rows, {}, missing)) == []
    assert missing.total() == 500


@pytest.mark.parametrize("suffix", ["json", "jsonl", "parquet"])
def test_synsql_in_every_file_format(tmp_path, suffix):
    rows = [SYNSQL | {"question": f"q{i}"} for i in range(3)]
    path = tmp_path / f"data.{suffix}"
    if suffix == "json":
        path.write_text(json.dumps(rows))
    elif suffix == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    found = list(read_questions("synsql", path))
    assert [q.question for q in found] == ["q0", "q1", "q2"]
    assert (found[0].style, found[0].reasoning, found[0].sql_class) == ("formal", "because", "Complex")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "\ufeffQuestion;SQL;db_id\nHow many?;\"SELECT ';'\";shop\n\n"),
        ("a.jsonl", '{"question": "How many?", "sql": "SELECT \';\'", "db_id": "shop"}\n'),
        ("a.json", '[{"question": "How many?", "query": "SELECT \';\'", "db_id": "shop", "sql": {}}]'),
    ],
)
def test_pairs_in_every_file_format(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    assert list(read_questions("pairs", tmp_path / name)) == [Question("a-0000000", "shop", "How many?", "SELECT ';'")]


@pytest.mark.parametrize("header", ["SQL;question (how, when)", 'SQL;"question, or two"', "SQL;question [a, b, c]"])
def test_separators_in_names_do_not_separate(tmp_path, header):
    (tmp_path / "a.csv").write_text(f"{header}\nSELECT a, b;How, when?\n")
    (row,) = csv_rows(tmp_path / "a.csv")
    assert list(row.values()) == ["SELECT a, b", "How, when?"]


def test_a_pair_without_a_database_is_about_the_only_one(tmp_path):
    (tmp_path / "a.csv").write_text("question,query\nHow many?,SELECT 1\n")
    (row,) = locate(read_questions("pairs", tmp_path / "a.csv"), {"shop": Path("x")}, None)
    assert row.db_id == "shop"
    with pytest.raises(InputError, match="a-0000000 names no database, and there are 2: add the column db_id"):
        list(locate(read_questions("pairs", tmp_path / "a.csv"), {"shop": Path("x"), "zoo": Path("y")}, None))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"question,answer\nq,SELECT 1\n", "row 0 has no field 'sql'"),
        (b"question,sql\nq,\n", "row 0 has an empty 'sql'"),
        (b"question,sql\nq,SELECT a, b\n", "a.csv:2: 3 values for 2 columns"),
        (b"question,sql,SQL\nq,a,b\n", "two columns are named 'sql'"),
        (b"question,,sql\n", "a column has no name"),
        (b"", "a column has no name"),
        (b'question,sql\n"q" x,SELECT 1\n', "a.csv:2: not valid CSV"),
        (b"question,sql\n\xff,SELECT 1\n", "not UTF-8 text"),
    ],
)
def test_a_bad_csv_file_is_refused_in_one_line(tmp_path, text, message):
    (tmp_path / "a.csv").write_bytes(text)
    with pytest.raises(InputError, match=message) as error:
        list(read_questions("pairs", tmp_path / "a.csv"))
    assert "\n" not in str(error.value)


def test_odd_database_names_are_matched(tmp_path):
    path = tmp_path / "data.json"
    path.write_text(json.dumps([SYNSQL]))
    (row,) = locate(read_questions("synsql", path), {"shops_db": Path("x")}, None)
    assert row.db_id == "shops_db"


def test_unknown_database_names_the_row(tmp_path):
    path = tmp_path / "data.json"
    path.write_text(json.dumps([SYNSQL]))
    with pytest.raises(InputError, match="data-0000000 names the unknown database"):
        list(locate(read_questions("synsql", path), {}, None))


@pytest.mark.parametrize("value", [None, 123, ["shop"]])
def test_a_database_name_that_is_no_text_is_named_or_counted(tmp_path, value):
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(SYNSQL | {"db_id": db}) + "\n" for db in (value, "shop")))
    with pytest.raises(InputError, match="row 0 has no text as 'db_id'"):
        list(read_questions("synsql", path))
    unusable = Counter()
    assert [q.db_id for q in read_questions("synsql", path, unusable)] == ["shop"]
    assert unusable == {f"has no text as 'db_id' but {type(value).__name__}": 1}


def test_rows_that_lack_a_field_are_counted(tmp_path):
    path = tmp_path / "data.json"
    path.write_text(json.dumps([{"db_id": "shop"}, 5, SYNSQL]))
    unusable = Counter()
    assert len(list(read_questions("synsql", path, unusable))) == 1
    assert unusable == {"has no field 'question'": 1, "is no JSON object but int": 1}


@pytest.mark.parametrize(("name", "paths"), [("a_b", {"ab": 1, "a-b": 2}), ("'\n", {"__": 1})])
def test_an_odd_name_never_means_one_of_several_databases(tmp_path, name, paths):
    path = tmp_path / "data.json"
    path.write_text(json.dumps([SYNSQL | {"db_id": name}]))
    missing = Counter()
    assert list(locate(read_questions("synsql", path), paths, missing)) == []
    assert missing == {name: 1}


def test_subsets_are_drawn_by_class_and_seed(tmp_path):
    path = tmp_path / "data.jsonl"
    classes = ("Simple", "Moderate", "Complex", "Highly Complex")
    path.write_text("".join(json.dumps(SYNSQL | {"sql_complexity": classes[i % 4]}) + "\n" for i in range(400)))

    def drawn(limits, seed=0):
        return list(draw(read_questions("synsql", path), limits, seed, tmp_path / "drawn.jsonl"))

    limits = dict.fromkeys(classes, 10)
    first = drawn(limits)
    assert Counter(q.sql_class for q in first) == limits
    assert [q.id for q in first] == sorted(q.id for q in first)
    assert first == drawn(limits)
    assert first != drawn(limits, 1)
    assert {q.sql_class for q in drawn({"Complex": 5})} == {"Complex"}
    assert {q.id for q in drawn(20)} <= {q.id for q in drawn(40)}
    assert drawn(None) == drawn(1000) == list(read_questions("synsql", path))


def test_a_draw_takes_the_memory_of_places_not_of_rows(tmp_path):
    """4,000 rows of 10 kB are 40 MB."""

    def rows():
        return (Question(f"q-{n:07d}", "shop", "q", "SELECT 1", "x" * 10_000, "because") for n in range(8000))

    tracemalloc.start()
    drawn = draw(rows(), 4000, 0, tmp_path / "drawn.jsonl")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(drawn) == 4000
    assert peak < 4e6
    assert {len(q.evidence) for q in drawn} == {10_000}


def test_bad_files_are_named(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        list(read_questions("spider", tmp_path / "gone.json"))
    for name, text in (("data.json", "[{"), ("data.parquet", "x")):
        (tmp_path / name).write_text(text)
        with pytest.raises(InputError, match=name):
            list(read_questions("synsql", tmp_path / name))
    table = pyarrow.Table.from_pylist([SYNSQL | {"question": "text" * 1000}] * 1000)
    options = {"use_dictionary": False, "write_statistics": False}
    for compression, damage in (("zstd", b"x" * 200), ("none", b"\xff" * 200)):
        pyarrow.parquet.write_table(table, tmp_path / "data.parquet", compression=compression, **options)
        with (tmp_path / "data.parquet").open("r+b") as file:
            file.seek(100)
            file.write(damage)
        with pytest.raises(InputError, match=r"data\.parquet: not a readable Parquet file"):
            list(read_questions("synsql", tmp_path / "data.parquet"))


def test_a_class_that_is_none_of_synsqls_is_named_or_counted(tmp_path):
    path = tmp_path / "data.json"
    path.write_text(json.dumps([SYNSQL, SYNSQL | {"sql_complexity": "simple"}]))
    message = r"data\.json: row 1 has the SQL class 'simple', which is not one of Simple, Moderate, Complex, Highly"
    with pytest.raises(InputError, match=message):
        list(read_questions("synsql", path))
    unusable = Counter()
    assert len(list(read_questions("synsql", path, unusable))) == unusable.total() == 1


def test_a_cut_off_synsql_file_is_named_in_one_line(tmp_path):
    (tmp_path / "data.json").write_text('[{"db_id": "a", "question": "b"}, {"db_id": ')
    with pytest.raises(InputError, match=r"data\.json: not valid JSON near byte \d+ ") as error:
        list(read_questions("synsql", tmp_path / "data.json", Counter()))
    assert "\n" not in str(error.value)


def test_half_of_a_character_is_named(tmp_path):
    """JSON may hold a lone surrogate, which no file in UTF-8 can."""
    row = {"question": "How \ud83d many?", "query": "SELECT 1", "db_id": "a"}
    (tmp_path / "train.json").write_text(json.dumps([row | {"question": "Où?"}, row]))
    with pytest.raises(InputError, match=r"row 1 has half of a character \(a lone surrogate\) in 'question'"):
        list(read_questions("spider", tmp_path / "train.json"))
