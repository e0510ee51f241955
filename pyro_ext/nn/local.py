"""Local reparameterisation: normal weights that know their parameters, and operations that make use of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from pyro.ops.provenance import get_provenance, track_provenance
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.distribution import Distribution
from torch.distributions.utils import lazy_property
from torch.nn import functional as F

from pyro_ext.nn.samples import TAG, LazySample, LocalParameters, recall, remember
from pyro_ext.utils.shapes import broadcast_shapes

__all__ = ["LocalNormal", "LocalParameters", "convolution", "linear", "local_parameters"]

_CONVOLUTIONS: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


class LocalNormal(dist.Normal):
    r"""A normal distribution by its log-variance, whose samples are known as such to :func:`linear` and others.

    .. math::  w = \theta + \sigma \epsilon, \qquad \sigma^2 = e^{\text{log\_variance}}, \quad
        \epsilon \sim \mathcal{N}(0, 1).

    What ``rsample()`` returns remembers the parameters for as long as it is the same object and nothing changes it or
    them in place, so through ``.to_event``, ``.mask``, ``.expand``, traces and replays. The operations of this module
    then draw the pre-activations of a layer instead of its weights, which has less variance. Anything else (indexing,
    arithmetic, stacking) sees an ordinary tensor of values and returns ordinary tensors. The values are drawn when they
    are first asked for: where layers draw their pre-activations, they never are. Parameters that an optimiser has
    changed by then are an error. In inference mode samples remember nothing.

    Args:
        loc: the means :math:`\theta`.
        log_variance: the log-variances, broadcastable with ``loc``.
        validate_args: whether to check arguments and values; torch's default if None.

    References:
        | Variational dropout and the local reparameterization trick (Kingma et al., 2015), section 2
        | https://arxiv.org/abs/1506.02557

    Example:
        >>> q = LocalNormal(torch.ones(2, 3), torch.tensor(-8.0))
        >>> q.scale.max()
        tensor(0.0183)
        >>> local_parameters(q.to_event(2).rsample()).loc.shape, local_parameters(q.rsample() + 1)
        (torch.Size([2, 3]), None)
    """

    arg_constraints: ClassVar[dict[str, Any]] = {"loc": constraints.real, "log_variance": constraints.real}

    def __init__(self, loc: Tensor | float, log_variance: Tensor | float, validate_args: bool | None = None) -> None:
        self.loc, self.log_variance = torch.distributions.utils.broadcast_all(loc, log_variance)
        self._unexpanded = LocalParameters(self.loc, self.log_variance)
        Distribution.__init__(self, self.loc.shape, validate_args=validate_args)

    @lazy_property
    def scale(self) -> Tensor:
        """The standard deviations, ``batch_shape``."""
        return (0.5 * self.log_variance).exp()

    @property
    def variance(self) -> Tensor:
        """The variances, ``batch_shape``."""
        return self.log_variance.exp()

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> Any:
        """Return the same distribution broadcast to ``batch_shape``."""
        new = self._get_checked_instance(LocalNormal, _instance)
        new.loc, new.log_variance = self.loc.expand(batch_shape), self.log_variance.expand(batch_shape)
        new._unexpanded = self._unexpanded
        Distribution.__init__(new, torch.Size(batch_shape), validate_args=False)
        new._validate_args = self._validate_args
        return new

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw values, ``sample_shape + batch_shape``, that remember ``loc`` and ``log_variance``."""
        shape = torch.Size(sample_shape) + self.batch_shape

        def draw() -> Tensor:
            noise = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
            return torch.addcmul(self.loc, self.scale, noise)

        value = LazySample(draw, shape, self.loc)
        remember(value, TAG, self._unexpanded)
        return value

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-density, of the shape to which ``value`` and ``batch_shape`` broadcast."""
        if self._validate_args:
            self._validate_sample(value)
        deviation = (value - self.loc).square() * (-self.log_variance).exp()
        return -0.5 * (deviation + self.log_variance + math.log(2 * math.pi))


def local_parameters(weight: Tensor) -> LocalParameters | None:
    """Return the parameters of the :class:`LocalNormal` that a weight is a sample of, or None.

    Args:
        weight: any tensor; the values themselves, for what is computed from them is not known.

    Example:
        >>> local_parameters(torch.zeros(3)) is None
        True
    """
    return recall(weight, TAG)


def of_shape(parameters: LocalParameters | None, shape: Sequence[int]) -> LocalParameters | None:
    """Return the parameters of all entries of a weight, or None if there are none or they have batch dims, too.

    Args:
        parameters: of a distribution that may have been expanded since.
        shape: that of the weight without batch dims.
    """
    if parameters is None or parameters.loc.dim() > len(shape):
        return None
    if parameters.loc.shape == shape:  # the traced graph of a compiled program would hold the weight, whose shape it is
        return parameters
    return LocalParameters(*(x.expand(*shape) for x in parameters))


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, local: bool = True) -> Tensor:
    r"""Return :math:`x W^T + b`, by local reparameterisation where the weight is a sample of a :class:`LocalNormal`.

    Then each pre-activation is drawn by itself, with the mean and variance that it has under the weights:

    .. math::  y \sim \mathcal{N}(x\, \theta^T + b,\; x^2\, (\sigma^2)^T).

    The weights' own values are not used, and rows of ``x`` are as if each had weights of its own. That is right in
    the expectation of anything linear in the rows' log-likelihoods, and wrong where one weight must act on several
    inputs.

    Args:
        x: inputs, ``(..., I)``.
        weight: weights, ``(O, I)``, or with batch dims such as ``(P, 1, O, I)`` that broadcast with those of ``x``.
        bias: offsets ``(O,)``, or None.
        local: whether to use local reparameterisation where it can be.

    Returns:
        ``(..., O)``.

    Example:
        >>> w = LocalNormal(torch.ones(2, 3), torch.tensor(-60.0)).rsample()
        >>> linear(torch.ones(1, 3), w)
        tensor([[3., 3.]])
        >>> linear(torch.ones(5, 3), w.expand(7, 1, 2, 3)).shape  # seven particles
        torch.Size([7, 5, 2])
    """
    parameters = of_shape(local_parameters(weight), weight.shape[-2:]) if local else None
    batch_shape = broadcast_shapes(x.shape[:-1], weight.shape[:-2]) if weight.dim() > 2 else x.shape[:-1]
    if parameters is None:
        if weight.dim() == 2:
            return F.linear(x, weight, bias)
        if weight.shape[-3] == 1:  # one weight for all rows
            y = x @ weight.squeeze(-3).mT if x.dim() > 1 else (weight @ x.unsqueeze(-1)).squeeze(-1)
        else:
            y = (weight @ x.unsqueeze(-1)).squeeze(-1)
        return y if bias is None else y + bias
    mean = F.linear(x, parameters.loc, bias)
    variance = F.linear(x.square(), parameters.log_variance.exp())
    return _drawn(mean, variance, batch_shape + mean.shape[-1:], weight)


def convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    num_spatial: int = 2,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | str = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    local: bool = True,
) -> Tensor:
    r"""Return a convolution, by local reparameterisation where the weight is a sample of a :class:`LocalNormal`.

    As :func:`linear`, with a convolution in place of the matrix product. Noise is drawn for each position: the mean
    and variance of each are exact, but the covariance between positions that share a weight is not kept.

    Args:
        x: inputs, ``(..., I, *positions)``, with any number of batch dims.
        weight: weights ``(O, I / groups, *kernel)``, or with batch dims such as ``(P, 1, O, I / groups, *kernel)``
            that broadcast with those of ``x``.
        bias: offsets ``(O,)``, or None.
        num_spatial: the number of spatial dims, 1, 2 or 3.
        stride: the step of the kernel, as for :func:`torch.nn.functional.conv2d`.
        padding: the zeros added on both sides of each spatial dim, or ``"same"`` or ``"valid"``.
        dilation: the distance between points of the kernel.
        groups: the number of groups of channels without connections between them.
        local: whether to use local reparameterisation where it can be.

    Returns:
        Batch dims, then ``(O, *positions)``.

    Raises:
        ValueError: if the weight has a batch dim besides particles, as one weight for each datum has.

    Example:
        >>> q = LocalNormal(torch.ones(4, 2, 3, 3), torch.tensor(-60.0))
        >>> convolution(torch.ones(5, 2, 8, 8), q.rsample(), padding=1).shape
        torch.Size([5, 4, 8, 8])
        >>> convolution(torch.ones(5, 2, 8, 8), q.expand((7, 1, 4, 2, 3, 3)).rsample()).shape  # seven particles
        torch.Size([7, 5, 4, 6, 6])
    """
    event_dim = num_spatial + 2
    of_weight, of_x = weight.shape[:-event_dim], x.shape[: -num_spatial - 1]
    batch_shape = broadcast_shapes(of_weight, of_x)

    def convolve(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        flat = x.reshape(-1, *x.shape[-num_spatial - 1 :])
        y = _CONVOLUTIONS[num_spatial](flat, weight, bias, stride, padding, dilation, groups)
        return y.reshape(*x.shape[: -num_spatial - 1], *y.shape[1:])

    parameters = of_shape(local_parameters(weight), weight.shape[-event_dim:]) if local else None
    if parameters is not None:
        mean = convolve(x, parameters.loc, bias)
        variance = convolve(x.square(), parameters.log_variance.exp(), None)
        return _drawn(mean, variance, batch_shape + mean.shape[-num_spatial - 1 :], weight)
    if of_weight.numel() == 1:
        y = convolve(x, weight.reshape(weight.shape[-event_dim:]), bias)
        return y.reshape(batch_shape + y.shape[-num_spatial - 1 :])
    num_rows = len(of_weight) - 1
    if of_weight[1:].numel() > 1 or len(of_x) not in (num_rows, num_rows + 1):
        raise ValueError(
            f"weight has batch dims {tuple(of_weight)} and x {tuple(of_x)}: besides particles on the left, whose rows "
            "share their weights, there is no convolution of several weights; call the layer outside of data plates"
        )
    weight = weight.reshape(of_weight[:1] + weight.shape[-event_dim:])
    over_x = 0 if len(of_x) == num_rows + 1 and of_x[0] > 1 else None
    x = x if over_x == 0 or len(of_x) == num_rows else x.squeeze(0)
    return torch.vmap(lambda x, weight: convolve(x, weight, bias), (over_x, 0))(x, weight)


def _drawn(mean: Tensor, variance: Tensor, shape: torch.Size, weight: Tensor) -> Tensor:
    """Return pre-activations of this shape, with the provenance of the weight whose place they take."""
    # a row of zeros has no variance, where the root has no gradient
    scale = (variance + max(1e-16, torch.finfo(variance.dtype).tiny)).sqrt()
    y = torch.addcmul(mean, scale, torch.randn(shape, dtype=mean.dtype, device=mean.device))
    tracked: Tensor = track_provenance(y, get_provenance(weight))
    return tracked
