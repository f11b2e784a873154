"""Cold start: supervised fine-tuning of the base model on synthetic questions, before reinforcement learning.

Method (SQL-R1, section 3.1): strategy `sql_only` or `reasoning`, in one response format; `none` copies the base model.
Deviations: 1. LoRA unless `lora` is null; 2. questions of the configured synthesis instead of SynSQL-200K.

    python -m sqlr1.stages.cold_start --model-manifest base_model/manifest.json --questions filter/cold_start.jsonl \
        --catalogue synthesize/catalogue.jsonl --strategy reasoning --out cold_start \
        --settings '{"cold_start": {...}, "prompt": {...}}'
"""

import logging
from collections.abc import Sequence
from pathlib import Path

from sqlr1.database.files import data_root
from sqlr1.model.base import MODEL_FILES, copy_model, fix_numerics, load_tokenizer, model_folder, native_precision
from sqlr1.records import Catalogue, InputError, write_jsonl
from sqlr1.stages.common import Job, kept_rows, stage, stage_parser
from sqlr1.strategies import STRATEGIES


def main(argv: Sequence[str] | None = None) -> None:
    parser = stage_parser(__doc__)
    parser.add_argument("--model-manifest", type=Path, required=True, help="manifest of the stage that made the model")
    parser.add_argument("--questions", type=Path, required=True)
    parser.add_argument("--catalogue", type=Path, required=True)
    parser.add_argument("--strategy", choices=STRATEGIES, required=True)
    inputs = ["model_manifest", "questions", "catalogue"]
    with stage("cold_start", parser, argv, inputs, native_precision) as job:
        source = model_folder(job.args.model_manifest)
        if STRATEGIES[job.args.strategy].response:
            _train(job, source)
        elif job.first:
            copy_model(source, job.out / "model")
            write_jsonl(job.out / "metrics.jsonl", [])
        job.outputs("metrics.jsonl", *(f"model/{name}" for name in MODEL_FILES))


def _train(job: Job, source: Path) -> None:
    from sqlr1.model.prompts import Prompts
    from sqlr1.train import sft
    from sqlr1.train.checkpoints import train_on, write_metrics
    from sqlr1.train.policy import load_policy, save_policy

    settings = job.settings["cold_start"]
    fix_numerics(settings.threads)
    tokenizer = load_tokenizer(source)
    questions = kept_rows(job.args.questions)
    catalogue = Catalogue(job.args.catalogue, data_root())
    prompts = Prompts(tokenizer, job.settings["prompt"])
    rows, dropped = sft.encode(questions, catalogue, prompts, job.args.strategy, settings.max_row_length)
    logging.getLogger(__name__).info("%d rows, dropped: %s", len(rows), dict(dropped))
    job.run.metrics({"rows": len(rows), **{f"dropped/{reason}": n for reason, n in dropped.items()}})
    if not rows:
        longer = f"{dropped['prompt_over_max_length']} have prompts over prompt.max_length, "
        longer += f"{dropped['row_over_max_row_length']} rows are over cold_start.max_row_length"
        change = "raise the limit, or set prompt.linking to fit"
        raise InputError(f"{job.args.questions}: none of {len(questions)} rows to train on: {longer}; {change}")
    trainer = sft.make_trainer(load_policy(source, settings), tokenizer, rows, settings, job.work, job.seed, job.run)
    history = train_on(trainer, job.work)
    if trainer.is_world_process_zero():
        write_metrics(job.out / "metrics.jsonl", history)
    save_policy(trainer, source, job.out / "model", settings)


if __name__ == "__main__":
    main()
