"""Constrained answers: what the grammar of a database accepts, and what can be drawn under it."""

import json
import random
import sqlite3
from contextlib import closing

import llguidance
import pytest
import torch
from tiny_models import tiny_model, tiny_tokenizer

from sqlr1.model.constraint import Grammars, unpacked
from sqlr1.model.sampler import GREEDY, Sampling, sample
from sqlr1.prompt import format_response, parse_response

TOKENIZER = tiny_tokenizer()
DDL = """
CREATE TABLE singer (singer_id INTEGER PRIMARY KEY, name TEXT, "birth place" TEXT, "order" INTEGER);
CREATE TABLE concert (concert_id INTEGER PRIMARY KEY, singer_id INTEGER REFERENCES singer, year INTEGER);
CREATE TABLE hall (hall_id INTEGER PRIMARY KEY, seats INTEGER);
"""
BEGUN = "<think></think><answer>```sql\nSELECT "


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    path = tmp_path_factory.mktemp("database") / "music.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(DDL)
    return path


@pytest.fixture(scope="module")
def grammars():
    return Grammars(TOKENIZER, tiny_model(), [2])


def ids(text):
    return TOKENIZER(text, add_special_tokens=False)["input_ids"]


def accepted(grammars, database, text):
    """How many characters of a response are allowed, and whether it may then end."""
    matcher = grammars.over([database], [[0]])._matchers[0]
    taken = matcher.try_consume_tokens(ids(text))
    return taken, matcher.is_accepting()


def accepts(grammars, database, sql):
    text = format_response("", sql)
    return accepted(grammars, database, text) == (len(ids(text)), True)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT name FROM singer",
        "select Name, COUNT(*) from SINGER where \"birth place\" = 'it''s' group by name having count(*) > 1",
        'SELECT "order" FROM singer ORDER BY `order` DESC LIMIT 3 OFFSET 1',
        "SELECT T1.name FROM singer AS T1 JOIN concert AS T2 ON T1.singer_id = T2.singer_id WHERE T2.year > 2000",
        "SELECT name FROM singer AS T1 WHERE EXISTS (SELECT * FROM concert AS T2 WHERE T2.singer_id = T1.singer_id)",
        "SELECT name FROM singer WHERE singer_id NOT IN (SELECT singer_id FROM concert)",
        "SELECT T1.year FROM concert AS T1 JOIN hall AS T2 ON T1.year = T2.seats",
    ],
)
def test_sql_over_the_schema_is_accepted(grammars, database, sql):
    assert accepts(grammars, database, sql)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT nom FROM singer",
        "SELECT name FROM singers",
        "SELECT seats FROM singer",  # a column of another table
        "SELECT name FROM concert AS T1 JOIN singer AS T2 ON T1.singer_id = T2.hall_id",
        "SELECT T1.year FROM singer AS T1 JOIN concert AS T2 ON T1.singer_id = T2.singer_id",
        "SELECT name FROM singer WHERE COUNT(*) > 1",
        "SELECT name FROM singer WHERE singer_id IN (SELECT singer_id, year FROM concert)",
        "SELECT name, singer_id FROM singer UNION SELECT year FROM concert",
        "DELETE FROM singer",
        "SELECT name FROM singer; SELECT 1",
    ],
)
def test_sql_that_names_anything_else_or_cannot_run_is_not(grammars, database, sql):
    assert not accepts(grammars, database, sql)


@pytest.fixture
def made(tmp_path):
    """From DDL to the path of a database."""

    def make(ddl):
        path = tmp_path / "made.sqlite"
        with closing(sqlite3.connect(path)) as connection:
            connection.executescript(ddl)
        return path

    return make


FLIGHTS = """
CREATE TABLE airport (code TEXT PRIMARY KEY, city TEXT);
CREATE TABLE flight (number INTEGER PRIMARY KEY, source TEXT REFERENCES airport, target TEXT REFERENCES airport);
CREATE TABLE airline (airline_id INTEGER PRIMARY KEY, hub TEXT REFERENCES airport);
CREATE TABLE crew (crew_id INTEGER PRIMARY KEY, employer INTEGER REFERENCES airline);
CREATE TABLE pilot (pilot_id INTEGER PRIMARY KEY, member INTEGER REFERENCES crew, teacher INTEGER REFERENCES pilot);
"""
FLIGHT = "FROM flight AS T1 JOIN airport AS T2 ON T1.source = T2.code"
HOME = "FROM crew AS T1 JOIN airline AS T2 ON T1.employer = T2.airline_id JOIN airport AS T3 ON T2.hub = T3.code"
TO = "JOIN flight AS T4 ON T4.source = T3.code"


