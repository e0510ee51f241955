"""Looks-linear networks are affine; what breaks that is found by name; bad layers are refused."""

import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule, PyroParam, PyroSample
from torch import nn

from pyro_ext.nn import CReLU, assert_looks_linear, looks_linear_
from tests.contracts.test_devices import WAYS, elsewhere

DEPTH = 50


def deep(depth=DEPTH, inputs=7, width=16, outputs=3, linear=nn.Linear):
    """A network of concatenated rectifiers with ``depth`` linear layers."""
    widths = [inputs, *[2 * width] * (depth - 1)], [*[width] * (depth - 1), outputs]
    layers = [layer for sizes in zip(*widths, strict=True) for layer in (linear(*sizes), CReLU())]
    return nn.Sequential(*layers[:-1])


def images(depth=6, channels=4, size=5):
    layers = [nn.Conv2d(2, channels, 3, padding=1), CReLU(1)]
    for _ in range(depth - 2):
        layers += [nn.Conv2d(2 * channels, channels, 3, padding=1), CReLU(1)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(2 * channels * size**2, 3))


def affine_error(net, *shape):
    """The largest difference from an affine map that is measured at zero and at the unit vectors."""
    dtype = next(net.parameters()).dtype
    with torch.no_grad():
        offset = net(torch.zeros(1, *shape, dtype=dtype))
        units = torch.eye(torch.Size(shape).numel(), dtype=dtype)
        matrix = net(units.unflatten(1, shape)) - offset
        x = torch.randn(64, *shape, dtype=dtype)
        return (net(x) - (x.flatten(1) @ matrix + offset)).abs().max().item()


def with_random_biases(net):
    for name, parameter in net.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter)
    return net


@pytest.mark.parametrize("biases", [False, True])
def test_fifty_layers_are_an_affine_map(biases):
    net = looks_linear_(deep().double())
    assert all((layer.bias == 0).all() for layer in net[::2])
    assert affine_error(with_random_biases(net) if biases else net, 7) < 1e-12
    assert_looks_linear(net)


def test_fifty_layers_in_single_precision():
    assert affine_error(looks_linear_(deep()), 7) < 1e-5


def test_convolutions_are_an_affine_map():
    net = with_random_biases(looks_linear_(images().double()))
    assert affine_error(net, 2, 5, 5) < 1e-12
    assert_looks_linear(net)


def test_layers_are_isometries(dtype):
    net = looks_linear_(deep(20, inputs=16).to(dtype))
    for layer in net[:-1:2]:
        half = layer.weight[:, :16]
        torch.testing.assert_close(half @ half.T, torch.eye(16, dtype=dtype))
    x = torch.randn(9, 16, dtype=dtype)
    torch.testing.assert_close(net[:-1](x).norm(dim=-1), x.norm(dim=-1))


@pytest.mark.parametrize("convolution", [nn.Conv1d, nn.Conv2d, nn.Conv3d])
def test_convolutions_are_delta_orthogonal(convolution, dtype):
    layer = looks_linear_(nn.Sequential(convolution(6, 3, 3)).to(dtype), ordinary=())[0]
    centre = layer.weight[(..., *[1] * (layer.weight.dim() - 2))]
    assert torch.equal(centre[:, :3], -centre[:, 3:])
    torch.testing.assert_close(centre[:, :3] @ centre[:, :3].T, torch.eye(3, dtype=dtype))
    assert layer.weight.count_nonzero() == centre.numel()


def test_the_first_layer_is_ordinary():
    net = looks_linear_(nn.Sequential(nn.Linear(8, 4), CReLU(), nn.Linear(8, 4)))
    assert not torch.equal(net[0].weight[:, :4], -net[0].weight[:, 4:])
    assert torch.equal(net[2].weight[:, :4], -net[2].weight[:, 4:])


def test_ordinary_layers_are_named():
    net = nn.Sequential(nn.Linear(5, 5), nn.Linear(5, 4), CReLU(), nn.Linear(8, 2)).double()
    assert affine_error(looks_linear_(net, ordinary=["0", "1"]), 5) < 1e-12
    assert_looks_linear(net, ordinary=["0", "1"])
    with pytest.raises(ValueError, match="layer '1' has an odd input width, 5"):
        looks_linear_(net)


