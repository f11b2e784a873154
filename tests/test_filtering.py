"""Which rows are dropped, and why."""

import contextlib
import random
import shutil
import sqlite3
import tracemalloc
from collections import Counter
from dataclasses import replace

import pytest
import sqlglot
from music import DDL, FAILING, GOOD, row, write_database

from sqlr1.config import FilterRules
from sqlr1.data.filtering import REASONS, Benchmark, filter_rows
from sqlr1.data.mentions import unmentioned_value
from sqlr1.data.readers import read_questions
from sqlr1.data.similarity import QuestionIndex, sketches
from sqlr1.database.sql import normal_form, parse, to_sql, without_literals
from sqlr1.records import Question, RecordFile, write_jsonl
from sqlr1.sandbox import Executor, Limits

SLOW = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT COUNT(*) FROM n, singer"
WIDE = "SELECT COUNT(*) FROM singer"


# reason -> a row that is dropped for it, alone
CASES = {
    "not_parsed": row("SELECT FROM WHERE ("),
    "not_select": row("DELETE FROM singer"),
    "response_not_parsed": row("SELECT name FROM singer WHERE name <> '</answer>' -- ```"),
    "non_deterministic": row("SELECT name FROM singer ORDER BY RANDOM() LIMIT 1"),
    "contaminated_database": row("SELECT name FROM singer", db_id="held"),
    "contaminated_sql": row("SELECT T1.name FROM singer AS T1 WHERE T1.country = 'Spain'", "Who is Spanish? Spain"),
    "contaminated_question": row("SELECT age FROM singer", "How old are all the famous singers of the held database?"),
    "value_not_mentioned": row("SELECT name FROM singer WHERE country = 'France'", "Which singers are there?"),
    "failed": FAILING,
    "timed_out": row(SLOW),
    "too_large": row("SELECT a.name FROM singer a, singer b, singer c"),
    "no_gold": row("", "What?", wrong_sql="SELECT 1"),
    "empty": row("SELECT name FROM singer WHERE age > 99", "Who is above 99?"),
    "all_null": row("SELECT prize FROM singer"),
    "constant": row("SELECT COUNT(*) FROM singer WHERE age > 99", "How many above 99?"),
    "ties": row("SELECT name FROM singer ORDER BY age LIMIT 1"),
}
BENCHMARKED = [
    Question("b", "held", "Show the Spanish ones", "SELECT name FROM singer WHERE country = 'Spain'"),
    Question("c", "held", "How old are all the famous singers of the held database?", "SELECT 1"),
]
BENCHMARK = Benchmark.of(BENCHMARKED)


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    return write_database(tmp_path_factory.mktemp("filter") / "music.sqlite")


def run(rows, database, **rules):
    paths = {"music": database, "held": database}
    return filter_rows(rows, paths, BENCHMARK, FilterRules(**rules), Limits(seconds=0.5, rows=20), 1)


@pytest.mark.parametrize("reason", CASES)
def test_reason(reason, database):
    assert run([CASES[reason], GOOD], database) == [reason, None]


def test_duplicates_up_to_literals_and_aliases(database):
    first = row("SELECT name FROM singer WHERE age = 30", "Who is 30?", 1)
    same = row("SELECT T1.name FROM singer AS T1 WHERE T1.age = 50", "Name those of age 50", 2)
    assert run([first, same], database) == [None, "duplicate"]
    assert run([first, same], database, max_per_sql=2) == [None, None]


def test_near_duplicate_question(database):
    first = row("SELECT name FROM singer WHERE age = 30", "Show me the names of all singers who are 30 years of age", 1)
    near = row(
        "SELECT country FROM singer WHERE age = 30", "Show me the names of all singers who are 30 years of age!", 2
    )
    assert run([first, near], database) == [None, "near_duplicate"]


def test_similar_questions_are_found_from_the_threshold_on():
    rng = random.Random(0)
    pairs = []
    for _ in range(300):
        words = [f"w{rng.randrange(3000)}" for _ in range(rng.choice([12, 16, 24, 36]))]
        pairs.append(sketches([" ".join(words), " ".join([*words[rng.randrange(3) :], f"w{rng.randrange(3000)}"])]))
    found, wanted = [], []
    for first, second in pairs:
        index = QuestionIndex(0.9)
        index.add(first)
        found.append(index.has_similar(second))
        wanted.append(len(first.shingles & second.shingles) >= 0.9 * len(first.shingles | second.shingles))
    assert 50 < sum(wanted) < 250
    assert sum(a != b for a, b in zip(found, wanted, strict=True)) <= 1


