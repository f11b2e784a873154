"""What a stage's launch command says: its processes, DeepSpeed's settings, and the files that decide what a step is.

Also the faults of a configuration that no section shows alone, most of which depend on the number of processes.
"""

import math
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from sqlr1.config import Config, Training, plain
from sqlr1.records import InputError
from sqlr1.strategies import STRATEGIES


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file, empty if the file is. Raises InputError if it is missing or holds something else."""
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        read = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(read, dict):
        raise InputError(f"{path}: not a mapping")
    return read


class UncountedError(InputError):
    """A launch command does not say by a number how many processes it starts."""


def launched(command: str) -> tuple[int, dict[str, Any]]:
    """Devices and DeepSpeed's settings: from the file that `accelerate launch --config_file` names, and the command.

    Raises InputError if the file is missing or a quotation is not closed, UncountedError if the file or the command has
    no number of processes where one belongs.
    """
    if not _splits(command):
        raise InputError(f"{command!r}: a quotation is not closed")
    given = re.search(r"""--config[_-]file(?:\s+|=)(?:'([^']+)'|"([^"]+)"|([^\s'"]+))""", command)
    launcher = read_yaml(Path(next(filter(None, given.groups()))).expanduser()) if given else {}
    count = re.search(r"--(?:num[_-]processes|nproc[_-]per[_-]node)(?:\s+|=)['\"]?([^\s'\"]+)", command)
    if count and not count[1].isdecimal():
        raise UncountedError(f"{count[0]}: write a number, so that the processes can be planned")
    nodes = re.search(r"--nnodes(?:\s+|=)['\"]?(\d+)", command)  # torchrun's processes are those of one node
    devices = int(count[1]) * int(nodes[1] if nodes else 1) if count else launcher.get("num_processes", 1)
    if not isinstance(devices, int):
        file = next(filter(None, given.groups()))
        raise UncountedError(f"{file}: num_processes: write a number, without quotes, in place of {devices!r}")
    deepspeed = launcher.get("deepspeed_config") or {}
    stage = re.search(r"--zero[_-]stage(?:\s+|=)['\"]?(\d)", command)  # an option overrides the file
    return max(1, devices), deepspeed | ({"zero_stage": int(stage[1])} if stage else {})


def _splits(command: str) -> bool:
    try:
        shlex.split(command)
    except ValueError:
        return False
    return True


def launcher_files(command: str) -> list[str]:
    """The files that the command names, such as an accelerate config; also within quotes, as in `srun sh -c '...'`."""
    words = [word for quoted in shlex.split(command) for word in (quoted, *re.split(r"[\s'\"=]+", quoted))]
    return list(dict.fromkeys(filter(os.path.isfile, words)))


def runs_on_cpu(command: str) -> bool:
    """Whether the command keeps accelerate on the CPU, by its variable or its option."""
    return bool(re.search(r"ACCELERATE_USE_CPU=['\"]?(1|true|yes)\b|--cpu(?![\w=-])", command, re.IGNORECASE))


def faults_together(config: Config) -> Iterator[str]:
    """The faults of sections that fit their own models: `grpo.num_generations: 5 does not divide ...`."""
    yield from _of_data(config)
    yield from _of_launch(config)


def _of_data(config: Config) -> Iterator[str]:
    """Faults that leave nothing to train on."""
    made, kept = config.synthesize, config.filter
    if made.questions and not made.domains:
        yield f"synthesize.questions: {made.questions} need domains to ask about: set synthesize.domains, or 0"
    if made.folder_questions and not made.folders:
        yield f"synthesize.folder_questions: {made.folder_questions} need databases: set synthesize.folders, or 0"
    if not (made.questions or made.folder_questions or made.mix):
        yield "synthesize.questions: nothing to train on: set questions, folder_questions or mix"
    if not made.mix and not any(made.classes[name] and kept.classes[name] for name in kept.rl_classes):
        none = f"{kept.rl_classes} has no share above 0 in both synthesize.classes and filter.classes"
        yield f"filter.rl_classes: {none}: give it one, or name another class"


def _of_launch(config: Config) -> Iterator[str]:
    """Faults that show only when it is known how many processes train, and on how many rows."""
    processes: dict[str, int] = {}
    for section, command in plain(config.launch).items():
        try:
            processes[section], deepspeed = launched(command)
        except UncountedError:  # as `--nproc-per-node gpu`
            continue
        except InputError as error:
            # The shell's variables, a container or another folder may have a file that is not here.
            if "$" not in command and (command.startswith("accelerate ") or not _splits(command)):
                yield f"launch.{section}: {error}"
            continue
        if section == "grpo" and deepspeed.get("zero_stage") == 3:
            if config.grpo.constrained:
                yield "grpo.constrained: set it to false: with ZeRO stage 3 TRL draws the rollouts, without masks"
            if config.grpo.keep == "best":
                yield "grpo.keep: best needs whole weights, of which ZeRO stage 3 keeps parts: use last, or stage 2"
    # Questions to which a user marked an answer wrong are all in RL, also beyond rl_rows.
    feedback = any(entry.layout == "feedback" for entry in config.synthesize.mix)
    rows, key = config.filter.rl_rows, "filter.rl_rows"
    if config.select.n and config.select.rows and config.select.rows < rows:
        rows, key = config.select.rows, "select.rows"
    if "cold_start" in processes and STRATEGIES[config.cold_start.strategy].response:
        training, count = config.cold_start, processes["cold_start"]
        yield from _of_warmup("cold_start", training, config.filter.cold_start_rows / (_batch(training) * count))
    if "grpo" not in processes:
        return
    grpo, count = config.grpo, processes["grpo"]
    size, batch = grpo.num_generations, _batch(grpo)
    step = batch * count  # completions
    in_all = f"{step} completions of a step (per_device_train_batch_size * gradient_accumulation_steps"
    if step % size:
        yield f"grpo.num_generations: {size} does not divide the {in_all} * {count} processes)"
    elif batch % size and grpo.dynamic_sampling is not None:
        each = f"{size} does not divide the {batch} of each process"
        yield f"grpo.num_generations: {each}, as grpo.dynamic_sampling needs: change one, or set that to null"
    elif rows < step // size and not feedback:
        lower = "lower grpo.per_device_train_batch_size or gradient_accumulation_steps"
        yield f"{key}: {rows} are fewer than the {step // size} questions of a step: raise it, or {lower}"
    elif grpo.max_steps > 0 or not feedback:
        yield from _of_warmup("grpo", grpo, rows * size * grpo.num_iterations / step)
    if grpo.use_vllm and grpo.vllm_mode == "colocate" and count % grpo.vllm_tensor_parallel_size:
        yield f"grpo.vllm_tensor_parallel_size: {grpo.vllm_tensor_parallel_size} does not divide {count} processes"


def _batch(training: Training) -> int:
    return training.per_device_train_batch_size * training.gradient_accumulation_steps


def _of_warmup(section: str, training: Training, steps_per_epoch: float) -> Iterator[str]:
    """Whether the warm-up ends before the training, which may have fewer rows than were asked for, but not more."""
    steps, warmup = training.max_steps, training.warmup_steps
    if steps < 0:
        steps = math.ceil(math.ceil(steps_per_epoch) * training.num_train_epochs)
    first = warmup if warmup >= 1 else math.ceil(warmup * steps)
    if steps <= first:
        change = "set it to 0, or raise max_steps or num_train_epochs"
        yield f"{section}.warmup_steps: a warm-up of {first} of {steps} steps never reaches learning_rate: {change}"
