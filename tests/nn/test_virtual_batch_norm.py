import pytest
import torch
from torch import nn

from pyro_ext.nn import VirtualBatchNorm, WithReferenceBatch
from tests.contracts.device_guard import DEVICE, DeviceGuard

SHAPES = {"features": (3,), "channels": (3, 4, 2)}


def network(shape, size=5, dtype=torch.float64):
    torch.manual_seed(0)
    layer = VirtualBatchNorm(3, size).to(dtype)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([0.5, 1.0, 2.0]))
        layer.bias.copy_(torch.tensor([-1.0, 0.0, 1.0]))
    return layer, torch.randn(size, *shape, dtype=dtype), 3 * torch.randn(4, *shape, dtype=dtype)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_an_example_weighs_one_in_one_more_than_the_reference(shape, dtype):
    layer, reference, x = network(shape, dtype=dtype)
    y = layer(torch.cat([reference, x]))
    dims, weight = (0, *range(2, x.dim())), 1 / 6
    view = (-1, *(1,) * (x.dim() - 2))
    for row, found in zip(x, y[5:], strict=True):
        one = row[None]
        mean = weight * one.mean(dims) + (1 - weight) * reference.mean(dims)
        square = weight * one.square().mean(dims) + (1 - weight) * reference.square().mean(dims)
        scale = (square - mean.square() + layer.eps).sqrt()
        expected = (row - mean.reshape(view)) / scale.reshape(view) * layer.weight.reshape(view)
        torch.testing.assert_close(found, expected + layer.bias.reshape(view))
    assert y.dtype == dtype


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_the_reference_is_normalised_by_itself(shape):
    layer, reference, x = network(shape)
    expected = nn.functional.batch_norm(reference, None, None, layer.weight, layer.bias, training=True, eps=layer.eps)
    torch.testing.assert_close(layer(torch.cat([reference, x]))[:5], expected)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_an_example_does_not_depend_on_the_others_nor_on_the_mode(shape):
    layer, reference, x = network(shape)
    wrapped = WithReferenceBatch(layer, reference)
    together = wrapped(x)
    alone = torch.cat([wrapped(row[None]) for row in x])
    torch.testing.assert_close(alone, together, rtol=1e-12, atol=1e-12)
    assert torch.equal(wrapped.eval()(x), together)
    x = x.requires_grad_()
    wrapped(x)[0].sum().backward()
    assert (x.grad[1:] == 0).all()


def test_gradients_flow_through_the_statistics_of_the_reference():
    net = nn.Sequential(nn.Linear(2, 3, bias=False), VirtualBatchNorm(3, 4, affine=False))
    wrapped = WithReferenceBatch(net, torch.randn(4, 2))
    y = wrapped(torch.randn(6, 2))
    y.square().sum().backward()
    scale = (net[0].weight.grad * net[0].weight).sum(1)  # a longer weight vector changes nothing but for eps
    assert scale.abs().max() < 1e-3 * net[0].weight.grad.abs().max()


def test_the_reference_is_saved():
    wrapped, reference = WithReferenceBatch(VirtualBatchNorm(3, 4), torch.randn(4, 3)), torch.randn(4, 3)
    other = WithReferenceBatch(VirtualBatchNorm(3, 4), reference)
    wrapped.load_state_dict(other.state_dict())
    assert torch.equal(wrapped.reference, reference)


def test_on_a_device_without_waits():
    with DeviceGuard() as guard:
        wrapped = WithReferenceBatch(VirtualBatchNorm(3, 4), torch.randn(4, 3)).to(DEVICE)
        wrapped(torch.randn(2, 3, device=DEVICE)).sum().backward()
        assert not guard.waits


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: VirtualBatchNorm(0, 4), "num_features must be an integer of at least 1"),
        (lambda: VirtualBatchNorm(3, 4, eps=0.0), "eps must be a positive"),
        (lambda: VirtualBatchNorm(3, 4)(torch.zeros(3, 3)), "x must hold the 4 rows of the reference batch"),
        (lambda: VirtualBatchNorm(3, 4)(torch.zeros(5, 2)), "with 3 features each"),
        (lambda: WithReferenceBatch(VirtualBatchNorm(3, 4), torch.zeros(5, 3)), r"expects \(4\), got 5"),
        (lambda: WithReferenceBatch(nn.Linear(3, 3), torch.zeros(5, 3)), "none, for it has no VirtualBatchNorm"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
