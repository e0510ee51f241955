"""Independent draws whose costs are differentiated in the drawn values: what estimators with such slopes share."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from typing import Any, NamedTuple

import torch
from pyro.distributions import OneHotCategorical
from pyro.ops.provenance import track_provenance
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_ext.distributions.structure import unwrap, with_base
from pyro_ext.inference._traces import Site, origins_of, plates_of, score_function, subsampling_scale
from pyro_ext.inference.elbo import ModelOrGuide
from pyro_ext.inference.joint_draws.engine import Costs, JointDrawsELBO, Programs, varies
from pyro_ext.ops.relaxed import categorical_score
from pyro_ext.utils.processes import mean_over_processes

__all__ = ["Draws", "SlopeELBO", "others_mean", "remainder"]


class SlopeELBO(JointDrawsELBO):
    """An ELBO on n independent draws that uses the slopes of the costs in the values of Bernoulli and one-hot sites.

    Other sites, and sites in whose values the programs are not differentiable, get the leave-one-out estimate, and a
    warning names them once. What the estimator has learned lies in buffers, which move in :meth:`after_step` by the
    last loss that went backward.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._without_slope: dict[str, bool] = {}
        self._notes: list[Tensor] = []
        self._pending: Tensor | None = None

    def differentiable_loss(self, model: ModelOrGuide, guide: ModelOrGuide, *args: Any, **kwargs: Any) -> Tensor:
        """Return the negative ELBO, averaged over the draws; its gradient is the estimator.

        Raises:
            NotImplementedError: naming a model site to be summed out; if the guide is a ``GuideMessenger``.
            ValueError: if a latent model site is absent from the guide, or a program does not broadcast over the draws.
        """
        loss = super().differentiable_loss(model, guide, *args, **kwargs)
        notes, self._notes = self._notes, []
        if notes and loss.requires_grad:
            note = torch.stack(notes).mean(0)
            loss.register_hook(lambda gradient: setattr(self, "_pending", note))
        return loss

    @torch.no_grad()
    def after_step(self) -> None:
        """Learn from the last loss that went backward since the last call."""
        if self._pending is None:
            return
        note, self._pending = mean_over_processes(self._pending), None
        self._to(note.device)
        self._learn(torch.where(note.isfinite().all(), note, 0.0))

    def _to(self, device: torch.device) -> None:
        """Follow the data to their device."""
        if any(buffer.device != device for buffer in self.buffers()):
            self.to(device)

    @abstractmethod
    def _estimate(self, draws: Draws) -> tuple[Tensor, Tensor]:
        """Return the gradient of the expected cost in the logits, and what is learned from it.

        Args:
            draws: the draws of one site.

        Returns:
            The estimate, to be added up over the draws, of the shape of ``draws.value``; and a vector of fixed length.
        """

    @abstractmethod
    def _learn(self, note: Tensor) -> None:
        """Move the buffers, given the mean of the second results of :meth:`_estimate`."""

    def _seen(self, model: ModelOrGuide) -> ModelOrGuide:
        watched: ModelOrGuide = _LinearOneHots()(model)
        return watched

    def _draw(self, name: str, fn: Any, nesting: int) -> tuple[Any, Tensor] | None:
        if getattr(fn, "has_rsample", True):
            return None
        fn = _linear(fn)
        if len(fn.batch_shape) <= nesting:
            value = fn.sample(torch.Size([self.num_samples]))
        elif fn.batch_shape[0] == self.num_samples and len(fn.batch_shape) == nesting + 1:
            value = fn.sample()  # it depends on other draws
        else:
            raise NotImplementedError(
                f"guide site {name!r} has batch shape {tuple(fn.batch_shape)}, which has more dims than "
                f"max_plate_nesting={nesting} plates and the {self.num_samples} draws; give a larger max_plate_nesting"
            )
        logits = _logits_of(fn)
        if logits is not None and logits.requires_grad and torch.is_grad_enabled():
            value.requires_grad_()
        return fn, value

    def _surrogates(self, sites: dict[str, Site], costs: Costs, guide_trace: Any, programs: Programs) -> list[Tensor]:
        slopes = self._slopes(sites, costs, guide_trace, programs)
        surrogates = []
        for name, site in sites.items():
            cost = costs.of(site)
            if cost is None or not varies(score_function(site), costs.nesting, self.num_samples):
                continue
            if slopes.get(name) is None:
                surrogates.append(_leave_one_out(site, cost))
            elif (logits := _logits_of(site["fn"])) is not None and logits.requires_grad:
                draws = Draws.of(site, cost, costs.of(site, compared=False), slopes[name])
                self._to(draws.value.device)
                estimate, note = self._estimate(draws)
                self._notes.append(note.detach())
                surrogates.append(draws.surrogate(site, estimate.detach()))
        return surrogates

    def _slopes(self, sites: dict[str, Site], costs: Costs, guide_trace: Any, programs: Programs) -> dict[str, Tensor]:
        """Return the derivatives of the costs in the values of those sites where there are any."""
        values = {name: site["value"] for name, site in sites.items() if site["value"].requires_grad}
        self._look(sites, values, costs, guide_trace, programs)
        values = {name: value for name, value in values.items() if not self._without_slope[name]}
        summed: Any = sum(term.value.sum() for term in costs.terms)
        if not values or not isinstance(summed, Tensor) or not summed.requires_grad:
            return {}
        slopes = torch.autograd.grad(summed, list(values.values()), retain_graph=True, allow_unused=True)
        return {
            name: torch.where(slope.isfinite(), slope, 0.0)
            for name, slope in zip(values, slopes, strict=True)
            if slope is not None
        }

    def _look(
        self, sites: dict[str, Site], values: dict[str, Tensor], costs: Costs, guide_trace: Any, programs: Programs
    ) -> None:
        """Note and warn, the first time a site is met, whether it has no slope."""
        new = {
            name: site
            for name, site in sites.items()
            if name not in self._without_slope and (name in values or _logits_of(site["fn"]) is None)
        }
        if not new:
            return
        asked = {name: values[name] for name in new if name in values}
        blind = _blind_terms(asked, len(sites) == 1, costs, guide_trace, programs)
        for name, site in new.items():
            if _logits_of(site["fn"]) is None:
                family = type(unwrap(site["fn"]).base).__name__
                self._fall_back(name, f"is a {family}, not a Bernoulli or one-hot site")
            elif name in blind:
                self._fall_back(
                    name, f"has values in which the log-probability of {blind[name]!r} is not differentiable"
                )
            else:
                self._without_slope[name] = False

    def _fall_back(self, name: str, reason: str) -> None:
        self._without_slope[name] = True
        warnings.warn(
            f"guide site {name!r} {reason}: {type(self).__name__} falls back to leave-one-out there. Compute with the "
            "values themselves instead of indexing by them, or use TraceLeaveOneOut_ELBO",
            stacklevel=2,
        )


