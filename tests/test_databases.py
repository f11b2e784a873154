"""Schemas, prompt text and statistics of SQLite files."""

import contextlib
import sqlite3
from pathlib import Path

import pytest
import sqlglot
from sqlglot import exp

from sqlr1.database.files import data_root, database_files
from sqlr1.database.profile import implied_primary_key, read_profile
from sqlr1.database.schema import identifier, read_schema
from sqlr1.database.text import schema_text
from sqlr1.evaluate.formats import database_path
from sqlr1.records import InputError

DDL = """
CREATE TABLE singer (
  singer_id INTEGER PRIMARY KEY,
  "full name" TEXT NOT NULL, -- name on stage
  country TEXT
);
CREATE TABLE song (song_id INTEGER PRIMARY KEY, title TEXT, singer_id INTEGER REFERENCES singer, "order" INTEGER);
CREATE TABLE likes (song_id INTEGER, fan TEXT, PRIMARY KEY (song_id, fan));
CREATE TABLE dangling (x INTEGER REFERENCES nowhere(y));
INSERT INTO singer VALUES (1, 'Ann O''Hara', 'France'), (2, 'Bo', 'France'), (3, 'Cy', NULL);
INSERT INTO song VALUES (1, 'A', 1, 5), (2, 'B', 1, 6), (3, 'C', 3, 7);
INSERT INTO likes VALUES (1, 'Zoe'), (2, 'Zoe'), (2, 'Max');
"""


@pytest.fixture
def database(tmp_path):
    path = tmp_path / "songs.sqlite"
    with sqlite3.connect(path) as connection:
        connection.executescript(DDL)
    connection.close()
    return path


def test_schema_has_tables_keys_and_comments(database):
    schema = read_schema(database)
    singer, song, likes, _ = schema.tables
    assert singer.primary_key == ("singer_id",)
    assert likes.primary_key == ("song_id", "fan")
    assert [c.name for c in song.columns] == ["song_id", "title", "singer_id", "order"]
    name = singer.columns[1]
    assert (name.type, name.not_null, name.description) == ("TEXT", True, "name on stage")


def test_implicit_foreign_key_targets_the_primary_key_and_a_dangling_one_is_left_out(database):
    keys = [(k.table, k.column, k.parent, k.parent_column) for k in read_schema(database).foreign_keys]
    assert keys == [("song", "singer_id", "singer", "singer_id")]


def test_keys_of_several_columns_are_marked_as_parts(tmp_path):
    path = tmp_path / "parts.sqlite"
    with sqlite3.connect(path) as connection:
        connection.executescript(
            "CREATE TABLE room (house TEXT, number INTEGER, PRIMARY KEY (house, number));"
            "CREATE TABLE guest (id INTEGER PRIMARY KEY, house TEXT, number INTEGER, friend INTEGER REFERENCES guest,"
            " FOREIGN KEY (house, number) REFERENCES room (house, number));"
        )
    connection.close()
    keys = {k.column: (k.parent_column, k.composite) for k in read_schema(path).foreign_keys}
    assert keys == {"house": ("house", True), "number": ("number", True), "friend": ("id", False)}


def test_a_key_without_named_columns_refers_to_the_primary_key_in_its_declared_order(tmp_path):
    """SQLite refuses the row (1, 2) of `c` with the names in the other order."""
    path = tmp_path / "order.sqlite"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript(
            'PRAGMA foreign_keys = ON; CREATE TABLE p (a, b, "the key" UNIQUE, PRIMARY KEY (b, a));'
            'CREATE TABLE c (x, y, z REFERENCES p ("the key"), FOREIGN KEY (x, y) REFERENCES p);'
            "INSERT INTO p VALUES (2, 1, 3); INSERT INTO c VALUES (1, 2, 3);"
        )
    schema = read_schema(path)
    assert schema.table("p").primary_key == ("b", "a")
    text = schema_text(schema, "compact", 0)
    assert text.splitlines()[1] == 'c(x->p.b, y->p.a, z->p."the key")'


def test_compact_text(database):
    lines = schema_text(read_schema(database), "compact", 0).splitlines()
    assert lines[0] == 'singer(singer_id*, "full name", country)'
    assert lines[1] == 'song(song_id*, title, singer_id->singer, "order")'


def test_compact_text_shows_example_texts_only(database):
    assert "country ['France']" in schema_text(read_schema(database), "compact", 2)
    assert '"order" [' not in schema_text(read_schema(database), "compact", 2)


def test_ddl_text(database):
    text = schema_text(read_schema(database), "ddl", 2).split("\n\n")[0]
    assert text == (
        "CREATE TABLE singer (\n"
        "  singer_id INTEGER, -- example: [1, 2]\n"
        "  \"full name\" TEXT NOT NULL, -- name on stage, example: ['Ann O''Hara', 'Bo']\n"
        "  country TEXT, -- example: ['France']\n"
        "  PRIMARY KEY (singer_id)\n"
        ");"
    )


