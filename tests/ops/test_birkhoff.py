"""Filling doubly stochastic matrices: against the recursion of the paper, volumes of the polytope, permutations."""

import importlib.util
import math

import pytest
import torch

from pyro_ext.ops import _birkhoff_kernel
from pyro_ext.ops._birkhoff_fill import fill
from pyro_ext.ops.birkhoff import break_sticks, sticks_of
from pyro_ext.ops.kernels import kernels


def raster_fill(beta):
    """The paper's recursion, cell by cell in reading order, one matrix."""
    n = beta.shape[-1] + 1
    x = beta.new_zeros(n, n)
    width = torch.zeros_like(beta)
    for i in range(n - 1):
        for j in range(n - 1):
            lower = max(0.0, float(1 - n + j + 1 - x[i, :j].sum() + x[:i, j + 1 :].sum()))
            upper = min(float(1 - x[i, :j].sum()), float(1 - x[:i, j].sum()))
            width[i, j] = upper - lower
            x[i, j] = lower + beta[i, j] * width[i, j]
        x[i, -1] = 1 - x[i, :-1].sum()
    x[-1] = 1 - x[:-1].sum(0)
    return x, width


@pytest.mark.parametrize("n", range(2, 8))
def test_against_the_recursion(n):
    beta = torch.rand(3, n - 1, n - 1, dtype=torch.float64)
    x, width = break_sticks(beta, 1 - beta)
    for result, result_width, fractions in zip(x, width, beta, strict=True):
        expected, expected_width = raster_fill(fractions)
        torch.testing.assert_close(result, expected, rtol=0, atol=1e-14)
        torch.testing.assert_close(result_width, expected_width, rtol=0, atol=1e-14)


@pytest.mark.parametrize("n", [1, 2, 5, 40])
def test_inverse_and_sums(n, dtype):
    beta = torch.rand(2, 3, n - 1, n - 1, dtype=dtype)
    x, width = break_sticks(beta, 1 - beta)
    tolerance = 100 * torch.finfo(dtype).eps
    assert x.shape == (2, 3, n, n)
    assert (x >= 0).all()
    assert (x.sum(-1) - 1).abs().max() < tolerance
    assert (x.sum(-2) - 1).abs().max() < tolerance
    sticks = sticks_of(x)
    torch.testing.assert_close(sticks.taken + sticks.left, width, rtol=0, atol=tolerance)
    torch.testing.assert_close(sticks.taken, beta * width, rtol=0, atol=tolerance)


@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_coins_give_every_permutation(n):
    cells = (n - 1) ** 2
    coins = ((torch.arange(1 << min(cells, 12)).unsqueeze(-1) >> torch.arange(cells)) & 1).float()
    if cells > 12:
        coins = torch.rand(20_000, cells).round()
    up = coins.reshape(-1, n - 1, n - 1)
    x, width = break_sticks(up, 1 - up)
    assert ((x == 0) | (x == 1)).all()
    assert ((width == 0) | (width == 1)).all()
    assert len(x.flatten(1).unique(dim=0)) == math.factorial(n)


# Volumes of the upper-left blocks: Chan & Robbins, On the volume of the polytope of doubly stochastic matrices (1999).
@pytest.mark.parametrize(
    ("n", "volume"),
    [(2, 1.0), (3, 3 / math.factorial(4)), (4, 352 / math.factorial(9)), (5, 4718075 / math.factorial(16))],
)
def test_mean_determinant_is_the_volume(n, volume):
    """Uniform fractions have density 1 / prod(w) on the polytope; within 3 standard errors."""
    beta = torch.rand(100_000, n - 1, n - 1, dtype=torch.float64)
    determinant = break_sticks(beta, 1 - beta)[1].flatten(1).prod(-1)
    error = float(determinant.std()) / math.sqrt(len(determinant))
    assert abs(float(determinant.mean()) - volume) <= 3 * error


def test_gradients_and_vmap():
    beta = torch.rand(2, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda b: break_sticks(b, 1 - b), (beta,))
    assert torch.autograd.gradgradcheck(lambda b: break_sticks(b, 1 - b), (beta,))
    assert torch.autograd.gradcheck(lambda b: tuple(sticks_of(break_sticks(b, 1 - b)[0])), (beta,))
    mapped = torch.func.vmap(break_sticks)(beta, 1 - beta)
    torch.testing.assert_close(mapped, break_sticks(beta, 1 - beta))

    def total(b):
        return (break_sticks(b, 1 - b)[0][..., 0, 1] ** 2).sum()

    by_vmap = torch.func.vmap(torch.func.grad(total))(beta)
    torch.testing.assert_close(by_vmap, torch.autograd.grad(total(beta), beta)[0])
    forward_over_rows = torch.func.jacrev(lambda b: break_sticks(b, 1 - b)[0])(beta[0].detach())
    assert forward_over_rows.shape == (5, 5, 4, 4)


def test_tiny_entries_keep_relative_precision():
    up = torch.full((3, 3), 1e-30, dtype=torch.float64)
    sticks = sticks_of(break_sticks(up, 1 - up)[0])
    torch.testing.assert_close(sticks.taken[0, 0], up[0, 0], rtol=1e-15, atol=0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: break_sticks(torch.zeros(2, 3), torch.zeros(2, 3)), "up must have shape"),
        (lambda: break_sticks(torch.zeros(2, 2), torch.zeros(3, 3)), r"down has shape \(3, 3\) but up \(2, 2\)"),
        (lambda: sticks_of(torch.zeros(3)), "x must have shape"),
        (lambda: sticks_of(torch.zeros(0, 0)), "N at least 1"),
    ],
)
def test_wrong_calls_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.skipif(importlib.util.find_spec("numba") is None, reason="numba is not installed")
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("n", "batch"), [(1, 1), (2, 0), (3, 5), (6, 70)])
def test_the_kernel_and_torch_fill_alike(n, batch, threads, dtype, monkeypatch):
    """Both make the same operations in the same order, so that not even rounding differs."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(_birkhoff_kernel, "_WORTH_A_THREAD", 0)
    up = torch.rand(batch, n * n, dtype=dtype).t().requires_grad_()  # not contiguous
    with kernels("torch"):
        expected = fill(up, 1 - up)
        gradient = torch.autograd.grad(sum(part.square().sum() for part in expected), up)
    ours = fill(up, 1 - up)
    for part, other in zip(ours, expected, strict=True):
        assert torch.equal(part, other)
    assert torch.equal(torch.autograd.grad(sum(part.square().sum() for part in ours), up)[0], gradient[0])
