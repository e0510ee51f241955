"""RelaxedRoundingPermutation: normalisation with its indicator, entropy, gradients and their bias, masks, refusals."""

import math
import pickle

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer.reparam import AutoReparam, LocScaleReparam

from pyro_ext.distributions import RelaxedRoundingPermutation
from pyro_ext.ops.assignment import best_permutation
from pyro_ext.ops.sinkhorn import sinkhorn

INF = math.inf


def corners(n):
    return best_permutation(torch.randn(200, n, n, dtype=torch.float64)).unique(dim=0)


def integral(d, log_prob, num_samples):
    """Integrate a density of N x N matrices by importance sampling from Gaussians around all permutations."""
    n, tau = d.permutation_size, float(d.temperature)
    centres = tau * d.centre + (1 - tau) * corners(n)
    scale = 1.3 * tau * float(d.scale.max())
    component = torch.randint(len(centres), (num_samples,))
    x = centres[component] + scale * torch.randn(num_samples, n, n, dtype=torch.float64)
    terms = -0.5 * ((x.unsqueeze(1) - centres) / scale).square() - math.log(scale) - 0.5 * math.log(2 * math.pi)
    weight = (log_prob(x) - terms.sum((-2, -1)).logsumexp(-1) + math.log(len(centres))).exp()
    return float(weight.mean()), float(weight.std()) / math.sqrt(num_samples)


def without_indicator(d):
    """The density as one would write it without looking at where the noise rounds to."""

    def log_prob(x):
        psi, _ = d._recovered(x)
        terms = -0.5 * ((psi - d.centre) / d.scale).square() - d._log_volume()
        return terms.sum((-2, -1))

    return log_prob


@pytest.mark.parametrize(("n", "temperature"), [(2, 1.0), (2, 0.5), (2, 0.2), (3, 0.5)])
def test_the_density_integrates_to_one(n, temperature):
    """Within 4 standard errors; the same integral without the indicator is far off."""
    d = RelaxedRoundingPermutation(torch.zeros(n, n, dtype=torch.float64), 0.5, temperature)
    total, error = integral(d, d.log_prob, 30_000)
    assert error < 0.03
    assert abs(total - 1) < 4 * error
    if temperature < 1:
        wrong, wrong_error = integral(d, without_indicator(d), 30_000)
        assert wrong - 1 > 0.3 > 5 * wrong_error


def test_samples_and_their_noise(dtype):
    d = RelaxedRoundingPermutation(torch.randn(4, 4, dtype=dtype), 0.3, 0.2)
    x = d.sample((500,))
    psi, inside = d._recovered(x)
    assert inside.all()
    torch.testing.assert_close(d.centre, sinkhorn(d.loc))
    error = (psi.mean(0) - d.centre) / (0.3 / math.sqrt(500))
    assert error.abs().max() < 5
    torch.testing.assert_close(0.2 * psi + 0.8 * best_permutation(psi), x)


def test_values_outside_the_cells_have_no_density():
    d = RelaxedRoundingPermutation(torch.zeros(2, 2), 0.5, 0.2)
    assert d.log_prob(torch.full((2, 2), 0.5)) == -INF
    assert d.log_prob(0.9 * torch.eye(2)).isfinite()


def test_own_and_copied_samples(dtype):
    """The noise recovered from a sample differs from the noise drawn by rounding over the temperature."""
    d = RelaxedRoundingPermutation(torch.zeros(5, 5, dtype=dtype), 0.3, 0.1)
    x = d.rsample((200,))
    tolerance = {torch.float64: 1e-11, torch.float32: 2e-2}[dtype]
    torch.testing.assert_close(d.log_prob(x.clone()), d.log_prob(x), rtol=0, atol=tolerance)
    torch.testing.assert_close(pickle.loads(pickle.dumps(d)).log_prob(x), d.log_prob(x), rtol=0, atol=tolerance)


