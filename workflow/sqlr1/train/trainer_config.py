"""SFTConfig, GRPOConfig and LoraConfig from the config sections `cold_start` and `grpo`.

`_OWN_KEYS` are keys of ours. All other keys are fields of SFTConfig or GRPOConfig and are passed on unchanged.
"""

import os
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
    "keep", "max_row_length", "constrained",
}  # fmt: skip


def checkpoints_kept(settings: Training) -> int:
    """How many checkpoints stay on disk between two saves.

    The last one is whole while the next is written: a killed run resumes from it. The best one is a third.
    """
    return 2 + (getattr(settings, "keep", "last") == "best")


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

    Raises InputError for values that TRL refuses.
    """
    import torch
    from accelerate.utils import parse_flag_from_env
    from trl import GRPOConfig, SFTConfig

    on_cpu = not torch.cuda.is_available()
    by_deepspeed = parse_flag_from_env("ACCELERATE_USE_DEEPSPEED") and "LOCAL_RANK" in os.environ
    section, library, fixed = "grpo", GRPOConfig, {}
    if isinstance(settings, ColdStart):
        # `sft.encode` tokenizes the rows as inference does, and drops and counts those that are too long: none is cut.
        fixed = {"dataset_kwargs": {"skip_prepare_dataset": True}, "max_length": None}
        section, library = "cold_start", SFTConfig
    with named_section(section):
        made = library(
            **settings.model_dump(exclude=_OWN_KEYS),
            **fixed,
            bf16=multiplies_in_bf16(settings),
            # With use_cpu, accelerate leaves DeepSpeed out without a word; without it, it finds no backend for CPUs.
            use_cpu=on_cpu and not by_deepspeed,
            ddp_backend="gloo" if on_cpu and by_deepspeed else None,
            output_dir=str(out), seed=seed, data_seed=seed, report_to="none", save_strategy="steps",
            save_total_limit=checkpoints_kept(settings), remove_unused_columns=False, dataloader_num_workers=0,
            # Half an hour, the default, is too little where one process works alone: it flushes 120 GB to a slow disk,
            # deletes an old checkpoint, or waits for MLflow's server to come back.
            ddp_timeout=7200,
        )  # fmt: skip
    if made.n_gpu > 1:  # one process trains on one GPU; TRL refuses nn.DataParallel, which several would mean
        made._n_gpu = 1
    plugin = made.deepspeed_plugin  # from `accelerate launch`
    if plugin is not None and plugin.zero_stage == 3 and getattr(settings, "keep", "last") == "best":
        raise InputError(
            "config key grpo.keep: best needs whole weights to return to, of which ZeRO stage 3 keeps parts; use last, "
            "or stage 2 (workflow/config/accelerate/zero2.yaml)"
        )
    if plugin is not None and plugin.zero3_init_flag:
        raise InputError(
            f"config key launch.{section}: zero3_init_flag has to be false, since one process alone loads a model when "
            "it saves (workflow/config/accelerate/zero3.yaml)"
        )
    return made