def test_joins_follow_the_keys_and_each_column_is_of_its_table(grammars, made):
    path = made(FLIGHTS)
    for sql in (
        f"SELECT T2.city {FLIGHT}",
        f"SELECT T1.number {FLIGHT} JOIN airport AS T3 ON T1.target = T3.code WHERE T3.city = 'Bern'",
        "SELECT T1.city, T3.city FROM airport AS T1 JOIN flight AS T2 ON T1.code = T2.source "
        "JOIN airport AS T3 ON T2.target = T3.code",
        f"SELECT T1.crew_id, T3.city {HOME}",
        f"SELECT T1.crew_id, T4.number {HOME} {TO}",
        f"SELECT T1.crew_id, T5.pilot_id {HOME} {TO} JOIN pilot AS T5 ON T5.member = T1.crew_id",
        "SELECT T3.pilot_id FROM crew AS T1 JOIN pilot AS T2 ON T2.member = T1.crew_id "
        "JOIN pilot AS T3 ON T2.teacher = T3.pilot_id",
    ):
        assert accepts(grammars, path, sql), sql
    for sql in (
        f"SELECT T1.city {FLIGHT}",
        f"SELECT T1.city {HOME}",
        f"SELECT T1.city {HOME} {TO}",
        f"SELECT T1.city {HOME} {TO} JOIN pilot AS T5 ON T5.member = T1.crew_id",
        f"SELECT T1.crew_id {HOME} JOIN airline AS T4 ON T4.hub = T3.code",  # one key leads there, and T2 has it
        "SELECT T1.crew_id FROM crew AS T1 JOIN flight AS T2 ON T1.employer = T2.number",  # no key leads there
    ):
        assert not accepts(grammars, path, sql), sql


def test_joins_follow_shared_names_and_take_tables_that_nothing_links(grammars, made):
    path = made(
        "CREATE TABLE song (song_id, title); CREATE TABLE voice (song_id, band_id); CREATE TABLE band (band_id, town);"
        "CREATE TABLE award (year, winner);"
    )
    sung = "FROM song AS T1 JOIN voice AS T2 ON T1.song_id = T2.song_id"
    for sql in (
        f"SELECT T1.title {sung}",
        f"SELECT T1.title, T3.town {sung} JOIN band AS T3 ON T2.band_id = T3.band_id",
        f"SELECT T3.year {sung} JOIN award AS T3 ON T3.winner = T1.title",
        "SELECT T2.town FROM award AS T1 JOIN band AS T2 ON T1.winner = T2.town",
    ):
        assert accepts(grammars, path, sql), sql
    for sql in (f"SELECT T1.town {sung}", "SELECT T1.title FROM song AS T1 JOIN band AS T2 ON T1.title = T2.town"):
        assert not accepts(grammars, path, sql), sql


def test_a_word_that_sqlite_takes_as_a_name_needs_no_quotes(grammars, made):
    path = made('CREATE TABLE list (range INTEGER, "order" INTEGER)')
    assert accepts(grammars, path, "SELECT range FROM list")
    assert accepts(grammars, path, 'SELECT "range", "order" FROM "list"')
    assert not accepts(grammars, path, "SELECT order FROM list")


def test_a_response_has_each_tag_once(grammars, database):
    for text in ("<think>a <answer>", "<think>a <think>", "SELECT", "<think></think>SELECT"):
        assert accepted(grammars, database, text)[0] < len(ids(text))
    assert accepts(grammars, database, "SELECT name FROM singer")
    text = format_response("One < two, so `singer`.\nThen count.", "SELECT COUNT(*) FROM singer")
    assert accepted(grammars, database, text) == (len(ids(text)), True)


def test_nearly_all_golds_of_spider_are_accepted(grammars, data_root):
    rows = json.loads((data_root / "spider/dev.json").read_text())[::10]
    folder = data_root / "spider/database"
    refused = [
        row["query"]
        for row in rows
        if not accepts(grammars, folder / row["db_id"] / f"{row['db_id']}.sqlite", row["query"])
    ]
    assert len(refused) <= 2


def drawn_at_random(grammars, database, seed, most=400):
    """A response of tokens drawn from what is allowed; None if it does not end.

    Strings, names and numbers end soon and brackets are rare: most of what is drawn would else never end.
    """
    rng, constraint = random.Random(seed), grammars.over([database], [[0]])
    row, text = torch.tensor([0]), ids(BEGUN)
    for token in text:
        constraint.take(row, torch.tensor([token]))
    rare = {*ids("(+-*/|%")}
    ends = {*ids("'\" ,)`\n")}
    for _ in range(most):
        allowed = constraint.masked(torch.zeros(1, 259), row)[0].isfinite().nonzero().flatten().tolist()
        if allowed == [2]:
            return parse_response(TOKENIZER.decode(text))
        if rng.random() < 0.95:
            allowed = [token for token in allowed if token not in rare] or allowed
        if rng.random() < 0.5:
            allowed = [token for token in allowed if token in ends] or allowed
        token = rng.choice(allowed)
        text.append(token)
        constraint.take(row, torch.tensor([token]))
    return None


