from snakemake.utils import min_version

min_version("9.27")


configfile: "config.yaml"


include: "workflow/rules/common.smk"


pathvars:
    results=RESULTS,


report: "workflow/report/workflow.rst"


include: "workflow/rules/data.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/report.smk"


# Each file is asked for by name: Snakemake looks for missing files of a target's own inputs only.
EVERYTHING = rules.base_model.output + rules.synthesize.output + rules.filter.output


# Synthesize, filter, cold start, GRPO, candidates, scores, report.
rule all:
    default_target: True
    input:
        EVERYTHING,
        policies(["none"], [WITHOUT_RL]),
        policies([STRATEGY], [WITHOUT_RL]),
        policies([STRATEGY], VARIANTS),
        rules.report.output,
    message:
        "all: {CONFIG.experiment}, from the base model to the report"


# SQL-R1's reward, and each of its four parts dropped.
rule ablation_reward:
    input:
        EVERYTHING,
        policies([STRATEGY], [WITHOUT_RL, *ABLATED]),
        expand(rules.ablation.output, ablation="ablation_reward"),
    message:
        "ablation_reward: its policies, scores and table"


# The cold starts, each with and without RL.
rule ablation_cold_start:
    input:
        EVERYTHING,
        policies(STRATEGIES, [WITHOUT_RL, ABLATED[0]]),
        expand(rules.ablation.output, ablation="ablation_cold_start"),
    message:
        "ablation_cold_start: its policies, scores and table"


onstart:
    if workflow.executor_plugin.name == "slurm":
        refuse_endless_waits(workflow.dag.needrun_jobs())


onsuccess:
    conclusion = Path(RESULTS, "report/conclusion.txt")
    if conclusion.is_file() and conclusion.stat().st_mtime > STARTED:  # another target leaves an old one as it is
        logger.info(conclusion.read_text().strip())
        made = f"{RESULTS}/report.md"
    else:
        made = f"not made by this call; results in {RESULTS}/"
    logger.info(f"Report: {made} (log: {' '.join(map(str, log))})")
    logger.info("MLflow: make ui")


onerror:
    logger.error(
        f"Failed. The failed job's log is named above; Snakemake's own: {' '.join(map(str, log))}. Runs in MLflow: make ui"
    )
    logger.error(
        "Finished jobs are kept: the same command continues from there, training from its last checkpoint."
    )
