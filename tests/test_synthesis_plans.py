"""SQL written from plans: the right rows on a small database, and words that ask for them."""

import random
import sqlite3

import pytest
import sqlglot

from sqlgen.english import Speaker, plain
from sqlgen.query_plan import Filter, Join, Measure, QueryPlan, Ref, SortKey
from sqlgen.shapes.catalogue import sql_of, wording_of
from sqlgen.shapes.computed import by_year_plan, every_year_plan, percentage_plan, ranges_plan, ratio_plan
from sqlgen.shapes.cte import (
    descendants_plan,
    most_frequent_among_plan,
    most_frequent_in_plan,
    two_counts_plan,
    two_kinds_plan,
)
from sqlgen.shapes.groups import (
    best_of_group_plan,
    distance_plan,
    group_above_plan,
    group_ranking_plan,
    group_share_plan,
    ranking_plan,
)
from sqlgen.shapes.joined import count_with_zero_plan, pairs_plan
from sqlgen.shapes.nested import above_own_group_plan, existence_plan, set_plan
from sqlgen.speakable import SpeakableDatabase
from sqlr1.data.reasoning import trace
from sqlr1.database.profile import read_profile
from sqlr1.database.schema import ForeignKey
from sqlr1.database.sql import sql_class, to_sql

DDL = """
CREATE TABLE singer (singer_id INTEGER PRIMARY KEY, name TEXT, country TEXT, age INTEGER, born DATE, mentor_id INTEGER,
  FOREIGN KEY (mentor_id) REFERENCES singer (singer_id));
CREATE TABLE song (song_id INTEGER PRIMARY KEY, title TEXT, singer_id INTEGER, year INTEGER, sales REAL,
  FOREIGN KEY (singer_id) REFERENCES singer (singer_id));
CREATE TABLE award (award_id INTEGER PRIMARY KEY, singer_id INTEGER, prize TEXT,
  FOREIGN KEY (singer_id) REFERENCES singer (singer_id));
INSERT INTO singer VALUES (1,'Ann','France',30,'1990-05-01',NULL), (2,'Bo','France',40,'1980-02-03',1),
  (3,'Cy','Spain',50,'1970-03-04',2), (4,'Di','Spain',20,'2000-04-05',NULL), (5,'Ed','Japan',60,'1960-09-09',1);
INSERT INTO song VALUES (1,'Sun',1,2001,10.0), (2,'Moon',1,2003,30.0), (3,'Star',2,2003,20.0), (4,'Sea',3,2005,5.0);
INSERT INTO award VALUES (1,1,'gold'), (2,2,'gold'), (3,2,'silver');
"""
SINGER = QueryPlan(("singer",), (Ref(0, "name"),))
SONG_KEY = ForeignKey("song", "singer_id", "singer", "singer_id")
AWARD_KEY = ForeignKey("award", "singer_id", "singer", "singer_id")
UP = (Join(Ref(0, "singer_id"), Ref(1, "singer_id"), up=True),)
COUNT = Measure("count")
AGE, COUNTRY = Ref(0, "age"), Ref(0, "country")

BY_COUNTRY = QueryPlan(("singer",), (COUNTRY,), group=(COUNTRY,))
BY_SINGER = QueryPlan(("song", "singer"), (Ref(1, "name"),), UP, group=(Ref(1, "singer_id"),))


def where(*filters, **changes):
    return SINGER.with_(filters=filters, **changes)


def countries(op, age):
    return where(Filter(AGE, op, age), outputs=(COUNTRY,))


def singing_in(year):
    down = (Join(Ref(0, "singer_id"), Ref(1, "singer_id"), up=False),)
    return QueryPlan(("singer", "song"), SINGER.outputs, down, (Filter(Ref(1, "year"), "=", year),))


