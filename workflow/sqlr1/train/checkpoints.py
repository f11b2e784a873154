"""Exact resume: a run that is killed and started again writes the same bytes as one that was never interrupted.

The Trainer's checkpoint holds weights, optimizer, scheduler, the random states of python, numpy and torch, and the log
history. This module adds a mark for complete checkpoints (a run may be killed while it saves), an order of the data
that depends on seed and epoch alone, and logs that are complete after a resume.
"""

import logging
import math
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate import PartialState
from torch.utils.data import Sampler
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import ProgressCallback
from transformers.trainer_utils import align_special_tokens

from sqlr1.records import write_jsonl
from sqlr1.tracking import Run
from sqlr1.train.monitor import MATCH, STALLED_STEPS, best_step, stalls

if TYPE_CHECKING:
    from transformers import Trainer

log = logging.getLogger(__name__)

_MARK = "complete"
# Not in metrics.jsonl: times differ between equal runs, and `num_tokens` starts from zero after a resume.
_VARYING = ("runtime", "per_second", "step_time", "num_tokens", "total_flos")


def train_on(trainer: "Trainer", work: Path) -> list[dict[str, Any]]:
    """Train to the end, from the last complete checkpoint in `work` if there is one. Returns the log history.

    If that is the checkpoint of the last step, it is only loaded: the Trainer would train one step more.
    """
    if trainer.is_world_process_zero():
        for folder in work.glob("checkpoint-*"):
            if not (folder / _MARK).exists():
                log.warning("%s is incomplete: deleted", folder)
                shutil.rmtree(folder)
    trainer.accelerator.wait_for_everyone()
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(Progress())
    found = [folder for folder in work.glob("checkpoint-*") if (folder / _MARK).exists()]
    checkpoint = str(max(found, key=lambda folder: int(folder.name.rpartition("-")[2]))) if found else None
    if checkpoint:
        log.info("resuming from %s", checkpoint)
    state = TrainerState.load_from_json(f"{checkpoint}/{TRAINER_STATE_NAME}") if checkpoint else TrainerState()
    if checkpoint and state.global_step >= state.max_steps:
        trainer._load_from_checkpoint(checkpoint)
        align_special_tokens(trainer.model, trainer.processing_class)  # `train` does this first, too
        trainer.state = state
        trainer.callback_handler.on_train_begin(trainer.args, state, trainer.control)  # sends the history to the run
        trainer.callback_handler.on_train_end(trainer.args, state, trainer.control)
    else:
        trainer.train(resume_from_checkpoint=checkpoint)
    return trainer.state.log_history


def load_best(trainer: "Trainer") -> int:
    """Load the policy of the best validated step (`monitor.best_step`) after training; returns the step.

    `MarkComplete(keep_best=True)` has kept its checkpoint.
    """
    best = best_step(trainer.state.log_history)
    if best != trainer.state.global_step:
        trainer._load_from_checkpoint(f"{trainer.args.output_dir}/checkpoint-{best}")
        align_special_tokens(trainer.model, trainer.processing_class)
    log.info("the policy of step %d, the best validated one, is kept", best)
    return best


class MarkComplete(TrainerCallback):
    """Logs the last step before its checkpoint, and marks each checkpoint once all of its files are on disk.

    With `keep_best` the Trainer never deletes the checkpoint of the best validated step. Its own way of choosing one
    would name a new best checkpoint before all of its files are there, and delete the old one.
    """

    def __init__(self, keep_best: bool = False) -> None:
        self.keep_best = keep_best

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Name the best checkpoint: a resumed state was written before its own checkpoint was complete."""
        self._protect(args, state)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        """Log the last step too; a resumed run cannot recover it."""
        control.should_log = control.should_log or state.global_step >= state.max_steps

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        """Called in every process after its last file; each process writes its own random states."""
        PartialState().wait_for_everyone()
        if not state.is_world_process_zero:
            return
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        os.sync()
        (folder / _MARK).touch()
        self._protect(args, state)

    def _protect(self, args: TrainingArguments, state: TrainerState) -> None:
        if self.keep_best and (best := best_step(state.log_history)):
            state.best_model_checkpoint = str(Path(args.output_dir) / f"checkpoint-{best}")


class ByEpoch(Sampler[int]):
    """Row numbers in the order that `order(epoch)` gives: it depends on the epoch alone.

    The Trainer's `set_epoch` is not enough: if several processes resume within an epoch, it does not reach the sampler.
    """

    def __init__(self, trainer: "Trainer", length: int, order: Callable[[int], Iterable[int]]) -> None:
        self.trainer, self.length, self.order = trainer, length, order

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[int]:
        return iter(self.order(int(self.trainer.state.epoch or 0)))


class Progress(ProgressCallback):
    """The Trainer's progress bar, with the last loss, reward and validation beside the time left.

    The stock one prints each log line as a dictionary instead, GRPO's with some thirty entries.
    """

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict[str, Any], **_: Any
    ) -> None:
        """Show the line's loss and reward, and the last validation so far."""
        if self.training_bar is None:
            return
        latest: dict[str, Any] = {}
        for line in (*state.log_history, logs):
            latest |= line
        shown = {name: f"{latest[name]:.3g}" for name in ("loss", "reward") if name in latest}
        if MATCH in latest:
            shown["validation"] = f"{100 * latest[MATCH]:.1f} %"
        self.training_bar.set_postfix(shown)


class LogToRun(TrainerCallback):
    """Sends every log line to the MLflow run; after a resume first the earlier lines, so that charts are complete."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Send the history of the checkpoint."""
        if state.is_world_process_zero:
            for line in state.log_history:
                self.send(line, line["step"])

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict[str, Any], **_: Any
    ) -> None:
        """Send one line."""
        if state.is_world_process_zero:
            self.send(logs, state.global_step)

    def send(self, line: Mapping[str, Any], step: int) -> None:
        """Send the finite numbers of a line as metrics, and its texts as tags, which replace earlier ones."""
        if texts := {name: text for name, text in line.items() if isinstance(text, str)}:
            self.run.tags(texts)
        values = {name: float(v) for name, v in line.items() if isinstance(v, (int, float)) and name != "step"}
        self.run.metrics({name: v for name, v in values.items() if math.isfinite(v)}, step)


class WarnOfStalls(TrainerCallback):
    """Warns once in the log, and in the MLflow run's tag `stalls`, as soon as 10 steps taught nothing."""

    def __init__(self, run: Run | None) -> None:
        self.run, self.warned = run, False

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Look at the steps so far. The last line is already in the history."""
        enough = state.global_step >= min(STALLED_STEPS, state.max_steps)
        if enough and not self.warned and state.is_world_process_zero and (found := stalls(state.log_history)):
            self.warned = True
            log.warning("nothing is learnt: %s", "; ".join(found))
            if self.run:
                self.run.tags({"stalls": "; ".join(found)})


def write_metrics(path: Path, history: list[dict[str, Any]]) -> None:
    """Write lines of the log history as JSONL, keys sorted, without the values that differ between equal runs."""
    kept = ({n: v for n, v in line.items() if not any(word in n for word in _VARYING)} for line in history)
    lines = (line for line in kept if line.keys() - {"step", "epoch", "train_loss"})
    write_jsonl(path, ({"step": line["step"]} | dict(sorted(line.items())) for line in lines))
