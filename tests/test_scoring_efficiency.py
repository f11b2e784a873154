"""R-VES: what is timed, and whose fault it is when something cannot be timed."""

import os
import signal
import sqlite3
import threading
from contextlib import contextmanager

import pytest

from sqlr1.evaluate.evaluator import evaluate
from sqlr1.evaluate.formats import Answers, BenchmarkQuestion
from sqlr1.prompt import Response
from sqlr1.sandbox import Executor, Limits, Pair, Status

ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
COUNT = "SELECT count(*) FROM item"
QUESTION = BenchmarkQuestion(0, "shop", "how many", "", COUNT, "easy")


@pytest.fixture
def databases(tmp_path):
    (tmp_path / "shop").mkdir()
    connection = sqlite3.connect(tmp_path / "shop/shop.sqlite")
    connection.executescript("CREATE TABLE item (name); INSERT INTO item VALUES ('a'), ('b');")
    connection.close()
    return tmp_path


@contextmanager
def workers_killed(executor, every):
    """While the block runs, SIGKILL to all workers `every` so many seconds."""
    stop = threading.Event()

    def kill():
        while not stop.wait(every):
            for pid in executor.worker_pids():
                os.kill(pid, signal.SIGKILL)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    yield
    stop.set()
    killer.join()


@pytest.mark.parametrize(
    ("gold", "predicted", "status", "failed"),
    [
        ("SELECT nope", COUNT, Status.FAILED, "gold"),
        (COUNT, "SELECT nope", Status.FAILED, "predicted"),
        (ENDLESS, COUNT, Status.TIMED_OUT, "gold"),
        (COUNT, ENDLESS, Status.TIMED_OUT, "predicted"),
    ],
)
def test_a_race_names_the_statement_that_failed(databases, gold, predicted, status, failed):
    with Executor(workers=1, limits=Limits(seconds=0.3)) as executor:
        [race] = executor.race([Pair(databases / "shop/shop.sqlite", gold, predicted)], repeats=3)
    assert (race.status, race.failed, race.ratios) == (status, failed, [])
    assert race.error


def r_ves_in(executor, databases, monkeypatch, race, repeats):
    """The record of a matching prediction whose race is run by `race`."""
    monkeypatch.setattr(executor, "race", race)
    answers = {0: Answers(Response("", "", COUNT, True))}
    [row] = evaluate(executor, "bird", [QUESTION], databases, answers, ves_repeats=repeats).rows
    assert row["greedy"]["verdict"] == "match"
    return row["greedy"]["r_ves"]


def test_a_killed_worker_is_not_charged_to_the_prediction(databases, monkeypatch):
    with Executor(workers=1) as executor:
        run = executor.race

        def killed(*arguments):
            with workers_killed(executor, every=0.2):
                return run(*arguments)

        assert r_ves_in(executor, databases, monkeypatch, killed, repeats=200_000) is None


@pytest.mark.parametrize(("gold", "predicted", "expected"), [(ENDLESS, COUNT, None), (COUNT, ENDLESS, 0.0)])
def test_only_the_predictions_own_failure_is_charged_to_it(databases, monkeypatch, gold, predicted, expected):
    """A statement that ran in time when it was judged runs out of time in the race."""
    with Executor(workers=1, limits=Limits(seconds=0.3)) as executor:
        run = executor.race

        def slower(pairs, *more):
            return run([Pair(pair.database, gold, predicted) for pair in pairs], *more)

        assert r_ves_in(executor, databases, monkeypatch, slower, repeats=2) == expected
