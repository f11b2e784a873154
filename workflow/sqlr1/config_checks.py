"""Faults of a configuration that no section shows alone.

The keys of one section are checked in `config`. Here are checks across sections; most need the number of processes that
`launch` starts. `config_files.load` runs them, so that an experiment stops before its first stage.
"""

import math
from collections.abc import Iterator
from typing import Any

from sqlr1.config import Config, Training, plain
from sqlr1.launch import UncountedError, launched
from sqlr1.records import InputError
from sqlr1.strategies import STRATEGIES


def faults(config: Config) -> Iterator[str]:
    """One line per fault, which begins with its key: `grpo.num_generations: 5 does not divide ...`."""
    yield from _of_rows(config)
    launches: dict[str, tuple[int, dict[str, Any]]] = {}
    for section, command in plain(config.launch).items():
        try:
            launches[section] = launched(command)
        except UncountedError:  # as `--nproc-per-node gpu`: only the job will know
            pass
        except InputError as error:
            # Within a shell, a container or another folder the file may be there.
            if command.startswith("accelerate ") and "$" not in command:
                yield f"launch.{section}: {error}"
    if "cold_start" in launches and STRATEGIES[config.cold_start.strategy].response:
        settings, (processes, _) = config.cold_start, launches["cold_start"]
        yield from _of_warmup("cold_start", settings, config.filter.cold_start_rows / (_batch(settings) * processes))
    if "grpo" in launches:
        yield from _of_grpo(config, *launches["grpo"])


def _of_rows(config: Config) -> Iterator[str]:
    """Nothing to train on."""
    made, kept = config.synthesize, config.filter
    if made.questions and not made.domains:
        yield f"synthesize.questions: {made.questions} need domains: name some in synthesize.domains, or set this to 0"
    if made.folder_questions and not made.folders:
        need = f"{made.folder_questions} need databases"
        yield f"synthesize.folder_questions: {need}: name some in synthesize.folders, or set this to 0"
    if not (made.questions or made.folder_questions or made.mix):
        yield "synthesize.questions: nothing to train on: set questions, folder_questions or mix"
    if not made.mix and not any(made.classes[name] and kept.classes[name] for name in kept.rl_classes):
        none = f"{kept.rl_classes} has no share above 0 in both synthesize.classes and filter.classes"
        yield f"filter.rl_classes: {none}: give it one, or name another class"


def _of_grpo(config: Config, processes: int, deepspeed: dict[str, Any]) -> Iterator[str]:
    grpo, size, batch = config.grpo, config.grpo.num_generations, _batch(config.grpo)
    if deepspeed.get("zero_stage") == 3:  # the trainer refuses it too, if accelerate's default file asks for it
        if grpo.constrained:
            yield "grpo.constrained: set it to false: with ZeRO stage 3 TRL draws the rollouts, without masks"
        if grpo.keep == "best":
            yield "grpo.keep: best needs whole weights, of which ZeRO stage 3 keeps parts: use last, or stage 2"
    rows, key = config.filter.rl_rows, "filter.rl_rows"
    if config.select.n and config.select.rows and config.select.rows < rows:
        rows, key = config.select.rows, "select.rows"
    # Questions to which a user marked an answer wrong are all in RL, also beyond these rows.
    feedback = any(entry.layout == "feedback" for entry in config.synthesize.mix)
    completions = batch * processes
    asked = completions // size
    if completions % size:
        of = f"per_device_train_batch_size * gradient_accumulation_steps * {processes} processes"
        yield f"grpo.num_generations: {size} does not divide the {completions} completions of a step ({of})"
    elif batch % size and grpo.dynamic_sampling is not None:
        each = f"{size} does not divide the {batch} of each process"
        yield f"grpo.num_generations: {each}, as grpo.dynamic_sampling needs: change one, or set that to null"
    elif rows < asked and not feedback:
        lower = "lower grpo.per_device_train_batch_size or gradient_accumulation_steps"
        yield f"{key}: {rows} are fewer than the {asked} questions of a step: raise it, or {lower}"
    elif grpo.max_steps > 0 or not feedback:
        yield from _of_warmup("grpo", grpo, rows * grpo.num_iterations / asked)
    if grpo.use_vllm and grpo.vllm_mode == "colocate" and processes % grpo.vllm_tensor_parallel_size:
        divide = f"{grpo.vllm_tensor_parallel_size} does not divide the number of processes ({processes}, by launch)"
        yield f"grpo.vllm_tensor_parallel_size: {divide}"


def _batch(training: Training) -> int:
    return training.per_device_train_batch_size * training.gradient_accumulation_steps


def _of_warmup(section: str, training: Training, steps_per_epoch: float) -> Iterator[str]:
    """A warm-up as long as the training, of which `steps_per_epoch` is the most: rows may be fewer than asked for."""
    steps, warmup = training.max_steps, training.warmup_steps
    if steps < 0:
        steps = math.ceil(math.ceil(steps_per_epoch) * training.num_train_epochs)
    first = warmup if warmup >= 1 else math.ceil(warmup * steps)  # as transformers counts them
    if steps <= first:
        change = "set it to 0, or raise max_steps or num_train_epochs"
        yield f"{section}.warmup_steps: a warm-up of {first} of {steps} steps never reaches learning_rate: {change}"
