"""Questions and predictions in the official formats: read, written, read back; faults are named with their place."""

import json
import sqlite3
import time

import pytest

from sqlr1.evaluate.formats import read_questions, write_bird_json, write_spider_text
from sqlr1.evaluate.prediction_files import read_predictions
from sqlr1.records import InputError
from sqlr1.sandbox import on_one_line

SPIDER = [{"db_id": "shop", "question": f"q{i}", "query": f"SELECT {i}"} for i in range(3)]
SPIDER.append({"db_id": "bank", "question": "q3", "query": "SELECT 3"})
BIRD = [
    {
        "question_id": i,
        "db_id": "shop",
        "question": f"q{i}",
        "evidence": "e",
        "SQL": f"SELECT {i}",
        "difficulty": "simple",
    }
    for i in range(3)
]


def write(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@pytest.fixture
def questions(tmp_path):
    return read_questions("spider", write(tmp_path / "dev.json", SPIDER))


def test_questions_of_both_layouts(tmp_path, questions):
    assert [(q.index, q.db_id, q.question, q.gold, q.difficulty) for q in questions][1] == (
        1,
        "shop",
        "q1",
        "SELECT 1",
        "easy",
    )
    bird = read_questions("bird", write(tmp_path / "bird.json", BIRD))
    assert (bird[2].index, bird[2].evidence, bird[2].gold, bird[2].difficulty) == (2, "e", "SELECT 2", "simple")


def test_real_questions(data_root):
    spider = read_questions("spider", data_root / "spider/dev.json")
    bird = read_questions("bird", data_root / "bird/dev/dev.json")
    assert (len(spider), len(bird)) == (1034, 1534)
    assert {question.difficulty for question in bird} == {"simple", "moderate", "challenging"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[{]", r"dev\.json:1: not valid JSON"),
        ("{}", r"dev\.json: expected a list of questions, found dict"),
        ('["x"]', r"dev\.json: question 0: expected an object, found str"),
        ('[{"db_id": "a", "question": "q"}]', r"question 0: 'query' is missing or not text \(spider layout\)"),
    ],
)
def test_faulty_questions_are_named(tmp_path, content, message):
    with pytest.raises(InputError, match=message):
        read_questions("spider", write(tmp_path / "dev.json", content))


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("p.txt", "SELECT 5\tshop\nSELECT 6\tshop\nSELECT 7\tshop\n", {0: "SELECT 5", 1: "SELECT 6", 2: "SELECT 7"}),
        ("p.sql", "SELECT 5\n\nSELECT 7", {0: "SELECT 5", 1: "", 2: "SELECT 7"}),
        ("p.txt", "SELECT 5\n\n\n", {0: "SELECT 5", 1: "", 2: ""}),
        ("p.txt", "SELECT 5\n\n \n\n\n\r\n", {0: "SELECT 5", 1: "", 2: "", 3: ""}),
        ("p.txt", "", {}),
        ("p.txt", "SELECT 5\r\nSELECT 6\tshop\r\n", {0: "SELECT 5", 1: "SELECT 6"}),
        ("p.txt", "SELECT\t'a\tb'\nSELECT\t6\tAS x\tshop\n", {0: "SELECT\t'a\tb'", 1: "SELECT\t6\tAS x"}),
        ("p.txt", "SELECT 5\tBANK\n", {0: "SELECT 5\tBANK"}),  # an alias: the question is about another database
        ("p.txt", "SELECT name FROM\titem\nSELECT 6 \t shop \n", {0: "SELECT name FROM\titem", 1: "SELECT 6"}),
        ("p.json", {"0": "SELECT 5\t----- bird -----\tshop", "2": "SELECT 7"}, {0: "SELECT 5", 2: "SELECT 7"}),
        ("p.json", {"0": 5, "1": None, "2": ["SELECT 7"]}, {0: "", 1: "", 2: ""}),
        ("p.jsonl", '{"index": 2, "predicted": "SELECT 7"}\n{"index": 0, "predicted": ""}\n', {2: "SELECT 7", 0: ""}),
    ],
)
def test_predictions_are_read(tmp_path, questions, name, content, expected):
    assert read_predictions(write(tmp_path / name, content), questions) == expected


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.txt", "a\nb\nc\nd\ne\n", r"p\.txt:5: there is no question 4; the questions file has 4"),
        (
            "p.txt",
            "SELECT 1\n\n\nSELECT 1\tshop\n",
            r"p\.txt:4: question 3 is about 'bank', the prediction about 'shop'",
        ),
        ("p.json", [], r"p\.json: expected an object from question index to SQL, found list"),
        ("p.json", {"x": "SELECT 1"}, r"p\.json: 'x': expected a question index"),
        ("p.txt", "SELECT 5\tSHOP\n", r"p\.txt:1: question 0 is about 'shop', the prediction about 'SHOP'"),
        ("p.json", {"7": "SELECT 1"}, r"p\.json: '7': there is no question 7"),
        ("p.json", {"0": "SELECT 1\t----- bird -----\tother"}, r"'0': question 0 is about 'shop'"),
        ("p.json", '{"0": "SELECT 1", "0": "SELECT 2"}', r"p\.json: not usable as JSON \(the key '0' occurs twice\)"),
        ("p.json", '{"0": "SELECT 1", "00": "SELECT 2"}', r"p\.json: '00': a second prediction for question 0"),
        ("p.json", {"1" * 5000: "SELECT 1"}, r"p\.json: '1{20}': expected a question index"),
        ("p.json", "[" * 100_000, r"p\.json: not usable as JSON"),
        ("p.jsonl", '{"index": ' + "1" * 5000 + ', "predicted": "a"}\n', r"p\.jsonl:1: not usable as JSON"),
        ("p.jsonl", "[" * 100_000, r"p\.jsonl:1: not usable as JSON"),
        ("p.jsonl", '{"index": 0}\n', r"p\.jsonl:1: needs 'index'"),
        (
            "p.jsonl",
            '{"index": 0, "predicted": "a"}\n{"index": true, "predicted": "a"}\n',
            r"p\.jsonl:2: needs 'index'",
        ),
        (
            "p.jsonl",
            '{"index": 0, "predicted": "a"}\n{"index": 0, "predicted": "b"}\n',
            r"p\.jsonl:2: a second prediction",
        ),
        ("p.jsonl", '{"index": -1, "predicted": "a"}\n', r"p\.jsonl:1: there is no question -1"),
        ("p.jsonl", "oops\n", r"p\.jsonl:1: not valid JSON"),
    ],
)
def test_faulty_predictions_are_named(tmp_path, questions, name, content, message):
    with pytest.raises(InputError, match=message):
        read_predictions(write(tmp_path / name, content), questions)


