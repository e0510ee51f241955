"""Generalised ELBO with constrained optimisation: GECO, around any ELBO."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pyro import poutine
from pyro.infer import ELBO
from torch import Tensor, nn

from pyro_ext.inference._constrain_messenger import ConstrainMessenger
from pyro_ext.inference.constraints import Constraint, ReconstructionConstraint, as_constraint
from pyro_ext.inference.elbo import DifferentiableELBO, ModelOrGuide, checked_loss, value_with_gradient_of
from pyro_ext.utils.checks import nonnegative_number, number_between, positive_int, positive_number
from pyro_ext.utils.processes import mean_over_processes

__all__ = ["TraceGECO_ELBO"]

_SMALLEST, _LARGEST = 1e-6, 1e6  # multipliers


class TraceGECO_ELBO(DifferentiableELBO):
    r"""The least divergence from the prior under constraints on what is observed, by any other ELBO.

    The log-likelihood of each constrained site gives way to :math:`-\lambda C`, so that the loss per data point is

    .. math::  \mathrm{KL}(q(z \mid x) \,\Vert\, p(z)) + \sum_j \lambda_j \, \mathbb{E}_{q(z \mid x)}[C_j(x, z)].

    The multipliers :math:`\lambda_j > 0` are buffers which the ELBO updates itself after each step,

    .. math::

        \bar{C}_j \leftarrow \alpha \bar{C}_j + (1 - \alpha) \hat{C}_j, \qquad
        u_j = \operatorname{sign}(\bar{C}_j) \log(1 + |\bar{C}_j| / s_j), \qquad
        \lambda_j \leftarrow \lambda_j \exp(\nu (u_j + T \Delta u_j)),

    from estimates :math:`\hat{C}_j` of the mean over the data, whatever the scale of plates, masks, particles and
    enumeration; :math:`s_j` is the constraint's scale, and :math:`\Delta u_j` the change since the step before. They
    rise while a constraint is violated, and fall where it is fulfilled. ``loss`` and ``differentiable_loss`` leave them
    alone; ``loss_and_grads`` and ``after_step`` move them.

    The paper has :math:`u_j = \bar{C}_j` and :math:`T = 0`. Networks then follow a multiplier too slowly: it grows by
    orders of magnitude until an error has fallen to what is allowed, and takes as long to come back. With the
    logarithm, twice and half the error allowed weigh the same, and with T the multiplier waits while a constraint is
    on its way: it follows :math:`u_j` as it will be in T steps if it goes on changing as it does. Neither moves the
    optimum.

    For the squared error, the optimum is that of a Gaussian decoder with variance :math:`1 / (2 \lambda)`, see
    :meth:`effective_sigma`. In distributed training, the estimates are averaged over all processes.

    Args:
        base: the ELBO that estimates divergence and constraints: one of this package or of Pyro.
        constraints: for each constrained site its constraint, a :class:`~pyro_ext.inference.Constraint` or a function
            of the site's distribution and value; or a mapping from names to constraints, where there are several.
        rate: the rate :math:`\nu` at which multipliers change.
        look_ahead: the number T of steps by which multipliers look ahead; about as many as networks take to follow a
            change of a multiplier, 0 for none.
        decay: the weight :math:`\alpha` of the past in the moving averages, in [0, 1).
        start: the multipliers at the beginning.
        warm_up: the number of first steps in which the multipliers stay as they are.
        max_change: the largest change of a logarithm of a multiplier in a step.
        normalize: whether gradients are divided by :math:`1 + \sum_j \lambda_j`, which keeps them bounded when
            multipliers grow. The value of the loss is the same.

    Raises:
        ValueError: if ``base`` or a constraint is no such thing, or a number is out of range.

    References:
        | Taming VAEs (Rezende and Viola, 2018), algorithm 1
        | https://arxiv.org/abs/1810.00597
        | Constrained differential optimization (Platt and Barr, 1987), for the damping of multipliers
        | Responsive safety in reinforcement learning by PID Lagrangian methods (Stooke et al., 2020)
        | https://arxiv.org/abs/2007.03964

    Example:
        >>> from pyro_ext.inference import ReconstructionConstraint
        >>> def model(x):
        ...     with pyro.plate("data", len(x)):
        ...         z = pyro.sample("z", dist.Normal(0.0, 1.0))
        ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
        >>> def guide(x):
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("z", dist.Normal(x, 0.1))
        >>> elbo = TraceGECO_ELBO(pyro.infer.TraceMeanField_ELBO(), {"x": ReconstructionConstraint(tolerance=0.05)})
        >>> pyro.infer.SVI(model, guide, pyro.optim.Adam({}), elbo).step(torch.zeros(100)) > 0
        True
        >>> elbo.multipliers["x"] > 1
        True
    """

    def __init__(
        self,
        base: ELBO,
        constraints: Mapping[str, Any],
        *,
        rate: float = 0.02,
        look_ahead: float = 200.0,
        decay: float = 0.95,
        start: float = 1.0,
        warm_up: int = 0,
        max_change: float = 0.1,
        normalize: bool = True,
    ) -> None:
        _check_base(base)
        super().__init__(
            num_particles=base.num_particles,
            max_plate_nesting=base.max_plate_nesting,
            vectorize_particles=base.vectorize_particles,
        )
        self.base = base
        self.rate = positive_number("rate", rate)
        self.look_ahead = nonnegative_number("look_ahead", look_ahead)
        self.decay = number_between("decay", decay, 0, 1, "[)")
        self.warm_up = positive_int("warm_up", warm_up, minimum=0)
        self.max_change = positive_number("max_change", max_change)
        self.normalize = normalize
        number_between("start", start, _SMALLEST, _LARGEST)
        self._sites, members = _by_site(constraints)
        self._members = nn.ModuleDict(members)
        self.register_buffer("_log_multipliers", torch.full((len(members),), float(start)).log())
        self.register_buffer("_averages", torch.zeros(len(members)))
        self.register_buffer("_num_steps", torch.zeros((), dtype=torch.long))
        self._pending: list[Tensor] = []
        self._terms: dict[str, Tensor] = {}

    _log_multipliers: Tensor
    _averages: Tensor
    _num_steps: Tensor

    @property
    def constraints(self) -> dict[str, Constraint]:
        """The constraints, by the names of their multipliers."""
        return {name: member for name, member in self._members.items() if isinstance(member, Constraint)}

    @property
    def multipliers(self) -> dict[str, float]:
        """The multipliers, by the name of the site, or ``SITE_NAME`` where the site has several."""
        return dict(zip(self._members, self._log_multipliers.exp().tolist(), strict=True))

    @property
    def averages(self) -> dict[str, float]:
        """The moving averages of the constraints; near 0 when training has converged."""
        return dict(zip(self._members, self._averages.tolist(), strict=True))

    def effective_sigma(self, name: str) -> float:
        r"""Return the standard deviation :math:`(2 \lambda)^{-1/2}` of the Gaussian decoder with the same optimum.

        Args:
            name: that of a constraint on the squared error.

        Raises:
            ValueError: if there is no such constraint.
        """
        known = [each for each, member in self._members.items() if isinstance(member, ReconstructionConstraint)]
        if name not in known:
            raise ValueError(f"name must be a constraint on the squared error ({', '.join(known)}), got {name!r}")
        return (2 * self.multipliers[name]) ** -0.5

    def with_base(self, base: ELBO) -> TraceGECO_ELBO:
        """Put another ELBO in the place of the one inside, and return this one.

        Raises:
            ValueError: if it cannot stand there.
        """
        _check_base(base)
        self.base = base
        self.num_particles, self.vectorize_particles = base.num_particles, base.vectorize_particles
        self.max_plate_nesting = base.max_plate_nesting
        return self

    def terms(self) -> dict[str, Tensor]:
        """Return multipliers and estimates of the constraints at the last loss that had gradients."""
        return dict(self._terms)

    def differentiable_loss(self, model: ModelOrGuide, guide: ModelOrGuide, *args: Any, **kwargs: Any) -> Tensor:
        """Return the loss; multipliers move at the next ``after_step`` if ``backward`` is called before.

        Raises:
            ValueError: if a constrained site is missing or not observed, a constraint has the wrong shape, or the base
                has no differentiable loss.
        """
        if not callable(getattr(self.base, "differentiable_loss", None)):
            raise ValueError(
                f"base={type(self.base).__name__} has no differentiable_loss; use it in SVI, or take TraceEnum_ELBO, "
                "TraceLeaveOneOut_ELBO or TraceUnorderedSet_ELBO"
            )
        multipliers = self._leaf()
        constrain = self._messenger(multipliers)
        loss = self.base.differentiable_loss(constrain(model), guide, *args, **kwargs)
        sizes = constrain.check_sizes()
        if not loss.requires_grad:
            return checked_loss(loss)
        # only the products with the multipliers are visited, so this costs next to nothing
        (summed,) = torch.autograd.grad(loss, multipliers, retain_graph=True)
        estimates = self._estimates(summed, sizes)
        weight = self._weight(multipliers).to(loss)
        result = value_with_gradient_of(loss, loss * weight)
        if result.requires_grad:
            result.register_hook(lambda gradient: self._pending.append(estimates))
        return result

    def loss(self, model: ModelOrGuide, guide: ModelOrGuide, *args: Any, **kwargs: Any) -> float:
        """Return an estimate of the loss, without gradients; multipliers stay as they are."""
        constrain = self._messenger(self._leaf())
        with torch.no_grad():
            loss: float = self.base.loss(constrain(model), guide, *args, **kwargs)
        constrain.check_sizes()
        return loss

    def loss_and_grads(self, model: ModelOrGuide, guide: ModelOrGuide, *args: Any, **kwargs: Any) -> float:
        """Return an estimate of the loss, add its gradient to every parameter's ``.grad``, and move multipliers."""
        if callable(getattr(self.base, "differentiable_loss", None)):
            return super().loss_and_grads(model, guide, *args, **kwargs)
        multipliers = self._leaf()
        constrain = self._messenger(multipliers)
        weight = self._weight(multipliers)
        scaled = (poutine.scale(program, scale=weight) for program in (constrain(model), guide))
        loss: float = self.base.loss_and_grads(*scaled, *args, **kwargs)
        if multipliers.grad is not None:
            self._pending.append(self._estimates(multipliers.grad / weight, constrain.check_sizes()))
        self.after_step()
        return loss / float(weight)

    @torch.no_grad()
    def after_step(self) -> None:
        """Move the multipliers by the constraints of the losses that went backward since the last call."""
        if isinstance(self.base, DifferentiableELBO):
            self.base.after_step()
        if not self._pending:
            return
        estimates = mean_over_processes(torch.stack(self._pending).mean(0))
        self._pending.clear()
        self._to(estimates.device)
        before = self._averages
        estimates = torch.where(estimates.isfinite(), estimates.to(before.dtype), before)
        before = torch.where(self._num_steps == 0, estimates, before)
        averages = self.decay * before + (1 - self.decay) * estimates
        scales = averages.new_tensor([member.scale for member in self.constraints.values()])
        violation, earlier = (_signed_log(each / scales) for each in (averages, before))
        change = self.rate * (violation + self.look_ahead * (violation - earlier))
        change = change.clamp(-self.max_change, self.max_change)
        change = change.masked_fill(self._num_steps < self.warm_up, 0)
        bounds = averages.new_tensor([_SMALLEST, _LARGEST]).log()
        self._log_multipliers.copy_((self._log_multipliers + change).clamp(bounds[0], bounds[1]))
        self._averages.copy_(averages)
        self._num_steps.add_(1)

    def _get_trace(self, model: ModelOrGuide, guide: ModelOrGuide, args: Any, kwargs: Any) -> Any:
        return self.base._get_trace(model, guide, args, kwargs)

    def _leaf(self) -> Tensor:
        return self._log_multipliers.detach().exp().requires_grad_()

    def _weight(self, multipliers: Tensor) -> Tensor:
        return 1 / (1 + multipliers.detach().sum()) if self.normalize else multipliers.new_ones(())

    def _messenger(self, multipliers: Tensor) -> ConstrainMessenger:
        each = dict(zip(self._members, multipliers, strict=True))
        return ConstrainMessenger(
            {
                site: {name: (self.constraints[name], each[name]) for name in names}
                for site, names in self._sites.items()
            }
        )

    def _estimates(self, summed: Tensor, sizes: Mapping[str, Tensor]) -> Tensor:
        """Return the mean of each constraint over the data, from sums that are scaled like the loss."""
        counts = [sizes[site] for site, names in self._sites.items() for _ in names]
        estimates = summed.detach() / torch.stack([count.to(summed) for count in counts])
        pairs = zip(self._members, self._log_multipliers.exp(), estimates, strict=True)
        self._terms = {}
        for name, multiplier, estimate in pairs:
            self._terms |= {f"multiplier_{name}": multiplier, f"constraint_{name}": estimate}
        return estimates

    def _to(self, device: torch.device) -> None:
        """Follow the data to their device."""
        if self._averages.device != device:
            self.to(device)


