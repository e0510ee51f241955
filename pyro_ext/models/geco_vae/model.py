"""The prior, the decoder and the encoder of images."""

from __future__ import annotations

from typing import Literal

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_ext.models.toolkit import data_plate, perceptron
from pyro_ext.utils.checks import nonnegative_number, one_of, positive_int, positive_number

__all__ = ["Architecture", "DivergenceWeight", "Guide", "Likelihood", "Model"]

Architecture = Literal["perceptron", "convolutional"]
Likelihood = Literal["normal", "calibrated", "bernoulli"]

_LEAST_LOG_SCALE = -6.0  # of a calibrated decoder: pixels that are always 0 would let it fall for ever


class DivergenceWeight(nn.Module):
    """The weight of prior and guide in the loss, which the model and the guide share.

    Args:
        value: the weight at the beginning.
    """

    value: Tensor

    def __init__(self, value: float = 1.0) -> None:
        super().__init__()
        self.register_buffer("value", torch.tensor(positive_number("beta", value)))


class Model(PyroModule):
    """The prior and the decoder.

    Args:
        size: the number N of data points that the plate stands for; a batch of b is scaled by N / b.
        image_shape: height and width.
        num_latents: the number of latent variables.
        hidden: the widths of the hidden layers of the encoder, in reverse order those of the decoder.
        architecture: fully connected, or two convolutions with strides 2 next to the image.
        likelihood: of the pixels: ``"normal"`` with a given standard deviation, ``"calibrated"`` with one that is
            learnt, or ``"bernoulli"``.
        sigma: the standard deviation of normal pixels, or where it begins.
        weight: the weight of the prior.

    Raises:
        ValueError: if an argument is out of range.

    Example:
        >>> model = Model(size=1500, image_shape=(8, 8), num_latents=2)
        >>> trace = pyro.poutine.trace(model).get_trace(torch.zeros(100, 64))
        >>> trace.nodes["z"]["value"].shape, trace.nodes["x"]["scale"]
        (torch.Size([100, 2]), 15.0)
    """

    zero: Tensor

    def __init__(
        self,
        size: int,
        image_shape: tuple[int, int],
        num_latents: int = 10,
        hidden: tuple[int, ...] = (128,),
        architecture: Architecture = "perceptron",
        likelihood: Likelihood = "normal",
        sigma: float = 1.0,
        weight: DivergenceWeight | None = None,
    ) -> None:
        super().__init__()
        self.size = positive_int("size", size)
        self.image_shape = image_shape
        self.num_latents = positive_int("num_latents", num_latents)
        self.likelihood = one_of("likelihood", likelihood, ("normal", "calibrated", "bernoulli"))
        self.decoder = _decoder(num_latents, hidden, image_shape, architecture)
        log_scale = torch.tensor(positive_number("sigma", sigma)).log()
        if likelihood == "calibrated":
            self.log_scale = nn.Parameter(log_scale)
        else:
            self.register_buffer("log_scale", log_scale)
        self.register_buffer("zero", torch.zeros(()))
        self.weight = DivergenceWeight() if weight is None else weight

    def forward(self, x: Tensor, y: Tensor | None = None, index: Tensor | None = None) -> Tensor:
        """Sample codes and observe ``x``, shape ``(B, pixels)``; return the means of the pixels.

        Args:
            x: images as rows of pixels.
            y: labels, of no use here.
            index: the rows of ``x`` in the data set, shape ``(B,)``.

        Raises:
            ValueError: if ``x`` has another shape.
        """
        _check_batch(x, self.image_shape)
        with data_plate(self.size, x, index):
            with pyro.poutine.scale(scale=self.weight.value):
                prior = dist.Normal(self.zero, 1.0).expand([self.num_latents]).to_event(1)
                z = pyro.sample("z", prior)
            pixels = self.pixels(z)
            pyro.sample("x", pixels, obs=x)
        return pixels.mean

    def pixels(self, z: Tensor) -> dist.TorchDistribution:
        """Return the distribution of the pixels, shape ``(..., pixels)``, for codes ``(..., num_latents)``."""
        output = self.decoder(z.reshape(-1, z.shape[-1])).reshape(*z.shape[:-1], -1)
        if self.likelihood == "bernoulli":
            return dist.Bernoulli(logits=output, validate_args=False).to_event(1)  # shades of grey are welcome
        return dist.Normal(output.sigmoid(), self.scale()).to_event(1)

    def scale(self) -> Tensor:
        """Return the standard deviation of normal pixels, shape ``()``."""
        return self.log_scale.clamp_min(_LEAST_LOG_SCALE).exp()


