import itertools
import json
import os
import shlex
import sys
import time
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.logging import logger
from snakemake.settings.types import DeploymentMethod

STARTED = time.time()
PACKAGES = Path(workflow.basedir) / "workflow"
# This checkout's code is used, whichever checkout is installed in the environment.
sys.path.insert(0, str(PACKAGES))

from sqlr1.config import plain
from sqlr1.config_files import load
from sqlr1.database.files import sqlite_files
from sqlr1.launch import launcher_files
from sqlr1.model.base import MODEL_FILES, local_files
from sqlr1.strategies import STRATEGIES
from sqlr1.provenance import fingerprint, settings, sources
from sqlr1.records import InputError
from sqlr1.rewards import REWARDS
from sqlr1.slurm import partition_limits, too_long

try:
    CONFIG = load(config)
except InputError as error:
    raise WorkflowError(str(error)) from None

if not os.environ.get("SQLR1_DATA"):
    os.environ["SQLR1_DATA"] = CONFIG.data.root
DATA_ROOT = os.path.expanduser(os.environ["SQLR1_DATA"])
# Threads that spin for long while they wait make two jobs on the same cores tens of times slower; threads that sleep
# at once make small products, of which decoding consists, half as fast. Read by libgomp (torch on Linux).
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")
# Jobs use this checkout's code, and the Python that runs Snakemake unless each rule has a conda environment. (Doubled
# braces, because Snakemake formats the prefix.)
PREFIX = f"set -euo pipefail; export PYTHONPATH={shlex.quote(str(PACKAGES))}" + '"${{PYTHONPATH:+:$PYTHONPATH}}"; '
if DeploymentMethod.CONDA not in workflow.deployment_settings.deployment_method:
    PREFIX += f"export PATH={shlex.quote(str(Path(sys.executable).parent))}:" + '"$PATH"; '
shell.prefix(PREFIX)

RESULTS = f"results/{CONFIG.experiment}"
# A stage depends on the libraries too: another version of one may give other results.
PINS = "constraints.txt"
# vLLM and DeepSpeed are an extra: large, and needed only by configurations that name them.
BACKENDS = (CONFIG.select.backend, CONFIG.candidates.backend)
WITH_EXTRA = "vllm" in BACKENDS or CONFIG.grpo.use_vllm or {"python"} != set(plain(CONFIG.launch).values())
ENV = "../../envs/gpu.yaml" if WITH_EXTRA else "../../envs/sqlr1.yaml"
EMBEDDED = CONFIG.base_model.source == "wheel"
# Main memory of a job with the model. The embedded one takes up to 9.2 GB (GRPO on Spider, under masks). The largest of
# the overlays for one GPU, 3B, is loaded in float32: 12.4 GB.
MODEL_MB = 11000 if EMBEDDED else 32000
CORES = workflow.cores or 1
SEEDS = CONFIG.seeds
STRATEGY = CONFIG.cold_start.strategy
VARIANTS = CONFIG.reward.variants
WITHOUT_RL = "no_rl"
# Wildcards of the experiment's own trained policies, those of the first variant first.
MAIN_RUNS = dict(strategy=STRATEGY, reward=VARIANTS, seed=SEEDS)
ABLATED = [name for name, reward in REWARDS.items() if reward.ablated]
PLAIN = plain(CONFIG)
# A policy does not depend on which strategy is this experiment's main one.
TRAINED = PLAIN | {"cold_start": plain(CONFIG.cold_start, "strategy")}


envvars:
    "SQLR1_DATA",


wildcard_constraints:
    strategy="|".join(STRATEGIES),
    reward="|".join([*REWARDS, WITHOUT_RL]),
    seed=r"\d+",


def resolve(path):
    """A configured path with {data} and {results} filled in."""
    return path.replace("{data}", DATA_ROOT).replace("{results}", RESULTS)


def trained_with(reward):
    """The settings of training with a reward: of section `reward` only what this one reads."""
    read = {"semantics", *REWARDS[reward].parts}
    return PLAIN | {"reward": {key: value for key, value in PLAIN["reward"].items() if key in read}}


def database_files(entry):
    """The SQLite files of a benchmark's databases, with their instances."""
    return list(map(str, sqlite_files(Path(resolve(entry.databases)))))


def configured_benchmarks():
    """Split the benchmarks into those whose files are here (name: entry) and those that are skipped (name: reason).

    A required one that is missing stops the run before any work.
    """
    here, skipped = {}, {}
    for name, entry in CONFIG.benchmarks.items():
        if entry is None:
            continue
        given = [path for path in (entry.questions, entry.databases) if "{results}" not in path]
        missing = [path for path in given if not os.path.exists(resolve(path))]
        if not missing and entry.databases in given and not database_files(entry):
            missing = [f"{entry.databases}/<db_id>/<db_id>.sqlite"]
        if not missing:
            here[name] = entry
        elif entry.required:
            raise WorkflowError(
                f"benchmark {name}: {resolve(missing[0])} is missing. {entry.download} "
                f"Put it under the data root ({DATA_ROOT}; set data.root or SQLR1_DATA), "
                f"or set benchmarks.{name}.required to false."
            )
        else:
            skipped[name] = f"{resolve(missing[0])} is missing. {entry.download}"
    return here, skipped


BENCHMARKS, SKIPPED = configured_benchmarks()
for name, reason in SKIPPED.items():
    logger.warning(f"Benchmark {name} is skipped: {reason}")
if not BENCHMARKS:
    raise WorkflowError("config key benchmarks: none is left to score; name one whose files are here, or built_in")


