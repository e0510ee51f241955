"""Generators and discriminators: the perceptrons of the paper for MNIST, smaller ones, and networks for CIFAR-10."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from pyro_ext.models.toolkit import base_rate_logits
from pyro_ext.nn import (
    MinibatchDiscrimination,
    VirtualBatchNorm,
    WeightNorm,
    WithReferenceBatch,
    initialize_from_data_,
)
from pyro_ext.utils.checks import nonnegative_number, one_of, positive_int, positive_number

__all__ = [
    "NETWORKS",
    "DiscriminatorNetwork",
    "GaussianNoise",
    "GeneratorNorm",
    "Network",
    "discriminator_network",
    "generator_network",
    "latent_size",
    "start_at_mean_",
]

Network = Literal["digits", "mnist_small", "mnist", "cifar"]
GeneratorNorm = Literal["batch", "virtual"]


class _Perceptrons(NamedTuple):
    latent: int
    generator: tuple[int, ...]
    discriminator: tuple[int, ...]


_PERCEPTRONS = {
    "digits": _Perceptrons(30, (128, 128), (256, 128, 64)),
    "mnist_small": _Perceptrons(50, (256, 256), (500, 250, 250, 250)),
    "mnist": _Perceptrons(100, (500, 500), (1000, 500, 250, 250, 250)),
}
NETWORKS: tuple[Network, ...] = ("digits", "mnist_small", "mnist", "cifar")
"""The names of pairs of a generator and a discriminator."""

_INPUT_NOISE, _HIDDEN_NOISE = 0.3, 0.5  # standard deviations in the discriminators for digits
# Of weights in discriminators. Their lengths are normalised, but the longer they are, the less a step of Adam turns
# them: with the five times shorter ones of torch.nn a discriminator soon knows the training images by heart.
_WEIGHTS = 0.1
# Of weights of the last layer in generators. Its inputs are positive, so that a step of Adam moves all weights of a
# pixel the same way: with short ones a few steps saturate the pixel, which then stays black or white for good.
_LAST_WEIGHTS = 0.5
_CHANNELS = 3  # of CIFAR-10


class GaussianNoise(nn.Module):
    """Adds Gaussian noise in training; does nothing in evaluation.

    Args:
        deviation: the standard deviation.

    Raises:
        ValueError: if ``deviation`` is negative or not finite.

    Example:
        >>> GaussianNoise(0.5).eval()(torch.ones(2))
        tensor([1., 1.])
    """

    def __init__(self, deviation: float) -> None:
        super().__init__()
        self.deviation = nonnegative_number("deviation", deviation)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` with noise."""
        return x + self.deviation * torch.randn_like(x) if self.training and self.deviation else x

    def extra_repr(self) -> str:
        """Return what ``print`` shows."""
        return f"deviation={self.deviation:g}"


class DiscriminatorNetwork(nn.Module):
    """Features of images, perhaps how similar these are within the batch, and from both the logits of K classes.

    Args:
        features: maps images ``(B, D)`` to features ``(B, A)``, each row for itself.
        output: maps features, and similarities if there are any, to logits ``(B, K)``.
        similarity: appends to features how similar they are to those of the other images of their group.

    Example:
        >>> similarity = MinibatchDiscrimination(5, kernels=2)
        >>> network = DiscriminatorNetwork(nn.Linear(64, 5), nn.Linear(7, 10), similarity)
        >>> network(torch.rand(4, 64)).shape
        torch.Size([4, 10])
    """

    def __init__(
        self, features: nn.Module, output: nn.Module, similarity: MinibatchDiscrimination | None = None
    ) -> None:
        super().__init__()
        self.features = features
        self.similarity = similarity
        self.output = output

    def forward(self, x: Tensor, groups: Sequence[int] | None = None) -> Tensor:
        """Return the logits of images, ``(B, K)``.

        Args:
            x: images, ``(B, D)``.
            groups: the numbers of images of each group, one after another, if they are to be compared within their
                groups only: real images are not to know of generated ones.
        """
        features: Tensor = self.features(x)
        if self.similarity is not None:
            parts = [features] if groups is None else features.split([*groups])
            features = torch.cat([self.similarity(part) for part in parts])
        logits: Tensor = self.output(features)
        return logits


def latent_size(network: Network) -> int:
    """Return the number of uniform variables that a generator starts from.

    Example:
        >>> [latent_size(network) for network in NETWORKS]
        [30, 50, 100, 100]
    """
    return 100 if network == "cifar" else _PERCEPTRONS[network].latent


