"""`sqlr1 score`, as a user runs it."""

import json
import os
import pty
import sqlite3
import subprocess
import sys
import termios

import pytest

from sqlr1.cli import main

QUESTIONS = [
    {"db_id": "shop", "question": "how many", "query": "SELECT count(*) FROM item"},
    {"db_id": "shop", "question": "names", "query": "SELECT name FROM item ORDER BY name"},
    {"db_id": "shop", "question": "prices", "query": "SELECT DISTINCT price FROM item"},
    {"db_id": "gone", "question": "?", "query": "SELECT 1"},
    {"db_id": "shop", "question": "broken gold", "query": "SELECT nope FROM item"},
    {"db_id": "shop", "question": "not answered", "query": "SELECT 1"},
]
PREDICTED = [
    "SELECT 2",
    "SELECT name FROM item ORDER BY name DESC",
    "SELECT price FROM item",
    "SELECT 1",
    "SELECT nope FROM item",
]


@pytest.fixture
def files(tmp_path):
    (tmp_path / "databases/shop").mkdir(parents=True)
    connection = sqlite3.connect(tmp_path / "databases/shop/shop.sqlite")
    connection.executescript("CREATE TABLE item (name, price); INSERT INTO item VALUES ('a', 5), ('b', 5);")
    connection.close()
    (tmp_path / "dev.json").write_text(json.dumps(QUESTIONS))
    (tmp_path / "pred.txt").write_text(
        "\n".join(f"{sql}\t{q['db_id']}" for sql, q in zip(PREDICTED, QUESTIONS, strict=False))
    )
    return tmp_path


def arguments(folder, *more, benchmark="spider", predictions="pred.txt", questions="dev.json"):
    return [
        "score", "--benchmark", benchmark, "--questions", f"{folder}/{questions}", "--databases", f"{folder}/databases",
        "--predictions", f"{folder}/{predictions}", "--workers", "2", *more,
    ]  # fmt: skip


def test_records_and_table(files, capsys):
    main(arguments(files, "--out", f"{files}/out.jsonl"))
    records = [json.loads(line) for line in (files / "out.jsonl").read_text().splitlines()]
    columns = [
        "index",
        "db_id",
        "difficulty",
        "verdict",
        "spider_exec",
        "spider_exec_keep_distinct",
        "bird_ex",
        "soft_f1",
    ]
    assert [list(record) for record in records] == [columns] * 3
    assert [list(record.values()) for record in records] == [
        [0, "shop", "easy", "match", 1, 1, 1, 1.0],
        [1, "shop", "easy", "mismatch", 0, 0, 1, 0.0],
        [2, "shop", "easy", "match", 1, 0, 1, 1.0],
    ]
    output = capsys.readouterr().out
    assert output.splitlines()[0].split()[:3] == ["difficulty", "questions", "spider_exec"]
    assert "66.7 [0.0, 100.0]" in output
    assert "not scored, missing database: 1 (gone)" in output
    assert "not scored, gold failed: 1 (4); 4: no such column: nope" in output
    assert "not scored, without prediction: 1 (5)" in output


def test_candidates_are_scored_by_greedy_vote_and_pass_at_k(files, capsys):
    """The file that the workflow's candidates stage writes."""
    fence = "```sql\n{}\n```".format
    right, wrong = fence("SELECT 2"), fence("SELECT 3")
    record = {"id": "0", "db_id": "shop", "greedy": wrong, "samples": [wrong, right, right, fence("SELECT nope")]}
    (files / "candidates.jsonl").write_text(json.dumps(record) + "\n")
    main(arguments(files, "--json", "--out", f"{files}/out.jsonl", predictions="candidates.jsonl"))
    summary = json.loads(capsys.readouterr().out)["summary"]
    found = {row["method"]: row["spider_exec"]["mean"] for row in summary if row["difficulty"] == "all"}
    assert found == {"greedy": 0, "vote": 1, "pass@1": 0.5, "pass@4": 1}
    record = json.loads((files / "out.jsonl").read_text())
    assert (record["verdict"], record["vote"]["verdict"], record["samples"]["spider_exec"]) == ("mismatch", "match", 2)
    main(arguments(files, predictions="candidates.jsonl"))
    header, *lines = capsys.readouterr().out.splitlines()
    assert header.split()[:3] == ["method", "difficulty", "questions"]
    assert lines[2].split()[:4] == ["vote", "easy", "1", "100.0"]


def test_candidates_that_do_not_fit_the_questions_are_named(files):
    record = {"id": "9", "db_id": "shop", "greedy": "", "samples": [""]}
    (files / "candidates.jsonl").write_text(json.dumps(record) + "\n")
    with pytest.raises(SystemExit, match="candidates '9': there is no question 9"):
        main(arguments(files, predictions="candidates.jsonl"))


