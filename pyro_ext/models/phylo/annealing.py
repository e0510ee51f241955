"""From the prior to the posterior, in the course of training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pyro_ext.models.phylo.variational import TopologyModel
from pyro_ext.utils.checks import positive_int

__all__ = ["Annealing", "without_annealing"]


class Annealing:
    r"""Sets an inverse temperature from the number of training steps.

    .. math::  \beta_t = \min(1,\; \beta_0 + t / T).

    What is set is a buffer, saved with the model; nothing else is to be remembered, so a resumed run has it right.

    Args:
        model: what is annealed.
        start: :math:`\beta_0`.
        num_steps: T; the inverse temperature is 1 from the beginning if it is 0.

    Raises:
        ValueError: if ``start`` is not in (0, 1], or ``num_steps`` is no integer of at least 0.

    References:
        | Variational Bayesian phylogenetic inference (Zhang and Matsen, 2019), section 4.1
        | https://openreview.net/forum?id=SJVmjjR9FX

    Example:
        >>> from pyro_ext.phylo import Alignment
        >>> model = TopologyModel(Alignment.from_sequences({"a": "ACGT", "b": "ACGA", "c": "AGGA", "d": "AGGT"}))
        >>> annealing = Annealing(model, start=0.001, num_steps=100_000)
        >>> annealing(20_000)
        >>> model.inverse_temperature
        tensor(0.2010, dtype=torch.float64)
    """

    def __init__(self, model: TopologyModel, start: float = 0.001, num_steps: int = 100_000) -> None:
        if not 0 < start <= 1:
            raise ValueError(f"annealing_start must be an inverse temperature in (0, 1], got {start!r}")
        self.model = model
        self.start = start
        self.num_steps = positive_int("annealing_steps", num_steps, minimum=0)

    def at(self, step: int) -> float:
        """Return the inverse temperature after so many steps."""
        return min(1.0, self.start + step / self.num_steps) if self.num_steps else 1.0

    def __call__(self, step: int) -> None:
        """Set the inverse temperature to that after so many steps."""
        self.model.inverse_temperature.fill_(self.at(step))


@contextmanager
def without_annealing(model: TopologyModel) -> Iterator[None]:
    """Set the inverse temperature of a model to 1 for a block."""
    before = model.inverse_temperature.clone()
    model.inverse_temperature.fill_(1.0)
    try:
        yield
    finally:
        model.inverse_temperature.copy_(before)
