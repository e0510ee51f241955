"""What changes in the course of training: ramps, and the temperature of relaxed sites as options of ``build``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from pyro.infer import ELBO

from pyro_ext.distributions.relaxed import Objective
from pyro_ext.inference import TemperatureSchedule, TrainingPlan, relax
from pyro_ext.inference.relax_reparam import RelaxReparam
from pyro_ext.utils.checks import number_between, positive_int, positive_number

__all__ = ["Relaxation", "linear_ramp"]


def linear_ramp(start: float, num_steps: int) -> Callable[[int], float]:
    r"""Return a weight that rises linearly to 1, as a function of the number t of steps.

    .. math::  \beta_t = \min(1,\; \beta_0 + t / T).

    Args:
        start: the weight :math:`\beta_0` at the first step, in [0, 1].
        num_steps: the number T of steps from 0 to 1; the weight is 1 from the beginning if it is 0.

    Raises:
        ValueError: if ``start`` or ``num_steps`` is out of range.

    Example:
        >>> ramp = linear_ramp(0.001, num_steps=100_000)
        >>> ramp(0), ramp(20_000), ramp(200_000)
        (0.001, 0.201, 1.0)
    """
    number_between("start", start, 0, 1)
    positive_int("num_steps", num_steps, minimum=0)
    return lambda step: min(1.0, start + step / num_steps) if num_steps else 1.0


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
        floor: the temperature below which it does not fall; if None, 0.5, or ``temperature`` where that is constant.
        every: the number of steps between changes.
        model_temperature: the temperature of the model's sites at the first step, where it is not that of the guide's;
            the lowest one is in proportion.

    References:
        | Categorical reparameterization with Gumbel-softmax (Jang et al., 2017), section 4.1
        | https://arxiv.org/abs/1611.01144
        | The Concrete distribution (Maddison et al., 2017), section 5.1 on two temperatures
        | https://arxiv.org/abs/1611.00712

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
    model_temperature: float | None = None

    def schedule(self) -> TemperatureSchedule:
        """Return the schedule of the temperature, at its beginning.

        Raises:
            ValueError: if a number is out of range.
        """
        initial = positive_number("temperature", self.temperature)
        lowest = (0.5 if self.rate else initial) if self.floor is None else positive_number("floor", self.floor)
        if lowest > initial:
            raise ValueError(
                f"floor must be at most temperature={initial}, which only falls, got {lowest}; give another"
            )
        return TemperatureSchedule(initial, self.rate, lowest, self.every)

    def of(self, plan: TrainingPlan, elbo: ELBO) -> TrainingPlan:
        """Return the plan with model and guide relaxed, and the temperature following the steps.

        Metrics and plots stay those of the discrete model and guide, whose parameters are trained.

        Args:
            plan: with one ELBO, of a model whose sites :class:`~pyro_ext.inference.RelaxReparam` can relax.
            elbo: one for reparameterised sites.

        Raises:
            ValueError: if an option is out of range.
        """
        schedules = [self.schedule()]
        if self.model_temperature is not None:
            schedules.append(self._schedule_of_model(schedules[0]))
        reparams = [RelaxReparam(schedule, self.objective, self.straight_through) for schedule in schedules]
        objective = plan.elbo_objective("relaxation")
        objective.replace_programs(relax(objective.model, reparams[-1]), relax(objective.guide, reparams[0]), elbo)
        remarks = f"{plan.remarks} {_REMARK}".strip()
        return replace(
            plan, schedules=[*plan.schedules, *(schedule.set_num_steps for schedule in schedules)], remarks=remarks
        )

    def _schedule_of_model(self, of_guide: TemperatureSchedule) -> TemperatureSchedule:
        initial = positive_number("model_temperature", self.model_temperature)
        return TemperatureSchedule(initial, self.rate, initial * of_guide.floor / of_guide.initial, self.every)


_REMARK = "`train_loss` is the objective of the relaxed model; the other metrics are of the discrete one."
