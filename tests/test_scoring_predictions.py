"""Questions and predictions in the official formats: read, written, read back; faults are named with their place."""

import json
import sqlite3
import time
from dataclasses import replace

import pytest

from sqlr1.evaluate.formats import read_questions, write_bird_json, write_spider_text
from sqlr1.evaluate.prediction_files import read_answers
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


def read_predictions(path, questions):
    """The SQL of each answer."""
    return {index: answers.greedy.sql for index, answers in read_answers(path, questions).items()}


THREE = {0: "SELECT 5", 1: "SELECT 6", 2: "SELECT 7"}
FOUR = THREE | {3: "SELECT 8"}


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
        ("p.txt", "SELECT 5\r\nSELECT 6\tshop\r\n", {0: "SELECT 5", 1: "SELECT 6"}),
        ("p.txt", "SELECT\t'a\tb'\nSELECT\t6\tAS x\tshop\n", {0: "SELECT\t'a\tb'", 1: "SELECT\t6\tAS x"}),
        ("p.txt", "SELECT 5 AS a ORDER BY a\tDESC\n", {0: "SELECT 5 AS a ORDER BY a\tDESC"}),
        # More columns than SQL and database, and databases named by their file.
        ("p.txt", "SELECT 5\tshop\tanything\nSELECT 6\tshop\tshop\n", {0: "SELECT 5", 1: "SELECT 6"}),
        ("p.txt", "SELECT 5\tHow many?\tshop\nSELECT\t6\tWhich?\tshop\n", {0: "SELECT 5", 1: "SELECT\t6"}),
        ("p.txt", "SELECT 5\tHow many are there?\n", {0: "SELECT 5"}),
        ("p.txt", "SELECT 5\tshop.sqlite\nSELECT 6\tdb/shop/shop.sqlite\n", {0: "SELECT 5", 1: "SELECT 6"}),
        ("p.txt", "SELECT 5\t----- bird -----\tshop\n", {0: "SELECT 5\t----- bird -----"}),  # a comment
        ("p.txt", "SELECT * FROM\tshop\tshop\n", {0: "SELECT * FROM\tshop"}),
        ("p.txt", "\tshop\nSELECT 6\tshop\n", {0: "", 1: "SELECT 6"}),
        # Blank lines beyond a line per question.
        ("p.txt", "\nSELECT 5\nSELECT 6\nSELECT 7\nSELECT 8\n", FOUR),
        ("p.txt", "SELECT 5\n\nSELECT 6\n\nSELECT 7\n\nSELECT 8\n", FOUR),
        ("p.txt", "\nSELECT 6\nSELECT 7\nSELECT 8\n", FOUR | {0: ""}),
        # The content decides, not the suffix.
        ("p.txt", '{"0": "SELECT 5\\t----- bird -----\\tshop", "2": "SELECT 7"}', {0: "SELECT 5", 2: "SELECT 7"}),
        ("p.JSON", {"0": "SELECT 5\t----- bird -----\tshop"}, {0: "SELECT 5"}),
        ("p.json", '{"index": 2, "predicted": "SELECT 7"}\n{"index": 0, "predicted": ""}\n', {2: "SELECT 7", 0: ""}),
        ("p.json", '{"index": 2, "predicted": "SELECT 7"}', {2: "SELECT 7"}),
        ("p.jsonl", "SELECT 5\tshop\n", {0: "SELECT 5"}),
        ("p.jsonl", {"0": "SELECT 5"}, {0: "SELECT 5"}),
        # Other JSON.
        ("p.json", ["SELECT 5", "SELECT 6\t----- bird -----\tshop"], {0: "SELECT 5", 1: "SELECT 6"}),
        ("p.json", [{"index": 2, "predicted": "SELECT 7", "SQL": "SELECT 2"}], {2: "SELECT 7"}),
        ("p.json", [{"question_id": "2", "SQL": "SELECT 7", "db_id": "shop"}], {2: "SELECT 7"}),
        ("p.json", {"0": {"SQL": "SELECT 5", "db_id": "shop"}}, {0: "SELECT 5"}),
        # Wrappings that most answers have; those of a few are the system's mistakes.
        ("p.txt", "SQL: SELECT 5\tshop\nsql query: SELECT 6\n", {0: "SELECT 5", 1: "SELECT 6"}),
        ("p.txt", "```sql SELECT 5```\tshop\n```SELECT 6 ```\n", {0: "SELECT 5", 1: "SELECT 6"}),
        ("p.json", {"0": "```sql\nSELECT 5\n```"}, {0: "SELECT 5"}),
        ("p.json", {"0": "```SQL\nSELECT 5\n```\n", "1": "SELECT 6", "2": "SELECT 7"}, THREE),
        ("p.txt", "```sql SELECT 5```\tshop\nSELECT 6\tshop\nSELECT 7\n", THREE),
        (
            "p.json",
            ["```sql SELECT 5", "SELECT 6", "SELECT '```'"],
            {0: "```sql SELECT 5", 1: "SELECT 6", 2: "SELECT '```'"},
        ),
        ("p.txt", "SQL: SELECT 5\nSELECT 6\n", {0: "SQL: SELECT 5", 1: "SELECT 6"}),
        ("p.txt", "SELECT name FROM\titem\nSELECT 6 \t shop \n", {0: "SELECT name FROM\titem", 1: "SELECT 6"}),
        ("p.json", {"0": "SELECT 5\t----- bird -----\tshop", "2": "SELECT 7"}, {0: "SELECT 5", 2: "SELECT 7"}),
        ("p.json", {"0": 5, "1": None, "2": "SELECT 7"}, {0: "", 1: "", 2: "SELECT 7"}),
        ("p.jsonl", '{"index": 2, "predicted": "SELECT 7"}\n{"index": 0, "predicted": ""}\n', {2: "SELECT 7", 0: ""}),
    ],
)
def test_predictions_are_read(tmp_path, questions, name, content, expected):
    assert read_predictions(write(tmp_path / name, content), questions) == expected


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.txt", "SELECT 1\n" * 6, r"p\.txt:5: there is no question 4; the questions file has 4, this file 6 lines"),
        ("p.txt", "", r"p\.txt: empty, there is no prediction in it"),
        ("p.txt", "\n \n", r"p\.txt: empty"),
        ("p.txt", "one\ntwo\n", r"p\.txt: no answer is SQL; question 0 has 'one'"),
        ("p.json", {"0": "", "1": 0}, r"p\.json: no answer is SQL"),
        ("p.json", {}, r"p\.json: there is no prediction in it"),
        ("p.txt", "index,predicted\n0,SELECT 1\n", r"p\.txt: looks like a CSV"),
        ("p.txt", 'question,predicted\n"how many, in all","SELECT 1"\n', r"p\.txt: looks like a CSV"),
        ("p.txt", "sql,db\nSELECT a FROM item,shop\nSELECT 2,shop\n", r"p\.txt: looks like a CSV"),
        ("p.csv", '"SELECT 1","shop"\n"SELECT 2","shop"\n', r"p\.csv: looks like a CSV"),
        ("p.csv", "0;SELECT 1\n1;SELECT 2\n", r"p\.csv: looks like a CSV"),
        ("p.sql", "SELECT a\nFROM item;\nSELECT b\nFROM item\nWHERE a;\n", r"p\.sql: SQL spans lines"),
        ("p.sql", "SELECT a,\n  b\nFROM item;\n", r"p\.sql: SQL spans lines"),
        ("p.sql", "SELECT a\nFROM item;\nSELECT b\nFROM item;\n", r"p\.sql: SQL spans lines"),  # a line per question
        ("p.txt", "```sql\nSELECT 1\nSELECT 2\n```\n", r"p\.txt: has code fences on lines of their own"),
        ("p.txt", "\nSELECT 1\n", r"p\.txt:1: a blank line, and fewer lines than questions"),
        ("p.txt", "SELECT 5\tstores\n", r"p\.txt:1: 'stores' after the tab is the name of no database"),
        ("p.txt", "SELECT 5\tother.sqlite\n", r"p\.txt:1: 'other\.sqlite' after the tab"),
        ("p.txt", "SELECT 5\tBANK\n", r"p\.txt:1: 'BANK' after the tab"),
        ("p.txt", "SELECT 5\tbank\tHow many?\n", r"question 0 is about 'shop', the prediction about 'bank'"),
        ("p.json", {"0": {"answer": "SELECT 1"}}, r"p\.json: '0': needs"),
        ("p.json", {"0": ["SELECT 1"]}, r"p\.json: '0': expected one SQL, found a list"),
        ("p.json", {"predictions": {"0": "SELECT 1"}}, r"p\.json: 'predictions': expected a question index"),
        ("p.json", [[0, "SELECT 1"]], r"p\.json: item 0: needs 'index'"),
        ("p.json", ["SELECT 1", 2], r"p\.json: item 1: needs"),
        ("p.json", ["SELECT 1"] * 5, r"p\.json: item 4: there is no question 4"),
        ("p.json", "[]\n[]\n", r"p\.json: there is more text after the JSON list"),
        ("p.txt", "{'0': 'SELECT 1'}", r"p\.txt:1: not valid JSON"),
        ("p.txt", '{"0": "SELECT 1",\n"1": "SELE', r"p\.txt:2: not valid JSON"),
        (
            "p.txt",
            "SELECT 1\n\n\nSELECT 1\tshop\n",
            r"p\.txt:4: question 3 is about 'bank', the prediction about 'shop'",
        ),
        ("p.json", [], r"p\.json: there is no prediction in it"),
        ("p.json", {"x": "SELECT 1"}, r"p\.json: 'x': expected a question index"),
        ("p.txt", "SELECT 5\tSHOP\n", r"p\.txt:1: question 0 is about 'shop', the prediction about 'SHOP'"),
        ("p.json", {"7": "SELECT 1"}, r"p\.json: '7': there is no question 7"),
        ("p.json", {"0": "SELECT 1\t----- bird -----\tother"}, r"'0': question 0 is about 'shop'"),
        ("p.json", '{"0": "SELECT 1", "0": "SELECT 2"}', r"p\.json: not usable as JSON \(the key '0' occurs twice\)"),
        ("p.json", '{"0": "SELECT 1", "00": "SELECT 2"}', r"p\.json: '00': a second prediction for question 0"),
        ("p.json", {"1" * 5000: "SELECT 1"}, r"p\.json: '1{20}': expected a question index"),
        ("p.json", "[" * 100_000, r"p\.json: not usable as JSON"),
        ("p.jsonl", '{"index": ' + "1" * 5000 + ', "predicted": "a"}\n', r"p\.jsonl: not usable as JSON"),
        ("p.jsonl", "[" * 100_000, r"p\.jsonl: not usable as JSON"),
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
        ("p.jsonl", '{"index": 0, "predicted": "a"}\noops\n', r"p\.jsonl:2: not valid JSON"),
    ],
)
def test_faulty_predictions_are_named(tmp_path, questions, name, content, message):
    with pytest.raises(InputError, match=message) as error:
        read_predictions(write(tmp_path / name, content), questions)
    assert "\n" not in str(error.value)


