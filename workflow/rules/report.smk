# A strategy of `none` makes base model and cold start one and the same.
SCORES = sorted({*scores(["none"], [WITHOUT_RL]), *scores([STRATEGY], [WITHOUT_RL, *VARIANTS])})


rule report:
    input:
        code=sources("sqlr1.stages.report"),
        funnel="<results>/filter/funnel.json",
        catalogue="<results>/synthesize/catalogue.jsonl",
        cold_start=expand(
            "<results>/cold_start/{strategy}/seed-{seed}/metrics.jsonl",
            strategy=STRATEGY,
            seed=SEEDS,
        ),
        pass_rates=expand(
            "<results>/select/{strategy}/seed-{seed}/pass_rates.jsonl",
            strategy=STRATEGY,
            seed=SEEDS,
        ),
        grpo=training_files("metrics.jsonl"),
        validation=training_files("validation.jsonl"),
        scores=SCORES,
        questions=question_rows(SCORES),
    output:
        manifest="<results>/report/manifest.json",
        markdown=report("<results>/report.md", caption="../report/report.rst", category="Report"),
        funnel=report("<results>/report/funnel.svg", caption="../report/funnel.rst", category="Data"),
        selection=report("<results>/report/selection.svg", caption="../report/selection.rst", category="Data"),
        training=report("<results>/report/training.svg", caption="../report/training.rst", category="Training"),
        scores=report("<results>/report/scores.svg", caption="../report/scores.rst", category="Scores"),
        table=report("<results>/report/scores.csv", caption="../report/scores.rst", category="Scores"),
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
        # A function, for Snakemake would take {data} inside the string for a wildcard.
        cfg=lambda wildcards: settings(config, *sorted(config), skipped=SKIPPED),
        out=lambda wildcards, output: Path(output.manifest).parent,
        experiment=config["experiment"],
    message:
        "report: {output.markdown} (log: {log})"
    shell:
        "python -m sqlr1.stages.report --settings {params.cfg:q} --funnel {input.funnel:q} "
        "--catalogue {input.catalogue:q} --cold-start {input.cold_start:q} --pass-rates {input.pass_rates:q} "
        "--grpo {input.grpo:q} --validation {input.validation:q} --scores {input.scores:q} --questions {input.questions:q} "
        "--out {params.out:q} --experiment {params.experiment:q} --log {log:q}"
