"""Candidates: the policy answers a benchmark's questions, once greedily and n times at a temperature.

Method (SQL-R1, section 4.1): 8 samples at temperature 0.8; stage score votes over their results. Questions whose
database is missing get no candidates. Settings: sections `candidates` and `prompt`, and the benchmark's own.

    python -m sqlr1.stages.candidates --model-manifest grpo/manifest.json --questions dev.json --databases database \
        --out candidates --settings '{"candidates": {...}, "prompt": {...}, "benchmark": {"layout": "spider"}}'
"""

import logging
import random
import statistics
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sqlr1.evaluate.formats import database_path, excluded_questions, read_questions
from sqlr1.model.answers import Prompted, generate, make_backend
from sqlr1.model.base import context_length, fix_numerics, load_tokenizer, model_folder, native_precision
from sqlr1.prompt import prompt_messages
from sqlr1.records import Candidates, InputError, write_jsonl
from sqlr1.stages.common import Job, stage, stage_parser

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)

# Draws the questions under a limit. Not the run's seed, so that all policies answer the same questions.
LIMIT_SEED = 0


def main(argv: Sequence[str] | None = None) -> None:
    parser = stage_parser(__doc__)
    parser.add_argument("--model-manifest", type=Path, required=True, help="manifest of the stage that made the model")
    parser.add_argument("--questions", type=Path, required=True, help="the benchmark's questions file")
    parser.add_argument("--databases", type=Path, required=True, help="folder of <db_id>/<db_id>.sqlite")
    parser.add_argument("--exclude", type=Path, help="file with the indices of untrusted questions")
    inputs = ["model_manifest", "questions", "exclude"]
    with stage("candidates", parser, argv, inputs, native_precision) as job:
        settings = job.settings["candidates"]
        folder = model_folder(job.args.model_manifest)
        tokenizer = load_tokenizer(folder)
        prompted = _prompts(job, folder, tokenizer)
        fix_numerics(settings.threads)
        answers = generate(prompted, lambda: make_backend(settings, folder), settings, job.seed, job.work)
        asked = [(q, a) for q, a in zip(prompted, answers, strict=True) if q.token_ids is not None]
        tokens = _tokens(asked, tokenizer)
        job.facts |= {"answers": len(asked) * (1 + settings.n), "tokens": tokens}
        job.run.metrics({f"tokens/{what}": mean for what, mean in tokens.items()})
        write_jsonl(job.out / "candidates.jsonl", answers)
        job.outputs("candidates.jsonl")
        prompt = prompt_messages("{{schema}}", "{{question}}", "{{evidence}}", ["{{values}}"])
        job.run.prompt(prompt, job.args.model_manifest.parent)


def _prompts(job: Job, folder: Path, tokenizer: "PreTrainedTokenizerBase") -> list[Prompted]:
    """The questions to answer: trusted ones whose database exists, at most `limit`. The others are counted."""
    from sqlr1.model.prompts import Prompts

    # `prompt.max_length` limits the memory of training; answers may use the model's whole context.
    context, longest = context_length(folder), job.settings["candidates"].max_new_tokens
    room = context - longest
    if room <= 0:
        raise InputError(f"config key candidates.max_new_tokens: {longest}: the model reads {context} tokens: lower it")
    prompts = Prompts(tokenizer, job.settings["prompt"], room)
    questions = read_questions(job.settings["benchmark"].layout, job.args.questions)
    excluded = excluded_questions(job.args.exclude, len(questions))
    questions = [q for q in questions if q.index not in excluded]
    path = {q.db_id: database_path(job.args.databases, q.db_id) for q in questions}
    absent = Counter(q.db_id for q in questions if not path[q.db_id])
    if absent:
        log.warning("%d questions get no candidates, their databases are missing: %s", absent.total(), sorted(absent))
    here = [q for q in questions if q.db_id not in absent]
    if not here:
        raise InputError(f"{job.args.databases}: holds none of the databases of {job.args.questions}")
    limit = job.settings["benchmark"].limit or len(here)
    if limit < len(here):
        here = [here[i] for i in sorted(random.Random(LIMIT_SEED).sample(range(len(here)), limit))]
    job.reads(path[q.db_id] for q in here)
    grammar_of = path if job.settings["candidates"].constrained else {}
    prompted = [
        Prompted(str(q.index), q.db_id, prompts.token_ids(q, path[q.db_id]), grammar_of.get(q.db_id)) for q in here
    ]
    too_long = sum(p.token_ids is None for p in prompted)
    unfit = f"the prompt does not fit into the {room} tokens that candidates.max_new_tokens leaves of the context"
    if too_long == len(prompted):
        raise InputError(f"{job.args.questions}: no question can be answered, {unfit}")
    if too_long:
        log.warning("%d questions get no answer and count as wrong: %s", too_long, unfit)
    log.info("%d questions", len(prompted))
    job.run.metrics({"questions": len(prompted), "missing_databases": absent.total(), "prompt_too_long": too_long})
    return prompted


def _tokens(asked: Sequence[tuple[Prompted, Candidates]], tokenizer: "PreTrainedTokenizerBase") -> dict[str, float]:
    """Mean tokens of a prompt, and of the texts of a greedy answer and a sample (without end tokens)."""
    texts = {"greedy": [answer.greedy for _, answer in asked], "sample": [s for _, a in asked for s in a.samples]}
    lengths = {"prompt": [len(question.token_ids) for question, _ in asked]}
    for what, found in texts.items():
        lengths[what] = [len(ids) for ids in tokenizer(found, add_special_tokens=False, verbose=False)["input_ids"]]
    return {what: statistics.fmean(found) for what, found in lengths.items()}


if __name__ == "__main__":
    main()
