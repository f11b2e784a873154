"""Shapes of models and peaks of accelerators, as their makers publish them."""

from dataclasses import dataclass
from pathlib import Path

from sqlr1.records import InputError, read_json


@dataclass(frozen=True)
class Shape:
    """A decoder with gated MLP and grouped heads (Llama, Qwen2). All in numbers of units."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int
    vocabulary: int
    tied: bool

    @property
    def kv(self) -> int:
        """Width of a layer's keys (and of its values)."""
        return self.hidden // self.heads * self.kv_heads

    @property
    def layer_weights(self) -> int:
        """Weights of all layers' matrices: each is multiplied once a token."""
        attention = 2 * self.hidden * (self.hidden + self.kv)
        return self.layers * (attention + 3 * self.hidden * self.intermediate)

    @property
    def head_weights(self) -> int:
        return self.hidden * self.vocabulary

    @property
    def parameters(self) -> int:
        """All weights but the few of norms and biases."""
        return self.layer_weights + self.head_weights * (1 if self.tied else 2)

    def lora_weights(self, rank: int) -> int:
        """Weights of adapters of `rank` on every matrix of every layer."""
        wide = 2 * (self.hidden + self.hidden) + 2 * (self.hidden + self.kv)
        return self.layers * rank * (wide + 3 * (self.hidden + self.intermediate))


_CONFIG = (
    *("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"),
    *("intermediate_size", "vocab_size"),
)
# config.json of each model on the Hugging Face hub; OmniSQL-7B is trained from Qwen2.5-Coder-7B.
SHAPES = {
    "SmolLM2-135M": Shape(576, 30, 9, 3, 1536, 49152, True),
    "Qwen2.5-Coder-1.5B": Shape(1536, 28, 12, 2, 8960, 151936, True),
    "Qwen2.5-Coder-3B": Shape(2048, 36, 16, 2, 11008, 151936, True),
    "Qwen2.5-Coder-7B": Shape(3584, 28, 28, 4, 18944, 152064, False),
    "Qwen2.5-Coder-14B": Shape(5120, 48, 40, 8, 13824, 152064, False),
    "OmniSQL-7B": Shape(3584, 28, 28, 4, 18944, 152064, False),
}


def shape_in(folder: Path) -> Shape:
    """The shape that a model folder's config.json gives. Raises InputError where it lacks a number."""
    config = read_json(folder / "config.json")
    try:
        numbers = [config[name] for name in _CONFIG]
    except KeyError as error:
        raise InputError(f"{folder}/config.json: {error} is missing") from error
    return Shape(*numbers, config.get("tie_word_embeddings", False))


def shape_of(*names: str) -> Shape:
    """The shape of the model that one of the names contains. Raises InputError for an unknown one."""
    for known, shape in SHAPES.items():
        if any(known.lower() in name.lower() for name in names):
            return shape
    raise InputError(f"config key base_model.name: no published shape of {names[0]!r}; known: {', '.join(SHAPES)}")


@dataclass(frozen=True)
class Accelerator:
    """Peak of dense bf16 products in FLOP/s, memory in bytes, memory bandwidth in bytes/s.

    `mfu` is the share of the peak that training and sampling usually reach, `process` the bytes of a process beside its
    tensors, `heap` the bytes that its allocator holds for each byte of tensors whose sizes change from pass to pass
    (activations, caches, logits). Those of accelerators are estimates, not measured here.
    """

    flops: float
    memory: float
    bandwidth: float
    mfu: float = 0.35
    process: float = 1.5e9
    heap: float = 1.0


# Data sheets of the makers; `cpu` is the two-core machine of the project's own measurements. Its process is Python with
# torch, transformers, trl and mlflow. Its heap is glibc's, which keeps the holes between tensors of passes of different
# lengths: measured on the spider overlay, where one pass alone held 1.4 and 300 passes 3.2 times what they need.
ACCELERATORS = {
    "a100-80gb": Accelerator(312e12, 80e9, 2.04e12),
    "h100-80gb": Accelerator(989e12, 80e9, 3.35e12),
    "h200-141gb": Accelerator(989e12, 141e9, 4.8e12),
    "l40s-48gb": Accelerator(362e12, 48e9, 0.86e12),
    "rtx4090-24gb": Accelerator(165e12, 24e9, 1.01e12),
    # Two cores that multiply bf16 in hardware; float32 takes longer, with weights and cache of twice the size.
    "cpu": Accelerator(0.42e12, 24e9, 0.018e12, mfu=0.5, process=0.55e9, heap=3.0),
}
