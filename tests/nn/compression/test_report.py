"""Counts and rates of compression, sparse rows, and rounding."""

import math

import pytest
import torch
from torch import nn

from pyro_ext.nn import CSRLinear, compact, export_masked, prunable, prune, quantize, sparsity_report, to_csr
from tests.nn.compression.networks import NETWORKS, lenet, made, perceptron, random_masks


def test_counts():
    network = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    masks = {
        "0.weight": torch.tensor([[1, 1, 0, 0], [0, 1, 0, 0], [1, 1, 1, 1]]).bool(),
        "2.weight": torch.tensor([[1, 1, 0], [0, 1, 0]]).bool(),
    }
    report = sparsity_report(network, masks, bits=7)
    first, second = report.layers
    assert (first.numel, first.kept, first.rows_alive, first.columns_alive) == (12, 7, 2, 2)
    assert (second.numel, second.kept, second.rows_alive, second.columns_alive) == (6, 3, 2, 2)
    assert report.sizes == (2, 2)
    assert (report.numel, report.kept) == (18, 10)
    assert report.nonzero_compression == pytest.approx(1.8)
    assert report.pruning_compression == pytest.approx(18 / 8)
    assert report.fast_compression == pytest.approx(32 * 18 / (8 * first.bits))
    assert report.as_dict()["layers"][0]["layer"] == "0.weight"
    assert report.significands() == {"0.weight": 7, "2.weight": 7}


@pytest.mark.parametrize("name", NETWORKS)
def test_matrices_are_those_of_the_compact_network(name):
    network, _ = made(name, 2)
    masks = random_masks(network, 0.2, 2)
    report = sparsity_report(network, masks)
    small = prunable(compact(network, masks))
    assert [w.shape[:2] for w in small.values()] == [(row.rows_alive, row.columns_alive) for row in report.layers]
    assert report.pruning_compression == pytest.approx(report.numel / sum(w.numel() for w in small.values()))


def test_sizes_of_a_network_with_convolutions():
    assert sparsity_report(lenet()).sizes == (5, 6, 24, 7)


def test_single_precision_unless_told_otherwise():
    report = sparsity_report(perceptron())
    assert {row.bits for row in report.layers} == {32}
    assert report.pruning_compression == report.fast_compression == report.nonzero_compression == 1


def test_bits_follow_from_variances_of_what_is_kept():
    network = perceptron()
    masks = prune(network, sparsity=0.9)
    variances = {name: torch.where(mask, 1e-2, 0.0) for name, mask in masks.items()}
    assert {row.significand_bits for row in sparsity_report(network, masks, variances=variances).layers} == {5}


def test_small_weights_have_a_finite_number_of_bits():
    network = perceptron()
    with torch.no_grad():
        for weight in prunable(network).values():
            weight.mul_(0.01)
    assert all(8 < row.bits < 32 for row in sparsity_report(network, bits=8).layers)


def test_coding_is_no_worse_than_fixed_length():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(100, 80), nn.ReLU(), nn.Linear(80, 50))
    for sparsity in (0.0, 0.5, 0.9, 0.99):
        report = sparsity_report(network, prune(network, sparsity=sparsity), bits=6)
        assert report.maximum_compression > report.fast_compression


def test_nothing_left():
    network = perceptron()
    report = sparsity_report(network, prune(network, sparsity=1.0), bits=4)
    assert report.nonzero_compression == math.inf
    assert report.kept == 0
    assert "total" in str(report)


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.other = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x):
        return self.one(x) + self.other(x)


def test_layers_of_other_networks_are_counted_by_themselves():
    network = Branches()
    masks = {"one.weight": torch.tensor([[True, False, False, False]] * 3)}
    report = sparsity_report(network, masks)
    assert [(row.rows_alive, row.columns_alive) for row in report.layers] == [(3, 1), (3, 4)]


def test_a_report_needs_layers_and_one_source_of_bits():
    with pytest.raises(ValueError, match="module must have linear or convolutional layers, got ReLU"):
        sparsity_report(nn.ReLU())
    with pytest.raises(ValueError, match="give either variances or bits, got both"):
        sparsity_report(perceptron(), variances={}, bits=3)
    with pytest.raises(ValueError, match=r"bits must name the weights .*; got none for 2.weight, 4.weight"):
        sparsity_report(perceptron(), bits={"0.weight": 3})
    with pytest.raises(ValueError, match=r"variances names \['fc'\]; the weights are 0.weight, 2.weight"):
        sparsity_report(perceptron(), variances={"fc": torch.ones(1)})


@pytest.mark.parametrize("shape", [(12,), (5, 12), (2, 5, 12)])
def test_sparse_rows_compute_the_same(shape, dtype):
    network, _ = made("perceptron", 0, dtype)
    masked = export_masked(network, random_masks(network, 0.3))
    sparse = to_csr(masked)
    assert all(isinstance(sparse[at], CSRLinear) for at in (0, 2, 4))
    x = torch.randn(shape, dtype=dtype, requires_grad=True)
    torch.testing.assert_close(sparse(x), masked(x))
    torch.testing.assert_close(*(torch.autograd.grad(f(x).sum(), x)[0] for f in (sparse, masked)))
    again = to_csr(masked)
    again.load_state_dict(sparse.state_dict())
    torch.testing.assert_close(again(x), sparse(x))


def test_dense_layers_stay_dense():
    network = perceptron()
    masked = export_masked(network, prune(network, {"0.weight": -network[0].weight.abs()}, sparsity=0.9))
    sparse = to_csr(masked, density=0.2)
    assert [type(sparse[at]) for at in (0, 2, 4)] == [CSRLinear, nn.Linear, nn.Linear]
    assert isinstance(to_csr(nn.Linear(3, 2, bias=False)), CSRLinear)
    with pytest.raises(ValueError, match=r"density must be a number in \[0, 1\], got 3"):
        to_csr(network, density=3)


def test_rounded_parameters():
    network = perceptron()
    rounded = quantize(network, {"0.weight": 4})
    assert (rounded[0].weight - network[0].weight).abs().max() <= 2**-5
    assert torch.equal(rounded[0].weight * 16, (rounded[0].weight * 16).round())
    assert torch.equal(rounded[2].weight, network[2].weight)
    assert all(torch.equal(p * 8, (p * 8).round()) for p in quantize(network, 3).parameters())
    with pytest.raises(ValueError, match=r"bits: there is no parameter 'x'; there are 0\.weight"):
        quantize(network, {"x": 3})
