"""Which questions a policy can learn from: those its own samples answer sometimes, neither never nor always.

A group whose completions all earn the same has no advantage, so a question that is always or never solved costs a
rollout and teaches nothing. With pass rate p a group of G has variance with probability 1 - p^G - (1 - p)^G.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlr1.config import Select
from sqlr1.records import SQL_CLASSES, Question


@dataclass(frozen=True)
class PassRate:
    """How a policy answered one question: counts over `samples` completions, and whether it was selected."""

    id: str
    sql_class: str
    samples: int
    executable: int
    matches: int
    selected: bool = False

    @property
    def rate(self) -> float:
        """Share of the samples whose result is the gold's; in [0, 1]."""
        return self.matches / self.samples


def select(rates: Sequence[PassRate], settings: Select) -> tuple[list[int], int]:
    """Indices of the selected questions, and how many of them lie outside the band.

    `settings` is the config section `select`: pass rates from `low` to `high` are wanted; of more than `rows` the ones
    nearest to one half stay, for they have the most variance; what the band lacks of `rows` is filled with the
    questions nearest to it, the solved ones first. `rows` null takes the band as it is.
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
    """Questions by class, then by falling pass rate: the curriculum that `grpo.shuffle_dataset: false` keeps."""
    order = sorted(
        range(len(questions)),
        key=lambda i: (SQL_CLASSES.index(questions[i].sql_class), -rates[i].rate, questions[i].id),
    )
    return [questions[i] for i in order]
