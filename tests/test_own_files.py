"""Database files as people have them: each test has the smallest file of a class of inputs."""

import itertools
import math
import os
import sqlite3
import subprocess
import sys

import pytest
from sqlglot.dialects.sqlite import SQLite

from sqlgen import GenerationRequest, folder_sources, generate
from sqlr1.database.instances import write_backward, write_instances
from sqlr1.database.profile import read_profile
from sqlr1.database.schema import identifier, quote, read_schema
from sqlr1.database.text import schema_text
from sqlr1.records import SQL_CLASSES, InputError
from sqlr1.sandbox import Executor, Limits, Query

LIMITS = Limits(2.0)
STREETS = """CREATE TABLE street (street_id INTEGER PRIMARY KEY, name TEXT, length REAL);
INSERT INTO street (name, length) VALUES ('Elm', 120), ('Oak', 300.5), ('Ash', 75), ('Fir', 410), ('Yew', 33);"""
ITEMS = """CREATE TABLE item (item_id INTEGER PRIMARY KEY, title TEXT NOT NULL, net REAL NOT NULL, quantity INT,
  gross REAL GENERATED ALWAYS AS (round(net * 1.19, 2)) VIRTUAL, amount REAL AS (net * quantity) STORED);
INSERT INTO item (title, net, quantity) VALUES ('lamp', 10, 3), ('desk', 99.5, 1), ('chair', 45, 4), ('rug', 60, 2);"""
VIEWS = """CREATE TABLE tblC01 (c1 INTEGER PRIMARY KEY, c2 TEXT);
CREATE TABLE tblO07 (o1 INTEGER PRIMARY KEY, o2 INTEGER, o3 REAL);
INSERT INTO tblC01 VALUES (1, 'Ada'), (2, 'Ben'), (3, 'Cid');
INSERT INTO tblO07 VALUES (1, 1, 10.5), (2, 1, 99), (3, 2, 5), (4, 3, 70);
CREATE VIEW customer AS SELECT c1 AS customer_id, c2 AS name FROM tblC01;
CREATE VIEW purchase AS SELECT o1 AS purchase_id, o2 AS customer_id, o3 AS total FROM tblO07;"""


def build(folder, script, name="own"):
    path = folder / name / f"{name}.sqlite"
    path.parent.mkdir(exist_ok=True)
    connection = sqlite3.connect(path)
    connection.create_collation("german", lambda a, b: (a > b) - (a < b))
    connection.create_function("own_function", 1, len, deterministic=True)
    connection.executescript(script)
    connection.commit()
    connection.close()
    return path


def questions(path, tmp_path, total=40):
    request = GenerationRequest(total, dict.fromkeys(SQL_CLASSES, 0.25), {"formal": 1.0}, 0, "short", False)
    return list(generate(folder_sources(path), request, LIMITS, 1, tmp_path / "work"))


def rows(path, *statements):
    with Executor(1, LIMITS) as executor:
        return [execution.rows for execution in executor.execute([Query(path, sql) for sql in statements])]


def compact(path):
    return schema_text(read_schema(path), "compact", 0)


def test_generated_columns_are_columns(tmp_path):
    path = build(tmp_path, ITEMS)
    assert compact(path) == "item(item_id*, title, net, quantity, gross, amount)"
    assert "gross REAL," in schema_text(read_schema(path), "ddl", 0)
    assert [c.name for c in read_schema(path).tables[0].columns if c.computed] == ["gross", "amount"]
    assert any("gross" in q.sql or "amount" in q.sql for q in questions(path, tmp_path))
    assert len(write_instances(path, tmp_path / "copies", 2, 0)) == 3