def test_json_for_machines(files, capsys):
    main(arguments(files, "--json"))
    result = json.loads(capsys.readouterr().out)
    assert result["scored"] == 3
    assert result["unscored"] == {"without_prediction": [5], "missing_database": [3], "gold_failed": [4]}
    assert result["missing_databases"] == ["gone"]
    assert result["gold_errors"] == {"4": "no such column: nope"}
    everything = result["summary"][-1]
    assert (everything["difficulty"], everything["questions"]) == ("all", 3)
    assert everything["spider_exec"]["mean"] == pytest.approx(2 / 3)


def test_json_without_a_scored_question(files, capsys):
    (files / "none.jsonl").write_text('{"index": 3, "predicted": "SELECT 1"}')
    main(arguments(files, "--json", predictions="none.jsonl"))
    result = json.loads(capsys.readouterr().out)
    assert result["scored"] == 0
    assert result["summary"][-1]["spider_exec"] == {"mean": None, "low": None, "high": None}


def test_the_limit_of_rows_is_an_option(files):
    """Golds and predictions of two rows: beyond a limit of one nothing can be said of those questions."""
    main(arguments(files, "--rows", "1", "--out", f"{files}/out.jsonl"))
    records = [json.loads(line) for line in (files / "out.jsonl").read_text().splitlines()]
    assert [(record["index"], record["verdict"]) for record in records] == [(0, "match")]


def test_every_instance_must_match(files):
    """`SELECT 2` counts the items of the first instance only: every metric is of all instances."""
    connection = sqlite3.connect(files / "databases/shop/shop_2.sqlite")
    connection.executescript("CREATE TABLE item (name, price); INSERT INTO item VALUES ('c', 5);")
    connection.close()
    main(arguments(files, "--out", f"{files}/out.jsonl"))
    record = json.loads((files / "out.jsonl").read_text().splitlines()[0])
    assert (record["verdict"], record["spider_exec"], record["bird_ex"]) == ("mismatch", 0, 0)


def test_progress_is_shown_on_a_terminal_only(files):
    """Bars for golds, predictions and timing on standard error; nothing where that is no terminal."""
    shown, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (40, 100))
    command = [sys.executable, "-m", "sqlr1.cli", *arguments(files, "--json", "--ves", "2")]
    run = subprocess.run(command, stdout=subprocess.PIPE, stderr=terminal, check=True)
    os.close(terminal)
    bars = os.read(shown, 100_000).decode()
    os.close(shown)
    assert all(f"{label}: 100%" in bars for label in ("golds", "predictions", "timing"))
    assert json.loads(run.stdout)["scored"] == 3
    assert subprocess.run(command, capture_output=True, check=True).stderr == b""


def test_r_ves_is_added_when_asked_for(files, capsys):
    main(arguments(files, "--ves", "3", "--out", f"{files}/out.jsonl"))
    records = [json.loads(line) for line in (files / "out.jsonl").read_text().splitlines()]
    assert all(0.5 <= record["r_ves"] <= 1.25**0.5 for record in records)
    assert "r_ves" in capsys.readouterr().out.splitlines()[0]


def test_bird_layout_and_semantics(files):
    rows = [{**q, "question_id": i, "SQL": q["query"], "difficulty": "moderate"} for i, q in enumerate(QUESTIONS)]
    (files / "bird.json").write_text(json.dumps(rows))
    (files / "predict_dev.json").write_text(json.dumps({"1": f"{PREDICTED[1]}\t----- bird -----\tshop"}))
    out = f"{files}/out.jsonl"
    main(arguments(files, "--out", out, benchmark="bird", questions="bird.json", predictions="predict_dev.json"))
    [line] = (files / "out.jsonl").read_text().splitlines()
    record = json.loads(line)
    assert (record["index"], record["difficulty"], record["verdict"]) == (1, "moderate", "match")
    assert (record["bird_ex"], record["spider_exec"]) == (1, 0)


