"""Property-based fuzzing of the sandbox: no escape, no hang, no lost query.

Statements are grown from a grammar (reads, writes, bombs, every function name SQLite knows and some it should not),
then some are mutilated. Seeded: round r of every run generates the same statements. SQLR1_FUZZ_SECONDS sets how long
it looks: 20 by default, 120 in `make test-slow`.
"""

import os
import sqlite3
import time
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from sqlr1.records import sha256
from sqlr1.sandbox import Executor, Limits, Query, Status

BUDGET_SECONDS = float(os.environ.get("SQLR1_FUZZ_SECONDS", "20"))
LIMITS = Limits(seconds=0.1, rows=5_000, result_bytes=1 << 20, memory_bytes=48 << 20, sql_length=20_000)
# Replacing workers and a busy machine: per query, on top of the limit.
MARGIN_SECONDS = 0.4
SECRET = "the secret that no query may reach"
WORKERS = 2

FUNCTIONS = sorted({row[0] for row in sqlite3.connect(":memory:").execute("SELECT name FROM pragma_function_list")})
PLAIN = ["abs", "length", "upper", "typeof", "hex", "quote", "trim", "count", "max", "sum"] * 8
FUNCTIONS = (
    PLAIN + [name for name in FUNCTIONS if name.isidentifier()] + ["readfile", "writefile", "edit", "shell", "fsdir"]
)
LITERALS = ["NULL", "0", "1", "-1", "2.5", "9e999", "9223372036854775807", "'a'", "''", "x'00ff'", "'now'", "'%.*c'"]
LITERALS = LITERALS * 3 + [
    "zeroblob(100000)",
    "hex(zeroblob(300000))",
    "randomblob(9)",
    "random()",
    "'%_%_%'",
    "CAST(x'ff' AS TEXT)",
]
SOURCES = [
    "a",
    "a",
    "a",
    "b",
    "v",
    "v",
    "a AS x, b AS y",
    "a, a AS p, a AS q",
    "a JOIN b USING (id)",
    "a LEFT JOIN b ON a.id = b.id",
]
SOURCES += ["json_each('[1,2]')", "pragma_table_info('a')", "sqlite_master", "dbstat", "sqlite_dbpage", "fts5vocab"]
SOURCES += ["(WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n) SELECT * FROM n) AS z"]
COLUMNS = ["id", "t", "r", "id", "t", "r", "a.id", "*", "rowid", '"t"', "`r`", "[id]"]
OPERATORS = ["+", "-", "*", "/", "%", "||", "=", "<", "IS NOT", "LIKE", "GLOB", "AND", "OR", "IS", "->>", "<<"]
FOLDER = "{folder}"
HOSTILE = [
    f"ATTACH '{FOLDER}/other.sqlite' AS o",
    f"ATTACH '{FOLDER}/new.sqlite' AS o; CREATE TABLE o.x (a)",
    f"SELECT * FROM o.secret; ATTACH '{FOLDER}/other.sqlite' AS o",
    f"VACUUM INTO '{FOLDER}/copy.sqlite'",
    f"SELECT writefile('{FOLDER}/new', 'x'), readfile('{FOLDER}/secret.txt')",
    f"CREATE VIRTUAL TABLE x USING csv(filename='{FOLDER}/secret.txt')",
    "PRAGMA writable_schema = 1",
    "PRAGMA journal_mode = DELETE",
    "DROP TABLE a",
    "DELETE FROM a",
    "UPDATE a SET t = 'gone'",
    "CREATE TEMP TABLE z AS SELECT * FROM a",
    "BEGIN; DELETE FROM a; COMMIT",
    "INSERT INTO a SELECT * FROM b RETURNING *",
]


def expressions():
    leaves = st.sampled_from(LITERALS + COLUMNS)

    def grow(inner):
        return st.one_of(
            st.builds("({} {} {})".format, inner, st.sampled_from(OPERATORS), inner),
            st.builds(
                "{}({})".format, st.sampled_from(FUNCTIONS), st.lists(inner, min_size=1, max_size=3).map(", ".join)
            ),
            st.builds("CASE WHEN {} THEN {} ELSE {} END".format, inner, inner, inner),
            st.builds("(SELECT {} FROM {})".format, inner, st.sampled_from(SOURCES)),
            st.builds("sum({}) OVER (ORDER BY {})".format, inner, inner),
            st.builds("CAST({} AS {})".format, inner, st.sampled_from(["TEXT", "INTEGER", "REAL", "BLOB"])),
        )

    return st.recursive(leaves, grow, max_leaves=12)


