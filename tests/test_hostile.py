"""Hostile statements: each gets its verdict in time, changes no file, makes none, and leaves the workers in order."""

import sqlite3
import time
from pathlib import Path

import pytest

from sqlr1.records import sha256
from sqlr1.sandbox import Executor, Limits, Pair, Query

LIMITS = Limits(seconds=0.4, rows=20_000, result_bytes=8 << 20, memory_bytes=96 << 20, sql_length=60_000)
# How late after the limit a statement may end: on a machine that other tests keep busy, and alone. Of a few attempts
# the best counts.
BUSY_SECONDS, ALONE_SECONDS = 1.0, 0.05
ATTEMPTS = 4
# What other tests may write meanwhile.
CACHES = {".hypothesis", ".pytest_cache"}

OK, FAILED, REFUSED, TIME, LARGE = "ok", "failed", "refused", "timed_out", "too_large"
N = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) "

CASES = [
    # Writes and DDL in every disguise.
    ("insert", "INSERT INTO item VALUES (99, 'x', 1.0)", {REFUSED}),
    ("insert select", "INSERT INTO item SELECT * FROM item", {REFUSED}),
    ("insert returning", "INSERT INTO item VALUES (99, 'x', 1.0) RETURNING id", {REFUSED}),
    ("replace", "REPLACE INTO item VALUES (1, 'x', 1.0)", {REFUSED}),
    ("upsert", "INSERT INTO item VALUES (1, 'x', 1) ON CONFLICT (id) DO UPDATE SET name = 'y'", {REFUSED}),
    ("update", "UPDATE item SET name = 'x'", {REFUSED}),
    ("update from", "UPDATE item SET name = o.name FROM item AS o", {REFUSED}),
    ("delete", "DELETE FROM item", {REFUSED}),
    ("delete returning", "DELETE FROM item RETURNING *", {REFUSED}),
    ("delete limit", "DELETE FROM item ORDER BY id LIMIT 1", {REFUSED, FAILED}),
    ("delete behind cte", "WITH x AS (SELECT 1) DELETE FROM item", {REFUSED}),
    ("insert behind cte", "WITH x AS (SELECT 1) INSERT INTO item SELECT 7, 'a', 1.0 FROM x", {REFUSED}),
    ("delete behind comment", "/* SELECT */ DELETE -- x\nFROM item", {REFUSED}),
    ("mixed case drop", "dRoP tAbLe item", {REFUSED}),
    ("drop if exists", "DROP TABLE IF EXISTS item", {REFUSED}),
    ("drop view", "DROP VIEW cheap", {REFUSED}),
    ("drop index", "DROP INDEX by_name", {REFUSED}),
    ("create table", "CREATE TABLE x (a)", {REFUSED}),
    ("create table as", "CREATE TABLE x AS SELECT * FROM item", {REFUSED}),
    ("create temp table", "CREATE TEMP TABLE x (a)", {REFUSED}),
    ("create temp view", "CREATE TEMP VIEW x AS SELECT 1", {REFUSED}),
    ("create view", "CREATE VIEW x AS SELECT 1", {REFUSED}),
    ("create index", "CREATE INDEX x ON item (name)", {REFUSED}),
    ("create trigger", "CREATE TRIGGER x AFTER INSERT ON item BEGIN SELECT 1; END", {REFUSED}),
    ("create temp trigger", "CREATE TEMP TRIGGER x AFTER INSERT ON item BEGIN SELECT 1; END", {REFUSED}),
    ("create virtual table", "CREATE VIRTUAL TABLE x USING fts5(a)", {REFUSED}),
    ("create rtree", "CREATE VIRTUAL TABLE x USING rtree(a, b, c)", {REFUSED}),
    ("full-text search", "SELECT body FROM note WHERE note MATCH 'hello'", {OK}),
    ("full-text command", "INSERT INTO note(note) VALUES ('rebuild')", {REFUSED}),
    ("full-text deletion", "DELETE FROM note", {REFUSED}),
    ("full-text index", "DROP TABLE note_data", {REFUSED}),
    ("other pragma beside full-text search", "PRAGMA user_version = 7", {REFUSED}),
    ("alter rename", "ALTER TABLE item RENAME TO things", {REFUSED}),
    ("alter add column", "ALTER TABLE item ADD COLUMN x", {REFUSED}),
    ("alter drop column", "ALTER TABLE item DROP COLUMN price", {REFUSED}),
    ("write the catalogue", "UPDATE sqlite_master SET sql = 'x'", {REFUSED, FAILED}),
    ("delete from the catalogue", "DELETE FROM sqlite_schema", {REFUSED, FAILED}),
    ("explain drop", "EXPLAIN DROP TABLE item", {REFUSED}),
    ("explain plan delete", "EXPLAIN QUERY PLAN DELETE FROM item", {REFUSED}),
    ("analyze", "ANALYZE", {REFUSED}),
    ("reindex", "REINDEX item", {REFUSED, FAILED}),
    # Transactions.
    ("begin", "BEGIN EXCLUSIVE", {REFUSED}),
    ("commit", "COMMIT", {REFUSED}),
    ("rollback", "ROLLBACK", {REFUSED}),
    ("savepoint", "SAVEPOINT x", {REFUSED}),
    ("release", "RELEASE x", {REFUSED}),
    # Files, other databases, settings, extensions.
    ("attach file", "ATTACH '{folder}/new.sqlite' AS x", {REFUSED}),
    ("attach uri", "ATTACH 'file:{folder}/new.sqlite?mode=rwc' AS x", {REFUSED}),
    ("attach memory", "ATTACH ':memory:' AS x", {REFUSED}),
    ("attach itself", "ATTACH '{database}' AS x", {REFUSED}),
    ("detach", "DETACH main", {REFUSED}),
    ("vacuum", "VACUUM", {REFUSED}),
    ("vacuum into", "VACUUM INTO '{folder}/copy.sqlite'", {REFUSED}),
    ("vacuum into expression", "VACUUM INTO '{folder}/' || 'copy.sqlite'", {REFUSED}),
    ("pragma", "PRAGMA table_info(item)", {REFUSED}),
    ("pragma writable_schema", "PRAGMA writable_schema = ON", {REFUSED}),
    ("pragma journal_mode", "PRAGMA journal_mode = WAL", {REFUSED}),
    ("pragma query_only", "PRAGMA query_only = OFF", {REFUSED}),
    ("pragma trusted_schema", "PRAGMA trusted_schema = ON", {REFUSED}),
    ("pragma temp_store_directory", "PRAGMA temp_store_directory = '{folder}'", {REFUSED}),
    ("pragma hard_heap_limit", "PRAGMA hard_heap_limit = 0", {REFUSED}),
    ("pragma as a table", "SELECT * FROM pragma_table_info('item')", {REFUSED}),
    ("pragma as a table, no column", "SELECT count(*) FROM pragma_database_list", {REFUSED}),
    ("path of the database", "SELECT file FROM pragma_database_list", {REFUSED}),
    ("raw pages", "SELECT * FROM dbstat", {REFUSED}),
    ("raw pages, writable", "SELECT data FROM sqlite_dbpage", {REFUSED, FAILED}),
    ("prepared statements", "SELECT * FROM sqlite_stmt", {REFUSED, FAILED}),
    ("load_extension", "SELECT load_extension('libc.so.6')", {REFUSED}),
    ("load_extension in a subquery", "SELECT * FROM item WHERE id IN (SELECT load_extension('x'))", {REFUSED}),
    ("fts3_tokenizer", "SELECT fts3_tokenizer('simple', x'4141414141414141')", {REFUSED, FAILED}),
    ("readfile", "SELECT readfile('/etc/passwd')", {REFUSED, FAILED}),
    ("writefile", "SELECT writefile('{folder}/new', 'x')", {REFUSED, FAILED}),
    ("edit", "SELECT edit('x', 'sh')", {REFUSED, FAILED}),
    ("fsdir", "SELECT * FROM fsdir('/')", {REFUSED, FAILED}),
    ("zipfile", "SELECT * FROM zipfile('{folder}/x.zip')", {REFUSED, FAILED}),
    ("dot command", ".shell touch {folder}/new", {FAILED}),
    ("sqlite_log", "SELECT sqlite_log(1, 'x')", {REFUSED, FAILED}),
    ("compile options", "SELECT sqlite_compileoption_get(1)", {REFUSED}),
    # Several statements, comments, broken text.
    ("two statements", "SELECT 1; SELECT 2", {REFUSED}),
    ("select then drop", "SELECT 1; DROP TABLE item", {REFUSED}),
    ("drop behind a line comment", "SELECT 1; -- harmless\nDROP TABLE item", {REFUSED}),
    ("drop behind a block comment", "SELECT 1; /* ; */ DROP TABLE item", {REFUSED}),
    ("drop first", "DROP TABLE item; SELECT 1", {REFUSED}),
    ("semicolon in a literal", "SELECT ';', '-- x', '/* y'", {OK}),
    ("semicolon and comment at the end", "SELECT 1 /* a */; -- b", {OK}),
    ("comment across lines", "SELECT 1 -- one\n+ 1", {OK}),
    ("only a comment", "-- SELECT 1", {FAILED}),
    ("empty", "", {FAILED}),
    ("only semicolons", ";;;", {FAILED}),
    ("unterminated literal", "SELECT 'abc", {FAILED}),
    ("unterminated name", 'SELECT "abc', {FAILED}),
    ("unterminated block comment", "SELECT 1 /* abc", {OK}),
    ("nul byte at the end", "SELECT 1\0", {FAILED}),
    ("nul byte before a drop", "SELECT 1;\0DROP TABLE item", {FAILED, REFUSED}),
    ("lone surrogate", "SELECT '\ud800'", {FAILED}),
    ("invalid utf-8 from a cast", "SELECT CAST(x'ff41fe' AS TEXT)", {OK}),
    ("byte order mark", "\ufeffSELECT 1", {OK, FAILED}),
    ("control characters", "SELECT\x0b1", {OK, FAILED}),
    ("unbound parameter", "SELECT ?1", {FAILED}),
    ("prose", "I am sorry, I cannot answer that.", {FAILED}),
    # Large or deep statements.
    ("deep parentheses", "SELECT " + "(" * 5_000 + "1" + ")" * 5_000, {REFUSED}),
    ("long sum", "SELECT " + "+".join("1" * 5_000), {REFUSED}),
    ("many NOTs", "SELECT " + "NOT " * 3_000 + "1", {REFUSED}),
    ("nested calls", "SELECT " + "abs(" * 2_000 + "1" + ")" * 2_000, {REFUSED}),
    ("nested subqueries", "SELECT " + "(SELECT " * 300 + "1" + ")" * 300, {REFUSED}),
    ("nested CASE", "SELECT " + "CASE WHEN 1 THEN " * 400 + "1" + " END" * 400, {REFUSED}),
    ("huge IN list", f"SELECT count(*) FROM item WHERE id IN ({','.join(map(str, range(10_000)))})", {OK}),
    ("IN list beyond the limit", f"SELECT 1 WHERE 1 IN ({','.join(['1'] * 40_000)})", {REFUSED}),
    ("long unions", " UNION ALL ".join(["SELECT 1"] * 700), {REFUSED}),
    ("2,000 columns", "SELECT " + ", ".join(f"{i} AS c{i}" for i in range(2_000)), {OK}),
    ("2,001 columns", "SELECT " + ", ".join(f"{i}" for i in range(2_001)), {REFUSED}),
    ("60 joins", "SELECT 1 FROM " + ", ".join(f"item AS t{i}" for i in range(60)), {LARGE, TIME}),
    ("65 joins", "SELECT 1 FROM " + ", ".join(f"item AS t{i}" for i in range(65)), {FAILED}),
    ("deep JSON", "SELECT json('" + "[" * 20_000 + "]" * 20_000 + "')", {FAILED, OK}),
    # Queries without end.
    ("endless recursion, counted", N + "SELECT count(*) FROM n", {TIME}),
    ("endless recursion, returned", N + "SELECT i FROM n", {LARGE}),
    ("endless recursion, sorted", N + "SELECT i FROM n ORDER BY i DESC", {TIME, LARGE}),
    ("endless recursion, distinct", N + "SELECT count(DISTINCT i % 7) FROM n", {TIME}),
    ("cartesian count", "SELECT count(*) FROM item a, item b, item c, item d, item e", {TIME}),
    ("cartesian rows", "SELECT a.id FROM item a, item b, item c", {LARGE}),
    ("cartesian sort", "SELECT * FROM item a, item b, item c ORDER BY a.name || b.name || c.name", {TIME, LARGE}),
    ("cartesian distinct", "SELECT DISTINCT a.id * b.id * c.price FROM item a, item b, item c", {TIME, LARGE}),
    ("cartesian group", "SELECT a.id * b.id * c.id, count(*) FROM item a, item b, item c GROUP BY 1", {TIME, LARGE}),
    ("cartesian window", "SELECT sum(a.id) OVER (ORDER BY b.id, c.id) FROM item a, item b, item c", {TIME, LARGE}),
    ("correlated", "SELECT count((SELECT max(b.id * a.id) FROM item b, item c)) FROM item a, item d", {TIME}),
    ("union of bombs", "SELECT a.id + b.id FROM item a, item b, item c UNION SELECT 1", {TIME}),
    # Memory and single calls that take long.
    ("randomblob", "SELECT randomblob(1000000000)", {LARGE}),
    ("zeroblob", "SELECT zeroblob(2000000000)", {LARGE}),
    ("zeroblob in the limit", "SELECT length(zeroblob(8000000))", {OK}),
    ("printf padding", "SELECT length(printf('%.*c', 900000000, 'x'))", {TIME, LARGE}),
    ("printf width", "SELECT length(printf('%900000000d', 1))", {LARGE, OK}),
    ("hex", "SELECT length(hex(zeroblob(7000000)))", {LARGE}),
    ("replace bomb", "SELECT length(replace(hex(zeroblob(3000000)), '0', 'xxxxxxxx'))", {LARGE}),
    ("group_concat", "SELECT length(group_concat(hex(zeroblob(100000)))) FROM item", {LARGE}),
    ("doubling", "WITH RECURSIVE d(s) AS (SELECT 'x' UNION ALL SELECT s || s FROM d) SELECT s FROM d", {LARGE}),
    ("many blobs kept", "SELECT randomblob(100000) AS b FROM item a, item b ORDER BY b", {TIME, LARGE}),
    ("json array", "SELECT length(json_group_array(a.name || b.name)) FROM item a, item b, item c", {TIME, LARGE}),
    ("LIKE worst case", f"SELECT hex(zeroblob(200000)) LIKE '%{'_0' * 20_000}1%'", {TIME}),
    ("GLOB worst case", f"SELECT hex(zeroblob(200000)) GLOB '*{'?0' * 20_000}1*'", {TIME}),
    (
        "LIKE on every triple",
        "SELECT count(*) FROM item a, item b, item c WHERE a.name || c.name LIKE '%' || b.name || '%'",
        {TIME},
    ),
    ("instr", "SELECT instr(hex(zeroblob(4000000)), hex(zeroblob(500000)) || '1')", {TIME}),
    ("huge results", "SELECT a.*, b.*, c.* FROM item a, item b, item c", {LARGE}),
    ("one wide result", "SELECT " + ", ".join(["hex(zeroblob(100000))"] * 1_000), {LARGE}),
    # Harmless, though they look odd.
    ("random", "SELECT RANDOM() IS NOT NULL", {OK}),
    ("order by random", "SELECT id FROM item ORDER BY RANDOM() LIMIT 1", {OK}),
    ("now", "SELECT date('now') IS NOT NULL, CURRENT_TIMESTAMP IS NOT NULL", {OK}),
    ("the catalogue", "SELECT name FROM sqlite_master ORDER BY name", {OK}),
    ("a table named like a pragma", 'SELECT count(*) FROM "pragma_like"', {OK}),
    ("json table", "SELECT value FROM json_each('[1, 2]')", {OK}),
    ("values", "VALUES (1, 'a'), (2, 'b')", {OK}),
    ("view", "SELECT count(*) FROM cheap", {OK}),
    ("cte without a column", "WITH x AS (SELECT 1) SELECT count(*) FROM x", {OK}),
    ("overflow and infinity", "SELECT 9223372036854775807 + 1, 9e999, -9e999, 0.0 / 0", {OK}),
    ("repeated names", "SELECT 1 AS a, 2 AS a, NULL AS a", {OK}),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("hostile")


@pytest.fixture(scope="module")
def database(folder):
    path = folder / "shop.sqlite"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT, price REAL)")
    rows = [(i, f"item number {i}", i / 7) for i in range(1_500)]
    connection.executemany("INSERT INTO item VALUES (?, ?, ?)", rows)
    connection.execute("CREATE TABLE pragma_like (a)")
    connection.execute("CREATE VIRTUAL TABLE note USING fts5(body)")
    connection.execute("CREATE INDEX by_name ON item (name)")
    connection.execute("CREATE VIEW cheap AS SELECT * FROM item WHERE price < 10")
    connection.commit()
    connection.close()
    return path


