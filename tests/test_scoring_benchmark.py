"""The one evaluator: which questions are scored, and that a gold's fault is never charged to an answer."""

import shutil
import sqlite3

import pytest

from sqlr1.evaluate.evaluator import evaluate, summarise
from sqlr1.evaluate.formats import Answers, BenchmarkQuestion
from sqlr1.prompt import Response
from sqlr1.sandbox import Executor
from sqlr1.statistics import Bootstrap

NAMES, COUNT = "SELECT name FROM pet", "SELECT count(*) FROM pet"


def answers(greedy, *samples):
    return Answers(Response("", "", greedy, True), [Response("", "", sql, True) for sql in samples])


@pytest.fixture
def databases(tmp_path):
    (tmp_path / "zoo").mkdir()
    with sqlite3.connect(tmp_path / "zoo/zoo.sqlite") as database:
        database.execute("CREATE TABLE pet (name)")
        database.executemany("INSERT INTO pet VALUES (?)", [("Rex",), ("Tom",)])
    return tmp_path


def test_questions_need_not_be_all_of_their_file(tmp_path):
    """The index of a question is not its place in the list."""
    questions = [BenchmarkQuestion(5, "gone", "q", "", "SELECT 1", "easy")]
    with Executor(workers=1) as executor:
        found = evaluate(executor, "spider", questions, tmp_path, {5: answers("SELECT 1")})
    assert (found.rows, found.missing, found.unanswered) == ([], {5: "gone"}, [])


def test_every_metric_is_reported_for_greedy_and_vote(databases):
    """The vote goes to the two equal samples, one of which orders its rows: right by all metrics but Soft-F1."""
    question = BenchmarkQuestion(0, "zoo", "q", "", NAMES, "easy")
    samples = answers(COUNT, COUNT, f"{NAMES} ORDER BY name DESC", NAMES)
    with Executor(workers=1) as executor:
        found = evaluate(executor, "bird", [question], databases, {0: samples}, ves_repeats=2)
    metrics = summarise(found.rows, Bootstrap(resamples=100))
    values = {m: {k: groups["easy"]["value"] for k, groups in by.items()} for m, by in metrics.items()}
    exact = {"greedy": 0, "vote": 1, "pass@1": pytest.approx(2 / 3), "pass@3": 1}
    assert {m: values[m] for m in ("spider_exec", "spider_exec_keep_distinct", "bird_ex")} == dict.fromkeys(
        ("spider_exec", "spider_exec_keep_distinct", "bird_ex"), exact
    )
    assert values["soft_f1"] == {"greedy": 0, "vote": 0}
    assert values["r_ves"]["greedy"] == 0 < values["r_ves"]["vote"]
    assert values["executable"] == {"greedy": 1, "samples": 1}


@pytest.mark.parametrize("file", [True, False])
def test_other_databases_beside_the_named_one_are_warned_of(databases, caplog, file):
    """In a folder of databases, Spider's test suites have copies there."""
    shutil.copy2(databases / "zoo/zoo.sqlite", databases / "zoo/archive.sqlite")
    question = BenchmarkQuestion(0, "zoo", "q", "", NAMES, "easy")
    with Executor(workers=1) as executor:
        evaluate(
            executor, "spider", [question], databases / "zoo/zoo.sqlite" if file else databases, {0: answers(NAMES)}
        )
    assert ("match on the databases beside it" in caplog.text and "(archive.sqlite)" in caplog.text) == file


def test_a_golds_fault_is_not_charged_to_any_method(databases):
    questions = [BenchmarkQuestion(i, "zoo", "q", "", gold, "easy") for i, gold in enumerate(("SELECT nope", NAMES))]
    given = dict.fromkeys((0, 1), answers(NAMES, NAMES, COUNT))
    with Executor(workers=1) as executor:
        found = evaluate(executor, "spider", questions, databases, given, ves_repeats=1)
    assert [row["index"] for row in found.scored] == [1]
    assert [row["greedy"]["verdict"] for row in found.gold_faults] == ["gold_failed"]
    for methods in summarise(found.rows, Bootstrap()).values():
        assert {groups["all"]["n"] for groups in methods.values()} == {1}
