"""Keep the rows worth training on, split into test, cold start, RL and validation; every drop is counted by reason.

Writes `cold_start.jsonl`, `rl.jsonl`, `validation.jsonl`, `test.jsonl` (empty unless asked for) and `test.json` (the
same in Spider's layout), `dropped.jsonl` (rows with their `reason`), `funnel.json` and a data card, `README.md`.

    python -m sqlr1.stages.filter --questions questions.jsonl --catalogue catalogue.jsonl --benchmark dev.json \\
        --out results/x/filter --settings '{"filter": {...}, "execution": {...}}'
"""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path

from sqlr1.data.filtering import REASONS, Benchmark, filter_rows
from sqlr1.data.readers import read_questions
from sqlr1.data.split import SUBSETS, divide
from sqlr1.database.files import data_root
from sqlr1.database.sql import parse
from sqlr1.records import (
    SQL_CLASSES,
    Catalogue,
    InputError,
    Question,
    RecordFile,
    atomic_write,
    read_json,
    write_json,
    write_jsonl,
)
from sqlr1.report.card import data_card
from sqlr1.sandbox import Limits
from sqlr1.stages.common import Job, add_workers, stage, stage_parser

log = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> None:
    parser = stage_parser(__doc__)
    parser.add_argument("--questions", type=Path, required=True, help="rows to filter (JSONL)")
    parser.add_argument("--catalogue", type=Path, required=True, help="databases of the rows (JSONL)")
    parser.add_argument("--benchmark", type=Path, nargs="*", default=[], help="questions that training must not have")
    own = "those of the benchmarks whose databases it may use"
    parser.add_argument("--same-databases", type=Path, nargs="*", default=[], help=own)
    add_workers(parser)
    with stage("filter", parser, argv, inputs=["questions", "catalogue", "benchmark"]) as job:
        settings, limits = job.settings["filter"], Limits.of(job.settings["execution"])
        rows = RecordFile(job.args.questions, Question)
        paths = _paths(rows, Catalogue(job.args.catalogue, data_root()))
        own = set(job.args.same_databases)
        strict = [path for path in job.args.benchmark if path not in own]
        benchmark = Benchmark.of(*(chain(*map(_benchmark_questions, paths)) for paths in (strict, sorted(own))))
        reasons = filter_rows(rows, paths, benchmark, settings.rules, limits, job.args.workers)
        subsets, over = divide(rows, reasons, settings, job.seed)
        dropped = [(number, reason) for number, reason in enumerate(reasons) if reason]
        _write(job, rows, subsets, dropped + [(number, "over_quota") for number in over])


def _paths(rows: RecordFile[Question], catalogue: Catalogue) -> dict[str, Path]:
    """The databases of the rows. Raises InputError naming the first row whose database or SQL class is unknown.

    A row without SQL that can be parsed needs no class: it is dropped.
    """
    paths: dict[str, Path] = {}
    for row in rows:
        where = f"{rows.path}: row {row.id}"
        if row.sql_class not in SQL_CLASSES and (row.sql_class or parse(row.sql)[0]):
            raise InputError(f"{where} has the sql_class {row.sql_class!r}; it must be one of {', '.join(SQL_CLASSES)}")
        if row.db_id not in catalogue.databases:
            raise InputError(f"{where} names the unknown database {row.db_id!r}; it is not in {catalogue.path}")
        if row.db_id not in paths:
            paths[row.db_id] = catalogue[row.db_id]
    return paths


def _benchmark_questions(path: Path) -> Iterator[Question]:
    """Of a benchmark's file: BIRD's rows have the key `SQL`, Spider's `query`."""
    rows = read_json(path)
    if not isinstance(rows, list) or not rows or not isinstance(rows[0], dict):
        raise InputError(f"{path}: expected a JSON list of questions in Spider's or BIRD's layout")
    return read_questions("bird" if "SQL" in rows[0] else "spider", path)


def _write(
    job: Job, rows: Sequence[Question], numbers: Mapping[str, Sequence[int]], dropped: Sequence[tuple[int, str]]
) -> None:
    """Write the subsets, the dropped rows, the funnel and the card; log the counts."""
    from sqlr1.report.data_tables import funnel_figure, subsets_figure  # not in the processes that filter

    wanted = {name: getattr(job.settings["filter"], f"{name}_rows") for name in SUBSETS}
    for name in SUBSETS:
        write_jsonl(job.out / f"{name}.jsonl", (rows[number] for number in numbers[name]))
        if len(numbers[name]) < wanted[name]:
            log.warning("%s: only %d of the %d rows asked for are left", name, len(numbers[name]), wanted[name])
    write_jsonl(job.out / "dropped.jsonl", ({**vars(rows[number]), "reason": reason} for number, reason in dropped))
    # Spider's layout has no evidence, but our reader takes it.
    test = (rows[number] for number in numbers["test"])
    asked = [{"db_id": q.db_id, "question": q.question, "query": q.sql, "evidence": q.evidence} for q in test]
    write_json(job.out / "test.json", asked)
    subsets = {name: RecordFile(job.out / f"{name}.jsonl", Question) for name in SUBSETS if wanted[name]}
    drops = Counter(reason for _, reason in dropped)
    funnel = {
        "input": len(rows),
        "dropped": {reason: drops[reason] for reason in REASONS},
        "subsets": {name: len(subset) for name, subset in subsets.items()},
        "asked_again": sum(bool(row.wrong_sql) for row in subsets.get("rl", ())),
        "classes": {name: Counter(row.sql_class for row in subset) for name, subset in subsets.items()},
        "styles": {name: Counter(row.style for row in subset) for name, subset in subsets.items()},
    }
    write_json(job.out / "funnel.json", funnel)
    first = {reason: number for number, reason in reversed(dropped)}
    examples = {reason: rows[first[reason]] for reason in REASONS if reason in first}
    with atomic_write(job.out / "README.md") as file:
        file.write(data_card(subsets, funnel, examples, f"SQL-R1 training data: {job.args.experiment}"))
    job.outputs(*(f"{name}.jsonl" for name in SUBSETS), "test.json", "dropped.jsonl", "funnel.json", "README.md")
    job.run.artifact(job.out / "README.md")
    job.run.metrics({key: funnel[key] for key in ("input", "asked_again")})
    job.run.metrics({f"dropped/{k}": v for k, v in funnel["dropped"].items()})
    job.run.metrics({f"rows/{k}": v for k, v in funnel["subsets"].items()})
    job.run.figure(funnel_figure(funnel), "funnel.png")
    for kind in ("classes", "styles"):
        job.run.figure(subsets_figure(funnel[kind], kind), f"{kind}.png")


if __name__ == "__main__":
    main()