def generator_network(
    network: Network,
    image_shape: tuple[int, int, int],
    norm: GeneratorNorm = "batch",
    width: float = 1.0,
    reference_size: int = 100,
) -> nn.Module:
    """Return a network from ``latent_size(network)`` uniform variables to rows of pixels in (0, 1).

    Args:
        network: ``"mnist"``, the perceptron of the paper; ``"mnist_small"`` and ``"digits"``, smaller ones; or
            ``"cifar"``, four layers of transposed convolutions.
        image_shape: channels, height and width.
        norm: how hidden layers are normalised: by the ``"batch"``, or by a fixed reference batch (``"virtual"``).
        width: what the numbers of hidden units or channels are multiplied by.
        reference_size: the number of draws in the reference batch.

    Raises:
        ValueError: if a name is unknown, a size is out of range, or the images do not fit.

    Example:
        >>> generator_network("digits", (1, 8, 8))(torch.rand(5, 30)).shape
        torch.Size([5, 64])
    """
    _check(network, image_shape, width)
    one_of("norm", norm, ("batch", "virtual"))
    latent = latent_size(network)

    def normalised(features: int) -> nn.Module:
        if norm == "virtual":
            return VirtualBatchNorm(features, reference_size)
        kind = nn.BatchNorm2d if network == "cifar" else nn.BatchNorm1d
        return kind(features)

    layers: list[nn.Module] = []
    if network == "cifar":
        layers = _upwards(latent, image_shape, width, normalised)
    else:
        sizes = (latent, *_wide(_PERCEPTRONS[network].generator, width))
        for before, after in itertools.pairwise(sizes):
            layers += [nn.Linear(before, after, bias=False), normalised(after), nn.Softplus()]
            if norm == "batch":
                layers[-2].register_parameter("weight", None)  # a shift, no gain: what follows is linear
        layers += [WeightNorm(nn.Linear(sizes[-1], math.prod(image_shape))), nn.Sigmoid()]
    whole = nn.Sequential(*layers)
    for layer in whole:
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
        elif isinstance(layer, WeightNorm):
            nn.init.normal_(layer.layer.weight, std=_LAST_WEIGHTS)
    if norm == "batch":
        return whole
    return WithReferenceBatch(whole, torch.rand(positive_int("reference_size", reference_size), latent))


def discriminator_network(
    network: Network, image_shape: tuple[int, int, int], classes: int, kernels: int = 0, width: float = 1.0
) -> DiscriminatorNetwork:
    """Return a network from rows of pixels to logits of classes, all of its layers with weight normalisation.

    Args:
        network: ``"mnist"``, the perceptron of the paper, with Gaussian noise on its input and on each hidden layer;
            ``"mnist_small"`` and ``"digits"``, smaller ones; or ``"cifar"``, nine convolutions with dropout.
        image_shape: channels, height and width.
        classes: the number K of classes.
        kernels: the number of kernels of minibatch discrimination before the last layer; 0 for none.
        width: what the numbers of hidden units or channels are multiplied by.

    Raises:
        ValueError: if a name is unknown, a size is out of range, or the images do not fit.

    Example:
        >>> discriminator_network("digits", (1, 8, 8), classes=10)(torch.rand(5, 64)).shape
        torch.Size([5, 10])
    """
    _check(network, image_shape, width)
    positive_int("classes", classes, minimum=2)
    positive_int("kernels", kernels, minimum=0)
    if network == "cifar":
        features, size, noise = _downwards(image_shape, width), _scaled(192, width), 0.0
    else:
        sizes = (math.prod(image_shape), *_wide(_PERCEPTRONS[network].discriminator, width))
        layers: list[nn.Module] = []
        for at, (before, after) in enumerate(itertools.pairwise(sizes)):
            linear = _weight_normalised(nn.Linear(before, after), train_scale=False)
            layers += [GaussianNoise(_HIDDEN_NOISE if at else _INPUT_NOISE), linear, nn.ReLU()]
        features, size, noise = nn.Sequential(*layers), sizes[-1], _HIDDEN_NOISE
    similarity = MinibatchDiscrimination(size, kernels, exclude_self=True) if kernels else None
    output = nn.Sequential(GaussianNoise(noise), _weight_normalised(nn.Linear(size + kernels, classes)))
    return DiscriminatorNetwork(features, output, similarity)


