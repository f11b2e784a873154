"""How many processes are worth starting here."""

import os


def usable_cpus() -> int:
    """CPUs that this process may use: those allotted to the job, shared among a launcher's processes on the node."""
    allotted = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, allotted // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
