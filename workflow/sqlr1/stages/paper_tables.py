"""The paper's tables: each of its numbers beside ours, or what has to be run for ours.

Outputs: a CSV per table, tables.md, votes.svg (accuracy by the number of samples that vote), and comparison.svg (the
ablations, the paper's numbers beside ours). The prompt with and without database values takes two experiments: the
other one is `<experiment>-other-prompt`, with equal settings but for values and length of `prompt`. Seconds differ from
run to run.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sqlr1.config import Prompt
from sqlr1.records import atomic_write, read_json
from sqlr1.report import paper
from sqlr1.report.commit import commit
from sqlr1.report.figures import curve_panels, interval_panels, save
from sqlr1.report.policies import load_runs, policies_of
from sqlr1.report.published import ABLATED_ON
from sqlr1.report.score_tables import report_policies
from sqlr1.report.tables import write_csv
from sqlr1.report.templates import render
from sqlr1.stages.common import Job, stage, stage_parser
from sqlr1.statistics import Bootstrap


def main(argv: Sequence[str] | None = None) -> None:
    parser = stage_parser(__doc__)
    parser.add_argument("--scores", type=Path, nargs="+", required=True, help="summary.json of each scored policy")
    parser.add_argument("--questions", type=Path, nargs="+", required=True, help="questions.jsonl beside each summary")
    parser.add_argument("--candidates", type=Path, nargs="+", required=True, help="manifest.json of their candidates")
    parser.add_argument("--times", type=Path, required=True, help="folder of Snakemake's times of the candidates")
    parser.add_argument("--other", type=Path, nargs="*", default=[], help="summaries of the main policy, other prompt")
    with stage("paper_tables", parser, argv, inputs=["scores", "questions", "candidates", "other"]) as job:
        _tables(job)


def _tables(job: Job) -> None:
    settings, runs = job.settings, load_runs(job.args.scores, job.args.questions)
    strategy, variants = settings["cold_start"].strategy, settings["reward"].variants
    model = settings["base_model"].file or settings["base_model"].name
    bootstrap = Bootstrap(settings["score"].confidence, settings["score"].resamples)
    results = paper.Results(runs, (strategy, variants[0]), model, commit(), bootstrap, settings["skipped"])
    manifests = {path.parent.parts[-4:]: read_json(path) for path in job.args.candidates}
    tables = {
        "main": paper.main_results(results),
        "spider_variants": paper.spider_variants(results),
        "bird_difficulty": paper.by_difficulty(results),
        "cold_start": paper.cold_start(results),
        "reward": paper.reward(results),
        "values": paper.values(results, settings["prompt"], *_other_prompt(job, results)),
        "votes": paper.votes(results, report_policies(strategy, variants, runs)),
        "efficiency": paper.efficiency(results, policies_of(runs), manifests, job.args.times),
    }
    for name, rows in tables.items():
        write_csv(job.out / f"{name}.csv", rows)
        job.run.table(rows, f"{name}.json")
    compared = {name: tables[name] for name in ("cold_start", "reward", "values")}
    benchmark = ABLATED_ON if ABLATED_ON in results.benchmarks else results.benchmarks[0]
    figures = {
        "votes": curve_panels(paper.vote_panels(tables["votes"]), xlabel="samples that vote"),
        "comparison": interval_panels(paper.comparison_panels(compared, benchmark), "execution accuracy, %"),
    }
    for name, figure in figures.items():
        save(figure, job.out / f"{name}.svg")
        job.run.figure(figure, f"{name}.png")
    with atomic_write(job.out / "tables.md") as file:
        file.write(_page(job, results, tables, benchmark))
    job.outputs("tables.md", *(f"{name}.csv" for name in tables), *(f"{name}.svg" for name in figures))
    job.run.artifact(job.out / "tables.md")


def _page(job: Job, results: paper.Results, tables: dict[str, list[paper.Row]], benchmark: str) -> str:
    efficiency = paper.efficiency_markdown(tables["efficiency"])
    texts = {name: paper.markdown(rows) for name, rows in tables.items() if name != "efficiency"}
    return render(
        "paper.md.j2",
        experiment=job.settings["experiment"],
        model=results.model,
        commit=paper.short(results.commit),
        level=f"{100 * results.bootstrap.confidence:.0f}",
        masks=job.settings["candidates"].constrained,
        benchmark=benchmark,
        titles=paper.TITLES,
        tables=texts | {"efficiency": efficiency},
    )


def _other_prompt(job: Job, results: paper.Results) -> tuple[paper.Results | None, str]:
    """The results of the experiment with the other prompt, or why there are none and how to get them."""
    other = f"{job.settings['experiment']}-other-prompt"
    shown = paper.has_values(job.settings["prompt"])
    longer = 2 * job.settings["prompt"].max_length  # values take room: questions would be dropped
    prompt = "{example_values: 0, retrieved_values: 0}" if shown else f"{{example_values: 2, max_length: {longer}}}"
    overlay = f"`echo '{{experiment: {other}, prompt: {prompt}}}' > other-prompt.yaml`"
    command = f"{overlay}, `snakemake --configfile other-prompt.yaml`, then `snakemake paper_tables`"
    if not job.args.other:
        return None, command
    differing: set[str] = set()
    for path in job.args.other:
        *_, strategy, reward, seed, benchmark, _ = path.parts
        below = Path(strategy, reward, seed)
        stages = [Path("grpo", below), Path("candidates", below, benchmark)]
        earlier = ("base_model", "synthesize", "filter", f"cold_start/{strategy}/{seed}")
        stages += [Path(name) for name in earlier if (job.out.parent / name / "manifest.json").is_file()]
        for name in stages:
            files = [folder / name / "manifest.json" for folder in (job.out.parent, path.parents[5])]
            found = [read_json(file) for file in files]
            ours, theirs = (manifest["settings"] | {"versions": manifest["versions"]} for manifest in found)
            job.reads(files)
            differing |= _differing(ours, theirs)
            if "prompt" in theirs and paper.has_values(Prompt.model_validate(theirs["prompt"])) == shown:
                differing.add("the prompt is of the same kind")
    if differing:
        return None, f"{other} must differ in the prompt's values alone ({', '.join(sorted(differing))}): {command}"
    questions = [path.with_name("questions.jsonl") for path in job.args.other]
    return replace(results, runs=load_runs(job.args.other, questions)), command


def _differing(ours: dict[str, Any], theirs: dict[str, Any]) -> set[str]:
    """The keys (`grpo.beta`) whose values differ, but for those of values in the prompt, which may need more room."""
    free = {f"prompt.{key}" for key in ("example_values", "retrieved_values", "max_length")}
    flat = [{f"{s}.{k}": v for s, keys in found.items() for k, v in keys.items()} for found in (ours, theirs)]
    keys = {key for found in flat for key in found if key not in free}
    return {key for key in keys if flat[0].get(key) != flat[1].get(key)}


if __name__ == "__main__":
    main()
