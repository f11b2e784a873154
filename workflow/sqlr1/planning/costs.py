"""Tokens, FLOPs and memory of passes over a model.

FLOPs of a forward pass (Kaplan et al. 2020, section 2.1, without their rounding): two for each weight and token, and
4 * layers * hidden for each token and position it attends to; the head counts for scored tokens only. Backward: as much
again for the gradient of what a matrix is applied to, and once more for its own where it is trained. The head's
logits are computed again there (tiles), and all layers with gradient checkpointing.

Memory of training: a trained weight takes 16 bytes (float32 weight, gradient, two moments of Adam), a frozen one 2
(bf16); ZeRO-3 divides both by the number of devices. What the backward pass keeps a token and layer is
34 * hidden + 8 * intermediate bytes beside frozen bf16 weights, 44 * hidden + 10 * intermediate beside float32 ones
under autocast: constants measured with saved-tensor hooks (tests/test_planning.py), within 15 % over shapes.
With checkpointing a layer keeps its input alone, and one layer at a time the rest.
"""

from dataclasses import dataclass

from sqlr1.planning.shapes import Shape

TRAINED_BYTES, FROZEN_BYTES = 16, 2
# Rows of float32 logits held at once, three tensors of them (see packed_forward).
_TILE, _TILE_TRAINED_HEAD = 64, 1024


@dataclass(frozen=True)
class Tuning:
    """How weights are trained: LoRA's rank (0: all weights), gradient checkpointing, devices that share the state."""

    rank: int
    checkpointing: bool
    sharded_over: int


@dataclass(frozen=True)
class Pass:
    """Tokens of a pass, the positions they attend to in all, and how many of them are scored by the head."""

    tokens: float
    attended: float
    scored: float


def sequences(number: float, prompt: int, response: int) -> Pass:
    """Rows of a prompt and a response, the response scored."""
    length = prompt + response
    return Pass(number * length, number * length * length / 2, number * response)


def groups(number: float, prompt: int, completions: int, response: int) -> Pass:
    """Groups packed as `[prompt | c1 .. cG]`: the prompt counts once."""
    rows = number * completions
    attended = number * prompt * prompt / 2 + rows * (response * prompt + response * response / 2)
    return Pass(number * prompt + rows * response, attended, rows * response)


def forward_flops(shape: Shape, work: Pass, rank: int = 0) -> float:
    """FLOPs of one forward pass; `rank` of unmerged adapters."""
    layers = 2 * (shape.layer_weights + (shape.lora_weights(rank) if rank else 0)) * work.tokens
    return layers + 4 * shape.layers * shape.hidden * work.attended + 2 * shape.head_weights * work.scored


def training_flops(shape: Shape, work: Pass, tuning: Tuning) -> float:
    """FLOPs of one forward and backward pass."""
    head = 2 * shape.head_weights * work.scored
    forward = forward_flops(shape, work, tuning.rank)
    frozen = 2 * shape.layer_weights * work.tokens
    trained = forward - head - frozen if tuning.rank else forward - head
    backward = 2 * trained + (frozen + 2 * head if tuning.rank else 3 * head)
    return forward + backward + (forward - head if tuning.checkpointing else 0)


def activation_bytes(shape: Shape, tokens: float, tuning: Tuning) -> float:
    """What the backward pass keeps of `tokens` of one pass, and the logits of a tile."""
    per_hidden, per_unit = (34, 8) if tuning.rank else (44, 10)
    layer = (per_hidden * shape.hidden + per_unit * shape.intermediate) * tokens
    tile = _TILE if tuning.rank else _TILE_TRAINED_HEAD
    logits = 3 * 4 * shape.vocabulary * min(tile, tokens)
    kept = shape.layers * shape.hidden * (2 if tuning.rank else 4) * tokens + layer
    return logits + (kept if tuning.checkpointing else shape.layers * layer)


def state_bytes(shape: Shape, tuning: Tuning) -> float:
    """Weights, gradients and optimiser state on one device."""
    if not tuning.rank:
        return TRAINED_BYTES * shape.parameters / tuning.sharded_over
    adapters = TRAINED_BYTES * shape.lora_weights(tuning.rank)
    return (FROZEN_BYTES * shape.parameters + adapters) / tuning.sharded_over


def cache_bytes(shape: Shape, tokens: float) -> float:
    """Keys and values of `tokens` in bf16."""
    return 2 * 2 * shape.layers * shape.kv * tokens