def test_gain_multiplies_every_layer():
    net = looks_linear_(deep(3, inputs=16, outputs=16), gain=2.0)
    x = torch.randn(4, 16)
    torch.testing.assert_close(net(x).norm(dim=-1), 8 * x.norm(dim=-1))


def test_networks_of_pyro_modules():
    class Net(PyroModule):
        def __init__(self):
            super().__init__()
            self.layers = PyroModule[nn.Sequential](*deep(6, linear=PyroModule[nn.Linear]))

        def forward(self, x):
            return self.layers(x)

    net = looks_linear_(Net().double())
    assert affine_error(net, 7) < 1e-12
    assert_looks_linear(net)


def test_draws_repeat_under_a_seed():
    weights = []
    for _ in range(2):
        torch.manual_seed(3)
        weights.append(looks_linear_(deep(4))[2].weight)
    assert torch.equal(*weights)


def test_half_types():
    assert_looks_linear(looks_linear_(deep(3).bfloat16()))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("make", [deep, images], ids=["linear", "convolutions"])
def test_device_and_type_are_those_of_the_module(make, way):
    net = make(4)
    with elsewhere(way) as (_, device):
        looks_linear_(net.to(device))
        assert_looks_linear(net)
        assert {(p.device, p.dtype) for p in net.parameters()} == {(device, torch.float32)}


def test_crelu_keeps_lengths_of_values_and_gradients(dtype):
    x = torch.randn(5, 8, dtype=dtype)
    x[0, 0] = 0
    x.requires_grad_()
    y = CReLU()(x)
    torch.testing.assert_close(y.norm(dim=-1), x.norm(dim=-1))
    (gradient,) = torch.autograd.grad(y.square().sum() / 2, x)
    torch.testing.assert_close(gradient, x)
    mirrored = torch.cat([torch.eye(8, dtype=dtype), -torch.eye(8, dtype=dtype)], 1)
    (gradient,) = torch.autograd.grad((CReLU()(x) @ mirrored.T).sum(), x)
    assert (gradient == 1).all()  # also at zero
    assert "dim=-1" in repr(CReLU())
    with pytest.raises(ValueError, match=r"dim must be an integer, the dimension of the features, got 1\.5"):
        CReLU(1.5)


@pytest.mark.parametrize(
    ("between", "message"),
    [
        (nn.BatchNorm1d(4), "layer '1', BatchNorm1d, is a normalisation"),
        (nn.LayerNorm(4), "layer '1', LayerNorm, is not one of Linear, Conv, CReLU"),
        (nn.ReLU(), "layer '1', ReLU, is not one of"),
        (PyroModule[nn.ReLU](), r"layer '1', .*ReLU.*, is not one of"),
        (nn.Dropout(), "layer '1', Dropout, drops features at random; call eval"),
    ],
    ids=["batch norm", "layer norm", "relu", "pyro relu", "dropout"],
)
def test_what_lies_between_layers_breaks_it(between, message):
    net = looks_linear_(nn.Sequential(nn.Linear(3, 4), between, CReLU(), nn.Linear(8, 2)))
    with pytest.raises(AssertionError, match=message):
        assert_looks_linear(net)


def test_batch_norm_behind_a_crelu_indeed_breaks_it():
    layers = [*looks_linear_(deep(6).double())]
    layers.insert(4, nn.BatchNorm1d(32).double())
    net = nn.Sequential(*layers)
    for _ in range(20):
        net(torch.randn(100, 7, dtype=torch.float64) + 1)
    assert affine_error(net.eval(), 7) > 0.01


