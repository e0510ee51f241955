"""The encoder, the decoder and the discriminator: perceptrons, or convolutional networks for larger images.

None of them normalises over the batch. Otherwise the code of an image would depend on the other images of the batch,
which share its class or are made from its code, and a discriminator could tell decoded images by their statistics.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from pyro_ext.models.toolkit import perceptron
from pyro_ext.utils.checks import one_of, positive_int

__all__ = ["Codes", "Decoder", "Discriminator", "Encoder", "Network", "check_network"]

Network = Literal["perceptron", "convolutional"]

_SLOPE = 0.2  # of the discriminator's leaky rectifiers


class Codes(NamedTuple):
    """What an encoder says about images.

    Args:
        z_loc: the mean of z, ``(..., z_size)``.
        z_log_variance: the logarithm of the variance of z, ``(..., z_size)``.
        s: the code of the class, ``(..., s_size)``.

    Example:
        >>> Codes(torch.zeros(3), torch.full((3,), -2.0), torch.zeros(5)).z_scale
        tensor([0.3679, 0.3679, 0.3679])
    """

    z_loc: Tensor
    z_log_variance: Tensor
    s: Tensor

    @property
    def z_scale(self) -> Tensor:
        """The standard deviation of z."""
        return (0.5 * self.z_log_variance).exp()

    def sample_z(self) -> Tensor:
        """Draw z; gradients flow to its mean and its variance."""
        return self.z_loc + self.z_scale * torch.randn_like(self.z_loc)


class Encoder(nn.Module):
    """A network with one head for each part of the codes.

    Args:
        image_shape: the height and the width of the images.
        z_size: the number of features of z.
        s_size: the number of features of s.
        hidden: the number of units of a hidden layer.
        network: ``"perceptron"``, with two hidden layers, or ``"convolutional"``, with two convolutions and one.
        channels: the number of channels of the first convolution; the second one has twice as many.

    Raises:
        ValueError: if a size is not a positive integer, or height or width is no multiple of 4 for convolutions.

    Example:
        >>> codes = Encoder((8, 8), z_size=3, s_size=5)(torch.zeros(10, 64))
        >>> codes.z_loc.shape, codes.z_log_variance.shape, codes.s.shape
        (torch.Size([10, 3]), torch.Size([10, 3]), torch.Size([10, 5]))
    """

    def __init__(
        self,
        image_shape: tuple[int, int],
        z_size: int = 8,
        s_size: int = 8,
        hidden: int = 128,
        network: Network = "perceptron",
        channels: int = 16,
    ) -> None:
        super().__init__()
        check_network(image_shape, network, z_size=z_size, s_size=s_size, hidden=hidden, channels=channels)
        self.trunk = _trunk(image_shape, 1, hidden, network, channels, nn.ReLU)
        self.z_loc = nn.Linear(hidden, z_size)
        self.z_log_variance = nn.Linear(hidden, z_size)
        self.s = nn.Linear(hidden, s_size)

    def forward(self, x: Tensor) -> Codes:
        """Return the codes of images ``(..., height * width)``."""
        features = self.trunk(x)
        return Codes(self.z_loc(features), self.z_log_variance(features), self.s(features))


class Decoder(nn.Module):
    """A network whose first layer adds a linear map of z and one of s.

    Args:
        image_shape: the height and the width of the images.
        z_size: the number of features of z.
        s_size: the number of features of s.
        hidden: the number of units of a hidden layer.
        network: ``"perceptron"`` or ``"convolutional"``, which mirror those of :class:`Encoder`.
        channels: the number of channels of the first convolution; the second one has twice as many.

    Raises:
        ValueError: if a size is not a positive integer, or height or width is no multiple of 4 for convolutions.

    Example:
        >>> Decoder((8, 8), z_size=3, s_size=5)(torch.zeros(10, 3), torch.zeros(10, 5)).shape
        torch.Size([10, 64])
    """

    def __init__(
        self,
        image_shape: tuple[int, int],
        z_size: int = 8,
        s_size: int = 8,
        hidden: int = 128,
        network: Network = "perceptron",
        channels: int = 16,
    ) -> None:
        super().__init__()
        check_network(image_shape, network, z_size=z_size, s_size=s_size, hidden=hidden, channels=channels)
        height, width = image_shape
        self.from_z = nn.Linear(z_size, hidden)
        self.from_s = nn.Linear(s_size, hidden, bias=False)
        if network == "perceptron":
            self.rest = nn.Sequential(nn.ReLU(), perceptron(hidden, hidden, height * width), nn.Sigmoid())
        else:
            first, second = channels, 2 * channels
            self.rest = nn.Sequential(
                nn.ReLU(),
                perceptron(hidden, second * (height // 4) * (width // 4)),
                nn.ReLU(),
                nn.Unflatten(-1, (second, height // 4, width // 4)),
                nn.ConvTranspose2d(second, first, 4, 2, 1),
                nn.ReLU(),
                nn.ConvTranspose2d(first, 1, 4, 2, 1),
                nn.Flatten(),
                nn.Sigmoid(),
            )

    def forward(self, z: Tensor, s: Tensor) -> Tensor:
        """Return the means of pixels, ``(..., height * width)``, in (0, 1), of codes of one batch shape."""
        features = self.from_z(z) + self.from_s(s)
        return self.rest(features.flatten(0, -2)).unflatten(0, features.shape[:-1])


class Discriminator(nn.Module):
    """A network that says whether an image is real and belongs with its context: a class, or an image of its class.

    The embedding of a class is added to each layer, as constant planes to a convolution. An image as a context is a
    second channel.

    Args:
        image_shape: the height and the width of the images.
        num_classes: the number C of classes; 0 if the context is an image.
        hidden: the number of units of a hidden layer.
        network: ``"perceptron"``, with two hidden layers, or ``"convolutional"``, with two convolutions and one.
        channels: the number of channels of the first convolution; the second one has twice as many.

    Raises:
        ValueError: if a size is out of range, or height or width is no multiple of 4 for convolutions.

    Example:
        >>> by_class, by_pair = Discriminator((8, 8), num_classes=10), Discriminator((8, 8), num_classes=0)
        >>> by_class(torch.zeros(5, 64), torch.arange(5)).shape, by_pair(torch.zeros(5, 64), torch.ones(5, 64)).shape
        (torch.Size([5]), torch.Size([5]))
    """

    def __init__(
        self,
        image_shape: tuple[int, int],
        num_classes: int,
        hidden: int = 128,
        network: Network = "perceptron",
        channels: int = 16,
    ) -> None:
        super().__init__()
        positive_int("num_classes", num_classes, 0)
        check_network(image_shape, network, hidden=hidden, channels=channels)
        images = 1 if num_classes else 2
        trunk = _trunk(image_shape, images, hidden, network, channels, lambda: nn.LeakyReLU(_SLOPE))
        self.num_classes = num_classes
        self.layers = nn.ModuleList(trunk)
        self.output = nn.Linear(hidden, 1)
        widths = [layer.out_features for layer in trunk if isinstance(layer, nn.Linear)]
        if network == "convolutional":
            widths = [channels, 2 * channels, *widths]
        self.embeddings = nn.ModuleList(nn.Embedding(num_classes, width) for width in widths if num_classes)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """Return the logits, ``(B,)``, of images being real.

        Args:
            x: images, ``(B, height * width)``.
            context: their classes, ``(B,)``, int64, or for each an image of its class, ``(B, height * width)``.
        """
        features = x if self.num_classes else torch.cat([x, context], -1)
        embeddings = iter(self.embeddings)
        for layer in self.layers:
            features = layer(features)
            if self.num_classes and isinstance(layer, nn.Linear | nn.Conv2d):
                planes = next(embeddings)(context)
                features = features + planes.reshape(planes.shape + (1,) * (features.dim() - 2))
        return self.output(features).squeeze(-1)


def check_network(image_shape: tuple[int, int], network: str, **sizes: int) -> None:
    """Raise a ValueError if the kind of network is unknown, a size is no positive integer, or images do not fit.

    Args:
        image_shape: the height and the width of the images.
        network: the kind of network.
        **sizes: numbers of units, by the names of their arguments.
    """
    one_of("network", network, ("perceptron", "convolutional"))
    for name, size in sizes.items():
        positive_int(name, size)
    if network == "convolutional" and any(length % 4 for length in image_shape):
        raise ValueError(
            f"image_shape must be multiples of 4 for network='convolutional', got {image_shape}; use 'perceptron'"
        )


def _trunk(
    image_shape: tuple[int, int],
    images: int,
    hidden: int,
    network: Network,
    channels: int,
    activation: Callable[[], nn.Module],
) -> nn.Sequential:
    """Return layers from rows of ``images`` images side by side to features ``(..., hidden)``."""
    height, width = image_shape
    if network == "perceptron":
        layers = perceptron(images * height * width, hidden, hidden, activation=activation)
        return nn.Sequential(*layers, activation())
    return nn.Sequential(
        nn.Unflatten(-1, (images, height, width)),
        nn.Conv2d(images, channels, 4, 2, 1),
        activation(),
        nn.Conv2d(channels, 2 * channels, 4, 2, 1),
        activation(),
        nn.Flatten(),
        nn.Linear(2 * channels * (height // 4) * (width // 4), hidden),
        activation(),
    )
