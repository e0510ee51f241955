"""The Pyro program of a digit on a canvas, and its guide, which looks for the digit first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_ext.models.hard_attention.canvas import DigitOnCanvas
from pyro_ext.models.toolkit import data_plate, perceptron
from pyro_ext.ops.windows import crop_windows
from pyro_ext.utils.checks import one_of, positive_int

__all__ = ["DensePositionScores", "Guide", "Model", "PositionScores", "Scores"]

Scores = Literal["convolutional", "dense"]

_BACKGROUND = -4.0  # the logit at the start: 2 % of the pixels are on


class PositionScores(nn.Module):
    """A convolutional network that scores every pixel of a canvas as the position of the digit.

    It works at half the resolution, where dilated filters see 32 x 32 pixels, and interleaves four channels of scores.

    Args:
        channels: the number of channels of its layers.

    Raises:
        ValueError: if ``channels`` is not a positive integer.

    Example:
        >>> PositionScores(channels=8)(torch.zeros(2, 41, 68)).shape
        torch.Size([2, 41, 68])
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        positive_int("channels", channels)
        self.layers = nn.Sequential(
            nn.Conv2d(1, channels, 4, stride=2, padding=1),
            nn.ReLU(),
            *(layer for dilation in (1, 2, 4) for layer in (_dilated(channels, dilation), nn.ReLU())),
            nn.Conv2d(channels, 4, 1),
            nn.PixelShuffle(2),
        )

    def forward(self, canvases: Tensor) -> Tensor:
        """Return scores ``(B, H, W)`` of canvases ``(B, H, W)``."""
        height, width = canvases.shape[-2:]
        even = F.pad(canvases, (0, width % 2, 0, height % 2))
        scores: Tensor = self.layers(even.unsqueeze(-3)).squeeze(-3)
        return scores[..., :height, :width]


class DensePositionScores(nn.Module):
    """A linear map from every pixel of a canvas to the score of every position; places share nothing.

    Its number of weights is the square of the number of pixels: 21 million for a canvas of 68 x 68.

    Args:
        shape: height H and width W of a canvas in pixels.

    Example:
        >>> DensePositionScores((4, 5))(torch.zeros(2, 4, 5)).shape
        torch.Size([2, 4, 5])
    """

    def __init__(self, shape: tuple[int, int]) -> None:
        super().__init__()
        self.layer = nn.Linear(shape[0] * shape[1], shape[0] * shape[1])

    def forward(self, canvases: Tensor) -> Tensor:
        """Return scores ``(B, H, W)`` of canvases ``(B, H, W)``."""
        scores: Tensor = self.layer(canvases.flatten(-2))
        return scores.view_as(canvases)


class Model(PyroModule):
    """The prior of positions and styles, and the decoder of the digit.

    Args:
        size: the number of canvases, which the plate stands for.
        shape: height H and width W of a canvas in pixels.
        window: the height and width of the digit's window in pixels.
        latent_dim: the number of dimensions of the style z.
        hidden: the widths of the decoder's hidden layers.

    Raises:
        ValueError: if a number is not a positive integer, or the window exceeds the canvas.

    Example:
        >>> model = Model(size=100, shape=(68, 68), window=28)
        >>> trace = pyro.poutine.trace(model).get_trace(torch.zeros(5, 68 * 68))
        >>> trace.nodes["position"]["value"].shape, trace.nodes["x"]["scale"]
        (torch.Size([5]), 20.0)
    """

    prior_logits: Tensor

    def __init__(
        self, size: int, shape: tuple[int, int], window: int = 28, latent_dim: int = 5, hidden: Sequence[int] = (256,)
    ) -> None:
        super().__init__()
        _check_sizes(size, shape, window, latent_dim)
        self.size = size
        self.shape = shape
        self.window = window
        self.latent_dim = latent_dim
        self.decoder = perceptron(latent_dim, *hidden, window * window)
        self.background = nn.Parameter(torch.tensor(_BACKGROUND))
        self.register_buffer("prior_logits", torch.zeros(shape[0] * shape[1]))

    def forward(self, x: Tensor, y: Tensor | None = None, index: Tensor | None = None) -> None:
        """Sample positions and styles, and observe canvases.

        Args:
            x: binary canvases, ``(B, H * W)``.
            y: true positions, of no use here.
            index: the places of the canvases in the data set, shape ``(B,)``.

        Raises:
            ValueError: if ``x`` has another shape.
        """
        _check_batch(x, self.shape)
        with data_plate(self.size, x, index):
            position = pyro.sample("position", dist.Categorical(logits=self.prior_logits))
            z = pyro.sample("z", self.style_prior())
            pyro.sample("x", self.canvas(position, z), obs=x)

    def canvas(self, position: Tensor, z: Tensor) -> DigitOnCanvas:
        """Return the distribution of canvases given positions and styles."""
        logits = self.decoder(z).unflatten(-1, (self.window, self.window))
        return DigitOnCanvas(logits, position, self.background, self.shape)

    def style_prior(self) -> Any:
        """Return the distribution of the style, of event shape ``(latent_dim,)``."""
        zeros = self.prior_logits.new_zeros(self.latent_dim)
        return dist.Normal(zeros, torch.ones_like(zeros)).to_event(1)


