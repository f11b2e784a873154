"""Group relative policy optimization on execution results (SQL-R1, section 3.2), with TRL's GRPOTrainer.

Differences from TRL: 1. each prompt is computed once (`shared_prompt`); 2. each rollout has a seed of its own, so that
a resumed run draws the same ones (except with vLLM, which has its own random stream); 3. each completion is executed
once for all parts of the reward.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlr1.config import Grpo
from sqlr1.model.prompts import Prompts
from sqlr1.outcomes import Outcome, outcomes
from sqlr1.records import Catalogue, InputError, Question
from sqlr1.rewards import Reward
from sqlr1.sandbox import Executor
from sqlr1.tracking import Run
from sqlr1.train.checkpoints import LogToRun, MarkComplete, WarnOfStalls
from sqlr1.train.monitor import summary
from sqlr1.train.policy import vllm_weights_in
from sqlr1.train.shared_prompt import SharedPromptTrainer
from sqlr1.train.trainer_config import lora_config, named_section, trainer_config
from sqlr1.train.validation import Validate

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class ExecutionReward:
    """Parts of a reward, by name, over one execution per completion.

    TRL calls each part's function with the same batch. The batch is executed at the first call, and the outcomes are
    kept for the others.
    """

    def __init__(self, executor: Executor, semantics: str, parts: Mapping[str, Reward]) -> None:
        self.executor, self.semantics, self.parts = executor, semantics, parts
        self._judged = lru_cache(maxsize=1)(partial(outcomes, executor, semantics=semantics))

    def functions(self) -> list[Callable[..., list[float | None]]]:
        """TRL's reward functions. Each has the name of its part, under which TRL logs it (`rewards/NAME/mean`)."""
        return [self._function(name) for name in self.parts]

    def outcomes(self, completions: Sequence[str], golds: Sequence[str], databases: Sequence[str]) -> list[Outcome]:
        """The outcomes of a batch; the last batch is not executed again."""
        return self._judged(tuple(completions), tuple(golds), tuple(map(Path, databases)))

    def total(self, outcome: Outcome) -> float | None:
        """The sum of the parts; None if the outcome's gold cannot be run."""
        values = [part(outcome) for part in self.parts.values()]
        return None if None in values else sum(values)

    def _function(self, name: str) -> Callable[..., list[float | None]]:
        part, is_first = self.parts[name], name == next(iter(self.parts))

        def function(completions: list, gold: list[str], database: list[str], log_metric: Callable, **_: Any) -> list:
            texts = [messages[0]["content"] for messages in completions]
            judged = self.outcomes(texts, gold, database)
            if is_first:
                for metric, value in summary(judged, texts).items():
                    log_metric(f"rollout/{metric}", value)
            return [part(outcome) for outcome in judged]

        function.__name__ = name
        return function


def grpo_rows(
    questions: Sequence[Question], catalogue: Catalogue, prompts: Prompts
) -> tuple[list[dict[str, Any]], int]:
    """Questions as rows in TRL's prompt-only format, and how many were dropped because their prompt is too long."""
    rows = []
    for question in questions:
        database = catalogue[question.db_id]
        messages, ids = prompts.prompt(question, database)
        if ids is not None:
            row = {"id": question.id, "prompt": messages, "prompt_ids": ids}
            rows.append({**row, "question": question.question, "gold": question.sql, "database": str(database)})
    return rows, len(questions) - len(rows)


def make_trainer(
    model: "PreTrainedModel",
    tokenizer: Any,
    rows: Sequence[Mapping[str, Any]],
    reward: ExecutionReward,
    validate: Validate,
    settings: Grpo,
    work: Path,
    seed: int,
    run: Run | None = None,
) -> SharedPromptTrainer:
    """The GRPO trainer over `grpo_rows`; checkpoints go to `work`.

    Raises InputError if there are fewer rows than a batch of rollouts needs, and for settings that TRL or PEFT refuse.
    """
    from datasets import Dataset

    args = trainer_config(settings, work, seed)
    asked = args.generation_batch_size // args.num_generations
    if len(rows) < asked:
        raise InputError(
            f"{len(rows)} RL questions are fewer than the {asked} of one batch of rollouts: "
            "raise filter.rl_rows or select.rows"
        )
    tokenizer.padding_side = "left"  # as TRL requires for prompts
    dataset = Dataset.from_list([{n: r[n] for n in ("prompt", "gold", "database")} for r in rows])
    # LogToRun comes first: it has to send the history of a resumed run before any new line.
    callbacks = [*([LogToRun(run)] if run else []), validate, WarnOfStalls(run), MarkComplete(settings.keep == "best")]
    lora, sampling = lora_config(settings.lora), settings.dynamic_sampling
    # Some settings are refused only when the model is known. Rollouts are in the precision of the products.
    with named_section("grpo"), vllm_weights_in("bfloat16" if args.bf16 else "float32"):
        trainer = SharedPromptTrainer(
            model=model, args=args, reward_funcs=reward.functions(), train_dataset=dataset, processing_class=tokenizer,
            peft_config=lora, callbacks=callbacks, shared_prompt=settings.shared_prompt,
            refill_rounds=sampling.refill_rounds if sampling else None, constrained=settings.constrained,
        )  # fmt: skip
    validate.trainer = trainer
    return trainer