def witnesses(folder):
    """What no statement may change: the files beside the database, and what lies where a process might put a file."""
    hashes = {path: sha256(path) for path in folder.iterdir()}
    around = (folder.parent, Path.cwd(), Path("/"))
    return hashes, [sorted(file for file in path.iterdir() if file.name not in CACHES) for path in around]


@pytest.fixture(scope="module")
def executor(database):
    with Executor(workers=1, limits=LIMITS) as executor:
        yield executor


def test_there_are_enough_cases():
    assert len({name for name, _, _ in CASES}) == len(CASES) >= 80


@pytest.mark.parametrize(("sql", "statuses"), [pytest.param(*case[1:], id=case[0]) for case in CASES])
def test_statement_is_contained(executor, database, folder, sql, statuses):
    check_contained(executor, database, folder, sql, statuses, BUSY_SECONDS)


@pytest.mark.alone
@pytest.mark.parametrize(("sql", "statuses"), [pytest.param(*case[1:], id=case[0]) for case in CASES])
def test_statement_ends_within_50_ms_of_the_limit(executor, database, folder, sql, statuses):
    check_contained(executor, database, folder, sql, statuses, ALONE_SECONDS)


def check_contained(executor, database, folder, sql, statuses, lateness):
    sql = sql.replace("{folder}", str(folder)).replace("{database}", str(database))
    before = witnesses(folder)
    for _ in range(ATTEMPTS):
        start = time.perf_counter()
        [execution] = executor.execute([Query(database, sql)])
        late = time.perf_counter() - start - LIMITS.seconds
        # On a busy machine a statement may run out of time that otherwise would not; nothing else is tried again.
        assert execution.status in statuses | {TIME}, execution.error
        if late < lateness and execution.status in statuses:
            break
    assert execution.status in statuses, execution.error
    assert (execution.rows is not None) == (execution.status == OK)
    assert execution.error or execution.status == OK
    assert late < lateness
    assert witnesses(folder) == before
    [healthy] = executor.execute([Query(database, "SELECT count(*), max(name) FROM item")])
    assert healthy.rows == [(1_500, "item number 999")]