def test_views_are_tables_and_their_keys_join_them(tmp_path):
    path = build(tmp_path, VIEWS)
    assert compact(path).splitlines()[2:] == [
        "customer(customer_id, name)",
        "purchase(purchase_id, customer_id, total)",
    ]
    assert "CREATE VIEW customer (" in schema_text(read_schema(path), "ddl", 0)
    keys = {(k.table, k.column, k.parent, k.parent_column) for k in read_profile(path).foreign_keys}
    assert ("purchase", "customer_id", "customer", "customer_id") in keys
    made = questions(path, tmp_path, 80)
    assert any("JOIN customer" in q.sql or "JOIN purchase" in q.sql for q in made)
    write_instances(path, tmp_path / "copies", 1, 0)


def test_a_database_with_views_alone_is_usable(tmp_path):
    path = build(tmp_path, "CREATE VIEW v AS SELECT 1 AS one UNION SELECT 2")
    assert compact(path) == "v(one)"


@pytest.mark.parametrize(
    ("script", "left_out"),
    [
        ("CREATE VIEW broken AS SELECT * FROM nowhere", "broken"),
        ("CREATE VIEW broken AS SELECT own_function(name) AS n FROM street", "broken"),
        ("CREATE VIEW broken AS SELECT name FROM street ORDER BY name COLLATE german", "broken"),
        ("CREATE TABLE broken (a INTEGER, b TEXT COLLATE german)", "broken.b"),
        ("CREATE TABLE broken (a TEXT, b INTEGER AS (own_function(a)))", "broken"),
    ],
)
def test_what_cannot_be_read_is_named_once_and_left_out(tmp_path, caplog, script, left_out):
    path = build(tmp_path, f"{STREETS}{script};")
    for _ in range(3):
        schema = read_schema(path)
    assert [r.message for r in caplog.records if left_out in r.message and "left out" in r.message] == [
        caplog.messages[0]
    ]
    names = {t.name for t in schema.tables} | {f"{t.name}.{c.name}" for t in schema.tables for c in t.columns}
    assert "street" in names
    assert left_out not in names
    assert questions(path, tmp_path)
    no_copy = left_out == "broken.b"  # a table's own collation would be lost in a copy
    assert bool(write_backward(path, tmp_path / "backward.sqlite")) != no_copy


def test_a_virtual_table_without_its_module_is_left_out(tmp_path, caplog):
    path = build(tmp_path, STREETS)
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA writable_schema = ON")
        create = "CREATE VIRTUAL TABLE vec USING vec0(a float[4])"
        connection.execute("INSERT INTO sqlite_master VALUES ('table', 'vec', 'vec', 0, ?)", (create,))
    connection.close()
    assert compact(path) == "street(street_id*, name, length)"
    assert "vec (no such module: vec0)" in caplog.text
    assert questions(path, tmp_path)
    assert write_backward(path, tmp_path / "backward.sqlite")


def test_views_that_fail_on_a_row_or_never_end_have_no_statistics(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("sqlr1.database.schema._VIEW_STEPS", 1_000_000)
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i, i * 2 AS j FROM n"
    bad = "SELECT json_extract(name, '$.a') AS a FROM street"
    path = build(tmp_path, f"{STREETS} CREATE VIEW bad AS {bad}; CREATE VIEW endless AS {endless};")
    assert read_profile(path).rows == {"street": 5}
    assert "bad: malformed JSON" in caplog.text
    assert "endless: takes more than 1,000,000 steps" in caplog.text
    assert "street(street_id*, name ['Elm']" in schema_text(read_schema(path), "compact", 1)


@pytest.mark.parametrize(("most", "shown"), [(1_000_000, False), (10_000_000, True)])
def test_whether_a_slow_view_has_example_values_depends_on_its_steps_not_on_the_clock(
    tmp_path, monkeypatch, most, shown
):
    clock = itertools.count(0, 3600)
    monkeypatch.setattr("time.monotonic", lambda: next(clock))  # a machine under load
    monkeypatch.setattr("sqlr1.database.schema._VIEW_STEPS", most)
    counted = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 200000) SELECT count(*) || 'x' AS c"
    path = build(tmp_path, f"{STREETS} CREATE VIEW slow AS {counted} FROM n;")
    assert ("slow(c ['200000x'])" in schema_text(read_schema(path), "compact", 1)) == shown


