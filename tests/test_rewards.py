"""The four parts of SQL-R1's reward in all cases of equations 2 to 5, and on real executions."""

import sqlite3
import subprocess
import sys

import pytest
from pydantic import ValidationError

from sqlr1 import config, rewards
from sqlr1.config import Reward
from sqlr1.outcomes import Outcome, outcomes
from sqlr1.prompt import format_response
from sqlr1.rewards import PARTS, REWARDS, reward_functions
from sqlr1.sandbox import Executor

RIGHT = Outcome(True, True, True, think_length=100, answer_length=80, sql_length=60)
WRONG = Outcome(True, True, False, 100, 80, 60)
ERROR = Outcome(True, False, False, 100, 80, 60)
BAD_FORMAT_BUT_RIGHT = Outcome(False, True, True, 0, 0, 60)
SPOILED = Outcome(True, False, False, 100, 80, 60, judged=False)


@pytest.mark.parametrize(
    ("outcome", "parts"),
    [
        (RIGHT, (1, 2, 3, 0.5 * 180 / 2048 + 60 / 80)),
        (WRONG, (1, 2, -3, 0)),
        (ERROR, (1, -2, 0, 0)),
        (BAD_FORMAT_BUT_RIGHT, (-1, 0, 0, 0)),
        (SPOILED, (None, None, None, None)),
    ],
)
def test_each_part_of_each_case(outcome, parts):
    assert tuple(f(outcome) for f in reward_functions(WEIGHTS, "full").values()) == pytest.approx(parts)


WEIGHTS = Reward()


def total(outcome, variant="full", settings=WEIGHTS):
    return sum(f(outcome) for f in reward_functions(settings, variant).values())


def test_totals_are_the_papers():
    assert 6 < total(RIGHT) <= 7.5
    assert (total(WRONG), total(ERROR), total(BAD_FORMAT_BUT_RIGHT)) == (0, -1, -1)


def test_length_is_rewarded_up_to_the_maximum():
    long = Outcome(True, True, True, think_length=5000, answer_length=60, sql_length=60)
    assert rewards.length_reward(long, 2048) == 1.5
    assert rewards.length_reward(RIGHT, 180) == 0.5 + 0.75


@pytest.mark.parametrize("part", rewards.REWARDS["full"].parts)
def test_an_ablation_drops_one_part_and_nothing_else(part):
    full = reward_functions(WEIGHTS, "full")
    assert set(full) - set(reward_functions(WEIGHTS, f"no_{part}")) == {part}
    assert total(RIGHT, f"no_{part}") == pytest.approx(total(RIGHT) - full[part](RIGHT))


def test_other_rewards():
    cases = (RIGHT, WRONG, ERROR, BAD_FORMAT_BUT_RIGHT)
    assert [total(o, "binary") for o in cases] == [1, 0, 0, 0]
    assert [total(o, "graded") for o in cases] == [1, 0.1, 0, 0]


def test_weights_come_from_the_settings():
    settings = Reward.model_validate({"execution": {"right": 0.5, "wrong": 0}, "result": {"right": 10, "wrong": 0}})
    assert total(WRONG, settings=settings) == 1.5
    assert total(RIGHT, "no_length", settings) == 11.5


def test_every_part_belongs_to_a_reward():
    assert {part for variant in REWARDS.values() for part in variant.parts} == set(PARTS)


def test_the_tables_can_be_read_without_heavy_libraries():
    heavy = ("torch", "sqlglot", "pydantic", "transformers")
    code = f"import sys, sqlr1.rewards, sqlr1.prompt; sys.exit([m for m in {heavy} if m in sys.modules] or 0)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    path = tmp_path_factory.mktemp("rewards") / "pets.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE pet (name TEXT, age INTEGER)")
        connection.executemany("INSERT INTO pet VALUES (?, ?)", [("Rex", 3), ("Ada", 5), ("Kit", 5)])
    return path


def test_outcomes_of_real_completions(database):
    gold = "SELECT name FROM pet WHERE age = 5"
    completions = {
        format_response("By age.", "SELECT name FROM pet WHERE age > 4"): (True, True, True),
        format_response("", "SELECT name FROM pet -- all\nWHERE age = 5"): (True, True, True),
        format_response("All.", "SELECT name FROM pet"): (True, True, False),
        format_response("", "SELECT nam FROM pet"): (True, False, False),
        format_response("", "DROP TABLE pet"): (True, False, False),
        "```sql\nSELECT name FROM pet WHERE age = 5\n```": (False, True, True),
        "<think></think><answer>none</answer>": (False, False, False),
        "": (False, False, False),
    }
    with Executor(workers=1) as executor:
        judged = outcomes(executor, list(completions), [gold] * len(completions), [database] * len(completions), "bird")
    assert [(o.well_formed, o.executes, o.matches) for o in judged] == list(completions.values())
    assert judged[0].think_length == len("By age.")
    assert judged[0].sql_length == len("SELECT name FROM pet WHERE age > 4")


def test_a_failing_gold_gives_no_reward(database):
    with Executor(workers=1) as executor:
        (judged,) = outcomes(
            executor, [format_response("", "SELECT 1")], ["SELECT nothing FROM nowhere"], [database], "bird"
        )
    assert not judged.judged
    assert [f(judged) for f in reward_functions(WEIGHTS, "full").values()] == [None] * 4


def test_any_plausible_part_has_keys(monkeypatch):
    """Penalties and zero, no annotation, no docstring, no number: the configuration is made of them at import."""

    def short(outcome, right: int = 1, wrong: int = 0, malus: int = -1, weight=1, strict: bool = False):
        return right

    monkeypatch.setitem(PARTS, "short", short)
    section, field = config._part_keys()["short"]
    assert (field.description, section().model_dump()) == (
        "short",
        {"right": 1, "wrong": 0, "malus": -1, "weight": 1.0, "strict": False},
    )
    assert section(wrong=-2, malus=3, weight=0.5, strict=True).wrong == -2
    for wrong in ({"right": 0}, {"wrong": 0.5}, {"strict": 1}):
        with pytest.raises(ValidationError, match=next(iter(wrong))):
            section(**wrong)
