"""Questions over databases as people have them: roles of keys, rows without parents, codes, other languages."""

import random
import re
import sqlite3
from contextlib import closing

import pytest

from sqlgen import GenerationRequest, Source, generate
from sqlgen.english import Speaker, plain
from sqlgen.query_plan import COUNT, Filter, Measure, QueryPlan, Ref
from sqlgen.shapes import computed, groups, joined, nested, single
from sqlgen.shapes.catalogue import draw, sql_of, unfiltered, wording_of
from sqlgen.speakable import SpeakableDatabase
from sqlr1.database.profile import read_profile
from sqlr1.records import SQL_CLASSES
from sqlr1.sandbox import Limits

FIRM = """
CREATE TABLE department (department_id INTEGER PRIMARY KEY, name TEXT, city TEXT,
  manager_id INTEGER REFERENCES employee (employee_id));
CREATE TABLE employee (employee_id INTEGER PRIMARY KEY, name TEXT, details TEXT, zip INTEGER, latitude REAL,
  salary INTEGER, is_remote TEXT, bytes INTEGER, reports_to INTEGER REFERENCES employee,
  department_id INTEGER REFERENCES department);
CREATE TABLE customer (customer_id INTEGER PRIMARY KEY, name TEXT, fax TEXT,
  support_rep_id INTEGER REFERENCES employee (employee_id), branch_id INTEGER REFERENCES branch);
CREATE TABLE branch (branch_id INTEGER PRIMARY KEY, town TEXT);
CREATE TABLE job_history (entry_id INTEGER PRIMARY KEY, employee_id INTEGER REFERENCES employee, date_from DATE);
INSERT INTO department VALUES (1, 'Sales', 'Oslo', 2), (2, 'Legal', 'Rome', 3), (3, 'Labs', 'Oslo', 3);
INSERT INTO employee VALUES (1, 'Ann', 'quick', 10115, 1.5, 90, 'yes', 10, NULL, 1),
  (2, 'Bo', 'slow', 10117, 2.5, 80, 'no', 20, 1, 1), (3, 'Cy', 'quick', 10119, 3.5, 70, 'no', 30, 1, NULL),
  (4, 'Di', 'slow', 10179, 4.5, 60, 'yes', 40, 2, 2), (5, 'Ed', 'slow', 10179, 5.5, 50, 'no', 50, 2, 2);
INSERT INTO branch VALUES (1, 'Lund'), (2, 'Bath');
INSERT INTO customer VALUES (1, 'Fay', '1-2', 2, 1), (2, 'Gus', '2-3', 2, 2), (3, 'Hal', '3-4', 3, 9);
INSERT INTO job_history VALUES (1, 1, '2001-02-03'), (2, 2, '2002-03-04');
"""


def made(path, ddl):
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(ddl)
    return SpeakableDatabase(read_profile(path))


@pytest.fixture(scope="module")
def firm(tmp_path_factory):
    return made(tmp_path_factory.mktemp("firm") / "firm.sqlite", FIRM)


def key(db, table, column):
    return next(k for k in db.profile.foreign_keys if (k.table, k.column) == (table, column))


def said(db, plan):
    """All wordings of a plan with forty seeds."""
    asked = [wording_of(plan, Speaker(db.names, random.Random(seed))) for seed in range(40)]
    return {plain(text) for a in asked for text in (a.phrase, *a.direct, *a.commands)}


def drawn(db, *shapes):
    return [p for shape in shapes for seed in range(80) if (p := draw(shape, db, random.Random(seed)))]


@pytest.mark.parametrize(
    ("table", "column", "role"),
    [("customer", "support_rep_id", "support representative"), ("department", "manager_id", "manager"),
     ("employee", "reports_to", "supervisor"), ("employee", "department_id", "department")],
)  # fmt: skip
def test_a_key_named_by_a_role_is_called_so(firm, table, column, role):
    found = key(firm, table, column)
    assert firm.names.role(table, column, found.parent) == role
    shown = joined.chain(table, joined.up(found)).with_(outputs=(Ref(0, "name"), Ref(1, "name")))
    assert all(role in text for text in said(firm, shown))


@pytest.mark.parametrize("column", ["cl_id", "cid", "client_no", "clients"])
def test_a_key_that_abbreviates_its_parent_has_no_role(tmp_path, column):
    ddl = f"CREATE TABLE client (client_no INTEGER PRIMARY KEY, name TEXT); CREATE TABLE bill (id INTEGER, {column} INT"
    db = made(tmp_path / "bills.sqlite", f"{ddl} REFERENCES client (client_no));")
    assert db.names.role("bill", column, "client") == "client"


