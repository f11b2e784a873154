# A strategy of `none` makes base model and cold start one and the same.
SCORES = sorted({*scores(["none"], [WITHOUT_RL]), *scores([STRATEGY], [WITHOUT_RL, *VARIANTS])})


rule report:
    input:
        code=sources("sqlr1.stages.report"),
        funnel="<results>/filter/funnel.json",
        catalogue="<results>/synthesize/catalogue.jsonl",
        cold_start=expand(rules.cold_start.output.metrics, **MAIN_RUNS),
        pass_rates=expand(rules.select.output.rates, **MAIN_RUNS),
        linking=expand(rules.select.output.linking, **MAIN_RUNS),
        grpo=expand(rules.grpo.output.metrics, **MAIN_RUNS),
        validation=expand(rules.grpo.output.validation, **MAIN_RUNS),
        scores=SCORES,
        questions=question_rows(SCORES),
        policy=expand(rules.grpo.output.manifest, **MAIN_RUNS)[0],
    output:
        manifest="<results>/report/manifest.json",
        markdown=shown("report.md", "report", "Report", content="report"),
        conclusion="<results>/report/conclusion.txt",
        funnel=shown("report/funnel.svg", "funnel", "Data", content="dropped and kept questions"),
        selection=shown("report/selection.svg", "selection", "Data", content="pass rates of the RL questions"),
        training=shown("report/training.svg", "training", "Training", content="cold start and GRPO"),
        scores=shown("report/scores.svg", "scores", "Scores", content="execution accuracy"),
        errors=shown("report/errors.svg", "scores", "Scores", content="kinds of error"),
        error_flow=shown(
            "report/error_flow.svg", "error_flow", "Scores", content="kinds of error, before to after GRPO"
        ),
        table=shown("report/scores.csv", "scores", "Scores", content="execution accuracy"),
    log:
        "<results>/logs/report.log",
    benchmark:
        "<results>/benchmarks/report.tsv"
    conda:
        ENV
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        # A function, because Snakemake would read {data} in a plain string as a wildcard.
        cfg=lambda wildcards: settings(PLAIN, *PLAIN, skipped=SKIPPED),
        out=subpath(output.manifest, parent=True),
        experiment=CONFIG.experiment,
    message:
        "report: {output.markdown} (log: {log})"
    shell:
        "python -m sqlr1.stages.report --settings {params.cfg:q} --funnel {input.funnel:q} "
        "--catalogue {input.catalogue:q} --cold-start {input.cold_start:q} --pass-rates {input.pass_rates:q} "
        "--linking {input.linking:q} "
        "--grpo {input.grpo:q} --validation {input.validation:q} --scores {input.scores:q} --questions {input.questions:q} "
        "--policy {input.policy:q} --out {params.out:q} --experiment {params.experiment:q} --log {log:q}"


ABLATION_INPUTS = {
    "ablation_reward": scores([STRATEGY], [WITHOUT_RL, *ABLATED]),
    "ablation_cold_start": scores(STRATEGIES, [WITHOUT_RL, ABLATED[0]]),
}


rule ablation:
    input:
        code=sources("sqlr1.stages.ablation"),
        summaries=lambda wildcards: ABLATION_INPUTS[wildcards.ablation],
        questions=lambda wildcards: question_rows(ABLATION_INPUTS[wildcards.ablation]),
    output:
        manifest="<results>/{ablation}/manifest.json",
        table=shown("{ablation}/table.csv", "ablation", "Ablations", ablation="{ablation}"),
        markdown="<results>/{ablation}/table.md",
        figure=shown("{ablation}/figure.svg", "ablation", "Ablations", ablation="{ablation}"),
    log:
        "<results>/logs/{ablation}.log",
    benchmark:
        "<results>/benchmarks/{ablation}.tsv"
    wildcard_constraints:
        ablation="ablation_reward|ablation_cold_start",
    conda:
        ENV
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        cfg=settings(PLAIN, "candidates", "score"),
        out=subpath(output.manifest, parent=True),
        experiment=CONFIG.experiment,
    message:
        "{wildcards.ablation}: {output.table}, {output.figure} (log: {log})"
    shell:
        "python -m sqlr1.stages.ablation --settings {params.cfg:q} --ablation {wildcards.ablation} "
        "--summaries {input.summaries:q} --questions {input.questions:q} --out {params.out:q} "
        "--experiment {params.experiment:q} --log {log:q} --tag ablation={wildcards.ablation}"


# The main run, the ablations that the configuration names, and what else of them is there.
PAPER_SCORES = sorted(
    {
        *SCORES,
        *(
            path
            for ablation, summaries in ABLATION_INPUTS.items()
            for path in summaries
            if ablation in CONFIG.paper_tables.ablations or os.path.exists(path.replace("<results>", RESULTS))
        ),
    }
)
OTHER_PROMPT = [path.replace("<results>", f"{RESULTS}-other-prompt") for path in scores([STRATEGY], VARIANTS[:1])]

PAPER_FILES = {
    "tables.md": "all tables",
    "comparison.svg": "ablations beside the paper's",
    "main.csv": "main results",
    "spider_variants.csv": "variants of Spider",
    "bird_difficulty.csv": "by difficulty",
    "cold_start.csv": "cold start",
    "reward.csv": "reward",
    "values.csv": "database values in the prompt",
    "votes.csv": "number of candidates",
    "votes.svg": "number of candidates",
    "efficiency.csv": "tokens and seconds per answer",
}


rule paper_tables:
    input:
        code=sources("sqlr1.stages.paper_tables"),
        scores=PAPER_SCORES,
        questions=question_rows(PAPER_SCORES),
        candidates=[
            path.replace("<results>/score", "<results>/candidates").replace("summary.json", "manifest.json")
            for path in PAPER_SCORES
        ],
        other=[path for path in OTHER_PROMPT if os.path.exists(path)],
        policy=expand(rules.grpo.output.manifest, **MAIN_RUNS),
    output:
        manifest="<results>/paper/manifest.json",
        files=[shown(f"paper/{name}", "paper", "Paper", content=content) for name, content in PAPER_FILES.items()],
    log:
        "<results>/logs/paper_tables.log",
    benchmark:
        "<results>/benchmarks/paper_tables.tsv"
    conda:
        ENV
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        # A function, because Snakemake would read braces in a plain string as a wildcard.
        cfg=lambda wildcards: settings(
            PLAIN,
            *("experiment", "base_model", "prompt", "cold_start", "reward", "candidates", "score"),
            skipped=SKIPPED,
        ),
        times=f"{RESULTS}/benchmarks/candidates",
        out=subpath(output.manifest, parent=True),
        experiment=CONFIG.experiment,
    message:
        "paper_tables: {output.files[0]} (log: {log})"
    shell:
        "python -m sqlr1.stages.paper_tables --settings {params.cfg:q} --scores {input.scores:q} "
        "--questions {input.questions:q} --candidates {input.candidates:q} --other {input.other:q} "
        "--times {params.times:q} --out {params.out:q} --experiment {params.experiment:q} --log {log:q}"
