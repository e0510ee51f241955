"""What figures of time depend on."""

from __future__ import annotations

import os
import platform

__all__ = ["machine"]


def machine() -> str:
    """Return the versions of Python, PyTorch and Pyro, and the number of threads and of processor cores."""
    import pyro
    import torch

    return (
        f"Python {platform.python_version()}, PyTorch {torch.__version__}, Pyro {pyro.__version__}, "
        f"{torch.get_num_threads()} thread(s) on {os.cpu_count()} CPU core(s)"
    )
