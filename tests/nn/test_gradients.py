"""Gradients along a line: closed forms, the noises they resemble, refusals."""

import math

import pytest
import torch
from torch import nn

from pyro_ext.nn import (
    CReLU,
    autocorrelation,
    gradient_autocorrelation,
    gradient_correlation,
    input_gradients,
    looks_linear_,
)
from tests.contracts.test_devices import WAYS, elsewhere

WEIGHT = nn.Parameter(torch.ones(1))


def test_gradients_are_those_of_the_function(dtype):
    x, gradient = input_gradients(lambda x: x.sin().squeeze(-1), lo=0.0, hi=3.0, n=7, like=torch.zeros((), dtype=dtype))
    torch.testing.assert_close(x, torch.linspace(0, 3, 7, dtype=dtype))
    torch.testing.assert_close(gradient, x.cos())


def test_autocorrelation_is_the_sum_of_the_definition(dtype):
    values = torch.randn(3, 20, dtype=dtype)
    z = (values - values.mean(-1, keepdim=True)).tolist()
    expected = [
        [sum(a * b for a, b in zip(row, row[k:], strict=False)) / sum(a * a for a in row) for k in range(6)]
        for row in z
    ]
    torch.testing.assert_close(autocorrelation(values, 5), torch.tensor(expected, dtype=dtype))


@pytest.mark.parametrize(("constant", "expected"), [(0.3, 1.0), (0.0, 1.0)])
def test_constant_curves_have_one_at_all_lags(constant, expected, dtype):
    curve = torch.full((256,), constant, dtype=dtype, requires_grad=True)
    acf = autocorrelation(curve)
    assert (acf == expected).all()
    acf.sum().backward()
    assert curve.grad.isfinite().all()


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_small_and_large_gradients_are_as_others(scale):
    """Their squares have no place in float32: gradients of deep networks are often as small."""
    torch.manual_seed(0)
    values = torch.randn(2, 64)
    torch.testing.assert_close(autocorrelation(values * scale), autocorrelation(values))
    net = nn.Sequential(nn.Linear(3, 50), nn.ReLU(), nn.Linear(50, 1))
    inputs = torch.randn(8, 3)
    expected = gradient_correlation(net, inputs)
    torch.testing.assert_close(gradient_correlation(lambda x: net(x) * scale, inputs), expected)
    assert expected.abs() > 0.01


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_half_types_are_not_taken_for_constants(half):
    torch.manual_seed(0)
    values = torch.randn(256) + 1
    result = autocorrelation(values.to(half))
    assert result.dtype == half
    torch.testing.assert_close(result.float(), autocorrelation(values), atol=0.01, rtol=0)


def test_white_and_brown_noise():
    white = torch.randn(400, 256, dtype=torch.float64)
    acf = autocorrelation(white).mean(0)
    # One lag of one curve has a standard deviation of about 1/16, so the mean over 400 curves one of 0.003.
    assert acf[1:].abs().max() < 0.02
    assert autocorrelation(white.cumsum(-1)).mean(0)[1] > 0.95


def scalar_network(depth, batch_norm, width=200):
    """A network of one variable with ``depth`` hidden layers of rectifiers."""
    layers = []
    for at in range(depth):
        layers += [
            nn.Linear(1 if at == 0 else width, width),
            *([nn.BatchNorm1d(width)] if batch_norm else []),
            nn.ReLU(),
        ]
    net = nn.Sequential(*layers, nn.Linear(width, 1))
    for layer in net:
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight)
            nn.init.zeros_(layer.bias)
        if isinstance(layer, nn.BatchNorm1d):
            layer.momentum = 1.0  # statistics of the last batch, which is all points
    with torch.no_grad():
        net(torch.linspace(-2, 2, 256).unsqueeze(-1))
    return net.eval()


def test_batch_norm_shatters_gradients():
    """Balduzzi et al. (2017), figure 1: 24 layers look like white noise with batch norm, one like brown noise."""
    shattered = torch.stack([gradient_autocorrelation(scalar_network(24, batch_norm=True)) for _ in range(5)]).mean(0)
    assert shattered[1:].abs().max() < 0.1
    assert gradient_autocorrelation(scalar_network(1, batch_norm=True))[1] > 0.8


def test_gradients_of_looks_linear_networks_are_flat(dtype):
    layers = [nn.Linear(1, 100), CReLU()]
    for _ in range(48):
        layers += [nn.Linear(200, 100), CReLU()]
    net = looks_linear_(nn.Sequential(*layers, nn.Linear(200, 1)).to(dtype))
    acf = gradient_autocorrelation(net)
    assert acf.dtype == dtype
    assert (acf == 1).all()


def test_correlation_of_orthogonal_and_equal_gradients():
    inputs = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert gradient_correlation(lambda x: x.square().sum(-1), inputs) == 0
    assert gradient_correlation(lambda x: x.square().sum(-1), inputs.repeat(2, 1)) == pytest.approx(4 / 12)


def test_one_layer_of_rectifiers_halves_the_correlation():
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(400, 400, bias=False), nn.ReLU(), nn.Linear(400, 1, bias=False)).double()
    # Inputs of many dimensions are nearly orthogonal, so that they share a quarter of the units.
    correlations = [gradient_correlation(redrawn(net), torch.randn(50, 400, dtype=torch.float64)) for _ in range(20)]
    mean, std = torch.stack(correlations).mean(), torch.stack(correlations).std()
    assert abs(mean - 0.5) < 4 * std / math.sqrt(20) + 0.01


def redrawn(net):
    for parameter in net.parameters():
        nn.init.normal_(parameter)
    return net


@pytest.mark.parametrize("way", WAYS)
def test_device_and_type_are_those_of_the_module(way):
    net = nn.Sequential(nn.Linear(1, 4), CReLU(), nn.Linear(8, 1))
    with elsewhere(way) as (guard, device):
        net.to(device)
        acf = gradient_autocorrelation(net)
        correlation = gradient_correlation(net, torch.randn(5, 1, device=device, dtype=torch.float32))
        assert {(x.device, x.dtype) for x in (acf, correlation)} == {(device, torch.float32)}
        assert not guard.waits


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: input_gradients(torch.sin, lo=1.0, hi=1.0), "lo must be less than hi, got 1 and 1"),
        (lambda: input_gradients(torch.sin, lo=math.nan), "lo must be a finite number"),
        (lambda: input_gradients(torch.sin, n=1), "n must be an integer of at least 2, got 1"),
        (lambda: input_gradients(torch.sum), r"f must return one value for each point, .* got \(\)"),
        (lambda: input_gradients(lambda x: 1.0), "of shape .* got float"),
        (lambda: input_gradients(torch.Tensor.detach), "f must be differentiable"),
        (lambda: input_gradients(lambda x: WEIGHT.expand(len(x))), "its values do not depend on the points"),
        (lambda: gradient_correlation(lambda x: WEIGHT.expand(len(x)), torch.ones(3, 2)), "do not depend on the inp"),
        (lambda: gradient_correlation(lambda x: torch.ones(len(x)), torch.ones(3, 2)), "do not depend on the inputs"),
        (lambda: gradient_autocorrelation(torch.sin, n=8), "max_lag must be an integer from 0 to 7, got 15"),
        (lambda: autocorrelation(torch.arange(4)), "values must be a tensor of real numbers"),
        (lambda: gradient_correlation(torch.sum, torch.zeros(1, 2)), r"shape \(n, D\) with two rows at least"),
        (lambda: gradient_correlation(torch.sum, torch.zeros(3, 2)), "one value for each of 3 inputs"),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()
