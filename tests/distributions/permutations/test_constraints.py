"""The constraints on matrices: shapes, tolerance, edges."""

import pytest
import torch

from pyro_ext.distributions import constraints

SWAP = torch.tensor([[0.0, 1.0], [1.0, 0.0]])


@pytest.mark.parametrize("constraint", [constraints.doubly_stochastic, constraints.permutation_matrix])
def test_what_is_no_square_matrix_is_no_value_and_no_error(constraint):
    assert constraint.event_dim == 2
    assert constraint.check(SWAP)
    assert constraint.check(torch.ones(1, 1))
    assert constraint.check(SWAP.expand(3, 4, 2, 2)).shape == (3, 4)
    assert not constraint.check(torch.ones(5, 2, 3)).any()
    assert constraint.check(torch.ones(5, 2, 3)).shape == (5,)
    assert not constraint.check(torch.ones(0, 0))
    assert not constraint.check(torch.tensor([[1.0, 1.0], [0.0, 0.0]]))
    assert not constraint.check(torch.full((2, 2), torch.nan))


def test_doubly_stochastic_to_rounding(dtype):
    eps = torch.finfo(dtype).eps
    off = torch.full((4, 4), 0.25, dtype=dtype)
    off[0, 0] += 30 * eps
    assert constraints.doubly_stochastic.check(off)
    off[0, 0] += 30 * eps
    assert not constraints.doubly_stochastic.check(off)
    assert constraints.doubly_stochastic_to(1e-3).check(off)
    assert not constraints.doubly_stochastic.check(torch.tensor([[1.5, -0.5], [-0.5, 1.5]], dtype=dtype))
    assert repr(constraints.doubly_stochastic_to(0.1)) == "DoublyStochastic(tolerance=0.1)"


def test_permutations_are_discrete_and_exact():
    assert constraints.permutation_matrix.is_discrete
    assert not constraints.doubly_stochastic.is_discrete
    assert not constraints.permutation_matrix.check(SWAP * 0.5)
    assert not constraints.permutation_matrix.check(torch.full((2, 2), 0.5))
    assert constraints.permutation_matrix.check(SWAP.long())
