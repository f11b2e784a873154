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
        linking=expand(
            "<results>/select/{strategy}/seed-{seed}/linking.json",
            strategy=STRATEGY,
            seed=SEEDS,
        ),
        grpo=training_files("metrics.jsonl"),
        validation=training_files("validation.jsonl"),
        scores=SCORES,
        questions=question_rows(SCORES),
        policy=training_files("manifest.json")[0],
    output:
        manifest="<results>/report/manifest.json",
        markdown=report(
            "<results>/report.md",
            caption="../report/report.rst",
            category="Report",
            labels={"content": "report", "kind": "text"},
        ),
        conclusion="<results>/report/conclusion.txt",
        funnel=report(
            "<results>/report/funnel.svg",
            caption="../report/funnel.rst",
            category="Data",
            labels={"content": "dropped and kept questions", "kind": "figure"},
        ),
        selection=report(
            "<results>/report/selection.svg",
            caption="../report/selection.rst",
            category="Data",
            labels={"content": "pass rates of the RL questions", "kind": "figure"},
        ),
        training=report(
            "<results>/report/training.svg",
            caption="../report/training.rst",
            category="Training",
            labels={"content": "cold start and GRPO", "kind": "figure"},
        ),
        scores=report(
            "<results>/report/scores.svg",
            caption="../report/scores.rst",
            category="Scores",
            labels={"content": "execution accuracy", "kind": "figure"},
        ),
        errors=report(
            "<results>/report/errors.svg",
            caption="../report/scores.rst",
            category="Scores",
            labels={"content": "kinds of error", "kind": "figure"},
        ),
        error_flow=report(
            "<results>/report/error_flow.svg",
            caption="../report/error_flow.rst",
            category="Scores",
            labels={"content": "kinds of error, before to after GRPO", "kind": "figure"},
        ),
        table=report(
            "<results>/report/scores.csv",
            caption="../report/scores.rst",
            category="Scores",
            labels={"content": "execution accuracy", "kind": "table"},
        ),
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
        cfg=settings(PLAIN, "score"),
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
        policy=training_files("manifest.json"),
    output:
        manifest="<results>/paper/manifest.json",
        files=[
            report(
                f"<results>/paper/{name}",
                caption="../report/paper.rst",
                category="Paper",
                labels={
                    "content": content,
                    "kind": {"md": "text", "csv": "table", "svg": "figure"}[name.split(".")[1]],
                },
            )
            for name, content in PAPER_FILES.items()
        ],
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
            PLAIN, "experiment", "base_model", "prompt", "cold_start", "reward", "score", skipped=SKIPPED
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
