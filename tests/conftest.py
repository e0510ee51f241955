"""Shared by all tests: one thread, a fixed seed, ``dtype`` and ``device``, and what is skipped where."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pyro
import pytest
import torch

DTYPES = {"float32": torch.float32, "float64": torch.float64}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--dtype", choices=sorted(DTYPES), help="run tests that take `dtype` with this one only")
    parser.addoption("--device", default="cpu", help="the device of tests that take `device` (default: cpu)")


def pytest_configure(config: pytest.Config) -> None:
    torch.set_num_threads(1)
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as in a shell's background jobs; tests send Ctrl-C
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test that asks for ``dtype`` once per dtype, unless it names its own."""
    own = [name for mark in metafunc.definition.iter_markers("parametrize") for name in _argnames(mark)]
    if "dtype" in metafunc.fixturenames and "dtype" not in own:
        wanted = metafunc.config.getoption("--dtype")
        names = [wanted] if wanted else sorted(DTYPES)
        metafunc.parametrize("dtype", [DTYPES[name] for name in names], ids=names)


def _argnames(mark: pytest.Mark) -> list[str]:
    names = mark.kwargs.get("argnames", mark.args[0] if mark.args else [])
    return [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    no_cuda = pytest.mark.skip(reason="needs a CUDA device")
    no_data = pytest.mark.skip(reason="needs PYRO_EXT_DATA to name a folder of data sets")
    for item in items:
        if "gpu" in item.keywords and not torch.cuda.is_available():
            item.add_marker(no_cuda)
        if "data" in item.keywords and not os.path.isdir(os.environ.get("PYRO_EXT_DATA", "")):
            item.add_marker(no_data)


@pytest.fixture
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.config.getoption("--device"))


@pytest.fixture(autouse=True)
def _isolated() -> Iterator[None]:
    """Seed every test; leave no parameter and no changed global setting behind."""
    before = _settings()
    pyro.set_rng_seed(0)
    yield
    pyro.clear_param_store()
    after = _settings()
    torch.set_default_dtype(before[0])  # one test's slip must not fail the next
    torch.distributions.Distribution.set_default_validate_args(before[1])
    assert after == before, f"the test changed (default dtype, validation) from {before} to {after}: restore them"


def _settings() -> tuple[torch.dtype, bool]:
    return torch.get_default_dtype(), torch.distributions.Distribution._validate_args