wildcard_constraints:
    benchmark="|".join(BENCHMARKS),


def described(databases):
    """The SQLite files at a path, and the descriptions beside them."""
    files = sqlite_files(Path(databases))
    return list(map(str, files)), sorted(
        {str(csv) for file in files for csv in file.parent.glob("database_description/*.csv")}
    )


def benchmark_files(name):
    """The files a benchmark's results depend on: its questions and each SQLite file in its databases folder.

    Schema linking reads the descriptions beside them too.
    """
    entry = BENCHMARKS[name]
    made_here = "{results}" in entry.databases
    databases = "<results>/synthesize/catalogue.jsonl" if made_here else database_files(entry)
    if CONFIG.prompt.linking and not made_here:
        databases += described(resolve(entry.databases))[1]
    return {"questions": resolve(entry.questions), "databases": databases}


def untrusted_questions(name):
    """The file of a benchmark's excluded questions; only some copies of a benchmark come with one."""
    path = resolve(BENCHMARKS[name].exclude or "")
    return [path] if os.path.exists(path) else []


def asked_of(name, *more):
    """The keys of a benchmark's entry that affect its candidates; `more`: keys that affect only its scores."""
    entry = plain(BENCHMARKS[name])
    return {key: entry[key] for key in ("layout", "limit", *more)}


def base_model_files():
    """The files of a base model that is on this machine already; Snakemake names one that is missing."""
    model = CONFIG.base_model
    return list(map(str, local_files(model))) or [model.name] * (model.source in ("path", "gguf"))


OWN_DATABASES = CONFIG.synthesize.domains + CONFIG.synthesize.held_out_domains


def source_files():
    """Question files outside the project that synthesis reads; a missing one is named by Snakemake."""
    folders, mix = CONFIG.synthesize.folders, CONFIG.synthesize.mix
    files = [resolve(path) for entry in folders for path in (entry.db_ids, entry.tables) if path]
    # Feedback that nobody gave yet may be absent, if its entry says so; when it is there, synthesis runs again.
    files += [
        path
        for entry in mix
        if os.path.exists(path := resolve(entry.questions)) or (entry.layout, entry.missing) != ("feedback", "skip")
    ]
    return sorted(set(files))


def source_databases(wildcards):
    """For each folder of databases that synthesis reads, one hash of them and of the descriptions beside them."""
    folders = {entry.databases for entry in (*CONFIG.synthesize.folders, *CONFIG.synthesize.mix)}
    found = {folder: map(Path, itertools.chain(*described(resolve(folder)))) for folder in sorted(folders)}
    hashes = {name: fingerprint(filter(Path.is_file, files), Path(resolve(name))) for name, files in found.items()}
    return json.dumps(hashes)


def is_base_model(strategy, reward):
    """Whether a policy is the base model as it is, without any training."""
    return (strategy, reward) == ("none", WITHOUT_RL)


def model_of(wildcards):
    """Folder of the policy's model: with RL from grpo, without it from the cold start, with neither the base model."""
    if is_base_model(wildcards.strategy, wildcards.reward):
        return "<results>/base_model"
    if wildcards.reward == WITHOUT_RL:
        return f"<results>/cold_start/{wildcards.strategy}/seed-{wildcards.seed}"
    return f"<results>/grpo/{wildcards.strategy}/{wildcards.reward}/seed-{wildcards.seed}"


def seeds_of(strategy, reward):
    """The seeds of a policy: the base model, which is not trained, has one."""
    return SEEDS[:1] if is_base_model(strategy, reward) else SEEDS


def scores(strategies, rewards):
    """The score summaries of every combination, over its seeds."""
    return [
        path
        for strategy, reward in itertools.product(strategies, rewards)
        for path in expand(
            "<results>/score/{strategy}/{reward}/seed-{seed}/{benchmark}/summary.json",
            strategy=strategy,
            reward=reward,
            seed=seeds_of(strategy, reward),
            benchmark=list(BENCHMARKS),
        )
    ]


def question_rows(summaries):
    """The rows by question beside score summaries."""
    return [path.replace("summary.json", "questions.jsonl") for path in summaries]


def shown(path, caption, category, **labels):
    """An output in Snakemake's HTML report."""
    kind = {".md": "text", ".csv": "table", ".svg": "figure"}[Path(path).suffix]
    return report(
        f"<results>/{path}", caption=f"../report/{caption}.rst", category=category, labels=labels | {"kind": kind}
    )


def policies(strategies, rewards):
    """All files of the named policies, over their seeds: models, candidates and scores on every benchmark."""
    files = []
    for strategy, reward in itertools.product(strategies, rewards):
        of_policy = dict(strategy=strategy, seed=seeds_of(strategy, reward))
        if not is_base_model(strategy, reward):
            files += expand(rules.cold_start.output, **of_policy)
        if reward != WITHOUT_RL:
            files += expand(rules.select.output, **of_policy)
            files += expand(rules.grpo.output, reward=reward, **of_policy)
        for made_by in (rules.candidates, rules.score):
            files += expand(made_by.output, reward=reward, benchmark=list(BENCHMARKS), **of_policy)
    return files


def refuse_endless_waits(jobs):
    """Stop the run before it submits a job that asks for more time than its partition allows."""
    try:
        limits = partition_limits()
    except OSError as error:
        logger.warning(f"run times are not checked against Slurm's partitions: {error}")
        return
    if faults := too_long(((job.rule.name, job.resources) for job in jobs if not job.is_local), limits):
        raise WorkflowError("\n".join(faults))
