from snakemake.utils import min_version

min_version("9.27")


configfile: "config.yaml"


include: "workflow/rules/common.smk"


pathvars:
    results=f"results/{config['experiment']}",


include: "workflow/rules/data.smk"
include: "workflow/rules/training.smk"
include: "workflow/rules/inference.smk"
include: "workflow/rules/scoring.smk"
include: "workflow/rules/ablations.smk"
include: "workflow/rules/report.smk"


localrules:
    all,
    ablation_reward,
    ablation_cold_start,


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
        "all: {config[experiment]}, from the base model to the report"


# SQL-R1's reward, and each of its four parts dropped.
rule ablation_reward:
    input:
        EVERYTHING,
        policies([STRATEGY], [WITHOUT_RL, *REWARDS]),
        expand(rules.ablation.output, ablation="ablation_reward"),
    message:
        "ablation_reward: its policies, scores and table"


# The three cold starts, each with and without RL.
rule ablation_cold_start:
    input:
        EVERYTHING,
        policies(STRATEGIES, [WITHOUT_RL, REWARDS[0]]),
        expand(rules.ablation.output, ablation="ablation_cold_start"),
    message:
        "ablation_cold_start: its policies, scores and table"
