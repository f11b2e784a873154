"""Tokens, FLOPs and memory of passes over a model.

FLOPs of a forward pass (Kaplan et al. 2020, section 2.1, without their rounding): two for each weight and token, and
4 * layers * hidden for each token and position it attends to; the head counts for scored tokens only. Backward: as much
again for the gradient of what a matrix is applied to, and once more for its own where it is trained. The head's
logits are computed again there (tiles), and all layers with gradient checkpointing.

State of training, bytes a weight: on one device 16 where it is trained (float32 weight, gradient, two moments of
Adam), 2 where it is frozen (bf16). Under ZeRO-2 each device holds all weights in bf16 (2), and of N devices an Nth of
gradients (2, and 4 for the step), float32 weights and moments (12): nothing of these where the optimiser is offloaded;
and DeepSpeed's two buckets of 5e8 bf16 gradients.

What the backward pass keeps a token and layer is 34 * hidden + 8 * intermediate bytes beside bf16 weights,
44 * hidden + 10 * intermediate beside float32 ones under autocast: constants measured with saved-tensor hooks
(tests/test_planning.py), within 20 % over shapes. With checkpointing a layer keeps its input alone, and one layer at a
time the rest. The head adds three float32 tiles of logits and, where it is trained, its float32 gradient.

Sampling holds keys and values of each prompt once and of each completion, and beside them the greater of the prefill
(bf16, a layer at a time: 4 * hidden + 3 * intermediate numbers a token) and the logits of all rows (14 bytes each:
bf16, and in float32 scaled, as probabilities and cumulated).
"""

from dataclasses import dataclass

from sqlr1.planning.shapes import Shape

TRAINED_BYTES, BF16_BYTES, SHARDED_BYTES, BUCKET_BYTES = 16, 2, 18, 2 * 2 * 5e8
# Rows of float32 logits held at once, three tensors of them (see packed_forward).
_TILE, _TILE_TRAINED_HEAD = 64, 1024


@dataclass(frozen=True)
class Tuning:
    """How weights are trained: LoRA's rank (0: all weights), gradient checkpointing, devices that share the state by
    ZeRO-2 (1: no DeepSpeed), whether the optimiser is offloaded.
    """

    rank: int
    checkpointing: bool
    sharded_over: int
    offloaded: bool = False

    @property
    def in_bf16(self) -> bool:
        """Whether the matrices are held in bf16: frozen ones are, and DeepSpeed's."""
        return bool(self.rank) or self.sharded_over > 1


@dataclass(frozen=True)
class Pass:
    """Tokens of a pass, the positions they attend to in all, and how many of them are scored by the head."""

    tokens: float
    attended: float
    scored: float


def sequences(number: float, prompt: float, response: float) -> Pass:
    """Rows of a prompt and a response, the response scored."""
    length = prompt + response
    return Pass(number * length, number * length * length / 2, number * response)


def groups(number: float, prompt: float, completions: int, response: float) -> Pass:
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
    """What the layers keep for the backward pass of `tokens` in one pass."""
    per_hidden, per_unit, per_input = (34, 8, 2) if tuning.in_bf16 else (44, 10, 4)
    layer = (per_hidden * shape.hidden + per_unit * shape.intermediate) * tokens
    return shape.layers * shape.hidden * per_input * tokens + layer if tuning.checkpointing else shape.layers * layer


def head_bytes(shape: Shape, scored: float, tuning: Tuning) -> float:
    """What the head holds while it scores tokens."""
    tile = _TILE if tuning.rank else _TILE_TRAINED_HEAD
    return 3 * 4 * shape.vocabulary * min(tile, scored) + (0 if tuning.rank else 4 * shape.head_weights)


def state_bytes(shape: Shape, tuning: Tuning) -> float:
    """Weights, gradients and optimiser state on one device."""
    trained = shape.lora_weights(tuning.rank) if tuning.rank else shape.parameters
    if tuning.sharded_over == 1:
        return TRAINED_BYTES * trained + (BF16_BYTES * shape.parameters if tuning.rank else 0)
    weights = BF16_BYTES * (shape.parameters + (trained if tuning.rank else 0))
    return weights + BUCKET_BYTES + (0 if tuning.offloaded else SHARDED_BYTES * trained / tuning.sharded_over)


def sampling_bytes(shape: Shape, prompts: float, prompt: float, size: int, response: float) -> float:
    """Cache and the larger of prefill and logits, of `size` completions for each of `prompts` at once."""
    cache = cache_bytes(shape, prompts * (prompt + size * response))
    prefill = BF16_BYTES * (4 * shape.hidden + 3 * shape.intermediate) * prompts * prompt
    return cache + max(prefill, 14 * shape.vocabulary * prompts * size)


def cache_bytes(shape: Shape, tokens: float) -> float:
    """Keys and values of `tokens` in bf16."""
    return 2 * 2 * shape.layers * shape.kv * tokens
