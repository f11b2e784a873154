"""Rewards: pure functions of the outcome of a completion, and the sums of them to train with.

SQL-R1's reward has four parts (paper, equations 2 to 5). F: the format is right; E: the SQL executes within the limits;
M: its result matches that of the gold SQL.

    format     F: 1, else -1
    execution  F and E: 2; F and not E: -2; not F: 0
    result     F, E and M: 3; F, E and not M: -3; otherwise 0
    length     M: 0.5 * min(1, L / max_length) + len_sql / len_answer, L = len_think + len_answer; otherwise 0

Lengths are in characters, as in the released code. A right answer earns 6 to 7.5, a wrong result 0, an error -1, a bad
format -1. Two rewards from later work are also here: `binary` (1 / 0) and `graded` (1 / 0.1 / 0, Arctic-Text2SQL-R1).
If the gold fails or the database is missing, the reward is None: no advantage, and no part in the group's mean.

To add a reward: write a pure function of an outcome, name it in `PARTS`, and add a row to `REWARDS`. Its keyword
arguments become keys of the config section `reward`: each needs a default, its annotation is its type (float without
one), and an int whose default is above 0 must stay above 0. Targets, schema, tables, labels, curves follow from here.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlr1.outcomes import Outcome


def format_reward(outcome: Outcome, right: float = 1.0, wrong: float = -1.0) -> float:
    """S_f, equation 2.

    >>> format_reward(Outcome(True, False, False, 0, 20, 8)), format_reward(Outcome(False, True, True, 0, 0, 8))
    (1.0, -1.0)
    """
    return right if outcome.well_formed else wrong


def execution_reward(outcome: Outcome, right: float = 2.0, wrong: float = -2.0) -> float:
    """S_e, equation 3: nothing is earned or lost without the format.

    >>> execution_reward(Outcome(True, True, False, 0, 20, 8)), execution_reward(Outcome(False, True, True, 0, 0, 8))
    (2.0, 0.0)
    """
    if not outcome.well_formed:
        return 0.0
    return right if outcome.executes else wrong


def result_reward(outcome: Outcome, right: float = 3.0, wrong: float = -3.0) -> float:
    """S_r, equation 4: 0 unless the answer is well-formed and executes.

    >>> result_reward(Outcome(True, True, False, 0, 20, 8)), result_reward(Outcome(True, False, False, 0, 20, 8))
    (-3.0, 0.0)
    """
    if not (outcome.well_formed and outcome.executes):
        return 0.0
    return right if outcome.matches else wrong


def length_reward(outcome: Outcome, max_length: int = 2048) -> float:
    """S_l, equation 5: pays for reasoning up to `max_length`, and for an answer that is mostly SQL.

    >>> length_reward(Outcome(True, True, True, think_length=1004, answer_length=20, sql_length=10), max_length=2048)
    0.75
    """
    if not (outcome.well_formed and outcome.executes and outcome.matches):
        return 0.0
    total = outcome.think_length + outcome.answer_length
    return 0.5 * min(1.0, total / max_length) + outcome.sql_length / outcome.answer_length


def binary_reward(outcome: Outcome) -> float:
    """1 for a well-formed match, else 0."""
    return float(outcome.well_formed and outcome.matches)


def graded_reward(outcome: Outcome) -> float:
    """1 for a well-formed match, 0.1 for another answer that executes, else 0 (Arctic-Text2SQL-R1)."""
    if not (outcome.well_formed and outcome.executes):
        return 0.0
    return 1.0 if outcome.matches else 0.1


# The parts under their names in the configuration, MLflow and figures.
PARTS: dict[str, Callable[..., float]] = {
    "format": format_reward,
    "execution": execution_reward,
    "result": result_reward,
    "length": length_reward,
    "binary": binary_reward,
    "graded": graded_reward,
}


@dataclass(frozen=True)
class RewardVariant:
    """A reward to train with: the sum of its parts.

    `ablated`: a row of `snakemake ablation_reward`. `published`: the paper's vote on BIRD dev, in percent, for RL from
    the base model (Qwen2.5-Coder-7B, table 3).
    """

    parts: tuple[str, ...]
    label: str
    ablated: bool = False
    published: float | None = None


REWARDS = {
    "full": RewardVariant(("format", "execution", "result", "length"), "GRPO", True, 63.1),
    "no_format": RewardVariant(("execution", "result", "length"), "GRPO without format reward", True, 60.4),
    "no_execution": RewardVariant(("format", "result", "length"), "GRPO without execution reward", True, 60.7),
    "no_result": RewardVariant(("format", "execution", "length"), "GRPO without result reward", True, 62.4),
    "no_length": RewardVariant(("format", "execution", "result"), "GRPO without length reward", True, 61.0),
    "binary": RewardVariant(("binary",), "GRPO (binary reward)"),
    "graded": RewardVariant(("graded",), "GRPO (graded reward)"),
}

Reward = Callable[[Outcome], float | None]


def reward_functions(settings: Any, variant: str) -> dict[str, Reward]:
    """The parts of reward `variant` by name, with the weights of the config section `reward` (a `config.Reward`)."""

    def of_judged(part: str) -> Reward:
        weights = getattr(settings, part).model_dump() if part in type(settings).model_fields else {}
        return lambda outcome: PARTS[part](outcome, **weights) if outcome.judged else None

    return {part: of_judged(part) for part in REWARDS[variant].parts}
