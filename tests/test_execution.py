"""What the executor returns: values, statuses, verdicts, limits, fingerprints, and the cache of golds."""

import math
import sqlite3
import time
from pathlib import Path

import pytest

from sqlr1.config import Execution as ExecutionSection
from sqlr1.records import InputError
from sqlr1.sandbox import METRICS, SEMANTICS, Executor, Limits, Pair, Query, Status, Verdict
from sqlr1.sandbox.connection import Sandbox, defend_connections

ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"


def make(path, *statements):
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path)
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()
    return path


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    rows = ", ".join(f"({i}, 'n{i % 7}')" for i in range(1000))
    return make(
        tmp_path_factory.mktemp("db") / "a b%3?#.sqlite", "CREATE TABLE t (a, b)", f"INSERT INTO t VALUES {rows}"
    )


@pytest.fixture(scope="module")
def executor():
    with Executor(workers=2, limits=Limits(seconds=1.0)) as executor:
        yield executor


def run(executor, database, sql):
    return executor.execute([Query(database, sql)])[0]


def test_every_kind_of_value_goes_through(executor, database):
    result = run(
        executor,
        database,
        "SELECT 9223372036854775807, -9223372036854775808, 9e999, -9e999, 0.0/0, NULL, x'00ff', 'é\U0001f600', 1.5, ''",
    )
    expected = (2**63 - 1, -(2**63), math.inf, -math.inf, None, None, b"\x00\xff", "é\U0001f600", 1.5, "")
    assert result.rows == [expected]
    assert [type(value) for value in result.rows[0]] == [type(value) for value in expected]


def test_undecodable_text_loses_the_bytes_only(executor, database):
    assert run(executor, database, "SELECT CAST(x'41ff42' AS TEXT), 'c'").rows == [("AB", "c")]


def test_duplicate_column_names_go_through(executor, database):
    result = run(executor, database, "SELECT 1 AS x, 2 AS x, 3")
    assert (result.columns, result.rows) == (["x", "x", "3"], [(1, 2, 3)])


def test_rows_keep_their_order_and_queries_theirs(executor, database):
    queries = [Query(database, f"SELECT a FROM t ORDER BY a DESC LIMIT {i}") for i in (3, 1, 2, 3)]
    assert [[a for (a,) in r.rows] for r in executor.execute(queries)] == [
        [999, 998, 997],
        [999],
        [999, 998],
        [999, 998, 997],
    ]


@pytest.mark.parametrize(
    ("sql", "status"),
    [
        ("SELECT 1", Status.OK),
        ("SELECT nope FROM t", Status.FAILED),
        ("DELETE FROM t", Status.REFUSED),
        (ENDLESS, Status.TIMED_OUT),
        ("SELECT x.a FROM t x, t y", Status.TOO_LARGE),
        ("SELECT hex(zeroblob(5000000))", Status.TOO_LARGE),
        ("SELECT " + "1," * 60_000 + "1", Status.REFUSED),
        ("SELECT " + "+".join("1" * 200), Status.REFUSED),
    ],
    ids=["ok", "failed", "refused", "timed out", "rows", "bytes", "sql length", "expression depth"],
)
def test_limits(database, sql, status):
    limits = Limits(seconds=0.3, rows=100_000, result_bytes=1 << 20, sql_length=50_000, expression_depth=100)
    with Executor(workers=1, limits=limits) as executor:
        result = run(executor, database, sql)
    assert result.status == status
    assert bool(result.error) == (status != Status.OK)


def test_every_limit_is_a_key_of_the_config():
    assert set(ExecutionSection.model_fields) == set(Limits._fields)


def test_memory_limit(database):
    """A sort of some 100 MB: fine with 256 MiB, too large with 32 MiB; and the worker goes on afterwards."""
    rows = "SELECT x.b || hex(zeroblob(50)) AS s FROM t x, t y WHERE y.a < 600 ORDER BY s"
    sort = f"SELECT count(*) FROM ({rows} LIMIT -1 OFFSET 1)"
    statuses = []
    for memory in (256 << 20, 32 << 20):
        with Executor(workers=1, limits=Limits(seconds=20, memory_bytes=memory)) as executor:
            statuses.append(run(executor, database, sort).status)
            assert run(executor, database, "SELECT 1").rows == [(1,)]
    assert statuses == [Status.OK, Status.TOO_LARGE]