def statements_for(database, folder):
    return [sql.replace("{folder}", str(folder)).replace("{database}", str(database)) for _, sql, _ in CASES]


def test_all_at_once_lose_nothing(database, folder):
    """The same statements as one batch on two workers: every one has its verdict, quick ones their rows.

    (Two workers and a busy machine may run out of time with a statement that one alone finishes.)
    """
    statements = statements_for(database, folder)
    quick = [f"SELECT {i}, count(*) FROM item" for i in range(200)]
    with Executor(workers=2, limits=LIMITS) as executor:
        results = executor.execute([Query(database, sql) for sql in statements + quick])
    for (name, _, statuses), execution in zip(CASES, results, strict=False):
        assert execution.status in statuses | {TIME}, (name, execution.error)
    assert [execution.rows for execution in results[len(CASES) :]] == [[(i, 1_500)] for i in range(200)]


def test_hostile_predictions_get_the_verdict_of_their_status(database, folder):
    """A statement that runs is right or wrong (none returns what the gold does), any other is what stopped it."""
    before = witnesses(folder)
    pairs = [Pair(database, "SELECT 'gold'", sql) for sql in statements_for(database, folder)]
    with Executor(workers=2, limits=LIMITS) as executor:
        judgements = executor.judge(pairs, "bird")
    for (name, _, statuses), judgement in zip(CASES, judgements, strict=True):
        expected = {"mismatch" if status == OK else status for status in statuses}
        assert judgement.verdict in expected | {TIME}, (name, judgement.error)
    assert witnesses(folder) == before


def test_hostile_golds_are_at_fault_themselves(database, folder):
    """Whatever the prediction: here one that is right, and the same statement, which fails alike."""
    before = witnesses(folder)
    statements = statements_for(database, folder)
    with Executor(workers=2, limits=LIMITS) as executor:
        right = executor.judge([Pair(database, sql, "SELECT 1") for sql in statements], "bird")
        alike = executor.judge([Pair(database, sql, sql) for sql in statements], "bird")
    for (name, _, statuses), *judgements in zip(CASES, right, alike, strict=True):
        for judgement in judgements:
            if OK not in statuses:
                assert judgement.verdict in ("gold_failed", "gold_timed_out"), (name, judgement.error)
            assert judgement.verdict not in (FAILED, REFUSED), (name, judgement.error)
    assert witnesses(folder) == before
