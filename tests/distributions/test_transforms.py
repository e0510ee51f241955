"""AdditiveLogRatio, and BirkhoffStickBreaking: determinant, centre, inverse, caches, corners, shapes, registration."""

import copy
import math
import pickle

import pytest
import torch
from torch.distributions import biject_to, transform_to

from pyro_ext.distributions import constraints
from pyro_ext.distributions.transforms import AdditiveLogRatio, BirkhoffStickBreaking

TEMPERATURES = [1.0, 0.3, 0.1, 0.05, 0.01, 1e-3]


@pytest.mark.parametrize("n", range(2, 8))
@pytest.mark.parametrize("cache_size", [0, 1])
def test_determinant_is_that_of_the_jacobian(n, cache_size):
    transform = BirkhoffStickBreaking(cache_size)
    z = 2 * torch.randn(n - 1, n - 1, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda z: transform(z)[:-1, :-1], z)
    jacobian = jacobian.reshape((n - 1) ** 2, (n - 1) ** 2)
    expected = torch.linalg.slogdet(jacobian)[1]
    x = transform(z)
    assert abs(float(transform.log_abs_det_jacobian(z, x) - expected)) <= 1e-12
    assert abs(float(transform.log_abs_det_jacobian(z, x.clone()) - expected)) <= 1e-12
    later = (torch.arange(n - 1)[:, None] < torch.arange(n - 1)) | torch.zeros(n - 1, n - 1, dtype=torch.bool)
    by_cell = jacobian.reshape(n - 1, n - 1, n - 1, n - 1)
    outside = later[:, None, :, None] | later[None, :, None, :]  # a decision below or right of the cell
    assert (by_cell[outside.expand_as(by_cell)] == 0).all()


@pytest.mark.parametrize("n", [1, 2, 5, 40])
def test_zero_is_the_centre(n):
    x = BirkhoffStickBreaking()(torch.zeros(n - 1, n - 1, dtype=torch.float64))
    assert (x - 1 / n).abs().max() < 1e-14


def test_uncentered_is_the_map_of_the_paper():
    x = BirkhoffStickBreaking(centered=False)(torch.zeros(2, 2))
    assert x[0].tolist() == [0.5, 0.25, 0.25]
    assert BirkhoffStickBreaking(centered=False) != BirkhoffStickBreaking() == BirkhoffStickBreaking(1)
    assert hash(BirkhoffStickBreaking()) == hash(BirkhoffStickBreaking(1))


def test_inverse(dtype):
    z = 2 * torch.randn(2, 3, 6, 6, dtype=dtype)
    transform = BirkhoffStickBreaking()
    tolerance = 1e-11 if dtype == torch.float64 else 2e-3
    torch.testing.assert_close(transform.inv(transform(z)), z, rtol=0, atol=tolerance)


def test_float32_determinant_follows_float64():
    """At a quarter of the spread and above, as documented; below, only the cached value means anything."""
    z = torch.randn(50, 9, 9, dtype=torch.float64)
    for temperature, tolerance in ((1.0, 1e-3), (0.5, 1e-3)):
        exact, rounded = BirkhoffStickBreaking(1), BirkhoffStickBreaking(1)
        expected = exact.log_abs_det_jacobian(z, exact(z / temperature))
        x = rounded((z / temperature).float())
        assert (rounded.log_abs_det_jacobian(z, x) - expected).abs().max() < tolerance
        assert (rounded.log_abs_det_jacobian(z, x.clone()) - expected).abs().max() < tolerance


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_corners(temperature, dtype):
    """Values lie in the polytope, and the gradients of value and determinant stay below 1e4."""
    z = torch.randn(64, 19, 19, dtype=dtype, requires_grad=True)
    transform = BirkhoffStickBreaking(cache_size=1)
    x = transform(z / temperature)
    assert constraints.doubly_stochastic.check(x).all()
    for output in (transform.log_abs_det_jacobian(z, x), x.square().sum()):
        (grad,) = torch.autograd.grad(output.sum(), z, retain_graph=True)
        assert grad.isfinite().all()
        assert grad.abs().max() * temperature < 1e4
    leaf = x.detach().clone().requires_grad_()
    assert transform.log_abs_det_jacobian(z, leaf).isfinite().all()
    assert transform.inv(leaf).isfinite().all()