@pytest.mark.alone
def test_time_limit_stops_sqlite_itself(executor, database):
    """Both ways: a long loop, stopped by SQLite, and one long call inside it, stopped by the kernel.

    Within 50 ms, so it runs alone; `test_hostile` has the same limits on a busy machine.
    """
    one_call = "SELECT instr(hex(zeroblob(10000000)), hex(zeroblob(500000)) || '1')"
    for sql in (ENDLESS, one_call):
        for _ in range(4):  # on a busy machine the best of a few attempts counts
            start = time.perf_counter()
            assert run(executor, database, sql).status == Status.TIMED_OUT
            late = time.perf_counter() - start - 1.0
            if late < 0.05:
                break
        assert -0.001 < late < 0.05


def test_defensive_mode_is_on(database):
    """Even without the authorizer the catalogue cannot be written; outside the hook it can, so the test can fail."""
    forge = "UPDATE sqlite_master SET sql = 'forged'"
    with defend_connections():
        sandbox = Sandbox(database, Limits())
        sandbox._connection.set_authorizer(None)
        sandbox._connection.execute("PRAGMA writable_schema = ON")
        with pytest.raises(sqlite3.OperationalError, match="may not be modified"):
            sandbox._connection.execute(forge)
        assert sandbox._connection.execute("PRAGMA trusted_schema").fetchone() == (0,)
        sandbox.close()
    plain = sqlite3.connect(":memory:")
    plain.execute("PRAGMA writable_schema = ON")
    plain.execute(forge)


def test_the_process_is_confined(executor):
    limits = Path(f"/proc/{executor.worker_pids()[0]}/limits").read_text()
    soft = {line[:25].strip(): line[26:].split()[0] for line in limits.splitlines()[1:]}
    assert soft["Max file size"] == soft["Max core file size"] == soft["Max processes"] == "0"
    assert int(soft["Max address space"]) < 2 << 30
    assert int(soft["Max open files"]) <= 64


def test_a_worker_has_no_environment_of_its_parent(executor):
    assert b"HOME" not in Path(f"/proc/{executor.worker_pids()[0]}/environ").read_bytes()


def test_names_beyond_ascii_are_readable(executor, tmp_path):
    path = make(tmp_path / "d.sqlite", 'CREATE TABLE "ÄPFEL" (Größe)', 'INSERT INTO "ÄPFEL" VALUES (3)')
    assert run(executor, path, 'SELECT "GRößE" FROM "ÄPFEL"').rows == [(3,)]


def test_names_cannot_pass_for_messages(executor, database):
    """A name the statement chooses, quoted in SQLite's message, does not make a failure a refusal."""
    for name in ("too many", "parser stack overflow", "only execute one statement at a time"):
        assert run(executor, database, f'SELECT * FROM "{name}"').status == Status.FAILED


def test_messages_are_short(executor, database):
    assert len(run(executor, database, "SELECT '" + "x" * 50_000).error) <= 500


def test_broken_quotes_are_read_in_linear_time(executor, database):
    start = time.perf_counter()
    for sql in (
        "'" * 99_999,
        "SELECT DISTINCT " + "'a" * 49_999,
        "distinct" + "/*" * 40_000,
        "distinct" + "[" * 90_000,
    ):
        assert executor.judge([Pair(database, "SELECT 1", sql)])[0].verdict in (Verdict.FAILED, Verdict.REFUSED)
    assert time.perf_counter() - start < 5  # in quadratic time: minutes


def test_a_changed_database_is_noticed(executor, tmp_path):
    path = make(tmp_path / "d.sqlite", "CREATE TABLE t AS SELECT 1 AS a")
    assert run(executor, path, "SELECT a FROM t").rows == [(1,)]
    make(path, "UPDATE t SET a = 2")
    assert run(executor, path, "SELECT a FROM t").rows == [(2,)]
    assert executor.judge([Pair(path, "SELECT a FROM t", "SELECT 2")])[0].verdict == Verdict.MATCH


def test_missing_and_broken_databases(executor, tmp_path):
    absent = tmp_path / "absent.sqlite"
    assert run(executor, absent, "SELECT 1").status == Status.MISSING_DATABASE
    pairs = [Pair(None, "SELECT 1", "SELECT 1"), Pair(absent, "SELECT 1", "SELECT 1")]
    assert [j.verdict for j in executor.judge(pairs)] == [Verdict.MISSING_DATABASE] * 2
    assert not absent.exists()
    (tmp_path / "broken.sqlite").write_bytes(b"<html>404</html>" * 100)
    with pytest.raises(InputError, match=r"broken\.sqlite: not a SQLite database"):
        run(executor, tmp_path / "broken.sqlite", "SELECT 1")
    with pytest.raises(InputError, match=r"broken\.sqlite: not a SQLite database"):
        executor.judge([Pair(tmp_path / "broken.sqlite", "SELECT 1", "SELECT 1")])