class Guide(PyroModule):
    """The attention over positions, and the encoder of the crop at one of them.

    Args:
        size: as in :class:`Model`, like all others up to ``hidden``.
        shape: height H and width W of a canvas in pixels.
        window: the height and width of a crop in pixels.
        latent_dim: the number of dimensions of the style z.
        hidden: the widths of the encoder's hidden layers.
        channels: the number of channels of the network that scores positions.
        marginalise: whether the site ``position`` is marked for Pyro's own enumeration, which needs a small canvas.
        scores: what scores positions: a ``"convolutional"`` network, or a ``"dense"`` layer from every pixel to every
            position.

    Raises:
        ValueError: if a number is not a positive integer, the window exceeds the canvas, or there are no such scores.

    Example:
        >>> guide = Guide(size=100, shape=(68, 68), window=28)
        >>> guide.attend(torch.zeros(5, 68 * 68)).shape
        torch.Size([5, 4624])
    """

    def __init__(
        self,
        size: int,
        shape: tuple[int, int],
        window: int = 28,
        latent_dim: int = 5,
        hidden: Sequence[int] = (256,),
        channels: int = 8,
        marginalise: bool = False,
        scores: Scores = "convolutional",
    ) -> None:
        super().__init__()
        _check_sizes(size, shape, window, latent_dim)
        one_of("scores", scores, get_args(Scores))
        self.size = size
        self.shape = shape
        self.window = window
        self.infer = {"enumerate": "parallel"} if marginalise else {}
        self.scores = PositionScores(channels) if scores == "convolutional" else DensePositionScores(shape)
        self.encoder = perceptron(window * window, *hidden, 2 * latent_dim)

    def forward(self, x: Tensor, y: Tensor | None = None, index: Tensor | None = None) -> None:
        """Sample positions, and the styles of the digits there.

        Args:
            x: binary canvases, ``(B, H * W)``.
            y: true positions, of no use here.
            index: the places of the canvases in the data set, shape ``(B,)``.

        Raises:
            ValueError: if ``x`` has another shape.
        """
        _check_batch(x, self.shape)
        with data_plate(self.size, x, index):
            d = dist.Categorical(logits=self.attend(x))
            position = pyro.sample("position", d, infer=dict(self.infer))
            pyro.sample("z", self.style(x, position).to_event(1))

    def attend(self, x: Tensor) -> Tensor:
        """Return the logits of all positions, ``(B, H * W)``, of canvases ``(B, H * W)``."""
        return self.scores(x.unflatten(-1, self.shape)).flatten(-2)

    def style(self, x: Tensor, position: Tensor) -> dist.Normal:
        """Return the distribution of the style of what is at a position; canvases ``(B, H * W)``, positions ``(...)``.

        Positions may also be weights, ``(..., H * W)``.
        """
        crop = crop_windows(x.unflatten(-1, self.shape), position, self.window)
        loc, raw_scale = self.encoder(crop.flatten(-2)).chunk(2, -1)
        return dist.Normal(loc, F.softplus(raw_scale) + torch.finfo(loc.dtype).eps)


def _dilated(channels: int, dilation: int) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation)


def _check_sizes(size: int, shape: tuple[int, int], window: int, latent_dim: int) -> None:
    positive_int("size", size)
    positive_int("latent_dim", latent_dim)
    positive_int("window", window, maximum=min(shape))


def _check_batch(x: Tensor, shape: tuple[int, int]) -> None:
    if x.dim() != 2 or x.shape[-1] != shape[0] * shape[1]:
        raise ValueError(f"x must have shape (batch, {shape[0] * shape[1]}), got {tuple(x.shape)}")
    if len(x) == 0:
        raise ValueError("x must hold at least one canvas, got none: a plate cannot be scaled from an empty batch")
