rule candidates:
    input:
        unpack(lambda wildcards: benchmark_files(wildcards.benchmark)),
        untrusted=lambda wildcards: untrusted_questions(wildcards.benchmark),
        code=sources("sqlr1.stages.candidates"),
        pins=PINS,
        model=lambda wildcards: f"{model_of(wildcards)}/manifest.json",
        weights=lambda wildcards: expand(f"{model_of(wildcards)}/model/{{file}}", file=MODEL_FILES),
    output:
        candidates="<results>/candidates/{strategy}/{reward}/seed-{seed}/{benchmark}/candidates.jsonl",
        manifest="<results>/candidates/{strategy}/{reward}/seed-{seed}/{benchmark}/manifest.json",
    log:
        "<results>/logs/candidates/{strategy}/{reward}/seed-{seed}/{benchmark}.log",
    benchmark:
        "<results>/benchmarks/candidates/{strategy}/{reward}/seed-{seed}/{benchmark}.tsv"
    conda:
        ENV
    threads: CORES
    resources:
        **config["resources"]["candidates"],
    params:
        cfg=lambda wildcards: settings(config, "candidates", "prompt", benchmark=asked_of(wildcards.benchmark)),
        databases=lambda wildcards: resolve(BENCHMARKS[wildcards.benchmark]["databases"]),
        exclude=lambda wildcards, input: ["--exclude", input.untrusted] if input.untrusted else [],
        out=lambda wildcards, output: Path(output.manifest).parent,
        experiment=config["experiment"],
    message:
        "candidates: {wildcards.benchmark}, reward {wildcards.reward} after cold start {wildcards.strategy}, "
        "seed {wildcards.seed} (log: {log})"
    shell:
        "python -m sqlr1.stages.candidates --settings {params.cfg:q} --seed {wildcards.seed} "
        "--model-manifest {input.model:q} --questions {input.questions:q} --databases {params.databases:q} "
        "{params.exclude:q} --out {params.out:q} --experiment {params.experiment:q} --log {log:q} "
        "--tag strategy={wildcards.strategy} --tag reward={wildcards.reward} --tag benchmark={wildcards.benchmark}"