@pytest.mark.parametrize(("dim", "ok"), [(1, True), (-3, True), (-1, False), (2, False)])
def test_a_crelu_before_a_convolution_doubles_channels(dim, ok):
    net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), CReLU(dim), nn.AvgPool2d(2), nn.Conv2d(8 if ok else 4, 2, 1))
    looks_linear_(net.double())
    if ok:
        assert_looks_linear(net)
    x, y = torch.randn(2, 3, 1, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        error = net(x + y) - net(x) - net(y)
    assert bool(error.abs().max() < 1e-12) == ok
    if not ok:
        with pytest.raises(AssertionError, match=f"layer '1' is a CReLU of dimension {dim} before a convolution"):
            assert_looks_linear(net)


def test_layers_that_are_used_twice():
    again, hidden = nn.Linear(4, 2), nn.Linear(4, 2)
    for check in (looks_linear_, assert_looks_linear):
        with pytest.raises(ValueError, match="layer '0' is used again as '2', behind a CReLU"):
            check(nn.Sequential(again, CReLU(), again))
    net = looks_linear_(nn.Sequential(nn.Linear(3, 2), CReLU(), hidden, CReLU(), hidden).double())
    assert_looks_linear(net)
    assert affine_error(net, 3) < 1e-12


def test_dropout_in_evaluation_mode_does_not():
    assert_looks_linear(looks_linear_(nn.Sequential(nn.Linear(3, 4), CReLU(), nn.Dropout(), nn.Linear(8, 2))).eval())


def test_a_trained_layer_is_named():
    net = looks_linear_(deep(5))
    net[4].weight.data[2, 3] += 0.1
    with pytest.raises(AssertionError, match=r"layer '4' does not look linear: .* max \|P \+ Q\| / 2 = 0.05"):
        assert_looks_linear(net)
    assert_looks_linear(net, tolerance=0.5)
    net[4].weight.data[2, 3] = torch.nan
    with pytest.raises(AssertionError, match="layer '4'"):
        assert_looks_linear(net, tolerance=0.5)


def pyro_layer(name, value):
    layer = PyroModule[nn.Linear](8, 2)
    setattr(layer, name, value)
    return layer


REFUSED = {
    "odd": (lambda: nn.Linear(5, 3), "layer '2' has an odd input width, 5; its input must be that of a CReLU"),
    "odd channels": (lambda: nn.Conv2d(3, 3, 1), "layer '2' has an odd input width, 3"),
    "groups": (lambda: nn.Conv2d(8, 4, 3, groups=2), "layer '2' has groups=2, which keep apart the two halves"),
    "transposed": (lambda: nn.ConvTranspose2d(8, 4, 3), "layer '2' is a transposed convolution"),
    "lazy": (lambda: nn.LazyLinear(4), "layer '2' is lazy and has no weight yet"),
    "prior": (
        lambda: pyro_layer("weight", PyroSample(dist.Normal(0, 1).expand([2, 8]).to_event(2))),
        "the weight of layer '2' is not a parameter of it",
    ),
    "constrained": (
        lambda: pyro_layer("weight", PyroParam(torch.ones(2, 8), dist.constraints.positive)),
        "the weight of layer '2' is not a parameter of it",
    ),
    "parametrised": (lambda: nn.utils.parametrizations.weight_norm(nn.Linear(8, 2)), "the weight of layer '2'"),
}


@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_a_convolution_without_a_weight_is_refused_before_its_channels_are_counted():
    with pytest.raises(ValueError, match="layer '2' is lazy and has no weight yet"):
        assert_looks_linear(nn.Sequential(nn.Conv2d(1, 4, 1), CReLU(1), nn.LazyConv2d(4, 1)))


@pytest.mark.filterwarnings("ignore:Lazy modules")
@pytest.mark.parametrize(("make", "message"), REFUSED.values(), ids=REFUSED)
def test_bad_layers_are_refused_before_anything_changes(make, message):
    net = nn.Sequential(nn.Linear(8, 4), CReLU(), make())
    before = net[0].weight.clone()
    with pytest.raises(ValueError, match=message):
        looks_linear_(net)
    assert torch.equal(net[0].weight, before)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: looks_linear_(CReLU()), "module must hold linear or convolutional layers, got none"),
        (lambda: looks_linear_(deep(3), ordinary=["1"]), "names a layer '1' that there is not; .* are 0, 2, 4"),
        (lambda: looks_linear_(deep(3), ordinary="0"), r"got the text '0'; write \['0'\]"),
        (lambda: looks_linear_(deep(3), gain=0.0), "gain must be a positive, finite number, got 0.0"),
        (lambda: assert_looks_linear(deep(3), tolerance=-1), "tolerance must be a finite number of at least 0, got -1"),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()
