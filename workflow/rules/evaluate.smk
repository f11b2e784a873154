rule candidates:
    input:
        unpack(lambda wildcards: benchmark_files(wildcards.benchmark)),
        untrusted=lambda wildcards: untrusted_questions(wildcards.benchmark),
        code=sources("sqlr1.stages.candidates"),
        pins=PINS,
        model=lambda wildcards: f"{model_of(wildcards)}/manifest.json",
        weights=ancient(lambda wildcards: expand(f"{model_of(wildcards)}/model/{{file}}", file=MODEL_FILES)),
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
        gpu=1,
        mem_mb=MODEL_MB,
        runtime=240,
    params:
        cfg=lambda wildcards: settings(PLAIN, "candidates", "prompt", benchmark=asked_of(wildcards.benchmark)),
        databases=lambda wildcards: resolve(BENCHMARKS[wildcards.benchmark].databases),
        exclude=lambda wildcards, input: ["--exclude", input.untrusted] if input.untrusted else [],
        out=subpath(output.manifest, parent=True),
        experiment=CONFIG.experiment,
    message:
        "candidates: {wildcards.benchmark}, reward {wildcards.reward} after cold start {wildcards.strategy}, "
        "seed {wildcards.seed} (log: {log})"
    shell:
        "python -m sqlr1.stages.candidates --settings {params.cfg:q} --seed {wildcards.seed} "
        "--model-manifest {input.model:q} --questions {input.questions:q} --databases {params.databases:q} "
        "{params.exclude:q} --out {params.out:q} --experiment {params.experiment:q} --log {log:q} "
        "--tag strategy={wildcards.strategy} --tag reward={wildcards.reward} --tag benchmark={wildcards.benchmark}"


rule score:
    input:
        unpack(lambda wildcards: benchmark_files(wildcards.benchmark)),
        code=sources("sqlr1.stages.score"),
        pins=PINS,
        untrusted=lambda wildcards: untrusted_questions(wildcards.benchmark),
        candidates="<results>/candidates/{strategy}/{reward}/seed-{seed}/{benchmark}/candidates.jsonl",
    output:
        manifest="<results>/score/{strategy}/{reward}/seed-{seed}/{benchmark}/manifest.json",
        summary="<results>/score/{strategy}/{reward}/seed-{seed}/{benchmark}/summary.json",
        questions="<results>/score/{strategy}/{reward}/seed-{seed}/{benchmark}/questions.jsonl",
        spider="<results>/score/{strategy}/{reward}/seed-{seed}/{benchmark}/predictions.txt",
        bird="<results>/score/{strategy}/{reward}/seed-{seed}/{benchmark}/predict_dev.json",
    log:
        "<results>/logs/score/{strategy}/{reward}/seed-{seed}/{benchmark}.log",
    benchmark:
        "<results>/benchmarks/score/{strategy}/{reward}/seed-{seed}/{benchmark}.tsv"
    conda:
        ENV
    threads: CORES
    resources:
        mem_mb=2000,
        runtime=60,
    params:
        cfg=lambda wildcards: settings(PLAIN, "score", "execution", benchmark=asked_of(wildcards.benchmark, "seconds")),
        databases=lambda wildcards: resolve(BENCHMARKS[wildcards.benchmark].databases),
        exclude=lambda wildcards, input: ["--exclude", input.untrusted] if input.untrusted else [],
        out=subpath(output.manifest, parent=True),
        experiment=CONFIG.experiment,
    message:
        "score: {wildcards.benchmark}, reward {wildcards.reward} after cold start {wildcards.strategy}, "
        "seed {wildcards.seed} (log: {log})"
    shell:
        "python -m sqlr1.stages.score --settings {params.cfg:q} --seed {wildcards.seed} "
        "--questions {input.questions:q} --databases {params.databases:q} --candidates {input.candidates:q} "
        "{params.exclude:q} --workers {threads} --out {params.out:q} --experiment {params.experiment:q} --log {log:q} "
        "--tag strategy={wildcards.strategy} --tag reward={wildcards.reward} --tag benchmark={wildcards.benchmark}"
