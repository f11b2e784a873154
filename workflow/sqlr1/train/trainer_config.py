"""Trainer configurations from the config's sections `cold_start` and `grpo`.

A section holds a few keys of our own and otherwise the field names of SFTConfig or GRPOConfig, `lora` those of
LoraConfig. The stages take as many of them as the schema of the config knows (`sqlr1.schema`): of the others many would
break resume, reproduction or tracking.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlr1.model.numerics import native_precision
from sqlr1.records import InputError

if TYPE_CHECKING:
    from peft import LoraConfig
    from trl import GRPOConfig, SFTConfig

COLD_START_KEYS = frozenset({"lora", "dtype", "train_dtype", "threads"})
GRPO_KEYS = frozenset({"lora", "dtype", "train_dtype", "threads", "validation", "shared_prompt", "dynamic_sampling"})
# Whatever a run does, these hold; TRL's defaults (checkpointed gradients) are meant for accelerators short of memory.
_DEFAULTS: dict[str, Any] = {
    "gradient_checkpointing": False,
    "logging_steps": 1,
    "save_steps": 10,
    "save_total_limit": 2,
    "dataloader_num_workers": 0,
}


def sft_config(settings: Mapping[str, Any], out: Path, seed: int) -> "SFTConfig":
    """The SFTConfig of section `cold_start`; checkpoints go to `out`. Raises InputError for values that it refuses."""
    from trl import SFTConfig

    # Rows are tokenized before they reach the trainer: prompt and completion by one rule, over-long ones counted.
    fixed = {"dataset_kwargs": {"skip_prepare_dataset": True}, "max_length": None, "remove_unused_columns": False}
    return _trainer_config(SFTConfig, "cold_start", settings, COLD_START_KEYS, fixed, out, seed)


def grpo_config(settings: Mapping[str, Any], out: Path, seed: int) -> "GRPOConfig":
    """The GRPOConfig of section `grpo`; checkpoints go to `out`. Raises InputError for values that it refuses."""
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
    except (ValueError, TypeError, NotImplementedError, ImportError) as error:
        raise InputError(f"config section {section}: {' '.join(str(error).split())}") from error


def lora_config(settings: Mapping[str, Any]) -> "LoraConfig | None":
    """The LoraConfig of a section's `lora`, None (train all weights) where that is null."""
    from peft import LoraConfig

    lora = settings.get("lora")
    if lora is None:
        return None
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
    import torch

    machine = {"use_cpu": not torch.cuda.is_available(), "bf16": multiplies_in_bf16(settings)}
    given = {key: value for key, value in settings.items() if key not in own}
    values: dict[str, Any] = _DEFAULTS | fixed | machine | given
    values |= {"output_dir": str(out), "seed": seed, "data_seed": seed, "report_to": "none", "save_strategy": "steps"}
    if values["save_steps"] % values["logging_steps"]:
        raise InputError(
            f"config key {section}.save_steps: {values['save_steps']} is no multiple of {section}.logging_steps "
            f"({values['logging_steps']}): a mean that a checkpoint cuts in two cannot be resumed exactly"
        )
    with named_section(section):
        made = kind(**values)
    plugin = made.deepspeed_plugin  # from `accelerate launch`
    if plugin is not None and plugin.zero_stage == 3:
        raise InputError(
            f"config key launch.{section}: ZeRO stage 3 shards the weights, which the packed pass, validation and "
            "saving read whole; use stage 2 (workflow/config/accelerate/zero2.yaml)"
        )
    return made
