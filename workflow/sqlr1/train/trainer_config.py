"""SFTConfig, GRPOConfig and LoraConfig from the config sections `cold_start` and `grpo`.

`_OWN_KEYS` are keys of ours. All other keys are fields of SFTConfig or GRPOConfig and are passed on unchanged.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sqlr1.config import ColdStart, Grpo, Lora, Training
from sqlr1.model.base import native_precision
from sqlr1.records import InputError

if TYPE_CHECKING:
    from peft import LoraConfig
    from trl import GRPOConfig, SFTConfig

_OWN_KEYS = {
    "strategy", "lora", "dtype", "train_dtype", "threads", "bf16", "validation", "shared_prompt", "dynamic_sampling",
    "constrained",
}  # fmt: skip


# The last one is whole while the next is written; a killed run resumes from it. The best by validation is not kept: to
# resume exactly, it would have to be a third, and the work folder goes when the stage has ended.
CHECKPOINTS_KEPT = 2


def multiplies_in_bf16(settings: Training) -> bool:
    """A section's `bf16`; if null, whether the machine multiplies bfloat16 fast."""
    return native_precision() == "bfloat16" if settings.bf16 is None else settings.bf16


@contextmanager
def named_section(section: str) -> Iterator[None]:
    """Turn a library's error about a section's values into an InputError of one line."""
    try:
        yield
    except (ValueError, TypeError, NotImplementedError, ImportError) as error:
        raise InputError(f"config section {section}: {' '.join(str(error).split())}") from error


def lora_config(lora: Lora | None) -> "LoraConfig | None":
    """PEFT's LoraConfig; None trains all weights."""
    from peft import LoraConfig

    return LoraConfig(task_type="CAUSAL_LM", **lora.model_dump()) if lora else None


def trainer_config(settings: ColdStart | Grpo, out: Path, seed: int) -> "SFTConfig | GRPOConfig":
    """The SFTConfig of section `cold_start` or the GRPOConfig of section `grpo`; checkpoints go to `out`.

    Raises InputError for values that TRL refuses, and for ZeRO stage 3.
    """
    import torch
    from trl import GRPOConfig, SFTConfig

    section, library, fixed = "grpo", GRPOConfig, {}
    if isinstance(settings, ColdStart):
        # `sft.encode` tokenizes the rows as inference does, and counts those that are too long.
        fixed = {"dataset_kwargs": {"skip_prepare_dataset": True}, "max_length": None}
        section, library = "cold_start", SFTConfig
    with named_section(section):
        made = library(
            **settings.model_dump(exclude=_OWN_KEYS),
            **fixed,
            bf16=multiplies_in_bf16(settings),
            use_cpu=not torch.cuda.is_available(),
            output_dir=str(out),
            seed=seed,
            data_seed=seed,
            save_strategy="steps",
            save_total_limit=CHECKPOINTS_KEPT,
            report_to="none",
            remove_unused_columns=False,
            dataloader_num_workers=0,
        )
    plugin = made.deepspeed_plugin  # from `accelerate launch`
    if plugin is not None and plugin.zero_stage == 3:
        raise InputError(
            f"config key launch.{section}: ZeRO stage 3 shards the weights, which the packed pass, validation and "
            "saving read whole; use stage 2 (workflow/config/accelerate/zero2.yaml)"
        )
    return made
