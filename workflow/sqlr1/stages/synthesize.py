"""Databases, and questions with SQL and reasoning over them: own domains, database folders, existing questions.

Writes `databases/<db_id>/<db_id>.sqlite` (own domains), `catalogue.jsonl`, `questions.jsonl` (training),
`failed_golds.jsonl` (mixed-in questions whose gold SQL fails) and the built-in benchmark, over held-out domains and
held-out question templates, in the layouts of Spider and BIRD. With `instances`, a copy of each training database and
so many perturbed instances go to `instances/<db_id>/`, and the catalogue names those.
"""

import hashlib
import itertools
import logging
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sqlgen.benchmark import write_benchmark
from sqlgen.corpus import Order, Source, distinct, folder_sources, generate_all
from sqlgen.generate import DEFAULT_STYLES, Manner
from sqlgen.populate import build_database
from sqlr1.data.llm import Client, Endpoint
from sqlr1.data.mix import prepare
from sqlr1.data.paraphrase import explain, paraphrase
from sqlr1.data.readers import draw, locate, read_questions
from sqlr1.database.instances import write_instances
from sqlr1.records import Database, InputError, Question, RecordFile, sha256, write_jsonl
from sqlr1.sandbox import Executor, Limits
from sqlr1.stages.common import GOLD_CACHE, Job, add_workers, data_root, stage, stage_parser

log = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the stage."""
    parser = stage_parser(__doc__)
    add_workers(parser)
    with stage("synthesize", parser, argv) as job:
        settings = job.settings["synthesize"]
        own = _own_databases(job, settings["domains"])
        held_out = _own_databases(job, settings["held_out_domains"])
        folders = distinct(source for entry in settings["folders"] for source in _folder(entry))
        mixed, failed, mixed_sources = _mixed(job)
        others = distinct(folders + mixed_sources)
        described = [path for s in others for path in s.path.parent.glob("database_description/*.csv")]
        job.reads([*(s.path for s in others), *described, *_listed_files(settings)])
        questions = itertools.chain(
            _generated(job, own, settings["questions"]),
            _generated(job, folders, settings.get("folder_questions", 0)),
        )
        if settings.get("llm"):
            questions = _polished(job, list(questions), {s.db_id: s.path for s in own + folders})
        benchmark = list(_generated(job, held_out, settings["benchmark_questions"], held_out=True))
        write_jsonl(job.out / "questions.jsonl", itertools.chain(questions, mixed))
        write_jsonl(job.out / "failed_golds.jsonl", failed)
        write_jsonl(job.out / "catalogue.jsonl", _catalogue(job, own, held_out, others))
        written = write_benchmark(job.out / "benchmark", benchmark, {s.db_id: s.path for s in held_out})
        job.outputs("questions.jsonl", "failed_golds.jsonl", "catalogue.jsonl")
        job.outputs(*(s.path.relative_to(job.out) for s in own + held_out), *(p.relative_to(job.out) for p in written))
        _track(job, len(mixed), len(failed), len(benchmark))


def _resolve(path: str) -> Path:
    return Path(path.replace("{data}", str(data_root())))


def _own_databases(job: Job, domains: Sequence[str]) -> list[Source]:
    sources = [Source(domain, job.out / "databases" / domain / f"{domain}.sqlite", {}) for domain in domains]
    for source in sources:
        build_database(source.db_id, job.seed, source.path)
    return sources


def _listed_files(settings: Mapping[str, Any]) -> list[Path]:
    """The question files and tables.json that the settings name."""
    folders = [entry[key] for entry in settings["folders"] for key in ("db_ids", "tables") if entry.get(key)]
    return [_resolve(path) for path in [*folders, *(entry["questions"] for entry in settings.get("mix", []))]]


def _folder(entry: dict[str, str]) -> list[Source]:
    files = {key: _resolve(entry[key]) for key in ("db_ids", "tables") if entry.get(key)}
    return folder_sources(_resolve(entry["databases"]), **files)


def _limits(job: Job) -> Limits:
    return Limits(**job.settings.get("execution", {}))


def _generated(job: Job, sources: list[Source], total: int, held_out: bool = False) -> Iterable[Question]:
    settings = job.settings["synthesize"]
    if not total:
        return []
    if not sources:
        raise InputError("synthesize: questions are asked for, but there is no database for them (domains, folders)")
    manner = Manner(settings.get("styles", DEFAULT_STYLES), settings.get("reasoning", "short"), held_out)
    order = Order(total, settings["classes"], manner, job.seed)
    return generate_all(sources, order, _limits(job), job.args.workers, job.work)


def _polished(job: Job, rows: list[Question], paths: dict[str, Path]) -> list[Question]:
    """A share of the rows in a language model's words, and with its reasoning where that leads to the gold's result."""
    settings = dict(job.settings["synthesize"]["llm"])
    share, samples = settings.pop("paraphrase", 0.0), settings.pop("reasoning_samples", 0)
    drawn = set(random.Random(job.seed).sample(range(len(rows)), round(share * len(rows))))
    # The cache is keyed by what is asked, and outlives the run: answers cost money.
    with Client(Endpoint(**settings), job.work.parent / "llm.jsonl") as client:
        reworded = iter(paraphrase([rows[i] for i in sorted(drawn)], client))
        rows = [next(reworded) if i in drawn else row for i, row in enumerate(rows)]
        explained: list[Question | None] = [None] * len(rows)
        if samples:
            with Executor(job.args.workers, _limits(job)) as executor:
                explained = explain(rows, paths, client, samples, executor)
        changed = sum(row.template == "paraphrase" for row in rows)
        job.run.metrics({"llm/tokens": client.tokens, "llm/failed": client.failed, "llm/paraphrased": changed})
    job.run.metrics({"llm/explained": sum(row is not None for row in explained)})
    return [new or row for row, new in zip(rows, explained, strict=True)]


def _mixed(job: Job) -> tuple[list[Question], list[Question], list[Source]]:
    """(rows ready for training, rows whose gold SQL fails, their databases) of the existing questions to mix in."""
    ready: list[Question] = []
    failed: list[Question] = []
    sources: list[Source] = []
    absent: Counter[str] = Counter()
    unusable: Counter[str] = Counter()
    for number, entry in enumerate(job.settings["synthesize"].get("mix", [])):
        found = {s.db_id: s for s in folder_sources(_resolve(entry["databases"]))}
        paths = {db_id: s.path for db_id, s in found.items()}
        skip = entry.get("missing") == "skip"
        rows = read_questions(entry["layout"], _resolve(entry["questions"]), unusable if skip else None)
        rows = locate(rows, paths, absent if skip else None)
        limits = entry.get("classes") or entry.get("limit")
        questions = draw(rows, limits, job.seed) if limits else list(rows)
        if {q.id for q in questions} & {q.id for q in (*ready, *failed)}:  # two files of one name
            questions = [replace(q, id=f"{q.id}-mix{number}") for q in questions]
        with Executor(job.args.workers, _limits(job), cache=GOLD_CACHE) as executor:
            good, bad = prepare(questions, paths, job.settings["synthesize"].get("reasoning", "short"), executor)
        ready, failed = ready + good, failed + bad
        sources += [found[db_id] for db_id in sorted({q.db_id for q in questions})]
    if absent:
        log.warning("%d mixed-in questions skipped: no database %s", absent.total(), ", ".join(sorted(absent)[:20]))
    for fault, count in unusable.items():
        log.warning("%d mixed-in questions skipped: the row %s", count, fault)
    job.run.metrics({"missing_database": absent.total(), "unusable_rows": unusable.total()})
    return ready, failed, sources


def _catalogue(job: Job, own: list[Source], held_out: list[Source], others: list[Source]) -> list[Database]:
    """Own databases and instances relative to the catalogue; others relative to the data root if they lie there."""
    rows = {s.db_id: _entry(job, s, "embedded", "train") for s in own}
    rows |= {s.db_id: _entry(job, s, "embedded", "benchmark") for s in held_out}
    for s in others:
        if s.db_id in rows:
            raise InputError(f"{s.path}: the database {s.db_id!r} has the name of an own domain; leave one out")
        folder = s.path.parent.parent if s.path.parent.name == s.db_id else s.path.parent
        rows[s.db_id] = _entry(job, s, _shown(folder), "train")
    return list(rows.values())


def _entry(job: Job, source: Source, origin: str, split: str) -> Database:
    """One line of the catalogue; for training, several instances of the database if so configured."""
    path, count = source.path, job.settings["synthesize"].get("instances", 0)
    files = [path]
    if split == "train" and count:
        files = write_instances(path, job.out / "instances" / source.db_id, count, job.seed)
        job.outputs(*(p.relative_to(job.out) for p in files))
        path = files[0]
    shown = path.relative_to(job.out).as_posix() if path.is_relative_to(job.out) else _shown(path)
    hashes = [sha256(file) for file in files]  # of all: who trains on the instances depends on each
    combined = hashlib.sha256("".join(hashes).encode()).hexdigest() if len(hashes) > 1 else hashes[0]
    return Database(source.db_id, shown, origin, split, combined)


def _shown(path: Path) -> str:
    root, path = data_root().resolve(), path.resolve()
    return "{data}/" + path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


def _track(job: Job, mixed: int, failed: int, benchmark: int) -> None:
    """Log what was made; the mixed-in questions are the last ones of the file."""
    written = RecordFile(job.out / "questions.jsonl", Question)
    total = len(written) - mixed
    classes, styles, templates = Counter[str](), Counter[str](), Counter[int]()
    for row in itertools.islice(written, total):
        classes[row.sql_class] += 1
        styles[row.style] += 1
        templates[hash(row.template)] += 1  # nearly every row has its own: the texts would fill the memory
    counts: dict[str, Any] = {"questions": total, "mixed": mixed, "failed_golds": failed}
    counts["benchmark_questions"] = benchmark
    counts |= {f"class/{name}": count for name, count in classes.items()}
    counts |= {f"style/{name}": count for name, count in styles.items()}
    if total:
        counts["most_frequent_template_share"] = templates.most_common(1)[0][1] / total
    job.run.metrics(counts)
    drawn = random.Random(0).sample(range(total), min(50, total))
    job.run.table([vars(written[number]) for number in drawn], "examples.json")


if __name__ == "__main__":
    main()
