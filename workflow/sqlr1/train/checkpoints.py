"""Exact resume: checkpoints that are whole or not there.

The Trainer's checkpoint holds weights, optimiser, scheduler, RNG states of python, numpy and torch, and the log
history. What it lacks is a sign that it was written to the end: a run may be killed within a save.
"""

import logging
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate import PartialState
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import align_special_tokens

if TYPE_CHECKING:
    from transformers import Trainer

log = logging.getLogger(__name__)

_MARK = "complete"


def last_checkpoint(work: Path) -> str | None:
    """The newest complete checkpoint in `work`, None when there is none."""
    found = [folder for folder in work.glob("checkpoint-*") if (folder / _MARK).exists()]
    newest = max(found, key=lambda f: int(f.name.rpartition("-")[2]), default=None)
    if newest:
        log.info("resuming from %s", newest)
    return str(newest) if newest else None


def _delete_incomplete(work: Path) -> None:
    for folder in work.glob("checkpoint-*"):
        if not (folder / _MARK).exists():
            log.warning("%s was not written to the end: deleted", folder)
            shutil.rmtree(folder)


def train_on(trainer: "Trainer", work: Path) -> list[dict[str, Any]]:
    """Train to the end, from the last checkpoint in `work` if there is one. Returns the log history.

    A checkpoint of the last step is loaded and no more: the Trainer would train a step beyond it.
    """
    if trainer.is_world_process_zero():
        _delete_incomplete(work)
    trainer.accelerator.wait_for_everyone()
    checkpoint = last_checkpoint(work)
    state = TrainerState.load_from_json(f"{checkpoint}/{TRAINER_STATE_NAME}") if checkpoint else TrainerState()
    if checkpoint and state.global_step >= state.max_steps:
        trainer._load_from_checkpoint(checkpoint)
        align_special_tokens(trainer.model, trainer.processing_class)  # as `train` does before it begins
        trainer.state = state
        trainer.callback_handler.on_train_begin(trainer.args, state, trainer.control)  # the run gets what was logged
        trainer.callback_handler.on_train_end(trainer.args, state, trainer.control)
    else:
        trainer.train(resume_from_checkpoint=checkpoint)
    return trainer.state.log_history


class MarkComplete(TrainerCallback):
    """Has the last step logged before its checkpoint, and marks each checkpoint once everything in it is on disk."""

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        """What the last step left unlogged a run that goes on after it would not know."""
        control.should_log = control.should_log or state.global_step >= state.max_steps

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        """Called after this process's last file of a checkpoint; each of several writes its random number states."""
        PartialState().wait_for_everyone()
        if not state.is_world_process_zero:
            return
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        os.sync()
        (folder / _MARK).touch()
