"""The reward of a batch of completions in the form that TRL expects: one function per part."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sqlr1.outcomes import Outcome, outcomes
from sqlr1.rewards import Reward
from sqlr1.sandbox import Executor


class ExecutionReward:
    """Parts of a reward, by name, over one execution per completion.

    TRL calls each part's function with the same batch. The batch is executed at the first call, and the outcomes are
    kept for the others.
    """

    def __init__(self, executor: Executor, semantics: str, parts: Mapping[str, Reward]) -> None:
        self.executor, self.semantics, self.parts = executor, semantics, parts
        self._batch: list[str] = []
        self._outcomes: list[Outcome] = []

    def functions(self) -> list[Callable[..., list[float | None]]]:
        """TRL's reward functions. Each has the name of its part, under which TRL logs it (`rewards/NAME/mean`)."""
        return [self._function(name) for name in self.parts]

    def outcomes(self, completions: Sequence[str], golds: Sequence[str], databases: Sequence[str]) -> list[Outcome]:
        """The outcomes of a batch; the last batch is not executed again."""
        batch = [*completions, *golds, *databases]
        if self._batch != batch:
            paths = [Path(database) for database in databases]
            self._outcomes = outcomes(self.executor, completions, golds, paths, self.semantics)
            self._batch = batch
        return self._outcomes

    def total(self, outcome: Outcome) -> float | None:
        """The sum of the parts; None if the outcome's gold cannot be run."""
        values = [part(outcome) for part in self.parts.values()]
        return None if None in values else sum(values)

    def _function(self, name: str) -> Callable[..., list[float | None]]:
        part, is_first = self.parts[name], name == next(iter(self.parts))

        def function(
            completions: list[Any],
            gold: list[str],
            database: list[str],
            log_metric: Callable[[str, float], None],
            **_: Any,
        ) -> list[float | None]:
            texts = [messages[0]["content"] for messages in completions]
            judged = self.outcomes(texts, gold, database)
            if is_first:
                for metric, value in summary(judged, texts).items():
                    log_metric(f"rollout/{metric}", value)
            return [part(outcome) for outcome in judged]

        function.__name__ = name
        return function


def summary(judged: Sequence[Outcome], texts: Sequence[str]) -> dict[str, float]:
    """Metrics of a batch of completions.

    Shares of well-formed, executable and matching completions, and of SQL that joins or groups, among the completions
    whose gold can be run; the share of distinct texts and their mean length in characters, among all.
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