def test_ddl_text_is_ddl(database):
    """What the model reads creates the same tables."""
    text = schema_text(read_schema(database), "ddl", 3)
    copy = sqlite3.connect(":memory:")
    copy.executescript(text)
    columns = {t: [r[1] for r in copy.execute(f"PRAGMA table_info({t})")] for t in ("singer", "song", "likes")}
    assert columns == {t.name: [c.name for c in t.columns] for t in read_schema(database).tables if t.name in columns}


@pytest.mark.parametrize("name", ["range", "list", "any", "fetch", "order", "Object", "full name"])
def test_identifiers_are_quoted_where_sqlite_or_sqlglot_needs_it(name):
    sql = f"SELECT {identifier(name)} FROM {identifier(name)} WHERE {identifier(name)} < 3"
    assert sqlglot.parse_one(sql, read="sqlite").find(exp.Column).name == name
    connection = sqlite3.connect(":memory:")
    connection.execute(f"CREATE TABLE {identifier(name)} ({identifier(name)} INTEGER)")
    connection.execute(sql)


def test_missing_and_corrupt_files_are_named(tmp_path):
    with pytest.raises(InputError, match=r"gone\.sqlite: no such SQLite file"):
        read_schema(tmp_path / "gone.sqlite")
    broken = tmp_path / "broken.sqlite"
    broken.write_bytes(b"SQLite format 3\0" + b"\7" * 4096)
    with pytest.raises(InputError, match=r"broken\.sqlite: not a readable SQLite database"):
        read_schema(broken)


def test_tables_of_a_full_text_index_are_no_subjects(tmp_path):
    path = tmp_path / "notes.sqlite"
    with sqlite3.connect(path) as connection:
        connection.executescript("CREATE VIRTUAL TABLE search USING fts5(title); CREATE TABLE search_terms (word TEXT)")
    connection.close()
    assert {table.name for table in read_schema(path).tables} == {"search", "search_terms"}


def test_database_without_tables_is_refused(tmp_path):
    path = tmp_path / "empty.sqlite"
    sqlite3.connect(path).close()
    path.touch()
    with pytest.raises(InputError, match="no tables"):
        read_schema(path)


def test_statistics(database):
    found = read_profile(database)
    assert found.rows == {"singer": 3, "song": 3, "likes": 3, "dangling": 0}
    country = found.columns["singer", "country"]
    assert (country.kind, country.filled, country.distinct, country.values) == ("text", 2, 1, (("France", 2),))
    assert found.columns["song", "singer_id"].kind == "key"
    assert found.columns["song", "order"].kind == "number"


def test_a_rare_value_decides_the_kind_too(tmp_path):
    """Text sorts above numbers: the one "DNF" would be the highest score."""
    with sqlite3.connect(tmp_path / "race.sqlite") as connection:
        connection.execute("CREATE TABLE run (score, points, day, start)")
        rows = [(i, i, f"2020-01-{i % 28 + 1:02}", f"20{i:02}-01-01") for i in range(10, 70)]
        connection.executemany("INSERT INTO run VALUES (?, ?, ?, ?)", [*rows, ("DNF", 99, "2020-02-01", "unknown")])
    kinds = {column: s.kind for (_, column), s in read_profile(tmp_path / "race.sqlite").columns.items()}
    assert kinds == {"score": "text", "points": "number", "day": "date", "start": "text"}


def test_english_words_that_end_like_keys_are_none(tmp_path):
    """But if some table has one as its primary key, columns of this name are keys."""
    words = ["paid", "amount_paid", "netPaid", "totalpaid", "isvalid", "unpaid", "high bid", "GRID", "topBids", "covid"]
    keys = [
        "IntervalID",
        "festivalid",
        "SpaID",
        "customerid",
        "CarID",
        "orderid",
        "ROOMID",
        "gridid",
        "bid_id",
        "compid",
        "employeekey",
        "hotelId",
    ]
    with sqlite3.connect(tmp_path / "t.sqlite") as connection:
        connection.execute(f"CREATE TABLE t ({', '.join(map(identifier, [*words, *keys, 'aid', 'monkey']))})")
        connection.executescript("CREATE TABLE author (aid INTEGER PRIMARY KEY); INSERT INTO author VALUES (1), (2)")
        connection.execute("CREATE TABLE bill (amount_paid REAL, bid, no INTEGER, title)")
        connection.executemany("INSERT INTO bill VALUES (?, ?, ?, 'x')", [(1.5, 7, 1), (2.5, 8, 2)])
    connection.close()
    profile = read_profile(tmp_path / "t.sqlite")
    found = [column for (table, column), s in profile.columns.items() if (table, s.kind) == ("t", "key")]
    assert found == [*keys, "aid"]
    assert implied_primary_key(profile.schema.table("bill"), profile.columns) == ""