def test_virtual_tables_that_work_are_read(tmp_path):
    path = build(
        tmp_path,
        "CREATE VIRTUAL TABLE note USING fts5(title, body); INSERT INTO note VALUES ('a', 'red fox'), ('b', 'blue');"
        "CREATE VIRTUAL TABLE old USING fts4(body); INSERT INTO old VALUES ('red');"
        "CREATE VIRTUAL TABLE place USING rtree(id, low, high); INSERT INTO place VALUES (1, 0, 2);",
    )
    assert compact(path) == "note(title, body)\nold(body)\nplace(id, low, high)"
    found = rows(
        path, "SELECT title FROM note", "SELECT title FROM note WHERE note MATCH 'fox' ORDER BY rank",
        "SELECT count(*) FROM old WHERE body MATCH 'red'", "SELECT id FROM place WHERE low < 1",
    )  # fmt: skip
    assert found == [[("a",), ("b",)], [("a",)], [(1,)], [(1,)]]


WORDS = sorted({w.lower() for w in SQLite.Tokenizer.KEYWORDS if w.isidentifier()} | {
    "raise", "recursive", "nothing", "true", "false", "abort", "key", "generated", "always", "current", "exclude",
    "groups", "plan", "returning", "release", "savepoint", "rowid", "one", "t1", "ties", "vacuum",
})  # fmt: skip


def test_every_word_can_be_a_name(tmp_path):
    """Of a table and of its column, in SQL that the generator's rules allow."""
    script = "".join(f"CREATE TABLE {quote(w)} ({quote(w)}); INSERT INTO {quote(w)} VALUES (7);" for w in WORDS)
    path = build(tmp_path, script)
    names = [identifier(word) for word in WORDS]
    found = rows(path, *(f"SELECT T1.{n}, max({n}) FROM {n} AS T1 WHERE {n} < 8 GROUP BY {n}" for n in names))
    assert [word for word, result in zip(WORDS, found, strict=True) if result != [(7, 7)]] == []
    assert {"name", "date", "type", "year", "title"} <= set(map(identifier, ["name", "date", "type", "year", "title"]))
    assert identifier("raise") == '"raise"'


def test_infinities_and_huge_integers_are_numbers(tmp_path):
    script = "CREATE TABLE sensor (sensor_id INTEGER PRIMARY KEY, place TEXT, level REAL, ticks INTEGER);" + "".join(
        f"INSERT INTO sensor (place, level, ticks) VALUES ('{p}', {v}, {t});"
        for p, v, t in [
            ("a", "9e999", 2**63 - 1), ("b", 1.5, -(2**63)), ("c", 2.5, 4), ("d", "-9e999", 5), ("e", 3.5, 5),
        ]
    )  # fmt: skip
    path = build(tmp_path, script)
    assert "level REAL, -- example: [9e999, 1.5]" in schema_text(read_schema(path), "ddl", 2)
    statistics = read_profile(path).columns["sensor", "level"]
    assert all(map(math.isfinite, statistics.quantiles))
    made = questions(path, tmp_path, 80)
    assert any("level" in q.sql for q in made)
    assert not [q for q in made if {"inf", "-inf", "infinity"} & set(f"{q.sql} {q.question}".lower().split())]
    assert len(write_instances(path, tmp_path / "copies", 4, 0)) == 5


KILLED = """
import os, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute(f"PRAGMA journal_mode = {sys.argv[2]}")
connection.execute("PRAGMA cache_size = 1")
connection.execute("BEGIN")
connection.executemany("INSERT INTO street (name) VALUES (?)", [("x" * 500,)] * 2000)
if sys.argv[2] == "WAL":
    connection.execute("COMMIT")
os._exit(0)
"""


