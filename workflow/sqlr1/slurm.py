"""Time limits of Slurm's partitions. Slurm keeps a job that asks for more waiting for ever, and says nothing."""

import subprocess
from collections.abc import Iterable, Mapping
from typing import Any


def minutes(limit: str) -> float:
    """A time limit as Slurm writes it, in minutes.

    >>> [minutes(limit) for limit in ("30:00", "1:00:00", "2-12:00:00", "infinite")]
    [30.0, 60.0, 3600.0, inf]
    """
    if limit == "infinite":
        return float("inf")
    days, _, clock = limit.rpartition("-")
    parts = [0, 0, *map(int, clock.split(":"))][-3:]
    return int(days or 0) * 1440 + parts[0] * 60 + parts[1] + parts[2] / 60


def partition_limits() -> dict[str, float]:
    """Minutes by partition, as `sinfo` says; "" is the default partition. Raises OSError without Slurm."""
    try:
        said = subprocess.run(["sinfo", "-h", "-o", "%P %l"], capture_output=True, text=True, check=True, timeout=60)
        found = {name: minutes(limit) for name, limit in map(str.split, said.stdout.splitlines())}
    except subprocess.CalledProcessError as error:
        raise OSError(error.stderr.strip()) from error
    except (subprocess.TimeoutExpired, ValueError) as error:
        raise OSError(f"sinfo: {error}") from error
    default = [limit for name, limit in found.items() if name.endswith("*")]
    return {name.rstrip("*"): limit for name, limit in found.items()} | ({"": default[0]} if default else {})


def too_long(jobs: Iterable[tuple[str, Mapping[str, Any]]], limits: Mapping[str, float]) -> list[str]:
    """A line for each rule of which no partition would ever start a job. `jobs`: (rule, resources) each."""
    lines = {}
    for rule, resources in jobs:
        runtime, partition = resources.get("runtime"), str(resources.get("slurm_partition") or "")
        allowed = [limits[name] for name in partition.split(",") if name in limits]
        if allowed and isinstance(runtime, (int, float)) and runtime > max(allowed):
            named = f"partition {partition}" if partition else "the default partition"
            lines[rule] = (
                f"rule {rule}: runtime is {runtime} minutes, {named} allows {max(allowed):g}: Slurm would let it wait "
                f"for ever. Set {rule}:runtime or {rule}:slurm_partition under set-resources in the profile."
            )
    return list(lines.values())
