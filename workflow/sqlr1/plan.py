"""What an experiment will cost: tokens, FLOPs, hours and peak memory of each stage, without running it.

FLOPs are counted on forward passes of the model without weights (meta device) at two lengths, and scaled. Attention is
causal: half of the counted pairs. A backward pass costs as much as the forward pass for frozen weights, and twice as
much for trained ones and attention; it computes the head's logits again, and all layers with gradient checkpointing.
Prompts count in full, also where the sampler shares a schema, and so do groups that dynamic sampling drops; a refill
round is taken to replace half of the groups. Hours are FLOPs / (devices * peak * utilisation); decoding also reads the
weights and the cache once per step, and takes the longer of the two. Start-up and SQL are not counted: the plan says
389 s for the spider overlay's cold start, which took 512 to 652 s.

Memory per device is process + state + heap * max(training pass, sampling, validation), for the longest rows.
State, bytes per weight: 16 if trained (float32 weight, gradient, two Adam moments), 2 if frozen. With ZeRO-2 2 for all,
18 / devices if trained (0 if offloaded), and two buckets of 5e8 bf16 gradients. GRPO adds the reference model and a
bf16 copy for rollouts, unless DeepSpeed holds the policy in bf16.
Training pass, bytes per token and layer: 34 hidden + 8 intermediate with bf16 weights, 44 hidden + 10 intermediate with
float32 ones (measured with saved-tensor hooks); with checkpointing the inputs of all layers and one whole layer. Then
three float32 tiles of logits, and the head's float32 gradient if it is trained.
Sampling: keys and values, and the larger of a layer's prefill and the logits (14 bytes each, with their copies).
vLLM takes its share beside the training pass, or instead of it if it sleeps. Validation never uses vLLM.
"""

import argparse
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from sqlr1.config import Candidates, Config, PretrainedModel, Select, Training
from sqlr1.config_files import read_config, read_yaml
from sqlr1.records import InputError
from sqlr1.report.tables import markdown_table

_BENCHMARK_QUESTIONS = {"spider": 1034, "bird": 1534}  # the dev sets, where a benchmark is scored whole
_VLLM_ROWS, _VLLM_SHARE = 256, 0.9  # vLLM's defaults: sequences at once, share of the memory


class Accelerator(NamedTuple):
    """Peak bf16 FLOP/s, memory in bytes, bytes/s; then estimates: share of the peak that is reached, bytes of a
    process, bytes that the allocator holds per byte of tensors.
    """

    flops: float
    memory: float
    bandwidth: float
    utilisation: float = 0.35
    process: float = 1.5e9
    heap: float = 1.0


ACCELERATORS = {  # the makers' data sheets
    "a100-80gb": Accelerator(312e12, 80e9, 2.04e12),
    "h100-80gb": Accelerator(989e12, 80e9, 3.35e12),
    "h200-141gb": Accelerator(989e12, 141e9, 4.8e12),
    "l40s-48gb": Accelerator(362e12, 48e9, 0.86e12),
    "rtx4090-24gb": Accelerator(165e12, 24e9, 1.01e12),
    # Measured: the two cores that ran the spider overlay. glibc's heap keeps holes between tensors of different passes.
    "cpu": Accelerator(0.42e12, 24e9, 0.018e12, 0.5, 0.55e9, 3.0),
}
_KEYS = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size")
SHAPES = {  # from each model's published config.json: model_type, _KEYS, vocab_size, tie_word_embeddings
    "SmolLM2-135M": ("llama", 576, 30, 9, 3, 1536, 49152, True),
    "Qwen2.5-Coder-1.5B": ("qwen2", 1536, 28, 12, 2, 8960, 151936, True),
    "Qwen2.5-Coder-3B": ("qwen2", 2048, 36, 16, 2, 11008, 151936, True),
    "Qwen2.5-Coder-7B": ("qwen2", 3584, 28, 28, 4, 18944, 152064, False),
    "Qwen2.5-Coder-14B": ("qwen2", 5120, 48, 40, 8, 13824, 152064, False),
    "OmniSQL-7B": ("qwen2", 3584, 28, 28, 4, 18944, 152064, False),
}


class Cost(NamedTuple):
    """All runs of a stage together; `memory` is the peak of one device in bytes."""

    stage: str
    runs: int
    devices: int
    tokens: float
    flops: float
    hours: float
    memory: float


class Model:
    """FLOPs and sizes of the model with a transformers configuration."""

    def __init__(self, config: Any) -> None:
        import torch
        from torch.utils.flop_counter import FlopCounterMode
        from transformers import AutoModelForCausalLM

        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
        flops = []
        for length in (256, 512):
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                model(torch.zeros((1, length), dtype=torch.long, device="meta"), use_cache=False)
            flops.append(counter.get_total_flops())
        linear = [module for module in model.base_model.modules() if isinstance(module, torch.nn.Linear)]
        self.config, self.weights = config, model.num_parameters()
        self.head = model.get_output_embeddings().weight.numel()
        self.pair_flops = (flops[1] - 2 * flops[0]) / (2 * 256**2)
        self.token_flops = flops[0] / 256 - 256 * self.pair_flops - 2 * self.head  # of the layers' weights
        self.lora_width = sum(module.in_features + module.out_features for module in linear)
        self.cache_bytes = 4 * config.num_hidden_layers * model.base_model.layers[0].self_attn.k_proj.out_features

    def forward(self, tokens: float, pairs: float, scored: float, rank: int = 0) -> float:
        """FLOPs of a pass: `pairs` of positions attend, `scored` tokens reach the head; LoRA of `rank` unmerged."""
        layers = (self.token_flops + 2 * rank * self.lora_width) * tokens
        return layers + self.pair_flops * pairs + 2 * self.head * scored

    def backward(self, tokens: float, pairs: float, scored: float, settings: Training) -> float:
        """FLOPs of the backward pass."""
        layers = self.forward(tokens, pairs, 0, settings.lora.r if settings.lora else 0)
        trained = 2 * layers - (self.token_flops * tokens if settings.lora else 0)
        return trained + layers * settings.gradient_checkpointing + 2 * self.head * scored * (2 if settings.lora else 3)

    def sampling_bytes(self, prompts: float, prompt: float, size: int, response: float) -> float:
        """What `size` completions for each of `prompts` hold at once."""
        prefill = 2 * (4 * self.config.hidden_size + 3 * self.config.intermediate_size) * prompts * prompt
        logits = 14 * self.config.vocab_size * prompts * size
        return self.cache_bytes * prompts * (prompt + size * response) + max(prefill, logits)


