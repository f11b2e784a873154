"""A question determines its SQL: no shape draws a query whose rows could differ from what its words ask for."""

import contextlib
import random
import re
import sqlite3

import pytest
import sqlglot

from sqlgen.english import HIDING, Speaker, plain
from sqlgen.generate import GenerationRequest, generate_over
from sqlgen.query_plan import Filter, QueryPlan, Ref
from sqlgen.shapes import computed, cte, groups, joined, nested, single
from sqlgen.shapes.catalogue import draw, sql_of, wording_of
from sqlgen.shapes.computed import ranges_plan
from sqlgen.speakable import SpeakableDatabase
from sqlr1.config import Synthesize
from sqlr1.data.mentions import unmentioned_value
from sqlr1.database.profile import read_profile
from sqlr1.records import Question
from sqlr1.sandbox import Executor


def database_of(path, ddl):
    """A speakable database with the tables that `ddl` makes."""
    with sqlite3.connect(path) as connection:
        connection.executescript(ddl)
    connection.close()
    return SpeakableDatabase(read_profile(path))


def drawn(db, shape, draws=200):
    """The plans that a shape draws with the seeds 0 to `draws` - 1."""
    plans = (draw(shape, db, random.Random(seed)) for seed in range(draws))
    return [plan for plan in plans if plan]


def fetch(db, sql):
    """The rows that a query returns."""
    with contextlib.closing(sqlite3.connect(db.profile.schema.path)) as connection:
        return connection.execute(sql).fetchall()


def parsed(plan):
    """The plan's SQL as the filter reads it."""
    return sqlglot.parse_one(sql_of(plan), read="sqlite")


def results(db, plan):
    """The rows of a plan."""
    return fetch(db, sql_of(plan))


ROOMS = """
CREATE TABLE room (house TEXT, number INTEGER, view TEXT, price INTEGER, PRIMARY KEY (house, number));
CREATE TABLE stay (stay_id INTEGER PRIMARY KEY, house TEXT, number INTEGER, guest TEXT, nights INTEGER,
  FOREIGN KEY (house, number) REFERENCES room (house, number));
INSERT INTO room VALUES ('A', 1, 'sea', 90), ('A', 2, 'yard', 60), ('B', 1, 'sea', 80), ('B', 3, 'park', 70);
INSERT INTO stay VALUES (1, 'A', 1, 'Ann', 2), (2, 'A', 2, 'Bo', 3), (3, 'B', 1, 'Cy', 4), (4, 'B', 1, 'Di', 5);
"""


@pytest.mark.parametrize(
    "shape", [joined.parent_lookup, joined.children_group, joined.having_child, nested.without_children]
)
def test_no_join_uses_a_part_of_a_key(shape, tmp_path):
    assert drawn(database_of(tmp_path / "rooms.sqlite", ROOMS), shape, 20) == []


MATCHES = """
CREATE TABLE city (city_id INTEGER PRIMARY KEY, name TEXT, country TEXT);
CREATE TABLE team (team_id INTEGER PRIMARY KEY, name TEXT, colour TEXT, city_id INTEGER REFERENCES city);
CREATE TABLE game (game_id INTEGER PRIMARY KEY, stadium TEXT, goals INTEGER, home_id INTEGER REFERENCES team,
  guest_id INTEGER REFERENCES team, city_id INTEGER REFERENCES city);
CREATE TABLE player (player_id INTEGER PRIMARY KEY, name TEXT, age INTEGER, captain_id INTEGER REFERENCES player);
CREATE TABLE contract (contract_id INTEGER PRIMARY KEY, kind TEXT, player_id INTEGER REFERENCES player,
  team_id INTEGER REFERENCES team);
INSERT INTO city VALUES (1, 'Oslo', 'Norway'), (2, 'Bergen', 'Norway'), (3, 'Lund', 'Sweden');
INSERT INTO team VALUES (1, 'Reds', 'red', 1), (2, 'Blues', 'blue', 2), (3, 'Greens', 'green', 1);
INSERT INTO game VALUES (1, 'North', 3, 1, 2, 1), (2, 'South', 5, 2, 3, 3), (3, 'North', 0, 3, 1, 2);
INSERT INTO player VALUES (1, 'Ann', 20, NULL), (2, 'Bo', 25, 1), (3, 'Cy', 31, 1);
INSERT INTO contract VALUES (1, 'loan', 1, 1), (2, 'full', 2, 1), (3, 'full', 3, 2);
"""


@pytest.fixture(scope="module")
def matches(tmp_path_factory):
    return database_of(tmp_path_factory.mktemp("golds") / "matches.sqlite", MATCHES)


