"""Workers that die, hang or are killed: every query keeps its verdict, the others do not notice."""

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import sqlr1
from sqlr1.sandbox import Execution, Executor, Limits, Pair, Query, Verdict, pool

ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
# About half a second; long enough to be hit in the middle.
SLOW = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 3000000) SELECT count(*) FROM n"


@pytest.fixture
def database(tmp_path):
    path = tmp_path / "t.sqlite"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE t (a)")
    connection.executemany("INSERT INTO t VALUES (?)", [(i,) for i in range(100)])
    connection.commit()
    connection.close()
    return path


def after(seconds, action):
    timer = threading.Timer(seconds, action)
    timer.start()
    return timer


@contextlib.contextmanager
def all_killed_every(seconds, executor):
    stop = threading.Event()

    def kill():
        while not stop.wait(seconds):
            for pid in executor.worker_pids():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    try:
        yield
    finally:
        stop.set()
        killer.join()


def test_a_worker_killed_in_mid_query_loses_nothing(database):
    with Executor(workers=2, limits=Limits(seconds=10)) as executor:
        queries = [Query(database, f"{SLOW} WHERE {i} = {i}") for i in range(4)]
        queries += [Query(database, f"SELECT {i}, count(*) FROM t") for i in range(300)]
        victims = executor.worker_pids()
        after(0.2, lambda: os.kill(victims[0], signal.SIGKILL))
        results = executor.execute(queries)
        assert victims[0] not in executor.worker_pids()
    assert [result.rows for result in results[:4]] == [[(3_000_000,)]] * 4
    assert [result.rows for result in results[4:]] == [[(i, 100)] for i in range(300)]


def test_all_workers_killed_again_and_again(database):
    with Executor(workers=2, limits=Limits(seconds=10)) as executor, all_killed_every(0.4, executor):
        results = executor.execute([Query(database, f"SELECT {i}, count(*) FROM t") for i in range(8_000)])
    # A query hit twice is called crashed; none is lost, none has another's rows.
    wrong = [i for i, result in enumerate(results) if result.rows != [(i, 100)]]
    assert all(results[i].status == "crashed" for i in wrong)
    assert len(wrong) < 50


def test_a_query_that_always_kills_its_worker_is_crashed(database):
    """Judged by real deaths: the query is long, and whichever worker runs it is killed."""
    with Executor(workers=1, limits=Limits(seconds=20)) as executor:
        with all_killed_every(0.3, executor):
            [result] = executor.execute([Query(database, ENDLESS)])
        assert result.status == "crashed"
        assert "died" in result.error
        assert executor.execute([Query(database, "SELECT 1")])[0].rows == [(1,)]


def test_a_worker_killed_between_calls_is_replaced(database):
    with Executor(workers=2) as executor:
        assert executor.execute([Query(database, "SELECT 1")])[0].rows == [(1,)]
        for pid in executor.worker_pids():
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
        results = executor.execute([Query(database, f"SELECT {i}") for i in range(20)])
        assert [result.rows for result in results] == [[(i,)] for i in range(20)]


def test_a_stopped_worker_is_replaced(database, monkeypatch):
    """Long before a comparison would have to end."""
    monkeypatch.setattr("sqlr1.sandbox.pool._HANG_SECONDS", 0.3)
    with Executor(workers=1, limits=Limits(seconds=0.2)) as executor:
        executor.execute([Query(database, "SELECT 1")])
        [stopped] = executor.worker_pids()
        os.kill(stopped, signal.SIGSTOP)
        start = time.perf_counter()
        [result] = executor.execute([Query(database, "SELECT 2")])
        assert time.perf_counter() - start < 5
        assert result.rows == [(2,)]
        assert stopped not in executor.worker_pids()
        with pytest.raises(ProcessLookupError):
            os.kill(stopped, 0)


def test_a_worker_stopped_in_a_race_is_replaced(database, monkeypatch):
    """After one statement's limit, not after that of the race's two thousand."""
    monkeypatch.setattr("sqlr1.sandbox.pool._HANG_SECONDS", 0.3)
    with Executor(workers=1, limits=Limits(seconds=0.2)) as executor:
        executor.execute([Query(database, "SELECT 1")])
        [stopped] = executor.worker_pids()
        os.kill(stopped, signal.SIGSTOP)
        rescue = after(10, lambda: os.kill(stopped, signal.SIGCONT))
        start = time.perf_counter()
        [race] = executor.race([Pair(database, "SELECT 1", "SELECT 1")], repeats=1000)
        rescue.cancel()
        assert time.perf_counter() - start < 5
    assert len(race.ratios) == 1000


@pytest.fixture
def swapped(tmp_path):
    """A pair whose columns are swapped, with enough rows for half a second of comparing."""
    path = tmp_path / "wide.sqlite"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE t (a, b, c)")
    connection.executemany("INSERT INTO t VALUES (?, ?, ?)", [(i * 0.1, i * 0.2, i * 0.3) for i in range(100_000)])
    connection.commit()
    connection.close()
    return Pair(path, "SELECT a, b, c FROM t", "SELECT b, a, c FROM t")