def test_a_threshold_of_one_drops_equal_questions_only(database):
    first = row("SELECT name FROM singer", "Name all of the singers", 1)
    same, other = (
        row("SELECT age FROM singer", "name ALL of the singers?", 2),
        row("SELECT 2 * age FROM singer", "Ages", 3),
    )
    assert run([first, same, other], database, near_duplicate=1.0) == [None, "near_duplicate", None]


def test_a_benchmark_database_is_known_in_any_letter_case(database):
    benchmark = Benchmark.of([Question("b", "Held", "Which?", "SELECT 1")])
    held = row("SELECT name FROM singer", db_id="hELD")
    assert filter_rows([held], {"hELD": database}, benchmark, FilterRules(), Limits(), 1) == ["contaminated_database"]


def test_on_the_benchmarks_own_databases_only_its_questions_and_its_sql_up_to_literals_are_dropped(database):
    rows = [
        row("SELECT name FROM singer WHERE age = 30", "Who is 30?", 1, db_id="held"),
        row("SELECT T1.name FROM singer AS T1 WHERE T1.country = 'France'", "Who is French? France", 2, db_id="held"),
        replace(CASES["contaminated_question"], db_id="held"),
    ]
    paths = {"held": database}

    def reasons(benchmark):
        return filter_rows(rows, paths, benchmark, FilterRules(), Limits(), 1)

    assert reasons(Benchmark.of(BENCHMARKED)) == ["contaminated_database"] * 3
    assert reasons(Benchmark.of([], BENCHMARKED)) == [None, "contaminated_sql", "contaminated_question"]
    # Another benchmark over the same databases stays strict; one over others has its SQL with its literals.
    assert reasons(Benchmark.of(BENCHMARKED[:1], BENCHMARKED[1:])) == ["contaminated_database"] * 3
    elsewhere = [replace(q, db_id="elsewhere") for q in BENCHMARKED]
    assert reasons(Benchmark.of(elsewhere)) == [None, None, "contaminated_question"]


@pytest.mark.parametrize("style", ["human", "formal"])
def test_questions_from_elsewhere_may_say_values_in_their_own_words(database, style):
    given = row("SELECT name FROM singer WHERE country = 'France'", "Who is French?", style=style, template="")
    assert run([given], database) == [None]


