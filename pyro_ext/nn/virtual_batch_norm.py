r"""Virtual batch normalisation: statistics of a fixed reference batch, and of the example itself."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pyro_ext.utils.checks import positive_int, positive_number

__all__ = ["VirtualBatchNorm", "WithReferenceBatch"]


class VirtualBatchNorm(nn.Module):
    r"""Normalises examples by a reference batch of R examples and by themselves, never by each other.

    The input holds the reference batch in its first R rows, where :class:`WithReferenceBatch` puts it. These are
    normalised by their own mean and variance; every other example x by

    .. math::

        \mu = \frac{1}{R + 1} \bar x + \Big(1 - \frac{1}{R + 1}\Big) \mu_{ref}, \qquad
        \sigma^2 = \frac{1}{R + 1} \overline{x^2} + \Big(1 - \frac{1}{R + 1}\Big) \overline{x_{ref}^2} - \mu^2,

    where bars are means over positions, and over the R examples in the reference batch. What an example becomes does
    not depend on the other ones that are with it, and is the same in training and in evaluation.

    Args:
        num_features: the number of features, or of channels in dimension 1.
        reference_size: the number R of rows of the reference batch.
        eps: what is added to the variance.
        affine: whether there are a gain and a shift for each feature.

    Raises:
        ValueError: if a size is not a positive integer or ``eps`` not positive; when called, if there are fewer rows
            than the reference batch has, or another number of features.

    References:
        | Improved techniques for training GANs (Salimans et al., 2016), section 3.5
        | https://arxiv.org/abs/1606.03498

    Example:
        >>> layer = VirtualBatchNorm(1, reference_size=3)
        >>> reference = torch.tensor([[-1.0], [0.0], [1.0]])
        >>> alone, together = (layer(torch.cat([reference, x]))[3] for x in (torch.ones(1, 1), torch.ones(5, 1)))
        >>> torch.equal(alone, together)
        True
    """

    def __init__(self, num_features: int, reference_size: int, eps: float = 1e-5, affine: bool = True) -> None:
        super().__init__()
        self.num_features = positive_int("num_features", num_features)
        self.reference_size = positive_int("reference_size", reference_size)
        self.eps = positive_number("eps", eps)
        self.weight = nn.Parameter(torch.ones(num_features)) if affine else None
        self.bias = nn.Parameter(torch.zeros(num_features)) if affine else None

    def forward(self, x: Tensor) -> Tensor:
        """Return normalised rows, of the shape of ``x``: ``(R + n, num_features, ...)``."""
        size = self.reference_size
        if x.dim() < 2 or x.shape[1] != self.num_features or len(x) < size:
            raise ValueError(
                f"x must hold the {size} rows of the reference batch and those to normalise, with {self.num_features} "
                f"features each, got shape {tuple(x.shape)}; call the network through WithReferenceBatch"
            )
        positions = (*range(2, x.dim()),)
        moments = torch.stack([x, x.square()])
        own = moments.mean([at + 1 for at in positions], keepdim=True) if positions else moments
        reference = own[:, :size].mean(1, keepdim=True)
        weight = 1 / (size + 1)
        live = weight * own[:, size:] + (1 - weight) * reference
        mean, square = torch.cat([reference.expand_as(own[:, :size]), live], 1)
        y = (x - mean) * (square - mean.square()).clamp_min(0).add(self.eps).rsqrt()
        if self.weight is None or self.bias is None:
            return y
        shape = (-1, *(1,) * len(positions))
        return y * self.weight.reshape(shape) + self.bias.reshape(shape)

    def extra_repr(self) -> str:
        """Return what ``print`` shows."""
        return f"{self.num_features}, reference_size={self.reference_size}, eps={self.eps:g}"


class WithReferenceBatch(nn.Module):
    """A network that is always given a fixed reference batch before its own rows, for :class:`VirtualBatchNorm`.

    It costs as much as a forward pass of both together. The reference batch is a buffer: it is saved with the network.

    Args:
        network: called with rows; all its :class:`VirtualBatchNorm` layers must expect as many as ``reference`` has.
        reference: the reference batch, ``(R, ...)``, such as draws of a generator's noise.

    Raises:
        ValueError: if a layer expects a reference batch of another size, or there is no such layer.

    Example:
        >>> network = nn.Sequential(nn.Linear(2, 3), VirtualBatchNorm(3, reference_size=4), nn.ReLU())
        >>> WithReferenceBatch(network, torch.randn(4, 2))(torch.randn(1, 2)).shape
        torch.Size([1, 3])
    """

    reference: Tensor

    def __init__(self, network: nn.Module, reference: Tensor) -> None:
        super().__init__()
        sizes = {layer.reference_size for layer in network.modules() if isinstance(layer, VirtualBatchNorm)}
        if sizes != {len(reference)}:
            expected = ", ".join(map(str, sorted(sizes))) or "none, for it has no VirtualBatchNorm"
            raise ValueError(
                f"reference must have as many rows as the network expects ({expected}), got {len(reference)}"
            )
        self.network = network
        self.register_buffer("reference", reference.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """Return what the network gives for the rows of ``x``."""
        y: Tensor = self.network(torch.cat([self.reference, x]))
        return y[len(self.reference) :]
