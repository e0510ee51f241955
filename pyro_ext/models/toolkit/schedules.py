"""How the learning rate falls."""

from __future__ import annotations

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from pyro_ext.utils.checks import nonnegative_number

__all__ = ["ConstantThenLinear"]


class ConstantThenLinear(LambdaLR):
    """A learning rate that stays, and then falls linearly to zero.

    Args:
        optimizer: the optimiser.
        start: the number of epochs after which it begins to fall.
        end: the number of epochs after which it would be zero.

    Raises:
        ValueError: if ``start`` is negative, or not below ``end``.

    Example:
        >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        >>> schedule = ConstantThenLinear(optimizer, start=2, end=6)
        >>> for _ in range(5):
        ...     optimizer.step()
        ...     schedule.step()
        >>> schedule.get_last_lr()
        [0.25]
    """

    def __init__(self, optimizer: Optimizer, start: float, end: float) -> None:
        self.start, self.end = nonnegative_number("start", start), nonnegative_number("end", end)
        if self.start >= self.end:
            raise ValueError(f"start must be below end, got start={start} and end={end}")
        super().__init__(optimizer, self._factor)

    def _factor(self, epoch: int) -> float:
        return min(1.0, max(0.0, (self.end - epoch) / (self.end - self.start)))