def test_bytes_are_of_a_kind_of_their_own(tmp_path):
    """Nobody groups photos, or asks for those equal to one. A key may be bytes."""
    with sqlite3.connect(tmp_path / "t.sqlite") as connection:
        connection.execute("CREATE TABLE staff (uuid BLOB PRIMARY KEY, photo BLOB, note TEXT, name TEXT)")
        rows = [(bytes([i]), bytes([i % 3]), b"x" if i == 55 else f"n{i:02}", f"m{i % 5}") for i in range(60)]
        connection.executemany("INSERT INTO staff VALUES (?, ?, ?, ?)", rows)
    connection.close()
    columns = read_profile(tmp_path / "t.sqlite").columns
    found = {column: (s.kind, s.distinct) for (_, column), s in columns.items()}
    assert found == {"uuid": ("key", 60), "photo": ("blob", 3), "note": ("blob", 60), "name": ("text", 5)}


def test_foreign_key_is_inferred_only_where_the_values_support_it(tmp_path):
    for extra, expected in (("3", 1), ("9", 0)):
        path = tmp_path / f"{extra}.sqlite"
        with sqlite3.connect(path) as connection:
            connection.executescript(
                "CREATE TABLE pet (pet_id INTEGER PRIMARY KEY, kind TEXT);"
                "INSERT INTO pet VALUES (1,'a'),(2,'b'),(3,'c');"
                f"CREATE TABLE visit (day TEXT, pet_id INTEGER); INSERT INTO visit VALUES ('x', 1), ('y', {extra});"
            )
        connection.close()
        assert len(read_profile(path).foreign_keys) == expected


@pytest.mark.parametrize("parent", ["customer", "customers", "Customers"])
def test_a_foreign_key_may_name_one_of_a_plural_table(tmp_path, parent):
    with sqlite3.connect(tmp_path / "shop.sqlite") as connection:
        connection.executescript(
            f"CREATE TABLE {parent} (id INTEGER PRIMARY KEY); INSERT INTO {parent} VALUES (1), (2);"
            "CREATE TABLE sale (customer_id INTEGER, day TEXT); INSERT INTO sale VALUES (1, 'x'), (1, 'y');"
        )
    connection.close()
    (key,) = read_profile(tmp_path / "shop.sqlite").foreign_keys
    assert (key.column, key.parent, key.parent_column) == ("customer_id", parent, "id")


def test_databases_in_folders_and_flat_are_found_by_training_and_scoring_alike(tmp_path):
    places = {"a": "a/a.sqlite", "b": "b.sqlite", "c": "c.db", "d": "d.sqlite3", "e": "e.DB", "f": "f/f.SQLITE"}
    for folder in "af":
        (tmp_path / folder).mkdir()
    for place in (*places.values(), "a/a_1.sqlite", "notes.txt"):
        (tmp_path / place).touch()
    found = database_files(tmp_path)
    assert found == {db_id: tmp_path / place for db_id, place in places.items()}
    assert {db_id: database_path(tmp_path, db_id) for db_id in found} == found
    assert database_files(tmp_path / "a") == {"a": tmp_path / "a/a.sqlite"}  # the other one is its instance
    assert database_files(tmp_path / "c.db") == {"c": tmp_path / "c.db"}
    assert database_path(tmp_path / "c.db", "c") == tmp_path / "c.db"
    assert database_path(tmp_path / "c.db", "d") is None
    (tmp_path / "b.db").write_text("another one")
    assert database_path(tmp_path, "b") == tmp_path / "b.sqlite"
    with pytest.raises(InputError, match="different databases of one name"):
        database_files(tmp_path)


@pytest.mark.parametrize("rows", ['{"db_id": "a"}', '["a"]', '[{"id": "a"}]', '[{"db_id": ["a"]}]'])
def test_a_file_of_another_layout_names_no_databases(tmp_path, rows):
    (tmp_path / "a.sqlite").touch()
    (tmp_path / "questions.json").write_text(rows)
    with pytest.raises(InputError, match=r"questions\.json: not a list of questions in Spider's layout"):
        database_files(tmp_path, tmp_path / "questions.json")


def test_every_spider_database_has_a_schema_text_and_statistics(data_root):
    paths = sorted((data_root / "spider/database").glob("*/*.sqlite"))
    assert len(paths) > 100
    for path in paths:
        schema = read_schema(path)
        assert len(schema_text(schema, "compact", 0).splitlines()) == len(schema.tables)
        assert set(read_profile(path).rows) == {t.name for t in schema.tables}


@pytest.mark.parametrize(("value", "root"), [(None, "data"), ("", "data"), ("there", "there")])
def test_an_empty_data_root_is_the_default(value, root, monkeypatch):
    """As in the Snakefile, which takes an empty SQLR1_DATA for none."""
    monkeypatch.delenv("SQLR1_DATA", raising=False)
    if value is not None:
        monkeypatch.setenv("SQLR1_DATA", value)
    assert data_root() == Path(root)