def _blind_terms(
    values: dict[str, Tensor], single: bool, costs: Costs, guide_trace: Any, programs: Programs
) -> dict[str, str]:
    """Return the sites that a cost depends on without a derivative in their values, each with the name of such a cost.

    Args:
        values: the values asked about, by the names of their sites.
        single: whether they are all the values that are drawn n times, so that whatever varies depends on them.
        costs: the costs.
        guide_trace: the trace of the guide.
        programs: model and guide, to run once more where there are several sites.
    """
    blind: dict[str, str] = {}
    if not values:
        return blind
    origins = {} if single else _origins(values, costs, guide_trace, programs)
    for term in costs.terms:
        depends = values.keys() if single else origins[term.of_guide].get(term.name, frozenset()) & values.keys()
        leaves = {name: values[name] for name in depends - {term.name}}
        if not leaves:
            continue
        slopes: Any = [None] * len(leaves)
        if term.value.requires_grad:
            slopes = torch.autograd.grad(term.value.sum(), [*leaves.values()], retain_graph=True, allow_unused=True)
        blind |= {name: term.name for name, slope in zip(leaves, slopes, strict=True) if slope is None}
    return blind


def _origins(
    values: dict[str, Tensor], costs: Costs, guide_trace: Any, programs: Programs
) -> dict[bool, dict[str, frozenset[str]]]:
    """Return the sites that each cost depends on, those of the model under False, those of the guide under True."""
    tracked = guide_trace.copy()
    for name, value in values.items():
        tracked.nodes[name] = {**tracked.nodes[name], "value": track_provenance(value.detach(), frozenset({name}))}
    return {
        of_guide: origins_of(
            program,
            tracked,
            {term.name for term in costs.terms if term.of_guide == of_guide},
            programs.args,
            programs.kwargs,
        )
        for of_guide, program in ((False, programs.model), (True, programs.guide))
    }


