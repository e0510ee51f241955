"""Networks and models: there and back, and what has no counterpart."""

import pytest
import torch
from torch import nn

from pyro_ext.models.drmm import DRMM, Layer
from pyro_ext.models.drmm.conversion import Absolute, from_sequential, to_sequential
from pyro_ext.models.drmm.exact import exact_map

SHAPE = (2, 12, 12)
HEAD = [nn.Flatten(), nn.Linear(6 * 2 * 2, 3)]


def network(*body, head=True):
    return nn.Sequential(*body, *(HEAD if head else []))


def norm(channels):
    own = nn.BatchNorm2d(channels)
    own.running_mean.normal_()
    own.running_var.uniform_(0.5, 2.0)
    nn.init.normal_(own.weight)
    nn.init.normal_(own.bias)
    return own


NETWORKS = {
    "plain": lambda: network(
        nn.Conv2d(2, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 6, 2), nn.ReLU(), nn.MaxPool2d(2)
    ),
    "pool first": lambda: network(
        nn.Conv2d(2, 4, 3), nn.MaxPool2d(2), nn.ReLU(), nn.Conv2d(4, 6, 4), nn.LeakyReLU(0.1)
    ),
    "leaky, means": lambda: network(
        nn.Conv2d(2, 4, 3, padding=1), nn.LeakyReLU(0.1), nn.MaxPool2d(2), nn.Conv2d(4, 6, 2, bias=False), nn.ReLU(),
        nn.AvgPool2d(2),
    ),
    "abs below": lambda: network(
        nn.Conv2d(2, 4, 3), Absolute(), nn.MaxPool2d((2, 2)), nn.Conv2d(4, 6, 2), nn.ReLU(), nn.MaxPool2d(2)
    ),
    "batch norm": lambda: network(
        nn.Conv2d(2, 4, 3), norm(4), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 6, 2), norm(6), nn.MaxPool2d(2), nn.ReLU()
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("training", [False, True])
def test_scores_are_the_networks_output(name, training, dtype):
    own = NETWORKS[name]().to(dtype).train(training)
    x = torch.randn(5, *SHAPE, dtype=dtype)
    model = from_sequential(own, SHAPE, noise=0.5)
    expected = own(x)
    torch.testing.assert_close(model.dcn(x), expected, rtol=1e-4, atol=1e-5)
    # And back; a pass in training changes the statistics of batch norm.
    again = to_sequential(from_sequential(own, SHAPE, noise=0.5))
    torch.testing.assert_close(again(x), own(x), rtol=1e-4, atol=1e-5)


def test_parameters_are_copies():
    own = NETWORKS["plain"]()
    model = from_sequential(own, SHAPE)
    back = to_sequential(model)
    pointers = {p.data_ptr() for part in (own, model, back) for p in part.parameters()}
    assert len(pointers) == 3 * len([*own.parameters()])


def test_options_are_passed_on():
    model = from_sequential(NETWORKS["batch norm"](), SHAPE, prior="factorised", batch_norm="both", size=7)
    assert (model.prior, model.batch_norm, model.size) == ("factorised", "both", 7)
    assert from_sequential(NETWORKS["batch norm"](), SHAPE).batch_norm == "up"


def test_linear_layer_without_bias():
    own = nn.Sequential(nn.Conv2d(1, 2, 2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3, bias=False))
    x = torch.randn(4, 1, 3, 3)
    torch.testing.assert_close(from_sequential(own, (1, 3, 3)).dcn(x), own(x))


def test_tiny_network_infers_the_most_probable_configuration():
    """A network with nonnegative weights above the first layer is inference in the model made from it."""
    own = nn.Sequential(nn.Conv2d(1, 2, 2), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(2, 3)).double()
    with torch.no_grad():
        own[-1].weight.abs_()
    x = torch.randn(30, 1, 3, 3, dtype=torch.float64)
    assert torch.equal(exact_map(from_sequential(own, (1, 3, 3), noise=0.3), x).c, own(x).argmax(-1))


CONV, RELU = nn.Conv2d(2, 6, 9, padding=1), nn.ReLU()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: network(CONV, RELU, head=False), "network must end in Linear, got ReLU"),
        (lambda: network(RELU, CONV), "network must begin with Conv2d, got ReLU"),
        (lambda: network(), "network must hold at least one Conv2d, got none"),
        (lambda: network(CONV), "is not followed by ReLU, LeakyReLU"),
        (lambda: network(CONV, nn.Sigmoid()), r"Sigmoid\(\) has no counterpart in the model"),
        (lambda: network(CONV, nn.LeakyReLU(0.2)), "negative_slope=0.2.* has no counterpart"),
        (lambda: network(CONV, RELU, nn.MaxPool2d(2, stride=1)), "MaxPool2d.* has no counterpart in the model"),
        (lambda: network(CONV, RELU, nn.MaxPool2d(2, ceil_mode=True)), "MaxPool2d.* has no counterpart in the model"),
        (lambda: network(CONV, RELU, nn.MaxPool2d((1, 2))), "MaxPool2d.* has no counterpart in the model"),
        (lambda: network(CONV, RELU, nn.AvgPool2d(2, padding=1)), "AvgPool2d.* has no counterpart in the model"),
        (lambda: network(CONV, RELU, RELU), r"ReLU\(\) has no counterpart after Conv2d"),
        (lambda: network(CONV, RELU, nn.BatchNorm2d(6)), "BatchNorm2d.* has no counterpart after Conv2d.* and switch"),
        (lambda: network(CONV, nn.AvgPool2d(2), RELU), r"ReLU\(\) has no counterpart after Conv2d.* and mean_pool"),
        (lambda: network(CONV, nn.MaxPool2d(2), Absolute()), "Absolute.* must come before MaxPool2d"),
        (lambda: network(CONV, nn.BatchNorm2d(6, affine=False), RELU), "must be affine and track running statistics"),
        (lambda: network(nn.Conv2d(2, 6, 3, stride=2), RELU), "Conv2d.* has no counterpart: kernels must be square"),
        (lambda: network(nn.Conv2d(2, 6, (3, 2)), RELU), "kernels must be square"),
        (lambda: network(nn.Conv2d(2, 6, 3, padding="same"), RELU), "zero padding given as a number"),
        (lambda: network(nn.Conv2d(2, 6, 3, padding_mode="reflect", padding=1), RELU), "kernels must be square"),
        (lambda: network(nn.Conv2d(2, 4, 3, groups=2), RELU), "one group"),
        (
            lambda: network(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), RELU, nn.Conv2d(4, 6, 3), RELU),
            "network must have BatchNorm2d after every Conv2d, or none",
        ),
        (lambda: network(nn.Conv2d(2, 4, 3), RELU), r"leads to 400 features, but the last Linear takes 24"),
        (lambda: network(nn.Conv2d(3, 6, 3), RELU), r"image_shape \(2, 12, 12\) has 2 channels, but Conv2d\(3"),
        (lambda: network(nn.Conv2d(2, 4, 3), RELU, nn.Conv2d(5, 6, 3), RELU), r"takes 5 channels, but gets 4"),
        (lambda: network(nn.Conv2d(2, 6, 13), RELU), "is smaller than the receptive field of layer 1"),
    ],
)
def test_what_has_no_counterpart(make, message):
    with pytest.raises(ValueError, match=message):
        from_sequential(make(), SHAPE)


def test_batch_norm_that_is_not_there():
    with pytest.raises(ValueError, match="batch_norm='both' does not fit a network without it"):
        from_sequential(NETWORKS["plain"](), SHAPE, batch_norm="both")
    with pytest.raises(ValueError, match="batch_norm='none' does not fit a network with it"):
        from_sequential(NETWORKS["batch norm"](), SHAPE, batch_norm="none")


def test_names_of_modules():
    model = DRMM([Layer(4, 3, pool=2, mean_pool=2, switch="leaky")], 3, (1, 8, 8), batch_norm="up")
    names = [type(module).__name__ for module in to_sequential(model)]
    assert names == ["Conv2d", "BatchNorm2d", "LeakyReLU", "MaxPool2d", "AvgPool2d", "Flatten", "Linear"]