def test_a_result_that_takes_too_long_to_compare_is_no_slow_query(swapped):
    with Executor(workers=1, limits=Limits(seconds=20, comparison_seconds=0.05)) as executor:
        [judgement] = executor.judge([swapped])
        assert executor.execute([Query(swapped.database, "SELECT 1")])[0].rows == [(1,)]
    assert (judgement.verdict, judgement.error) == (Verdict.TOO_LARGE, "the result takes too long to compare")


def test_waiting_for_the_cpu_is_not_charged_to_a_comparison(swapped):
    """A worker that runs a sixth of the time needs more wall time than its limit, and still answers."""
    with Executor(workers=1, limits=Limits(seconds=60, comparison_seconds=2.0)) as executor:
        executor.execute([Query(swapped.database, "SELECT 1")])
        [pid] = executor.worker_pids()
        stop = threading.Event()

        def throttle():
            while not stop.wait(0.04):
                os.kill(pid, signal.SIGSTOP)
                stop.wait(0.2)
                os.kill(pid, signal.SIGCONT)

        throttler = threading.Thread(target=throttle, daemon=True)
        throttler.start()
        start = time.perf_counter()
        [judgement] = executor.judge([swapped])
        seconds = time.perf_counter() - start
        stop.set()
        throttler.join()
        assert executor.worker_pids() == [pid]
    assert judgement.verdict == Verdict.MATCH
    assert seconds > 2.0  # else the test shows nothing


def ends(database, quick):
    """When the queries of two workers end, in seconds: one that takes 2 s, and after it so many quick ones."""
    queries = [ENDLESS, *(f"SELECT {i} FROM t" for i in range(quick))]
    with Executor(workers=2, limits=Limits(seconds=2.0)) as executor:
        executor.execute([Query(database, f"SELECT {i}") for i in range(2)])  # the workers are there
        start = time.perf_counter()
        done: list[float] = []
        tasks = [("execute", str(database), sql) for sql in queries]
        replies = executor._pool.run(tasks, lambda: done.append(time.perf_counter() - start))
    assert [status for status, _, _ in replies] == ["timed_out"] + ["ok"] * quick
    return done


def test_a_slow_query_slows_one_other_at_most(database):
    """The one that waits at its worker."""
    done = ends(database, 400)
    assert done[-3] < 1.5 < 2.0 <= done[-1] < 2.5


def test_near_the_end_no_query_waits_behind_a_slow_one(database):
    done = ends(database, 16)
    assert done[-2] < 1.5 < 2.0 <= done[-1]


def test_a_query_that_waits_at_a_worker_is_not_blamed_for_its_deaths(database):
    """Whatever runs for 0.3 s is killed, twice: only the endless queries are called crashed."""
    with Executor(workers=1, limits=Limits(seconds=20)) as executor:
        endless = [Query(database, f"{ENDLESS} WHERE i > {i}") for i in range(3)]
        quick = [Query(database, f"SELECT {i}, count(*) FROM t") for i in range(20)]
        with all_killed_every(0.3, executor):
            results = executor.execute([query for i in range(20) for query in (*endless[i : i + 1], quick[i])])
    assert [result.status for result in results if result.status != "ok"] == ["crashed"] * 3
    assert [result.rows for result in results if result.status == "ok"] == [[(i, 100)] for i in range(20)]


def test_a_worker_that_is_stopped_or_ended_by_the_kernel_gives_back_its_second_query(database, monkeypatch):
    monkeypatch.setattr("sqlr1.sandbox.pool._HANG_SECONDS", 0.3)
    one_call = "SELECT instr(hex(zeroblob(10000000)), hex(zeroblob(500000)) || '1')"  # only the kernel can end it
    queries = [Query(database, one_call), *(Query(database, f"SELECT {i}, count(*) FROM t") for i in range(40))]
    with Executor(workers=1, limits=Limits(seconds=0.2)) as executor:
        executor.execute([Query(database, "SELECT 1")])
        [stopped] = executor.worker_pids()
        os.kill(stopped, signal.SIGSTOP)
        slow, *others = executor.execute(queries)
        assert stopped not in executor.worker_pids()
    assert slow.status == "timed_out"
    assert [result.rows for result in others] == [[(i, 100)] for i in range(40)]