def test_a_few_lines_that_begin_inside_a_query_are_named(tmp_path, questions, caplog):
    """As many lines as questions, most of them queries: they can be answers, but one query may span two lines."""
    path = write(tmp_path / "p.sql", "SELECT 5\nSELECT 6\nSELECT a\nFROM item\n" + "SELECT 7\n" * 4)
    asked = [replace(questions[0], index=index) for index in range(8)]
    assert read_predictions(path, asked)[3] == "FROM item"
    assert "p.sql: 1 lines begin inside a query, line 4 with 'FROM item'" in caplog.text


@pytest.mark.parametrize("content", ["SELECT 5\tshop\nSELECT 'é'\n", '{"0": "SELECT 5",\n"1": "SELECT \'é\'"}'])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_encodings_and_line_ends(tmp_path, questions, content, encoding, newline):
    (tmp_path / "p").write_bytes(content.replace("\n", newline).encode(encoding))
    assert read_predictions(tmp_path / "p", questions) == {0: "SELECT 5", 1: "SELECT 'é'"}


@pytest.mark.parametrize("content", [b"SELECT '\xe9'\tshop\n", "SELECT 5\n".encode("utf-16")[:-1]])
def test_bytes_that_are_no_text_are_named(tmp_path, questions, content):
    (tmp_path / "p.txt").write_bytes(content)
    with pytest.raises(InputError, match=r"p\.txt: not UTF-(8|16-LE) text"):
        read_predictions(tmp_path / "p.txt", questions)


