"""Which commit a result was made at."""

import shutil
import subprocess
from pathlib import Path


def commit() -> str:
    """The commit of this checkout, marked -dirty if tracked files were edited."""
    if not (git := shutil.which("git")):
        return "unknown (git is not installed)"
    command = [git, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    result = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    return result.stdout.strip() if result.returncode == 0 else "unknown (not a git checkout)"