CASES = {
    "equality": (where(Filter(COUNTRY, "=", "Spain")), [("Cy",), ("Di",)]),
    "range": (where(Filter(AGE, "between", (30, 50))), [("Ann",), ("Bo",), ("Cy",)]),
    "in": (where(Filter(COUNTRY, "in", ("Japan", "Spain"))), [("Cy",), ("Di",), ("Ed",)]),
    "not in": (where(Filter(COUNTRY, "not_in", ("Japan", "Spain"))), [("Ann",), ("Bo",)]),
    "like": (where(Filter(COUNTRY, "contains", "pa")), [("Cy",), ("Di",), ("Ed",)]),
    "prefix": (where(Filter(COUNTRY, "prefix", "F")), [("Ann",), ("Bo",)]),
    "null": (where(Filter(Ref(0, "mentor_id"), "null")), [("Ann",), ("Di",)]),
    "year of date": (where(Filter(Ref(0, "born"), "year", "1980")), [("Bo",)]),
    "or": (where(Filter(AGE, ">", 50), Filter(AGE, "<", 25), any_of=True), [("Di",), ("Ed",)]),
    "distinct": (SINGER.with_(outputs=(COUNTRY,), distinct=True), [("France",), ("Japan",), ("Spain",)]),
    "order and limit": (SINGER.with_(order=(SortKey(AGE, True),), limit=2), [("Ed",), ("Cy",)]),
    "count distinct": (SINGER.with_(outputs=(Measure("count", COUNTRY, distinct=True),)), [(3,)]),
    "aggregates": (SINGER.with_(outputs=(Measure("avg", AGE), Measure("max", AGE))), [(40.0, 60)]),
    "group having": (
        SINGER.with_(outputs=(COUNTRY,), group=(COUNTRY,), having=(Filter(COUNT, ">=", 2),)),
        [("France",), ("Spain",)],
    ),
    "join group top": (
        QueryPlan(
            ("song", "singer"),
            (Ref(1, "name"), COUNT),
            UP,
            group=(Ref(1, "singer_id"),),
            order=(SortKey(COUNT, True),),
            limit=1,
        ),
        [("Ann", 2)],
    ),
    "two hops": (
        QueryPlan(
            ("song", "singer", "singer"),
            (Ref(0, "title"), Ref(2, "name")),
            (*UP, Join(Ref(1, "mentor_id"), Ref(2, "singer_id"), up=True)),
        ),
        [("Sea", "Bo"), ("Star", "Ann")],
    ),
    "above average": (
        where(Filter(AGE, ">", QueryPlan(("singer",), (Measure("avg", AGE),)))),
        [("Cy",), ("Ed",)],
    ),
    "extreme": (where(Filter(AGE, "=", QueryPlan(("singer",), (Measure("min", AGE),)))), [("Di",)]),
    "without children": (
        where(Filter(Ref(0, "singer_id"), "not_in", QueryPlan(("song",), (Ref(0, "singer_id"),)))),
        [("Di",), ("Ed",)],
    ),
    "exists": (existence_plan(SINGER, AWARD_KEY, Filter(Ref(0, "prize"), "=", "silver"), False), [("Bo",)]),
    "not exists": (existence_plan(SINGER, AWARD_KEY, None, True), [("Cy",), ("Di",), ("Ed",)]),
    "intersect": (
        set_plan("values", countries(">", 35), "intersect", countries("<", 35)),
        [("France",), ("Spain",)],
    ),
    "except": (
        set_plan("values", SINGER.with_(outputs=(COUNTRY,)), "except", countries("<", 35)),
        [("Japan",)],
    ),
    "union": (
        set_plan("values", countries(">", 55), "union", countries("<", 35)),
        [("France",), ("Japan",), ("Spain",)],
    ),
    "percentage": (percentage_plan(where(Filter(COUNTRY, "=", "France")), None), [(40.0,)]),
    "percentage by group": (
        percentage_plan(where(Filter(AGE, ">", 35)), COUNTRY),
        [("France", 50.0), ("Japan", 100.0), ("Spain", 50.0)],
    ),
    "ratio": (ratio_plan(where(Filter(COUNTRY, "=", "France")), Filter(COUNTRY, "=", "Japan")), [(2.0,)]),
    "ranges": (ranges_plan(QueryPlan(("singer",), ()), AGE, 30, 50), [("high", 2), ("low", 1), ("medium", 2)]),
    "best of group": (
        best_of_group_plan(SINGER, COUNTRY, AGE, 1, True),
        [("France", "Bo"), ("Japan", "Ed"), ("Spain", "Cy")],
    ),
    "ranking": (
        ranking_plan(SINGER, AGE, COUNTRY, False),
        [("Ann", 1), ("Bo", 2), ("Cy", 2), ("Di", 1), ("Ed", 1)],
    ),
    "distance": (
        distance_plan(SINGER, AGE, COUNTRY),
        [("Ann", -5.0), ("Bo", 5.0), ("Cy", 15.0), ("Di", -15.0), ("Ed", 0.0)],
    ),
    "by year": (
        by_year_plan(QueryPlan(("singer",), ()), Ref(0, "born"), True, None, "count"),
        [("1960", 1), ("1970", 1), ("1980", 1), ("1990", 1), ("2000", 1)],
    ),
    "running total": (
        by_year_plan(QueryPlan(("song",), ()), Ref(0, "year"), False, Ref(0, "sales"), "running"),
        [(2001, 10.0), (2003, 60.0), (2005, 65.0)],
    ),
    "change": (
        by_year_plan(QueryPlan(("song",), ()), Ref(0, "year"), False, None, "change"),
        [(2001, None), (2003, 1), (2005, -1)],
    ),
    "group above average": (
        group_above_plan("group_above_average", BY_COUNTRY, Measure("avg", AGE), True, True),
        [("Japan", 60.0)],
    ),
    "two counts": (two_counts_plan(SINGER, SONG_KEY, AWARD_KEY, True), [("Ann", 2, 1)]),
    "most frequent": (most_frequent_among_plan(SINGER, COUNTRY), [("Ann",), ("Bo",), ("Cy",), ("Di",)]),
    "descendants": (
        descendants_plan(SINGER, ForeignKey("singer", "mentor_id", "singer", "singer_id"), "Ann"),
        [("Bo",), ("Cy",), ("Ed",)],
    ),
    "every year": (
        every_year_plan(QueryPlan(("song",), ()), Ref(0, "year"), False, 2002, 2004),
        [(2002, 0), (2003, 2), (2004, 0)],
    ),
    "above own group": (above_own_group_plan(SINGER, AGE, COUNTRY, True), [("Bo",), ("Cy",)]),
    "pairs": (pairs_plan(SINGER, COUNTRY, Ref(0, "singer_id")), [("Ann", "Bo"), ("Cy", "Di")]),
    "left join": (
        count_with_zero_plan(SINGER, AWARD_KEY, None),
        [("Ann", 1), ("Bo", 2), ("Cy", 0), ("Di", 0), ("Ed", 0)],
    ),
}

