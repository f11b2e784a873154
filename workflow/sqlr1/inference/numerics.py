"""Numerics that equal runs share."""

import os


def fix_numerics(threads: int) -> None:
    """Set what equal runs share: the number of threads (it decides how sums are split) and deterministic kernels."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    import torch

    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