def test_no_question_of_synsql_has_to_quote_its_values(data_root, database):
    rows = list(read_questions("synsql", data_root / "synsql/synsql_complex_500.jsonl"))
    reasons = filter_rows(rows, dict.fromkeys((r.db_id for r in rows), database), BENCHMARK, FilterRules(), Limits(), 1)
    assert "value_not_mentioned" not in reasons


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 1 FROM singer",
        "SELECT 'x' AS label FROM singer",
        "SELECT COUNT(*) = 3 FROM singer",
        "SELECT NOT EXISTS (SELECT name FROM singer) AS nobody FROM singer WHERE age = 50",
        "SELECT COUNT(*), SUM(age) FROM singer WHERE age > 99",
        "SELECT name, RANK() OVER (ORDER BY age) FROM singer WHERE age = 50",
        "SELECT country, 100.0 * COUNT(*) / SUM(COUNT(*)) OVER () FROM singer WHERE age = 50 GROUP BY country",
    ],
)
def test_results_that_say_nothing_of_the_tables_are_constant(database, sql):
    assert run([row(sql, "3, 50 or 99")], database) == ["constant"]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT name, 1 FROM singer",
        "SELECT age > 30 FROM singer",
        "SELECT 100.0 * SUM(age) / COUNT(*) FROM singer",
        "SELECT name FROM (SELECT name, RANK() OVER (ORDER BY age DESC) AS place FROM singer) WHERE place = 1",
        "SELECT DISTINCT MAX(age) OVER () FROM singer",
    ],
)
def test_results_of_columns_and_aggregates_are_not_constant(database, sql):
    assert run([row(sql, "30")], database) == [None]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT name FROM singer UNION SELECT country FROM singer LIMIT 1",
        "SELECT MAX(age) OVER () FROM singer LIMIT 1",
        "SELECT name FROM singer WHERE age = (SELECT age FROM singer LIMIT 1)",
        "SELECT date() FROM singer",
        "SELECT julianday(), name FROM singer",
        "SELECT strftime('%Y'), name FROM singer",
        "SELECT datetime('NOW', 'localtime') FROM singer",
    ],
)
def test_chance_clock_and_unordered_limits_are_not_deterministic(database, sql):
    assert run([row(sql)], database) == ["non_deterministic"]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT name FROM (SELECT name FROM singer ORDER BY age LIMIT 1)",
        "SELECT DISTINCT name FROM singer ORDER BY age LIMIT 1",
        "SELECT * FROM singer ORDER BY age LIMIT 1",
        "SELECT name, ROW_NUMBER() OVER (ORDER BY age) FROM singer",
        "SELECT name, SUM(singer_id) OVER (ORDER BY age ROWS UNBOUNDED PRECEDING) FROM singer",
        "SELECT name, COUNT(*) FROM singer GROUP BY country",
        "SELECT GROUP_CONCAT(name) FROM singer",
        "SELECT age + (SELECT singer_id FROM singer WHERE age = 30) FROM singer",
        "SELECT name FROM french ORDER BY age LIMIT 1",
        "SELECT age FROM singer WHERE name = (SELECT name FROM singer GROUP BY name ORDER BY COUNT(*) LIMIT 1)",
        "WITH s AS (SELECT * FROM singer) SELECT * FROM (SELECT name FROM s GROUP BY name ORDER BY MAX(age) LIMIT 1)",
    ],
)
def test_a_result_that_the_order_of_reading_decides_has_ties(database, sql):
    assert run([row(sql, "30?")], database) == ["ties"]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM singer ORDER BY age DESC LIMIT 1",
        "SELECT COUNT(*), MAX(age) FROM singer LIMIT 1",
        "SELECT name FROM (SELECT name FROM singer ORDER BY age LIMIT 2)",
        "SELECT singer_id, name, COUNT(*) FROM singer GROUP BY singer_id",
        "SELECT name, RANK() OVER (ORDER BY age) FROM singer",
        "SELECT name, ROW_NUMBER() OVER (ORDER BY age, name) FROM singer",
        "SELECT date(2451545, '+1 day') || name FROM singer",
    ],
)
def test_a_determined_result_is_kept(database, sql):
    assert run([row(sql)], database) == [None]


def test_a_gold_without_order_runs_once_on_the_database_and_once_backward(database, monkeypatch):
    asked, execute = [], Executor.execute
    monkeypatch.setattr(Executor, "execute", lambda self, queries: asked.extend(queries) or execute(self, queries))
    assert run([row("SELECT singer_id, name, COUNT(*) FROM singer GROUP BY singer_id")], database) == [None]
    assert [query.database == database for query in asked] == [True, False]


def test_golds_of_people_whose_limit_depends_on_a_tie_are_dropped(database):
    tied = "SELECT name FROM singer GROUP BY name ORDER BY MAX(age) LIMIT 1"
    golds = [row(sql, f"Question {sql}", style="human", template="") for sql in (tied, tied.removesuffix(" LIMIT 1"))]
    assert run(golds, database) == ["ties", None]


def test_a_database_with_collations_is_not_read_backwards(tmp_path):
    path = tmp_path / "music.sqlite"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript(
            DDL + "CREATE TABLE word (w TEXT COLLATE NOCASE); INSERT INTO word VALUES ('a'), ('A'), ('b');"
        )
    folded = "SELECT w, COUNT(*) FROM word GROUP BY w ORDER BY COUNT(*) DESC LIMIT 1"
    assert run([row(folded, style="human", template="")], path) == [None]


def test_star_has_no_ties_of_its_own(database):
    star = row("SELECT * FROM singer ORDER BY age", "Show everything about all singers, sorted by age")
    assert run([star], database) == [None]


def test_every_reason_has_its_case():
    assert set(REASONS) - set(CASES) == {"duplicate", "near_duplicate", "over_quota", "undetermined"}


def test_a_gold_that_fails_or_has_ties_on_an_instance_is_undetermined(tmp_path):
    path = write_database(tmp_path / "music.sqlite")
    folder = tmp_path / "music"
    folder.mkdir()
    shutil.copy2(path, folder / "music.sqlite")
    with contextlib.closing(sqlite3.connect(shutil.copy2(path, folder / "music_1.sqlite"))) as connection:
        connection.execute("UPDATE singer SET age = 30")
        connection.execute("ALTER TABLE singer DROP COLUMN prize")
        connection.commit()
    oldest = row("SELECT name FROM singer ORDER BY age DESC LIMIT 1", "The oldest", style="human", template="")
    listed = row("SELECT name FROM singer ORDER BY age", "All by age, please", style="human", template="")
    failing = row("SELECT COUNT(*), COUNT(prize) FROM singer", "How many prizes?")
    rows = [oldest, listed, failing]
    assert run(rows, folder / "music.sqlite") == [None] * 3
    assert run(rows, folder / "music.sqlite", instances=True) == ["undetermined", None, "undetermined"]
    assert run(rows, path, instances=True) == [None] * 3


