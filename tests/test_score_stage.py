"""The score stage on a small benchmark whose results were worked out by hand."""

import json
import sqlite3

import mlflow
import pytest

from sqlr1 import tracking
from sqlr1.evaluate.formats import read_questions
from sqlr1.evaluate.prediction_files import read_answers
from sqlr1.export_command import write_predictions
from sqlr1.prompt import format_response
from sqlr1.records import Candidates, read_json, read_jsonl, read_records, write_json, write_jsonl
from sqlr1.stages import score

SETTINGS = {
    "benchmark": {"layout": "spider", "limit": None},
    "score": {"confidence": 0.95, "resamples": 200},
    "execution": {"seconds": 2.0, "rows": 100_000},
}
# index: (db_id, gold, greedy, samples)
RIGHT, WRONG, BROKEN = "SELECT name FROM pet", "SELECT age FROM pet", "SELECT nothing FROM pet"
ROWS = [
    ("zoo", RIGHT, RIGHT, [RIGHT, RIGHT, WRONG]),  # greedy right, vote right, 2 of 3
    ("zoo", RIGHT, WRONG, [WRONG, RIGHT, "SELECT name AS n FROM pet"]),  # right only by the vote, 2 of 3
    ("zoo", "SELECT max(age) FROM pet", WRONG, [BROKEN, WRONG, BROKEN]),  # wrong; the vote is the one that ran
    ("zoo", "SELECT gone FROM pet", RIGHT, [RIGHT] * 3),  # the gold fails
    ("ark", RIGHT, RIGHT, [RIGHT] * 3),  # no such database
    ("zoo", "SELECT name, age FROM pet", "SELECT age, name FROM pet", [BROKEN] * 3),  # Spider lets columns swap
]


