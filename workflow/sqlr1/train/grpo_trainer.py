"""Group relative policy optimisation on execution results (SQL-R1, section 3.2), on TRL's GRPOTrainer.

What differs from TRL: each prompt is computed once (`shared_prompt`); rollouts have seeds of their own, so that a
resumed run draws what an uninterrupted one draws (not those of vLLM, which has a stream of its own); each batch of
completions is executed once, and the parts of the reward read the same verdicts.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlr1.model.prompts import Prompts
from sqlr1.records import Catalogue, InputError, Question
from sqlr1.train.checkpoints import MarkComplete
from sqlr1.train.execution_reward import Judge
from sqlr1.train.shared_prompt import SharedPromptTrainer
from sqlr1.train.tracking_callback import LogToRun, MetricSink
from sqlr1.train.trainer_config import grpo_config, lora_config, named_section
from sqlr1.train.validation import Validate

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger(__name__)


def grpo_rows(
    questions: Sequence[Question], catalogue: Catalogue, prompts: Prompts
) -> tuple[list[dict[str, Any]], int]:
    """Questions as rows of TRL's prompt-only format, and how many were dropped for a prompt over the limit."""
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
    judge: Judge,
    validate: Validate,
    settings: Mapping[str, Any],
    work: Path,
    seed: int,
    run: MetricSink | None = None,
) -> SharedPromptTrainer:
    """The GRPO trainer over `grpo_rows`; checkpoints in `work`.

    Raises InputError for what could not be resumed, for fewer rows than a batch of rollouts asks, and for settings that
    TRL or PEFT refuse.
    """
    from datasets import Dataset

    args = grpo_config(settings, work, seed)
    generate_every = args.steps_per_generation * args.num_iterations
    if int(args.save_steps) * args.gradient_accumulation_steps % generate_every:
        raise InputError(
            f"config key grpo.save_steps: {args.save_steps} steps do not end with a batch of rollouts "
            f"(one lasts {generate_every} passes of {args.gradient_accumulation_steps} a step)"
        )
    asked = args.generation_batch_size // args.num_generations
    if len(rows) < asked:
        raise InputError(
            f"{len(rows)} RL questions are fewer than the {asked} of one batch of rollouts: "
            "raise filter.rl_rows or select.rows"
        )
    # TRL wants the tokenizer's padding on the left for prompts.
    tokenizer.padding_side = "left"
    dataset = Dataset.from_list([{n: r[n] for n in ("prompt", "gold", "database")} for r in rows])
    # Whoever tracks comes first: it sends what a resumed run has logged, and then each line once.
    callbacks = [*([LogToRun(run)] if run else []), validate, MarkComplete()]
    functions, lora = judge.functions(), lora_config(settings.lora)
    with named_section("grpo"):  # TRL and PEFT refuse some settings only when they see the model
        trainer = SharedPromptTrainer(
            model=model,
            args=args,
            reward_funcs=functions,
            train_dataset=dataset,
            processing_class=tokenizer,
            peft_config=lora,
            callbacks=callbacks,
            shared_prompt=settings.get("shared_prompt", True),
            refill_rounds=(settings.get("dynamic_sampling") or {}).get("refill_rounds"),
        )
    validate.trainer = trainer
    return trainer
