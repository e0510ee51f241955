"""Networks on which methods that make networks smaller are compared, as plain modules."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import torch
from torch import Tensor, nn

from pyro_ext.models.toolkit.networks import perceptron
from pyro_ext.utils.checks import one_of, positive_int, positive_number

__all__ = ["CLASSIFIERS", "Classifier", "classifier", "lenet_5", "lenet_300_100", "read_weights", "vgg_like"]

Classifier = Literal["lenet_300_100", "lenet_5", "vgg_like"]

_SMALL = 20  # pixels; below, LeNet-5 has kernels of 3 and one pool, as two would leave nothing of the image


def lenet_300_100(image_shape: tuple[int, int, int], classes: int) -> nn.Sequential:
    """Return LeNet-300-100: a perceptron of two hidden layers.

    Args:
        image_shape: channels, height and width.
        classes: the number of classes.

    Example:
        >>> [tuple(layer.weight.shape) for layer in lenet_300_100((1, 28, 28), 10) if isinstance(layer, nn.Linear)]
        [(300, 784), (100, 300), (10, 100)]
    """
    channels, height, width = _checked(image_shape, classes)
    return nn.Sequential(nn.Flatten(), *perceptron(channels * height * width, 300, 100, classes))


def lenet_5(image_shape: tuple[int, int, int], classes: int) -> nn.Sequential:
    """Return LeNet-5 as in Caffe: 20 and 50 kernels of 5 x 5, each with a pool of 2 x 2, and 500 hidden units.

    For images below 20 x 20 the kernels are 3 x 3, and only the first layer has a pool.

    Args:
        image_shape: channels, height and width.
        classes: the number of classes.

    Raises:
        ValueError: if the image is smaller than 8 x 8.

    Example:
        >>> [tuple(p.shape) for p in lenet_5((1, 28, 28), 10).parameters() if p.dim() > 1]
        [(20, 1, 5, 5), (50, 20, 5, 5), (500, 800), (10, 500)]
    """
    channels, height, width = _checked(image_shape, classes)
    if min(height, width) < 8:
        raise ValueError(f"lenet_5 needs images of at least 8 x 8 pixels, got {height} x {width}; use lenet_300_100")
    kernel, pools = (3, 1) if min(height, width) < _SMALL else (5, 2)
    sides = [((side - kernel + 1) // 2 - kernel + 1) // (2 if pools == 2 else 1) for side in (height, width)]
    return nn.Sequential(
        nn.Conv2d(channels, 20, kernel),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Conv2d(20, 50, kernel),
        *([nn.MaxPool2d(2)] if pools == 2 else []),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(50 * sides[0] * sides[1], 500),
        nn.ReLU(),
        nn.Linear(500, classes),
    )


def vgg_like(image_shape: tuple[int, int, int], classes: int, width: float = 0.5) -> nn.Sequential:
    """Return the VGG-like network for images of 32 x 32: thirteen convolutions with batch norm, one hidden layer.

    Args:
        image_shape: channels, height and width, the last two multiples of 32.
        classes: the number of classes.
        width: what the numbers of channels, 64 to 512, are multiplied by.

    Raises:
        ValueError: if the images have another size.

    Example:
        >>> sum(isinstance(layer, nn.Conv2d) for layer in vgg_like((3, 32, 32), 10, width=0.0625))
        13
    """
    channels, *sides = _checked(image_shape, classes)
    if any(side % 32 for side in sides):
        raise ValueError(f"vgg_like needs images whose sides are multiples of 32, got {sides[0]} x {sides[1]}")
    positive_number("width", width)
    layers: list[nn.Module] = []
    for wide, number in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        out = max(1, round(wide * width))
        for _ in range(number):
            layers += [nn.Conv2d(channels, out, 3, padding=1), nn.BatchNorm2d(out), nn.ReLU()]
            channels = out
        layers.append(nn.MaxPool2d(2))
    hidden = max(1, round(512 * width))
    features = channels * sides[0] * sides[1] // 32**2
    layers += [nn.Flatten(), nn.Linear(features, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, classes)]
    return nn.Sequential(*layers)


CLASSIFIERS: Mapping[str, Callable[..., nn.Sequential]] = MappingProxyType(
    {"lenet_300_100": lenet_300_100, "lenet_5": lenet_5, "vgg_like": vgg_like}
)
"""Name -> function of the shape of an image and the number of classes."""


def classifier(
    architecture: Classifier,
    image_shape: tuple[int, int, int],
    classes: int,
    weights: Mapping[str, Tensor] | None = None,
) -> nn.Sequential:
    """Return a network by name.

    Args:
        architecture: a name in :data:`CLASSIFIERS`.
        image_shape: channels, height and width.
        classes: the number of classes.
        weights: a ``state_dict`` of this network to begin from; random values if None.

    Raises:
        ValueError: if there is no such network, the images are too small for it, or ``weights`` do not fit.

    Example:
        >>> classifier("lenet_300_100", (1, 8, 8), 10)[1]
        Linear(in_features=64, out_features=300, bias=True)
    """
    make = CLASSIFIERS[one_of("architecture", architecture, CLASSIFIERS)]
    network = make(image_shape, classes)
    if weights is not None:
        try:
            network.load_state_dict(dict(weights))
        except RuntimeError as error:
            raise ValueError(f"weights must be those of {architecture}: {error}") from error
    return network


def read_weights(path: str) -> dict[str, Tensor] | None:
    """Return the ``state_dict`` of a network to begin from, or None if there is no path.

    Args:
        path: a file such as a run of a model of these networks writes; empty for none.

    Raises:
        ValueError: if there is no such file, or it cannot be read.

    Example:
        >>> read_weights("") is None
        True
    """
    if not path:
        return None
    if not Path(path).is_file():
        raise ValueError(f"weights={path!r} is no file; give the weights of a run with this architecture")
    try:
        state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"weights={path!r} cannot be read: {error}") from error
    return state


def _checked(image_shape: tuple[int, int, int], classes: int) -> tuple[int, int, int]:
    positive_int("classes", classes, minimum=2)
    if len(image_shape) != 3:
        raise ValueError(f"image_shape must hold channels, height and width, got {image_shape!r}")
    channels, height, width = (positive_int("image_shape", size) for size in image_shape)
    return channels, height, width
