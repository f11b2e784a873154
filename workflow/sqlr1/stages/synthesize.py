"""Databases, and questions with SQL and reasoning over them: built-in domains, database folders, existing questions.

Writes `databases/<db_id>/<db_id>.sqlite` (built-in domains), `catalogue.jsonl`, `questions.jsonl` (training),
`failed_golds.jsonl` (mixed-in questions whose gold SQL fails) and the built-in benchmark in the layouts of Spider and
BIRD, which has domains and question templates of its own. With `benchmark_instances`, its databases get that many
perturbed instances, on all of which an answer must be right. With `instances`, each training database is copied to
`instances/<db_id>/` with that many perturbed instances, small tables filled up to `instance_rows` rows in them, and
the catalogue names the copy.

    python -m sqlr1.stages.synthesize --out results/x/synthesize --settings '{"synthesize": {...}, "execution": {...}}'
"""

import itertools
import logging
import multiprocessing
import random
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from tqdm.auto import tqdm

from sqlgen import GenerationRequest, Source, builtin_sources, folder_sources, generate, write_benchmark
from sqlr1.config import Synthesize
from sqlr1.data.feedback import marked
from sqlr1.data.mix import MixedQuestions, read_mix
from sqlr1.data.paraphrase import paraphrase_and_explain
from sqlr1.data.perturbed import balanced, determined_on_all
from sqlr1.data.split import shares
from sqlr1.database.files import catalogue_entry, merged, portable, resolve
from sqlr1.database.instances import write_instances
from sqlr1.records import Database, InputError, Question, RecordFile, write_jsonl
from sqlr1.sandbox import Executor, Limits
from sqlr1.sandbox import instances as list_instances
from sqlr1.stages.common import Job, add_workers, stage, stage_parser

log = logging.getLogger(__name__)
_FEW = 200  # databases whose instances are written in the time in which processes start


def main(argv: Sequence[str] | None = None) -> None:
    parser = stage_parser(__doc__)
    add_workers(parser)
    with stage("synthesize", parser, argv) as job:
        settings = job.settings["synthesize"]
        own = builtin_sources(settings.domains, job.out / "databases", job.seed)
        for source in own:  # in an earlier run it may have been a benchmark's, with instances and descriptions
            write_instances(source.path, source.path.parent, 0, job.seed)
            shutil.rmtree(source.path.parent / "database_description", ignore_errors=True)
        held_out = builtin_sources(settings.held_out_domains, job.out / "databases", job.seed)
        folders = _folders(settings)
        mixed = _mixed(job)
        others = merged([*((s.db_id, s.path) for s in folders), *mixed.databases])
        job.reads(_listed_files(settings))
        job.reads(others.values())
        described = (csv for path in others.values() for csv in path.parent.glob("database_description/*.csv"))
        job.reads(csv for csv in described if csv.is_file())
        questions = itertools.chain(
            _generated(job, own, settings.questions), _generated(job, folders, settings.folder_questions)
        )
        if settings.llm:
            questions = _improved(job, list(questions), {s.db_id: s.path for s in own + folders})
        benchmark = _benchmark(job, held_out)
        # Mixed-in questions first: of near-duplicates the filter keeps the first, and people's are worth more.
        rows = marked(itertools.chain(*mixed.ready, questions), mixed.wrong)
        write_jsonl(job.out / "questions.jsonl", rows)
        write_jsonl(job.out / "failed_golds.jsonl", itertools.chain(*mixed.failed))
        write_jsonl(job.out / "catalogue.jsonl", _catalogue(job, own, held_out, others))
        written = write_benchmark(job.out / "benchmark", benchmark, {s.db_id: s.path for s in held_out})
        job.outputs("questions.jsonl", "failed_golds.jsonl", "catalogue.jsonl")
        job.outputs(*(path.relative_to(job.out) for path in [*(s.path for s in own + held_out), *written]))
        _track(job, mixed, len(benchmark))


def _folders(settings: Synthesize) -> list[Source]:
    """The databases of the configured folders, each once."""
    found: list[Source] = []
    for entry in settings.folders:
        db_ids, tables = (resolve(path) if path else None for path in (entry.db_ids, entry.tables))
        found += folder_sources(resolve(entry.databases), db_ids, tables)
    merged((source.db_id, source.path) for source in found)  # raises if two databases have one name
    first: dict[str, Source] = {}
    for source in found:
        first.setdefault(source.db_id, source)
    return list(first.values())


def _listed_files(settings: Synthesize) -> list[Path]:
    """The question files and tables.json that the settings name."""
    names = [path for entry in settings.folders for path in (entry.db_ids, entry.tables) if path]
    files = [resolve(path) for path in [*names, *(entry.questions for entry in settings.mix)]]
    return [path for path in files if path.exists()]  # all have been read; absent is feedback that nobody gave yet


def _mixed(job: Job) -> MixedQuestions:
    """The existing questions to mix in, with counts and warnings for the rows that were skipped."""
    settings = job.settings["synthesize"]
    mixed = MixedQuestions()
    if settings.mix:
        limits = Limits.of(job.settings["execution"])
        scratch = job.work / "mix"
        mixed = read_mix(settings.mix, settings.reasoning, job.seed, limits, job.args.workers, scratch)
    if missing := mixed.missing:
        log.warning("%d mixed-in questions skipped: no database %s", missing.total(), ", ".join(sorted(missing)[:20]))
    for reason, count in mixed.unusable.items():
        log.warning("%d mixed-in questions skipped: the row %s", count, reason)
    job.run.metrics({"missing_database": mixed.missing.total(), "unusable_rows": mixed.unusable.total()})
    return mixed


