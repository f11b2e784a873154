"""What an experiment will cost: tokens, FLOPs, hours and peak memory of each stage, without running it.

FLOPs are two per weight and token, and four per hidden unit and pair of positions that attend (attention is causal).
Prompts count in full, also where the sampler shares a schema, and so do equal completions and groups that dynamic
sampling drops; a refill round is taken to replace half of the groups. Hours are FLOPs / (devices * peak * utilisation);
decoding also reads the weights and the cache once per step, and takes the longer of the two. Start-up and SQL are not
counted: the plan says 389 s for the spider overlay's cold start when it had 640 rows, which took 512 to 652 s.

Memory per device is process + state + heap * max(training pass, sampling), for the longest rows:
- State, bytes per weight: 16 if trained (float32 weight, gradient, two Adam moments), 2 if frozen. With ZeRO-2 2 for
  all, 18 / devices if trained (0 if offloaded), and two buckets of 5e8 bf16 gradients. ZeRO-3 divides the 2 by the
  devices, too, and holds up to 1e9 gathered weights. GRPO adds the reference model and a bf16 copy for rollouts, unless
  ZeRO-2 holds the policy in bf16.
- Training pass, bytes per token and layer: 34 hidden + 8 intermediate with bf16 weights, 44 hidden + 10 intermediate
  with float32 ones (measured with saved-tensor hooks); with checkpointing the inputs of all layers and one whole layer.
  Then the head's float32 gradient if it is trained; its tiles of logits are small.
- Sampling: keys and values, and the larger of one layer's prefill and the logits (14 bytes each, with their copies).
vLLM takes its share beside the training pass, or instead of it if it sleeps.

A checkpoint holds 12 bytes per trained weight (float32 weight, two Adam moments), with ZeRO-2 16 (two bf16 copies too).
"""

import argparse
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sqlr1.config import Config, PretrainedModel, Training
from sqlr1.config_files import read_config
from sqlr1.evaluate.formats import read_questions
from sqlr1.launch import launched
from sqlr1.records import InputError
from sqlr1.report.tables import markdown_table
from sqlr1.strategies import STRATEGIES
from sqlr1.train.trainer_config import checkpoints_kept

_BENCHMARK_QUESTIONS = {"spider": 1034, "bird": 1534}  # the dev sets, where a benchmark is scored whole
_VLLM_ROWS, _VLLM_SHARE = 256, 0.9  # vLLM's defaults: sequences at once, share of the memory
_BANDWIDTH_USED = 0.6


class Accelerator(NamedTuple):
    """FLOP/s (bf16), bytes, bytes/s; estimates: utilisation, bytes of a process and held per byte of tensors."""

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
_KEYS = (
    "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size", "vocab_size",
    "tie_word_embeddings",
)  # fmt: skip
SHAPES = {  # from each model's published config.json: model_type, _KEYS, vocab_size, tie_word_embeddings
    "SmolLM2-135M": ("llama", 576, 30, 9, 3, 1536, 49152, True),
    "Qwen2.5-Coder-0.5B": ("qwen2", 896, 24, 14, 2, 4864, 151936, True),
    "Qwen2.5-Coder-1.5B": ("qwen2", 1536, 28, 12, 2, 8960, 151936, True),
    "Qwen2.5-Coder-3B": ("qwen2", 2048, 36, 16, 2, 11008, 151936, True),
    "Qwen2.5-Coder-7B": ("qwen2", 3584, 28, 28, 4, 18944, 152064, False),
    "Qwen2.5-Coder-14B": ("qwen2", 5120, 48, 40, 8, 13824, 152064, False),
    "OmniSQL-7B": ("qwen2", 3584, 28, 28, 4, 18944, 152064, False),
}


