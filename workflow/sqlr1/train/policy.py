"""The policy in training: loaded, copied for rollouts, and saved as a plain model folder."""

import copy
import functools
import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from peft import PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from trl.models import unwrap_model_for_generation

from sqlr1.config import Training
from sqlr1.model.base import load_model, save_model
from sqlr1.train.trainer_config import multiplies_in_bf16

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger(__name__)


def load_policy(folder: Path, settings: Training) -> "PreTrainedModel":
    """The model to train. Trained weights are float32.

    With LoRA the model's own weights are frozen and held in `train_dtype`, by default in the precision of the matrix
    products.
    """
    products = "bfloat16" if multiplies_in_bf16(settings) else "float32"
    weights = (settings.train_dtype or products) if settings.lora else "float32"
    log.info("products in %s, weights in %s", products, weights)
    return load_model(folder, weights)


def save_policy(trainer: Any, source: Path, folder: Path, settings: Training) -> None:
    """Write the policy to `folder`, on the first process; all of them call this.

    An adapter is merged into the weights that `source` has on disk, not into the copy rounded for training: otherwise
    rounding errors would add up over the stages.
    """
    with whole_weights(trainer) as model:
        if trainer.is_world_process_zero():
            if isinstance(model, PeftModel):
                adapted = get_peft_model(load_model(source, "float32"), model.peft_config["default"])
                set_peft_model_state_dict(adapted, get_peft_model_state_dict(model))
                model = adapted.merge_and_unload()
            save_model(model, trainer.processing_class, folder, settings.dtype)
    trainer.accelerator.wait_for_everyone()


def rollout_policy(model: Any, trainer: Any) -> "PreTrainedModel":
    """A model to sample from that equals `model` now: adapter merged, weights in the precision of the products.

    Sampling reads all weights for each token; an unmerged adapter would add products, and float32 would double the
    memory traffic. The copy is kept in `trainer.rollout_model` and gets the present weights at each call.
    """
    dtype = torch.bfloat16 if trainer.args.bf16 else None
    if not isinstance(model, PeftModel) and (dtype is None or model.dtype == dtype):
        return model
    if trainer.rollout_model is None:
        trainer.rollout_model = _plain_copy(model, dtype)
    _refill(trainer.rollout_model, model)
    return trainer.rollout_model


def whole_weights(trainer: Any) -> AbstractContextManager[Any]:
    """The trained model with all of its weights, of which ZeRO stage 3 keeps a part in each process: all call this."""
    kept = {"gradient_checkpointing_kwargs": trainer.args.gradient_checkpointing_kwargs}
    return unwrap_model_for_generation(trainer.model_wrapped, trainer.accelerator, **kept)


@contextmanager
def vllm_weights_in(dtype: str) -> Iterator[None]:
    """Have TRL make its colocated vLLM with weights in `dtype`.

    TRL names no dtype, and vLLM's own choice rounds a float32 model to 16 bits.
    """
    from trl.generation import vllm_generation

    engine = getattr(vllm_generation, "LLM", None)  # only where vLLM is installed
    if engine:
        vllm_generation.LLM = functools.partial(engine, dtype=dtype)
    try:
        yield
    finally:
        if engine:
            vllm_generation.LLM = engine


def _plain_copy(model: Any, dtype: torch.dtype | None) -> "PreTrainedModel":
    """A model of the same configuration without adapters, weights in `dtype` (None: as in `model`), not yet set."""
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    with torch.device("meta"):  # initializing weights would take time, and numbers from the run's generator
        plain = type(base)(copy.deepcopy(base.config))
    for parameter in plain.parameters():  # not the buffers: rotary frequencies are always float32
        parameter.data = parameter.data.to(dtype or base.dtype)
    plain.to_empty(device=base.device)
    plain.tie_weights()
    for name, buffer in plain.named_buffers():
        buffer.copy_(base.get_buffer(name))
    return plain.eval().requires_grad_(False)


@torch.no_grad()
def _refill(target: "PreTrainedModel", source: Any) -> None:
    """Copy `source`'s weights, adapters merged in float32, into `target`."""
    base = source.get_base_model() if isinstance(source, PeftModel) else source
    for name, parameter in target.named_parameters():
        layer, _, field = name.rpartition(".")
        module = base.get_submodule(layer)
        adapted = isinstance(module, LoraLayer)
        value = getattr(module.base_layer if adapted else module, field)
        if adapted and field == "weight":
            value = value.float() + module.get_delta_weight("default").float()
        parameter.copy_(value)
