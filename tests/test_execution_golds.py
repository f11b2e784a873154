"""The cache of gold results: kept by content, across executors and stages, never when they depend on chance."""

import sqlite3
import time

import pytest
from test_execution import ENDLESS, make

from sqlr1.records import InputError
from sqlr1.sandbox import Executor, Limits, Pair, Query, Verdict


@pytest.fixture
def database(tmp_path):
    return make(tmp_path / "t.sqlite", "CREATE TABLE t AS SELECT 1 AS a")


def test_golds_are_kept_across_executors_by_content(tmp_path):
    """A gold that takes long is not run again: not by another executor, not for a copy of the database."""
    path = make(tmp_path / "a.sqlite", "CREATE TABLE t AS SELECT 1 AS x")
    copy = make(tmp_path / "b.sqlite", "CREATE TABLE t AS SELECT 2 AS x")
    copy.write_bytes(path.read_bytes())
    slow = f"{ENDLESS.replace('SELECT i + 1 FROM n', 'SELECT i + 1 FROM n LIMIT 2000000')} HAVING 0"
    seconds = []
    for database in (path, path, copy):
        with Executor(workers=1, limits=Limits(seconds=30), cache=tmp_path / "cache") as executor:
            executor.execute([Query(path, "SELECT 1")])
            start = time.perf_counter()
            assert executor.judge([Pair(database, slow, "SELECT 1 WHERE 0")])[0].verdict == Verdict.MATCH
            seconds.append(time.perf_counter() - start)
    assert max(seconds[1:]) < seconds[0] / 4


@pytest.mark.parametrize("cached", [True, False])
def test_a_kept_gold_follows_the_content_of_the_database(tmp_path, cached):
    path = make(tmp_path / "a.sqlite", "CREATE TABLE t AS SELECT 1 AS x")
    pair = Pair(path, "SELECT x FROM t", "SELECT 1")
    with Executor(workers=1, cache=tmp_path / "cache" if cached else None) as executor:
        assert executor.judge([pair])[0].verdict == Verdict.MATCH
        make(path, "UPDATE t SET x = 5")
        assert executor.judge([pair])[0].verdict == Verdict.MISMATCH


def test_a_kept_gold_is_not_run_again(tmp_path, database, monkeypatch):
    """By another executor: the workers are asked for the prediction alone."""
    pair = Pair(database, "SELECT a FROM t", "SELECT 1")
    with Executor(workers=1, cache=tmp_path / "cache") as executor:
        assert executor.judge([pair])[0].verdict == Verdict.MATCH
    with Executor(workers=1, cache=tmp_path / "cache") as executor:
        run = executor._pool.run

        def without_golds(tasks, *more, **named):
            assert "execute" not in {kind for kind, *_ in tasks}
            return run(tasks, *more, **named)

        monkeypatch.setattr(executor._pool, "run", without_golds)
        assert executor.judge([pair])[0].verdict == Verdict.MATCH
        with pytest.raises(AssertionError):  # the watch works: this gold is new
            executor.judge([Pair(database, "SELECT 1, a FROM t", "SELECT 1")])


def test_only_results_are_kept(tmp_path, database):
    """What failed or was refused is run again: rules and limits of the sandbox may change."""
    golds = ["SELECT a FROM t", "SELECT nope", "DELETE FROM t"]
    with Executor(workers=1, cache=tmp_path / "cache") as executor:
        verdicts = [j.verdict for j in executor.judge([Pair(database, gold, "SELECT 1") for gold in golds], "bird")]
    assert verdicts == [Verdict.MATCH, Verdict.GOLD_FAILED, Verdict.GOLD_FAILED]
    assert stored(tmp_path / "cache") == 1


def stored(folder):
    return sqlite3.connect(folder / "golds.sqlite").execute("SELECT count(*) FROM gold").fetchone()[0]


@pytest.mark.parametrize(
    "gold",
    [
        "SELECT RANDOM() % 1000000000",
        "SELECT a FROM t ORDER BY random()",
        "SELECT CURRENT_TIMESTAMP",
        "SELECT date/**/('now')",
        "SELECT \"strftime\" ('%s', 'now')",
        "SELECT * FROM clock",
        "SELECT 1 WHERE EXISTS (SELECT 1 FROM clock)",
    ],
)
def test_golds_that_depend_on_chance_or_the_clock_are_never_kept(tmp_path, database, gold):
    make(database, "CREATE VIEW clock AS SELECT datetime('now') AS now")
    with Executor(workers=1, cache=tmp_path / "cache") as executor:
        executor.judge(
            [Pair(database, gold, "SELECT 0"), Pair(database, "SELECT now FROM (SELECT 1 AS now)", "SELECT 0")]
        )
    assert stored(tmp_path / "cache") == 1  # the other one


def test_a_damaged_cache_is_named(tmp_path):
    (tmp_path / "golds.sqlite").write_bytes(b"not a database, and longer than a header" * 100)
    with pytest.raises(InputError, match=r"golds\.sqlite: the cache of gold results is damaged"):
        Executor(workers=1, cache=tmp_path)


def test_a_damaged_entry_of_the_cache_is_named(tmp_path, database):
    pair = Pair(database, "SELECT max(a) FROM t", "SELECT 1")
    with Executor(workers=1, cache=tmp_path) as executor:
        executor.judge([pair])
    make(tmp_path / "golds.sqlite", "UPDATE gold SET reply = x'ff00'")
    with (
        Executor(workers=1, cache=tmp_path) as executor,
        pytest.raises(InputError, match=r"golds\.sqlite: the cache of gold results is damaged"),
    ):
        executor.judge([pair])


def test_a_locked_cache_is_not_called_damaged(tmp_path, database, monkeypatch):
    monkeypatch.setattr("sqlr1.sandbox.cache._BUSY_SECONDS", 0.1)
    with Executor(workers=1, cache=tmp_path) as executor:
        other = sqlite3.connect(tmp_path / "golds.sqlite", isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(InputError, match=r"golds\.sqlite: the cache of gold results cannot be used .*locked"):
            executor.judge([Pair(database, "SELECT 1", "SELECT 1")])
        other.close()


def test_a_cache_that_is_no_folder_is_named(tmp_path, database):
    with pytest.raises(InputError, match=r"t\.sqlite: not a folder for the cache"):
        Executor(workers=1, cache=database)
