"""Models of published shapes with random weights, which need no network: speed and memory do not depend on the weights.

    python benchmarks/random_model.py Qwen2.5-Coder-0.5B FOLDER [--weights]

writes a model folder. Without weights `load` makes them when it is read. Shapes are those of `sqlr1.plan`, and `tiny`.
"""

import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from sqlr1.config import PretrainedModel
from sqlr1.model.base import load_model
from sqlr1.plan import SHAPES, shape

SHAPES["tiny"] = ("qwen2", 64, 2, 4, 2, 128, 512, True)
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def write(name: str, folder: Path) -> None:
    """Configuration and a byte tokenizer."""
    sys.path.append(str(Path(__file__).parents[1] / "tests"))
    from tiny_models import tiny_tokenizer

    config = shape(PretrainedModel(source="hub", name=name))
    config.update({"eos_token_id": 2, "bos_token_id": None, "pad_token_id": 0, "max_position_embeddings": 32768})
    config.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)


def load(folder: str, dtype: str) -> Any:
    """The model of a folder on the device, in evaluation mode; random weights, always the same, if it has none."""
    if Path(folder, "model.safetensors").exists():
        return load_model(folder, dtype).to(DEVICE)
    torch.manual_seed(0)
    with torch.device(DEVICE):
        return AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), dtype=getattr(torch, dtype)).eval()


def synchronize() -> None:
    """Wait for the device, before the clock is read."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    write(sys.argv[1], Path(sys.argv[2]))
    if "--weights" in sys.argv:
        load(sys.argv[2], "float32").save_pretrained(sys.argv[2])
