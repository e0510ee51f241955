"""Schedules of the temperature of relaxed variables."""

from __future__ import annotations

import math

import torch

from pyro_ext.utils.checks import nonnegative_number, positive_int, positive_number

__all__ = ["TemperatureSchedule"]


class TemperatureSchedule(torch.nn.Module):
    r"""A temperature that falls with the number of training steps.

    .. math::  \lambda_t = \max\left(\lambda_{\min},\; \lambda_0\, e^{-r\, m \lfloor t / m \rfloor}\right).

    Called without arguments it returns the present temperature. It is a module whose buffers are the temperature and
    the number of steps, so as a part of a model or guide it is saved, restored and moved along with them. Advance it
    by :meth:`step` in a loop of your own; for :func:`pyro_ext.inference.fit` put :meth:`set_num_steps` among the
    ``schedules`` of what is fitted.

    Args:
        initial: the temperature :math:`\lambda_0` at the beginning.
        rate: the relative decrease r of the temperature per step; 0 for a constant temperature.
        floor: the lowest temperature :math:`\lambda_{\min}`, at most ``initial``; if None it is 0.5, or ``initial``
            where ``rate`` is 0.
        every: the number m of steps between two changes of the temperature.

    Raises:
        ValueError: if a temperature is not positive and finite, ``rate`` is negative or not finite, ``floor`` exceeds
            ``initial``, or ``every`` is not a positive integer.

    References:
        | Categorical reparameterization with Gumbel-softmax (Jang et al., 2017), section 4.1
        | https://arxiv.org/abs/1611.01144

    Example:
        >>> schedule = TemperatureSchedule.exponential(1.0, rate=0.1, floor=0.5)
        >>> schedule()
        tensor(1.)
        >>> for _ in range(3):
        ...     schedule.step()
        >>> schedule(), schedule.temperature_at(100)
        (tensor(0.7408), 0.5)
    """

    temperature: torch.Tensor
    num_steps: torch.Tensor

    def __init__(self, initial: float, rate: float = 0.0, floor: float | None = None, every: int = 1) -> None:
        super().__init__()
        self.initial = positive_number("initial", initial)
        self.rate = nonnegative_number("rate", rate)
        if floor is None:
            floor = self.initial if self.rate == 0 else 0.5
        self.floor = positive_number("floor", floor)
        if self.floor > self.initial:
            raise ValueError(
                f"floor={self.floor} exceeds initial={self.initial}: the temperature only falls, give a lower floor"
            )
        self.every = positive_int("every", every)
        self.register_buffer("temperature", torch.tensor(self.initial))
        self.register_buffer("num_steps", torch.tensor(0))

    @classmethod
    def constant(cls, temperature: float) -> TemperatureSchedule:
        """Return a schedule that stays at ``temperature``, as Maddison et al. (2017) train."""
        return cls(temperature)

    @classmethod
    def exponential(cls, initial: float, rate: float, floor: float, every: int = 1) -> TemperatureSchedule:
        """Return a schedule that falls exponentially down to ``floor``."""
        return cls(initial, rate, floor, every)

    @classmethod
    def jang(cls, rate: float = 1e-4, floor: float = 0.5, every: int = 500) -> TemperatureSchedule:
        """Return the schedule of Jang et al. (2017): from 1, updated every 500 or 1000 steps, never below 0.5.

        Args:
            rate: the relative decrease of the temperature per step; the paper tries 1e-5 and 1e-4.
            floor: the lowest temperature.
            every: the number of steps between two changes of the temperature.

        Example:
            >>> TemperatureSchedule.jang().temperature_at(1000)
            0.904...
        """
        return cls(1.0, rate, floor, every)

    def temperature_at(self, num_steps: int) -> float:
        """Return the temperature after ``num_steps`` steps."""
        changed_at = self.every * (num_steps // self.every)
        return max(self.floor, self.initial * math.exp(-self.rate * changed_at))

    def forward(self) -> torch.Tensor:
        """Return the present temperature, shape ``()``, without gradient."""
        return self.temperature.clone()  # the buffer changes in place, which a graph kept for later must not see

    def step(self) -> None:
        """Count one step."""
        self.set_num_steps(int(self.num_steps) + 1)

    def set_num_steps(self, num_steps: int) -> None:
        """Go to the temperature after ``num_steps`` steps.

        Raises:
            ValueError: if ``num_steps`` is not an integer of at least 0.
        """
        self.num_steps.fill_(positive_int("num_steps", num_steps, minimum=0))
        self.temperature.fill_(self.temperature_at(num_steps))

    def extra_repr(self) -> str:
        """Return the arguments, for ``repr``."""
        return f"initial={self.initial}, rate={self.rate}, floor={self.floor}, every={self.every}"
