"""What a stage's launch command says: its processes, DeepSpeed's settings, and the files that decide what a step is."""

import os
import re
from pathlib import Path
from typing import Any

from sqlr1.config_files import read_yaml


def launched(command: str) -> tuple[int, dict[str, Any]]:
    """Devices and DeepSpeed's settings: from the file that `accelerate launch --config_file` names, and the command.

    Raises InputError if the file is missing.
    """
    given = re.search(r"--config[_-]file(?:\s+|=)['\"]?([^\s'\"]+)", command)
    launcher = read_yaml(Path(given[1])) if given else {}
    count = re.search(r"--(?:num[_-]processes|nproc[_-]per[_-]node)(?:\s+|=)(\d+)", command)
    devices = int(count[1]) if count else launcher.get("num_processes", 1)
    return max(1, devices), launcher.get("deepspeed_config") or {}


def launcher_files(command: str) -> list[str]:
    """The files that the command names, such as an accelerate config; also within quotes, as in `srun sh -c '...'`."""
    return [word for word in re.split(r"[\s'\"=]+", command) if os.path.isfile(word)]