class Cost(NamedTuple):
    """All runs of a stage together; `memory` is the peak of one device in bytes.

    A run that trains writes `saved` checkpoints of `checkpoint` bytes, of which `kept` stay.
    """

    stage: str
    runs: int
    devices: int
    tokens: float
    flops: float
    hours: float
    memory: float
    checkpoint: float = 0.0
    saved: int = 0
    kept: int = 0

    @property
    def disk_peak(self) -> float:
        """Bytes that the checkpoints of a run take at once: those that stay, and the one that is being written."""
        return self.checkpoint * min(self.saved, self.kept + 1)

    def disk(self) -> str:
        """What the checkpoints of training take on disk, in words."""
        each, peak = (f"{size / 1e9:.3g} GB" for size in (self.checkpoint, self.disk_peak))
        total = f"{self.runs * self.saved * self.checkpoint / 1e9:,.0f} GB"
        return f"{self.stage}: checkpoints of {each}, at most {peak} at once in a run, {total} written in all"


def shape(model: PretrainedModel) -> Any:
    """The transformers configuration of a local model, or the published one. Raises InputError if there is none."""
    from transformers import AutoConfig

    if model.source == "path":
        try:
            return AutoConfig.from_pretrained(model.name, local_files_only=True)
        except (OSError, ValueError) as error:
            raise InputError(f"{model.name}/config.json: {str(error).splitlines()[0]}") from error
    named = model.file if model.source == "wheel" else model.name
    for name, (kind, *values) in SHAPES.items():
        if name.lower() in named.lower():
            return AutoConfig.for_model(kind, **dict(zip(_KEYS, values, strict=True)))
    raise InputError(f"config key base_model.name: no published shape of {model.name!r}; known: {', '.join(SHAPES)}")


class Model:
    """A model as a stage with `settings` trains it. `forward` and `training` are the FLOPs (a pass; forward and
    backward) per token, per pair of positions that attend, per token that the head scores.
    """

    def __init__(self, config: Any, settings: Training) -> None:
        import torch
        from peft import inject_adapter_in_model
        from transformers import AutoModelForCausalLM

        from sqlr1.train.trainer_config import lora_config

        self.config, self.settings, lora = config.get_text_config(), settings, settings.lora
        with torch.device("meta"):  # without weights
            model = AutoModelForCausalLM.from_config(config)
            self.weights, self.head = model.num_parameters(), model.get_output_embeddings().weight.numel()
            model = inject_adapter_in_model(lora_config(lora), model) if lora else model
        self.trained = model.num_parameters(only_trainable=True)
        config = self.config
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        keys = (getattr(config, "num_key_value_heads", None) or config.num_attention_heads) * head_dim
        self.intermediate_size = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
        self.cache_bytes = 2 * 2 * config.num_hidden_layers * keys  # keys and values per token, bf16
        self.read = self.weights - (0 if config.tie_word_embeddings else self.head)  # of the embedding few rows
        layers, pair = 2 * (self.read - self.head), 4 * config.hidden_size * config.num_hidden_layers
        self.forward = np.array([layers, pair, 2 * self.head])
        # The backward pass costs two forward passes, or one through frozen weights. The head's forward pass is always
        # repeated; with checkpointing that of the layers too, up to each one's last projection, which is not needed.
        again, backward = int(settings.gradient_checkpointing), 1 if lora else 2
        self.training = self.forward * (1 + backward + again, 3 + again, 2 + backward)
        self.training[0] -= 2 * again * config.num_hidden_layers * config.hidden_size * self.intermediate_size
        self.training[0] += 2 * self.trained * (3 + again) if lora else 0

    def state_bytes(self, devices: int, deepspeed: dict[str, Any]) -> float:
        """Weights, gradients and optimiser state on one device."""
        frozen = self.weights if self.settings.lora else 0
        if not deepspeed:
            return 16 * self.trained + 2 * frozen
        offloaded = (deepspeed.get("offload_optimizer_device") or "none") != "none"
        weights = 2 * (frozen + self.trained)
        if deepspeed.get("zero_stage") == 3:
            weights = weights / devices + min(weights, 2 * 1e9)
        return weights + 2 * 2 * 5e8 + (0 if offloaded else 18 * self.trained / devices)

    def checkpoint_bytes(self, deepspeed: dict[str, Any]) -> float:
        return (16 if deepspeed else 12) * self.trained

    def pass_bytes(self, tokens: float, deepspeed: dict[str, Any]) -> float:
        """What a training pass holds beside the state."""
        hidden, layers = self.config.hidden_size, self.config.num_hidden_layers
        per_hidden, per_unit, per_input = (34, 8, 2) if self.settings.lora or deepspeed else (44, 10, 4)
        layer = per_hidden * hidden + per_unit * self.intermediate_size
        kept = layers * hidden * per_input + layer if self.settings.gradient_checkpointing else layers * layer
        return kept * tokens + (0 if self.settings.lora else 4 * self.head)

    def sampling_bytes(self, prompts: float, prompt: float, size: int, response: float) -> float:
        """What `size` completions for each of `prompts` hold at once."""
        prefill = 2 * (4 * self.config.hidden_size + 3 * self.intermediate_size) * prompts * prompt
        logits = 14 * self.config.vocab_size * prompts * size
        return self.cache_bytes * prompts * (prompt + size * response) + max(prefill, logits)


