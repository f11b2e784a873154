"""What the executor withstands: large golds, many queries in a row, damaged files."""

import pytest
from test_execution import database, make, predictions_run  # noqa: F401

from sqlr1.records import InputError
from sqlr1.sandbox import Executor, Limits, Pair, Query, Verdict


def test_memory_stays_flat(database):  # noqa: F811
    """The resident memory of worker and parent after 20,000 more queries, some of them large or failing."""
    page = 4096

    def resident(pid):
        with open(f"/proc/{pid}/statm") as file:
            return int(file.read().split()[1]) * page

    with Executor(workers=1, limits=Limits(seconds=5, rows=50_000)) as executor:

        def batch(start):
            statements = [f"SELECT a, b FROM t WHERE a > {i % 900} LIMIT {i % 30}" for i in range(start, start + 5000)]
            statements += [f"SELECT x.a, y.b, {start} FROM t x, t y", f"SELECT nope{start}"]
            executor.fingerprints([Query(database, sql) for sql in statements])
            executor.judge([Pair(database, f"SELECT {i}", "SELECT 1") for i in range(start, start + 500)])

        batch(0)
        [pid] = executor.worker_pids()
        before = resident(pid), resident("self")
        for start in range(5000, 25_000, 5000):
            batch(start)
        assert [pid] == executor.worker_pids()
        grown = resident(pid) - before[0], resident("self") - before[1]
    assert max(grown) < 16 << 20, grown


@pytest.mark.parametrize("start", [100, 4096])  # the page of the schema, and all later ones
def test_a_damaged_database_is_named_and_no_statement_is_charged_with_it(start, tmp_path):
    path = make(tmp_path / "shop/shop.sqlite", "CREATE TABLE t AS SELECT 1 AS x")
    data = path.read_bytes()
    path.write_bytes(data[:start] + b"\x55" * (len(data) - start))
    with Executor(workers=1) as executor:
        for work in (
            lambda: executor.execute([Query(path, "SELECT x FROM t")]),
            lambda: executor.judge([Pair(path, "SELECT x FROM t", "SELECT 1")]),
        ):
            with pytest.raises(InputError, match=r"shop\.sqlite: damaged \(database disk image is malformed\)"):
                work()


def test_golds_of_one_prediction_are_sent_in_parts(database, monkeypatch):  # noqa: F811
    """Twelve golds of 10 KB under a limit of 50 KB: a worker is never sent more than fits its memory."""
    golds = [f"SELECT a + 100000 FROM t LIMIT 2000 OFFSET {i}" for i in range(12)]
    with Executor(workers=1, limits=Limits(result_bytes=50_000)) as executor:
        ran = predictions_run(executor, monkeypatch)
        judgements = executor.judge([Pair(database, gold, golds[7]) for gold in golds], "bird")
    assert [judgement.verdict == Verdict.MATCH for judgement in judgements] == [i == 7 for i in range(12)]
    assert 2 <= len(ran) <= 3