def test_what_is_drawn_at_random_parses_and_names_nothing_that_is_not_there(grammars, database):
    """30 s: 200 walks through the grammar, byte by byte."""
    ended, wrong = 0, []
    with closing(sqlite3.connect(database)) as connection:
        for seed in range(200):
            response = drawn_at_random(grammars, database, seed)
            if response is None or "with" in response.sql.lower():
                continue
            assert response.well_formed
            ended += 1
            try:
                connection.execute(response.sql).fetchmany(5)
            except sqlite3.Error as error:
                wrong.append((str(error), response.sql))
    assert ended > 50
    nested = ("join", "from(", "from (")
    simple = [(error, sql) for error, sql in wrong if not any(word in sql.lower() for word in nested)]
    assert not [pair for pair in wrong if "syntax" in pair[0]]
    assert not [pair for pair in simple if "no such" in pair[0]]


def test_a_schema_of_two_hundred_tables_has_a_grammar(grammars, tmp_path):
    """Each table below the limit has columns of its own; beyond it, those of any table of the database."""
    path = tmp_path / "wide.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        for t in range(200):
            parent = f", parent INTEGER REFERENCES t{t - 1}(id{t - 1})" if t else ""
            connection.execute(f"CREATE TABLE t{t} (id{t} INTEGER PRIMARY KEY, c{t} TEXT{parent})")
    for sql in (
        "SELECT c3 FROM t3 WHERE parent > 2",
        "SELECT c199 FROM t199 ORDER BY id199",
        "SELECT T1.c199 FROM t199 AS T1",
        "SELECT T1.c3 FROM t3 AS T1 JOIN t199 AS T2 ON T1.id3 = T2.parent JOIN t7 AS T3 ON T2.id199 = T3.id7",
    ):
        assert accepts(grammars, path, sql), sql
    assert not accepts(grammars, path, "SELECT c199 FROM t3")
    assert not accepts(grammars, path, "SELECT c3 FROM t200")
    assert not accepts(grammars, path, "SELECT missing FROM t199")


@pytest.mark.parametrize(
    "links",
    [
        "",
        pytest.param(", id INTEGER", marks=pytest.mark.slow),
        # From 500 on each refers to itself.
        pytest.param(", k{t} INTEGER REFERENCES t{half}(c{half})", marks=pytest.mark.slow),
        ", k{t} REFERENCES t{next}(c{next}), l{t} REFERENCES t{far}(c{far}), m{t} REFERENCES t{further}(c{further})",
    ],
    ids=["none", "a name", "half", "many"],
)
def test_however_many_tables_are_linked_some_joins_have_columns_of_their_own(grammars, made, links):
    """A thousand tables, because llguidance takes so many symbols and no more."""
    tables = [
        (t, links.format(t=t, next=(t + 1) % 1000, half=t + (t < 500), far=t * 7 % 1000, further=t * 11 % 1000))
        for t in range(1000)
    ]
    path = made(";".join(f"CREATE TABLE t{t} (c{t} TEXT{link})" for t, link in tables))
    joined = "FROM t0 AS T1 JOIN t1 AS T2 ON T1.c0 = T2.c1"
    assert accepts(grammars, path, f"SELECT T1.c0, T2.c1 {joined}")
    assert accepts(grammars, path, f"SELECT T1.c0, T3.c2 {joined} JOIN t2 AS T3 ON T3.c2 = T2.c1 OR T3.c2 = T1.c0")
    assert not accepts(grammars, path, f"SELECT T1.c1 {joined}")
    assert not accepts(grammars, path, f"SELECT T2.c700 {joined}")


def test_an_answer_whose_parser_gives_up_ends_there(database, monkeypatch, caplog):
    monkeypatch.setattr("sqlr1.model.constraint._LIMITS", llguidance.LLParserLimits(step_max_items=300))
    starved = Grammars(TOKENIZER, tiny_model(), [2]).over([database], [[0]])
    row = torch.tensor([0])
    for token in ids(BEGUN + "name a"):
        starved.masked(torch.zeros(1, 259), row)
        starved.take(row, torch.tensor([token]))
    allowed = starved.masked(torch.zeros(1, 259), row)[0].isfinite().nonzero().flatten().tolist()
    assert allowed == [2]
    assert f"{database}: an answer has to end" in caplog.text


def test_the_sampler_draws_only_what_is_allowed_and_ends_after_it(grammars, database):
    """A model of random weights cannot but follow the tags; without the constraint it does not."""
    model = tiny_model(seed=1)
    prompts, seeds = [ids("How many?"), ids("Names?")], [[GREEDY, 1], [2]]
    free = sample(model, prompts, seeds, Sampling(30), [2])
    constraint = grammars.over([database, database], seeds)
    drawn = sample(model, prompts, seeds, Sampling(30), [2], constraint)
    for row, tokens in enumerate(tokens for group in drawn for tokens in group):
        assert TOKENIZER.decode(tokens).startswith("<think>")
        masks = unpacked(torch.stack([torch.from_numpy(mask) for mask in constraint.used[row]]), 259)
        assert masks[range(len(tokens)), tokens].all()
    assert not any(TOKENIZER.decode(tokens).startswith("<think>") for group in free for tokens in group)
