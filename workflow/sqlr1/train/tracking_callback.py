"""What a trainer logs: to a `Run` (MLflow) at every step, and to metrics.jsonl when it ends."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from sqlr1.records import write_jsonl

# Times differ between equal runs; `num_tokens` starts from zero after a resume.
_VARYING = ("runtime", "per_second", "step_time", "num_tokens", "total_flos")


class MetricSink(Protocol):
    """What `tracking.Run` offers."""

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Record scalars at a step."""

    def tags(self, values: Mapping[str, Any]) -> None:
        """Set tags."""


class LogToRun(TrainerCallback):
    """Sends every log line to the run; after a resume, first the lines of the part before, so that charts are whole."""

    def __init__(self, run: MetricSink) -> None:
        self.run = run

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Replay the history of the checkpoint."""
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
        """Send the finite numbers of a line, and its words as tags: of each the latest stays."""
        if words := {name: text for name, text in line.items() if isinstance(text, str)}:
            self.run.tags(words)
        values = {name: float(v) for name, v in line.items() if isinstance(v, (int, float)) and name != "step"}
        self.run.metrics({name: v for name, v in values.items() if math.isfinite(v)}, step)


def write_metrics(path: Path, history: list[dict[str, Any]]) -> None:
    """Write lines of the log history as JSONL, keys sorted, without what differs between two equal runs."""
    lines = []
    for line in history:
        kept = {n: v for n, v in line.items() if not any(word in n for word in _VARYING)}
        if len(set(kept) - {"step", "epoch", "train_loss"}) > 0:
            lines.append({"step": line["step"], **{n: kept[n] for n in sorted(kept) if n != "step"}})
    write_jsonl(path, lines)
