"""A compact network is the masked one: random masks of weights and biases, all kinds of layers."""

import itertools

import pytest
import torch
from torch import nn

from pyro_ext.nn import SelectInputs, compact, export_masked, prunable, prune, sparsity_report
from tests.nn.compression.networks import NETWORKS, made, perceptron, random_masks

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@pytest.mark.parametrize("density", [0.0, 0.1, 0.3, 1.0])
@pytest.mark.parametrize("name", NETWORKS)
def test_equals_the_masked_network(name, density):
    for seed in range(5):
        network, x = made(name, seed)
        masks = random_masks(network, density, seed, structured=density < 1)
        with torch.no_grad():
            torch.testing.assert_close(
                compact(network, masks)(x), export_masked(network, masks)(x), atol=1e-5, rtol=1e-5
            )


@pytest.mark.parametrize("name", NETWORKS)
def test_equals_the_masked_network_in_double_precision(name):
    network, x = made(name, 3, torch.float64)
    masks = random_masks(network, 0.2, 3)
    small = compact(network, masks)
    torch.testing.assert_close(small(x), export_masked(network, masks)(x), atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("name", NETWORKS)
def test_sizes_chain_and_no_unit_can_go(name):
    network, _ = made(name, 1)
    masks = random_masks(network, 0.2, 1)
    small = compact(network, masks)
    parts = [part for part in small if isinstance(part, (*LAYERS, SelectInputs))]
    layers = [part for part in parts if isinstance(part, LAYERS)]
    assert sum(layer.weight.numel() for layer in layers) < sum(w.numel() for w in prunable(network).values())
    for layer, following in itertools.pairwise(layers):
        selected = any(isinstance(part, SelectInputs) for part in parts[parts.index(layer) : parts.index(following)])
        assert selected or following.weight.shape[1] % layer.weight.shape[0] == 0
    if not any(isinstance(part, SelectInputs) for part in small):
        assert [p.shape for p in compact(small).parameters()] == [p.shape for p in small.parameters()]
    for layer in layers:
        assert (layer.weight != 0).transpose(0, 1).flatten(1).any(1).all() or layer.weight.shape[1] == 1


def test_a_constant_unit_goes_into_the_next_bias():
    network = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([[0.0, 0.0], [1.0, 1.0]]))
        network[0].bias.copy_(torch.tensor([3.0, 0.0]))
        network[2].weight.copy_(torch.tensor([[2.0, 1.0]]))
        network[2].bias.zero_()
    small = compact(network)
    assert small[0].weight.tolist() == [[1.0, 1.0]]
    assert small[2].bias.item() == 6.0


def test_constants_run_through_several_layers():
    network = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 3), nn.Sigmoid(), nn.Linear(3, 2)).eval()
    masks = {"0.weight": torch.zeros(3, 2, dtype=torch.bool)}
    small = compact(network, masks)
    x = torch.randn(7, 2)
    torch.testing.assert_close(small(x), export_masked(network, masks)(x))
    assert [tuple(layer.weight.shape) for layer in small if isinstance(layer, nn.Linear)] == [(1, 1), (1, 1), (2, 1)]


def test_a_bias_is_made_where_there_was_none():
    network = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2, bias=False))
    masks = {"0.weight": torch.tensor([[True, True], [False, False]])}
    network[0].bias.data.fill_(1.0)
    small, x = compact(network, masks), torch.randn(5, 2)
    assert small[-1].bias is not None
    torch.testing.assert_close(small(x), export_masked(network, masks)(x))


def test_a_constant_channel_stays_where_zeros_are_padded():
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 1, 3, padding=1)).eval()
    network[0].bias.data.fill_(1.0)
    masks = {"0.weight": torch.tensor([True, False]).view(2, 1, 1, 1).expand(2, 1, 3, 3)}
    assert compact(network, masks)[0].out_channels == 2
    masks["0.bias"] = torch.tensor([True, False])
    assert compact(network, masks)[0].out_channels == 1


def test_dropout_is_left_out_and_the_network_is_not_touched():
    network, _ = made("lenet", 0)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    small = compact(network, random_masks(network, 0.5))
    assert not any(isinstance(part, nn.Dropout) for part in small.modules())
    assert not small.training
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    assert not {p.data_ptr() for p in small.parameters()} & {p.data_ptr() for p in network.parameters()}


def test_a_layer_in_two_places():
    layer = nn.Linear(5, 5)
    network = nn.Sequential(layer, nn.Tanh(), layer, nn.Linear(5, 2))
    masks = prune(network, sparsity=0.7)
    x = torch.randn(9, 5)
    torch.testing.assert_close(compact(network, masks)(x), export_masked(network, masks)(x))
    assert sparsity_report(network).pruning_compression == 1  # the layer counts once


@pytest.mark.parametrize("shape", [(12,), (4, 12), (2, 4, 12)])
def test_rows_of_any_number_of_dims(shape):
    network, x = perceptron(), torch.randn(shape)
    masks = prune(network, sparsity=0.9)
    torch.testing.assert_close(compact(network, masks)(x), export_masked(network, masks)(x))


class Residual(nn.Module):
    def forward(self, x):
        return x


REFUSALS = {
    "unknown": (nn.Sequential(nn.Linear(2, 2), Residual()), "1 is Residual, which is none of Linear, Conv"),
    "groups": (nn.Sequential(nn.Conv2d(4, 4, 3, groups=2)), "0 is Conv2d, which has groups of channels"),
    "dims": (nn.Sequential(nn.Flatten(0), nn.Linear(2, 2)), "0 is Flatten, which flattens other dims"),
    "nothing": (nn.Sequential(nn.ReLU()), "must hold at least one linear or convolutional layer, got none"),
    "widths": (nn.Sequential(nn.Linear(2, 3), nn.Linear(4, 1)), "layer 1 takes 4 inputs, which do not stand for the 3"),
    "positions": (
        nn.Sequential(nn.Conv1d(4, 8, 3), nn.Linear(16, 5)),
        "layer 1 is linear and follows the convolution 0",
    ),
    "rows": (
        nn.Sequential(nn.Linear(4, 3), nn.Flatten(), nn.Linear(6, 2)),
        "layer 2 takes 6 inputs, which do not stand for the 3",
    ),
    "channels": (
        nn.Sequential(nn.Linear(4, 3), nn.Conv1d(3, 2, 1)),
        "layer 1 takes 3 inputs, which do not stand for the 3",
    ),
    "moments": (
        nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3, track_running_stats=False), nn.Linear(3, 1)),
        "1 is BatchNorm1d, which has no running moments",
    ),
}


@pytest.mark.parametrize(("network", "message"), REFUSALS.values(), ids=REFUSALS)
def test_refusals(network, message):
    with pytest.raises(ValueError, match=message):
        compact(network)


def test_masks_that_fit_nothing_are_refused():
    with pytest.raises(ValueError, match=r"masks: there is no parameter 'nothing'; there are 0\.weight"):
        compact(perceptron(), {"nothing": torch.ones(1, dtype=torch.bool)})
    with pytest.raises(ValueError, match=r"masks\['0.bias'\] must hold booleans of shape \(9,\), got torch.float32"):
        compact(perceptron(), {"0.bias": torch.ones(9)})