@pytest.fixture
def benchmark(tmp_path, monkeypatch):
    """Questions, one of two databases, and candidates, in an empty working folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "databases/zoo").mkdir(parents=True)
    with sqlite3.connect(tmp_path / "databases/zoo/zoo.sqlite") as database:
        database.execute("CREATE TABLE pet (name TEXT, age INTEGER)")
        database.executemany("INSERT INTO pet VALUES (?, ?)", [("Rex", 3), ("Tom", 5), ("Ann", 4)])
    questions = [{"db_id": db, "question": f"q{i}", "query": gold} for i, (db, gold, _, _) in enumerate(ROWS)]
    write_json(tmp_path / "dev.json", questions)
    write_candidates(tmp_path, [row for row in enumerate(ROWS) if row[1][0] != "ark"])
    return tmp_path


def write_candidates(folder, rows):
    answer = lambda sql: format_response("because", sql)  # noqa: E731
    records = [Candidates(str(i), db, answer(g), [answer(s) for s in samples]) for i, (db, _, g, samples) in rows]
    write_jsonl(folder / "candidates.jsonl", records)


def run(folder, settings=SETTINGS, out="out", exclude=None):
    arguments = [
        "--settings",
        json.dumps(settings),
        "--out",
        str(folder / out),
        "--questions",
        str(folder / "dev.json"),
    ]
    arguments += ["--databases", str(folder / "databases"), "--candidates", str(folder / "candidates.jsonl")]
    arguments += ["--tag", "strategy=none", "--tag", "reward=full", "--tag", "benchmark=tiny"]
    arguments += ["--exclude", str(folder / exclude)] if exclude else []
    score.main(arguments)
    rows = [json.loads(line) for line in (folder / out / "questions.jsonl").read_text().splitlines()]
    return json.loads((folder / out / "summary.json").read_text()), {row["index"]: row for row in rows}


def test_summary_holds_the_values_computed_by_hand(benchmark):
    summary, _ = run(benchmark)
    assert summary["missing_databases"] == {"ark": 1}
    assert summary["gold_failed"] == [3]
    assert (summary["questions"], summary["n_samples"], summary["metric"]) == (4, 3, "spider_exec")
    spider = {method: groups["all"]["value"] for method, groups in summary["metrics"]["spider_exec"].items()}
    # Scored: questions 0, 1, 2, 5.
    assert spider == pytest.approx({"greedy": 2 / 4, "vote": 2 / 4, "pass@1": (2 / 3 + 2 / 3) / 4, "pass@3": 2 / 4})
    assert summary["metrics"]["bird_ex"]["greedy"]["all"]["value"] == 1 / 4
    assert summary["metrics"]["executable"]["samples"]["all"]["value"] == pytest.approx((3 + 3 + 1 + 0) / 12)
    assert {summary["metrics"][share]["greedy"]["all"]["n"] for share in ("well_formed", "executable")} == {4}


def test_a_question_that_could_not_be_asked_counts_as_wrong_and_is_told(benchmark):
    asked, _ = run(benchmark)
    rows = read_records(benchmark / "candidates.jsonl", Candidates)
    rows[0] = Candidates(rows[0].id, rows[0].db_id, "", [""] * 3)
    write_jsonl(benchmark / "candidates.jsonl", rows)
    summary, _ = run(benchmark)
    assert (asked["unanswered"], summary["unanswered"]) == (0, 1)
    assert summary["questions"] == asked["questions"] == 4
    assert summary["metrics"]["spider_exec"]["greedy"]["all"]["value"] == 1 / 4


def test_rows_tell_greedy_from_vote_and_gold_faults_from_wrong_answers(benchmark):
    _, rows = run(benchmark)
    assert sorted(rows) == [0, 1, 2, 3, 5]
    assert [rows[1][who]["verdict"] for who in ("greedy", "vote")] == ["mismatch", "match"]
    assert rows[2]["vote"]["sql"] == WRONG
    assert rows[3]["greedy"]["verdict"] == "gold_failed"
    assert rows[3]["greedy"]["spider_exec"] is None
    assert rows[5]["vote"]["verdict"] == "failed"
    assert "nothing" in rows[5]["vote"]["error"]
    counts = {"spider_exec": 2, "spider_exec_keep_distinct": 2, "bird_ex": 2}
    assert rows[0]["samples"] == {"n": 3, "well_formed": 3, "executable": 3} | counts
    assert rows[0]["each"] == {"result": [0, 0, 2]} | {metric: [1, 1, 0] for metric in counts}
    assert rows[2]["each"] == {"result": [None, 1, None]} | {metric: [0, 0, 0] for metric in counts}
    assert rows[0]["preview"]["gold"] == {
        "status": "ok", "columns": ["name"], "total": 3, "rows": [["Rex"], ["Tom"], ["Ann"]],
    }  # fmt: skip


def test_official_files_read_back_as_the_votes(benchmark):
    _, rows = run(benchmark)
    questions = read_questions("spider", benchmark / "dev.json")
    text, bird = (
        {index: answers.greedy.sql for index, answers in read_answers(benchmark / f"out/{name}", questions).items()}
        for name in ("predictions.txt", "predict_dev.json")
    )
    assert len(text) == len(ROWS)
    assert {i: text[i] for i in rows} == {i: row["vote"]["sql"] for i, row in rows.items()}
    assert bird == {i: text[i] for i in rows}


def test_what_is_exported_has_greedy_answers_and_golds_too(benchmark):
    """Predictions over several lines, an answer without SQL, question ids, a gold that fails."""
    commented = "SELECT name -- of the animal\nFROM pet"
    questions = read_json(benchmark / "dev.json")
    write_json(benchmark / "dev.json", [q | {"question_id": 70 + i} for i, q in enumerate(questions)])
    answers = {0: (commented, [commented] * 3), 1: ("", [RIGHT] * 3), 2: (WRONG, [BROKEN] * 3), 3: (RIGHT, [RIGHT] * 3)}
    rows = [(i, ("zoo", "", *answers.get(i, (WRONG, [WRONG] * 3)))) for i in (0, 1, 2, 3, 5)]
    write_candidates(benchmark, rows)
    _, scored = run(benchmark)
    write_predictions(benchmark / "out", benchmark / "exported")
    assert list(read_json(benchmark / "exported/vote.json")) == ["70", "71", "72", "75"]
    read = read_answers(benchmark / "exported/greedy.json", read_questions("spider", benchmark / "dev.json"))
    assert {i: answer.greedy.sql for i, answer in read.items()} == {i: scored[i]["greedy"]["sql"] for i in (0, 1, 2, 5)}
    lines = {name: (benchmark / f"exported/{name}.txt").read_text().splitlines() for name in ("greedy", "gold")}
    assert lines["greedy"][:2] == ["SELECT name FROM pet\tzoo", "SELECT\tzoo"]
    assert lines["gold"] == [f"{questions[i]['query']}\tzoo" for i in (0, 1, 2, 5)]


def test_the_greedy_answer_is_published_where_one_sample_has_no_vote(benchmark, monkeypatch):
    """Also: MLflow takes the metrics of a difficulty with characters that it refuses in names."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    questions = [
        {**q, "SQL": q["query"], "difficulty": "hard (joins), 1/2!"} for q in read_json(benchmark / "dev.json")
    ]
    write_json(benchmark / "dev.json", questions)
    write_candidates(benchmark, [(i, (*row[:3], [BROKEN])) for i, row in enumerate(ROWS) if row[0] != "ark"])
    summary, rows = run(benchmark, SETTINGS | {"benchmark": {"layout": "bird"}})
    assert summary["metrics"]["bird_ex"].keys() == {"greedy", "pass@1"}
    assert summary["features"].keys() == summary["error_kinds"].keys() == {"greedy"}
    predictions = read_json(benchmark / "out/predict_dev.json")
    assert [sql.split("\t")[0] for sql in predictions.values()] == [row["greedy"]["sql"] for row in rows.values()]
    client = mlflow.MlflowClient(f"sqlite:///{tracking.DEFAULT_STORE.resolve()}")
    (tracked,) = client.search_runs([client.get_experiment_by_name("manual").experiment_id])
    assert tracked.info.status == "FINISHED"
    assert tracked.data.metrics["bird_ex/greedy/hard -joins-- 1-2-"] == tracked.data.metrics["bird_ex/greedy"] == 1 / 4
    assert not [name for name in tracked.data.metrics if "vote" in name]
    traces = client.search_traces(locations=[tracked.info.experiment_id])
    assert {"vote" in trace.data.spans[0].outputs for trace in traces} == {False}