def test_a_role_is_never_asked_for_from_the_other_side(firm):
    """An employee without customers may have all of a branch's: "employees with no customers" names no role."""
    assert {(k.table, k.column) for k in firm.down_keys} == {
        ("customer", "branch_id"),
        ("job_history", "employee_id"),
    }


def test_keys_whose_words_are_no_noun_are_not_asked_about(tmp_path):
    ddl = "CREATE TABLE person (id INTEGER PRIMARY KEY, name TEXT); INSERT INTO person VALUES (1, 'A'), (2, 'B');"
    ddl += "CREATE TABLE page (id INTEGER PRIMARY KEY, title TEXT, written_by INT REFERENCES person,"
    ddl += "seen_by_person_id INT REFERENCES person, liked_id INT REFERENCES person);"
    ddl += "INSERT INTO page VALUES (1, 'x', 1, 2, 1), (2, 'y', 2, 1, 2);"
    db = made(tmp_path / "pages.sqlite", ddl)
    assert [k.column for k in db.up_keys] == ["written_by"]
    assert db.names.role("page", "written_by", "person") == "author"


@pytest.mark.parametrize(("table", "column", "parent"), [("employee", "department_id", "department"),
                                                         ("customer", "branch_id", "branch")])  # fmt: skip
def test_rows_without_a_parent_are_not_asked_for(firm, table, column, parent):
    """Cy has no department, and Hal's branch is not in the database."""
    plan = joined.chain(table, joined.up(key(firm, table, column)))
    shown = plan.with_(outputs=(Ref(0, "name"), Ref(1, firm.label(parent))))
    assert all(re.search(f"(have|has) a {parent}", text) for text in said(firm, shown))
    tops = [p for p in drawn(firm, joined.parent_superlative) if p.tables == (table, parent)]
    assert not tops


def test_groups_say_that_parents_without_rows_are_left_out(firm):
    plan = joined.chain("employee", joined.up(key(firm, "employee", "department_id")))
    grouped = plan.with_(outputs=(Ref(1, "name"), COUNT), group=(Ref(1, "department_id"),))
    assert all("with any employees" in text for text in said(firm, grouped))
    top = grouped.with_(outputs=(Ref(1, "name"),), limit=1, order=(joined.SortKey(COUNT, True),))
    assert not any("with any" in text for text in said(firm, top))


def test_codes_are_neither_averaged_nor_compared(firm):
    measured = drawn(firm, single.aggregate, single.group, nested.above_average, groups.ranking)
    assert measured
    assert not any(re.search(r"(AVG|SUM|MAX|MIN)\(zip\)|BY zip|(AVG|SUM)\(latitude\)", sql_of(p)) for p in measured)
    filters = [item for seed in range(200) if (item := firm.filter(random.Random(seed), "employee"))]
    assert {item.op for item in filters if item.ref.column == "zip"} == {"="}


def test_what_sorts_and_sums_as_nobody_means_it_is_left_out(tmp_path):
    """Text dates and prices in the order of their characters, sums of dates and times; bytes in any question."""
    columns = {
        "bought_on": [f"{i % 27 + 1:02}/{i % 12 + 1:02}/2020" for i in range(30)],
        "price": [str(i * 97) for i in range(30)],
        "cost": ["n/a", *(f"${i * 97}" for i in range(29))],
        "fee": [f"{i * 970 + 5:,}" for i in range(30)],
        "opens": [f"{i % 24}:30" for i in range(30)],
        "version": [f"{i % 3}.{i:02}" for i in range(30)],
        "class": [f"{i % 12}{'AB'[i % 2]}" for i in range(30)],
        "weight": [f"{i}kg" for i in range(30)],
        "month": [f"2020-{i % 12 + 1:02}" for i in range(30)],
        "begins": [f"{i % 24:02}:30" for i in range(30)],
        "model": ["3M", *(f"m{i}" for i in range(29))],
        "day": [20200101 + i % 28 + 100 * (i % 9) for i in range(30)],
        "created": [1_600_000_000 + 999_999 * i for i in range(30)],
        "changed": [1_600_000_000_000 + 999_999 * i for i in range(30)],
        "seen": [1_600_000_000.5 + 999_999 * i for i in range(30)],
        "budget": [10_000_000 + 99_999_999 * i for i in range(30)],
        "photo": [bytes([i % 3]) for i in range(30)],
    }
    with closing(sqlite3.connect(tmp_path / "t.sqlite")) as connection:
        connection.execute(f"CREATE TABLE item ({', '.join(columns)})")
        connection.executemany(f"INSERT INTO item VALUES ({', '.join('?' * 17)})", zip(*columns.values(), strict=True))
        connection.commit()
    db = SpeakableDatabase(read_profile(tmp_path / "t.sqlite"))
    assert db.sortable("item") == [
        "version", "class", "month", "begins", "model", "day", "created", "changed", "seen", "budget",
    ]  # fmt: skip
    assert db.quantities("item") == ["budget"]
    assert "photo" not in db.speakable("item")
    listed = [single.listing(db, random.Random(seed)) for seed in range(200)]
    assert {item.key.column for plan in listed for item in plan.order} == set(db.sortable("item"))


