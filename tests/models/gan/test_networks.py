import pytest
import torch
from torch import nn

from pyro_ext.models.gan import GaussianNoise, discriminator_network, generator_network, latent_size
from pyro_ext.models.gan.networks import NETWORKS
from pyro_ext.nn import VirtualBatchNorm, WeightNorm, WithReferenceBatch

SHAPES = {"digits": (1, 8, 8), "mnist_small": (1, 28, 28), "mnist": (1, 28, 28), "cifar": (3, 32, 32)}


def widths(module, kind):
    return [tuple(layer.weight.shape) for layer in module.modules() if isinstance(layer, kind)]


@pytest.mark.parametrize("norm", ["batch", "virtual"])
@pytest.mark.parametrize("name", NETWORKS)
def test_generators(name, norm):
    network = generator_network(name, SHAPES[name], norm, width=0.1, reference_size=7)
    z = torch.rand(5, latent_size(name))
    images = network(z)
    assert images.shape == (5, torch.Size(SHAPES[name]).numel())
    assert ((images > 0) & (images < 1)).all()
    assert network.double()(z.double()).dtype == torch.float64
    assert isinstance(network, WithReferenceBatch) == (norm == "virtual")
    network.eval()
    torch.testing.assert_close(network(z[:1].double()), network(z.double())[:1])


@pytest.mark.parametrize("kernels", [0, 4])
@pytest.mark.parametrize("name", NETWORKS)
def test_discriminators(name, kernels):
    network = discriminator_network(name, SHAPES[name], 10, kernels, width=0.1)
    x = torch.rand(6, torch.Size(SHAPES[name]).numel())
    assert network(x).shape == (6, 10)
    assert not torch.equal(network(x), network(x))  # noise
    network.eval()
    assert torch.equal(network(x), network(x))
    assert network.double()(x[:1].double()).dtype == torch.float64
    normalised = {id(layer.layer) for layer in network.modules() if isinstance(layer, WeightNorm)}
    assert {id(layer) for layer in network.modules() if isinstance(layer, nn.Linear | nn.Conv2d)} == normalised
    torch.testing.assert_close(network(x.double(), groups=(2, 4))[:2], network(x[:2].double()))


def test_sizes_are_those_of_the_paper():
    shape = SHAPES["mnist"]
    linear = widths(discriminator_network("mnist", shape, 10), nn.Linear)
    assert linear == [(1000, 784), (500, 1000), (250, 500), (250, 250), (250, 250), (10, 250)]
    assert widths(generator_network("mnist", shape), nn.Linear) == [(500, 100), (500, 500), (784, 500)]
    convolutions = widths(discriminator_network("cifar", SHAPES["cifar"], 10), nn.Conv2d)
    assert [shape[0] for shape in convolutions] == [96] * 3 + [192] * 6
    assert [shape[-1] for shape in convolutions] == [3] * 7 + [1, 1]
    transposed = widths(generator_network("cifar", SHAPES["cifar"]), nn.ConvTranspose2d)
    assert transposed == [(512, 256, 5, 5), (256, 128, 5, 5), (128, 3, 5, 5)]
    noise = [m.deviation for m in discriminator_network("mnist", shape, 10).modules() if isinstance(m, GaussianNoise)]
    assert noise == [0.3, 0.5, 0.5, 0.5, 0.5, 0.5]


def test_batch_normalisation_of_perceptrons_has_a_shift_and_no_gain():
    (first, *_) = (m for m in generator_network("digits", (1, 8, 8)).modules() if isinstance(m, nn.BatchNorm1d))
    assert first.weight is None
    assert first.bias is not None


def test_a_generator_with_virtual_batch_norm_has_it_everywhere():
    network = generator_network("mnist_small", SHAPES["mnist_small"], "virtual")
    assert len([m for m in network.modules() if isinstance(m, VirtualBatchNorm)]) == 2
    assert not [m for m in network.modules() if isinstance(m, nn.BatchNorm1d)]


def test_noise_has_its_deviation():
    noise = GaussianNoise(0.5)(torch.ones(200, 100)) - 1
    assert abs(noise.std() - 0.5) < 5 * 0.5 / (2 * 20_000) ** 0.5  # five standard errors
    x = torch.ones(3)
    assert GaussianNoise(0.0)(x) is x


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: generator_network("dcgan", (1, 8, 8)), "network must be one of digits, mnist_small, mnist, cifar"),
        (lambda: generator_network("digits", (1, 8, 8), "layer"), "norm must be one of batch, virtual; got 'layer'"),
        (lambda: generator_network("digits", (1, 8, 8), width=0.0), "width must be a positive, finite number"),
        (lambda: generator_network("digits", (1, 8, 8), "virtual", reference_size=0), "reference_size must be"),
        (lambda: generator_network("digits", (8, 8)), "image_shape must hold channels, height and width"),
        (lambda: discriminator_network("cifar", (3, 28, 28), 10), "sides are multiples of 8 and at least 16, got 28"),
        (lambda: discriminator_network("digits", (1, 8, 8), 1), "classes must be an integer of at least 2, got 1"),
        (lambda: discriminator_network("digits", (1, 8, 8), 3, -1), "kernels must be an integer of at least 0"),
        (lambda: GaussianNoise(-1.0), "deviation must be a finite number of at least 0, got -1.0"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
