"""Trainer configurations from the config's sections `cold_start` and `grpo`.

A section holds a few keys of our own and otherwise the field names of SFTConfig or GRPOConfig; `lora` holds
LoraConfig's. Unknown keys and values of the wrong type raise InputError naming the key.
"""

import difflib
import types
import typing
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlr1.inference.numerics import native_precision
from sqlr1.records import InputError

if TYPE_CHECKING:
    from peft import LoraConfig
    from trl import GRPOConfig, SFTConfig

COLD_START_KEYS = frozenset({"lora", "dtype", "train_dtype", "threads"})
GRPO_KEYS = frozenset({"lora", "dtype", "train_dtype", "threads", "validation", "shared_prompt", "dynamic_sampling"})
# The workflow's own business: a config that sets them would break resume, reproduction or tracking.
_RESERVED = frozenset({"output_dir", "seed", "data_seed", "report_to", "save_strategy", "resume_from_checkpoint"})
# Fields that TRL checks only once training has begun.
_CHOICES = {
    "loss_type": ("grpo", "dr_grpo", "dapo", "bnpo", "cispo", "sapo", "luspo", "vespo", "nll", "dft"),
    "scale_rewards": ("group", "batch", "none"),
    "importance_sampling_level": ("token", "sequence"),
    "multi_objective_aggregation": ("sum_then_normalize", "normalize_then_sum"),
}
# Whatever a run does, these hold; TRL's defaults (checkpointed gradients) are meant for accelerators short of memory.
_DEFAULTS: dict[str, Any] = {
    "gradient_checkpointing": False,
    "logging_steps": 1,
    "save_steps": 10,
    "save_total_limit": 2,
    "dataloader_num_workers": 0,
}


def sft_config(settings: Mapping[str, Any], out: Path, seed: int) -> "SFTConfig":
    """The SFTConfig of section `cold_start`; checkpoints go to `out`. Raises InputError naming a faulty key."""
    from trl import SFTConfig

    # Rows are tokenized before they reach the trainer: prompt and completion by one rule, over-long ones counted.
    fixed = {"dataset_kwargs": {"skip_prepare_dataset": True}, "max_length": None, "remove_unused_columns": False}
    return _trainer_config(SFTConfig, "cold_start", settings, COLD_START_KEYS, fixed, out, seed)


def grpo_config(settings: Mapping[str, Any], out: Path, seed: int) -> "GRPOConfig":
    """The GRPOConfig of section `grpo`; checkpoints go to `out`. Raises InputError naming a faulty key."""
    from trl import GRPOConfig

    fixed = {"remove_unused_columns": False}
    return _trainer_config(GRPOConfig, "grpo", settings, GRPO_KEYS, fixed, out, seed)


def multiplies_in_bf16(settings: Mapping[str, Any]) -> bool:
    """A section's `bf16`; unless given, whether the machine does it in hardware."""
    return settings.get("bf16", native_precision() == "bfloat16")


@contextmanager
def named_section(section: str) -> Iterator[None]:
    """What the libraries refuse of a section's values as they make something of them, as InputError in one line."""
    try:
        yield
    except (ValueError, TypeError, NotImplementedError) as error:
        raise InputError(f"config section {section}: {' '.join(str(error).split())}") from error


def lora_config(settings: Mapping[str, Any]) -> "LoraConfig | None":
    """The LoraConfig of a section's `lora`, None (train all weights) where that is null."""
    from peft import LoraConfig

    lora = settings.get("lora")
    if lora is None:
        return None
    _check_fields(LoraConfig, "lora", lora)
    return LoraConfig(**{"task_type": "CAUSAL_LM", "target_modules": "all-linear", **lora})


def _trainer_config(
    kind: type,
    section: str,
    settings: Mapping[str, Any],
    own: frozenset[str],
    fixed: Mapping[str, Any],
    out: Path,
    seed: int,
) -> Any:
    given = {key: value for key, value in settings.items() if key not in own}
    for key in given:
        if key in _RESERVED or key in fixed:
            raise InputError(f"config key {section}.{key}: set by the workflow itself; remove it")
        if key in _CHOICES and given[key] not in _CHOICES[key]:
            raise InputError(f"config key {section}.{key}: {given[key]!r} is none of {', '.join(_CHOICES[key])}")
    _check_fields(kind, section, given, own)
    import torch

    machine = {"use_cpu": not torch.cuda.is_available(), "bf16": multiplies_in_bf16(settings)}
    values: dict[str, Any] = {**_DEFAULTS, **fixed, **machine} | given
    values |= {"output_dir": str(out), "seed": seed, "data_seed": seed, "report_to": "none", "save_strategy": "steps"}
    if values["save_steps"] % values["logging_steps"]:
        raise InputError(
            f"config key {section}.save_steps: {values['save_steps']} is no multiple of {section}.logging_steps "
            f"({values['logging_steps']}): a mean that a checkpoint cuts in two cannot be resumed exactly"
        )
    with named_section(section):
        made = kind(**values)
    plugin = made.deepspeed_plugin  # from `accelerate launch`, or from the section's own key `deepspeed`
    if plugin is not None and plugin.zero_stage == 3:
        raise InputError(
            f"config key launch.{section}: ZeRO stage 3 shards the weights, which the packed pass, validation and "
            "saving read whole; use stage 2 (workflow/config/accelerate/zero2.yaml)"
        )
    return made


def _check_fields(kind: type, section: str, given: Mapping[str, Any], own: frozenset[str] = frozenset()) -> None:
    """Raise InputError for a key that `kind` (a dataclass) lacks, or a value that its annotation does not admit."""
    known = {f.name for f in fields(kind)}
    hints = typing.get_type_hints(kind)
    for key, value in given.items():
        if key not in known:
            close = difflib.get_close_matches(key, known | own, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise InputError(f"config key {section}.{key}: {kind.__name__} has no such field{hint}")
        if not _admits(hints[key], value):
            expected = str(hints[key]).replace("<class '", "").replace("'>", "")
            raise InputError(
                f"config key {section}.{key}: {value!r} ({type(value).__name__}) is not of type {expected}"
            )


def _admits(hint: Any, value: Any) -> bool:
    """Whether `value`, as YAML reads it, fits a dataclass field's annotation; unknown kinds of annotation admit all."""
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        return any(_admits(option, value) for option in typing.get_args(hint))
    if hint is type(None):
        return value is None
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint in (bool, str):
        return isinstance(value, hint)
    if typing.get_origin(hint) in (list, dict, set):
        return isinstance(value, list if typing.get_origin(hint) in (list, set) else dict)
    if typing.get_origin(hint) is typing.Literal:
        return value in typing.get_args(hint)
    if hint in (list, dict):
        return isinstance(value, hint)
    return not isinstance(value, (bool, int, float)) or hint is Any
