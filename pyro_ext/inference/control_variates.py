"""Surrogates of the cost whose expectations are known exactly, as control variates of score-function estimators.

ELBOs of the sample-set and antithetic families take them as ``control_variate=``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pyro_ext.distributions.structure import unwrap
from pyro_ext.inference._means import slopes_at_means
from pyro_ext.inference._traces import Site, has_score, plates_of, sample_sites, subsampling_scale, total
from pyro_ext.inference.elbo import ModelOrGuide
from pyro_ext.inference.surrogates import LinearSurrogate, MeanSurrogate, event_width
from pyro_ext.utils.processes import mean_over_processes
from pyro_ext.utils.shapes import broadcast_shapes

__all__ = ["ControlVariates", "Variate"]

_NAMES = ("linear", "mean")
_FAMILIES = (torch.distributions.Bernoulli, torch.distributions.Categorical, torch.distributions.OneHotCategorical)

Given = str | Mapping[str, Any] | None


class Variate(NamedTuple):
    """A surrogate c of the cost at the values of one site.

    Attributes:
        values: c at the values of the site, without gradient, in the shape of its ``log_prob`` and scaled like costs.
        expected: a function that returns a scalar with the gradient of the expectation of c in the parameters of the
            site, for weights of the shape of its distribution's ``batch_shape``.
        learn: a function that notes what is learned from costs and weights, given these and the dim of the draws.
    """

    values: Tensor
    expected: Callable[[Tensor], Tensor]
    learn: Callable[[Tensor, Tensor, int], None]


class ControlVariates(nn.Module):
    r"""The surrogates of the sites of a guide, for estimators that are linear in the cost f.

    With a function c that does not depend on the draws, the estimate for :math:`f - c` plus
    :math:`\nabla \mathbb{E}_q c` has the mean of the estimate for f. The surrogate of a site is subtracted in the score
    term of that site only, where the distribution of its values is given.

    ``"linear"`` is :class:`LinearSurrogate`: it needs no evaluation of the model, whose log-probabilities need not be
    differentiable in the values. ``"mean"`` is :class:`MeanSurrogate`, for one more evaluation of model and guide.
    What they learn lies in buffers, which move in ``loss_and_grads`` and ``after_step``, never in ``loss`` and
    ``differentiable_loss``. A surrogate of your own may be any function of a site's distribution and values, in the
    units of one datum; its parameters, if it has any, get no gradient.

    Args:
        given: ``"linear"`` or ``"mean"`` for all sites, or a mapping from names of sites to one of these or to a
            surrogate: a callable of distribution and values with a method ``expectation`` of the distribution.

    Raises:
        ValueError: naming the site, for anything else.

    Example:
        >>> import pyro.distributions as dist
        >>> class Saved:
        ...     def __call__(self, fn, value):  # what the cost is guessed to be at the values of a site
        ...         return -0.5 * (value - 1) ** 2
        ...     def expectation(self, fn):  # its expected value, differentiable in the parameters of the distribution
        ...         return -0.5 * (1 - fn.probs)
        >>> logit = torch.zeros((), requires_grad=True)
        >>> def model():
        ...     z = pyro.sample("z", dist.Bernoulli(torch.tensor(0.5)))
        ...     pyro.sample("x", dist.Normal(z, 1.0), obs=torch.tensor(1.0))
        >>> def guide():
        ...     pyro.sample("z", dist.Bernoulli(logits=logit))
        >>> from pyro_ext.inference import TraceLeaveOneOut_ELBO
        >>> elbo = TraceLeaveOneOut_ELBO(num_samples=2, control_variate={"z": Saved()})
        >>> elbo(model, guide)().backward()
        >>> logit.grad  # the surrogate is the cost: nothing is left to chance
        tensor(-0.1250)
    """

    def __init__(self, given: Given) -> None:
        super().__init__()
        self.given = _checked(given)
        self.surrogates = nn.ModuleDict()
        self._pending: list[tuple[str, Tensor]] = []
        self._notes: list[tuple[str, Tensor]] = []
        if isinstance(self.given, Mapping):
            for name, each in self.given.items():
                if isinstance(each, nn.Module):
                    self.surrogates[_key(name)] = each

    def __bool__(self) -> bool:
        return self.given is not None

    @property
    def need_means(self) -> bool:
        """Whether a surrogate needs the slopes at the means."""
        return self.given == "mean" or (isinstance(self.given, Mapping) and "mean" in self.given.values())

    def extra_repr(self) -> str:
        """Return what was given, for ``repr``."""
        return repr(self.given)

    def _kind(self, name: str) -> Any:
        return self.given.get(name) if isinstance(self.given, Mapping) else self.given

    def of(self, site: Site, slopes: dict[str, Tensor]) -> Variate | None:
        """Return the control variate of a site of the guide; None if it has none.

        Args:
            site: the site.
            slopes: the derivatives of the costs at the mean of each site, for ``"mean"``.

        Raises:
            ValueError: naming the site, if the surrogate does not apply to it, or returns other shapes.
        """
        name, fn, value = site["name"], site["fn"], site["value"].detach()
        kind = self._kind(name)
        if kind is None:
            return None
        scale = subsampling_scale(plates_of(site))
        if kind == "linear":
            surrogate: Any = self._linear(name, fn)
        elif kind == "mean":
            surrogate = self._mean(name, slopes)
        else:
            surrogate = kind
        learns = isinstance(surrogate, LinearSurrogate | MeanSurrogate)

        def expected(weight: Tensor) -> Tensor:
            return _expected(name, surrogate, fn, scale * weight.detach())

        def learn(cost: Tensor, weight: Tensor, dim: int) -> None:
            if learns:
                # in the units of one datum, whatever the size of the subsample
                self._notes.append((_key(name), surrogate.note(fn, value, cost / scale, weight, dim)))

        with torch.no_grad():
            values = scale * surrogate(fn, value)
        shape = broadcast_shapes(value.shape[: value.dim() - fn.event_dim], fn.batch_shape)
        if not isinstance(values, Tensor) or broadcast_shapes(values.shape, shape) != shape:
            raise ValueError(
                f"the control variate of site {name!r} must return shape {tuple(shape)}, one number for each value, "
                f"got {tuple(values.shape) if isinstance(values, Tensor) else values!r}"
            )
        return Variate(values.detach(), expected, learn)

    def _linear(self, name: str, fn: Any) -> LinearSurrogate:
        key = _key(name)
        probs = _probs_of(name, fn, "linear")
        if key not in self.surrogates:
            self.surrogates[key] = LinearSurrogate(event_width(fn, probs))
        surrogate = self.surrogates[key]
        assert isinstance(surrogate, LinearSurrogate)
        if surrogate.size != event_width(fn, probs):
            raise ValueError(
                f"the linear control variate of site {name!r} was made for {surrogate.size} numbers in an event, and "
                f"the event has {event_width(fn, probs)}; make a new ELBO for it"
            )
        if surrogate.adam.values.device != probs.device:
            surrogate.to(probs.device)
        return surrogate

    def _mean(self, name: str, slopes: dict[str, Tensor]) -> MeanSurrogate:
        key, slope = _key(name), slopes[name]
        if key not in self.surrogates:
            self.surrogates[key] = MeanSurrogate()
        surrogate = self.surrogates[key]
        assert isinstance(surrogate, MeanSurrogate)
        surrogate.slope = slope
        if surrogate.cross.device != slope.device:
            surrogate.to(slope.device)
        return surrogate

    def slopes_at_means(
        self,
        model: ModelOrGuide,
        guide: ModelOrGuide,
        guide_trace: Any,
        args: Any,
        kwargs: Any,
        nesting: int,
        reached: set[str],
    ) -> dict[str, Tensor]:
        """Return the derivatives of the costs at the means of the sites that want them, by one more run.

        Reparameterised sites that do not depend on the draws keep their values.

        Args:
            model: the model.
            guide: the guide.
            guide_trace: the trace of the guide with the draws.
            args: the positional arguments of model and guide.
            kwargs: the keyword arguments of model and guide.
            nesting: the number of plate dims.
            reached: the sites on whose values other costs than their own depend.

        Raises:
            ValueError: naming the site, if its values cannot be relaxed, or a cost that they reach has no derivative.
        """
        if not self.need_means:
            return {}
        sites = {name: site for name, site in sample_sites(guide_trace).items() if has_score(site)}
        wanted = {name: site["fn"] for name, site in sites.items() if self._kind(name) == "mean"}
        for name, fn in wanted.items():
            if isinstance(unwrap(fn).base, torch.distributions.Categorical):
                raise ValueError(
                    f"control_variate='mean' of site {name!r}: a Categorical has integers as values, at whose mean no "
                    "program can be run; use OneHotCategorical, or control_variate='linear'"
                )
            _probs_of(name, fn, "mean")
        return slopes_at_means(wanted, model, guide, guide_trace, args, kwargs, nesting, reached)

    def learn_from(self, loss: Tensor) -> None:
        """Keep what was noted for when ``loss`` has gone backward."""
        notes, self._notes = self._notes, []
        if notes and loss.requires_grad:
            loss.register_hook(lambda gradient: setattr(self, "_pending", notes))

    @torch.no_grad()
    def after_step(self) -> None:
        """Learn from the last loss that went backward since the last call."""
        pending, self._pending = self._pending, []
        for key in dict.fromkeys(key for key, _ in pending):
            note = mean_over_processes(torch.stack([each for name, each in pending if name == key]).mean(0))
            surrogate = self.surrogates[key]
            assert isinstance(surrogate, LinearSurrogate | MeanSurrogate)
            surrogate.learn(torch.where(note.isfinite().all(), note, 0.0))

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        """Make the surrogates of sites not met yet, before they are loaded; drop what had not been learned."""
        start = f"{prefix}surrogates."
        for site, surrogate in list(self.surrogates.items()):
            known = any(key.startswith(f"{start}{site}.") for key in state_dict)
            if not known and isinstance(surrogate, LinearSurrogate | MeanSurrogate):
                del self.surrogates[site]
        for key, value in state_dict.items():
            site, _, rest = key[len(start) :].partition(".") if key.startswith(start) else ("", "", "")
            if site and site not in self.surrogates:
                if rest == "adam.values":
                    self.surrogates[site] = LinearSurrogate(LinearSurrogate.size_of(len(value)))
                elif rest == "cross":
                    self.surrogates[site] = MeanSurrogate()
        super()._load_from_state_dict(state_dict, prefix, *args)


def _checked(given: Given) -> Given:
    if given is None or given in _NAMES:
        return given
    if not isinstance(given, Mapping):
        raise ValueError(
            f"control_variate must be 'linear', 'mean', None, or a mapping from names of sites to surrogates, got "
            f"{given!r}"
        )
    for name, each in given.items():
        if isinstance(each, str) and each in _NAMES:
            continue
        if not callable(each):
            raise ValueError(f"control_variate of site {name!r} must be 'linear', 'mean' or a surrogate, got {each!r}")
        if not callable(getattr(each, "expectation", None)):
            raise ValueError(
                f"control_variate of site {name!r} has no expectation: give it a method expectation(distribution) that "
                "returns the expected value of surrogate(distribution, values), or the gradient would be biased"
            )
    return dict(given)


def _key(name: str) -> str:
    return name.replace(".", "_")


def _probs_of(name: str, fn: Any, kind: str) -> Tensor:
    """Return the probabilities of a site with a linear surrogate, or say why it has none."""
    base = unwrap(fn).base
    if not isinstance(base, _FAMILIES):
        raise ValueError(
            f"control_variate={kind!r} takes Bernoulli, Categorical and one-hot sites, and site {name!r} is a "
            f"{type(base).__name__}; give a mapping that names the sites that have one, such as {{'z': {kind!r}}}"
        )
    probs: Tensor = base.probs
    return probs


def _expected(name: str, surrogate: Any, fn: Any, weight: Tensor) -> Tensor:
    """Return a scalar with the gradient of the weighted expectation of c in the parameters of ``fn`` alone."""
    with torch.enable_grad():
        expected = surrogate.expectation(fn)
        if not isinstance(expected, Tensor) or broadcast_shapes(expected.shape, fn.batch_shape) != fn.batch_shape:
            raise ValueError(
                f"the expectation of the control variate of site {name!r} must have the batch shape "
                f"{tuple(fn.batch_shape)} of the site, got {getattr(expected, 'shape', expected)}"
            )
        parameters = _parameters_of(fn)
        if not parameters:
            return weight.new_zeros(())
        gradients: Any = [None]
        if expected.requires_grad:
            summed = (weight * expected).sum()
            gradients = torch.autograd.grad(summed, parameters, retain_graph=True, allow_unused=True)
    if all(gradient is None for gradient in gradients):
        raise ValueError(
            f"the expectation of the control variate of site {name!r} has no derivative in the parameters of its "
            "distribution, and without one the gradient would be biased: compute it from them"
        )
    pairs = [(g, p) for g, p in zip(gradients, parameters, strict=True) if g is not None]
    return total((g.detach() * torch.where(p.detach().isfinite(), p, 0.0)).sum() for g, p in pairs)


def _parameters_of(fn: Any) -> list[Tensor]:
    """Return the parameters of a distribution that require grad, without those computed from the others."""
    base = unwrap(fn).base
    base = getattr(base, "_categorical", base)
    found = [p for name in base.arg_constraints if isinstance(p := base.__dict__.get(name), Tensor) and p.requires_grad]
    return [p for p in found if not any(_computed_from(p, other) for other in found if other is not p)]


def _computed_from(x: Tensor, other: Tensor) -> bool:
    if x.grad_fn is None:
        return False
    return torch.autograd.grad(x.sum(), other, retain_graph=True, allow_unused=True)[0] is not None
