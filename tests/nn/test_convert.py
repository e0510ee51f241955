"""Plain networks made Bayesian: names, values and everything else are kept; per-layer choices; wrong calls."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import nn

from pyro_ext.distributions import LogUniform
from pyro_ext.distributions.structure import unwrap
from pyro_ext.nn import AutoAdditiveNormal, SparseVariationalConv2d, SparseVariationalLinear, bayesianize


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2))
        self.head = nn.Linear(36, 3)

    def forward(self, x):
        return self.head(self.features(x).flatten(1))


def standard(weight):
    return dist.Normal(torch.zeros_like(weight), 1.0).to_event(weight.dim())


def sites(net):
    trace = poutine.trace(net).get_trace(torch.ones(2, 1, 8, 8))
    return {name: unwrap(node["fn"]).base for name, node in trace.iter_stochastic_nodes()}


def test_everything_else_is_kept():
    net = Net().eval()
    new = bayesianize(net)
    assert isinstance(new.features[0], SparseVariationalConv2d)
    assert isinstance(new.head, SparseVariationalLinear)
    assert [type(d) for d in sites(new).values()] == [LogUniform, LogUniform]
    assert [*sites(new)] == ["features.0.weight", "head.weight"]
    assert {*new.state_dict()} == {*net.state_dict()} - {"features.0.weight", "head.weight"}
    assert not new.training
    values = {"features.0.weight": net.features[0].weight, "head.weight": net.head.weight}
    x = torch.randn(2, 1, 8, 8)
    torch.testing.assert_close(poutine.condition(new, data=values)(x), net(x))
    assert isinstance(net.head, nn.Linear)  # not changed
    assert new.head.bias is not net.head.bias


def test_choices_by_layer():
    assert [*sites(bayesianize(Net(), where=["head"]))] == ["head.weight"]
    assert [*sites(bayesianize(Net(), where=lambda name, layer: isinstance(layer, nn.Conv2d)))] == ["features.0.weight"]
    mixed = sites(bayesianize(Net(), prior={"head": standard}))
    assert [type(d) for d in mixed.values()] == [LogUniform, dist.Normal]
    assert [*sites(bayesianize(Net(), prior={"head": None}))] == ["features.0.weight"]
    assert [type(d) for d in sites(bayesianize(Net(), prior=standard)).values()] == [dist.Normal, dist.Normal]
    new = bayesianize(Net(), local={"head": False})
    assert (new.head.local, new.features[0].local) == (False, True)


def test_a_single_layer(dtype):
    layer = nn.Linear(3, 2, bias=False, dtype=dtype)
    new = bayesianize(layer)
    assert new.bias is None
    assert torch.equal(new.weight_start, layer.weight)
    assert new(torch.ones(4, 3, dtype=dtype)).dtype == dtype


@pytest.mark.parametrize(
    ("layer", "x"),
    [
        (nn.Conv1d(2, 4, 3, 2, 1, groups=2), torch.randn(3, 2, 9)),
        (nn.Conv2d(2, 4, (3, 2), padding="same", dilation=2), torch.randn(3, 2, 9, 8)),
        (nn.Conv3d(1, 2, 2), torch.randn(3, 1, 4, 4, 4)),
    ],
)
def test_settings_of_convolutions(layer, x):
    new = poutine.condition(bayesianize(layer), data={"weight": layer.weight})
    torch.testing.assert_close(new(x), layer(x))


def test_names_in_a_larger_program():
    class Model(pyro.nn.PyroModule):
        def __init__(self):
            super().__init__()
            self.net = bayesianize(Net())

        def forward(self, x):
            return self.net(x)

    assert [*sites(Model())] == ["net.features.0.weight", "net.head.weight"]


def test_a_layer_in_two_places_stays_one():
    layer = nn.Linear(4, 4)
    net = bayesianize(nn.Sequential(layer, nn.Tanh(), layer), local={"0": False})
    assert net[0] is net[2]
    guide = AutoAdditiveNormal(net)
    x = torch.ones(3, 4)
    values = guide(x)
    assert [*values] == ["2.weight"]
    weight, bias = values["2.weight"], net[0].bias
    expected = torch.tanh(x @ weight.T + bias) @ weight.T + bias
    torch.testing.assert_close(pyro.poutine.condition(net, values)(x), expected)


def tied():
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    net[1].weight = net[0].weight
    return net


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bayesianize(tied()), r"modules \['0', '1'\] of the network share a parameter"),
        (lambda: bayesianize(Net(), where=["tail"]), r"where names \['tail'\], .* \['features.0', 'head'\]"),
        (lambda: bayesianize(Net(), where="head"), r"write \['head'\]"),
        (lambda: bayesianize(Net(), prior={"tail": standard}), r"prior names \['tail'\]"),
        (lambda: bayesianize(Net(), local={"tail": False}), r"local names \['tail'\]"),
        (lambda: bayesianize(nn.ReLU()), "no layer is converted"),
        (lambda: bayesianize(Net(), where=[]), "no layer is converted"),
        (lambda: bayesianize(nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular")), "padding_mode='circular'"),
        (lambda: SparseVariationalLinear(0, 3), "in_features must be"),
        (lambda: SparseVariationalConv2d(1, -1, 3), "out_channels must be"),
    ],
)
def test_wrong_calls(call, message):
    with pytest.raises(ValueError, match=message):
        call()
