"""The policy as rollouts use it: adapter merged, weights in the precision in which they are multiplied.

Sampling reads every weight once a token; an unmerged adapter would double the number of products and a float32 copy the
memory traffic. The merged weights live in a second model that is refilled before each batch of rollouts.
"""

import copy
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def rollout_policy(model: Any, trainer: Any) -> "PreTrainedModel":
    """A model to sample from that equals `model` now. The merged copy is kept as `trainer.rollout_model`."""
    from peft import PeftModel

    dtype = torch.bfloat16 if trainer.args.bf16 else None
    if not isinstance(model, PeftModel) and (dtype is None or model.dtype == dtype):
        return model
    if trainer.rollout_model is None:
        trainer.rollout_model = _plain_copy(model, dtype)
    _refill(trainer.rollout_model, model)
    return trainer.rollout_model


def _plain_copy(model: Any, dtype: torch.dtype | None) -> "PreTrainedModel":
    """A model of the same configuration without adapters, weights in `dtype` (None: its own), not filled in yet."""
    from peft import PeftModel

    base = model.get_base_model() if isinstance(model, PeftModel) else model
    with torch.device("meta"):  # random weights would take time and numbers from the run's generator
        plain = type(base)(copy.deepcopy(base.config))
    for parameter in plain.parameters():  # not the buffers: rotary frequencies are float32 in any model
        parameter.data = parameter.data.to(dtype or base.dtype)
    plain.to_empty(device=base.device)
    plain.tie_weights()
    for name, buffer in plain.named_buffers():
        buffer.copy_(base.get_buffer(name))
    return plain.eval().requires_grad_(False)


@torch.no_grad()
def _refill(target: "PreTrainedModel", source: Any) -> None:
    """Copy `source`'s weights, adapters merged in float32, into `target`."""
    from peft import PeftModel
    from peft.tuners.lora import LoraLayer

    base = source.get_base_model() if isinstance(source, PeftModel) else source
    adapted = {name: module for name, module in base.named_modules() if isinstance(module, LoraLayer)}
    values = {}
    for name, parameter in base.named_parameters():
        owner, _, field = name.rpartition(".")
        if owner.endswith(".base_layer"):
            layer = owner.removesuffix(".base_layer")
            if field == "weight":
                parameter = parameter.float() + adapted[layer].get_delta_weight("default").float()
            values[f"{layer}.{field}"] = parameter
        elif ".lora_" not in f".{name}":
            values[name] = parameter
    for name, parameter in target.named_parameters():
        parameter.copy_(values[name])
