"""Select RL questions by the pass rate of the policy that reinforcement learning starts from.

The policy answers each question `n` times, under the masks of GRPO's rollouts if these are `constrained`. Questions
that it solves sometimes are kept, easy ones first. The others cost rollouts and teach nothing: if all completions of a
group have the same reward, all advantages are zero. With pass rate p, a group of G has variance with probability
1 - p^G - (1 - p)^G. Method: offline difficulty filtering, as in work after SQL-R1. The paper itself takes random
questions of class Complex: `n: 0` keeps all questions. A question to which a user marked an answer wrong (`wrong_sql`)
is kept in any case. Outputs: rl.jsonl, pass_rates.jsonl, linking.json (what `prompt.linking` kept of the golds' tables
and columns).

    python -m sqlr1.stages.select --model-manifest cold_start/manifest.json --questions filter/rl.jsonl \
        --catalogue synthesize/catalogue.jsonl --out select \
        --settings '{"select": {...}, "prompt": {...}, "execution": {...}, "semantics": "bird", "constrained": false}'
"""

import logging
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from sqlr1.config import Select
from sqlr1.database.files import data_root
from sqlr1.database.linking import gold_parts, recall_counts
from sqlr1.database.schema import columns_of
from sqlr1.model.base import check_room, fix_numerics, load_tokenizer, model_folder, native_precision
from sqlr1.outcomes import outcomes
from sqlr1.records import SQL_CLASSES, Catalogue, InputError, Question, write_json, write_jsonl
from sqlr1.sandbox import Executor, Limits
from sqlr1.stages.common import GOLD_CACHE, Job, add_workers, kept_rows, stage, stage_parser

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PassRate:
    """A policy's answers to one question: counts among its `samples` completions, and whether it was selected."""

    id: str
    sql_class: str
    samples: int
    executable: int
    matches: int
    selected: bool = False

    @property
    def rate(self) -> float:
        """Share of the samples whose result matches the gold's, in [0, 1]."""
        return self.matches / self.samples


def main(argv: Sequence[str] | None = None) -> None:
    parser = stage_parser(__doc__)
    parser.add_argument("--model-manifest", type=Path, required=True, help="manifest of the stage that made the model")
    parser.add_argument("--questions", type=Path, required=True)
    parser.add_argument("--catalogue", type=Path, required=True)
    add_workers(parser)
    inputs = ["model_manifest", "questions", "catalogue"]
    with stage("select", parser, argv, inputs, native_precision) as job:
        questions = kept_rows(job.args.questions)
        write_json(job.out / "linking.json", _linking(job, questions) if job.settings["prompt"].linking else {})
        if job.settings["select"].n:
            _select(job, questions)
        else:
            write_jsonl(job.out / "rl.jsonl", questions)
            write_jsonl(job.out / "pass_rates.jsonl", [])
        job.outputs("rl.jsonl", "pass_rates.jsonl", "linking.json")


def _select(job: Job, questions: Sequence[Question]) -> None:
    settings = job.settings["select"]
    answered, rates = _pass_rates(job, questions)
    if not rates:
        raise InputError(f"{job.args.questions}: no question's gold could be judged")
    again = {question.id for question in answered if question.wrong_sql}
    chosen, outside = select(rates, settings, again)
    if not chosen:
        found = f"{job.args.questions}: no question has a pass rate from {settings.low} to {settings.high}"
        raise InputError(f"{found}; set select.rows, or widen select.low and select.high")
    if outside:
        log.warning("%d of %d selected questions are outside the band of pass rates", outside, len(chosen))
    kept = set(chosen)
    write_jsonl(job.out / "rl.jsonl", easy_first([answered[i] for i in chosen], [rates[i] for i in chosen]))
    rates = [replace(rate, selected=i in kept) for i, rate in enumerate(rates)]
    write_jsonl(job.out / "pass_rates.jsonl", map(asdict, rates))
    counts = {"questions": len(rates), "selected": len(chosen), "outside_the_band": outside, "asked_again": len(again)}
    counts |= {"never_solved": sum(not r.matches for r in rates), "always_solved": sum(r.rate == 1 for r in rates)}
    job.run.metrics(counts | {"pass_rate": sum(r.rate for r in rates) / len(rates)})
    log.info("%d of %d questions selected, %d outside the band", len(chosen), len(rates), outside)
    if asked := sum(bool(question.wrong_sql) for question in questions):
        log.info("%d of %d questions with answers marked wrong are asked again", len(again), asked)


