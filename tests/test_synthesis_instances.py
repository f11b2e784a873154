"""Perturbed instances of a database, and the wrong queries they unmask."""

import contextlib
import shutil
import sqlite3
import tracemalloc

import pytest
import sqlglot
from mutants import mutants

from sqlgen import builtin_sources
from sqlr1.database.instances import write_instances
from sqlr1.database.profile import read_profile
from sqlr1.database.schema import read_schema
from sqlr1.database.sql import to_sql
from sqlr1.database.text import schema_text
from sqlr1.records import sha256
from sqlr1.sandbox import SEMANTICS, Executor, Pair, Verdict


@pytest.fixture(scope="module")
def instances(tmp_path_factory):
    folder = tmp_path_factory.mktemp("instances")
    (library,) = builtin_sources(["library"], folder, seed=0)
    return write_instances(library.path, folder / "instances/library", 3, 0)


def test_the_copy_comes_first_and_the_rest_differ(instances):
    source = instances[0].parents[2] / "library/library.sqlite"
    assert sha256(instances[0]) == sha256(source)
    assert len({sha256(path) for path in instances}) == 4


def test_instances_are_determined_by_the_seed(instances, tmp_path):
    source = instances[0].parents[2] / "library/library.sqlite"
    assert [sha256(p) for p in write_instances(source, tmp_path / "a", 3, 0)] == [sha256(p) for p in instances]
    assert sha256(write_instances(source, tmp_path / "b", 1, 9)[1]) != sha256(instances[1])


@pytest.mark.parametrize("name", ["library", "library[1]"])
def test_fewer_instances_leave_none_of_the_former_ones(instances, tmp_path, name):
    source = tmp_path / f"{name}.sqlite"
    shutil.copyfile(instances[0], source)
    write_instances(source, tmp_path / "made", 3, 0)
    (tmp_path / f"made/{name}_notes.sqlite").touch()
    written = write_instances(source, tmp_path / "made", 1, 0)
    assert sorted((tmp_path / "made").iterdir()) == sorted([*written, tmp_path / f"made/{name}_notes.sqlite"])


def types(path, table, column):
    with sqlite3.connect(path) as connection:
        found = connection.execute(f'SELECT DISTINCT typeof("{column}") FROM "{table}" WHERE "{column}" NOT NULL')
        return {name for (name,) in found}


def test_schema_keys_and_types_stay(instances):
    original, first = read_profile(instances[0]), read_profile(instances[1])
    assert schema_text(read_schema(instances[0]), "ddl", 0) == schema_text(read_schema(instances[1]), "ddl", 0)
    for key, before in original.columns.items():
        after = first.columns[key]
        assert after.kind == before.kind, key
        assert types(instances[1], *key) <= types(instances[0], *key), key
    with sqlite3.connect(instances[1]) as connection:
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("SELECT COUNT(*) FROM book WHERE title IS NULL").fetchone() == (0,)


def test_full_text_indexes_stay_whole(tmp_path):
    source = tmp_path / "notes.sqlite"
    with sqlite3.connect(source) as connection:
        connection.executescript(
            "CREATE TABLE note (id INTEGER PRIMARY KEY, title TEXT, body TEXT);"
            "CREATE VIRTUAL TABLE search USING fts5(title, body);"
        )
        rows = [(f"title {n}", f"body {n % 3}") for n in range(30)]
        connection.executemany("INSERT INTO note (title, body) VALUES (?, ?)", rows)
        connection.executemany("INSERT INTO search VALUES (?, ?)", rows)
    connection.close()
    changed = write_instances(source, tmp_path / "notes", 1, 0)[1]
    with sqlite3.connect(changed) as connection:
        connection.execute("INSERT INTO search (search) VALUES ('integrity-check')")  # raises when it is not whole
        assert connection.execute("SELECT COUNT(*) FROM search WHERE search MATCH 'body'").fetchone() == (30,)
        assert connection.execute("SELECT title, body FROM note").fetchall() != rows


@pytest.mark.parametrize("module", ["fts5", "fts4"])
def test_an_index_over_the_rows_of_another_table_follows_them(tmp_path, module):
    source, key = tmp_path / "notes.sqlite", ", content_rowid='id'" if module == "fts5" else ""
    with contextlib.closing(sqlite3.connect(source)) as connection:
        connection.executescript(
            "CREATE TABLE note (id INTEGER PRIMARY KEY, title TEXT);"
            f"CREATE VIRTUAL TABLE search USING {module}(title, content='note'{key});"
            f"CREATE VIRTUAL TABLE bare USING {module}(title, content='');"
            "CREATE TRIGGER added AFTER INSERT ON note BEGIN"
            " INSERT INTO search (rowid, title) VALUES (new.id, new.title); END;"
            "WITH n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 30)"
            " INSERT INTO note (title) SELECT 'title ' || i FROM n;"
        )
    sql = "SELECT title FROM search WHERE search MATCH 'title' ORDER BY rowid"
    for path in write_instances(source, tmp_path / "notes", 2, 0):
        with contextlib.closing(sqlite3.connect(path)) as connection:
            titles = connection.execute("SELECT title FROM note WHERE title IS NOT NULL ORDER BY id").fetchall()
            assert connection.execute(sql).fetchall() == titles


