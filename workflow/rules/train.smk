rule cold_start:
    input:
        code=sources("sqlr1.stages.cold_start"),
        pins=PINS,
        launcher=launcher_files(PLAIN["launch"]["cold_start"]),
        base="<results>/base_model/manifest.json",
        weights=ancient(expand("<results>/base_model/model/{file}", file=MODEL_FILES)),
        questions="<results>/filter/cold_start.jsonl",
        catalogue="<results>/synthesize/catalogue.jsonl",
    output:
        manifest="<results>/cold_start/{strategy}/seed-{seed}/manifest.json",
        metrics="<results>/cold_start/{strategy}/seed-{seed}/metrics.jsonl",
        model=expand("<results>/cold_start/{{strategy}}/seed-{{seed}}/model/{file}", file=MODEL_FILES),
    log:
        "<results>/logs/cold_start/{strategy}/seed-{seed}.log",
    benchmark:
        "<results>/benchmarks/cold_start/{strategy}/seed-{seed}.tsv"
    conda:
        ENV
    threads: CORES
    resources:
        gpu=1,
        mem_mb=MODEL_MB,
        runtime=240,
    params:
        cfg=settings(TRAINED, "cold_start", "prompt"),
        out=subpath(output.manifest, parent=True),
        experiment=CONFIG.experiment,
        launch=PLAIN["launch"]["cold_start"],
    message:
        "cold_start: {wildcards.strategy}, seed {wildcards.seed} (log: {log})"
    shell:
        "{params.launch} -m sqlr1.stages.cold_start --settings {params.cfg:q} --seed {wildcards.seed} "
        "--strategy {wildcards.strategy} --model-manifest {input.base:q} --questions {input.questions:q} "
        "--catalogue {input.catalogue:q} --out {params.out:q} --experiment {params.experiment:q} --log {log:q} "
        "--tag strategy={wildcards.strategy}"


rule select:
    input:
        code=sources("sqlr1.stages.select"),
        pins=PINS,
        start="<results>/cold_start/{strategy}/seed-{seed}/manifest.json",
        weights=ancient(expand("<results>/cold_start/{{strategy}}/seed-{{seed}}/model/{file}", file=MODEL_FILES)),
        questions="<results>/filter/rl.jsonl",
        catalogue="<results>/synthesize/catalogue.jsonl",
    output:
        manifest="<results>/select/{strategy}/seed-{seed}/manifest.json",
        questions="<results>/select/{strategy}/seed-{seed}/rl.jsonl",
        rates="<results>/select/{strategy}/seed-{seed}/pass_rates.jsonl",
        linking="<results>/select/{strategy}/seed-{seed}/linking.json",
    log:
        "<results>/logs/select/{strategy}/seed-{seed}.log",
    benchmark:
        "<results>/benchmarks/select/{strategy}/seed-{seed}.tsv"
    conda:
        ENV
    threads: CORES
    resources:
        gpu=1,
        mem_mb=MODEL_MB,
        runtime=240,
    params:
        cfg=settings(
            PLAIN,
            "select",
            "prompt",
            "execution",
            semantics=CONFIG.reward.semantics,
            constrained=CONFIG.grpo.constrained,
        ),
        out=subpath(output.manifest, parent=True),
        experiment=CONFIG.experiment,
    message:
        "select: RL questions by pass rate after cold start {wildcards.strategy}, seed {wildcards.seed} (log: {log})"
    shell:
        "python -m sqlr1.stages.select --settings {params.cfg:q} --seed {wildcards.seed} "
        "--model-manifest {input.start:q} --questions {input.questions:q} --catalogue {input.catalogue:q} "
        "--workers {threads} --out {params.out:q} --experiment {params.experiment:q} --log {log:q} "
        "--tag strategy={wildcards.strategy}"


rule grpo:
    input:
        code=sources("sqlr1.stages.grpo"),
        pins=PINS,
        launcher=launcher_files(PLAIN["launch"]["grpo"]),
        start="<results>/cold_start/{strategy}/seed-{seed}/manifest.json",
        weights=ancient(expand("<results>/cold_start/{{strategy}}/seed-{{seed}}/model/{file}", file=MODEL_FILES)),
        questions="<results>/select/{strategy}/seed-{seed}/rl.jsonl",
        validation="<results>/filter/validation.jsonl",
        catalogue="<results>/synthesize/catalogue.jsonl",
    output:
        manifest="<results>/grpo/{strategy}/{reward}/seed-{seed}/manifest.json",
        metrics="<results>/grpo/{strategy}/{reward}/seed-{seed}/metrics.jsonl",
        validation="<results>/grpo/{strategy}/{reward}/seed-{seed}/validation.jsonl",
        model=expand("<results>/grpo/{{strategy}}/{{reward}}/seed-{{seed}}/model/{file}", file=MODEL_FILES),
    log:
        "<results>/logs/grpo/{strategy}/{reward}/seed-{seed}.log",
    benchmark:
        "<results>/benchmarks/grpo/{strategy}/{reward}/seed-{seed}.tsv"
    conda:
        ENV
    threads: CORES
    resources:
        gpu=1,
        mem_mb=MODEL_MB,
        runtime=240,
    params:
        cfg=lambda wildcards: settings(trained_with(wildcards.reward), "grpo", "reward", "prompt", "execution"),
        out=subpath(output.manifest, parent=True),
        experiment=CONFIG.experiment,
        launch=PLAIN["launch"]["grpo"],
    message:
        "grpo: reward {wildcards.reward} after cold start {wildcards.strategy}, seed {wildcards.seed} (log: {log})"
    shell:
        "{params.launch} -m sqlr1.stages.grpo --settings {params.cfg:q} --seed {wildcards.seed} "
        "--reward-variant {wildcards.reward} --model-manifest {input.start:q} --questions {input.questions:q} "
        "--validation {input.validation:q} --catalogue {input.catalogue:q} --out {params.out:q} "
        "--experiment {params.experiment:q} --log {log:q} "
        "--tag strategy={wildcards.strategy} --tag reward={wildcards.reward}"
