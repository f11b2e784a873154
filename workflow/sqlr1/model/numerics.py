"""Precision and determinism of the computations."""

import os


def native_precision() -> str:
    """`bfloat16` if the machine multiplies it in hardware, else `float32`.

    Other processors (AVX2, or AVX-512 without its bf16 part, as in many laptops) emulate the products, measured at a
    tenth of float32's speed.
    """
    import torch

    if torch.cuda.is_available():
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        able = torch.cpu.get_capabilities()
        native = any(able.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))  # the last one is ARM's
    return "bfloat16" if native else "float32"


def fix_numerics(threads: int) -> None:
    """Make results repeatable: a fixed number of threads (sums are split by it) and deterministic kernels."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    import torch

    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
