"""Keep the rows worth training on, and split them into cold start, RL and validation; every drop counted by reason.

Writes `cold_start.jsonl`, `rl.jsonl`, `validation.jsonl`, `dropped.jsonl` (rows with their `reason`), `funnel.json`
and a data card, `README.md`.
"""

import logging
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlr1.data.card import data_card
from sqlr1.data.filtering import REASONS, Benchmark, Rules, filter_rows
from sqlr1.data.readers import read_questions
from sqlr1.data.split import SUBSETS, cap_styles, held_out, split
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
from sqlr1.sandbox import Limits
from sqlr1.stages.common import Job, add_workers, data_root, stage, stage_parser

if TYPE_CHECKING:
    from matplotlib.figure import Figure

log = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the stage."""
    parser = stage_parser(__doc__)
    parser.add_argument("--questions", type=Path, required=True, help="rows to filter (JSONL)")
    parser.add_argument("--catalogue", type=Path, required=True, help="databases of the rows (JSONL)")
    parser.add_argument("--benchmark", type=Path, nargs="*", default=[], help="question files to stay clear of")
    add_workers(parser)
    with stage("filter", parser, argv, inputs=["questions", "catalogue", "benchmark"]) as job:
        rows = RecordFile(job.args.questions, Question)
        paths = _paths(rows, Catalogue(job.args.catalogue, data_root()))
        benchmark = Benchmark.of(q for path in job.args.benchmark for q in read_questions(_layout(path), path))
        rules, limits = Rules(**job.settings["filter"].get("rules", {})), Limits(**job.settings.get("execution", {}))
        reasons = filter_rows(rows, paths, benchmark, rules, limits, job.args.workers)
        subsets, over = _divided(job, rows, reasons)
        dropped = [(number, reason) for number, reason in enumerate(reasons) if reason]
        _write(job, rows, subsets, dropped + [(number, "over_quota") for number in over])


def _paths(rows: RecordFile[Question], catalogue: Catalogue) -> dict[str, Path]:
    """Raises InputError naming the first row whose database is unknown."""
    paths: dict[str, Path] = {}
    for row in rows:
        if row.db_id not in paths:
            if row.db_id not in catalogue.databases:
                raise InputError(
                    f"{rows.path}: row {row.id} names the unknown database {row.db_id!r}; it is not in {catalogue.path}"
                )
            paths[row.db_id] = catalogue[row.db_id]
    return paths


def _divided(
    job: Job, rows: Sequence[Question], reasons: Sequence[str | None]
) -> tuple[dict[str, list[int]], list[int]]:
    """(the numbers of each subset's rows, those over a quota) of the rows without a reason to drop them."""
    settings = job.settings["filter"]
    classes, styles, databases = {}, {}, {}
    for number, (row, reason) in enumerate(zip(rows, reasons, strict=True)):
        if not reason:
            classes[number], styles[number] = sys.intern(row.sql_class), sys.intern(row.style)
            databases[number] = sys.intern(row.db_id)
    sizes = {name: settings[f"{name}_rows"] for name in SUBSETS}
    weights = settings.get("classes", dict.fromkeys(SQL_CLASSES, 1.0))
    over: list[int] = []
    if most := settings.get("max_per_style"):
        kept, over = cap_styles(styles, round(most * sum(sizes.values())), job.seed)
        classes = {number: classes[number] for number in kept}
    unseen = held_out((databases[number] for number in classes), settings.get("validation_databases", 0), job.seed)
    for_validation = {number for number in classes if databases[number] in unseen}
    subsets = split(classes, sizes, settings["rl_classes"], weights, job.seed, for_validation)
    return subsets, over + subsets.pop("surplus")


def _layout(path: Path) -> str:
    """BIRD's rows hold `SQL`, Spider's `query`."""
    rows = read_json(path)
    if not isinstance(rows, list) or not rows or not isinstance(rows[0], dict):
        raise InputError(f"{path}: expected a JSON list of questions in Spider's or BIRD's layout")
    return "bird" if "SQL" in rows[0] else "spider"


def _write(
    job: Job, rows: Sequence[Question], numbers: Mapping[str, Sequence[int]], dropped: Sequence[tuple[int, str]]
) -> None:
    for name in SUBSETS:
        write_jsonl(job.out / f"{name}.jsonl", (rows[number] for number in numbers[name]))
        wanted = job.settings["filter"][f"{name}_rows"]
        if len(numbers[name]) < wanted:
            log.warning("%s: only %d of the %d rows asked for are left", name, len(numbers[name]), wanted)
    write_jsonl(job.out / "dropped.jsonl", ({**vars(rows[number]), "reason": reason} for number, reason in dropped))
    subsets = {name: RecordFile(job.out / f"{name}.jsonl", Question) for name in SUBSETS}
    drops = Counter(reason for _, reason in dropped)
    counts = {
        "input": len(rows),
        "dropped": {reason: drops[reason] for reason in REASONS},
        "subsets": {name: len(subsets[name]) for name in SUBSETS},
        "classes": {name: _count(subsets[name], "sql_class") for name in SUBSETS},
        "styles": {name: _count(subsets[name], "style") for name in SUBSETS},
    }
    write_json(job.out / "funnel.json", counts)
    first = {reason: number for number, reason in reversed(dropped)}
    examples = {reason: rows[first[reason]] for reason in REASONS if reason in first}
    with atomic_write(job.out / "README.md") as file:
        file.write(data_card(subsets, counts, examples, f"SQL-R1 training data: {job.args.experiment}"))
    job.outputs(*(f"{name}.jsonl" for name in SUBSETS), "dropped.jsonl", "funnel.json", "README.md")
    job.run.artifact(job.out / "README.md")
    _track(job, counts)


def _count(rows: Sequence[Question], field: str) -> dict[str, int]:
    return dict(sorted(Counter(getattr(row, field) for row in rows).items()))


def _track(job: Job, counts: Mapping[str, Any]) -> None:
    from sqlr1.report.data_tables import funnel_figure

    job.run.metrics({"input": counts["input"]} | {f"dropped/{k}": v for k, v in counts["dropped"].items()})
    job.run.metrics({f"rows/{k}": v for k, v in counts["subsets"].items()})
    job.run.figure(funnel_figure(counts), "funnel.png")
    for kind in ("classes", "styles"):
        job.run.figure(_shares(counts[kind], kind), f"{kind}.png")


def _shares(counts: Mapping[str, Mapping[str, int]], title: str) -> "Figure":
    """Grouped bars: rows of each class or style in each subset."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.5), layout="constrained")
    axes = figure.subplots()
    names = sorted({name for subset in counts.values() for name in subset})
    for offset, (subset, found) in enumerate(counts.items()):
        places = [place + offset * 0.27 for place in range(len(names))]
        axes.bar(places, [found.get(name, 0) for name in names], width=0.25, label=subset)
    axes.set_xticks([place + 0.27 for place in range(len(names))], names, rotation=30)
    axes.set(ylabel="rows", title=title)
    axes.legend()
    return figure


if __name__ == "__main__":
    main()