def test_one_of_several_keys_is_only_followed_upwards_and_named(matches):
    plans = drawn(matches, joined.parent_lookup)
    speaker = Speaker(matches.names, random.Random(0))
    for plan in plans:
        for column, role in (("home_id", "home"), ("guest_id", "guest"), ("captain_id", "captain")):
            if plan.joins[0].left.column == column:
                assert f"{role} " in plain(wording_of(plan, speaker).phrase).replace("'", " ")
    assert {"home_id", "guest_id", "captain_id", "city_id"} <= {plan.joins[0].left.column for plan in plans}
    assert {key.table for key in matches.down_keys if key.parent == "team"} == {"contract"}


def test_two_tables_are_only_linked_over_the_one_path_between_them(matches):
    ends = {(first.parent, first.table, second.parent) for first, second in matches.links}
    assert ends == {("player", "contract", "team"), ("team", "contract", "player")}
    assert {(a.table, a.parent, b.parent) for a, b in matches.hops} == {("contract", "team", "city")}
    for shape in (joined.linked, joined.hops):
        assert all("game" not in str(plan) for plan in drawn(matches, shape)), shape


NAMESAKES = """
CREATE TABLE singer (singer_id INTEGER PRIMARY KEY, name TEXT, town TEXT);
CREATE TABLE label (label_id INTEGER PRIMARY KEY, name TEXT, mood TEXT);
CREATE TABLE song (song_id INTEGER PRIMARY KEY, title TEXT, genre TEXT, mood TEXT, out DATE, seconds INTEGER,
  sales INTEGER, singer_id INTEGER REFERENCES singer, label_id INTEGER REFERENCES label);
INSERT INTO singer VALUES (1, 'Ann', 'Rome'), (2, 'Ann', 'Oslo'), (3, 'Cy', 'Rome'), (4, 'Di', 'Lund');
INSERT INTO label VALUES (1, 'Alto', 'glad'), (2, 'Basso', NULL), (3, 'Cy', 'sad');
INSERT INTO song VALUES (1, 'Sun', 'folk', 'glad', '2001-05-06', 200, NULL, 1, 1),
  (2, 'Moon', 'rock', 'sad', '2001-07-08', 180, 30, 2, 1), (3, 'Star', 'folk', NULL, '2002-03-04', 240, 20, 3, 2),
  (4, 'Sea', 'rock', 'glad', '2003-01-02', 210, 10, 3, 2), (5, 'Sky', 'rock', 'sad', '2003-02-03', 150, 15, 1, NULL);
"""


@pytest.fixture(scope="module")
def namesakes(tmp_path_factory):
    return database_of(tmp_path_factory.mktemp("golds") / "namesakes.sqlite", NAMESAKES)


def test_entities_are_combined_by_labels_only_where_those_are_unique(namesakes):
    """Ann of Rome sings folk, Ann of Oslo rock: no singer of that name sings both."""
    assert {plan.base.tables[0] for plan in drawn(namesakes, nested.set_entities)} == {"label"}


def test_few_children_are_not_asked_for_where_a_join_leaves_out_parents_with_none(namesakes):
    """Di has no song: "singers with fewer than 2 songs" and "the singer with the fewest songs" would mean her."""
    assert {plan.having[0].op for plan in drawn(namesakes, joined.children_having)} == {">", ">=", "="}
    lowest = [plan for plan in drawn(namesakes, joined.children_top) if not plan.order[0].descending]
    assert {plan.order[0].key.function for plan in lowest} == {"avg"}


@pytest.mark.parametrize("shape", [single.superlative, joined.parent_superlative])
def test_the_lowest_is_never_a_missing_value(shape, namesakes):
    """SQLite sorts NULL first: the song with the lowest sales would be one without a value."""
    sorts = [plan.order[0] for plan in drawn(namesakes, shape)]
    lowest = {sort.key.column for sort in sorts if not sort.descending}
    assert lowest
    assert lowest <= {"seconds", "out"}
    assert {sort.key.column for sort in sorts} >= {"seconds", "sales"}


def test_a_missing_value_has_no_rank(namesakes):
    """RANK would put Sun, which has no sales, last or, in ascending order, first."""
    assert {plan.parts["key"].column for plan in drawn(namesakes, groups.ranking)} == {"seconds"}


@pytest.mark.parametrize("shape", [groups.best_of_group, groups.best_of_chosen])
def test_the_best_of_a_group_is_never_a_missing_value(shape, namesakes):
    """Of the folk songs below 240 seconds, Sun, which has no sales, would be the one with the highest sales."""
    plans = drawn(namesakes, shape)
    assert plans
    for plan in plans:
        known = Filter(plan.parts["key"], "not_null")
        titles = results(namesakes, plan.base.with_(filters=(*plan.base.filters, known)))
        assert {(label,) for _, label in results(namesakes, plan)} <= set(titles), plan