def load_model(model: PretrainedModel) -> Model:
    """By a local model's config.json, else by its published shape. Raises InputError if there is none."""
    from transformers import AutoConfig

    if model.source == "path":
        try:
            return Model(AutoConfig.from_pretrained(model.name))
        except (OSError, ValueError) as error:
            raise InputError(f"{model.name}/config.json: {str(error).splitlines()[0]}") from error
    for name, (kind, *values) in SHAPES.items():
        if name.lower() in f"{model.name} {model.file}".lower():
            shape = zip((*_KEYS, "vocab_size", "tie_word_embeddings"), values, strict=True)
            return Model(AutoConfig.for_model(kind, **dict(shape)))
    raise InputError(f"config key base_model.name: no published shape of {model.name!r}; known: {', '.join(SHAPES)}")


@dataclass(frozen=True)
class Planner:
    """The stages of an experiment on an accelerator; `prompt` and `response` are mean lengths in tokens."""

    config: Config
    model: Model
    accelerator: Accelerator
    prompt: float
    response: float

    def costs(self) -> list[Cost]:
        """The stages that compute with the model, in order. Raises InputError if a launcher's file is missing."""
        config, seeds = self.config, len(self.config.seeds)
        policies = 1 + seeds * ((config.cold_start.strategy != "none") + len(config.reward.variants))
        asked = 0
        for entry in filter(None, config.benchmarks.values()):
            built_in = "{results}" in entry.questions
            whole = config.synthesize.benchmark_questions if built_in else _BENCHMARK_QUESTIONS[entry.layout]
            asked += entry.limit or whole
        select = self._answers("select", seeds, config.filter.rl_rows, config.select.n) if config.select.n else None
        candidates = self._answers("candidates", policies, asked, config.candidates.n + 1)
        return list(filter(None, (self._cold_start(), select, self._grpo(), candidates)))

    def _cold_start(self) -> Cost:
        settings, (devices, deepspeed) = self.config.cold_start, _launched(self.config.launch.cold_start)
        rows, length = _rows(settings, self.config.filter.cold_start_rows, devices), self.prompt + self.response
        work = rows * length, rows * length**2 / 2, rows * self.response
        rank = settings.lora.r if settings.lora else 0
        flops = self.model.forward(*work, rank) + self.model.backward(*work, settings)
        batch = settings.per_device_train_batch_size
        scored = batch * self.config.grpo.max_completion_length  # no limit of its own
        held = self._pass_bytes(settings, batch * self.config.prompt.max_length, scored, deepspeed)
        memory = self._state_bytes(settings, deepspeed, devices) + self._held(held)
        return self._cost("cold_start", 1, devices, work[0], flops, self._seconds(flops, devices), memory)

    def _grpo(self) -> Cost:
        settings, (devices, deepspeed) = self.config.grpo, _launched(self.config.launch.grpo)
        size, iterations, select = settings.num_generations, settings.num_iterations, self.config.select
        rows = min(self.config.filter.rl_rows, (select.n and select.rows) or math.inf)
        prompts = _rows(settings, rows, devices, per_row=size)
        if settings.max_steps > 0:
            prompts /= iterations  # each batch of rollouts serves several of the steps
        response = min(self.response, settings.max_completion_length)
        rank = settings.lora.r if settings.lora else 0
        # Packed as [prompt | c1 .. cG]: the prompt counts once.
        pairs = prompts * (self.prompt**2 / 2 + size * response * (self.prompt + response / 2))
        work = prompts * (self.prompt + size * response), pairs, prompts * size * response
        forward = self.model.forward(*work, rank)
        rescored = (settings.beta > 0) + (iterations > 1 or settings.use_vllm)  # by the reference, by the old policy
        trained = iterations * (forward + self.model.backward(*work, settings)) + rescored * forward
        batch = settings.per_device_train_batch_size * settings.gradient_accumulation_steps
        refills = settings.dynamic_sampling.refill_rounds / 2 if settings.dynamic_sampling else 0
        drawn, drawing = self._sampling(prompts * (1 + refills), size, response, batch, devices)
        kept = self.config.filter.validation_rows
        questions = min(kept, settings.validation.questions or kept)
        steps = prompts * size * iterations / (batch * devices)
        answers = questions * (1 + math.ceil(steps / settings.validation.every))
        at_once = self._validated_at_once(questions, devices)
        validated, validating = self._sampling(answers, 1, response, at_once, devices)
        tokens = (1 + refills + iterations) * work[0] + answers * (self.prompt + response)
        seconds = drawing + self._seconds(trained, devices) + validating
        memory = self._grpo_bytes(devices, deepspeed, batch, at_once)
        runs = len(self.config.reward.variants)
        return self._cost("grpo", runs, devices, tokens, drawn + trained + validated, seconds, memory)
