"""Group relative policy optimization on execution results (SQL-R1, section 3.2), with TRL's GRPOTrainer.

Differences from TRL: 1. each prompt is computed once (`shared_prompt`); 2. each rollout has a seed of its own, so that
a resumed run draws the same ones (except with vLLM, which has its own random stream); 3. each completion is executed
once for all parts of the reward.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlr1.config import Grpo
from sqlr1.model.prompts import Prompts
from sqlr1.records import Catalogue, InputError, Question
from sqlr1.tracking import Run
from sqlr1.train.checkpoints import LogToRun, MarkComplete
from sqlr1.train.execution_reward import ExecutionReward
from sqlr1.train.shared_prompt import SharedPromptTrainer
from sqlr1.train.trainer_config import grpo_config, lora_config, named_section
from sqlr1.train.validation import Validate

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def grpo_rows(
    questions: Sequence[Question], catalogue: Catalogue, prompts: Prompts
) -> tuple[list[dict[str, Any]], int]:
    """Questions as rows in TRL's prompt-only format, and how many were dropped because their prompt is too long."""
    rows = []
    for question in questions:
        database = catalogue[question.db_id]
        ids = prompts.token_ids(question, database)
        if ids is not None:
            row = {"id": question.id, "prompt": prompts.messages(question, database), "prompt_ids": ids}
            rows.append({**row, "gold": question.sql, "database": str(database)})
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

    Raises InputError if a checkpoint could fall within a batch of rollouts, if there are fewer rows than such a batch
    needs, and for settings that TRL or PEFT refuse.
    """
    from datasets import Dataset

    args = grpo_config(settings, work, seed)
    generate_every = args.steps_per_generation * args.num_iterations
    if int(args.save_steps) * args.gradient_accumulation_steps % generate_every:
        raise InputError(
            f"config key grpo.save_steps: {args.save_steps} steps end within a batch of rollouts, which lasts for "
            f"{generate_every} passes ({args.gradient_accumulation_steps} passes per step)"
        )
    asked = args.generation_batch_size // args.num_generations
    if len(rows) < asked:
        raise InputError(
            f"{len(rows)} RL questions are fewer than the {asked} of one batch of rollouts: "
            "raise filter.rl_rows or select.rows"
        )
    tokenizer.padding_side = "left"  # as TRL requires for prompts
    dataset = Dataset.from_list([{n: r[n] for n in ("prompt", "gold", "database")} for r in rows])
    # LogToRun comes first: it has to send the history of a resumed run before any new line.
    callbacks = [*([LogToRun(run)] if run else []), validate, MarkComplete()]
    functions, lora = reward.functions(), lora_config(settings.lora)
    with named_section("grpo"):  # some settings are refused only when the model is known
        trainer = SharedPromptTrainer(
            model=model,
            args=args,
            reward_funcs=functions,
            train_dataset=dataset,
            processing_class=tokenizer,
            peft_config=lora,
            callbacks=callbacks,
            shared_prompt=settings.shared_prompt,
            refill_rounds=settings.dynamic_sampling.refill_rounds if settings.dynamic_sampling else None,
        )
    validate.trainer = trainer
    return trainer
