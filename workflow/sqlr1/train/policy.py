"""Policies in training: loaded for it, and saved as a plain model folder, an adapter merged in."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlr1.config import Training
from sqlr1.model.base import load_model, save_model
from sqlr1.train.trainer_config import multiplies_in_bf16

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

log = logging.getLogger(__name__)


def load_policy(folder: Path, settings: Training) -> "PreTrainedModel":
    """The model to train. Frozen weights (LoRA) are held in `train_dtype`, by default the precision of the products
    (`bf16`, or what the machine does in hardware), trained ones in float32.
    """
    products = "bfloat16" if multiplies_in_bf16(settings) else "float32"
    weights = (settings.train_dtype or products) if settings.lora else "float32"
    log.info("products in %s, weights in %s", products, weights)
    return load_model(folder, weights)


def save_policy(
    trained: Any, source: Path, tokenizer: "PreTrainedTokenizerBase", folder: Path, settings: Training
) -> None:
    """Write the policy to `folder`. An adapter is merged into the weights of `source` as saved, not into the copy
    rounded for training, so that rounding does not add up over stages.
    """
    from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict

    model = trained
    if isinstance(trained, PeftModel):
        from peft import get_peft_model

        adapted = get_peft_model(load_model(source, "float32"), trained.peft_config["default"])
        set_peft_model_state_dict(adapted, get_peft_model_state_dict(trained))
        model = adapted.merge_and_unload()
    save_model(model, tokenizer, folder, settings.dtype)