def test_output_does_not_depend_on_workers_or_hash_seed(files):
    outputs = []
    environment = {"PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    for seed, workers in (("0", "1"), ("1", "2")):
        command = [
            sys.executable,
            "-m",
            "sqlr1.cli",
            *arguments(files, "--workers", workers, "--out", f"{files}/{seed}.jsonl"),
        ]
        run = subprocess.run(
            command, capture_output=True, text=True, check=True, env=environment | {"PYTHONHASHSEED": seed}
        )
        outputs.append((run.stdout, (files / f"{seed}.jsonl").read_text()))
    assert outputs[0] == outputs[1]


def test_a_file_in_which_most_answers_are_no_sql_is_warned_of(files, caplog):
    (files / "pred.txt").write_text("SELECT 2 ! shop\nSELECT name FROM item\nSELECT price FROM item | shop\n")
    main(arguments(files))
    warning = "pred.txt: 2 of 3 answers do not parse as SQL; question 0: unrecognized token: \"!\" in 'SELECT 2 ! shop'"
    assert warning in caplog.text
    caplog.clear()
    (files / "pred.txt").write_text("SELECT 2\nSELECT name FROM item\nSELECT price FROM item | shop\n")
    main(arguments(files))
    assert not caplog.messages


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"questions": "nope.json"}, "nope.json: no such file"),
        ({"predictions": "nope.txt"}, "nope.txt: no such file"),
        ({"benchmark": "bird"}, "question 0: 'SQL' is missing or not text (bird layout)"),
    ],
)
def test_bad_input_is_one_clear_line(files, change, message):
    command = [sys.executable, "-m", "sqlr1.cli", *arguments(files, "--out", f"{files}/out.jsonl", **change)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert message in run.stderr
    assert len(run.stderr.strip().splitlines()) == 1
    assert not (files / "out.jsonl").exists()


@pytest.mark.parametrize(
    ("option", "value"),
    [("seconds", v) for v in ("0", "-1", "nan", "inf", "1e300")]
    + [("rows", "0"), ("workers", "0"), ("workers", "100000")],
)
def test_values_out_of_range_are_named(files, option, value):
    with pytest.raises(SystemExit, match=f"--{option} must be between .* and .*, not "):
        main(arguments(files, f"--{option}", value))


def test_an_output_that_cannot_be_written_is_named_before_the_work(files, monkeypatch):
    monkeypatch.setattr("sqlr1.evaluate.score_command.read_questions", lambda *_: pytest.fail("the work has begun"))
    before = (files / "pred.txt").read_text()
    for out, message in (
        ("databases", "databases: is a folder"),
        ("pred.txt", r"pred\.txt: is an input file"),
        ("./databases/../pred.txt", "is an input file"),
        ("dev.json", r"dev\.json: is an input file"),
        ("pred.txt/out.jsonl", r"pred\.txt: cannot be written to"),
    ):
        with pytest.raises(SystemExit, match=message):
            main(arguments(files, "--out", f"{files}/{out}"))
    assert (files / "pred.txt").read_text() == before


def test_a_cache_that_is_a_file_is_named(files):
    with pytest.raises(SystemExit, match=r"dev\.json: not a folder for the cache"):
        main(arguments(files, "--cache", f"{files}/dev.json"))


def test_a_gold_that_only_one_evaluator_runs_is_not_charged_with_r_ves(files):
    """`> =` is mended by Spider's evaluator and fails in BIRD's: there, the gold is at fault."""
    questions = [{**QUESTIONS[0], "query": "SELECT count(*) FROM item WHERE price > = 5"}]
    (files / "dev.json").write_text(json.dumps(questions))
    (files / "pred.txt").write_text("SELECT 2")
    main(arguments(files, "--ves", "2", "--out", f"{files}/out.jsonl"))
    record = json.loads((files / "out.jsonl").read_text())
    assert (record["verdict"], record["bird_ex"], record["r_ves"]) == ("match", None, None)


def test_a_damaged_database_is_named(files):
    (files / "databases/shop/shop.sqlite").write_bytes(b"garbage that is no database")
    with pytest.raises(SystemExit, match=r"shop\.sqlite: not a SQLite database"):
        main(arguments(files))


@pytest.mark.parametrize(
    "name", ["x" * 300, "\ud800", "a\0b", "..", ""], ids=["long", "surrogate", "nul", "parent", "empty"]
)
def test_a_db_id_that_names_no_file_is_a_missing_database(files, name):
    """Run as a process, whose output is encoded."""
    (files / "dev.json").write_text(json.dumps([{**QUESTIONS[0], "db_id": name}]))
    (files / "one.jsonl").write_text('{"index": 0, "predicted": "SELECT 2"}')
    command = [sys.executable, "-m", "sqlr1.cli", *arguments(files, predictions="one.jsonl")]
    run = subprocess.run(command, capture_output=True, check=False)
    assert (run.returncode, run.stderr) == (0, b"")
    assert b"not scored, missing database: 1" in run.stdout


def test_a_reader_that_has_gone_is_no_traceback(files):
    """As in `sqlr1 score ... | head -c 0`."""
    reading, writing = os.pipe()
    os.close(reading)
    run = subprocess.run(
        [sys.executable, "-m", "sqlr1.cli", *arguments(files)], stdout=writing, stderr=subprocess.PIPE, check=False
    )
    os.close(writing)
    assert (run.returncode, run.stderr) == (1, b"")


def test_real_predictions(data_root, tmp_path, capsys):
    """The CodeS-7B file over the whole of Spider dev: the known share, every difficulty, nothing left out."""
    main([
        "score", "--benchmark", "spider", "--questions", str(data_root / "spider/dev.json"),
        "--databases", str(data_root / "spider/database"), "--json",
        "--predictions", str(data_root / "predictions/spider_dev.pred_sqls_codes_7b_spider.jsonl"),
    ])  # fmt: skip
    result = json.loads(capsys.readouterr().out)
    assert (result["scored"], result["unscored"]) == (1034, {})
    assert {row["difficulty"]: row["questions"] for row in result["summary"]} == {
        "easy": 248, "medium": 446, "hard": 174, "extra": 166, "all": 1034,
    }  # fmt: skip
    assert result["summary"][-1]["spider_exec"]["mean"] == pytest.approx(886 / 1034)
