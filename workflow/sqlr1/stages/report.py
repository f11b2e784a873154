"""The experiment's report: conclusion, scores, training curves, data funnel, worked examples, configuration.

`--out` is results/<experiment>/report; report.md is written beside that folder, from `report/templates/report.md.j2`.
conclusion.txt has its first sentences.
Curves and scores may come from several seeds and reward variants, which are read from the path: `<variant>/seed-N`.
Equal inputs give equal bytes on one machine at one commit: both are named in the report.
"""

import logging
import os
import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from matplotlib.figure import Figure

from sqlr1.config import Section, plain
from sqlr1.records import Database, atomic_write, read_json, read_jsonl, read_records
from sqlr1.report import curves, data_tables, error_tables, score_tables
from sqlr1.report.commit import commit
from sqlr1.report.examples import choose_examples
from sqlr1.report.figures import curve_panels, flow_panels, interval_panels, save
from sqlr1.report.policies import ScoreRun, benchmarks_of, load_runs, select
from sqlr1.report.tables import write_csv
from sqlr1.report.templates import render
from sqlr1.stages.common import LIBRARIES, Job, stage, stage_parser
from sqlr1.statistics import Bootstrap
from sqlr1.train.monitor import stalls

logger = logging.getLogger(__name__)

# The settings that decide a result; each stage's manifest has all of them.
KEY_SECTIONS = (
    "seeds", "base_model", "prompt", "execution", "synthesize", "filter", "cold_start", "select", "reward", "grpo",
    "candidates", "benchmarks", "score",
)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> None:
    parser = stage_parser(__doc__)
    parser.add_argument("--funnel", type=Path, required=True, help="funnel.json of the filter stage")
    parser.add_argument("--catalogue", type=Path, required=True, help="catalogue.jsonl of the synthesize stage")
    parser.add_argument("--cold-start", type=Path, nargs="+", required=True, help="metrics.jsonl of each seed")
    parser.add_argument("--pass-rates", type=Path, nargs="+", required=True, help="pass_rates.jsonl of each seed")
    parser.add_argument("--linking", type=Path, nargs="+", default=[], help="linking.json of each seed")
    parser.add_argument("--grpo", type=Path, nargs="+", required=True, help="metrics.jsonl of each seed")
    parser.add_argument("--validation", type=Path, nargs="+", required=True, help="validation.jsonl of each seed")
    parser.add_argument("--scores", type=Path, nargs="+", required=True, help="summary.json of each scored policy")
    parser.add_argument("--questions", type=Path, nargs="+", required=True, help="questions.jsonl beside each summary")
    parser.add_argument("--policy", type=Path, help="manifest of the policy to register in MLflow")
    files = [
        "funnel", "catalogue", "cold_start", "pass_rates", "linking", "grpo", "validation", "scores", "questions",
        "policy",
    ]  # fmt: skip
    with stage("report", parser, argv, inputs=files) as job:
        _report(job)
        if job.args.policy:
            job.run.register(job.args.policy, job.args.experiment)


def _report(job: Job) -> None:
    runs = load_runs(job.args.scores, job.args.questions)
    bootstrap = Bootstrap(job.settings["score"].confidence, job.settings["score"].resamples)
    parts = _configuration(job) | _data(job) | _training(job, bootstrap) | _scores(job, runs, bootstrap)
    with atomic_write(job.out / "conclusion.txt") as file:
        file.writelines(f"{sentence}\n" for sentence in parts["conclusion"])
    with atomic_write(job.out / "../report.md") as file:
        file.write(render("report.md.j2", **parts, **_examples(job, runs)).rstrip("\n") + "\n")
    figures = ("funnel", "selection", "training", "scores", "errors", "error_flow")
    job.outputs("../report.md", "conclusion.txt", "scores.csv", *(f"{name}.svg" for name in figures))
    job.run.artifact(job.out / "../report.md")


def _figure(job: Job, figure: Figure, name: str) -> None:
    save(figure, job.out / f"{name}.svg")
    job.run.figure(figure, f"{name}.png")