@pytest.mark.parametrize(
    "path", ["/dev/null", "/", "x" * 300, "a/b.sqlite"], ids=["device", "folder", "long", "absent"]
)
def test_what_is_no_file_is_a_missing_database(executor, path):
    """To every method alike."""
    assert run(executor, Path(path), "SELECT 1").status == Status.MISSING_DATABASE
    assert executor.judge([Pair(Path(path), "SELECT 1", "SELECT 1")])[0].verdict == Verdict.MISSING_DATABASE
    assert executor.race([Pair(Path(path), "SELECT 1", "SELECT 1")], 1)[0].status == Status.MISSING_DATABASE


@pytest.mark.parametrize(
    ("gold", "predicted", "verdict"),
    [
        ("SELECT 1", "SELECT 1", Verdict.MATCH),
        ("SELECT 1", "SELECT 2", Verdict.MISMATCH),
        ("SELECT 1", "SELECT nope", Verdict.FAILED),
        ("SELECT 1", ENDLESS, Verdict.TIMED_OUT),
        ("SELECT 1", "SELECT zeroblob(100000000)", Verdict.TOO_LARGE),
        ("SELECT 1", "DROP TABLE t", Verdict.REFUSED),
        ("SELECT 1", "", Verdict.FAILED),
        ("SELECT nope", "SELECT 1", Verdict.GOLD_FAILED),
        ("SELECT nope", "SELECT nope", Verdict.GOLD_FAILED),
        ("DROP TABLE t", "SELECT 1", Verdict.GOLD_FAILED),
        (ENDLESS, "SELECT 1", Verdict.GOLD_TIMED_OUT),
        (ENDLESS, ENDLESS, Verdict.GOLD_TIMED_OUT),
    ],
)
@pytest.mark.parametrize("semantics", SEMANTICS)
def test_verdicts(executor, database, semantics, gold, predicted, verdict):
    [judgement] = executor.judge([Pair(database, gold, predicted)], semantics)
    assert judgement.verdict == verdict
    assert bool(judgement.error) == (verdict not in (Verdict.MATCH, Verdict.MISMATCH))


def test_metrics_are_reported_when_asked_for(executor, database):
    pair = Pair(database, "SELECT b, a FROM t WHERE a < 2", "SELECT a, b FROM t WHERE a < 2")
    [judgement] = executor.judge([pair], "bird", metrics=["spider_exec", "bird_ex", "soft_f1"])
    assert judgement.verdict == Verdict.MISMATCH
    assert judgement.metrics == {"spider_exec": 1.0, "bird_ex": 0.0, "soft_f1": 1.0}
    with pytest.raises(ValueError, match="semantics"):
        executor.judge([pair], "sql")


@pytest.mark.parametrize("semantics", SEMANTICS)
def test_a_match_must_hold_on_every_instance(executor, tmp_path, semantics):
    """`x > 0` and `x >= 0` differ on the second instance only."""
    path = make(tmp_path / "shop/shop.sqlite", "CREATE TABLE t AS SELECT 1 AS x")
    make(tmp_path / "shop/shop_2.sqlite", "CREATE TABLE t AS SELECT 0 AS x")
    right = Pair(path, "SELECT x FROM t WHERE x > 0", "SELECT x FROM t WHERE x >= 1")
    lucky = Pair(path, "SELECT x FROM t WHERE x > 0", "SELECT x FROM t WHERE x >= 0")
    assert [j.verdict for j in executor.judge([right, lucky], semantics)] == [Verdict.MATCH, Verdict.MISMATCH]
    metrics = executor.judge([lucky], semantics, metrics=METRICS)[0].metrics
    assert metrics == dict.fromkeys(METRICS, 0.0)


def test_what_is_no_database_is_no_instance(executor, tmp_path, caplog):
    """A stray file (as macOS leaves beside each, say) is named, and neither stops the others nor fails the gold."""
    path = make(tmp_path / "shop/shop.sqlite", "CREATE TABLE t AS SELECT 1 AS x")
    (tmp_path / "shop/._shop.sqlite").write_bytes(b"\0\5\26\7 Mac OS X")
    (tmp_path / "shop/empty.sqlite").touch()
    pair = Pair(path, "SELECT x FROM t", "SELECT 1")
    for semantics in SEMANTICS:
        [judgement] = executor.judge([pair], semantics, metrics=["spider_exec", "bird_ex"])
        assert (judgement.verdict, judgement.metrics) == (Verdict.MATCH, {"spider_exec": 1.0, "bird_ex": 1.0})
    assert "._shop.sqlite: not a SQLite database" in caplog.text
    assert "empty.sqlite: not a SQLite database" in caplog.text


