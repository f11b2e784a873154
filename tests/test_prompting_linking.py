"""What a prompt shows of a wide schema and of the values in the database."""

import sqlite3
from contextlib import closing
from dataclasses import dataclass

import pytest
from tiny_models import tiny_tokenizer

from sqlr1.config import Prompt
from sqlr1.database.linking import Linker, first_tables
from sqlr1.database.retrieval import LONGEST_VALUE, ValueIndex
from sqlr1.database.schema import read_schema
from sqlr1.database.text import schema_text
from sqlr1.model import prompts as prompts_module
from sqlr1.model.prefix_cache import shared_prefixes
from sqlr1.model.prompts import Prompts
from sqlr1.prompt import prompt_messages
from sqlr1.records import Catalogue, Database, InputError, Question, write_jsonl
from sqlr1.train.grpo_trainer import grpo_rows
from sqlr1.train.sft import encode

DDL = """
CREATE TABLE country (code TEXT PRIMARY KEY, name TEXT, "official name" TEXT);
CREATE TABLE singer (singer_id INTEGER PRIMARY KEY, name TEXT, birth_date TEXT, home TEXT REFERENCES country);
CREATE TABLE song (song_id INTEGER PRIMARY KEY, title TEXT, sales REAL, length_in_seconds INTEGER);
CREATE TABLE sings (singer_id INTEGER REFERENCES singer, song_id INTEGER REFERENCES song);
CREATE TABLE stadium (stadium_id INTEGER PRIMARY KEY, capacity INTEGER, architect TEXT);
CREATE VIEW loud AS SELECT title AS loud_title FROM song;
INSERT INTO country VALUES ('FR', 'France', 'Republic of France'), ('ES', 'Spain', 'Kingdom of Spain');
INSERT INTO singer VALUES (1, 'Ann O''Hara', '1990-02-03', 'FR'), (2, x'626C6F62', NULL, 'ES'), (3, 'Cy', '', 'ES');
INSERT INTO song VALUES (1, 'Sun' || char(10) || 'and "Moon"', 5, 100), (2, 'The', 1, 2), (3, 'France', 2, 3);
"""


@dataclass
class Asked:
    question: str
    evidence: str = ""
    db_id: str = "music"


@pytest.fixture
def database(tmp_path):
    path = tmp_path / "music.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(DDL)
        connection.execute("INSERT INTO song VALUES (9, ?, 1, 1)", ["long " * 30])
    return path


def user(prompt: Prompts, asked: Asked, database) -> str:
    return prompt.prompt(asked, database)[0][1]["content"]


def prompts(**settings) -> Prompts:
    return Prompts(tiny_tokenizer(), Prompt(**{"max_length": 5000} | settings))


@pytest.mark.parametrize("style", ["compact", "ddl"])
def test_by_default_the_prompt_is_schema_and_question_alone(database, style):
    asked = Asked("How many songs has Ann O'Hara?", "A song has a title.")
    expected = prompt_messages(schema_text(read_schema(database), style, 2), asked.question, asked.evidence)
    assert prompts(schema=style, example_values=2).prompt(asked, database)[0] == expected
    assert expected[1]["content"].endswith("\nEvidence: A song has a title.\nQuestion: How many songs has Ann O'Hara?")


@pytest.mark.parametrize("style", ["compact", "ddl"])
def test_values_are_between_schema_and_question_as_sql(database, style):
    asked = Asked("Which songs sings ann o'hara from France?")
    schema, _, rest = user(prompts(schema=style, retrieved_values=3), asked, database).rpartition("\nValues: ")
    assert schema == schema_text(read_schema(database), style, 0)
    values, question = rest.split("\n")
    assert values == "singer.name = 'Ann O''Hara', country.name = 'France', song.title = 'France'"
    assert question == f"Question: {asked.question}"
    with closing(sqlite3.connect(database)) as connection:
        for value in values.split(", "):
            table = value.split(".")[0]
            assert connection.execute(f"SELECT count(*) FROM {table} WHERE {value}").fetchone() == (1,)


def test_values_of_the_evidence_count_too(database):
    assert "\nValues: country.code = 'ES', singer.home = 'ES'\n" in user(
        prompts(retrieved_values=3), Asked("How many singers?", "Spanish means code = 'ES'"), database
    )


@pytest.mark.parametrize("question", ["How many are there?", "The songs and the moon", "What is 7?", "!?", "long long"])
def test_a_question_that_mentions_no_value_adds_nothing(database, question):
    asked = Asked(question)
    assert prompts(retrieved_values=5).prompt(asked, database) == prompts().prompt(asked, database)


def test_a_value_of_two_lines_is_not_shown(database):
    """On one line it would be a literal that matches nothing."""
    assert "Values:" not in user(prompts(retrieved_values=1), Asked('Who sings Sun\nand "Moon"?'), database)


def test_only_short_text_is_a_value_and_views_repeat_none(database):
    values = ValueIndex(read_schema(database)).values
    assert {"France", "Ann O'Hara", "1990-02-03", "The"} <= set(values)
    assert all(0 < len(value) <= LONGEST_VALUE for value in values)
    assert not {"blob", "5", "song"} & set(values)


def test_a_database_without_text_has_no_values(tmp_path):
    path = tmp_path / "numbers.sqlite"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE t (a INTEGER)")
        connection.execute("INSERT INTO t VALUES (1)")
    assert ValueIndex(read_schema(path)).mentioned("What is 1?", 5) == []


