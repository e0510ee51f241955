r"""Minibatch discrimination: how close each example of a batch is to the others, as further features of it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pyro_ext.nn.data_dependent import DataDependentLayer
from pyro_ext.utils.checks import positive_int

__all__ = ["MinibatchDiscrimination", "batch_similarity"]


def batch_similarity(projected: Tensor, exclude_self: bool = False, max_elements: int = 2**24) -> Tensor:
    r"""Return how similar each row is to all rows of its batch, by each of several kernels.

    .. math::  o(x_i)_b = \sum_{j=1}^n \exp(-\lVert M_{i,b} - M_{j,b} \rVert_1).

    Distances are computed for several kernels at a time, so that no tensor has more than ``max_elements`` entries (or
    than one kernel's :math:`n^2`). Where that takes several rounds, the distances are computed again in the backward
    pass instead of being kept.

    Args:
        projected: the rows M, ``(n, B, C)``.
        exclude_self: whether the term j = i, which is 1, is left out.
        max_elements: the number of distances held at once.

    Returns:
        The similarities, ``(n, B)``, each between 1 and n, or between 0 and n - 1 without the row itself.

    Raises:
        ValueError: if ``projected`` has another shape, or ``max_elements`` is not a positive integer.

    Example:
        >>> rows = torch.tensor([[[0.0]], [[0.0]], [[100.0]]])
        >>> batch_similarity(rows).flatten(), batch_similarity(rows, exclude_self=True).flatten()
        (tensor([2., 2., 1.]), tensor([1., 1., 0.]))
    """
    if projected.dim() != 3:
        raise ValueError(f"projected must have shape (n, kernels, kernel_size), got {tuple(projected.shape)}")
    number, kernels = projected.shape[:2]
    together = max(1, positive_int("max_elements", max_elements) // max(1, number**2))
    by_kernel = projected.transpose(0, 1)
    if together >= kernels:
        return _similarity(by_kernel, exclude_self).transpose(0, 1)
    again = projected.requires_grad and torch.is_grad_enabled()
    parts = [
        checkpoint(_similarity, part, exclude_self, use_reentrant=False, preserve_rng_state=False)
        if again
        else _similarity(part, exclude_self)
        for part in by_kernel.split(together)
    ]
    return torch.cat(parts).transpose(0, 1)


class MinibatchDiscrimination(DataDependentLayer):
    r"""Appends to the features f of each example how similar it is to the other examples of the batch.

    .. math::

        M_i = f(x_i) T \in \mathbb{R}^{B \times C}, \qquad
        o(x_i)_b = \sum_{j=1}^n \exp(-\lVert M_{i,b} - M_{j,b} \rVert_1) + a_b,

    so that a discriminator sees when all samples of a generator look alike. Give it real and generated examples in
    separate batches: in a mixed one the similarities of real examples depend on the generator. The bias a is 0 until
    :func:`~pyro_ext.nn.initialize_from_data_` sets it to minus the mean similarity, after it has chosen the length of
    T so that the distance of the nearest neighbour is 2 in the mean.

    Args:
        in_features: the number A of features of an example.
        kernels: the number B of kernels, each of which gives one more feature.
        kernel_size: the number C of dimensions in which a kernel measures distances.
        exclude_self: whether the similarity of an example to itself, always 1, is left out of the sum. The formula of
            the paper has it, the program of the paper leaves it out.
        max_elements: the number of distances held at once, see :func:`batch_similarity`.

    Raises:
        ValueError: if a size is not a positive integer; when called, if the input is not ``(n, in_features)``.

    References:
        | Improved techniques for training GANs (Salimans et al., 2016), section 3.2
        | https://arxiv.org/abs/1606.03498

    Example:
        >>> layer = MinibatchDiscrimination(4, kernels=3, kernel_size=2, exclude_self=True)
        >>> alike = torch.ones(10, 4)
        >>> layer(alike).shape, layer(alike)[0, 4:].detach()
        (torch.Size([10, 7]), tensor([9., 9., 9.]))
    """

    def __init__(
        self,
        in_features: int,
        kernels: int = 50,
        kernel_size: int = 5,
        exclude_self: bool = False,
        max_elements: int = 2**24,
    ) -> None:
        super().__init__()
        self.in_features = positive_int("in_features", in_features)
        self.kernels = positive_int("kernels", kernels)
        self.kernel_size = positive_int("kernel_size", kernel_size)
        self.exclude_self = exclude_self
        self.max_elements = positive_int("max_elements", max_elements)
        self.directions = nn.Parameter(torch.randn(in_features, kernels * kernel_size) / in_features**0.5)
        self.log_length = nn.Parameter(torch.zeros(kernels))
        self.bias = nn.Parameter(torch.zeros(kernels))

    @property
    def out_features(self) -> int:
        """The number A + B of features that come out."""
        return self.in_features + self.kernels

    def forward(self, features: Tensor) -> Tensor:
        """Return the features and the similarities of a batch, ``(n, A + B)``, of features ``(n, A)``.

        Raises:
            ValueError: if the features have another shape.
        """
        if features.dim() != 2 or features.shape[1] != self.in_features:
            raise ValueError(f"features must have shape (n, {self.in_features}), got {tuple(features.shape)}")
        projected = (features @ self.directions).unflatten(1, (self.kernels, self.kernel_size))
        if self.initializing:
            self._initialize(projected)
        projected = projected * self.log_length.exp()[:, None]
        similarity = batch_similarity(projected, self.exclude_self, self.max_elements) + self.bias
        return torch.cat([features, similarity], -1)

    def extra_repr(self) -> str:
        """Return what ``print`` shows."""
        sizes = f"{self.in_features}, kernels={self.kernels}, kernel_size={self.kernel_size}"
        return f"{sizes}, exclude_self={self.exclude_self}"

    def _initialize(self, projected: Tensor) -> None:
        rows = projected.transpose(0, 1)
        nearest = torch.stack([_nearest(kernel) for kernel in rows])  # one by one: this happens once
        usable = nearest.isfinite() & (nearest > 0)
        self.log_length.data.copy_(torch.where(usable, 2 / nearest, torch.ones_like(nearest)).log())
        scaled = projected * self.log_length.exp()[:, None]
        self.bias.data.copy_(-batch_similarity(scaled, self.exclude_self, self.max_elements).mean(0))


def _similarity(by_kernel: Tensor, exclude_self: bool) -> Tensor:
    """Return the similarities, ``(kernels, n)``, of rows ``(kernels, n, C)``."""
    kernel = (-torch.cdist(by_kernel, by_kernel, p=1)).exp()
    if exclude_self:  # not by subtracting 1, which would swallow what is small
        kernel = kernel.masked_fill(_diagonal(kernel), 0.0)
    return kernel.sum(-1)


def _nearest(rows: Tensor) -> Tensor:
    """Return the mean distance of rows ``(n, C)`` to their nearest neighbours; infinite for a single row."""
    distance = torch.cdist(rows, rows, p=1)
    return distance.masked_fill(_diagonal(distance), torch.inf).amin(-1).mean()


def _diagonal(square: Tensor) -> Tensor:
    return torch.eye(square.shape[-1], dtype=torch.bool, device=square.device)
