"""Validation: a fixed set of questions, answered greedily before, during and after training.

Each step of GRPO has other prompts, so a rising mean reward alone proves nothing.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

from accelerate.utils import gather_object
from tqdm.auto import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from sqlr1.model.sampler import BATCH_TOKENS, GREEDY, Sampling, batches, sample
from sqlr1.train.checkpoints import LogToRun
from sqlr1.train.monitor import COLLAPSE, collapse_signs, summary
from sqlr1.train.policy import rollout_policy, whole_weights

if TYPE_CHECKING:
    from sqlr1.train.grpo_trainer import ExecutionReward

log = logging.getLogger(__name__)

PREFIX = "validation/"


class Validate(TrainerCallback):
    """Scores `rows` (of `grpo_rows`) every `every` steps and appends the result to the log history.

    Each process answers its share of the rows. The random generators are not used. `trainer` has to be set after it
    is made.
    """

    def __init__(self, rows: Sequence[Mapping[str, Any]], reward: "ExecutionReward", every: int) -> None:
        self.rows, self.reward, self.every = rows, reward, every
        self.trainer: Any = None
        self.completions: dict[int, dict[str, str]] = {}  # step -> question's id -> what was answered

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Validate before the first step; a resumed run has that line already."""
        if state.global_step == 0:
            self._record(state)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Validate every `every` steps and after the last one."""
        if state.global_step % self.every == 0 or state.global_step == state.max_steps:
            self._record(state)

    def _record(self, state: TrainerState) -> None:
        scores = self.score()
        before = [entry for entry in state.log_history if f"{PREFIX}match" in entry]
        first = {name: before[0][f"{PREFIX}{name}"] for name in scores} if before else scores
        if distinct := [entry["rollout/distinct"] for entry in state.log_history if "rollout/distinct" in entry]:
            scores["rollouts_distinct"] = mean(distinct[-self.every :])
        signs = collapse_signs(first, scores)
        line: dict[str, Any] = {f"{PREFIX}{n}": v for n, v in (scores | {"collapse_signs": len(signs)}).items()}
        right = "step %d of %d: %.1f %% of %d validation questions right (before training %.1f %%), %.1f %% executable"
        shares = [100 * share for share in (scores["match"], first["match"], scores["executable"])]
        log.info(right, state.global_step, state.max_steps, shares[0], scores["questions"], *shares[1:])
        if signs:
            line[COLLAPSE] = f"step {state.global_step}: the policy may be collapsing: {'; '.join(signs)}"
            log.warning("%s", line[COLLAPSE])
        state.log_history.append({"step": state.global_step, **line})
        for callback in self.trainer.callback_handler.callbacks:
            if isinstance(callback, LogToRun):
                callback.send(line, state.global_step)

    def score(self) -> dict[str, float]:
        """Metrics of the present policy's greedy answers, the same in all processes.

        `monitor.summary`, the mean `reward`, and `questions`: how many questions have a gold that runs. The answers are
        kept in `completions`, for the trainer's present step.
        """
        trainer, accelerator = self.trainer, self.trainer.accelerator
        rows = self.rows[accelerator.process_index :: accelerator.num_processes]
        sampling = Sampling(trainer.max_completion_length)
        prompts = [row["prompt_ids"] for row in rows]
        drawn: list[list[int]] = [[] for _ in rows]
        with whole_weights(trainer) as model:
            policy = rollout_policy(model, trainer)
            grouped = batches([len(prompt) for prompt in prompts], 1, sampling, BATCH_TOKENS)
            for batch in tqdm(grouped, desc="validate", disable=None, leave=False):
                seeds, paths = [[GREEDY]] * len(batch), [Path(rows[i]["database"]) for i in batch]
                masks = trainer.grammars.over(paths, seeds) if trainer.grammars else None
                own_prompts = [prompts[i] for i in batch]
                answers = sample(policy, own_prompts, seeds, sampling, trainer.eos_token_ids, masks)
                for i, [tokens] in zip(batch, answers, strict=True):
                    drawn[i] = tokens
        decode = trainer.processing_class.decode  # not `batch_decode`: a process may have no rows
        own = [decode(tokens, skip_special_tokens=True) for tokens in drawn]
        outcomes = self.reward.outcomes(own, [r["gold"] for r in rows], [r["database"] for r in rows])
        ids = [row["id"] for row in rows]
        judged, texts, ids = zip(*gather_object(list(zip(outcomes, own, ids, strict=True))), strict=True)
        self.completions[trainer.state.global_step] = dict(zip(ids, texts, strict=True))
        rewards = [total for outcome in judged if (total := self.reward.total(outcome)) is not None]
        reward = sum(rewards) / max(1, len(rewards))
        return {**summary(judged, texts), "reward": reward, "questions": sum(outcome.judged for outcome in judged)}

    def completions_of(self, step: int) -> list[str]:
        """What was answered at `step`, in the order of the questions.

        A resumed run has no answers of the steps before: then the present policy, that of `step`, answers again. All
        processes have to call this.
        """
        if step not in self.completions:
            self.score()
            self.completions[step] = self.completions[self.trainer.state.global_step]
        return [self.completions[step][row["id"]] for row in self.rows]
