"""Doctests start from a fixed seed and a clean Pyro, with the usual imports made, and leave no trace."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch


@pytest.fixture(autouse=True)
def _seeded_doctest(doctest_namespace: dict[str, Any]) -> Iterator[None]:
    doctest_namespace.update(torch=torch, pyro=pyro, dist=dist)
    with torch.random.fork_rng():
        pyro.set_rng_seed(0)
        yield
    pyro.clear_param_store()