@pytest.mark.parametrize(
    ("sql", "reason"),
    [
        (
            "SELECT age, (SELECT name FROM singer WHERE country = s.country ORDER BY singer_id LIMIT 1) FROM singer s",
            None,
        ),
        (
            "SELECT age, (SELECT name FROM singer WHERE country = s.country ORDER BY age LIMIT 1) FROM singer s",
            "undetermined",
        ),
        ("SELECT name FROM singer UNION SELECT country FROM singer ORDER BY name LIMIT 2", None),
        ("SELECT DISTINCT country FROM singer ORDER BY country LIMIT 1", "undetermined"),
    ],
)
def test_ties_on_an_instance_are_seen_in_correlated_subqueries_and_set_operations(tmp_path, sql, reason):
    """With DISTINCT outside they cannot be seen: the sort key may be a column that DISTINCT merges."""
    folder = tmp_path / "music"
    folder.mkdir()
    path = write_database(folder / "music.sqlite")
    for file, change in ((path, "age = 30 + singer_id"), (shutil.copy2(path, folder / "music_1.sqlite"), "age = 30")):
        with contextlib.closing(sqlite3.connect(file)) as connection, connection:
            connection.execute(f"UPDATE singer SET {change}")
    gold = row(sql, style="human", template="")
    assert run([gold], path) == [None]
    assert run([gold], path, instances=True) == [reason]


@pytest.fixture
def mixed(tmp_path):
    """A file of rows over two databases in turn, some of them repetitions."""
    rows = [*CASES.values(), GOOD]
    rows = [replace(r, db_id=name) for r in rows for name in ("music", "other") if r.db_id == "music"] * 2
    write_jsonl(tmp_path / "mixed.jsonl", rows)
    return RecordFile(tmp_path / "mixed.jsonl", Question)


def test_reasons_depend_neither_on_processes_nor_on_batches_nor_on_the_order_of_databases(mixed, database, monkeypatch):
    paths, limits = {"music": database, "other": database}, Limits(seconds=0.5, rows=20)
    alone = filter_rows(list(mixed), paths, BENCHMARK, FilterRules(), limits, 1)
    assert set(alone) == {None, "duplicate", *CASES} - {"contaminated_database"}
    monkeypatch.setattr("sqlr1.data.filtering._BATCH", 2)
    assert filter_rows(mixed, paths, BENCHMARK, FilterRules(), limits, 1) == alone
    monkeypatch.setattr("sqlr1.data.filtering.WORTH_A_PROCESS", 0)
    assert filter_rows(mixed, paths, BENCHMARK, FilterRules(), limits, 2) == alone
    by_database = sorted(mixed, key=lambda r: r.db_id)
    assert Counter(filter_rows(by_database, paths, BENCHMARK, FilterRules(), limits, 1)) == Counter(alone)


def test_the_rows_of_a_file_are_never_all_in_memory(database, tmp_path):
    write_jsonl(tmp_path / "long.jsonl", (row("DELETE FROM singer", "long " * 2000, n) for n in range(3000)))
    tracemalloc.start()
    reasons = filter_rows(
        RecordFile(tmp_path / "long.jsonl", Question), {"music": database}, BENCHMARK, FilterRules(), Limits(), 1
    )
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert set(reasons) == {"not_select"}
    assert peak < 15e6  # of 30 MB


@pytest.mark.parametrize(
    ("first", "second", "equal"),
    [
        ("SELECT a FROM t WHERE b = 1", "select T1.a from T as T1 where T1.b = 2", True),
        ("SELECT T1.a FROM t AS T1", "SELECT x.a FROM t AS x", True),
        ("SELECT a FROM t WHERE b = 'x'", "SELECT a FROM t WHERE b = 'y'", True),
        ("SELECT a FROM t WHERE b = 1", "SELECT a FROM t WHERE b > 1", False),
        (
            "SELECT T1.a, T2.a FROM t T1 JOIN t T2 ON T1.x = T2.y",
            "SELECT A.a, B.a FROM t A JOIN t B ON A.x = B.y",
            True,
        ),
        ("SELECT T1.a FROM t T1 JOIN t T2 ON T1.x = T2.y", "SELECT T2.a FROM t T1 JOIN t T2 ON T1.x = T2.y", False),
        ("SELECT COUNT(*) AS n FROM t", "SELECT COUNT(*) AS total FROM t", True),
    ],
)
def test_normal_form(first, second, equal):
    forms = [without_literals(normal_form(sqlglot.parse_one(sql, read="sqlite"))) for sql in (first, second)]
    assert (forms[0] == forms[1]) == equal