def test_permutations_invert_to_finite_values(dtype):
    for x in (torch.eye(4, dtype=dtype), torch.eye(4, dtype=dtype).flip(0)):
        z = BirkhoffStickBreaking().inv(x)
        assert z.isfinite().all()
        torch.testing.assert_close(BirkhoffStickBreaking()(z), x, rtol=0, atol=1e-37)


def test_a_cached_value_still_has_its_gradient():
    transform = BirkhoffStickBreaking(cache_size=1)
    with torch.no_grad():
        x = transform(torch.randn(3, 3, dtype=torch.float64))
    x.requires_grad_()
    assert transform.inv(x).requires_grad
    assert transform.log_abs_det_jacobian(transform.inv(x), x).requires_grad


def test_caches_are_not_copied():
    transform = BirkhoffStickBreaking(cache_size=1)
    z = torch.randn(3, 3, requires_grad=True) * 1
    x = transform(z)
    assert transform.inv(x) is z
    for other in (pickle.loads(pickle.dumps(transform)), copy.deepcopy(transform)):
        assert other == transform
        torch.testing.assert_close(other.inv(x), z, rtol=0, atol=1e-4)
        torch.testing.assert_close(other(z), x)
    assert transform.with_cache(0)._cache_size == 0
    assert transform.with_cache(1) is transform


def test_gradcheck_and_vmap():
    z = torch.randn(2, 4, 4, dtype=torch.float64, requires_grad=True)
    transform = BirkhoffStickBreaking()
    assert torch.autograd.gradcheck(transform, (z,))
    assert torch.autograd.gradcheck(lambda z: transform.log_abs_det_jacobian(z, transform(z)), (z,))
    torch.testing.assert_close(torch.func.vmap(transform)(z), transform(z))


def test_shapes_and_registration():
    transform = BirkhoffStickBreaking()
    assert transform.forward_shape((7, 3, 3)) == (7, 4, 4)
    assert transform.inverse_shape((7, 4, 4)) == (7, 3, 3)
    assert transform.inverse_shape((1, 1)) == (0, 0)
    assert biject_to(constraints.doubly_stochastic) == transform_to(constraints.doubly_stochastic) == transform
    assert repr(transform) == "BirkhoffStickBreaking(cache_size=0, centered=True)"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: t.forward_shape((3, 4)), r"x must have shape batch_shape \+ \(N, N\), got \(3, 4\)"),
        (lambda t: t.inverse_shape((0, 0)), "y must have shape"),
        (lambda t: t(torch.zeros(3)), "square"),
        (lambda t: t(torch.zeros(3, 4)), "square"),
        (lambda t: t.inv(torch.zeros(3, 4)), "square"),
    ],
)
def test_wrong_shapes_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(BirkhoffStickBreaking())


def test_one_by_one():
    transform = BirkhoffStickBreaking()
    x = transform(torch.zeros(2, 0, 0))
    assert torch.equal(x, torch.ones(2, 1, 1))
    assert torch.equal(transform.log_abs_det_jacobian(torch.zeros(2, 0, 0), x), torch.zeros(2))
    assert math.prod(transform.inv(x).shape) == 0


def test_log_ratios_and_log_weights():
    transform = torch.distributions.biject_to(constraints.log_simplex)
    assert transform == AdditiveLogRatio() == torch.distributions.transform_to(constraints.log_simplex)
    x = torch.randn(5, 3, dtype=torch.float64) * 30
    y = transform(x)
    assert constraints.log_simplex.check(y).all()
    torch.testing.assert_close(transform._inverse(y), x)
    assert transform.forward_shape((5, 3)) == y.shape
    assert transform.inverse_shape(y.shape) == x.shape
    assert torch.equal(transform.log_abs_det_jacobian(x, y), torch.zeros(5, dtype=torch.float64))