def test_a_comment_in_a_prediction_does_not_swallow_the_line(benchmark):
    commented = "SELECT name -- of the animal\nFROM pet"
    write_candidates(benchmark, [(i, (db, g, commented, [commented] * 3)) for i, (db, g, _, _) in enumerate(ROWS)])
    _, rows = run(benchmark)
    assert rows[0]["vote"]["verdict"] == "match"
    line = (benchmark / "out/predictions.txt").read_text().splitlines()[0]
    sql = line.split("\t")[0]
    with sqlite3.connect(benchmark / "databases/zoo/zoo.sqlite") as database:
        assert database.execute(sql).fetchall() == [("Rex",), ("Tom",), ("Ann",)]


def test_a_question_without_an_answer_is_wrong(benchmark):
    rows = [(i, (db, g, "", [""] * 3)) for i, (db, g, _, _) in enumerate(ROWS)]
    write_candidates(benchmark, rows)
    summary, rows = run(benchmark)
    assert rows[0]["greedy"]["spider_exec"] == rows[0]["vote"]["spider_exec"] == 0
    assert summary["metrics"]["well_formed"]["greedy"]["all"]["value"] == 0


def test_r_ves_is_measured_when_the_config_asks_for_it(benchmark):
    summary, rows = run(benchmark, SETTINGS | {"score": SETTINGS["score"] | {"ves": 2}})
    assert set(summary["metrics"]["r_ves"]) == {"greedy", "vote"}
    assert rows[0]["vote"]["r_ves"] > 0 == rows[1]["greedy"]["r_ves"]
    assert rows[3]["greedy"]["r_ves"] is None
    assert "r_ves" not in run(benchmark, out="without")[0]["metrics"]


def test_excluded_questions_are_counted_apart(benchmark):
    (benchmark / "untrusted.txt").write_text("2\n4\n")
    summary, rows = run(benchmark, exclude="untrusted.txt")
    assert (summary["excluded"], summary["missing_databases"]) == (2, {})
    assert sorted(rows) == [0, 1, 3, 5]


def test_bird_layout_has_set_semantics_as_headline(benchmark):
    questions = json.loads((benchmark / "dev.json").read_text())
    for row in questions:
        row |= {"SQL": row.pop("query"), "difficulty": "simple"}
    write_json(benchmark / "dev.json", questions)
    summary, rows = run(benchmark, SETTINGS | {"benchmark": {"layout": "bird"}})
    assert summary["metric"] == "bird_ex"
    assert rows[5]["greedy"]["verdict"] == "mismatch"
    assert summary["metrics"]["bird_ex"]["vote"]["simple"]["value"] == 2 / 4