def test_no_own_sample_is_rejected_in_float32():
    d = RelaxedRoundingPermutation(torch.zeros(3, 3), 0.5, 1e-3)
    x = d.sample((20_000,))
    assert d.log_prob(x.clone()).isfinite().all()


@pytest.mark.parametrize("temperature", [1.0, 0.3, 0.05])
def test_entropy(temperature):
    """Against the mean of the density, within 4.5 standard errors."""
    scale = torch.rand(3, 3, dtype=torch.float64) + 0.1
    d = RelaxedRoundingPermutation(torch.randn(3, 3, dtype=torch.float64), scale, temperature)
    log_prob = d.log_prob(d.sample((5000,)))
    error = float(log_prob.std()) / math.sqrt(5000)
    assert abs(float(log_prob.mean() + d.entropy())) < 4.5 * error


def mean_corner(loc, gradient="pathwise"):
    return RelaxedRoundingPermutation(loc, 0.4, 0.3, gradient)


def truth(loc):
    """The mean of the upper left cell of a 2 x 2 distribution, in closed form: the nearest permutation is a sign."""
    centre = sinkhorn(loc)
    gap = centre[0, 0] + centre[1, 1] - centre[0, 1] - centre[1, 0]
    return 0.3 * centre[0, 0] + 0.7 * torch.special.ndtr(gap / (2 * 0.4))


def test_gradients_and_their_bias():
    """The score function is unbiased; the pathwise gradient misses the jumps, as documented."""
    loc = torch.tensor([[0.2, 0.0], [0.0, 0.1]], dtype=torch.float64, requires_grad=True)
    expected = torch.autograd.grad(truth(loc), loc)[0][0, 0]
    num = 20_000
    x = mean_corner(loc, "score_function").sample((num,))
    leaf = loc.detach().expand(num, 2, 2).clone().requires_grad_()
    scores = torch.autograd.grad(mean_corner(leaf).log_prob(x).sum(), leaf)[0][:, 0, 0]
    terms = scores * (x[:, 0, 0] - x[:, 0, 0].mean())
    assert abs(float(terms.mean() - expected)) < 4.5 * float(terms.std()) / math.sqrt(num)
    grads = {}
    for gradient in ("pathwise", "straight_through"):
        mean = mean_corner(loc, gradient).rsample((2000,))[:, 0, 0].mean()
        grads[gradient] = float(torch.autograd.grad(mean, loc)[0][0, 0])
    assert grads["pathwise"] < 0.3 * float(expected)
    assert grads["straight_through"] == pytest.approx(grads["pathwise"] / 0.3, rel=1e-6)


def test_pathwise_gradient_is_unbiased_at_temperature_one():
    loc = torch.randn(3, 3, dtype=torch.float64, requires_grad=True)
    d = RelaxedRoundingPermutation(loc, 0.4, 1.0)
    (grad,) = torch.autograd.grad(d.rsample((2000,)).mean(0)[0, 1], loc)
    (expected,) = torch.autograd.grad(sinkhorn(loc)[0, 1], loc)
    torch.testing.assert_close(grad, expected)
    assert not RelaxedRoundingPermutation(loc, 0.4, 0.5, "score_function").has_rsample


def test_masks():
    mask = torch.tensor([[True, True, False], [False, True, True], [True, False, True]])
    loc = torch.randn(2, 3, 3, dtype=torch.float64).masked_fill(~mask, math.nan).requires_grad_()
    d = RelaxedRoundingPermutation(loc, 0.3, 0.5, mask=mask)
    x = d.rsample((50,))
    assert (x[..., ~mask] == 0).all()
    assert (best_permutation(x.detach().masked_fill(~mask, -INF))[..., ~mask] == 0).all()
    log_prob = d.log_prob(x)
    torch.testing.assert_close(d.log_prob(x.detach().clone()), log_prob.detach())
    (grad,) = torch.autograd.grad(log_prob.sum(), loc)
    assert grad.isfinite().all()
    assert d.entropy().tolist() == pytest.approx([6 * (math.log(0.3 * 0.5) + 0.5 * math.log(2 * math.pi * math.e))] * 2)
    inside_only = x.detach().clone()
    inside_only[0, 0, 0, 2] = 0.1
    assert d.log_prob(inside_only)[0, 0] == -INF
    assert d.expand((4, 2)).sample().shape == (4, 2, 3, 3)