def test_what_was_paid_is_asked_about_and_whether_is_not(tmp_path):
    rows = ", ".join(f"({i}.5, '{'yes' if i % 3 else 'no'}', {i * 7 % 90})" for i in range(30))
    db = made(tmp_path / "t.sqlite", f"CREATE TABLE bill (amount_paid, paid, bid); INSERT INTO bill VALUES {rows}")
    assert db.speakable("bill") == db.quantities("bill") == ["amount_paid", "bid"]


def test_conditions_that_all_rows_meet_are_not_drawn(tmp_path):
    rows = ", ".join(f"({i}, 'St. {'AB'[i % 2]}', {max(3, i % 9)}, '2020-0{1 + i % 9}-01')" for i in range(40))
    ddl = "CREATE TABLE church (id INTEGER PRIMARY KEY, name TEXT, bells INTEGER, built DATE);"
    db = made(tmp_path / "church.sqlite", f"{ddl} INSERT INTO church VALUES {rows};")
    filters = [item for seed in range(300) if (item := db.filter(random.Random(seed), "church"))]
    assert not any((f.op, f.value) in ((">=", 3), ("year", "2020")) for f in filters)
    assert not any(f.op in ("prefix", "contains") and "S" in f.value for f in filters)


def test_a_value_is_not_excluded_where_some_are_missing(tmp_path):
    rows = ", ".join(f"({i}, {('NULL', repr('red'), repr('blue'), repr('green'))[i % 4]})" for i in range(16))
    ddl = "CREATE TABLE car (id INTEGER PRIMARY KEY, colour TEXT);"
    db = made(tmp_path / "cars.sqlite", f"{ddl} INSERT INTO car VALUES {rows};")
    ops = {item.op for seed in range(200) if (item := db.filter(random.Random(seed), "car"))}
    assert {"=", "in"} <= ops
    assert not ops & {"!=", "not_in"}


def test_questions_that_their_condition_does_not_change_are_rejected(firm, tmp_path):
    """Both departments with employees have one above 40: no question may say so."""
    source = Source("firm", firm.profile.schema.path, {})
    request = GenerationRequest(40, dict.fromkeys(SQL_CLASSES, 0.25), {"interrogative": 1.0}, 0)
    asked = list(generate([source], request, Limits(5.0), 1, tmp_path))
    assert len(asked) > 20
    plan = joined.chain("branch", joined.down(key(firm, "customer", "branch_id"))).showing("town")
    plan = plan.with_(distinct=True, filters=(Filter(Ref(1, "name"), "!=", "Hal"),))
    assert unfiltered(plan) == sql_of(plan).partition(" WHERE")[0]
    assert unfiltered(QueryPlan.of("branch", "town", filters=(Filter(Ref(0, "town"), "=", "Lund"),))) == ""


def test_names_without_letters_can_be_asked_about(tmp_path):
    columns = ['"_"', '"-"', '"..."', '" "', '""']
    ddl = f'CREATE TABLE "_" (id INTEGER PRIMARY KEY, {" INTEGER, ".join(columns)} TEXT);'
    ddl += "".join(f"INSERT INTO _ VALUES ({n}, {n}, {n * n}, 1, 2, 'x{n % 3}');" for n in range(9))
    db = made(tmp_path / "odd.sqlite", ddl)
    assert [db.names.columns["_", c.strip('"')] for c in columns] == ["_", "-", "...", "column", "column"]
    assert all(said(db, plan) for plan in drawn(db, single.count, single.listing, groups.best_of_group))


