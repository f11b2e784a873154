import itertools
import os
import shlex
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.logging import logger

# The package is found beside the workflow: by these files, and by jobs in environments of their own.
PACKAGE_ROOT = str(Path(workflow.basedir) / "workflow")
sys.path.insert(0, PACKAGE_ROOT)

from sqlr1 import configuration
from sqlr1.model.base import MODEL_FILES, local_files
from sqlr1.provenance import settings, sources
from sqlr1.records import InputError

try:
    configuration.check(config)
except InputError as error:
    raise WorkflowError(str(error)) from None

DATA_ROOT = configuration.prepare_environment(config["data"]["root"], PACKAGE_ROOT)
RESULTS = f"results/{config['experiment']}"
# A stage depends on the libraries too: another version of one may give other results.
PINS = "constraints.txt"
ENV = "../../envs/sqlr1.yaml"
EMBEDDED = config["base_model"]["source"] == "wheel"
CORES = workflow.cores or 1
COLD_START = dict(config["cold_start"])
STRATEGY = COLD_START.pop("strategy")
WITHOUT_RL = "no_rl"
SEEDS = config["seeds"]
REWARD = dict(config["reward"])
VARIANTS = REWARD.pop("variants")


envvars:
    "SQLR1_DATA",
    "PYTHONPATH",


wildcard_constraints:
    strategy="none|sql_only|reasoning",
    reward="full|no_format|no_execution|no_result|no_length|binary|graded|no_rl",
    seed=r"\d+",


def resolve(path):
    """A configured path with {data} and {results} filled in."""
    return path.replace("{data}", DATA_ROOT).replace("{results}", RESULTS)


def database_files(entry):
    """The SQLite files of a benchmark's databases folder."""
    return sorted(map(str, Path(resolve(entry["databases"])).glob("*/*.sqlite")))


def configured_benchmarks():
    """Split the benchmarks into those whose files are here (name: entry) and those that are skipped (name: reason).

    A required one that is missing stops the run before any work.
    """
    here, skipped = {}, {}
    for name, entry in config["benchmarks"].items():
        if entry is None:
            continue
        made_here = "{results}" in entry["questions"]
        missing = [p for p in (entry["questions"], entry["databases"]) if not os.path.exists(resolve(p))]
        if not missing and not made_here and not database_files(entry):
            missing = [f"{entry['databases']}/<db_id>/<db_id>.sqlite"]
        if made_here or not missing:
            here[name] = entry
        elif entry.get("required"):
            raise WorkflowError(
                f"benchmark {name}: {resolve(missing[0])} is missing. {entry.get('download', '')} "
                f"Put it under the data root ({os.environ['SQLR1_DATA']}; set data.root or SQLR1_DATA), "
                f"or set benchmarks.{name}.required to false."
            )
        else:
            skipped[name] = f"{resolve(missing[0])} is missing. {entry.get('download', '')}"
    return here, skipped


BENCHMARKS, SKIPPED = configured_benchmarks()
for name, reason in SKIPPED.items():
    logger.warning(f"Benchmark {name} is skipped: {reason}")
if not BENCHMARKS:
    raise WorkflowError("config key benchmarks: none is left to score; name one whose files are here, or built_in")


wildcard_constraints:
    benchmark="|".join(BENCHMARKS),


def benchmark_files(name):
    """The files a benchmark's results depend on: its questions and each SQLite file in its databases folder."""
    entry = BENCHMARKS[name]
    files = {"questions": resolve(entry["questions"])}
    if "{results}" in entry["databases"]:
        files["databases"] = "<results>/synthesize/catalogue.jsonl"
    else:
        files["databases"] = database_files(entry)
    return files


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


def untrusted_questions(name):
    """The file of a benchmark's excluded questions; only some copies of a benchmark come with one."""
    path = resolve(BENCHMARKS[name].get("exclude", ""))
    return [path] if os.path.exists(path) else []


def asked_of(name, *more):
    """What of a benchmark's entry changes its answers, beside the files; `more` are keys that change its scores."""
    return {key: BENCHMARKS[name][key] for key in ("layout", "limit", *more) if key in BENCHMARKS[name]}


def base_model_files():
    """The files of a base model that lies here already; Snakemake names one that is missing."""
    settings = config["base_model"]
    return list(map(str, local_files(settings))) or [settings["name"]] * (settings["source"] in ("path", "gguf"))


def launcher_files(stage):
    """The files that a stage's launch command names, such as an accelerate config: they decide what a step is."""
    return [word for word in shlex.split(config["launch"][stage]) if os.path.isfile(word)]


def training_files(name):
    """A file of each GRPO run, those of the first variant first."""
    folder = "<results>/grpo/{strategy}/{reward}/seed-{seed}/"
    return expand(folder + name, strategy=STRATEGY, reward=VARIANTS, seed=SEEDS)


def question_rows(summaries):
    """The rows by question that lie beside score summaries."""
    return [path.replace("summary.json", "questions.jsonl") for path in summaries]


SYNTHESIZE = config["synthesize"]
OWN_DATABASES = SYNTHESIZE["domains"] + SYNTHESIZE["held_out_domains"]


def source_files():
    """Databases and question files outside the project that synthesis reads; a missing one is named by Snakemake."""
    folders = SYNTHESIZE["folders"]
    files = [resolve(f[key]) for f in folders for key in ("db_ids", "tables") if f.get(key)]
    files += [resolve(m["questions"]) for m in SYNTHESIZE["mix"]]
    for entry in folders + SYNTHESIZE["mix"]:
        place = Path(resolve(entry["databases"]))
        for database in [place] if place.is_file() else place.glob("*/*.sqlite"):
            files += map(str, [database, *database.parent.glob("database_description/*.csv")])
    return sorted(set(files))


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