@pytest.mark.parametrize(
    "shape",
    [
        groups.group_ranking, groups.group_share, groups.group_above_mean, groups.group_above_average,
        groups.best_of_group, groups.best_of_chosen, cte.two_kinds, cte.most_frequent_in,
        nested.set_values, nested.set_tables, nested.three_sets,
    ],
)  # fmt: skip
def test_a_missing_value_is_no_group_no_figure_and_shared_by_nothing(shape, namesakes):
    """Star has no mood, Sun no sales: no question is about "each mood" or "the sales that both have"."""
    rows = [row for plan in drawn(namesakes, shape) for row in results(namesakes, plan)]
    assert rows
    assert not any(value is None for row in rows for value in row)


@pytest.mark.parametrize("shape", [groups.ranking, groups.distance])
def test_no_average_or_rank_is_among_rows_without_a_group(shape, namesakes):
    groups_drawn = {plan.parts["group"].column for plan in drawn(namesakes, shape) if plan.parts["group"]}
    assert "genre" in groups_drawn
    assert "mood" not in groups_drawn


def test_totals_by_year_are_of_values_that_every_row_has(namesakes):
    """The only folk song of 2001 has no sales, so the change from 2001 to 2002 is unknown."""
    plans = drawn(namesakes, computed.running_by_year)
    assert {plan.parts["measured"].column for plan in plans if plan.parts["measured"]} == {"seconds"}
    for plan in plans:
        _, *later = sorted(results(namesakes, plan))
        assert not any(value is None for row in later for value in row), plan


def test_nothing_is_ranked_or_shared_alone(namesakes):
    """Among folk songs of 2001 there is one song: it is the best, has rank 1 and 100 % of the sales, trivially."""
    of_all = {"group_ranking", "group_share", "running_by_year"}
    of_each = {"best_of_group", "best_of_chosen", "most_frequent_in"}
    with Executor(workers=1) as executor:
        quotas = {"Complex": 100, "Highly Complex": 400}
        request = GenerationRequest(500, {}, Synthesize().styles, seed=0)
        found = list(generate_over(namesakes, "x", quotas, request, executor))
    for row in found:
        shape, rows = row.template.split(":")[0], fetch(namesakes, row.sql)
        assert len(rows) > 1 or shape not in of_all, row
        assert len({group for group, *_ in rows}) > 1 or shape not in of_each, row
    assert of_all | of_each <= {row.template.split(":")[0] for row in found}


@pytest.mark.parametrize("shape", [single.group, single.group_having, single.group_top, computed.percentage])
def test_rows_without_a_value_are_no_group(shape, namesakes):
    plans = drawn(namesakes, shape)
    groups_drawn = [plan.group[0] if isinstance(plan, QueryPlan) else plan.parts["group"] for plan in plans]
    keys = {group and group.column for group in groups_drawn}
    assert "genre" in keys
    assert "mood" not in keys


def test_the_extreme_row_is_not_left_out_by_a_join(namesakes):
    """Sky, the shortest song, has no label: "the label of the shortest song" would be another song's."""
    followed = {plan.joins[0].left.column for plan in drawn(namesakes, joined.parent_superlative)}
    assert followed == {"singer_id"}


def test_ranges_are_not_grouped_by_a_column_of_their_name(tmp_path):
    courses = "CREATE TABLE course (id INTEGER PRIMARY KEY, title TEXT, level TEXT, seats INTEGER);"
    rows = [(i, f"Course {i}", ("first", "second")[i % 2], 5 * i) for i in range(1, 13)]
    courses += f"INSERT INTO course VALUES {', '.join(map(str, rows))};"
    db = database_of(tmp_path / "courses.sqlite", courses)
    plans = drawn(db, computed.ranges, 20)
    assert plans
    for plan in plans:
        assert sorted(word for word, _ in results(db, plan)) == ["high", "low", "medium"]


def test_a_time_of_day_is_neither_after_nor_before_its_day(tmp_path):
    visits = "CREATE TABLE visit (id INTEGER PRIMARY KEY, guest TEXT, arrived TEXT);"
    rows = [(i, f"Guest {i}", f"20{i:02}-01-05 10:00:00") for i in range(1, 21)]
    visits += f"INSERT INTO visit VALUES {', '.join(map(str, rows))};"
    db = database_of(tmp_path / "visits.sqlite", visits)
    filters = [db.filter(random.Random(seed), "visit", avoid=["guest"]) for seed in range(60)]
    assert {item.op for item in filters} == {">=", "<", "year"}


