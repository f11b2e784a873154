"""Each stage of an experiment as work on an accelerator: tokens, FLOPs, hours, peak memory of one device.

Hours are FLOPs over devices * peak * utilisation (`mfu`); decoding reads all weights and the cache once a step, and
takes the longer of that (at 60 % of the bandwidth) and its FLOPs. Lengths are the upper bounds of the config unless
given, so that hours and memory are upper bounds too. Starting up, executing SQL and validation are not counted.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlr1.planning import costs
from sqlr1.planning.costs import Pass, Tuning
from sqlr1.planning.shapes import Accelerator, Shape

_BANDWIDTH_USED = 0.6
# Published sizes, where a benchmark is scored whole: Spider dev, BIRD dev.
_QUESTIONS = {"spider": 1034, "bird": 1534}
# Sequences that vLLM decodes at once by default; the sampler here goes by cached tokens.
_VLLM_ROWS, _BATCH_TOKENS = 256, 32768


@dataclass(frozen=True)
class Cost:
    """All runs of a stage together; `memory` is the peak of one device."""

    stage: str
    runs: int
    devices: int
    tokens: float
    flops: float
    hours: float
    memory: float


@dataclass(frozen=True)
class Planner:
    """An experiment's `config` on an accelerator; lengths in tokens, `mfu` the share of the peak that is reached."""

    config: Mapping[str, Any]
    shape: Shape
    accelerator: Accelerator
    mfu: float
    prompt: int
    response: int

    def costs(self) -> list[Cost]:
        """The stages that compute with the model, in their order."""
        sampled = self.config["select"]["n"] > 0
        return [self._cold_start(), *([self._select()] if sampled else []), self._grpo(), self._candidates()]

    def _cold_start(self) -> Cost:
        settings, devices = self.config["cold_start"], self._devices("cold_start")
        rows = self._rows_seen(settings, self.config["filter"]["cold_start_rows"], devices)
        work = costs.sequences(rows, self.prompt, self.response)
        tuning = self._tuning(settings, "cold_start")
        batch = settings.get("per_device_train_batch_size", 8) * (self.prompt + self.response)
        memory = costs.state_bytes(self.shape, tuning) + costs.activation_bytes(self.shape, batch, tuning)
        flops = costs.training_flops(self.shape, work, tuning)
        return self._cost(
            "cold_start", self._seeds(), devices, work.tokens, flops, self._compute(flops, devices), memory
        )

    def _grpo(self) -> Cost:
        settings, devices, shape = self.config["grpo"], self._devices("grpo"), self.shape
        size, batch = settings["num_generations"], settings.get("per_device_train_batch_size", 8)
        rows = self.config["filter"]["rl_rows"]
        if self.config["select"]["n"]:
            rows = min(rows, self.config["select"]["rows"] or rows)
        prompts = self._rows_seen(settings, rows, devices, per_row=size)
        work, tuning = costs.groups(prompts, self.prompt, size, self.response), self._tuning(settings, "grpo")
        rescored = (settings.get("beta", 0.0) > 0) + (settings.get("num_iterations", 1) > 1 or self._vllm("grpo"))
        trained = costs.training_flops(shape, work, tuning) * settings.get("num_iterations", 1)
        trained += rescored * costs.forward_flops(shape, work, tuning.rank)
        accumulated = settings.get("gradient_accumulation_steps", 1)
        at_once = batch * accumulated
        drawn, seconds, cache = self._sampling(prompts, size, at_once, devices)
        packed = batch / size * self.prompt + batch * self.response
        copy = 2 * shape.parameters if tuning.rank or self._vllm("grpo") else 0
        memory = costs.state_bytes(shape, tuning) + copy
        memory += max(costs.activation_bytes(shape, packed, tuning), cache)
        if settings.get("beta", 0.0) > 0 and not tuning.rank:
            memory += 4 * shape.parameters / tuning.sharded_over  # the reference model
        seconds += self._compute(trained, devices)
        return self._cost(
            "grpo", self._seeds() * self._variants(), devices, 2 * work.tokens, drawn + trained, seconds, memory
        )

    def _select(self) -> Cost:
        rows, samples = self.config["filter"]["rl_rows"], self.config["select"]["n"] + 1
        return self._answers("select", self._seeds(), rows, samples)

    def _candidates(self) -> Cost:
        runs = 1 + self._seeds() * (1 + self._variants())  # base model, cold start, each reward
        questions = sum(self._questions(entry) for entry in self.config["benchmarks"].values() if entry)
        return self._answers("candidates", runs, questions, self.config["candidates"]["n"] + 1)

    def _answers(self, stage: str, runs: int, questions: int, samples: int) -> Cost:
        group = self.prompt + samples * self.response
        if self._vllm(stage):  # as many as fit
            room = max(0.0, 0.9 * self.accelerator.memory - 2 * self.shape.parameters)
            at_once = min(_VLLM_ROWS, room / costs.cache_bytes(self.shape, group) * samples)
        else:
            at_once = _BATCH_TOKENS // group * samples
        flops, seconds, cache = self._sampling(questions, samples, max(1, at_once), 1)
        tokens = questions * (self.prompt + samples * self.response)
        return self._cost(stage, runs, 1, tokens, flops, seconds, 2 * self.shape.parameters + cache)

    def _sampling(self, prompts: float, size: int, at_once: float, devices: int) -> tuple[float, float, float]:
        """FLOPs and seconds of `size` completions a prompt, `at_once` of them on a device, and its cache in bytes."""
        shape, rows = self.shape, prompts * size
        prefill = costs.forward_flops(shape, Pass(prompts * self.prompt, prompts * self.prompt**2 / 2, 0))
        attended = rows * self.response * (self.prompt + self.response / 2)
        decode = costs.forward_flops(shape, Pass(rows * self.response, attended, rows * self.response))
        cache = costs.cache_bytes(shape, at_once / size * self.prompt + at_once * self.response)
        steps = rows / devices / at_once * self.response
        reading = steps * (2 * (shape.layer_weights + shape.head_weights) + cache)
        read = reading / (self.accelerator.bandwidth * _BANDWIDTH_USED)
        return prefill + decode, self._compute(prefill, devices) + max(self._compute(decode, devices), read), cache

    def _rows_seen(self, settings: Mapping[str, Any], rows: int, devices: int, per_row: int = 1) -> float:
        steps = settings.get("max_steps", -1)
        if steps <= 0:
            return rows * settings.get("num_train_epochs", 3)
        batch = settings.get("per_device_train_batch_size", 8) * settings.get("gradient_accumulation_steps", 1)
        return steps * batch * devices / per_row

    def _tuning(self, settings: Mapping[str, Any], stage: str) -> Tuning:
        rank = (settings.get("lora") or {}).get("r", 8 if settings.get("lora") else 0)
        sharded = self._devices(stage) if "zero3" in self.config["launch"][stage] else 1
        return Tuning(rank, settings.get("gradient_checkpointing", False), sharded)

    def _devices(self, stage: str) -> int:
        launched = self.config["launch"][stage] != "python"
        return max(1, self.config["resources"][stage].get("gpu", 1)) if launched else 1

    def _vllm(self, stage: str) -> bool:
        return self.config[stage].get("use_vllm", False) or self.config[stage].get("backend") == "vllm"

    def _seeds(self) -> int:
        return len(self.config["seeds"])

    def _variants(self) -> int:
        return len(self.config["reward"]["variants"])

    def _questions(self, entry: Mapping[str, Any]) -> int:
        made_here = "{results}" in entry["questions"]
        whole = self.config["synthesize"]["benchmark_questions"] if made_here else _QUESTIONS[entry["layout"]]
        return entry.get("limit") or whole

    def _compute(self, flops: float, devices: int) -> float:
        return flops / (devices * self.accelerator.flops * self.mfu)

    @staticmethod
    def _cost(stage: str, runs: int, devices: int, tokens: float, flops: float, seconds: float, memory: float) -> Cost:
        return Cost(stage, runs, devices, runs * tokens, runs * flops, runs * seconds / 3600, memory)