def _by_site(constraints: Any) -> tuple[dict[str, list[str]], dict[str, Constraint]]:
    """Return the names of the multipliers of each site, and the constraint of each multiplier."""
    if not isinstance(constraints, Mapping) or not constraints:
        raise ValueError(f"constraints must map names of observed sites to constraints, got {constraints!r}")
    sites: dict[str, list[str]] = {}
    members: dict[str, Constraint] = {}
    for site, given in constraints.items():
        if not isinstance(site, str):
            raise ValueError(f"constraints must map names of sites, got {site!r}")
        several = given if isinstance(given, Mapping) else {"": given}
        if not several:
            raise ValueError(f"constraints must hold at least one constraint of site {site!r}, got none")
        for name, constraint in several.items():
            member = (f"{site}_{name}" if name else site).replace(".", "_")
            if member in members:
                raise ValueError(f"two constraints are called {member!r}; give one of them another name")
            members[member] = as_constraint(site, constraint)
            sites.setdefault(site, []).append(member)
    return sites, members


def _check_base(base: Any) -> None:
    if isinstance(base, type) or not isinstance(base, ELBO):
        raise ValueError(f"base must be an ELBO instance such as TraceMeanField_ELBO(), got {base!r}")
    if isinstance(base, TraceGECO_ELBO):
        raise ValueError("base must not be a TraceGECO_ELBO itself; give all constraints to one")
    name = type(base).__name__
    if name.startswith("Jit"):
        raise ValueError(f"base={name} compiles the model, which cannot hold multipliers; use {name[3:]}")


def _signed_log(value: Tensor) -> Tensor:
    return value.sign() * value.abs().log1p()
