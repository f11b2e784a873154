"""A question determines its SQL: constructions whose words and rows could differ are not drawn."""

import random
import sqlite3

import pytest

from sqlr1.databases import profile
from sqlr1.synthesis.shapes import joined, nested
from sqlr1.synthesis.world import World


def world_of(path, ddl):
    """A world over a database made by `ddl`."""
    with sqlite3.connect(path) as connection:
        connection.executescript(ddl)
    connection.close()
    return World(profile(path))


def drawn(world, shape, draws=200):
    """The plans that a shape draws from so many seeds."""
    plans = (shape(world, random.Random(seed)) for seed in range(draws))
    return [plan for plan in plans if plan]


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
    assert drawn(world_of(tmp_path / "rooms.sqlite", ROOMS), shape, 20) == []