HIGHLY_COMPLEX = {
    "both but not": (
        set_plan("values", countries(">", 35), "intersect", countries("<", 35), "except", countries("<", 25)),
        [("France",)],
    ),
    "neither nor": (
        set_plan("values", countries(">", 0), "except", countries(">", 55), "except", countries("<", 25)),
        [("France",)],
    ),
    "all three": (
        set_plan("values", countries(">", 35), "intersect", countries("<", 35), "intersect", countries("<", 25)),
        [("Spain",)],
    ),
    "parents of three kinds": (
        set_plan("entities", singing_in(2003), "except", singing_in(2005), "except", singing_in(2001)),
        [("Bo",)],
    ),
    "best of the chosen": (
        best_of_group_plan(where(Filter(AGE, "<", 50)), COUNTRY, AGE, 1, True),
        [("France", "Bo"), ("Spain", "Di")],
    ),
    "running total of the chosen": (
        by_year_plan(
            QueryPlan(("song",), (), filters=(Filter(Ref(0, "sales"), ">", 9),)), Ref(0, "year"), False, None, "running"
        ),
        [(2001, 1), (2003, 3)],
    ),
    "group ranking": (
        group_ranking_plan(BY_COUNTRY, COUNT, True),
        [("France", 2, 1), ("Japan", 1, 3), ("Spain", 2, 1)],
    ),
    "parent ranking": (
        group_ranking_plan(
            BY_SINGER.with_(filters=(Filter(Ref(0, "year"), ">", 2001),)), Measure("sum", Ref(0, "sales")), False
        ),
        [("Ann", 30.0, 3), ("Bo", 20.0, 2), ("Cy", 5.0, 1)],
    ),
    "share of rows": (
        group_share_plan(BY_COUNTRY.with_(filters=(Filter(AGE, ">=", 30),)), COUNT),
        [("France", 50.0), ("Japan", 25.0), ("Spain", 25.0)],
    ),
    "share of a sum": (
        group_share_plan(BY_COUNTRY, Measure("sum", AGE)),
        [("France", 35.0), ("Japan", 30.0), ("Spain", 35.0)],
    ),
    "group below the mean": (
        group_above_plan("group_above_mean", BY_COUNTRY, Measure("avg", AGE), False, False),
        [("France",), ("Spain",)],
    ),
    "parent above the mean": (group_above_plan("group_above_mean", BY_SINGER, COUNT, True, True), [("Ann", 2)]),
    "two kinds": (
        two_kinds_plan(where(Filter(AGE, "<=", 50), outputs=()), COUNTRY, Filter(AGE, ">", 35), True),
        [("France", 2, 1), ("Spain", 2, 1)],
    ),
    "most frequent in each group": (
        most_frequent_in_plan(QueryPlan(("award",), ()), Ref(0, "prize"), Ref(0, "singer_id")),
        [("gold", 1, 1), ("gold", 2, 1), ("silver", 2, 1)],
    ),
}
CASES |= HIGHLY_COMPLEX


