"""Each stage of an experiment as work on an accelerator: tokens, FLOPs, hours, peak memory of one device.

Hours are FLOPs over devices * peak * utilisation (`mfu`); decoding reads all weights and the cache once a step, and
takes the longer of that (at 60 % of the bandwidth) and its FLOPs. They follow from mean lengths, memory from the
longest rows. Starting up and executing SQL are not counted: the spider overlay's cold start, 389 s by the plan, took
512 to 652 s. Every prompt is counted whole, although our sampler computes a schema once for the questions of a batch,
and every group as trained on, although those that dynamic sampling drops cost no pass. A round of refills is taken to
replace half the groups.

Memory of a device: the process, the state (`costs.state_bytes`), in GRPO a bf16 copy of the policy for rollouts (but
where DeepSpeed holds it in bf16) and the reference, and the greatest of training pass, sampling and validation, times
what the allocator holds of it. vLLM takes its share of the device, beside the training pass and validation, which is
never vLLM's, unless it sleeps meanwhile.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlr1.config_files import read_yaml
from sqlr1.planning import costs
from sqlr1.planning.costs import Pass, Tuning
from sqlr1.planning.lengths import Lengths
from sqlr1.planning.shapes import Accelerator, Shape

_BANDWIDTH_USED = 0.6
# Published sizes, where a benchmark is scored whole: Spider dev, BIRD dev.
_QUESTIONS = {"spider": 1034, "bird": 1534}
# vLLM's sequences at once and share of the memory, by default, alone and within GRPO; the sampler here goes by tokens
# (see inference.batches).
_VLLM_ROWS, _VLLM_SHARE, _VLLM_SHARE_COLOCATED, _BATCH_TOKENS = 256, 0.9, 0.3, 32768
_REFILLED = 0.5


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
    """An experiment's `config` on an accelerator; `mfu` is the share of the peak that is reached."""

    config: Mapping[str, Any]
    shape: Shape
    accelerator: Accelerator
    mfu: float
    lengths: Lengths

    def costs(self) -> list[Cost]:
        """The stages that compute with the model, in their order. Raises InputError for a missing launcher's file."""
        sampled = self.config["select"]["n"] > 0
        return [self._cold_start(), *([self._select()] if sampled else []), self._grpo(), self._candidates()]

    def _cold_start(self) -> Cost:
        settings, devices, lengths = self.config["cold_start"], self._devices("cold_start"), self.lengths
        rows = self._rows_seen(settings, self.config["filter"]["cold_start_rows"], devices)
        work = costs.sequences(rows, lengths.prompt, lengths.response)
        tuning = self._tuning(settings, "cold_start")
        batch = settings.get("per_device_train_batch_size", 8)
        memory = costs.state_bytes(self.shape, tuning) + self._held(
            self._pass_bytes(batch * lengths.longest_prompt, batch * lengths.longest_response, tuning)
        )
        flops = costs.training_flops(self.shape, work, tuning)
        return self._cost(
            "cold_start", self._seeds(), devices, work.tokens, flops, self._compute(flops, devices), memory
        )

    def _grpo(self) -> Cost:
        settings, devices, shape = self.config["grpo"], self._devices("grpo"), self.shape
        size, iterations = settings["num_generations"], settings.get("num_iterations", 1)
        rows = self.config["filter"]["rl_rows"]
        if self.config["select"]["n"]:
            rows = min(rows, self.config["select"]["rows"] or rows)
        prompts = self._rows_seen(settings, rows, devices, per_row=size)
        if settings.get("max_steps", -1) > 0:
            prompts /= iterations  # the steps are fixed: each batch of rollouts serves several of them
        response = min(self.lengths.response, settings.get("max_completion_length", 256))
        work, tuning = costs.groups(prompts, self.lengths.prompt, size, response), self._tuning(settings, "grpo")
        rescored = (settings.get("beta", 0.0) > 0) + (iterations > 1 or self._vllm("grpo"))
        trained = costs.training_flops(shape, work, tuning) * iterations
        trained += rescored * costs.forward_flops(shape, work, tuning.rank)
        at_once = settings.get("per_device_train_batch_size", 8) * settings.get("gradient_accumulation_steps", 1)
        refills = _REFILLED * (settings.get("dynamic_sampling") or {}).get("refill_rounds", 0)
        drawn, seconds = self._sampling(prompts * (1 + refills), size, response, at_once, devices)
        seconds += self._compute(trained, devices)
        steps = prompts * size * iterations / (at_once * devices)
        answers, answer_flops, answer_seconds = self._validation(steps, response)
        runs, tokens = self._seeds() * self._variants(), (1 + refills + iterations) * work.tokens
        tokens += answers * (self.lengths.prompt + response)
        flops, seconds = drawn + trained + answer_flops, seconds + answer_seconds
        return self._cost("grpo", runs, devices, tokens, flops, seconds, self._grpo_memory(tuning, at_once))

    def _validation(self, steps: float, response: float) -> tuple[float, float, float]:
        """Answers, FLOPs and seconds of the validations before, during and after `steps`; never vLLM's."""
        validations = 1 + math.ceil(steps / self.config["grpo"].get("validation", {}).get("every", 10))
        answers = validations * self._validation_questions()
        return answers, *self._sampling(answers, 1, response, self._validated_at_once(), self._devices("grpo"))

    def _validation_questions(self) -> int:
        kept = self.config["filter"]["validation_rows"]
        return min(kept, self.config["grpo"].get("validation", {}).get("questions", kept))

    def _validated_at_once(self) -> int:
        """Questions in a batch of a device, which answers its share of them."""
        longest = self.lengths.longest_prompt + self.config["grpo"].get("max_completion_length", 256)
        share = math.ceil(self._validation_questions() / self._devices("grpo"))
        return max(1, min(share, _BATCH_TOKENS // longest))

    def _grpo_memory(self, tuning: Tuning, at_once: int) -> float:
        settings, shape, lengths = self.config["grpo"], self.shape, self.lengths
        size, batch = settings["num_generations"], settings.get("per_device_train_batch_size", 8)
        response = settings.get("max_completion_length", 256)
        sharded = tuning.sharded_over > 1
        state = costs.state_bytes(shape, tuning)
        if tuning.rank or not sharded:
            state += costs.BF16_BYTES * shape.parameters  # the copy for rollouts
        if settings.get("beta", 0.0) > 0 and not tuning.rank:
            state += (costs.BF16_BYTES if sharded else 4) * shape.parameters  # the reference
        # A pass over less than a group has its prompt all the same.
        training = self._pass_bytes(max(1, batch / size) * lengths.longest_prompt, batch * response, tuning)
        validation = costs.sampling_bytes(shape, self._validated_at_once(), lengths.longest_prompt, 1, response)
        beside_vllm = max(training, validation)
        if not self._vllm("grpo"):
            sampling = costs.sampling_bytes(shape, at_once / size, lengths.longest_prompt, size, response)
            return state + self._held(max(beside_vllm, sampling))
        if settings.get("vllm_mode", "colocate") == "server":
            return state + self._held(beside_vllm)
        vllm = settings.get("vllm_gpu_memory_utilization", _VLLM_SHARE_COLOCATED) * self.accelerator.memory
        sleeps = settings.get("vllm_enable_sleep_mode", False)
        return state + (max(self._held(beside_vllm), vllm) if sleeps else self._held(beside_vllm) + vllm)

    def _select(self) -> Cost:
        rows, samples = self.config["filter"]["rl_rows"], self.config["select"]["n"]
        return self._answers("select", self._seeds(), rows, samples)

    def _candidates(self) -> Cost:
        cold_starts = self.config["cold_start"]["strategy"] != "none"
        runs = 1 + self._seeds() * (cold_starts + self._variants())  # the base model is asked once
        questions = sum(self._questions(entry) for entry in self.config["benchmarks"].values() if entry)
        return self._answers("candidates", runs, questions, self.config["candidates"]["n"] + 1)

    def _answers(self, stage: str, runs: int, questions: int, samples: int) -> Cost:
        shape, prompt, settings = self.shape, self.lengths.prompt, self.config[stage]
        longest = settings["max_new_tokens"]
        response = min(self.lengths.response, longest)
        group = self.lengths.longest_prompt + samples * longest
        if self._vllm(stage):  # as many as fit
            memory = _VLLM_SHARE * self.accelerator.memory
            room = max(0.0, memory - costs.BF16_BYTES * shape.parameters)
            at_once = min(_VLLM_ROWS, room / costs.cache_bytes(shape, group) * samples)
        else:
            together = max(1, min(questions, settings.get("batch_tokens", _BATCH_TOKENS) // group))
            at_once = together * samples
            held = costs.sampling_bytes(shape, together, self.lengths.longest_prompt, samples, longest)
            memory = costs.BF16_BYTES * shape.parameters + self._held(held)
        flops, seconds = self._sampling(questions, samples, response, max(1, at_once), 1)
        return self._cost(stage, runs, 1, questions * (prompt + samples * response), flops, seconds, memory)

    def _sampling(
        self, prompts: float, size: int, response: float, at_once: float, devices: int
    ) -> tuple[float, float]:
        """FLOPs and seconds of `size` completions a prompt, `at_once` of them on a device."""
        shape, rows, prompt = self.shape, prompts * size, self.lengths.prompt
        prefill = costs.forward_flops(shape, Pass(prompts * prompt, prompts * prompt**2 / 2, 0))
        attended = rows * response * (prompt + response / 2)
        decode = costs.forward_flops(shape, Pass(rows * response, attended, rows * response))
        cache = costs.cache_bytes(shape, at_once / size * prompt + at_once * response)
        steps = rows / devices / at_once * response
        reading = steps * (costs.BF16_BYTES * (shape.layer_weights + shape.head_weights) + cache)
        read = reading / (self.accelerator.bandwidth * _BANDWIDTH_USED)
        return prefill + decode, self._compute(prefill, devices) + max(self._compute(decode, devices), read)

    def _pass_bytes(self, prompt_tokens: float, scored: float, tuning: Tuning) -> float:
        """What one training pass holds beside the state."""
        kept = costs.activation_bytes(self.shape, prompt_tokens + scored, tuning)
        return kept + costs.head_bytes(self.shape, scored, tuning)

    def _held(self, needed: float) -> float:
        """What the process and its allocator hold to give out `needed` bytes."""
        return self.accelerator.process + self.accelerator.heap * needed

    def _rows_seen(self, settings: Mapping[str, Any], rows: int, devices: int, per_row: int = 1) -> float:
        steps = settings.get("max_steps", -1)
        if steps <= 0:
            return rows * settings.get("num_train_epochs", 3)
        batch = settings.get("per_device_train_batch_size", 8) * settings.get("gradient_accumulation_steps", 1)
        return steps * batch * devices / per_row

    def _tuning(self, settings: Mapping[str, Any], stage: str) -> Tuning:
        rank = (settings.get("lora") or {}).get("r", 8 if settings.get("lora") else 0)
        deepspeed = self._deepspeed(stage)
        sharded = self._devices(stage) if deepspeed else 1
        offloaded = (deepspeed.get("offload_optimizer_device") or "none") != "none"
        return Tuning(rank, settings.get("gradient_checkpointing", False), sharded, offloaded)

    def _deepspeed(self, stage: str) -> Mapping[str, Any]:
        return self._launcher(stage).get("deepspeed_config") or {}

    def _launcher(self, stage: str) -> Mapping[str, Any]:
        """The file that `accelerate launch --config_file` names, empty without."""
        given = re.search(r"--config_file(?:\s+|=)['\"]?([^\s'\"]+)", self.config["launch"][stage])
        return read_yaml(Path(given[1])) if given else {}

    def _devices(self, stage: str) -> int:
        return max(1, self._launcher(stage).get("num_processes", 1)) if stage in ("cold_start", "grpo") else 1

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
