"""Log-normal variables that know their parameters, and one draw of them for each row of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_ext.nn.local import local_parameters, of_shape
from pyro_ext.nn.samples import LocalParameters, recall, remember
from pyro_ext.utils.shapes import broadcast_shapes

__all__ = ["LocalLogNormal", "drawn_per_row", "log_parameters"]

_TAG = "_pyro_ext_log_parameters"


class LocalLogNormal(dist.LogNormal):
    r"""A log-normal distribution by the log-variance of the logarithm, whose samples are known as such.

    .. math::  z = \exp(\mu + \sigma \epsilon), \qquad \sigma^2 = e^{\text{log\_variance}}, \quad
        \epsilon \sim \mathcal{N}(0, 1).

    As :class:`LocalNormal`, for positive variables: :func:`drawn_per_row` draws them anew for each row of a batch.
    ``kl_divergence`` from Gamma and InverseGamma is registered for log-normal distributions.

    Args:
        loc: the means of the logarithm.
        log_variance: its log-variances, broadcastable with ``loc``.
        validate_args: whether to check arguments and values; torch's default if None.

    Example:
        >>> q = LocalLogNormal(torch.zeros(3), torch.tensor(-60.0))
        >>> drawn_per_row(q.rsample(), rows=2)
        tensor([[1., 1., 1.],
                [1., 1., 1.]])
    """

    arg_constraints: ClassVar[dict[str, Any]] = {"loc": constraints.real, "log_variance": constraints.real}

    def __init__(self, loc: Tensor | float, log_variance: Tensor | float, validate_args: bool | None = None) -> None:
        loc, self.log_variance = torch.distributions.utils.broadcast_all(loc, log_variance)
        self._unexpanded = LocalParameters(loc, self.log_variance)
        super().__init__(loc, (0.5 * self.log_variance).exp(), validate_args=validate_args)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> Any:
        """Return the same distribution broadcast to ``batch_shape``."""
        new = self._get_checked_instance(LocalLogNormal, _instance)
        new.log_variance, new._unexpanded = self.log_variance.expand(batch_shape), self._unexpanded
        return super().expand(batch_shape, _instance=new)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw values, ``sample_shape + batch_shape``, that remember ``loc`` and ``log_variance``."""
        value = super().rsample(torch.Size(sample_shape))
        remember(value, _TAG, self._unexpanded)
        return value


def log_parameters(value: Tensor) -> LocalParameters | None:
    """Return the parameters of the :class:`LocalLogNormal` that a value is a sample of, or None.

    Args:
        value: any tensor; what is computed from a sample is no sample.

    Example:
        >>> log_parameters(torch.ones(3)) is None
        True
    """
    return recall(value, _TAG)


def drawn_per_row(value: Tensor, rows: int | None) -> Tensor:
    """Return one draw for each row of a batch, where the value is a sample of a local distribution.

    Args:
        value: a sample, ``(..., D)``; batch dims such as ``(P, 1)`` of particles come first.
        rows: the number B of rows; the value as it is if None.

    Returns:
        ``(..., B, D)`` for samples of :class:`LocalNormal` and :class:`LocalLogNormal` with parameters ``(D,)``;
        otherwise the value, which is then the same for all rows.

    Example:
        >>> drawn_per_row(torch.ones(3), rows=2)
        tensor([1., 1., 1.])
    """
    normal, log_normal = local_parameters(value), log_parameters(value)
    noise = of_shape(log_normal if normal is None else normal, value.shape[-1:])
    if rows is None or noise is None:
        return value
    shape = broadcast_shapes(value.shape[:-1], (rows,)) + noise.loc.shape
    epsilon = torch.randn(shape, dtype=noise.loc.dtype, device=noise.loc.device)
    draws = torch.addcmul(noise.loc, (0.5 * noise.log_variance).exp(), epsilon)
    return draws.exp() if normal is None else draws