def with_ids(tmp_path, *ids, db_ids=("shop", "shop", "shop")):
    rows = [row | {"question_id": own, "db_id": db} for row, own, db in zip(BIRD, ids, db_ids, strict=True)]
    return read_questions("bird", write(tmp_path / "ids.json", rows))


@pytest.mark.parametrize(
    ("ids", "keys", "expected", "warned"),
    [
        ((1, 0, 2), (0, 1), (1, 0), True),  # both are possible: ids win
        ((0, 1, 2), (0, 1), (0, 1), False),  # both are the same
        ((7, 8, 9), (9, 7), (2, 0), False),
        ((7, 8, 9), (2, 0), (2, 0), False),  # only positions fit
        ((2, 7, 1), (1, 0), (1, 0), False),
        ((7, 7, 9), (1, 0), (1, 0), False),  # ids that occur twice are none
        ((7, None, 9), (1, 0), (1, 0), False),
    ],
)
def test_keys_are_ids_of_the_questions_file_or_positions(tmp_path, caplog, ids, keys, expected, warned):
    questions = with_ids(tmp_path, *ids)
    expected = {index: f"SELECT {key}" for key, index in zip(keys, expected, strict=True)}
    objects = [{"question_id": key, "SQL": f"SELECT {key}"} for key in keys]
    lines = "".join(json.dumps(row) + "\n" for row in objects)
    for content in ({str(key): f"SELECT {key}" for key in keys}, objects, lines):
        caplog.clear()
        assert read_predictions(write(tmp_path / "p.json", content), questions) == expected
        assert ("read by the questions' question_id" in caplog.text) == warned
    indices = [{"index": key, "SQL": f"SELECT {key}"} for key in (0, 1)]  # positions, always
    assert read_predictions(write(tmp_path / "p.json", indices), questions) == {0: "SELECT 0", 1: "SELECT 1"}