@pytest.mark.parametrize("name", HIGHLY_COMPLEX)
def test_combinations_are_highly_complex(name):
    plan, _ = HIGHLY_COMPLEX[name]
    assert sql_class(sqlglot.parse_one(sql_of(plan), read="sqlite")) == "Highly Complex"


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    path = tmp_path_factory.mktemp("plans") / "music.sqlite"
    with sqlite3.connect(path) as connection:
        connection.executescript(DDL)
    connection.close()
    return path


@pytest.mark.parametrize("name", CASES)
def test_plan_returns_the_right_rows(name, database):
    plan, expected = CASES[name]
    rows = sqlite3.connect(database).execute(sql_of(plan)).fetchall()
    if not (isinstance(plan, QueryPlan) and plan.order):
        rows = sorted(rows, key=lambda row: (row[0], row[1:]))
    assert rows == expected


@pytest.mark.parametrize("name", CASES)
def test_sql_is_written_as_its_parsed_form_is(name):
    """Reasoning quotes the parsed form, so that it has to be the same text."""
    sql = sql_of(CASES[name][0])
    assert to_sql(sqlglot.parse_one(sql, read="sqlite")) == sql


@pytest.mark.parametrize("name", CASES)
def test_every_plan_can_be_said_and_reasoned_about(name, database):
    plan, _ = CASES[name]
    speaker = Speaker(SpeakableDatabase(read_profile(database)).names, random.Random(0))
    asked = wording_of(plan, speaker)
    assert len(plain(asked.phrase).split()) > 3
    expression = sqlglot.parse_one(sql_of(plan), read="sqlite")
    text = trace(expression, "short")
    for table in expression.find_all(sqlglot.exp.Table):
        if not any(cte.alias == table.name for cte in expression.find_all(sqlglot.exp.CTE)):
            assert table.name in text