@dataclass
class Planner:
    """The stages of an experiment on an accelerator; `prompt` and `response` are mean lengths in tokens."""

    config: Config
    accelerator: Accelerator
    prompt: float
    response: float

    def costs(self) -> list[Cost]:
        """The stages that compute with the model, in order.

        Raises InputError for a model of unknown shape, a missing file of a launcher, or a faulty file of questions.
        """
        config, seeds, asked = self.config, len(self.config.seeds), 0
        self.model = Model(shape(config.base_model), config.grpo)
        for entry in filter(None, config.benchmarks.values()):
            made = {"synthesize": config.synthesize.benchmark_questions, "filter": config.filter.test_rows}
            own = Path(entry.questions)  # no file if it begins with {data} or {results}
            there = len(read_questions(entry.layout, own)) if own.is_file() else made.get(entry.made_by)
            most = there or _BENCHMARK_QUESTIONS[entry.layout]
            asked += min(entry.limit or most, there or math.inf)
        trains = STRATEGIES[config.cold_start.strategy].response is not None
        policies = 1 + seeds * (trains + len(config.reward.variants))
        select = [self._answers("select", seeds, config.filter.rl_rows, config.select.n)] if config.select.n else []
        candidates = self._answers("candidates", policies, asked, config.candidates.n + 1)
        return [*([self._cold_start()] if trains else []), *select, self._grpo(), candidates]

    def _cold_start(self) -> Cost:
        settings, (devices, deepspeed) = self.config.cold_start, launched(self.config.launch.cold_start)
        model = Model(self.model.config, settings)
        rows, length = _rows(settings, self.config.filter.cold_start_rows, devices), self.prompt + self.response
        flops = model.training @ (rows * length, rows * length**2 / 2, rows * self.response)
        # Without a limit, responses are taken to be as long as GRPO's may be.
        longest = settings.max_row_length or self.config.prompt.max_length + self.config.grpo.max_completion_length
        held = self._held(model.pass_bytes(settings.per_device_train_batch_size * longest, deepspeed))
        memory, runs = model.state_bytes(devices, deepspeed) + held, len(self.config.seeds)
        cost = _cost("cold_start", runs, devices, rows * length, self._work(flops, devices), memory)
        steps = rows / (settings.per_device_train_batch_size * settings.gradient_accumulation_steps * devices)
        saved = math.ceil(steps / settings.save_steps)
        return cost._replace(checkpoint=model.checkpoint_bytes(deepspeed), saved=saved, kept=checkpoints_kept(settings))

    def _grpo(self) -> Cost:
        settings, (devices, deepspeed) = self.config.grpo, launched(self.config.launch.grpo)
        select, validation, model = self.config.select, settings.validation, self.model
        size, iterations = settings.num_generations, settings.num_iterations
        response = min(self.response, settings.max_completion_length)
        rows = min(self.config.filter.rl_rows, (select.n and select.rows) or math.inf)
        prompts = _rows(settings, rows, devices, per_row=size)
        if settings.max_steps > 0:
            prompts /= iterations  # each batch of rollouts serves several of the steps
        # A group is packed as [prompt | c1 .. cG]: the prompt counts once.
        pairs = prompts * (self.prompt**2 / 2 + size * response * (self.prompt + response / 2))
        once = prompts * (self.prompt + size * response), pairs, prompts * size * response
        corrected = settings.use_vllm and settings.vllm_importance_sampling_correction
        rescored = (settings.beta > 0) + (iterations > 1 or corrected)  # by the reference, by the old policy
        trained = (iterations * model.training + rescored * model.forward) @ once
        refills = settings.dynamic_sampling.refill_rounds / 2 if settings.dynamic_sampling else 0
        batch = settings.per_device_train_batch_size * settings.gradient_accumulation_steps
        steps, kept = prompts * size * iterations / (batch * devices), self.config.filter.validation_rows
        answers = min(kept, validation.questions or kept) * (1 + math.ceil(steps / validation.every))
        work = self._sampling(prompts * (1 + refills), size, response, batch, devices)
        work += self._sampling(answers, 1, response, batch, devices) + self._work(trained, devices)
        tokens = (1 + refills + iterations) * once[0] + answers * (self.prompt + response)
        memory = model.state_bytes(devices, deepspeed) + self._rollout_bytes(batch, deepspeed)
        runs = len(self.config.seeds) * len(self.config.reward.variants)
        cost = _cost("grpo", runs, devices, tokens, work, memory)
        saved = math.ceil(steps / settings.save_steps)
        return cost._replace(checkpoint=model.checkpoint_bytes(deepspeed), saved=saved, kept=checkpoints_kept(settings))

    def _rollout_bytes(self, batch: int, deepspeed: dict[str, Any]) -> float:
        """GRPO's memory without the state of training."""
        settings, model, prompt = self.config.grpo, self.model, self.config.prompt.max_length
        size, longest = settings.num_generations, settings.max_completion_length
        sharded = deepspeed.get("zero_stage") == 3
        copies = 2 * model.weights if settings.lora or not deepspeed or (sharded and not settings.use_vllm) else 0
        if settings.beta > 0 and not settings.lora:
            copies += (2 if deepspeed else 4) * model.weights  # the reference
        rows = settings.per_device_train_batch_size
        prompts = rows if sharded else max(1, rows / size)  # under ZeRO-3 each completion has its prompt
        training = model.pass_bytes(prompts * prompt + rows * longest, deepspeed)
        if not settings.use_vllm:
            return copies + self._held(max(training, model.sampling_bytes(batch / size, prompt, size, longest)))
        share = settings.vllm_gpu_memory_utilization if settings.vllm_mode == "colocate" else 0
        both = self._held(training), share * self.accelerator.memory
        return copies + (max(both) if settings.vllm_enable_sleep_mode else sum(both))

    def _answers(self, stage: str, runs: int, questions: int, samples: int) -> Cost:
        settings, model, prompt = getattr(self.config, stage), self.model, self.config.prompt.max_length
        longest, weights = settings.max_new_tokens, 2 * model.weights
        group, response = prompt + samples * longest, min(self.response, longest)
        if settings.backend == "vllm":  # as many as fit
            memory = _VLLM_SHARE * self.accelerator.memory
            at_once = max(1, min(_VLLM_ROWS, (memory - weights) / (model.cache_bytes * group) * samples))
        else:
            at_once = samples * max(1, min(questions, settings.batch_tokens // group))
            memory = weights + self._held(model.sampling_bytes(at_once / samples, prompt, samples, longest))
        work = self._sampling(questions, samples, response, at_once, 1)
        return _cost(stage, runs, 1, questions * (self.prompt + samples * response), work, memory)

    def _sampling(self, prompts: float, size: int, response: float, at_once: float, devices: int) -> Any:
        """FLOPs and seconds of `size` completions per prompt, `at_once` of them on a device."""
        model, rows, prompt = self.model, prompts * size, self.prompt
        prefill = model.forward @ (prompts * prompt, prompts * prompt**2 / 2, 0)
        decode = model.forward @ (rows * response, rows * response * (prompt + response / 2), rows * response)
        read = 2 * model.read + model.cache_bytes * at_once * (prompt / size + response)
        reading = rows / devices / at_once * response * read / (self.accelerator.bandwidth * _BANDWIDTH_USED)
        return self._work(prefill, devices) + self._work(decode, devices).clip(min=(0, reading))

    def _held(self, needed: float) -> float:
        return self.accelerator.process + self.accelerator.heap * needed

    def _work(self, flops: float, devices: int) -> Any:
        """An array of FLOPs and the seconds that they take."""
        return flops * np.array([1, 1 / (devices * self.accelerator.flops * self.accelerator.utilisation)])


def _cost(stage: str, runs: int, devices: int, tokens: float, work: Any, memory: float) -> Cost:
    flops, seconds = (runs * work).tolist()
    return Cost(stage, runs, devices, runs * tokens, flops, seconds / 3600, memory)


def _rows(settings: Training, rows: float, devices: int, per_row: int = 1) -> float:
    """How many rows are trained on, with repetitions; a row is `per_row` of the batch."""
    if settings.max_steps <= 0:
        return rows * settings.num_train_epochs
    batch = settings.per_device_train_batch_size * settings.gradient_accumulation_steps
    return settings.max_steps * batch * devices / per_row


def add_parser(commands: Any) -> None:
    about = "what an experiment will cost"
    parser = commands.add_parser("plan", help=about, description=__doc__.split("\n\n")[0], allow_abbrev=False)
    parser.add_argument("--configfile", type=Path, nargs="+", default=[], metavar="FILE", help="over config.yaml")
    parser.add_argument("--accelerator", choices=ACCELERATORS, default="a100-80gb", help="(default: a100-80gb)")
    parser.add_argument("--prompt-tokens", type=int, metavar="N", help="mean per prompt (default: the longest)")
    parser.add_argument("--completion-tokens", type=int, metavar="N", help="mean per response (default: the longest)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Print the plan. Raises InputError for a missing file, a faulty key or a model of unknown shape."""
    config, accelerator = read_config([Path("config.yaml"), *args.configfile]), ACCELERATORS[args.accelerator]
    for name in ("prompt_tokens", "completion_tokens"):
        if (given := getattr(args, name)) is not None and given < 1:
            raise InputError(f"--{name.replace('_', '-')} must be at least 1, not {given}")
    prompt = args.prompt_tokens or config.prompt.max_length
    response = args.completion_tokens or config.grpo.max_completion_length
    costs = Planner(config, accelerator, prompt, response).costs()
    print(f"{config.experiment} on {args.accelerator}: {prompt} tokens per prompt", end=" ")
    print(f"and {response} per response on average\nall runs of a stage together\n")
    columns = ["stage", "runs", "devices", "tokens", "FLOPs", "hours", "GB per device"]
    rows = [[*c[:3], f"{c.tokens:.3g}", f"{c.flops:.3g}", f"{c.hours:.3g}", f"{c.memory / 1e9:.1f}"] for c in costs]
    print(markdown_table(columns, rows))
    print(*(f"\n{cost.disk()}" for cost in costs if cost.saved), sep="")
    for cost in costs:
        if cost.memory > accelerator.memory:
            print(f"\n{cost.stage}: does not fit the {accelerator.memory / 1e9:.0f} GB of a device")
