"""Samples that remember their parameters, under ordinary operations too; linear maps and convolutions of several."""

import copy
import io
import pickle

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.ops.provenance import get_provenance, track_provenance
from torch.distributions import kl_divergence

from pyro_ext.distributions import LogUniform
from pyro_ext.distributions.testing import check_distribution
from pyro_ext.nn import (
    LocalLogNormal,
    LocalNormal,
    convolution,
    drawn_per_row,
    linear,
    local_parameters,
    log_parameters,
)


def normal(*shape, log_variance=-2.0):
    loc = torch.linspace(-1, 1, torch.Size(shape).numel()).view(shape).requires_grad_()
    return LocalNormal(loc, torch.full(shape, log_variance, requires_grad=True))


def test_contract(dtype):
    parameters = [torch.tensor(values, dtype=dtype, requires_grad=True) for values in ([[0.3], [1.0]], [0.0, -2.0])]
    check_distribution(LocalNormal(*parameters), parameters=parameters)


def test_is_a_normal_distribution():
    q = normal(3)
    p = dist.Normal(torch.zeros(3), torch.ones(3))
    plain = dist.Normal(q.loc, q.scale)
    torch.testing.assert_close(kl_divergence(q, p), kl_divergence(plain, p))
    torch.testing.assert_close(kl_divergence(q, LogUniform()), kl_divergence(plain, LogUniform()))
    torch.testing.assert_close(q.variance, plain.variance)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda q: q.to_event(2),
        lambda q: q.mask(torch.ones(2, 3, dtype=torch.bool)),
        lambda q: q.to_event(2).mask(False),
        lambda q: q.mask(False).to_event(2),
        lambda q: q.expand([7, 2, 3]),
        lambda q: q.to_event(2).expand([7, 1]),
    ],
    ids=["to_event", "mask", "to_event, mask", "mask, to_event", "expand", "to_event, expand"],
)
def test_wrappers_keep_the_parameters(wrap):
    q = normal(2, 3)
    value = wrap(q).rsample()
    assert local_parameters(value).loc is q.loc
    trace = poutine.trace(lambda: pyro.sample("w", wrap(q))).get_trace()
    replayed = poutine.replay(lambda: pyro.sample("w", wrap(q)), trace=trace)()
    assert local_parameters(replayed).loc is q.loc


def test_operations_see_values_and_lose_the_parameters():
    q = normal(2, 3)
    value = q.rsample()
    for other in (value + 0, value.detach(), value[0], torch.stack([value])[0], value.clone(), value.to(torch.float64)):
        assert local_parameters(other) is None
        assert type(other) is torch.Tensor
    assert torch.equal(value + 0, value.clone())  # one draw
    assert float(value.detach().std()) != float(q.loc.detach().std())
    gradient = torch.autograd.grad(value.sum(), q.loc)[0]
    assert torch.equal(gradient, torch.ones(2, 3))
    assert value.requires_grad
    assert repr(value) == repr(value + 0).replace("AddBackward0", "AddcmulBackward0")


def test_values_that_change_in_place_are_no_sample_any_more():
    with torch.no_grad():
        value = normal(2, 3).rsample()
        value.zero_()
    assert local_parameters(value) is None
    assert not value.any()


CHANGES = {
    "item": lambda value: value.__setitem__(0, 0.0),
    "view": lambda value: value[0].zero_(),
    "out": lambda value: torch.mul(value, 0.0, out=value),
    "iadd": lambda value: value.__iadd__(1.0),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("kind", [LocalNormal, LocalLogNormal])
def test_any_change_in_place_counts(kind, change):
    with torch.no_grad():
        value = kind(torch.ones(2, 3), torch.full((2, 3), -60.0)).rsample()
        change(value)
    assert local_parameters(value) is None
    assert log_parameters(value) is None
    x = torch.ones(5, 3)
    torch.testing.assert_close(linear(x, value), x @ value.clone().T)


def test_parameters_that_change_before_the_values_are_drawn():
    loc = torch.ones(2, 3)
    early, late = (LocalNormal(loc, torch.tensor(-60.0)).rsample() for _ in range(2))
    kept = early.clone()
    loc.add_(1)
    assert torch.equal(early + 0, kept)
    assert local_parameters(early) is None
    with pytest.raises(
        RuntimeError, match=r"have changed, by a step of an optimiser .* ask for value.clone\(\) at once"
    ):
        linear(torch.ones(1, 3), late)


@pytest.mark.parametrize("shape", [(), (3,), (1, 3), (2, 1)])
def test_expanded_parameters(shape):
    q = LocalNormal(torch.full(shape, 2.0), torch.tensor(-60.0)).expand((2, 3)).to_event(2)
    torch.testing.assert_close(linear(torch.ones(5, 3), q.rsample()), torch.full((5, 2), 6.0))
    q = LocalNormal(torch.zeros(shape), torch.zeros(())).expand((2, 3)).to_event(2)
    y = linear(torch.ones(1000, 3), q.rsample())
    assert abs(y.var() - 3) < 5 * 3 * (2 / 2000) ** 0.5  # five standard errors
    scales = drawn_per_row(LocalNormal(torch.zeros(1), torch.zeros(())).expand((2,)).rsample(), rows=4)
    assert len(scales.unique()) == 8
    images = convolution(
        torch.ones(5, 2, 4), LocalNormal(torch.ones(1, 2, 1), -60.0).expand((4, 2, 3)).rsample(), num_spatial=1
    )
    torch.testing.assert_close(images, torch.full((5, 4, 2), 6.0))


def test_inference_mode():
    with torch.inference_mode():
        value = normal(2, 3).rsample()
        assert torch.equal(linear(torch.ones(1, 3), value), torch.ones(1, 3) @ value.T)


def test_values_are_drawn_when_they_are_needed():
    q = normal(100, 100)
    state = torch.get_rng_state()
    value = q.rsample()
    assert (value.shape, value.dtype, value.device, value.dim()) == ((100, 100), torch.float32, q.loc.device, 2)
    assert torch.equal(torch.get_rng_state(), state)
    assert abs((value - q.loc).std() - q.scale.mean()) < 0.01


def test_copies_and_files_hold_values():
    with torch.no_grad():
        value = normal(2, 3).rsample()
    assert torch.equal(pickle.loads(pickle.dumps(value)), value.clone())
    assert torch.equal(copy.deepcopy(value), value.clone())
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=True), value.clone())