def test_missing_file_is_named(tmp_path, questions):
    for name in ("p.txt", "p.json", "p.jsonl"):
        with pytest.raises(InputError, match=f"{name}: no such file"):
            read_predictions(tmp_path / name, questions)


def test_a_folder_is_no_file(tmp_path, questions):
    for name in ("p.txt", "p.json", "p.jsonl"):
        (tmp_path / name).mkdir()
        with pytest.raises(InputError, match=f"{name}: cannot be read"):
            read_predictions(tmp_path / name, questions)
    with pytest.raises(InputError, match=r"p\.json: cannot be read"):
        read_questions("spider", tmp_path / "p.json")


def test_a_line_of_blanks_is_read_in_linear_time(tmp_path, questions):
    path = write(tmp_path / "p.txt", "SELECT 1" + "\t " * 200_000 + "x\n")
    start = time.process_time()
    assert read_predictions(path, questions)[0].endswith("x")
    assert time.process_time() - start < 1  # in quadratic time: minutes


@pytest.mark.parametrize(("given", "expected"), [({"difficulty": None}, "unknown"), ({}, "simple")])
def test_a_question_without_a_difficulty_is_of_unknown_difficulty(tmp_path, given, expected):
    [question] = read_questions("bird", write(tmp_path / "dev.json", [BIRD[0] | given]))
    assert question.difficulty == expected


def test_a_difficulty_that_is_no_text_is_named(tmp_path):
    with pytest.raises(InputError, match="question 0: 'difficulty' must be text, not 3"):
        read_questions("bird", write(tmp_path / "dev.json", [BIRD[0] | {"difficulty": 3}]))


def test_written_predictions_are_read_back(tmp_path, questions):
    predictions = {0: "SELECT 5", 2: "SELECT 7"}
    write_bird_json(tmp_path / "p.json", questions, predictions)
    write_spider_text(tmp_path / "p.txt", questions, {**predictions, 1: ""})
    assert read_predictions(tmp_path / "p.json", questions) == predictions
    # The text format has a line for each question; one that is no SQL stands for "no answer".
    assert (tmp_path / "p.txt").read_text() == "SELECT 5\tshop\nSELECT\tshop\nSELECT 7\tshop\nSELECT\tbank\n"


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 1 -- the first\n, 2",
        "SELECT /* a\nb */ 3",
        "SELECT 'two\nlines\tand -- no comment', 4",
        'SELECT 5 AS "a\tb"',
        "SELECT 'it''s', '/*', '*/', 6 -- end",
        "\nSELECT\r\n7\n",
        'SELECT 8 AS "two\nlines"',
    ],
)
def test_one_line_returns_the_same(sql):
    flat = on_one_line(sql)
    assert "\n" not in flat
    assert "\r" not in flat
    connection = sqlite3.connect(":memory:")
    assert connection.execute(flat).fetchall() == connection.execute(sql).fetchall()


@pytest.mark.parametrize("sql", ['SELECT "a\nb', "SELECT `a\r\nb", "SELECT [a\nb", "SELECT `a\nb`", "SELECT [a\nb]"])
def test_a_quoted_name_keeps_no_line_break_either(sql):
    """An answer over two lines would give every later question its neighbour's."""
    assert len(on_one_line(sql).splitlines()) == 1