def test_equal_input_gives_equal_bytes(benchmark):
    run(benchmark, out="first")
    run(benchmark, out="second")
    for name in ("summary.json", "questions.jsonl", "predictions.txt", "predict_dev.json"):
        assert (benchmark / "first" / name).read_bytes() == (benchmark / "second" / name).read_bytes()


def test_no_database_at_all_is_not_a_failure(benchmark):
    (benchmark / "databases/zoo/zoo.sqlite").unlink()
    summary, rows = run(benchmark)
    assert (summary["questions"], summary["missing_databases"], rows) == (0, {"ark": 1, "zoo": 5}, {})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda rows: rows[:-1], "no candidates for question 5"),
        (
            lambda rows: [(0, ("ark", *rows[0][1][1:])), *rows[1:]],
            "question 0 is about 'zoo', the prediction about 'ark'",
        ),
        (lambda rows: [(0, (*rows[0][1][:3], [RIGHT])), *rows[1:]], "hold 3 samples, the first 1"),
    ],
)
def test_candidates_that_do_not_fit_are_named(benchmark, capsys, spoil, message):
    write_candidates(benchmark, spoil([row for row in enumerate(ROWS) if row[1][0] != "ark"]))
    with pytest.raises(SystemExit, match="1"):
        run(benchmark)
    assert message in capsys.readouterr().err
    assert not (benchmark / "out/summary.json").exists()


def test_a_line_of_the_exclude_file_that_is_no_index_is_named(benchmark, capsys):
    (benchmark / "untrusted.txt").write_text("2\nsix\n")
    with pytest.raises(SystemExit, match="1"):
        run(benchmark, exclude="untrusted.txt")
    assert "untrusted.txt:2" in capsys.readouterr().err


def test_a_corrupt_database_is_named(benchmark, capsys):
    (benchmark / "databases/zoo/zoo.sqlite").write_bytes(b"not a database" * 100)
    with pytest.raises(SystemExit, match="1"):
        run(benchmark)
    assert "zoo.sqlite" in capsys.readouterr().err
    assert not (benchmark / "out/summary.json").exists()


def test_real_systems_on_spider_dev_score_as_the_official_evaluator_says(data_root, tmp_path, monkeypatch):
    """Four systems' predictions as samples, CodeS-7B's as greedy: equal to the official verdict on every question."""
    monkeypatch.chdir(tmp_path)
    systems = ("pred_sqls_codes_7b_spider", "pred_sqls_codes_1b_spider", "dail_sql_gpt_4", "graphix_result")
    files = [data_root / f"predictions/spider_dev.{system}.jsonl" for system in systems]
    predicted = [{row["index"]: row for _, row in read_jsonl(file)} for file in files]
    fence = "```sql\n{}\n```".format
    records = [
        Candidates(
            str(i), row["db_id"], fence(row["predicted"]), [fence(system[i]["predicted"]) for system in predicted]
        )
        for i, row in predicted[0].items()
    ]
    write_jsonl(tmp_path / "candidates.jsonl", records)
    arguments = ["--settings", json.dumps(SETTINGS), "--out", "out", "--candidates", "candidates.jsonl"]
    arguments += ["--exclude", str(data_root / "spider/wta_1_rankings_questions.txt")]
    arguments += ["--questions", str(data_root / "spider/dev.json"), "--databases", str(data_root / "spider/database")]
    score.main(arguments)
    rows = [row for _, row in read_jsonl(tmp_path / "out/questions.jsonl")]
    official = [sum(system[row["index"]]["official_exec_match"] for system in predicted) for row in rows]
    assert len(rows) == 1034 - 8
    assert [row["greedy"]["spider_exec"] for row in rows] == [
        predicted[0][row["index"]]["official_exec_match"] for row in rows
    ]
    assert [row["samples"]["spider_exec"] for row in rows] == official
    metrics = json.loads((tmp_path / "out/summary.json").read_text())["metrics"]["spider_exec"]
    assert metrics["pass@4"]["all"]["value"] == pytest.approx(sum(c > 0 for c in official) / len(rows))
    # Four different systems agree with each other more often than they err alike.
    assert metrics["vote"]["all"]["value"] > metrics["greedy"]["all"]["value"]