def test_changes_that_are_rolled_back_make_no_instance(tmp_path):
    """SQLite calls a function of the application for its index, which only the application has."""
    source = tmp_path / "app.sqlite"
    with contextlib.closing(sqlite3.connect(source)) as connection:
        connection.create_function("f", 1, lambda value: value, deterministic=True)
        connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, a INTEGER, b INTEGER)")
        connection.executemany("INSERT INTO t (a, b) VALUES (?, ?)", [(n, n) for n in range(30)])
        connection.execute("CREATE INDEX by_f ON t (f(b))")
        connection.commit()
    assert len(write_instances(source, tmp_path / "app", 2, 0)) == 1


def test_photos_are_neither_moved_nor_held_in_memory(tmp_path):
    source = tmp_path / "album.sqlite"
    with contextlib.closing(sqlite3.connect(source)) as connection:
        connection.execute("CREATE TABLE picture (id INTEGER PRIMARY KEY, title TEXT, photo BLOB)")
        photos = [(f"title {n}", bytes([n]) * 2**19) for n in range(100)]
        connection.executemany("INSERT INTO picture (title, photo) VALUES (?, ?)", photos)
        connection.commit()
    tracemalloc.start()
    _, changed = write_instances(source, tmp_path / "album", 1, 0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 30e6  # the photos have 52 MB
    with contextlib.closing(sqlite3.connect(changed)) as connection:
        rows = connection.execute("SELECT title, photo, id FROM picture").fetchall()
        assert all(photo == photos[key - 1][1] for _, photo, key in rows)
        assert any(title != photos[key - 1][0] for title, _, key in rows)


def test_a_database_in_which_nothing_can_change_has_no_instances(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("sqlr1.database.instances._LARGEST", 20)
    source = tmp_path / "big.sqlite"
    with contextlib.closing(sqlite3.connect(source)) as connection:
        connection.execute("CREATE TABLE t (a INTEGER)")
        connection.executemany("INSERT INTO t VALUES (?)", [(n,) for n in range(30)])
        connection.commit()
    assert write_instances(source, tmp_path / "big", 2, 0) == [tmp_path / "big/big.sqlite"]
    assert [path.name for path in (tmp_path / "big").iterdir()] == ["big.sqlite"]
    assert "instance 2 is left out" in caplog.text


def test_some_parents_lose_their_children_and_columns_get_duplicates(instances):
    childless = "SELECT COUNT(*) FROM publisher WHERE publisher_id NOT IN (SELECT publisher_id FROM book)"
    counts = [sqlite3.connect(path).execute(childless).fetchone()[0] for path in instances]
    assert counts[0] == 0
    assert all(count > 0 for count in counts[1:])
    names = [
        sqlite3.connect(path).execute("SELECT COUNT(DISTINCT name) FROM member").fetchone()[0] for path in instances
    ]
    assert max(names[1:]) < names[0]


def test_the_columns_of_a_key_come_from_one_parent_and_move_together(tmp_path):
    """Also where two keys share a column (both ends of a swap are in one house), and where a table refers to itself."""
    source = tmp_path / "school.sqlite"
    with sqlite3.connect(source) as connection:
        connection.executescript(
            "CREATE TABLE room (house INTEGER, number TEXT, PRIMARY KEY (house, number));"
            "CREATE TABLE lesson (id INTEGER PRIMARY KEY, house INTEGER, number TEXT,"
            " FOREIGN KEY (house, number) REFERENCES room (house, number));"
            "CREATE TABLE swap (id INTEGER PRIMARY KEY, house INTEGER, old TEXT, new TEXT,"
            " FOREIGN KEY (house, old) REFERENCES room (house, number),"
            " FOREIGN KEY (house, new) REFERENCES room (house, number));"
            "CREATE TABLE pupil (house INTEGER, id INTEGER, friend_house INTEGER, friend INTEGER,"
            " PRIMARY KEY (house, id), FOREIGN KEY (friend_house, friend) REFERENCES pupil (house, id));"
        )
        rooms = [(house, f"{house}{number}") for house in range(1, 31) for number in "abcde"]
        connection.executemany("INSERT INTO room VALUES (?, ?)", rooms)
        connection.executemany("INSERT INTO lesson (house, number) VALUES (?, ?)", rooms[::10])
        swaps = [(house, room, f"{house}b") for house, room in rooms[::10]]
        connection.executemany("INSERT INTO swap (house, old, new) VALUES (?, ?, ?)", swaps)
        connection.executemany("INSERT INTO pupil VALUES (?, ?, ?, ?)", [(n, n, n + 1, n + 1) for n in range(1, 5)])
        connection.execute("INSERT INTO pupil (house, id) VALUES (5, 5)")
    connection.close()
    files = write_instances(source, tmp_path / "school", 2, 0, rows=100)
    taught = []
    for path in files:
        with contextlib.closing(sqlite3.connect(path)) as connection:
            assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
            taught.append(connection.execute("SELECT house FROM lesson WHERE number IS NOT NULL").fetchall())
            swapped = connection.execute("SELECT COUNT(*) FROM swap WHERE old <> new").fetchone()[0]
            assert path == files[0] or swapped > 50
    assert min(map(len, taught[1:])) > 70
    assert taught[0] != taught[1][:15] != taught[2][:15]


def test_tables_of_two_rows_are_filled(tmp_path):
    """With keys of their own, parents that exist, and no row that breaks a constraint."""
    source = tmp_path / "shop.sqlite"
    with sqlite3.connect(source) as connection:
        connection.executescript(
            "CREATE TABLE maker (code TEXT PRIMARY KEY, name TEXT UNIQUE, founded INTEGER, listed INTEGER);"
            "CREATE TABLE item (id INTEGER PRIMARY KEY, maker TEXT NOT NULL REFERENCES maker (code), price REAL,"
            " colour TEXT, note TEXT, CHECK (price > 0));"
            "CREATE TABLE sale (item_id INTEGER REFERENCES item (id), day TEXT, PRIMARY KEY (item_id, day));"
            "CREATE TABLE refund (id INTEGER PRIMARY KEY);"
            "INSERT INTO maker VALUES ('A', 'Ann', 1950, 0), ('B', 'Bo', 1990, 1);"
            "INSERT INTO item VALUES (1, 'A', 2.5, 'red', NULL), (2, 'B', 9.5, 'blue', NULL);"
            "INSERT INTO sale VALUES (1, '2024-01-01'), (2, '2024-01-02');"
        )
    connection.close()
    same, first, second = write_instances(source, tmp_path / "shop", 2, 0, rows=100)
    assert sha256(same) == sha256(source)
    assert sha256(first) != sha256(second)
    with contextlib.closing(sqlite3.connect(first)) as connection:
        rows = {t: connection.execute(f"SELECT * FROM {t}").fetchall() for t in ("maker", "item", "sale", "refund")}
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert [len(rows[table]) >= least for table, least in (("maker", 100), ("item", 100), ("sale", 50))] == [True] * 3
    assert rows["refund"] == []
    assert {listed for *_, listed in rows["maker"]} <= {-1, 0, 1, 2}  # a few values are shifted by one
    assert len({price for _, _, price, *_ in rows["item"]}) > 20
    assert {colour for *_, colour, _ in rows["item"]} == {"red", "blue"}


@pytest.mark.parametrize("semantics", SEMANTICS)
def test_coincidences_break_and_golds_accept_themselves(instances, semantics):
    gold = "SELECT name FROM publisher WHERE publisher_id IN (SELECT publisher_id FROM book)"
    coincidence = "SELECT name FROM publisher"  # in the original every publisher has a book
    alone = instances[0].parents[2] / "library/library.sqlite"
    with Executor(workers=1) as executor:
        before, after, own = executor.judge(
            [Pair(alone, gold, coincidence), Pair(instances[0], gold, coincidence), Pair(instances[0], gold, gold)],
            semantics,
        )
    assert [before.verdict, after.verdict, own.verdict] == [Verdict.MATCH, Verdict.MISMATCH, Verdict.MATCH]
    assert [before.one_instance, after.one_instance, own.one_instance] == [None, True, True]


@pytest.mark.parametrize(
    ("kind", "sql", "expected"),
    [
        ("dropped predicate", "SELECT a FROM t WHERE b = 1", ["SELECT a FROM t"]),
        ("dropped predicate", "SELECT a FROM t WHERE b = 1 AND c = 2", ["SELECT a FROM t WHERE b = 1"]),
        ("other aggregate", "SELECT SUM(a) FROM t", ["SELECT AVG(a) FROM t"]),
        ("other join", "SELECT a FROM t JOIN u ON t.x = u.y", ["SELECT a FROM t LEFT JOIN u ON t.x = u.y"]),
        ("other comparison", "SELECT a FROM t WHERE b > 3", ["SELECT a FROM t WHERE b >= 3"]),
        ("off by one", "SELECT a FROM t ORDER BY b LIMIT 1", ["SELECT a FROM t ORDER BY b LIMIT 2"]),
        ("distinct", "SELECT COUNT(DISTINCT a) FROM t GROUP BY b", ["SELECT COUNT(a) FROM t GROUP BY b"]),
        ("other direction", "SELECT a FROM t ORDER BY b", ["SELECT a FROM t ORDER BY b DESC"]),
    ],
)
def test_mutants(kind, sql, expected):
    expression = sqlglot.parse_one(sql, read="sqlite")
    assert [to_sql(mutant) for name, mutant in mutants(expression) if name == kind] == expected
    assert to_sql(expression) == sql