def test_a_large_query_is_no_second_one_and_a_stopped_worker_does_not_block_for_long(database, monkeypatch):
    monkeypatch.setattr("sqlr1.sandbox.pool._HANG_SECONDS", 0.3)
    sent = []
    assign = pool._Process.assign

    def watched(process, task, message, statements):
        sent.append((len(process.tasks), len(message) > 100_000))
        assign(process, task, message, statements)

    monkeypatch.setattr(pool._Process, "assign", watched)
    large = [Query(database, f"SELECT {i}, length('{'x' * 400_000}')") for i in range(2)]
    small = [Query(database, f"SELECT {i}") for i in range(40)]
    with Executor(workers=1, limits=Limits(seconds=1.0, sql_length=1_000_000)) as executor:
        executor.execute([Query(database, "SELECT 1")])
        sent.clear()
        os.kill(executor.worker_pids()[0], signal.SIGSTOP)
        start = time.perf_counter()
        results = executor.execute([large[0], *small, large[1], *small[:20]])
        assert time.perf_counter() - start < 3.0
    assert [result.status for result in results] == ["ok"] * 62
    assert {second for second, is_large in sent if is_large} == {0}
    assert {second for second, is_large in sent if not is_large} == {0, 1}


def test_a_batch_stays_within_its_slow_queries_shared_among_the_workers(database):
    with Executor(workers=2, limits=Limits(seconds=0.5)) as executor:
        pairs = [Pair(database, "SELECT 1", f"{ENDLESS} WHERE i > {i}") for i in range(6)]
        pairs += [Pair(database, "SELECT count(*) FROM t", f"SELECT count(*) + {i} FROM t") for i in range(58)]
        executor.execute([Query(database, f"SELECT {i}") for i in range(2)])  # the workers are there
        start = time.perf_counter()
        judgements = executor.judge(pairs)
        assert time.perf_counter() - start < 6 * 0.5 / 2 + 1.0  # one after the other: 3 s
    assert [judgement.verdict for judgement in judgements[:6]] == [Verdict.TIMED_OUT] * 6
    assert [judgement.verdict for judgement in judgements[6:]] == [Verdict.MATCH] + [Verdict.MISMATCH] * 57


def test_interrupted_call_leaves_no_stale_reply(database):
    """After an exception in mid-call (Ctrl-C), the next call must not receive the replies of the one before."""
    with Executor(workers=2, limits=Limits(seconds=5)) as executor:

        def interrupt():
            raise KeyboardInterrupt

        tasks = [("execute", str(database), f"SELECT {i}") for i in range(10)]
        with pytest.raises(KeyboardInterrupt):
            executor._pool.run(tasks, interrupt)
        results = executor.execute([Query(database, f"SELECT {i + 1000}") for i in range(10)])
        assert [result.rows for result in results] == [[(i + 1000,)] for i in range(10)]


def test_workers_that_cannot_start_are_reported(monkeypatch):
    monkeypatch.setattr("sqlr1.sandbox.pool._START", "raise SystemExit(7)")
    workers = pool.Pool(1, Limits())
    with pytest.raises(RuntimeError, match=r"do not start \(exit code 7\)"):
        workers.run([("execute", "x", "SELECT 1")])


@pytest.mark.parametrize("workers", [0, -1])
def test_a_pool_without_workers_is_refused(workers):
    with pytest.raises(ValueError, match=f"needs at least one worker, not {workers}"):
        Executor(workers)


def test_closing_ends_the_workers(database):
    with Executor(workers=2) as executor:
        executor.execute([Query(database, "SELECT 1")])
        pids = executor.worker_pids()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_workers_end_with_their_parent(database):
    code = f"""
from pathlib import Path; import os, signal
from sqlr1.sandbox import Executor, Query
executor = Executor(workers=2)
executor.execute([Query(Path({str(database)!r}), "SELECT 1")])
print(*executor.worker_pids(), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    pids = [int(pid) for pid in run.stdout.split()]
    assert len(pids) == 2
    deadline = time.monotonic() + 5
    while (alive := [pid for pid in pids if _alive(pid)]) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive


def _alive(pid):
    """Running, and not a zombie that nobody has waited for (the tests' container may have no init)."""
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def test_a_process_full_of_torch_threads_can_use_it(database):
    code = f"""
from pathlib import Path; import torch
torch.set_num_threads(2); torch.randn(500, 500) @ torch.randn(500, 500)
from sqlr1.sandbox import Executor, Query
with Executor(workers=2) as executor:
    print(executor.execute([Query(Path({str(database)!r}), "SELECT count(*) FROM t")])[0].rows)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert run.stdout.strip() == "[(100,)]", run.stderr


def test_a_worker_imports_nothing_heavy():
    code = (
        f"import sys; sys.path.insert(0, {str(Path(sqlr1.__file__).parents[1])!r})\n"
        "import sqlr1.sandbox.worker; print(*sys.modules)"
    )
    run = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in run.stdout.split()}
    assert not {"sqlr1.sandbox.judging", "sqlr1.sandbox.executor"} & set(run.stdout.split())
    assert not loaded & {"numpy", "torch", "sqlglot", "tqdm", "mlflow", "subprocess", "asyncio", "json"}


def test_results_do_not_depend_on_the_number_of_workers(database):
    queries = [Query(database, f"SELECT a % {i}, count(*) FROM t GROUP BY 1") for i in range(1, 60)]
    results: list[list[Execution]] = []
    for workers in (1, 3):
        with Executor(workers=workers) as executor:
            results.append(executor.execute(queries))
    assert results[0] == results[1]
