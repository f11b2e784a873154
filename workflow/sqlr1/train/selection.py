"""Selects the questions that a policy can learn from: those that its samples solve sometimes.

If all completions of a group have the same reward, all advantages are zero. So a question that is always or never
solved costs rollouts and teaches nothing. With pass rate p, a group of G has variance with probability
1 - p^G - (1 - p)^G.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlr1.config import Select
from sqlr1.records import SQL_CLASSES, Question


@dataclass(frozen=True)
class PassRate:
    """A policy's answers to one question: counts among its `samples` completions, and whether it was selected."""

    id: str
    sql_class: str
    samples: int
    executable: int
    matches: int
    selected: bool = False

    @property
    def rate(self) -> float:
        """Share of the samples whose result matches the gold's, in [0, 1]."""
        return self.matches / self.samples


def select(rates: Sequence[PassRate], settings: Select) -> tuple[list[int], int]:
    """Indices of the selected questions, and how many of them are outside the band.

    The band is the pass rates from `settings.low` to `settings.high`. If more than `settings.rows` questions are in
    it, those with a pass rate closest to 0.5 are kept, because they have the most variance. If fewer are, the questions
    closest to the band are added, solved ones first. `rows` None takes the whole band.
    """
    low, high = settings.low, settings.high
    wanted = [i for i, r in enumerate(rates) if low <= r.rate <= high]
    if settings.rows is None:
        return wanted, 0
    wanted = sorted(wanted, key=lambda i: (abs(rates[i].rate - 0.5), i))[: settings.rows]
    others = [i for i, r in enumerate(rates) if not low <= r.rate <= high]
    others.sort(key=lambda i: (max(low - rates[i].rate, rates[i].rate - high), -rates[i].rate, i))
    filled = others[: settings.rows - len(wanted)]
    return wanted + filled, len(filled)


def easy_first(questions: Sequence[Question], rates: Sequence[PassRate]) -> list[Question]:
    """Questions by class, then by falling pass rate: a curriculum, which `grpo.shuffle_dataset: false` keeps."""
    order = sorted(
        range(len(questions)),
        key=lambda i: (SQL_CLASSES.index(questions[i].sql_class), -rates[i].rate, questions[i].id),
    )
    return [questions[i] for i in order]