def test_the_rank_is_not_taken_for_a_column_of_that_name(tmp_path):
    races = """
    CREATE TABLE result (id INTEGER PRIMARY KEY, runner TEXT, place TEXT, surface TEXT, seconds INTEGER);
    INSERT INTO result VALUES (1, 'Ann', 'Rome', 'sand', 90), (2, 'Bo', 'Rome', 'turf', 80),
      (3, 'Cy', 'Oslo', 'sand', 70), (4, 'Di', 'Oslo', 'sand', 60), (5, 'Ed', 'Oslo', 'turf', 50);
    """
    plans = drawn(database_of(tmp_path / "races.sqlite", races), groups.best_of_group)
    assert {plan.parts["group"].column for plan in plans} == {"surface"}


@pytest.mark.parametrize("style", HIDING)
def test_every_hidden_threshold_of_two_kinds_has_its_own_meaning(style, namesakes):
    """Two songs "rather high" in seconds, one above 180 and one above 200, would share one explanation."""
    seen = 0
    for seed, plan in enumerate(drawn(namesakes, cte.two_kinds)):
        items = (*plan.base.filters, *plan.parts["second"].filters)
        hidden = [item for item in items if item.op[0] in "<>" and not isinstance(item.value, str)]
        speaker = Speaker(namesakes.names, random.Random(seed), style)
        said = plain(wording_of(plan, speaker).phrase)
        assert sum(words in said for words in speaker.evidence) == len(hidden), said
        seen += len(hidden) == 2
    assert seen


def test_the_figure_that_is_shown_is_not_the_mean(namesakes):
    for shape in (groups.group_above_mean, groups.group_above_average):
        plans = drawn(namesakes, shape)
        assert plans
        for plan in plans:
            said = plain(wording_of(plan, Speaker(namesakes.names, random.Random(0))).phrase)
            shown = re.search(", (along )?with the (.*) itself$", said)
            assert bool(shown) == bool(plan.parts["also"]), said
            assert not shown or f"{shown[2]} of" in said[: shown.start()], said


def test_shares_are_of_values_that_every_row_has(namesakes):
    """Sky has no label, Star no mood: the shares of labels or moods in all songs would not add up to 100."""
    plans = drawn(namesakes, groups.group_share)
    assert {plan.base.tables for plan in plans} == {("song",), ("singer",)}
    assert {plan.base.outputs[0] for plan in plans} == {Ref(0, "genre"), Ref(0, "town"), Ref(0, "name")}


def test_rankings_of_parents_by_some_rows_say_by_which(namesakes):
    """Cy sings folk, Di sings nothing: a ranking of singers by folk songs has no row for Di."""
    speaker = Speaker(namesakes.names, random.Random(0))
    plans = drawn(namesakes, groups.group_ranking)
    for plan in plans:
        joined_to = plan.base.outputs[0].occurrence
        said = plain(wording_of(plan, speaker).phrase)
        assert (" with any " in said) == bool(joined_to), said
        assert unmentioned_value(Question("q", "d", said, sql=""), parsed(plan)) is None, said
        if joined_to:
            base, parent = plan.base, plan.base.outputs[0]
            singers = results(namesakes, base.with_(outputs=(*base.group, parent), distinct=True, group=()))
            assert sorted(name for _, name in singers) == sorted(row[0] for row in results(namesakes, plan))
    assert any(plan.base.filters for plan in plans)


@pytest.mark.parametrize("shape", [joined.having_child, joined.linked])
def test_distinct_is_said_where_a_join_needs_it(shape, namesakes, matches):
    """The names of singers with a song are four, the different ones three: two singers are called Ann."""
    for db in (namesakes, matches):
        for plan in drawn(db, shape):
            said = plain(wording_of(plan, Speaker(db.names, random.Random(0))).phrase)
            assert plan.distinct == any(word in said.split() for word in ("different", "distinct", "unique")), said


@pytest.mark.parametrize("value", [45310.53, 0.30000004, 1234567.25, 3.0, -2.5])
def test_numbers_are_said_with_all_of_their_digits(value, namesakes):
    query = QueryPlan(("song",), (Ref(0, "title"),), filters=(Filter(Ref(0, "sales"), ">", value),))
    expression = parsed(query)
    for sentence, mentioned in (("sales above {}", True), ("sales above {:.3g}", f"{value:.3g}" == f"{value:.15g}")):
        question = Question("q", "d", sentence.format(value), sql="")
        assert (unmentioned_value(question, expression) is None) == mentioned
    speaker = Speaker(namesakes.names, random.Random(0))
    assert plain(wording_of(query, speaker).phrase).endswith(f" {value:.15g}")
    levels = ranges_plan(query.with_(outputs=(), filters=()), Ref(0, "sales"), value, 2e9)
    assert f"below {value:.15g}," in plain(levels.wording(speaker).phrase)
