"""The order of the data from seed and epoch alone: a run resumed in a later epoch goes on in that epoch's order."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import Sampler
from trl.trainer.utils import RepeatSampler

EpochOf = Callable[[], int]


def epoch_of(trainer: Any) -> EpochOf:
    """Tells the epoch that `trainer` is in. Its calls of `set_epoch` would not do: they do not reach the sampler of a
    run of several processes that is resumed within an epoch.
    """
    return lambda: int(trainer.state.epoch or 0)


class SeededByEpoch(Sampler[int]):
    """TRL's order of prompts, whose one generator a resumed run would start anew; in epoch 0 the same as TRL's."""

    def __init__(self, sampler: RepeatSampler, epoch: EpochOf) -> None:
        self.sampler, self.epoch = sampler, epoch

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[int]:
        self.sampler.generator = torch.Generator().manual_seed(self.sampler.seed + 1_000_003 * self.epoch())
        return iter(self.sampler)