def test_outside_of_gradients():
    q = normal(2, 3)
    with torch.no_grad():
        value = q.rsample()
    assert not (value + 0).requires_grad
    assert not q.sample().requires_grad


def test_provenance_is_kept():
    value = track_provenance(normal(2, 3).rsample(), frozenset({"w"}))
    x = torch.ones(5, 3)
    assert local_parameters(value) is not None
    assert get_provenance(linear(x, value)) == frozenset({"w"})
    assert get_provenance(linear(x, value, local=False)) == frozenset({"w"})


def test_no_stale_parameters():
    """Prior draws before guide draws, again and again: outputs always follow what was drawn last."""
    prior, q = dist.Normal(torch.zeros(2, 3), 1.0), normal(2, 3, log_variance=-40.0)
    expected = torch.ones(1, 3) @ q.loc.T
    for _ in range(200):
        value = prior.rsample()
        assert local_parameters(value) is None
        del value
        value = q.rsample()
        torch.testing.assert_close(linear(torch.ones(1, 3), value), expected, rtol=0, atol=1e-5)


SHAPES = [((), ()), ((5,), ()), ((5,), (7, 1)), ((7, 5), (7, 1)), ((7, 5), (1, 1)), ((4, 5), (7, 1, 1)), ((), (7,))]


@pytest.mark.parametrize(("of_x", "of_weight"), SHAPES)
def test_linear_with_batches(of_x, of_weight):
    x, weight, bias = torch.randn(*of_x, 3), torch.randn(*of_weight, 2, 3), torch.randn(2)
    expected = torch.einsum("...i,...oi->...o", x, weight) + bias
    torch.testing.assert_close(linear(x, weight, bias), expected)
    q = LocalNormal(weight[(0,) * len(of_weight)], torch.full((2, 3), -60.0)).expand((*of_weight, 2, 3))
    wide = linear(x, q.rsample(), bias)
    torch.testing.assert_close(wide, torch.einsum("...i,...oi->...o", x, q.loc) + bias)


def test_linear_with_a_weight_for_each_row():
    x, weight = torch.randn(5, 3), torch.randn(5, 2, 3)
    torch.testing.assert_close(linear(x, weight), torch.einsum("bi,boi->bo", x, weight))


@pytest.mark.parametrize(("of_x", "of_weight"), SHAPES[1:-1])
def test_convolution_with_batches(of_x, of_weight):
    x, weight, bias = torch.randn(*of_x, 2, 6), torch.randn(*of_weight, 4, 2, 3), torch.randn(4)
    windows = x.unfold(-1, 3, 1)  # (..., I, positions, kernel)
    expected = torch.einsum("...ipk,...oik->...op", windows, weight) + bias[:, None]
    torch.testing.assert_close(convolution(x, weight, bias, num_spatial=1), expected, rtol=1e-4, atol=1e-5)
    q = LocalNormal(weight[(0,) * len(of_weight)], torch.full((4, 2, 3), -60.0)).expand((*of_weight, 4, 2, 3))
    wide = convolution(x, q.rsample(), bias, num_spatial=1)
    expected = torch.einsum("...ipk,...oik->...op", windows, q.loc) + bias[:, None]
    torch.testing.assert_close(wide, expected, rtol=1e-4, atol=1e-5)


def test_convolution_with_a_weight_for_each_row():
    with pytest.raises(ValueError, match=r"weight has batch dims \(3, 5\) and x \(5,\).*outside of data plates"):
        convolution(
            torch.randn(5, 2, 6), torch.randn(5, 5, 4, 2, 3)[0].unsqueeze(0).expand(3, 5, 4, 2, 3), num_spatial=1
        )


def test_particles_share_no_noise():
    q = normal(2, 3, log_variance=0.0)
    y = linear(torch.ones(1, 3), q.expand((4000, 1, 2, 3)).rsample())
    assert y.shape == (4000, 1, 2)
    assert abs(y.var(0) - 3).max() < 5 * 3 * (2 / 4000) ** 0.5
