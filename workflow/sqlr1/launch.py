"""What a stage's launch command says: its processes, DeepSpeed's settings, and the files that decide what a step is."""

import os
import re
import shlex
from pathlib import Path
from typing import Any

from sqlr1.records import InputError, read_yaml


class UncountedError(InputError):
    """A launch command does not say by a number how many processes it starts."""


def launched(command: str) -> tuple[int, dict[str, Any]]:
    """Devices and DeepSpeed's settings: from the file that `accelerate launch --config_file` names, and the command.

    Raises InputError if the file is missing, UncountedError if it or the command has no number of processes where one
    belongs.
    """
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


def launcher_files(command: str) -> list[str]:
    """The files that the command names, such as an accelerate config; also within quotes, as in `srun sh -c '...'`."""
    words = [word for quoted in shlex.split(command) for word in (quoted, *re.split(r"[\s'\"=]+", quoted))]
    return list(dict.fromkeys(filter(os.path.isfile, words)))


def runs_on_cpu(command: str) -> bool:
    """Whether the command keeps accelerate on the CPU, by its variable or its option."""
    return bool(re.search(r"ACCELERATE_USE_CPU=['\"]?(1|true|yes)\b|--cpu(?![\w=-])", command, re.IGNORECASE))
