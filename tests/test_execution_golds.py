"""The cache of gold results: kept by content, across executors and stages, never when they depend on chance."""

import os
import sqlite3
import subprocess
import sys
import time

import pytest
from test_execution import ENDLESS, make

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


def test_golds_with_the_number_of_a_cursor_are_never_kept(tmp_path, database):
    """FTS5's hidden column of the table's name has another value in each run, its hidden column rank has not."""
    make(database, "CREATE VIRTUAL TABLE note USING fts5(body)", "INSERT INTO note VALUES ('red fox'), ('fox')")
    cursors = ["SELECT Note FROM note", "SELECT note + 0 FROM note WHERE note MATCH 'fox'"]
    ranked = "SELECT highlight(note, 0, '<', '>'), rank FROM note WHERE note MATCH 'fox' ORDER BY rank"
    with Executor(workers=1, cache=tmp_path / "cache") as executor:
        for cursor in cursors:
            first, second = (executor.execute([Query(database, cursor)])[0].rows for _ in range(2))
            assert first != second
        executor.judge([Pair(database, gold, "SELECT 0") for gold in (*cursors, ranked)])
        assert stored(tmp_path / "cache") == 1
        (judgement,) = executor.judge([Pair(database, ranked, ranked)])
    assert judgement.verdict == Verdict.MATCH


def judged_without_cache(executor, database, caplog, reason):
    """A failing cache costs time, never a run: one warning says why, and later golds are judged all the same."""
    for gold in ("SELECT max(a) FROM t", "SELECT a FROM t"):
        (judgement,) = executor.judge([Pair(database, gold, "SELECT 1")])
        assert judgement.verdict == Verdict.MATCH
    (message,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert reason in message


def test_a_damaged_cache_is_gone_without(tmp_path, database, caplog):
    (tmp_path / "golds.sqlite").write_bytes(b"not a database, and longer than a header" * 100)
    with Executor(workers=1, cache=tmp_path) as executor:
        judged_without_cache(executor, database, caplog, "golds.sqlite: the cache of gold results failed (file is not")


@pytest.mark.parametrize("reply", ["x'ff00'", "x'4e'", "NULL", "'text'"])  # 4e: None, to marshal
def test_a_damaged_entry_of_the_cache_is_run_again(tmp_path, database, caplog, reply):
    with Executor(workers=1, cache=tmp_path) as executor:
        executor.judge([Pair(database, "SELECT max(a) FROM t", "SELECT 1")])
    make(tmp_path / "golds.sqlite", f"UPDATE gold SET reply = {reply}")
    with Executor(workers=1, cache=tmp_path) as executor:
        judged_without_cache(executor, database, caplog, "golds.sqlite: the cache of gold results failed")


def test_a_locked_cache_is_gone_without(tmp_path, database, caplog, monkeypatch):
    monkeypatch.setattr("sqlr1.sandbox.cache._BUSY_SECONDS", 0.1)
    with Executor(workers=1, cache=tmp_path) as executor:
        other = sqlite3.connect(tmp_path / "golds.sqlite", isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        judged_without_cache(executor, database, caplog, "(database is locked)")
        other.close()


def test_a_cache_that_is_no_folder_is_gone_without(tmp_path, database, caplog):
    with Executor(workers=1, cache=database) as executor:
        judged_without_cache(executor, database, caplog, "t.sqlite/golds.sqlite: the cache of gold results failed")


def test_a_cache_that_fails_while_it_is_written_is_gone_without(tmp_path, database, caplog):
    """As on a full disk: reading works."""
    with Executor(workers=1, cache=tmp_path) as executor:
        executor._cache._store.execute("PRAGMA query_only = ON")
        judged_without_cache(executor, database, caplog, "golds.sqlite: the cache of gold results failed (attempt to")


def test_a_folder_of_the_node_can_be_named(tmp_path):
    """SQLR1_GOLD_CACHE may contain variables that only the node sets."""
    code = "from sqlr1.stages.common import GOLD_CACHE; print(GOLD_CACHE)"
    for given, expected in (("", "results/.cache/golds"), ("$NODE_DISK/golds", f"{tmp_path}/golds")):
        environment = os.environ | {"SQLR1_GOLD_CACHE": given, "NODE_DISK": str(tmp_path)}
        run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        assert run.stdout.strip() == expected