@pytest.mark.parametrize(
    "condition",
    [
        "a NOT IN banned",
        "a NOT IN main.banned",
        "a NOT IN (SELECT x FROM banned)",
        "\"PRICE IN (EUR)\" NOT IN ('x')",
        "CASE WHEN a IN (1, 2) THEN 1 ELSE 0 END NOT IN (0, 1)",
        "a IN (2) NOT IN (0, 1)",
        "a NOT BETWEEN 1 AND 1 = 5",
        "a NOT GLOB 1 = 5",
        "a NOT LIKE 1 = 5",
        "NOT a IS NOT 1",
    ],
)
def test_a_negation_stays_where_it_is(condition):
    sql = f"SELECT a FROM t WHERE {condition}"
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(
            'CREATE TABLE t (a, "PRICE IN (EUR)"); CREATE TABLE banned (x); INSERT INTO banned VALUES (1);'
            "INSERT INTO t VALUES (1, 'x'), (2, 'y'), (3, 'x')"
        )
        rows = connection.execute(sql).fetchall()
        assert len(rows) < 3
        assert connection.execute(to_sql(parse(sql)[0])).fetchall() == rows


def test_values_may_be_mentioned_in_the_evidence():
    question = row("SELECT a FROM t WHERE b > 12.5", "The large ones", evidence='"large" means b > 12.5')
    assert unmentioned_value(question, sqlglot.parse_one(question.sql)) is None
    assert (
        unmentioned_value(
            row("SELECT a FROM t WHERE b = 3", "at least 35"), sqlglot.parse_one("SELECT a FROM t WHERE b = 3")
        )
        == "3"
    )


@pytest.mark.parametrize(
    ("sql", "text", "unsaid"),
    [
        ("SELECT name FROM singer WHERE country = 'F'", "Which singers are good for us?", "F"),
        ("SELECT name FROM singer WHERE country = 'F'", 'Singers of country "F"?', None),
        ("SELECT name FROM singer WHERE kind = 'dog'", "How heavy are the dogs?", None),
        ("SELECT name FROM singer WHERE kind = 'dog'", "Which of the dogmas?", "dog"),
        ("SELECT name FROM singer WHERE name LIKE '%ann%lee%'", 'Names with "Ann" and then "Lee"', None),
        ("SELECT name FROM singer WHERE name LIKE '%ann%lee%'", 'Names with "Ann"', "%ann%lee%"),
        ("SELECT name FROM singer WHERE age = 30", "Who has 30.75 euros?", "30"),
        ("SELECT name FROM singer WHERE age = 30", "Who is 30.", None),
        ("SELECT name FROM singer WHERE age = 30", "Who is 30.0?", None),
        ("SELECT name FROM singer WHERE age > -5", "Who is above -5?", None),
        ("SELECT SUM(CASE WHEN age > 30 THEN 1 ELSE 0 END) FROM singer", "How many are old?", "30"),
        ("SELECT SUM(CASE WHEN age > 30 THEN 1 ELSE 0 END) FROM singer", "How many are above 30?", None),
        ("SELECT a.name FROM singer a JOIN singer b ON a.age = b.age AND b.name = 'Bo'", "Who is as old?", "Bo"),
    ],
)
def test_values_are_mentioned_as_words_of_their_own(sql, text, unsaid):
    assert unmentioned_value(row(sql, text), sqlglot.parse_one(sql, read="sqlite")) == unsaid


def test_real_benchmark_rows_are_found_contaminated(data_root, database):
    dev = list(read_questions("spider", data_root / "spider/dev.json"))
    benchmark = Benchmark.of(dev)
    leaked = [Question(**{**vars(q), "db_id": "music", "style": "human"}) for q in dev[:50]]
    reasons = filter_rows(leaked, {"music": database}, benchmark, FilterRules(), Limits(), 1)
    assert set(reasons) <= {"contaminated_sql", "contaminated_question"}
