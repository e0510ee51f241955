"""Networks by name: their published sizes, small images, and exports that compute the same."""

import pytest
import torch

from pyro_ext.models.toolkit import CLASSIFIERS, classifier, vgg_like
from pyro_ext.nn import compact, export_masked, prunable, prune, sparsity_report

SIZES = {"lenet_300_100": 266_200, "lenet_5": 430_500}


@pytest.mark.parametrize("name", SIZES)
def test_number_of_weights(name):
    network = classifier(name, (1, 28, 28), 10)
    assert sum(weight.numel() for weight in prunable(network).values()) == SIZES[name]


def test_learned_sizes_are_listed_as_in_papers():
    assert sparsity_report(classifier("lenet_300_100", (1, 28, 28), 10)).sizes == (784, 300, 100)
    assert sparsity_report(classifier("lenet_5", (1, 28, 28), 10)).sizes == (20, 50, 800, 500)


@pytest.mark.parametrize(
    ("name", "shape"),
    [("lenet_300_100", (1, 8, 8)), ("lenet_5", (1, 8, 8)), ("lenet_5", (3, 20, 28)), ("vgg_like", (3, 32, 32))],
)
def test_compact_networks_compute_the_same(name, shape):
    torch.manual_seed(0)
    network = vgg_like(shape, 5, width=0.0625) if name == "vgg_like" else classifier(name, shape, 5)
    x = torch.randn(4, *shape)
    network.train()(x)  # moments of batch norm
    network.eval()
    masks = prune(network, sparsity=0.9)
    with torch.no_grad():
        torch.testing.assert_close(compact(network, masks)(x), export_masked(network, masks)(x), atol=1e-5, rtol=1e-5)
        assert network(x).shape == (4, 5)


@pytest.mark.parametrize(
    ("name", "shape", "classes", "message"),
    [
        ("lenet", (1, 8, 8), 10, f"architecture must be one of {', '.join(CLASSIFIERS)}; got 'lenet'"),
        ("lenet_5", (1, 4, 8), 10, "lenet_5 needs images of at least 8 x 8 pixels, got 4 x 8"),
        ("vgg_like", (3, 28, 28), 10, "vgg_like needs images whose sides are multiples of 32, got 28 x 28"),
        ("lenet_5", (28, 28), 10, r"image_shape must hold channels, height and width, got \(28, 28\)"),
        ("lenet_5", (1, 28, 28), 1, "classes must be an integer of at least 2, got 1"),
    ],
)
def test_refusals(name, shape, classes, message):
    with pytest.raises(ValueError, match=message):
        classifier(name, shape, classes)