@torch.no_grad()
def start_at_mean_(network: nn.Module, z: Tensor, images: Tensor) -> None:
    """Initialise a generator's network in place so that its samples vary about the mean of images.

    Scales of the last layer are set by samples, its biases by the mean of each pixel. Otherwise samples begin grey: the
    discriminator tells them by single pixels, which the generator turns on or off for good in its first steps.

    Args:
        network: a network of :func:`generator_network`, whose last layer has weight normalisation.
        z: draws of the uniform variables, ``(n, L)``, enough of them for means and variances.
        images: rows of pixels, ``(N, D)``.

    Example:
        >>> network, z = generator_network("digits", (1, 8, 8)), torch.rand(500, 30)
        >>> images = torch.cat([torch.full((100, 32), 0.9), torch.full((100, 32), 0.1)], 1)
        >>> start_at_mean_(network, z, images)
        >>> samples = network(z)
        >>> bool(samples[:, :32].mean() > 0.8), bool(samples[:, 32:].mean() < 0.2)
        (True, True)
    """
    initialize_from_data_(network, z)
    (last,) = (layer for layer in network.modules() if isinstance(layer, WeightNorm))
    assert last.bias is not None
    if len(last.bias) == images.shape[1]:
        last.bias.add_(base_rate_logits(images))
    else:  # a channel has one bias
        last.bias.add_(images.unflatten(1, (len(last.bias), -1)).mean((0, 2)).clamp(0.01, 0.99).logit())


def _upwards(
    latent: int, image_shape: tuple[int, int, int], width: float, norm: Callable[[int], nn.Module]
) -> list[nn.Module]:
    """Return the layers of the generator for CIFAR-10: 4 x 4 positions, doubled three times."""
    channels, height, across = image_shape
    first, second, third = _wide((512, 256, 128), width)
    start = (first, height // 8, across // 8)

    def doubled(before: int, after: int, bias: bool = False) -> nn.ConvTranspose2d:
        return nn.ConvTranspose2d(before, after, 5, stride=2, padding=2, output_padding=1, bias=bias)

    return [
        nn.Linear(latent, math.prod(start), bias=False),
        nn.Unflatten(1, start),
        norm(first),
        nn.ReLU(),
        doubled(first, second),
        norm(second),
        nn.ReLU(),
        doubled(second, third),
        norm(third),
        nn.ReLU(),
        WeightNorm(doubled(third, channels, bias=True)),
        nn.Sigmoid(),
        nn.Flatten(),
    ]


def _downwards(image_shape: tuple[int, int, int], width: float) -> nn.Module:
    """Return the nine convolutions of the discriminator for CIFAR-10 and the mean over positions."""
    small, large = _wide((96, 192), width)
    layers: list[nn.Module] = [nn.Unflatten(1, image_shape), nn.Dropout(0.2)]
    before = image_shape[0]
    for after in (small, large):
        for stride in (1, 1, 2):
            layers += [_weight_normalised(nn.Conv2d(before, after, 3, stride, padding=1)), nn.LeakyReLU(0.2)]
            before = after
        layers.append(nn.Dropout(0.5))
    for kernel in (3, 1, 1):
        layers += [_weight_normalised(nn.Conv2d(large, large, kernel)), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def _weight_normalised(layer: nn.Linear | nn.Conv2d, train_scale: bool = True) -> WeightNorm:
    nn.init.normal_(layer.weight, std=_WEIGHTS)
    return WeightNorm(layer, train_scale)


def _wide(sizes: tuple[int, ...], width: float) -> tuple[int, ...]:
    return tuple(_scaled(size, width) for size in sizes)


def _scaled(size: int, width: float) -> int:
    return max(1, round(size * width))


def _check(network: str, image_shape: tuple[int, int, int], width: float) -> None:
    one_of("network", network, NETWORKS)
    positive_number("width", width)
    if len(image_shape) != 3:
        raise ValueError(f"image_shape must hold channels, height and width, got {image_shape!r}")
    for size in image_shape:
        positive_int("image_shape", size)
    if network == "cifar" and any(side % 8 or side < 16 for side in image_shape[1:]):
        raise ValueError(
            "network='cifar' needs images whose sides are multiples of 8 and at least 16, got "
            f"{image_shape[1]} x {image_shape[2]}; use 'mnist'"
        )