def test_databases_tell_ids_from_positions(tmp_path):
    questions = with_ids(tmp_path, 2, 1, 0, db_ids=("shop", "shop", "bank"))
    for key, index in (("0", 2), ("2", 0), ("0", 0), ("2", 2)):  # by id, by id, by position, by position
        content = {key: f"SELECT 5\t----- bird -----\t{questions[index].db_id}"}
        assert read_predictions(write(tmp_path / "p.json", content), questions) == {index: "SELECT 5"}


def test_a_key_that_is_no_id_is_named(tmp_path):
    content = {"7": "SELECT 1", "8": "SELECT 2", "5": "SELECT 3"}
    with pytest.raises(InputError, match=r"p\.json: '5': there is no question 5; no row of the questions file has"):
        read_predictions(write(tmp_path / "p.json", content), with_ids(tmp_path, 7, 8, 9))


def test_written_predictions_are_keyed_by_id(tmp_path):
    questions = with_ids(tmp_path, 2, 0, 1)
    write_bird_json(tmp_path / "p.json", questions, {0: "SELECT 5", 2: "SELECT 7"})
    assert list(json.loads((tmp_path / "p.json").read_text())) == ["2", "1"]
    assert read_predictions(tmp_path / "p.json", questions) == {0: "SELECT 5", 2: "SELECT 7"}


@pytest.mark.parametrize("suffix", ["jsonl", "json", "txt"])
def test_candidates_are_known_by_their_samples(tmp_path, questions, suffix):
    row = {"id": "0", "db_id": "shop", "greedy": "", "samples": ["```sql\nSELECT 5\n```"]}
    answers = read_answers(write(tmp_path / f"c.{suffix}", row), questions)
    assert [sample.sql for sample in answers[0].samples] == ["SELECT 5"]


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