def test_databases_side_by_side_are_no_instances_of_each_other(executor, tmp_path):
    path = make(tmp_path / "a.sqlite", "CREATE TABLE t AS SELECT 1 AS x")
    make(tmp_path / "b.sqlite", "CREATE TABLE other (y)")
    assert executor.judge([Pair(path, "SELECT x FROM t", "SELECT x FROM t")])[0].verdict == Verdict.MATCH


def test_a_gold_that_fails_on_one_instance_is_not_charged(executor, tmp_path):
    path = make(tmp_path / "shop/shop.sqlite", "CREATE TABLE t AS SELECT 1 AS x")
    make(tmp_path / "shop/old.sqlite", "CREATE TABLE u AS SELECT 1 AS x")
    pairs = [Pair(path, "SELECT x FROM t", sql) for sql in ("SELECT x FROM t", "SELECT nope")]
    judgements = executor.judge(pairs)
    assert [(j.verdict, j.one_instance) for j in judgements] == [(Verdict.GOLD_FAILED, None)] * 2


def test_fingerprints_follow_bird_equality(executor, database):
    statements = [
        "SELECT 1, 'a' UNION ALL SELECT 2, 'b'",
        "SELECT 2.0, 'b' UNION ALL SELECT 1, 'a' UNION ALL SELECT 1.0, 'a'",
        "SELECT 'a', 1 UNION ALL SELECT 'b', 2",
        "SELECT '1', 'a' UNION ALL SELECT '2', 'b'",
        "SELECT 1 WHERE 0",
        "SELECT 1, 2 WHERE 0",
        "SELECT NULL",
        "SELECT 'None'",
        "SELECT x'61'",
        "SELECT 'a'",
        "SELECT 9007199254740993",
        "SELECT 9007199254740992.0",
        "SELECT 9007199254740992",
        "SELECT 0.0, 1 UNION ALL SELECT 1, 0",
        "SELECT -0.0, 1.0 UNION ALL SELECT 1, 0",
        "SELECT 9e999",
        "SELECT nope",
    ]
    queries = [Query(database, sql) for sql in statements]
    found = executor.fingerprints(queries)
    results = [execution.rows for execution in executor.execute(queries)]
    assert found[-1] is None
    for i, rows in enumerate(results[:-1]):
        for j, others in enumerate(results[:-1]):
            assert (found[i] == found[j]) == (set(rows) == set(others)), (statements[i], statements[j])
    assert found[0] == found[1] != found[2]


def test_equal_predictions_run_once(executor, database):
    """Eight equal slow predictions take the time of one."""
    pairs = [Pair(database, "SELECT 1", ENDLESS)] * 8
    start = time.perf_counter()
    judgements = executor.judge(pairs)
    assert time.perf_counter() - start < 3  # each by itself: four seconds on two workers
    assert {judgement.verdict for judgement in judgements} == {Verdict.TIMED_OUT}


def predictions_run(executor, monkeypatch):
    """The SQL of every prediction that the workers are asked to run from now on."""
    ran: list[str] = []
    run = executor._pool.run

    def watched(tasks, *more, **named):
        ran.extend(sql for kind, _, sql, *_ in tasks if kind == "compare")
        return run(tasks, *more, **named)

    monkeypatch.setattr(executor._pool, "run", watched)
    return ran


def test_a_prediction_runs_once_for_all_its_golds(executor, database, monkeypatch):
    """Those of two metrics, one without DISTINCT, and those of two questions."""
    ran = predictions_run(executor, monkeypatch)
    golds = ["SELECT DISTINCT a FROM t", "SELECT a FROM t WHERE a < 5", "SELECT DISTINCT b FROM t"]
    judgements = executor.judge([Pair(database, gold, "SELECT a FROM t") for gold in golds], "spider", METRICS)
    assert ran == ["SELECT a FROM t"]
    assert [judgement.metrics["spider_exec"] for judgement in judgements] == [1.0, 0.0, 0.0]
    assert [judgement.metrics["bird_ex"] for judgement in judgements] == [1.0, 0.0, 0.0]
