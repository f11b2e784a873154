"""Exact resume: checkpoints that are whole or not there.

The Trainer's checkpoint holds weights, optimiser, scheduler, RNG states of python, numpy and torch, and the log
history. What it lacks is a sign that it was written to the end: a run may be killed within a save.
"""

import logging
import os
import shutil
from pathlib import Path

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

log = logging.getLogger(__name__)

_MARK = "complete"


def last_checkpoint(work: Path) -> str | None:
    """The newest complete checkpoint in `work`, None when there is none; half-written ones are deleted."""
    found = []
    for folder in work.glob("checkpoint-*"):
        if (folder / _MARK).exists():
            found.append(folder)
        else:
            log.warning("%s was not written to the end: deleted", folder)
            shutil.rmtree(folder)
    newest = max(found, key=lambda f: int(f.name.rpartition("-")[2]), default=None)
    if newest:
        log.info("resuming from %s", newest)
    return str(newest) if newest else None


class MarkComplete(TrainerCallback):
    """Marks each checkpoint once everything in it is on disk."""

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        """Called after the last file of a checkpoint."""
        if not state.is_world_process_zero:
            return
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        os.sync()
        (folder / _MARK).touch()
