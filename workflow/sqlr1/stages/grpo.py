"""GRPO: reinforcement learning of the policy on the execution results of its own SQL.

Method (SQL-R1, section 3.2): G completions per question, a reward of `sqlr1.rewards`, group-normalized advantages,
clipped ratios, a KL penalty. Deviations: 1. LoRA unless `lora` is null; 2. the KL term is a penalty, as intended;
3. completions whose gold fails get no reward and no advantage; 4. validation before, during and after training.

    python -m sqlr1.stages.grpo --model-manifest cold_start/manifest.json --questions filter/rl.jsonl \
        --validation filter/validation.jsonl --catalogue synthesize/catalogue.jsonl --reward-variant full \
        --out grpo --settings '{"grpo": {...}, "reward": {...}, "prompt": {...}, "execution": {...}}'
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sqlr1.database.files import data_root
from sqlr1.model.base import MODEL_FILES, check_room, fix_numerics, load_tokenizer, model_folder, native_precision
from sqlr1.records import Catalogue, InputError
from sqlr1.rewards import REWARDS, reward_functions
from sqlr1.sandbox import Executor, Limits
from sqlr1.stages.common import GOLD_CACHE, Job, add_workers, kept_rows, stage, stage_parser

log = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> None:
    parser = stage_parser(__doc__)
    parser.add_argument("--model-manifest", type=Path, required=True, help="manifest of the stage that made the model")
    parser.add_argument("--questions", type=Path, required=True)
    parser.add_argument("--validation", type=Path, required=True)
    parser.add_argument("--catalogue", type=Path, required=True)
    parser.add_argument("--reward-variant", choices=REWARDS, required=True)
    add_workers(parser)
    inputs = ["model_manifest", "questions", "validation", "catalogue"]
    with stage("grpo", parser, argv, inputs, native_precision) as job:
        _train(job)
        job.outputs("metrics.jsonl", "validation.jsonl", *(f"model/{name}" for name in MODEL_FILES))


def _train(job: Job) -> None:
    from sqlr1.answer_traces import validation_answers
    from sqlr1.train.checkpoints import load_best, train_on, write_metrics
    from sqlr1.train.grpo_trainer import ExecutionReward, make_trainer
    from sqlr1.train.policy import load_policy, save_policy
    from sqlr1.train.validation import PREFIX, Validate

    settings, weights = job.settings["grpo"], job.settings["reward"]
    fix_numerics(settings.threads)
    source = model_folder(job.args.model_manifest)
    tokenizer = load_tokenizer(source)
    check_room(
        source, job.settings["prompt"].max_length, {"grpo.max_completion_length": settings.max_completion_length}
    )
    rows, validation = _rows(job, tokenizer)
    limits = Limits.of(job.settings["execution"])
    with Executor(job.args.workers, limits, cache=GOLD_CACHE) as executor:
        reward = ExecutionReward(executor, weights.semantics, reward_functions(weights, job.args.reward_variant))
        validate = Validate(validation, reward, settings.validation.every)
        policy = load_policy(source, settings)
        trainer = make_trainer(policy, tokenizer, rows, reward, validate, settings, job.work, job.seed, job.run)
        history = train_on(trainer, job.work)
        if settings.keep == "best":
            job.facts["kept_step"] = load_best(trainer)
            job.run.metrics({"kept_step": job.facts["kept_step"]})
        completions = validate.completions_of(job.facts.get("kept_step", trainer.state.global_step))
        scored = [line for line in history if any(name.startswith(PREFIX) for name in line)]
        if trainer.is_world_process_zero():
            write_metrics(job.out / "validation.jsonl", scored)
            write_metrics(job.out / "metrics.jsonl", [line for line in history if line not in scored])
        save_policy(trainer, source, job.out / "model", settings)
        # After the policy, which a fault of its traces must not cost; on the first process, and only if it is tracked.
        job.run.traces(lambda: validation_answers(validation, completions, executor, weights.semantics))


def _rows(job: Job, tokenizer: Any) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Training and validation rows; those with too long a prompt are dropped and counted."""
    from sqlr1.model.prompts import Prompts
    from sqlr1.train.grpo_trainer import grpo_rows

    prompts = Prompts(tokenizer, job.settings["prompt"])
    catalogue = Catalogue(job.args.catalogue, data_root())
    limit = job.settings["grpo"].validation.questions
    found = []
    for path, most in ((job.args.questions, None), (job.args.validation, limit)):
        questions = kept_rows(path)[:most]
        rows, dropped = grpo_rows(questions, catalogue, prompts)
        log.info("%s: %d rows, %d dropped (prompt over max_length)", path, len(rows), dropped)
        if not rows:
            raise InputError(
                f"{path}: no row of {len(questions)} can be used, {dropped} prompts are over prompt.max_length"
            )
        found.append(rows)
    job.run.metrics({"rows": len(found[0]), "validation_rows": len(found[1])})
    return found[0], found[1]


if __name__ == "__main__":
    main()