@pytest.mark.parametrize(("mode", "suffix"), [("WAL", "-wal"), ("DELETE", "-journal")])
def test_rows_in_a_journal_are_not_silently_missed(tmp_path, mode, suffix):
    path = build(tmp_path, STREETS)
    subprocess.run([sys.executable, "-c", KILLED, str(path), mode], check=True)
    assert os.path.getsize(f"{path}{suffix}")
    with pytest.raises(
        InputError, match=f"own.sqlite: some of its rows may still be in own.sqlite{suffix}; .*checkpoint"
    ):
        read_schema(path)
    with pytest.raises(InputError, match="checkpoint"):
        rows(path, "SELECT 1")
    repair = "SELECT count(*) FROM sqlite_master; PRAGMA wal_checkpoint(TRUNCATE)"  # what the message says to run
    connection = sqlite3.connect(path)
    for statement in repair.split(";"):
        connection.execute(statement).fetchall()
    connection.close()
    assert rows(path, "SELECT count(*) FROM street") == [[(2005 if mode == "WAL" else 5,)]]


def test_a_finished_journal_is_no_reason(tmp_path):
    path = build(tmp_path, f"PRAGMA journal_mode = PERSIST; {STREETS}")
    assert os.path.getsize(f"{path}-journal")
    assert compact(path)


def test_comments_are_found_by_tokens(tmp_path):
    path = build(
        tmp_path,
        "CREATE TABLE task (task_id INTEGER PRIMARY KEY, -- number of the task\n"
        "  separator TEXT DEFAULT '--' NOT NULL, -- printed between parts\n"
        "  rule TEXT DEFAULT '-- none --',\n"
        "  -- a remark about nothing\n"
        '  "odd, -- name" TEXT CHECK ("odd, -- name" <> \'/*\'), [two words] TEXT, -- of two words\n'
        "  cost NUMERIC(10, 2), -- in euros\n"
        "  note TEXT /* free\n text */\n)",
    )
    comments = {c.name: c.description for c in read_schema(path).tables[0].columns}
    assert comments == {
        "task_id": "number of the task", "separator": "printed between parts", "rule": "", "odd, -- name": "",
        "two words": "of two words", "cost": "in euros", "note": "free text",
    }  # fmt: skip


def test_rows_in_a_journal_are_not_missed_through_a_link(tmp_path):
    path = build(tmp_path, STREETS)
    subprocess.run([sys.executable, "-c", KILLED, str(path), "WAL"], check=True)
    link = tmp_path / "link.sqlite"
    link.symlink_to(path)
    with pytest.raises(InputError, match=r"own\.sqlite-wal"):
        read_schema(link)


def test_a_view_with_a_value_too_big_has_no_statistics(tmp_path, caplog):
    path = build(tmp_path, f"{STREETS} CREATE VIEW v AS SELECT zeroblob(2000000000) AS z FROM street;")
    assert read_profile(path).rows == {"street": 5}
    assert "no statistics of v: string or blob too big" in caplog.text


def test_a_table_that_only_the_application_can_change_stays_as_it_is(tmp_path, caplog):
    script = f"{STREETS} CREATE TABLE person (person_id INTEGER PRIMARY KEY, name TEXT CHECK (own_function(name) > 0));"
    path = build(tmp_path, f"{script} INSERT INTO person (name) VALUES ('Ann'), ('Bob'), ('Cid'), ('Dee'), ('Eve');")
    _, copy = write_instances(path, tmp_path / "copies", 1, 0)
    assert "person is not changed: unknown function" in caplog.text
    own, other = (rows(p, "SELECT * FROM person", "SELECT * FROM street") for p in (path, copy))
    assert own[0] == other[0]
    assert own[1] != other[1]


def test_an_own_table_named_like_a_module_is_read(tmp_path):
    path = build(tmp_path, "CREATE TABLE rtree (a); INSERT INTO rtree VALUES (1); CREATE TABLE pragma_x (a)")
    assert rows(path, "SELECT count(*) FROM rtree", "SELECT count(*) FROM pragma_x") == [[(1,)], [(0,)]]