def selects():
    tails = ["", " ORDER BY 1", " GROUP BY 1", " LIMIT 3", " ORDER BY random()", " GROUP BY 1 HAVING count(*) > 1"]
    parts = [st.lists(expressions(), min_size=1, max_size=4).map(", ".join), st.sampled_from(SOURCES), expressions()]
    return st.builds("SELECT {} FROM {} WHERE {}{}".format, *parts, st.sampled_from(tails))


def statements():
    simple = st.one_of(selects(), selects(), selects(), st.sampled_from(HOSTILE))
    joined = st.builds(
        "{} {} {}".format, simple, st.sampled_from(["UNION", "UNION ALL", ";", "EXCEPT", "/*", "--\n"]), simple
    )
    wrapped = st.builds(
        "{} {}".format, st.sampled_from(["EXPLAIN", "WITH x AS (SELECT 1)", "/* x */", "CREATE TABLE y AS"]), simple
    )
    valid = st.one_of(simple, joined, wrapped)
    cut = st.builds(
        lambda sql, at, noise: sql[:at] + noise + sql[at + 1 :], valid, st.integers(0, 300), st.text(max_size=3)
    )
    return st.one_of(selects(), selects(), valid, valid, cut, st.text(max_size=60))


@pytest.fixture
def folder(tmp_path):
    connection = sqlite3.connect(tmp_path / "shop.sqlite")
    connection.executescript(
        "CREATE TABLE a (id INTEGER PRIMARY KEY, t TEXT, r REAL); CREATE TABLE b (id, t, r);"
        "CREATE VIEW v AS SELECT * FROM a;"
    )
    connection.executemany("INSERT INTO a VALUES (?, ?, ?)", [(i, f"text {i}", i / 3) for i in range(300)])
    connection.execute("INSERT INTO b SELECT * FROM a WHERE id % 3 = 0")
    connection.commit()
    connection.close()
    connection = sqlite3.connect(tmp_path / "other.sqlite")
    connection.execute(f"CREATE TABLE secret AS SELECT '{SECRET}' AS t")
    connection.commit()
    connection.close()
    (tmp_path / "secret.txt").write_text(SECRET)
    return tmp_path


def check_batch(executor, folder, hashes, batch):
    """One batch: every query has a verdict in time, no result leaks, no file has changed, the workers still work."""
    queries = [Query(folder / "shop.sqlite", sql.replace(FOLDER, str(folder))) for sql in batch]
    witness = Query(folder / "shop.sqlite", "SELECT count(*), sum(id) FROM a")
    start = time.perf_counter()
    *results, healthy = executor.execute([*queries, witness])
    elapsed = time.perf_counter() - start
    assert healthy.rows == [(300, 44_850)]
    assert len(results) == len(batch)
    for sql, result in zip(batch, results, strict=True):
        assert isinstance(result.status, Status)
        assert result.status not in (Status.CRASHED, Status.MISSING_DATABASE), (sql, result.error)
        assert (result.rows is None) == (result.status != Status.OK)
        assert SECRET not in repr(result.rows)
    assert elapsed < len(batch) * (LIMITS.seconds + MARGIN_SECONDS) / WORKERS + MARGIN_SECONDS
    assert {path.name: sha256(path) for path in folder.iterdir()} == hashes
    return results


def test_fuzz(folder):
    hashes = {path.name: sha256(path) for path in folder.iterdir()}
    deadline = time.monotonic() + BUDGET_SECONDS
    seen: Counter[str] = Counter()
    rounds = 0
    with Executor(workers=WORKERS, limits=LIMITS) as executor:
        while time.monotonic() < deadline:

            @seed(rounds)
            @settings(max_examples=25, deadline=None, database=None, suppress_health_check=list(HealthCheck))
            @given(st.lists(statements(), min_size=16, max_size=16))
            def one_round(batch):
                seen.update(result.status for result in check_batch(executor, folder, hashes, batch))

            one_round()
            rounds += 1
    print(f"{seen.total()} statements in {rounds} rounds: {dict(seen)}")
    assert {"ok", "failed", "refused"} <= set(seen)  # the grammar reaches what it is meant to reach