def test_a_table_with_the_name_of_a_cte_is_not_hidden_by_it(tmp_path):
    """Asked about the column `year` of `years`, `WITH years(year) AS ...` would be joined with itself."""
    ddl = "CREATE TABLE years (id INTEGER PRIMARY KEY, year INTEGER, place TEXT);"
    ddl += "".join(f"INSERT INTO years VALUES ({n}, {2000 + n % 7}, 'town {n % 4}');" for n in range(30))
    db = made(tmp_path / "club.sqlite", ddl)
    assert any("WITH RECURSIVE years" in plan.sql for plan in drawn(db, computed.every_year))
    request = GenerationRequest(60, {"Highly Complex": 1.0}, {"interrogative": 1.0}, 0)
    asked = list(generate([Source("club", db.profile.schema.path, {})], request, Limits(5.0), 1, tmp_path))
    assert asked
    assert not [row.sql for row in asked if "years AS" in row.sql or "years(" in row.sql]


GERMAN = """
CREATE TABLE kunde (kunden_nr INTEGER PRIMARY KEY, vorname TEXT, stadt TEXT, umsatz REAL);
CREATE TABLE bestellung (nr INTEGER PRIMARY KEY, kunden_nr INTEGER REFERENCES kunde, datum DATE, menge INTEGER);
INSERT INTO kunde VALUES (1, 'Ute', 'Ulm', 1.5), (2, 'Jan', 'Ulm', 2.5), (3, 'Kai', 'Bonn', 3.5);
INSERT INTO bestellung VALUES (1, 1, '2020-01-02', 1), (2, 1, '2021-02-03', 2), (3, 2, '2022-03-04', 3);
"""


def test_nouns_that_are_not_english_are_not_inflected(tmp_path, firm):
    db = made(tmp_path / "laden.sqlite", GERMAN)
    assert db.names.foreign
    assert not firm.names.foreign
    texts = {text for plan in drawn(db, single.count, single.listing, single.aggregate) for text in said(db, plan)}
    assert texts
    assert not any(re.search("kundes|bestellungs|vornames|stadts|datums|umsatzs", text) for text in texts)


def test_nouns_without_a_plural_are_counted_by_another(firm):
    assert firm.names.entities["job_history"] == "job history record"
    assert firm.names.columns["job_history", "date_from"] == "start date"
    assert firm.names.columns["employee", "bytes"] == "number of bytes"
    assert firm.names.plural("fax") == "fax numbers"
    assert "is_remote" not in firm.speakable("employee")


def test_verbs_agree_with_plural_nouns(firm):
    equal = QueryPlan.of("employee", "name", filters=(Filter(Ref(0, "details"), "!=", "quick"),))
    assert not any(re.search("details (is|differs)", text) for text in said(firm, equal))
    assert {w.many for w in [wording_of(QueryPlan.of("employee", "details"), Speaker(firm.names, random.Random(s)))
                             for s in range(20)]} == {True}  # fmt: skip


def test_a_figure_has_no_property_of_its_rows(firm):
    plan = QueryPlan(("employee",), (Ref(0, "details"), Measure("avg", Ref(0, "salary"))), group=(Ref(0, "details"),))
    plan = plan.with_(filters=(Filter(Ref(0, "bytes"), ">", 10),))
    assert all("among employees w" in text for text in said(firm, plan))


def test_the_way_to_a_role_is_said(firm):
    first, second = key(firm, "job_history", "employee_id"), key(firm, "employee", "department_id")
    plan = joined.chain("job_history", joined.up(first), joined.up(second, 1)).showing("date_from")
    short = plan.with_(filters=(Filter(Ref(2, "city"), "=", "Oslo"),))
    assert not any("employee" in text for text in said(firm, short))
    long = joined.chain("customer", joined.up(key(firm, "customer", "support_rep_id")), joined.up(second, 1))
    asked = long.showing("name").with_(filters=short.filters)
    assert all("support representative" in text for text in said(firm, asked))


def test_groups_that_a_condition_empties_are_left_out_in_words_too(firm):
    plan = QueryPlan(("employee",), (Ref(0, "details"), COUNT), group=(Ref(0, "details"),))
    texts = said(firm, plan.with_(filters=(Filter(Ref(0, "salary"), ">", 60),)))
    assert all("without any" in text for text in texts)
    assert not any("without any" in text for text in said(firm, plan))


def test_a_figure_of_the_children_is_not_the_parents(firm):
    plan = joined.chain("employee", joined.up(key(firm, "employee", "department_id")))
    mean = Measure("avg", Ref(0, "salary"))
    top = plan.with_(outputs=(Ref(1, "name"),), group=(Ref(1, "department_id"),), limit=1)
    assert all("salary of employees" in text for text in said(firm, top.with_(order=(joined.SortKey(mean, True),))))
