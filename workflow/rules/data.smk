rule base_model:
    input:
        code=sources("sqlr1.stages.base_model"),
        pins=PINS,
        files=base_model_files(),
    output:
        manifest="<results>/base_model/manifest.json",
        model=expand("<results>/base_model/model/{file}", file=MODEL_FILES),
    log:
        "<results>/logs/base_model.log",
    benchmark:
        "<results>/benchmarks/base_model.tsv"
    conda:
        ENV
    resources:
        # Any but the embedded model may be large: 14B weights are 30 GB in bfloat16, 59 in float32.
        mem_mb=4000 if EMBEDDED else 96000,
        runtime=30 if EMBEDDED else 240,
    params:
        cfg=settings(PLAIN, "base_model"),
        out=subpath(output.manifest, parent=True),
        experiment=CONFIG.experiment,
    message:
        "base_model: {CONFIG.base_model.name} (log: {log})"
    shell:
        "python -m sqlr1.stages.base_model --settings {params.cfg:q} --out {params.out:q} "
        "--experiment {params.experiment:q} --log {log:q}"


rule synthesize:
    input:
        code=sources("sqlr1.stages.synthesize"),
        pins=PINS,
        files=source_files(),
    output:
        manifest="<results>/synthesize/manifest.json",
        catalogue="<results>/synthesize/catalogue.jsonl",
        questions="<results>/synthesize/questions.jsonl",
        failed="<results>/synthesize/failed_golds.jsonl",
        spider=expand("<results>/synthesize/benchmark/spider/{file}", file=["dev.json", "tables.json", "dev_gold.sql"]),
        bird=expand("<results>/synthesize/benchmark/bird/{file}", file=["dev.json", "dev_tables.json"]),
        databases=expand("<results>/synthesize/databases/{db}/{db}.sqlite", db=OWN_DATABASES),
        instances=expand(
            "<results>/synthesize/databases/{db}/{db}_{number}.sqlite",
            db=CONFIG.synthesize.held_out_domains,
            number=range(1, CONFIG.synthesize.benchmark_instances + 1),
        ),
    log:
        "<results>/logs/synthesize.log",
    benchmark:
        "<results>/benchmarks/synthesize.tsv"
    conda:
        ENV
    threads: CORES
    resources:
        mem_mb=4000,
        runtime=240,
    params:
        # A function, because Snakemake would read {data} in a plain string as a wildcard.
        cfg=lambda wildcards: settings(PLAIN, "synthesize", "execution"),
        databases=source_databases,
        out=subpath(output.manifest, parent=True),
        experiment=CONFIG.experiment,
        seed=CONFIG.synthesize.seed,
    message:
        "synthesize: databases, and questions with SQL and reasoning over them (log: {log})"
    shell:
        "python -m sqlr1.stages.synthesize --settings {params.cfg:q} --seed {params.seed} "
        "--out {params.out:q} --experiment {params.experiment:q} --log {log:q} --workers {threads}"


rule filter:
    input:
        code=sources("sqlr1.stages.filter"),
        pins=PINS,
        questions="<results>/synthesize/questions.jsonl",
        catalogue="<results>/synthesize/catalogue.jsonl",
        # All but the benchmark that this rule makes.
        benchmarks=[resolve(entry.questions) for entry in BENCHMARKS.values() if entry.made_by != "filter"],
    output:
        manifest="<results>/filter/manifest.json",
        cold_start="<results>/filter/cold_start.jsonl",
        rl="<results>/filter/rl.jsonl",
        validation="<results>/filter/validation.jsonl",
        test="<results>/filter/test.jsonl",
        benchmark="<results>/filter/test.json",
        dropped="<results>/filter/dropped.jsonl",
        card="<results>/filter/README.md",
        funnel="<results>/filter/funnel.json",
    log:
        "<results>/logs/filter.log",
    benchmark:
        "<results>/benchmarks/filter.tsv"
    conda:
        ENV
    threads: CORES
    resources:
        mem_mb=4000,
        runtime=240,
    params:
        cfg=settings(PLAIN, "filter", "execution"),
        # A file that another benchmark also has, and is strict about, stays out of training.
        same_databases=[
            resolve(entry.questions)
            for entry in BENCHMARKS.values()
            if entry.same_databases
            and entry.made_by != "filter"
            and all(other.same_databases for other in BENCHMARKS.values() if other.questions == entry.questions)
        ],
        out=subpath(output.manifest, parent=True),
        experiment=CONFIG.experiment,
        seed=CONFIG.synthesize.seed,
    message:
        "filter: the questions for cold start, RL and validation (log: {log})"
    shell:
        "python -m sqlr1.stages.filter --settings {params.cfg:q} --seed {params.seed} "
        "--questions {input.questions:q} --catalogue {input.catalogue:q} --benchmark {input.benchmarks:q} "
        "--same-databases {params.same_databases:q} "
        "--out {params.out:q} --experiment {params.experiment:q} --log {log:q} --workers {threads}"
