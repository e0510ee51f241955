"""The relaxation of a model's discrete sites as options of ``build``, so also of the command line."""

from __future__ import annotations

from dataclasses import dataclass, replace

from pyro.infer import ELBO

from pyro_ext.distributions.relaxed import Objective
from pyro_ext.inference.fit.built import Built
from pyro_ext.inference.relax_reparam import RelaxReparam, relax
from pyro_ext.inference.temperature import TemperatureSchedule

__all__ = ["Relaxation"]


@dataclass(frozen=True)
class Relaxation:
    r"""How to train a model with discrete sites through a relaxation of them.

    After t steps the temperature is :math:`\max(\mathrm{floor}, \mathrm{temperature} \cdot e^{-\mathrm{rate} \cdot s})`
    with s the last multiple of ``every`` up to t. ``rate=1e-4, every=500`` is the schedule of Jang et al. (2017).

    Args:
        objective: what stands in the bound, see :class:`~pyro_ext.inference.RelaxReparam`.
        straight_through: whether the program sees hard values, with the gradient of relaxed ones.
        temperature: at the first step.
        rate: the relative decrease per step; 0 for a constant temperature.
        floor: below which it does not fall; 0.5, or ``temperature`` where that is constant, if None.
        every: the number of steps between changes.

    References:
        | Categorical reparameterization with Gumbel-softmax (Jang et al., 2017), section 4.1
        | https://arxiv.org/abs/1611.01144

    Example:
        >>> Relaxation(rate=1e-4, every=500).schedule().temperature_at(1000)
        0.904...
    """

    objective: Objective = "categorical"
    straight_through: bool = True
    temperature: float = 1.0
    rate: float = 0.0
    floor: float | None = None
    every: int = 1

    def schedule(self) -> TemperatureSchedule:
        """Return the schedule of the temperature, at its beginning.

        Raises:
            ValueError: if a number is out of range.
        """
        return TemperatureSchedule(self.temperature, self.rate, self.floor, self.every)

    def of(self, built: Built, elbo: ELBO) -> Built:
        """Return what to fit instead of ``built``: model and guide relaxed, the temperature following the steps.

        Metrics and plots stay those of the discrete model and guide, whose parameters are trained.

        Args:
            built: a model whose sites :class:`~pyro_ext.inference.RelaxReparam` can relax.
            elbo: one for reparameterised sites.

        Raises:
            ValueError: if an option is out of range.
        """
        schedule = self.schedule()
        reparam = RelaxReparam(schedule, self.objective, self.straight_through)
        return replace(
            built,
            model=relax(built.model, reparam),
            guide=relax(built.guide, reparam),
            elbo=elbo,
            schedules=[*built.schedules, schedule.set_num_steps],
            remarks=f"{built.remarks} {_REMARK}".strip(),
        )


_REMARK = "`train_loss` is the objective of the relaxed model; the other metrics are of the discrete one."
