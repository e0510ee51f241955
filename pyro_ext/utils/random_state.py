"""Saving, restoring and setting aside the state of every random generator that a training step may use."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

__all__ = ["isolated_random_state", "mixed_seed", "random_state", "restore_random_state", "seed_all"]


def seed_all(seed: int) -> None:
    """Seed Python's, NumPy's and PyTorch's generators, as ``pyro.set_rng_seed`` does."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - the generator that programs of Pyro use


def random_state(device: torch.device) -> dict[str, Any]:
    """Return the state of Python's, NumPy's and PyTorch's generators, as types that ``weights_only`` loading allows.

    Args:
        device: where training runs; a CUDA device's generator is included.
    """
    name, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002 - what pyro.set_rng_seed seeds
    state: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(np.asarray(keys, dtype=np.int64)), position, has_gauss, cached),
        "torch": torch.get_rng_state(),
    }
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def restore_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Set the generators to a state that :func:`random_state` returned."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    legacy = (name, keys.numpy().astype(np.uint32), position, has_gauss, cached)
    np.random.set_state(legacy)  # noqa: NPY002
    torch.set_rng_state(state["torch"].cpu())
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"].cpu(), device)


@contextmanager
def isolated_random_state(seed: int, device: torch.device) -> Iterator[None]:
    """Run a block with generators seeded by ``seed``, and put them back as they were.

    Example:
        >>> before = torch.get_rng_state()
        >>> with isolated_random_state(0, torch.device("cpu")):
        ...     _ = torch.rand(3)
        >>> torch.equal(before, torch.get_rng_state())
        True
    """
    state = random_state(device)
    try:
        seed_all(seed)
        yield
    finally:
        restore_random_state(state, device)


def mixed_seed(*parts: int) -> int:
    """Return a seed in ``[0, 2**31)`` that depends on all ``parts``, so that neighbours give unrelated streams.

    Example:
        >>> mixed_seed(0, 1) == mixed_seed(1, 0)
        False
    """
    return int(np.random.SeedSequence(parts).generate_state(1)[0] >> 1)
