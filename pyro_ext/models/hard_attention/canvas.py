"""A digit in a window of an empty canvas, as a distribution of binary pixels."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints
from torch.nn import functional as F

from pyro_ext.ops.windows import crop_windows, place_windows, window_mask
from pyro_ext.utils.shapes import broadcast_shapes

__all__ = ["DigitOnCanvas"]


class DigitOnCanvas(TorchDistribution):
    r"""Independent binary pixels: a digit's logits in a window, those of the background around it.

    With :math:`\ell` the logits in the window, b the background's, and :math:`\zeta(a) = \log(1 + e^a)`,

    .. math::  \log p(x) = \sum_d \big[ x_d b - \zeta(b) \big]
        + \sum_{d\, \in\, \mathrm{window}} \big[ x_d (\ell_d - b) - \zeta(\ell_d) + \zeta(b) \big],

    so that the pixels outside of the window are counted once for all positions. With weights instead of a position the
    logits of the canvas are the average over positions by weight.

    Args:
        logits: the logits of the digit's pixels, ``batch_shape + (size, size)``.
        position: int64 ``batch_shape``, row times W plus column, or weights ``batch_shape + (H * W,)``; batch shapes
            broadcast.
        background: the logit of the other pixels, ``()``.
        shape: height H and width W of the canvas.
        validate_args: whether values are checked; Pyro's default if None.

    Example:
        >>> d = DigitOnCanvas(torch.full((2, 2), 40.0), torch.tensor(5), torch.tensor(-40.0), (3, 4))
        >>> d.sample().view(3, 4).int()
        tensor([[1, 1, 0, 0],
                [1, 1, 0, 0],
                [0, 0, 0, 0]], dtype=torch.int32)
        >>> d.log_prob(d.sample())
        tensor(0.)
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.independent(constraints.boolean, 1)
    """Zeros and ones, ``(H * W,)``."""

    has_rsample = False

    def __init__(
        self,
        logits: Tensor,
        position: Tensor,
        background: Tensor,
        shape: tuple[int, int],
        validate_args: bool | None = None,
    ) -> None:
        self.logits, self.position, self.background, self.shape_of_canvas = logits, position, background, shape
        own = position.shape[:-1] if position.is_floating_point() else position.shape
        batch_shape = broadcast_shapes(logits.shape[:-2], own)
        super().__init__(batch_shape, torch.Size([shape[0] * shape[1]]), validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> DigitOnCanvas:
        """Return the distribution with another batch shape, of which it is a part."""
        batch_shape = torch.Size(batch_shape)
        logits = self.logits.expand(batch_shape + self.logits.shape[-2:])
        return DigitOnCanvas(logits, self.position, self.background, self.shape_of_canvas, validate_args=False)

    @property
    def canvas_logits(self) -> Tensor:
        """The logits of all pixels, ``batch_shape + (H, W)``."""
        return self.background + place_windows(self.logits - self.background, self.position, self.shape_of_canvas)

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draw canvases, ``sample_shape + batch_shape + (H * W,)``."""
        probs = self.canvas_logits.sigmoid().flatten(-2)
        return torch.bernoulli(probs.expand(torch.Size(sample_shape) + self.batch_shape + self.event_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-probability of canvases ``(..., H * W)``."""
        if self._validate_args:
            self._validate_sample(value)
        if self.position.is_floating_point():
            logits = self.canvas_logits.flatten(-2)
            return (value * logits - F.softplus(logits)).sum(-1)
        around = F.softplus(self.background)
        empty = value.sum(-1) * self.background - value.shape[-1] * around
        size = self.logits.shape[-1]
        pixels = crop_windows(value.unflatten(-1, self.shape_of_canvas), self.position, size)
        gain = pixels * (self.logits - self.background) - F.softplus(self.logits) + around
        inside = window_mask(self.position, self.shape_of_canvas, size)
        return empty + (gain * inside).sum((-1, -2))