@pytest.mark.parametrize("mask", [None, torch.ones(3, 3, dtype=torch.bool).tril(1)])
def test_density_under_vmap(mask):
    loc = torch.randn(2, 3, 3, dtype=torch.float64)
    d = RelaxedRoundingPermutation(loc, 0.3, 0.5, mask=mask, validate_args=False)
    x = d.sample((4,)).clone()
    torch.testing.assert_close(torch.func.vmap(d.log_prob)(x), d.log_prob(x))
    gradient = torch.func.vmap(torch.func.grad(lambda value: d.log_prob(value).sum()))(x)
    value = x.requires_grad_()
    torch.testing.assert_close(gradient, torch.autograd.grad(d.log_prob(value).sum(), value)[0])


def test_a_single_element():
    d = RelaxedRoundingPermutation(torch.zeros(1, 1), 0.5, 0.5)
    assert torch.equal(d.centre, torch.ones(1, 1))
    x = d.sample((3,))
    torch.testing.assert_close(d.log_prob(x), torch.distributions.Normal(1.0, 0.25).log_prob(x).flatten())


ROWS = torch.tensor([[True, True, True], [False, False, True], [False, False, True]])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.zeros(2, 3), 1.0, 1.0), r"loc must have shape batch_shape \+ \(N, N\)"),
        ((torch.zeros(0, 0), 1.0, 1.0), "N at least 1"),
        ((torch.zeros(2, 2), 1.0, 0.0), r"temperature must be in \(0, 1\], got 0.0"),
        ((torch.zeros(2, 2), 1.0, 1.5), r"temperature must be in \(0, 1\], got 1.5"),
        ((torch.zeros(2, 2), 0.0, 1.0), "scale must be positive and finite, got 0"),
        ((torch.full((2, 2), math.nan), 1.0, 1.0), "loc must be finite, got nan"),
        ((torch.zeros(2, 2), 1.0, 1.0, "reinforce"), "gradient must be one of pathwise, straight_through, score_fun"),
        ((torch.zeros(3, 3), 1.0, 1.0, "pathwise", ROWS), "mask holds no permutation"),
        ((torch.zeros(3, 3), 1.0, 1.0, "pathwise", ROWS[:2]), "does not broadcast to that of loc"),
        ((torch.zeros(3, 3), 1.0, 1.0, "pathwise", torch.ones(3, 3)), "mask must be a bool tensor"),
        ((torch.zeros(2, 2), 1.0, 1.0, "pathwise", None, 0), "num_iterations must be an integer of at least 1"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        RelaxedRoundingPermutation(*arguments)


def site():
    return pyro.sample("x", RelaxedRoundingPermutation(torch.tensor([[0.3, -1.0], [0.0, 0.5]]), 0.3, 0.2))


def test_reparametrisations_of_location_scale_families_leave_it_alone_or_are_refused():
    plain, automatic = (poutine.trace(program).get_trace() for program in (site, AutoReparam()(site)))
    assert list(automatic.stochastic_nodes) == list(plain.stochastic_nodes) == ["x"]
    with pytest.raises(NotImplementedError, match=r"no location-scale family.*leave its site out of LocScaleReparam"):
        poutine.reparam(site, {"x": LocScaleReparam(0.0)})()


def test_the_mode_has_the_largest_density_and_a_mean_is_refused():
    d = RelaxedRoundingPermutation(torch.randn(3, 3, dtype=torch.float64), 0.3, 0.2)
    assert (d.log_prob(d.mode) >= d.log_prob(d.sample((1000,)))).all()
    with pytest.raises(NotImplementedError, match="average samples"):
        _ = d.mean
