"""The experiment's report: configuration, data funnel, training curves, scores, worked examples.

`--out` is results/<experiment>/report; report.md is written beside that folder. Curves and scores may come from
several seeds and reward variants; a file's are the `seed-N` in its path and the folder around that.
"""

import logging
import shutil
import subprocess
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from sqlr1.evaluate.estimates import Bootstrap
from sqlr1.records import Database, atomic_write, read_json, read_jsonl, read_records
from sqlr1.report import scores, sections
from sqlr1.report.curves import collapse_warnings, read_metrics, training_panels
from sqlr1.report.examples import choose_examples, example_markdown
from sqlr1.report.figures import curve_panels, interval_panels, save
from sqlr1.report.funnel_table import funnel_figure, funnel_markdown
from sqlr1.report.policies import ScoreRun, benchmarks_of, load_runs, select
from sqlr1.report.selection_table import selection_figure, selection_markdown
from sqlr1.report.tables import write_csv
from sqlr1.stages.common import LIBRARIES, Job, stage, stage_parser

logger = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> None:
    parser = stage_parser(__doc__)
    parser.add_argument("--funnel", type=Path, required=True, help="funnel.json of the filter stage")
    parser.add_argument("--catalogue", type=Path, required=True, help="catalogue.jsonl of the synthesize stage")
    parser.add_argument("--cold-start", type=Path, nargs="+", required=True, help="metrics.jsonl of each seed")
    parser.add_argument("--pass-rates", type=Path, nargs="+", required=True, help="pass_rates.jsonl of each seed")
    parser.add_argument("--grpo", type=Path, nargs="+", required=True, help="metrics.jsonl of each seed")
    parser.add_argument("--validation", type=Path, nargs="+", required=True, help="validation.jsonl of each seed")
    parser.add_argument("--scores", type=Path, nargs="+", required=True, help="summary.json of each scored policy")
    parser.add_argument("--questions", type=Path, nargs="+", required=True, help="questions.jsonl beside each summary")
    files = ["funnel", "catalogue", "cold_start", "pass_rates", "grpo", "validation", "scores", "questions"]
    with stage("report", parser, argv, inputs=files) as job:
        _report(job)


def _report(job: Job) -> None:
    runs = load_runs(job.args.scores, job.args.questions)
    bootstrap = Bootstrap(**job.settings["score"])
    libraries = {name: version(name) for name in LIBRARIES}
    parts = [
        f"# Report: {job.settings['experiment']}",
        sections.configuration_section(job.settings, _commit(), libraries),
        _data(job),
        _selection(job),
        _training(job, bootstrap),
        _scores(job, runs, bootstrap),
        _examples(job, runs),
    ]
    with atomic_write(job.out / "../report.md") as file:
        file.write("\n\n".join(parts) + "\n")
    job.outputs("../report.md", "funnel.svg", "selection.svg", "training.svg", "scores.svg", "scores.csv")
    job.run.artifact(job.out / "../report.md")


def _data(job: Job) -> str:
    funnel = read_json(job.args.funnel)
    figure = funnel_figure(funnel)
    save(figure, job.out / "funnel.svg")
    job.run.figure(figure, "funnel.png")
    databases = sections.databases_line(read_records(job.args.catalogue, Database))
    return f"## Data\n\n{databases}\n\n![Data funnel](report/funnel.svg)\n\n{funnel_markdown(funnel)}"


def _selection(job: Job) -> str:
    names = _run_names(job.args.pass_rates)
    rates = {name: [row for _, row in read_jsonl(path)] for name, path in zip(names, job.args.pass_rates, strict=True)}
    figure = selection_figure(rates)
    save(figure, job.out / "selection.svg")
    job.run.figure(figure, "selection.png")
    return f"## Selection\n\n{selection_markdown(rates, Path('report/selection.svg'))}"


def _training(job: Job, bootstrap: Bootstrap) -> str:
    names = _run_names(job.args.grpo)
    validation = {name: read_metrics(path) for name, path in zip(names, job.args.validation, strict=True)}
    of_main_run = [read_metrics(path) for path in job.args.grpo if path.parent.parent == job.args.grpo[0].parent.parent]
    cold_start = [read_metrics(path) for path in job.args.cold_start]
    figure = curve_panels(training_panels(cold_start, of_main_run, validation, bootstrap))
    save(figure, job.out / "training.svg")
    job.run.figure(figure, "training.png")
    warnings = {name: collapse_warnings(rows) for name, rows in validation.items()}
    for name, texts in warnings.items():
        for text in texts:
            logger.warning("GRPO, %s: %s", name, text)
    job.run.tags({"collapse_warnings": sum(map(len, warnings.values()))})
    return sections.training_section(warnings, validation, bootstrap)


def _scores(job: Job, runs: Sequence[ScoreRun], bootstrap: Bootstrap) -> str:
    strategy = job.settings["cold_start"]["strategy"]
    rewards = job.settings["reward"]["variants"]
    policies = scores.report_policies(strategy, rewards, runs)
    rows = scores.score_rows(policies, runs, bootstrap)
    write_csv(job.out / "scores.csv", rows)
    job.run.table(rows, "scores.json")
    figure = interval_panels(scores.score_panels(policies, runs, bootstrap), "execution accuracy, %")
    save(figure, job.out / "scores.svg")
    job.run.figure(figure, "scores.png")
    overall = [row for row in rows if row["difficulty"] == "all"]
    names = ["/".join((r["benchmark"], f"{r['strategy']}.{r['reward']}", r["method"])) for r in overall]
    job.run.metrics({n.replace("@", "_at_"): row["value"] for n, row in zip(names, overall, strict=True)})
    parts = [
        "## Scores",
        f"Execution accuracy in %, {100 * bootstrap.confidence:.0f} % intervals by bootstrap over questions; "
        "the vote is over the samples' results, pass@k counts a question as solved if any sample is right.",
        scores.headline_markdown(policies, runs, bootstrap),
        "![Scores](report/scores.svg)",
        f"### Change by GRPO\n\n{scores.change_markdown(strategy, rewards, runs, bootstrap)}",
        f"### By difficulty\n\n{scores.difficulty_markdown(policies, runs, bootstrap)}",
        sections.coverage_section([run.summary for run in runs], job.settings["skipped"]),
    ]
    return "\n\n".join(parts)


def _examples(job: Job, runs: Sequence[ScoreRun]) -> str:
    """Of the first benchmark by name and the first seed of the trained policy."""
    policy = (job.settings["cold_start"]["strategy"], job.settings["reward"]["variants"][0])
    benchmark = benchmarks_of(runs)[0]
    run = select(runs, policy, benchmark)[0]
    examples = [example_markdown(kind, row) for kind, row in choose_examples(run, job.seed).items()]
    note = f"Of {benchmark}, drawn by seed from the questions of each kind."
    return "\n\n".join(["## Worked examples", note, *examples])


def _run_names(paths: Sequence[Path]) -> list[str]:
    """`seed N` of each run's file, with the reward variant where several were trained."""
    seeds = [path.parent.name.replace("-", " ") for path in paths]
    several = len({path.parent.parent for path in paths}) > 1
    return [f"{path.parent.parent.name}, {seed}" if several else seed for path, seed in zip(paths, seeds, strict=True)]


def _commit() -> str:
    """The commit this checkout is at, marked -dirty where tracked files were edited."""
    if not (git := shutil.which("git")):
        return "unknown (git is not installed)"
    command = [git, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    result = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    return result.stdout.strip() if result.returncode == 0 else "unknown (not a git checkout)"


if __name__ == "__main__":
    main()
