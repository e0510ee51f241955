"""Linear assignment against brute force, ties, masks, an optional solver on the device, refusals."""

import math
from itertools import permutations

import pytest
import torch

from pyro_ext.ops import assignment
from pyro_ext.ops.assignment import (
    best_permutation,
    has_perfect_matching,
    linear_assignment,
    permutation_matrix,
    total_support,
)

INF = math.inf


def best_by_listing(scores):
    orders = torch.tensor(list(permutations(range(scores.shape[-1]))))
    totals = scores[torch.arange(scores.shape[-1]), orders].sum(-1)
    return orders[totals.argmax()]


@pytest.mark.parametrize("n", [1, 2, 5, 6])
def test_against_listing(n, dtype):
    scores = torch.randn(3, 2, n, n, dtype=dtype)
    expected = torch.stack([best_by_listing(x) for x in scores.flatten(0, 1)]).reshape(3, 2, n)
    assert torch.equal(linear_assignment(scores), expected)
    matrix = best_permutation(scores)
    assert matrix.dtype == dtype
    assert torch.equal(matrix.argmax(-1), expected)
    assert torch.equal(matrix, permutation_matrix(expected, dtype))


def test_ties_give_the_identity_each_time():
    assert torch.equal(best_permutation(torch.zeros(4, 4)), torch.eye(4))


def test_types_gradients_and_empty_batches():
    assert torch.equal(linear_assignment(torch.eye(3, dtype=torch.bfloat16).flip(0)), torch.tensor([2, 1, 0]))
    assert not best_permutation(torch.zeros(2, 2, requires_grad=True)).requires_grad
    assert linear_assignment(torch.zeros(0, 3, 3)).shape == (0, 3)


def test_vmap():
    scores = torch.randn(3, 2, 4, 4)
    index = torch.func.vmap(torch.func.vmap(linear_assignment), in_dims=1, out_dims=1)(scores)
    assert torch.equal(index, linear_assignment(scores))
    assert torch.equal(torch.func.vmap(best_permutation)(scores), best_permutation(scores))


def test_forbidden_cells():
    scores = torch.tensor([[5.0, 0.0, 0.0], [0.0, 0.0, 9.0], [0.0, 1.0, 0.0]])
    scores[0, 0] = scores[1, 2] = -INF
    assert linear_assignment(scores).tolist() in ([1, 0, 2], [2, 0, 1])


def stand_in(cost):
    """The device's solver by its documented interface: the cheapest column of each row."""
    return linear_assignment(-cost)


def test_the_device_solver_sees_forbidden_cells_as_dear():
    scores = torch.randn(20, 5, 5, dtype=torch.float64)
    scores[torch.rand(20, 5, 5) < 0.2] = -INF
    scores = scores[has_perfect_matching(scores > -INF)]
    assert torch.equal(assignment._on_device(scores, stand_in), linear_assignment(scores))
    with pytest.raises(ValueError, match="leave no permutation"):
        assignment._on_device(torch.tensor([[[0.0, 1.0], [-INF, -INF]]]), stand_in)
    with pytest.raises(ValueError, match="scores must not hold NaN"):
        assignment._on_device(torch.full((1, 2, 2), math.nan), stand_in)


def test_perfect_matchings_and_total_support_by_listing():
    masks = torch.rand(60, 4, 4) < 0.5
    index = torch.tensor(list(permutations(range(4))))
    inside = masks[:, torch.arange(4), index].all(-1)  # (masks, permutations)
    assert torch.equal(has_perfect_matching(masks), inside.any(-1))
    used = torch.einsum("mp,pij->mij", inside.float(), permutation_matrix(index)) > 0
    feasible = inside.any(-1)
    assert feasible.any()
    assert not feasible.all()
    assert torch.equal(total_support(masks[feasible]), used[feasible])
    with pytest.raises(ValueError, match="mask holds no permutation"):
        total_support(masks)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: linear_assignment(torch.zeros(2, 3)), r"scores must have shape batch_shape \+ \(N, N\)"),
        (lambda: linear_assignment(torch.full((2, 2), math.nan)), "scores must not hold NaN or"),
        (lambda: linear_assignment(torch.full((2, 2), INF)), "must not hold NaN or \\+inf, got inf"),
        (lambda: linear_assignment(torch.full((2, 2), -INF)), "scores leave no permutation"),
        (lambda: has_perfect_matching(torch.ones(2, 3, dtype=torch.bool)), "mask must have shape"),
    ],
)
def test_wrong_calls_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.gpu
def test_on_cuda():
    scores = torch.randn(8, 30, 30)
    index = linear_assignment(scores.cuda())
    assert index.is_cuda
    assert torch.equal(index.cpu(), linear_assignment(scores))