def select(rates: Sequence[PassRate], settings: Select, again: Collection[str] = ()) -> tuple[list[int], int]:
    """Indices of the selected questions, and how many of them are outside the band.

    The band is the pass rates from `settings.low` to `settings.high`. If more than `settings.rows` questions are in
    it, those with a pass rate closest to 0.5 are kept, because they have the most variance. If fewer are, the questions
    closest to the band are added, solved ones first. `rows` None takes the whole band. Questions whose ids are in
    `again` are selected in any case, and count as inside the band.
    """
    distances = [0.0 if r.id in again else max(0.0, settings.low - r.rate, r.rate - settings.high) for r in rates]
    if settings.rows is None:
        return [i for i, distance in enumerate(distances) if not distance], 0

    def preference(i: int) -> tuple[bool, float, float, int]:
        return rates[i].id not in again, distances[i], -rates[i].rate if distances[i] else abs(rates[i].rate - 0.5), i

    chosen = sorted(range(len(rates)), key=preference)[: max(settings.rows, len(again))]
    return chosen, sum(distances[i] > 0 for i in chosen)


def _linking(job: Job, questions: Sequence[Question]) -> dict[str, int]:
    """`recall_counts` of the golds, over the questions whose schema `prompt.linking` cut; `asked`: of how many."""
    from sqlr1.model.prompts import Prompts

    prompts = Prompts(load_tokenizer(model_folder(job.args.model_manifest)), job.settings["prompt"])
    catalogue = Catalogue(job.args.catalogue, data_root())
    counts = Counter(asked=len(questions))
    for question in questions:
        whole, shown = prompts.schemas(question, catalogue[question.db_id])
        if shown != whole:
            tables, columns, _ = gold_parts(question.sql, columns_of(whole))
            counts.update(recall_counts(tables, columns, columns_of(shown)))
    kept = {name: counts[f"{name} kept"] / counts[name] for name in ("tables", "columns") if counts[name]}
    job.run.metrics({"linking/cut": counts["questions"]} | {f"linking/recall_{k}": v for k, v in kept.items()})
    log.info(
        "prompt.linking cut the schema of %d of %d questions; recall: %s", counts["questions"], len(questions), kept
    )
    return dict(counts)


def easy_first(questions: Sequence[Question], rates: Sequence[PassRate]) -> list[Question]:
    """Questions by class, then by falling pass rate: a curriculum, which `grpo.shuffle_dataset: false` keeps."""
    pairs = zip(questions, rates, strict=True)
    return [q for q, _ in sorted(pairs, key=lambda p: (SQL_CLASSES.index(p[0].sql_class), -p[1].rate, p[0].id))]


def _pass_rates(job: Job, questions: Sequence[Question]) -> tuple[list[Question], list[PassRate]]:
    """The questions whose prompt fits and whose gold runs, and the policy's pass rates on them."""
    from sqlr1.model.answers import Prompted, generate, make_backend
    from sqlr1.model.prompts import Prompts

    settings = job.settings["select"]
    fix_numerics(settings.threads)
    folder = model_folder(job.args.model_manifest)
    check_room(folder, job.settings["prompt"].max_length, {"select.max_new_tokens": settings.max_new_tokens})
    prompts = Prompts(load_tokenizer(folder), job.settings["prompt"])
    catalogue = Catalogue(job.args.catalogue, data_root())
    masked, databases = job.settings["constrained"], [catalogue[q.db_id] for q in questions]
    prompted = [
        Prompted(q.id, q.db_id, prompts.token_ids(q, path), path if masked else None)
        for q, path in zip(questions, databases, strict=True)
    ]
    asked = [(q, p) for q, p in zip(questions, prompted, strict=True) if p.token_ids is not None]
    if not asked:
        raise InputError(f"{job.args.questions}: no question's prompt fits prompt.max_length")
    catalogued = [catalogue[q.db_id] for q, _ in asked]
    with Executor(job.args.workers, Limits.of(job.settings["execution"]), cache=GOLD_CACHE) as executor:
        fitting = [p for _, p in asked]
        answers = generate(fitting, lambda: make_backend(settings, folder), settings, job.seed, job.work, greedy=False)
        n = settings.n
        texts = [sample for answer in answers for sample in answer.samples]
        golds = [question.sql for question, _ in asked for _ in range(n)]
        databases = [database for database in catalogued for _ in range(n)]
        judged = outcomes(executor, texts, golds, databases, job.settings["semantics"])
    answered, rates = [], []
    for number, (question, _) in enumerate(asked):
        own = judged[number * n : (number + 1) * n]
        if all(o.judged for o in own):
            executable, matches = sum(o.executes for o in own), sum(o.well_formed and o.matches for o in own)
            answered.append(question)
            rates.append(PassRate(question.id, question.sql_class, n, executable, matches))
    log.info("%d questions, %d with a prompt that fits, %d judged", len(questions), len(asked), len(rates))
    return answered, rates


if __name__ == "__main__":
    main()