def test_words_name_the_columns_the_filter_and_the_order(database):
    query = QueryPlan(
        ("song", "singer"), (Ref(0, "title"), Ref(1, "name")), UP, (Filter(Ref(1, "country"), "=", "France"),)
    )
    said = plain(wording_of(query, Speaker(SpeakableDatabase(read_profile(database)).names, random.Random(3))).phrase)
    for word in ("title", "singer name", "songs", "country", "France"):
        assert word in said


def test_short_reasoning_is_short_and_follows_the_query():
    sql = (
        "SELECT T2.name FROM song AS T1 JOIN singer AS T2 ON T1.singer_id = T2.singer_id WHERE T1.year > 2000 "
        "GROUP BY T2.singer_id ORDER BY COUNT(*) DESC LIMIT 1"
    )
    assert trace(sqlglot.parse_one(sql, read="sqlite"), "short") == (
        "tables T1 song, T2 singer; join T1.singer_id = T2.singer_id; where T1.year > 2000; group by T2.singer_id; "
        "order by COUNT(*) DESC; first 1; output T2.name"
    )


@pytest.mark.parametrize(
    ("sql", "short", "long"),
    [
        (
            "SELECT a FROM t LEFT JOIN u ON t.x = u.x JOIN v ON v.y = u.y",
            "tables t, u, v; left join t.x = u.x; join v.y = u.y; output a",
            "They are left joined on t.x = u.x. They are joined on v.y = u.y.",
        ),
        (
            "SELECT a FROM t WHERE b = 'x:;y'",
            "tables t; where b = 'x:;y'; output a",
            "Only rows where b = 'x:;y' count.",
        ),
        ("SELECT a FROM t JOIN u USING (x, y)", "tables t, u; join using x, y; output a", "joined on using x, y."),
        (
            "SELECT a FROM t ORDER BY b LIMIT 3 OFFSET 2",
            "tables t; order by b; skip 2; first 3; output a",
            "The first 2 of them are skipped. Only the first 3",
        ),
        (
            "SELECT a FROM t UNION SELECT a FROM u ORDER BY a DESC LIMIT 1",
            "tables t; output a; union: tables u; output a; order by a DESC; first 1",
            "The result is sorted by a DESC. Only the first 1",
        ),
        (
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 9) SELECT i FROM n",
            "first n: output 1; union all: tables n; where i < 9; output i + 1; tables n; output i",
            "First compute n. The output is 1. Then combine",
        ),
    ],
)
def test_reasoning_leaves_nothing_out(sql, short, long):
    expression = sqlglot.parse_one(sql, read="sqlite")
    assert trace(expression, "short") == short
    assert long in trace(expression, "long")


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("SELECT a FROM t WHERE b = 1", "Simple"),
        ("SELECT a, COUNT(*) FROM t GROUP BY a", "Moderate"),
        ("SELECT a FROM t WHERE b IN (SELECT c FROM u)", "Moderate"),
        ("SELECT T1.a FROM t AS T1 JOIN u AS T2 ON T1.x = T2.x", "Moderate"),
        ("SELECT T1.a FROM t AS T1 JOIN u AS T2 ON T1.x = T2.x JOIN v AS T3 ON T3.y = T2.y", "Complex"),
        ("SELECT a FROM t EXCEPT SELECT a FROM u", "Complex"),
        ("SELECT a, RANK() OVER (ORDER BY b) FROM t", "Complex"),
        ("SELECT T1.a FROM t AS T1 WHERE T1.b > (SELECT AVG(T2.b) FROM t AS T2 WHERE T2.c = T1.c)", "Complex"),
        ("WITH x AS (SELECT a FROM t), y AS (SELECT a FROM x) SELECT * FROM y", "Highly Complex"),
        (
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 9) SELECT i FROM n",
            "Highly Complex",
        ),
    ],
)
def test_classes(sql, expected):
    assert sql_class(sqlglot.parse_one(sql, read="sqlite")) == expected
