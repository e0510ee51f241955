"""The Pyro programs: the decoder as a model of images given s, and the encoder as its guide."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_ext.models.disentangling.networks import Codes
from pyro_ext.models.toolkit import data_plate
from pyro_ext.utils.checks import nonnegative_number, positive_int, positive_number

__all__ = ["Guide", "Model"]


class Model(PyroModule):
    r"""Images given the codes z, which has a standard Gaussian prior, and s, which has a flat one.

    .. math::  z \sim N(0, I), \qquad x_d \sim N(\mathrm{Dec}(z, s)_d, \sigma^2).

    A flat prior of s and a guide that puts all of s in one place add nothing to the ELBO, which is that of
    :math:`p(x \mid s)`. Since a flat prior cannot be sampled, the model runs with values of s from a guide.

    Args:
        size: the number N of data points that the plate stands for; a batch of B is scaled by N / B.
        decoder: called as ``decoder(z, s)``; returns the means of pixels, ``(..., D)``.
        z_size: the number of features of z.
        s_size: the number of features of s.
        noise: the standard deviation :math:`\sigma` of a pixel. The smaller it is, the more of the image z holds.

    Raises:
        ValueError: if a size is not a positive integer, or ``noise`` is not positive and finite.

    Example:
        >>> from pyro_ext.models.disentangling import Decoder, Encoder, Guide
        >>> model, guide = Model(1500, Decoder((8, 8)), z_size=8, s_size=8), Guide(1500, Encoder((8, 8)))
        >>> x = torch.zeros(100, 64)
        >>> codes = pyro.poutine.trace(guide).get_trace(x)
        >>> trace = pyro.poutine.trace(pyro.poutine.replay(model, codes)).get_trace(x)
        >>> trace.nodes["s"]["value"].shape, trace.nodes["x"]["scale"]
        (torch.Size([100, 8]), 15.0)
    """

    like: Tensor

    def __init__(self, size: int, decoder: nn.Module, z_size: int, s_size: int, noise: float = 0.25) -> None:
        super().__init__()
        self.size = positive_int("size", size)
        self.z_size = positive_int("z_size", z_size)
        self.s_size = positive_int("s_size", s_size)
        self.noise = positive_number("noise", noise)
        self.decoder = decoder
        self.register_buffer("like", torch.zeros(()), persistent=False)  # type and device of what is drawn

    def forward(self, x: Tensor, y: Tensor | None = None, index: Tensor | None = None) -> Tensor:
        """Observe images and return the means of their pixels, ``(..., B, D)``.

        Args:
            x: images, ``(B, D)``.
            y: labels, of no use here.
            index: the places of the images in the data set, ``(B,)``.
        """
        with data_plate(self.size, x, index):
            z = pyro.sample("z", self.prior())
            s = pyro.sample("s", dist.ImproperUniform(constraints.real_vector, (), (self.s_size,)))
            pixels = self.pixels(z, s)
            pyro.sample("x", pixels, obs=x)
        return pixels.mean

    def prior(self) -> dist.TorchDistribution:
        """Return the prior of z, of event shape ``(z_size,)``."""
        return dist.Normal(self.like.new_zeros(self.z_size), self.like.new_ones(self.z_size)).to_event(1)

    def pixels(self, z: Tensor, s: Tensor) -> dist.TorchDistribution:
        """Return the distribution of images given codes, of event shape ``(D,)``."""
        means = self.decoder(z, s)
        return dist.Normal(means, means.new_tensor(self.noise), validate_args=False).to_event(1)


class Guide(PyroModule):
    r"""The encoder: :math:`z \sim N(\mu(x), \mathrm{diag}\, v(x))` and s in one place.

    Args:
        size: the number N of data points that the plate stands for.
        encoder: returns :class:`Codes` of images.
        input_noise: the standard deviation of Gaussian noise on what the encoder sees of images in training. It keeps
            the encoder from learning the training images by heart.

    Raises:
        ValueError: if ``size`` is not a positive integer, or ``input_noise`` is negative or not finite.

    Example:
        >>> from pyro_ext.models.disentangling import Encoder, Guide
        >>> guide = Guide(1500, Encoder((8, 8), z_size=3, s_size=5))
        >>> trace = pyro.poutine.trace(guide).get_trace(torch.zeros(100, 64))
        >>> trace.nodes["z"]["value"].shape, trace.nodes["s"]["value"].shape
        (torch.Size([100, 3]), torch.Size([100, 5]))
    """

    like: Tensor

    def __init__(self, size: int, encoder: nn.Module, input_noise: float = 0.0) -> None:
        super().__init__()
        self.size = positive_int("size", size)
        self.input_noise = nonnegative_number("input_noise", input_noise)
        self.encoder = encoder
        self.register_buffer("like", torch.zeros(()), persistent=False)  # type and device of what is encoded

    def forward(self, x: Tensor, y: Tensor | None = None, index: Tensor | None = None) -> None:
        """Sample the codes of images ``(B, D)``; the arguments are those of the model."""
        codes = self.encode_in_training(x)
        with data_plate(self.size, x, index):
            pyro.sample("z", dist.Normal(codes.z_loc, codes.z_scale).to_event(1))
            pyro.sample("s", dist.Delta(codes.s, event_dim=1))

    def encode_in_training(self, x: Tensor) -> Codes:
        """Return the codes of images ``(..., D)``, in training mode with ``input_noise`` on them."""
        return self.encode(x + self.input_noise * torch.randn_like(x) if self.training and self.input_noise else x)

    def encode(self, x: Tensor) -> Codes:
        """Return the codes of images ``(..., D)`` as they are."""
        codes: Codes = self.encoder(x)
        return codes
