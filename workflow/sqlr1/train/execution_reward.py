"""Rewards as TRL wants them: functions of a batch of completions, here over one execution of the batch."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sqlr1.outcomes import Outcome, outcomes
from sqlr1.rewards import Reward
from sqlr1.sandbox import Executor

RewardFunction = Callable[..., list[float | None]]


class Judge:
    """Executes each batch of completions once; TRL calls every reward function with the same batch."""

    def __init__(self, executor: Executor, semantics: str, rewards: Mapping[str, Reward]) -> None:
        self.executor, self.semantics, self.rewards = executor, semantics, rewards
        self._key: list[str] = []
        self._outcomes: list[Outcome] = []

    def functions(self) -> list[RewardFunction]:
        """One function a part, named after it (TRL logs `rewards/NAME/mean`)."""
        return [self._function(name, reward) for name, reward in self.rewards.items()]

    def outcomes(self, completions: Sequence[str], golds: Sequence[str], databases: Sequence[str]) -> list[Outcome]:
        """The outcomes of a batch, from the last call where that was the same batch."""
        key = [*completions, *golds, *databases]
        if self._key != key:
            paths = [Path(database) for database in databases]
            self._outcomes = outcomes(self.executor, completions, golds, paths, self.semantics)
            self._key = key
        return self._outcomes

    def total(self, outcome: Outcome) -> float | None:
        """The whole reward of an outcome; None where it cannot be judged."""
        parts = [reward(outcome) for reward in self.rewards.values()]
        return None if None in parts else sum(parts)

    def _function(self, name: str, reward: Reward) -> RewardFunction:
        first = name == next(iter(self.rewards))

        def function(
            completions: list[Any],
            gold: list[str],
            database: list[str],
            log_metric: Callable[[str, float], None],
            **_: Any,
        ) -> list[float | None]:
            texts = [message[0]["content"] for message in completions]
            judged = self.outcomes(texts, gold, database)
            if first:
                for share, value in summary(judged, texts).items():
                    log_metric(f"rollout/{share}", value)
            return [reward(outcome) for outcome in judged]

        function.__name__ = name
        return function


def summary(judged: Sequence[Outcome], texts: Sequence[str]) -> dict[str, float]:
    """What a batch came to: shares of right format, executable, matching, and of SQL that joins or groups, among the
    completions whose gold can be run; of distinct texts, and mean characters, among all.
    """
    counted = [outcome for outcome in judged if outcome.judged]
    number = max(1, len(counted))
    return {
        "format": sum(o.well_formed for o in counted) / number,
        "executable": sum(o.executes for o in counted) / number,
        "match": sum(o.matches for o in counted) / number,
        "distinct": len(set(texts)) / len(texts),
        "characters": sum(map(len, texts)) / len(texts),
        "joins_or_groups": sum(o.joins_or_groups for o in counted) / number,
    }