def _configuration(job: Job) -> dict[str, Any]:
    """Experiment, commit, machine, library versions, key settings."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    facts = {
        "experiment": job.settings["experiment"],
        "commit": commit(),
        "machine": f"{_processor()}, {os.cpu_count()} cores, {memory:.0f} GiB",
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }
    facts |= {name: version(name) for name in LIBRARIES}
    found = {name: job.settings[name] for name in KEY_SECTIONS if name in job.settings}
    key = {name: plain(value) if isinstance(value, Section) else value for name, value in found.items()}
    config = yaml.safe_dump(key, sort_keys=False, default_flow_style=None, width=110, allow_unicode=True)
    return {"experiment": facts["experiment"], "facts": list(facts.items()), "config": config.strip()}


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.is_file() else []
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def _data(job: Job) -> dict[str, Any]:
    funnel = read_json(job.args.funnel)
    _figure(job, data_tables.funnel_figure(funnel), "funnel")
    rates = {name: [row for _, row in read_jsonl(path)] for name, path in _named(job.args.pass_rates).items()}
    _figure(job, data_tables.selection_figure(rates), "selection")
    counts = Counter((d.source, d.split) for d in read_records(job.args.catalogue, Database))
    databases = ", ".join(f"{n} {source} ({split})" for (source, split), n in sorted(counts.items()))
    selection = data_tables.selection_rows(rates)
    linking = data_tables.linking_sentences({name: read_json(path) for name, path in _named(job.args.linking).items()})
    funnel = data_tables.funnel_markdown(funnel)
    return {"databases": databases, "funnel": funnel, "selection": selection, "linking": linking}


def _training(job: Job, bootstrap: Bootstrap) -> dict[str, Any]:
    """Curves of the main reward (the first) and validation of all runs."""
    validation = {name: curves.read_metrics(path) for name, path in _named(job.args.validation).items()}
    main_reward = job.args.grpo[0].parents[1]
    grpo = [curves.read_metrics(path) for path in job.args.grpo if path.parents[1] == main_reward]
    cold_start = [curves.read_metrics(path) for path in job.args.cold_start]
    panels = curves.training_panels(cold_start, grpo, validation, bootstrap)
    _figure(job, curve_panels(panels, curves.SHARES), "training")
    warnings = [(f"GRPO, {name}", text) for name, rows in validation.items() for text in curves.collapse_warnings(rows)]
    for stage_name, paths in (("cold start", job.args.cold_start), ("GRPO", job.args.grpo)):
        for name, path in _named(paths).items():
            stalled = stalls(curves.read_metrics(path))
            warnings += [(f"{stage_name}, {name}", f"nothing is learnt, {text}") for text in stalled]
    for name, text in warnings:
        logger.warning("%s: %s", name, text)
    job.run.tags({"training_warnings": len(warnings)})
    keep = job.settings["grpo"].keep if "grpo" in job.settings else "last"
    rows = curves.validation_rows(validation, bootstrap, keep)
    return {"warnings": warnings, "validation": rows, "variance": curves.variance_sentence(grpo)}


def _scores(job: Job, runs: Sequence[ScoreRun], bootstrap: Bootstrap) -> dict[str, Any]:
    strategy, rewards = job.settings["cold_start"].strategy, job.settings["reward"].variants
    policies = score_tables.report_policies(strategy, rewards, runs)
    rows = score_tables.score_rows(policies, runs, bootstrap)
    changes = score_tables.changes(strategy, rewards, runs, bootstrap)
    write_csv(job.out / "scores.csv", rows)
    job.run.table(rows, "scores.json")
    _figure(job, interval_panels(score_tables.score_panels(rows), "execution accuracy, %"), "scores")
    errors = error_tables.error_rows(strategy, rewards[0], runs, bootstrap)
    _figure(job, interval_panels(errors, "share of questions, %"), "errors")
    _figure(job, flow_panels(error_tables.error_flow(strategy, rewards[0], runs)), "error_flow")
    overall = [row for row in rows if row["difficulty"] == "all"]
    names = ["/".join((r["benchmark"], f"{r['strategy']}.{r['reward']}", r["method"])) for r in overall]
    job.run.metrics({n.replace("@", "_at_"): row["value"] for n, row in zip(names, overall, strict=True)})
    return {
        "level": f"{100 * bootstrap.confidence:.0f}",
        "semantics": job.settings["reward"].semantics,
        "masks": job.settings["candidates"].constrained,
        "headline": score_tables.headline_markdown(rows),
        "conclusion": [c.sentence() for c in changes if c.reward == rewards[0] and c.method != "vote"],
        "change": score_tables.change_markdown(changes),
        "metrics": score_tables.metrics_markdown(policies, runs, bootstrap),
        "errors": error_tables.error_markdown(errors),
        "by_difficulty": score_tables.difficulty_markdown(rows),
        "by_feature": score_tables.feature_markdown(policies, runs, bootstrap),
        "coverage": data_tables.coverage_rows([run.summary for run in runs]),
        "skipped": job.settings["skipped"],
    }


def _examples(job: Job, runs: Sequence[ScoreRun]) -> dict[str, Any]:
    """From the first benchmark by name and the first seed of the trained policy."""
    policy = (job.settings["cold_start"].strategy, job.settings["reward"].variants[0])
    benchmark = benchmarks_of(runs)[0]
    run = select(runs, policy, benchmark)[0]
    examples = choose_examples(run, job.seed)
    from sqlr1.traces import Answer  # imports MLflow

    job.run.traces(lambda: [Answer.of(row, run.summary["metric"], kind) for kind, row in examples.items()])
    return {"benchmark": benchmark, "examples": examples}


def _named(paths: Sequence[Path]) -> Mapping[str, Path]:
    """The files by the names of their runs: `seed N`, with the reward variant if several were trained."""
    several = len({path.parents[1] for path in paths}) > 1
    seeds = {path: path.parent.name.replace("-", " ") for path in paths}
    return {f"{path.parents[1].name}, {seed}" if several else seed: path for path, seed in seeds.items()}


if __name__ == "__main__":
    main()
