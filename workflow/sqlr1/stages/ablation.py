"""Ablation table and figure: one row per variant, with intervals, beside the paper's number.

Scores are pooled over seeds (mean of a question's scores, bootstrap over questions). Outputs: table.csv (fractions),
table.md and figure.svg.
"""

from collections.abc import Sequence
from pathlib import Path

from sqlr1.records import atomic_write
from sqlr1.report.figures import interval_panels, save
from sqlr1.report.policies import benchmarks_of, load_runs
from sqlr1.report.score_tables import ABLATIONS, ablation_markdown, ablation_panels, ablation_rows, csv_rows
from sqlr1.report.tables import write_csv
from sqlr1.stages.common import stage, stage_parser
from sqlr1.statistics import Bootstrap


def main(argv: Sequence[str] | None = None) -> None:
    parser = stage_parser(__doc__)
    parser.add_argument("--ablation", choices=ABLATIONS, required=True)
    parser.add_argument("--summaries", type=Path, nargs="+", required=True, help="summary.json of every variant")
    parser.add_argument("--questions", type=Path, nargs="+", required=True, help="questions.jsonl beside each summary")
    with stage("ablation", parser, argv, inputs=["summaries", "questions"]) as job:
        runs = load_runs(job.args.summaries, job.args.questions)
        masks = job.settings["candidates"].constrained
        bootstrap = Bootstrap(job.settings["score"].confidence, job.settings["score"].resamples)
        rows = ablation_rows(job.args.ablation, runs, bootstrap)
        benchmarks = benchmarks_of(runs)
        flat = csv_rows(rows, benchmarks)
        write_csv(job.out / "table.csv", flat)
        with atomic_write(job.out / "table.md") as file:
            file.write(ablation_markdown(job.args.ablation, rows, runs, bootstrap, masks))
        figure = interval_panels(ablation_panels(rows, benchmarks), "execution accuracy, %")
        save(figure, job.out / "figure.svg")
        job.outputs("table.csv", "table.md", "figure.svg")
        job.run.table(flat, "table.json")
        job.run.figure(figure, "figure.png")
        for row in rows:
            for name in benchmarks:
                prefix = f"{name}/{'.'.join(row['policy'])}"
                job.run.metrics({f"{prefix}/{m}": row[name][m].value for m in ("greedy", "vote") if row[name][m]})


if __name__ == "__main__":
    main()
