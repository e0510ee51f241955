"""The choice of the program of the innermost loops."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from pyro_ext.ops import kernels as module
from pyro_ext.ops.kernels import compiled, in_threads, kernels, set_kernels, use_kernels

numba_needed = pytest.mark.skipif(not module._numba_is_there(), reason="numba is not installed")


@pytest.fixture(autouse=True)
def _chosen_by_the_environment(monkeypatch):
    monkeypatch.delenv("PYRO_EXT_KERNELS", raising=False)
    monkeypatch.setattr(module, "_choice", None)


@numba_needed
def test_kernels_serve_plain_tensors_on_the_cpu():
    x = torch.ones(2)
    assert use_kernels(x, torch.nn.Parameter(x), x.double())
    assert not use_kernels(x, x.to("meta"))
    seen = []
    torch.func.vmap(lambda row: (seen.append(use_kernels(row)), row)[1])(torch.ones(2, 2))
    torch.func.grad(lambda row: (seen.append(use_kernels(row)), row.sum())[1])(torch.ones(2))
    assert seen == [False, False]


@numba_needed
def test_torch_can_be_forced_for_a_block_and_for_the_process(monkeypatch):
    with kernels("torch"):
        assert not use_kernels()
        with kernels("numba"):
            assert use_kernels()
        assert not use_kernels()
    assert use_kernels()
    set_kernels("torch")
    assert not use_kernels()
    monkeypatch.setattr(module, "_choice", None)
    monkeypatch.setenv("PYRO_EXT_KERNELS", "torch")
    assert not use_kernels()


def test_without_numba_torch_serves_and_numba_cannot_be_forced(monkeypatch):
    monkeypatch.setattr(module, "_numba_is_there", lambda: False)
    assert not use_kernels(torch.ones(2))
    assert compiled(len) is len
    with pytest.raises(ValueError, match=r"choice is 'numba', which is not installed: run pip install 'pyro-ext\[fast"):
        set_kernels("numba")
    monkeypatch.setenv("PYRO_EXT_KERNELS", "numba")
    with pytest.raises(ValueError, match="PYRO_EXT_KERNELS is 'numba', which is not installed"):
        use_kernels()


def test_an_unknown_choice_is_refused(monkeypatch):
    with pytest.raises(ValueError, match="choice"):
        set_kernels("cython")
    monkeypatch.setenv("PYRO_EXT_KERNELS", "cython")
    with pytest.raises(ValueError, match="PYRO_EXT_KERNELS"):
        use_kernels()


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("size", [0, 1, 2, 7])
def test_threads_share_the_items(monkeypatch, threads, size):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    seen = np.zeros(size, int)

    def work(start, stop):
        seen[start:stop] += 1

    in_threads(work, size)
    assert (seen == 1).all()
    with pytest.raises(ZeroDivisionError):
        in_threads(lambda start, stop: 1 // 0, size)


@numba_needed
def test_numba_is_not_imported_with_the_module():
    code = "import sys, pyro_ext.ops.kernels as k; assert k.use_kernels(); assert 'numba' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
