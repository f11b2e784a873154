"""Resumable work: one owner a folder, and numerics that equal runs share."""

import contextlib
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

log = logging.getLogger(__name__)


@contextlib.contextmanager
def owned(work: Path) -> Iterator[Path]:
    """Hold the folder of resumable work alone: an orphan of a killed run and its successor never both write it.

    The lock is the kernel's and ends with its process. The folder is removed when the block ends without an error.
    """
    work.mkdir(parents=True, exist_ok=True)
    if os.environ.get("LOCAL_RANK", "0") != "0":  # of several processes under a launcher the first holds the lock
        yield work
        return
    lock = FileLock(work.with_name(f"{work.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.warning("%s belongs to a run that is still alive: waiting for it to end", work)
        lock.acquire()
    try:
        work.mkdir(parents=True, exist_ok=True)  # the run waited for may have removed it
        yield work
        shutil.rmtree(work)
    finally:
        lock.release()


def fix_numerics(threads: int) -> None:
    """Set what equal runs share: the number of threads (it decides how sums are split) and deterministic kernels."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    import torch

    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