class Draws(NamedTuple):
    """The n draws of one site as one-hot vectors of D coordinates with C categories; a bit is one of two categories.

    Attributes:
        value: the draws, ``(n,) + plate dims + (D, C)``.
        prob: the probabilities, of the shape of ``value`` or broadcastable with it.
        slope: the derivatives of the costs in ``value``.
        cost: the costs of each draw, ``(n,) + plate dims``, up to what all draws have in common.
        full_cost: the costs of each draw with that; 0 where they are infinite.
        scale: the subsampling scale of the site's plates, by which costs and slopes are multiplied.
        shared: whether all draws have the same probabilities.
    """

    value: Tensor
    prob: Tensor
    slope: Tensor
    cost: Tensor
    full_cost: Tensor
    scale: float
    shared: bool

    @staticmethod
    def of(site: Site, cost: Tensor, full_cost: Tensor | None, slope: Tensor) -> Draws:
        """Return the draws of a site, without gradients.

        Args:
            site: a Bernoulli or one-hot site of the guide.
            cost: the costs that it may influence, compared with each other.
            full_cost: the same costs as they are.
            slope: the derivatives of all costs in its value.
        """
        base, num_event_dims = unwrap(site["fn"])
        bits = isinstance(base, torch.distributions.Bernoulli)
        value, prob = site["value"].detach(), base.probs.detach()
        dtype = torch.promote_types(value.dtype, torch.float32)

        def flat(x: Tensor, complement: Tensor) -> Tensor:
            x = torch.stack([complement, x], -1) if bits else x
            return x.reshape(*x.shape[: x.dim() - 1 - num_event_dims], -1, x.shape[-1]).to(dtype)

        full = cost if full_cost is None else full_cost
        scale = float(subsampling_scale(plates_of(site)))
        return Draws(
            flat(value, 1 - value),
            flat(prob, 1 - prob),
            flat(slope, torch.zeros_like(slope)),
            cost.to(dtype),
            torch.where(full.isfinite(), full, 0.0).to(dtype),
            scale,
            len(site["fn"].batch_shape) < site["value"].dim() - site["fn"].event_dim,
        )

    @property
    def score(self) -> Tensor:
        """The derivatives of the log-probabilities of the draws in the logits."""
        return self.value - self.prob

    def surrogate(self, site: Site, estimate: Tensor) -> Tensor:
        """Return a scalar whose gradient in the logits of the site is ``estimate``, in the shape of ``value``."""
        base = unwrap(site["fn"]).base
        if isinstance(base, torch.distributions.Bernoulli):
            estimate, parameter = estimate[..., 1].reshape(site["value"].shape), base._param
            if base.__dict__.get("logits") is not parameter:
                p = parameter.detach()
                estimate = estimate / (p * (1 - p)).clamp_min(torch.finfo(p.dtype).tiny)
        else:
            estimate, parameter = estimate.reshape(site["value"].shape), base.logits
            parameter = torch.where(parameter.detach().isinf(), 0.0, parameter)
        return (estimate.to(parameter.dtype) * parameter).sum()


def others_mean(x: Tensor) -> Tensor:
    """Return, for each of n draws (dim 0), the mean over the other ones."""
    return (x.sum(0) - x) / (len(x) - 1)


def remainder(cost: Tensor) -> Tensor:
    """Return the costs less the mean over the other draws, divided by n; 0 where one of them is infinite."""
    centred = (cost - cost.mean(0)) / (len(cost) - 1)
    return torch.where(centred.isfinite(), centred, 0.0)


def _leave_one_out(site: Site, cost: Tensor) -> Tensor:
    score = score_function(site)
    score = torch.where(score.detach().isinf(), 0.0, score)
    return (remainder(cost).to(score.dtype) * score).sum()


def _logits_of(fn: Any) -> Tensor | None:
    """Return the parameter of a Bernoulli or one-hot distribution inside ``fn``; None for any other distribution."""
    base = unwrap(fn).base
    if isinstance(base, torch.distributions.Bernoulli):
        parameter: Tensor = base._param
        return parameter
    if isinstance(base, torch.distributions.OneHotCategorical) and not base.has_rsample:
        logits: Tensor = base.logits
        return logits
    return None


class _LinearOneHotCategorical(OneHotCategorical):
    """The categorical distribution of one-hot vectors, its log-probability linear in the value."""

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        return categorical_score(value, self.logits)


def _linear(fn: Any) -> Any:
    """Return the distribution with a log-probability that is differentiable in one-hot values."""
    base = unwrap(fn).base
    if not isinstance(base, torch.distributions.OneHotCategorical) or base.has_rsample:
        return fn
    return with_base(fn, _LinearOneHotCategorical(logits=base.logits, validate_args=base._validate_args))


class _LinearOneHots(Messenger):
    """Makes the log-probabilities of latent one-hot sites differentiable in their values."""

    def _pyro_sample(self, msg: Any) -> None:
        if not msg["is_observed"] and hasattr(msg["fn"], "event_dim"):
            msg["fn"] = _linear(msg["fn"])
