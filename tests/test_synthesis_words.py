"""English of generated questions: it asks for what the SQL shows, in words that fit numbers, texts and years."""

import random
import sqlite3

import pytest

from sqlgen.english import Speaker, plain
from sqlgen.naming import Names, plural, words
from sqlgen.query_plan import Filter, Measure, QueryPlan, Ref, SortKey
from sqlgen.shapes import nested, single
from sqlgen.shapes.catalogue import draw
from sqlgen.speakable import SpeakableDatabase
from sqlgen.wording import block_wording
from sqlr1.database.profile import read_profile

DDL = """
CREATE TABLE all_orders (order_id INTEGER PRIMARY KEY, buyer TEXT, city TEXT, total REAL, num_items INTEGER,
  year_working INTEGER, year INTEGER, mean_average_price REAL);
INSERT INTO all_orders VALUES (1, 'Ann', 'Oslo', 5.5, 1, 2, 2001, 1.5), (2, 'Bo', 'Oslo', 7.5, 2, 3, 2002, 2.5),
  (3, 'Cy', 'Rome', 9.5, 3, 4, 2003, 3.5), (4, 'Di', 'Rome', 4.5, 4, 5, 2004, 4.5);
"""
ORDERS = QueryPlan(("all_orders",), (Ref(0, "buyer"),))
CITY, TOTAL = Ref(0, "city"), Ref(0, "total")
COUNT = Measure("count")


@pytest.fixture(scope="module")
def db(tmp_path_factory):
    path = tmp_path_factory.mktemp("words") / "shop.sqlite"
    with sqlite3.connect(path) as connection:
        connection.executescript(DDL)
    connection.close()
    return SpeakableDatabase(read_profile(path))


def sayings(db, query):
    """All wordings of a query with sixty seeds: phrases, direct questions and commands."""
    asked = [block_wording(Speaker(db.names, random.Random(seed)), query) for seed in range(60)]
    return [plain(text) for a in asked for text in (a.phrase, *a.direct, *a.commands)]


def test_a_number_of_things_is_said_as_people_say_it():
    assert " ".join(words("num_employees")) == "number of employees"
    assert " ".join(words("number_of_matches")) == "number of matches"


@pytest.mark.parametrize("noun", ["department no", "gender mfu", "temporary acting"])
def test_codes_have_no_plural(noun):
    assert plural(noun) == noun


def test_given_nouns_and_tables_of_all_rows(db):
    given = {("all_orders", "num_items"): "num items"}
    assert Names(db.profile, given).columns["all_orders", "num_items"] == "number of items"
    assert db.names.entities["all_orders"] == "order"


def test_no_total_total(db):
    texts = sayings(db, ORDERS.with_(outputs=(Measure("sum", TOTAL),)))
    assert all("combined total" in text for text in texts)


def test_a_column_that_has_all_words_of_a_measure_in_its_name_can_be_measured(db):
    texts = sayings(db, ORDERS.with_(outputs=(Measure("avg", Ref(0, "mean_average_price")),)))
    assert all("mean average price" in text for text in texts)


def test_only_years_of_the_calendar_are_dates(db):
    speaker = Speaker(db.names, random.Random(0))
    said = {speaker.predicate("year working", op, 3) for op in ("<", ">", "<=", ">=") for _ in range(20)}
    assert not any(word in text for text in said for word in ("before", "after", "later", "earlier"))
    assert speaker.predicate("year", ">", 2001) == "is after \x012001\x02"
    assert db.years("all_orders") == ["year"]


@pytest.mark.parametrize(("column", "dated"), [("year", True), ("year_working", False), ("visits_per_year", False),
                                               ("yearly_visitors", False), ("last_update_count", False)])  # fmt: skip
def test_only_what_says_when_has_a_latest_value(column, dated, tmp_path):
    with sqlite3.connect(tmp_path / "museum.sqlite") as connection:
        connection.execute(f"CREATE TABLE museum (id INTEGER PRIMARY KEY, name TEXT, {column} INTEGER)")
        rows = [(i, f"Museum {i}", 1990 + i if dated else 100 * i) for i in range(1, 9)]
        connection.executemany("INSERT INTO museum VALUES (?, ?, ?)", rows)
    museums = SpeakableDatabase(read_profile(tmp_path / "museum.sqlite"))
    order = (SortKey(Ref(0, column), True),)
    texts = sayings(museums, QueryPlan(("museum",), (Ref(0, "name"),), order=order, limit=1))
    latest = [any(word in text for word in ("latest", "most recent", "earliest")) for text in texts]
    assert all(latest) if dated else not any(latest)


@pytest.mark.parametrize(("column", "expected"), [("buyer", False), ("total", True)])
def test_only_numbers_are_sorted_from_lowest_to_highest(db, column, expected):
    for descending in (True, False):
        texts = sayings(db, ORDERS.with_(order=(SortKey(Ref(0, column), descending),)))
        assert any("lowest" in text for text in texts) == expected


def test_a_sort_order_is_no_second_request(db):
    """Questions contain it too, and "What are the names and sort the result by ...?" is no sentence."""
    assert not any("and sort" in text for text in sayings(db, ORDERS.with_(order=(SortKey(TOTAL),))))


def test_each_row_has_one_name(db):
    texts = sayings(db, ORDERS)
    assert {text for text in texts if "each" in text} == {"the buyer of each order"}
    assert not any("each" in text for text in sayings(db, ORDERS.with_(distinct=True)))


def test_one_is_singular(db):
    query = ORDERS.with_(outputs=(CITY,), group=(CITY,), having=(Filter(COUNT, ">", 1),))
    assert all("1 order" in text and "1 orders" not in text for text in sayings(db, query))


def test_groups_are_asked_for_where_they_are_shown(db):
    for text in sayings(db, ORDERS.with_(outputs=(CITY, COUNT), group=(CITY,))):
        assert any(shown in text for shown in ("the city", "Include the city", "cities and the", "cities, each")), text


def drawn(shape, db):
    return [plan for seed in range(200) if (plan := draw(shape, db, random.Random(seed)))]


def test_superlatives_do_not_show_what_they_filter_on(db):
    for plan in drawn(single.superlative, db):
        assert not {item.ref for item in plan.filters} & set(plan.outputs)


@pytest.mark.parametrize("shape", [single.group, single.group_having, single.group_top])
def test_groups_are_not_measured_by_what_they_are_filtered_on(shape, db):
    plans = drawn(shape, db)
    for plan in plans:
        measured = [m.ref for m in (*plan.outputs, *(h.ref for h in plan.having)) if isinstance(m, Measure)]
        assert not {item.ref for item in plan.filters} & set(measured)
    assert any(plan.filters for plan in plans)


def test_numbers_are_compared_with_the_average_alone(db):
    """Nobody asks for rows above the minimum: nearly every row is."""
    inner = [item.value.outputs[0].function for plan in drawn(nested.above_average, db) for item in plan.filters]
    assert set(inner) == {"avg"}