def _generated(job: Job, sources: list[Source], total: int, held_out: bool = False) -> Iterator[Question]:
    settings = job.settings["synthesize"]
    request = GenerationRequest(total, settings.classes, settings.styles, job.seed, settings.reasoning, held_out)
    return generate(sources, request, Limits.of(job.settings["execution"]), job.args.workers, job.work)


def _benchmark(job: Job, held_out: list[Source]) -> list[Question]:
    """The questions of the built-in benchmark. With perturbed instances, those whose gold is determined on all."""
    settings, limits = job.settings["synthesize"], Limits.of(job.settings["execution"])
    total, count = settings.benchmark_questions, settings.benchmark_instances
    files = {s.db_id: write_instances(s.path, s.path.parent, count, job.seed) for s in held_out}
    if not count:
        return list(_generated(job, held_out, total, held_out=True))
    job.outputs(*(file.relative_to(job.out) for paths in files.values() for file in paths[1:]))
    drawn = list(_generated(job, held_out, 2 * total, held_out=True))
    with Executor(job.args.workers, limits) as executor:
        determined = determined_on_all(drawn, files, executor)
    job.run.metrics({"benchmark_undetermined": len(drawn) - len(determined)})
    return balanced(determined, shares(total, settings.classes))


def _improved(job: Job, rows: list[Question], paths: dict[str, Path]) -> list[Question]:
    """The rows with what a language model rewords and explains."""
    settings, limits = job.settings["synthesize"].llm, Limits.of(job.settings["execution"])
    cache = job.work.parent / "llm.jsonl"  # outside the run's own folder: answers cost money, so later runs reuse them
    rows, counts = paraphrase_and_explain(rows, paths, settings, job.seed, cache, limits, job.args.workers)
    job.run.metrics({f"llm/{name}": count for name, count in counts.items()})
    return rows


def _catalogue(job: Job, own: list[Source], held_out: list[Source], others: dict[str, Path]) -> Iterator[Database]:
    """The catalogue's lines; for training databases, with instances if so configured."""
    settings = job.settings["synthesize"]
    databases = [(s.db_id, s.path, "embedded", "train") for s in own]
    databases += [(s.db_id, s.path, "embedded", "benchmark") for s in held_out]
    builtin = {db_id for db_id, *_ in databases}
    for db_id, path in others.items():
        if db_id in builtin:
            raise InputError(f"{path}: the database {db_id!r} has the name of a built-in domain; leave one out")
        folder = path.parent.parent if path.parent.name == db_id else path.parent
        databases.append((db_id, path, portable(folder), "train"))
    write = partial(_instances, settings.instances, job.seed, settings.instance_rows)
    tasks = [(split, path, job.out / "instances" / db_id) for db_id, path, _, split in databases]
    with ProcessPoolExecutor(job.args.workers, multiprocessing.get_context("spawn")) as pool:
        found = (pool.map if settings.instances and len(tasks) > _FEW else map)(write, tasks)
        shown = tqdm(found, total=len(tasks), desc="databases", unit="database", disable=None)
        for (db_id, _, source, split), files in zip(databases, shown, strict=True):
            if split == "train" and settings.instances:
                job.outputs(*(file.relative_to(job.out) for file in files))
            yield catalogue_entry(db_id, files, source, split, job.out, job.read)


def _instances(count: int, seed: int, rows: int, task: tuple[str, Path, Path]) -> list[Path]:
    """The files of a database: of a benchmark those that there are, for training a copy and `count` instances."""
    split, path, folder = task
    if split == "benchmark":
        return list_instances(path)
    if not count:
        return [path]
    files = write_instances(path, folder, count, seed, rows)
    descriptions = path.parent / "database_description"
    shutil.rmtree(folder / descriptions.name, ignore_errors=True)  # an earlier run's, which may describe more
    if descriptions.is_dir():
        shutil.copytree(descriptions, folder / descriptions.name)
    return files


def _track(job: Job, mixed: MixedQuestions, benchmark: int) -> None:
    """Log what was made. The mixed-in questions are the first ones of the file."""
    written = RecordFile(job.out / "questions.jsonl", Question)
    first = sum(map(len, mixed.ready))
    classes, styles, templates, again = Counter[str](), Counter[str](), Counter[int](), Counter[str]()
    for number, row in enumerate(written):
        if row.wrong_sql:
            again["marked_wrong"] += 1
            again["wrong_without_gold"] += not row.sql
        if number < first or not row.sql:
            continue
        classes[row.sql_class] += 1
        styles[row.style] += 1
        templates[hash(row.template)] += 1  # nearly every row has its own template: their texts would fill the memory
    total = classes.total()
    job.run.metrics({"marked_wrong": 0, "wrong_without_gold": 0} | again)
    job.run.metrics({"questions": total, "mixed": first, "failed_golds": sum(map(len, mixed.failed))})
    job.run.metrics({"benchmark_questions": benchmark})
    job.run.metrics({f"class/{name}": count for name, count in classes.items()})
    job.run.metrics({f"style/{name}": count for name, count in styles.items()})
    if total:
        job.run.metrics({"most_frequent_template_share": templates.most_common(1)[0][1] / total})
    drawn = random.Random(0).sample(range(first, first + total), min(50, total))
    job.run.table([vars(written[number]) for number in drawn], "examples.json")


if __name__ == "__main__":
    main()