def test_a_kept_index_answers_alike_and_a_damaged_one_is_named(database, tmp_path, monkeypatch):
    monkeypatch.setattr("sqlr1.database.retrieval._SLOW", -1.0)
    schema, cache = read_schema(database), tmp_path / "cache"
    built, loaded = ValueIndex(schema, cache), ValueIndex(schema, cache)
    [kept] = cache.iterdir()  # and nothing half-written
    for text in ("Spain and France", "the Kingdom of Spain", "nothing"):
        assert built.mentioned(text, 9) == loaded.mentioned(text, 9)
    (kept / "values.json").write_text("[[")
    with pytest.raises(InputError, match=f"{kept.name}.*delete it"):
        ValueIndex(schema, cache)


def test_an_index_that_cannot_be_kept_works(database, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("sqlr1.database.retrieval._SLOW", -1.0)
    (tmp_path / "cache").write_text("a file")
    assert ValueIndex(read_schema(database), tmp_path / "cache").mentioned("in Spain", 1)[0].value == "Spain"
    assert "cannot be kept" in caplog.text


def test_a_description_that_cannot_be_read_is_named(database):
    folder = database.parent / "database_description"
    (folder / "song.csv").mkdir(parents=True)
    with pytest.raises(InputError, match=r"song.csv: cannot be read \(Is a directory\)"):
        Linker(read_schema(database))


def test_prompts_with_values_share_their_schema(database):
    made = prompts(retrieved_values=2)
    ids = [made.token_ids(Asked(f"How many come from {name}?"), database) for name in ("France", "Spain")]
    [(length, members)] = shared_prefixes(ids)
    assert members == [0, 1]
    assert length > len(schema_text(read_schema(database), "compact", 0))


def cut(database, tables: int, question: str):
    linker = Linker(read_schema(database))
    return linker.cut(first_tables(linker.ranked(question), tables))


def test_the_tables_of_the_question_are_kept_with_those_that_join_them(database):
    schema = cut(database, 2, "What are the birth dates of singers of the songs with the highest sales?")
    assert [table.name for table in schema.tables] == ["singer", "song", "sings"]
    assert {(key.table, key.parent) for key in schema.foreign_keys} == {("sings", "singer"), ("sings", "song")}
    assert "home" in [column.name for column in schema.tables[0].columns]


def test_a_description_beside_the_database_counts(database):
    folder = database.parent / "database_description"
    folder.mkdir()
    text = "original_column_name,column_name,column_description\n capacity ,,how many spectators an arena holds\n"
    (folder / "stadium.csv").write_bytes(text.encode() + b"architect,\xff,\n")
    assert [t.name for t in cut(database, 1, "Which arena holds most spectators?").tables] == ["stadium"]


@pytest.mark.parametrize("style", ["compact", "ddl"])
def test_fit_cuts_a_schema_that_is_too_long_and_no_other(database, style):
    asked = Asked("What is the capacity of the stadium by architect Ann?")
    whole = prompts(schema=style).token_ids(asked, database)
    assert prompts(schema=style, linking="fit", max_length=len(whole)).token_ids(asked, database) == whole
    limit = len(whole) * 3 // 4
    assert prompts(schema=style, max_length=limit).token_ids(asked, database) is None
    linked = prompts(schema=style, linking="fit", max_length=limit)
    ids, text = linked.token_ids(asked, database), user(linked, asked, database)
    assert limit * 0.7 < len(ids) <= limit
    assert all(name in text for name in ("stadium", "capacity", "architect"))
    assert tiny_tokenizer().decode(ids).count(text) == 1
    if style == "ddl":
        with closing(sqlite3.connect(":memory:")) as connection:
            connection.executescript(text.rpartition("\nQuestion:")[0])


def test_a_number_of_tables_holds_for_every_prompt_and_examples_stay(database):
    made = prompts(linking=1, example_values=1, retrieved_values=1)
    text = user(made, Asked("How many countries are named Spain?"), database)
    assert text.splitlines()[:2] == [
        "country(code* ['ES'], name ['France'], \"official name\" ['Republic of France'])",
        "Values: country.name = 'Spain'",
    ]


def test_a_question_too_long_for_any_schema_is_dropped(database):
    assert prompts(linking="fit", max_length=400).token_ids(Asked("why " * 200), database) is None


def test_cold_start_and_grpo_see_the_same_prompt(database):
    catalogue = database.parent / "catalogue.jsonl"
    write_jsonl(catalogue, [Database("music", database.name, "test", "train", "")])
    questions = [Question("q", "music", "What is the capacity in Spain?", "SELECT 1", reasoning="One.")]
    made = prompts(linking="fit", max_length=420, retrieved_values=2)
    read = Catalogue(catalogue, database.parent)
    [taught], _ = encode(questions, read, made, "reasoning")
    [asked], _ = grpo_rows(questions, read, made)
    ids = asked["prompt_ids"]
    assert list(taught["input_ids"][: len(ids)]) == list(ids)
    assert ids == tiny_tokenizer().apply_chat_template(asked["prompt"], add_generation_prompt=True, return_dict=False)
    assert "Values: country.name = 'Spain'" in asked["prompt"][1]["content"]


def test_values_and_linking_load_nothing_unless_asked(database, monkeypatch):
    monkeypatch.setattr(prompts_module, "ValueIndex", None)
    monkeypatch.setattr(prompts_module, "Linker", None)
    assert prompts().token_ids(Asked("How many?"), database)