class Guide(PyroModule):
    """The encoder.

    Args:
        size: as in :class:`Model`, like the others.
        image_shape: height and width.
        num_latents: the number of latent variables.
        hidden: the widths of the hidden layers.
        architecture: fully connected, or two convolutions with strides 2.
        input_noise: the standard deviation of noise on images in training.
        weight: the weight of the guide in the loss; that of the model.

    Raises:
        ValueError: if an argument is out of range.

    Example:
        >>> guide = Guide(size=1500, image_shape=(8, 8), num_latents=2)
        >>> guide.encode(torch.zeros(100, 64))
        Independent(Normal(loc: torch.Size([100, 2]), scale: torch.Size([100, 2])), 1)
    """

    def __init__(
        self,
        size: int,
        image_shape: tuple[int, int],
        num_latents: int = 10,
        hidden: tuple[int, ...] = (128,),
        architecture: Architecture = "perceptron",
        input_noise: float = 0.0,
        weight: DivergenceWeight | None = None,
    ) -> None:
        super().__init__()
        self.size = positive_int("size", size)
        self.image_shape = image_shape
        self.input_noise = nonnegative_number("input_noise", input_noise)
        self.encoder = _encoder(positive_int("num_latents", num_latents), hidden, image_shape, architecture)
        self.weight = DivergenceWeight() if weight is None else weight

    def forward(self, x: Tensor, y: Tensor | None = None, index: Tensor | None = None) -> Tensor:
        """Sample codes of ``x``, shape ``(B, pixels)``; return them, shape ``(..., B, num_latents)``.

        Args:
            x: images as rows of pixels.
            y: labels, of no use here.
            index: the rows of ``x`` in the data set, shape ``(B,)``.

        Raises:
            ValueError: if ``x`` has another shape.
        """
        _check_batch(x, self.image_shape)
        if self.training and self.input_noise > 0:
            x = x + self.input_noise * torch.randn_like(x)
        with data_plate(self.size, x, index), pyro.poutine.scale(scale=self.weight.value):
            z: Tensor = pyro.sample("z", self.encode(x))
        return z

    def encode(self, x: Tensor) -> dist.TorchDistribution:
        """Return the distribution of the codes, shape ``(..., num_latents)``, of images ``(..., pixels)``."""
        loc, log_scale = self.encoder(x).chunk(2, -1)
        return dist.Normal(loc, log_scale.exp()).to_event(1)


def _encoder(num_latents: int, hidden: tuple[int, ...], shape: tuple[int, int], architecture: str) -> nn.Module:
    if one_of("architecture", architecture, ("perceptron", "convolutional")) == "perceptron":
        return perceptron(shape[0] * shape[1], *hidden, 2 * num_latents)
    channels, (_, smaller) = _channels(hidden), _sizes(shape)
    return nn.Sequential(
        nn.Unflatten(-1, (1, *shape)),
        nn.Conv2d(1, channels // 2, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(channels // 2, channels, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(-3),
        *perceptron(channels * smaller[0] * smaller[1], *hidden, 2 * num_latents),
    )


def _decoder(num_latents: int, hidden: tuple[int, ...], shape: tuple[int, int], architecture: str) -> nn.Module:
    if one_of("architecture", architecture, ("perceptron", "convolutional")) == "perceptron":
        return perceptron(num_latents, *reversed(hidden), shape[0] * shape[1])
    channels, (small, smaller) = _channels(hidden), _sizes(shape)
    return nn.Sequential(
        *perceptron(num_latents, *reversed(hidden), channels * smaller[0] * smaller[1]),
        nn.ReLU(),
        nn.Unflatten(-1, (channels, *smaller)),
        _upwards(channels, channels // 2, small),
        nn.ReLU(),
        _upwards(channels // 2, 1, shape),
        nn.Flatten(-3),
    )


def _upwards(channels: int, outputs: int, shape: tuple[int, int]) -> nn.Module:
    """Return the convolution that leads back to a shape from half of it, rounded up."""
    odd = [1 - size % 2 for size in shape]
    return nn.ConvTranspose2d(channels, outputs, 3, stride=2, padding=1, output_padding=(odd[0], odd[1]))


def _sizes(shape: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the shape after one and two convolutions with strides 2."""
    small = (-(-shape[0] // 2), -(-shape[1] // 2))
    return small, (-(-small[0] // 2), -(-small[1] // 2))


def _channels(hidden: tuple[int, ...]) -> int:
    if not hidden:
        raise ValueError("hidden must hold at least one width for convolutions, got none")
    return max(2, hidden[0] // 4)


def _check_batch(x: Tensor, shape: tuple[int, int]) -> None:
    if x.dim() != 2 or x.shape[-1] != shape[0] * shape[1]:
        raise ValueError(f"x must have shape (batch, {shape[0] * shape[1]}), got {tuple(x.shape)}")
