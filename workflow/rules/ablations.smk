REWARDS = ["full", "no_format", "no_execution", "no_result", "no_length"]
STRATEGIES = ["none", "sql_only", "reasoning"]
ABLATION_INPUTS = {
    "ablation_reward": scores([STRATEGY], [WITHOUT_RL, *REWARDS]),
    "ablation_cold_start": scores(STRATEGIES, [WITHOUT_RL, REWARDS[0]]),
}


rule ablation:
    input:
        code=sources("sqlr1.stages.ablation"),
        summaries=lambda wildcards: ABLATION_INPUTS[wildcards.ablation],
        questions=lambda wildcards: question_rows(ABLATION_INPUTS[wildcards.ablation]),
    output:
        manifest="<results>/{ablation}/manifest.json",
        table=report(
            "<results>/{ablation}/table.csv",
            caption="../report/ablation.rst",
            category="Ablations",
            labels={"ablation": "{ablation}", "kind": "table"},
        ),
        markdown="<results>/{ablation}/table.md",
        figure=report(
            "<results>/{ablation}/figure.svg",
            caption="../report/ablation.rst",
            category="Ablations",
            labels={"ablation": "{ablation}", "kind": "figure"},
        ),
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
        cfg=settings(config, "score"),
        out=lambda wildcards, output: Path(output.manifest).parent,
        experiment=config["experiment"],
    message:
        "{wildcards.ablation}: {output.table}, {output.figure} (log: {log})"
    shell:
        "python -m sqlr1.stages.ablation --settings {params.cfg:q} --ablation {wildcards.ablation} "
        "--summaries {input.summaries:q} --questions {input.questions:q} --out {params.out:q} "
        "--experiment {params.experiment:q} --log {log:q} --tag ablation={wildcards.ablation}"
