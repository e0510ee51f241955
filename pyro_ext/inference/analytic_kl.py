"""Closed Kullback-Leibler divergences for every linear ELBO, and their warm-up."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pyro
import torch
from pyro.distributions import Delta, MaskedDistribution, Unit
from pyro.distributions.util import scale_and_mask, sum_rightmost
from pyro.poutine.messenger import Messenger
from pyro.poutine.replay_messenger import ReplayMessenger
from pyro.poutine.runtime import _PYRO_STACK
from pyro.poutine.subsample_messenger import _Subsample
from torch import Tensor, nn
from torch.distributions import Independent, kl_divergence

from pyro_ext.utils.checks import nonnegative_number, positive_int

__all__ = ["AnalyticKL", "KLWarmUp"]

_MARK = "analytic_kl"


class AnalyticKL(Messenger):
    r"""Replaces :math:`\log p(z) - \log q(z)` by minus a registered divergence, whatever ELBO is used.

    In a model that replays a guide's trace, each latent site whose guide distribution is reparameterised and whose
    divergence :math:`\mathrm{KL}(q \| p)` is registered with :func:`torch.distributions.register_kl` contributes the
    factor ``NAME__kl`` of value :math:`-\mathrm{KL}(q \| p)`, in the plates, scales and masks of the site; its prior
    and guide densities cancel. Any ELBO that is linear in the log-probabilities (:class:`pyro.infer.Trace_ELBO`, the
    sample-set ELBOs here) is then the one with closed divergences, and equals :class:`pyro.infer.TraceMeanField_ELBO`
    draw by draw. Discrete sites are left to the ELBO, and so are point masses, such as those of
    :class:`pyro.infer.autoguide.AutoDelta`, whose divergence is what the ELBO has anyway.

    As for that ELBO, the prior of a site must not depend on latent sites that depend on it in the guide. Bounds that
    are not linear, such as :class:`pyro.infer.RenyiELBO` with several particles, have no such form: the result would
    be no bound.

    Wrap the model, or open the messenger in it; a model that replays nothing is not changed. :meth:`pair` wraps the
    guide too, so that neither density is evaluated. A module becomes a module, with the same sites.

    Args:
        strict: whether a reparameterised site without a registered divergence is an error, as is one that the guide
            computes from an auxiliary site (:class:`pyro.infer.autoguide.AutoNormal`); its log-probabilities are left
            as they are if not.

    Raises:
        ValueError: when a strict model runs, naming the site and its two distributions.

    Example:
        >>> from pyro_ext.distributions import LogUniform
        >>> model = lambda: pyro.sample("w", LogUniform())
        >>> guide = lambda: pyro.sample("w", dist.Normal(1.0, 1.0))
        >>> elbo = pyro.infer.Trace_ELBO()
        >>> round(elbo.loss(AnalyticKL()(model), guide), 4)
        0.4312
        >>> round(elbo.loss(*AnalyticKL(strict=True).pair(model, guide)), 4)
        0.4312
    """

    def __init__(self, strict: bool = False) -> None:
        super().__init__()
        self.strict = strict
        self._divergences: dict[str, Tensor] = {}

    def __enter__(self) -> Any:
        """Begin a run of the model."""
        self._divergences.clear()  # of a run that an error ended
        return super().__enter__()

    def __call__(self, fn: Callable[..., Any]) -> Any:
        """Return the model with closed divergences."""
        return _wrapped(self, fn)

    def pair(self, model: Callable[..., Any], guide: Callable[..., Any]) -> tuple[Any, Any]:
        """Return the model with closed divergences, and the guide without the densities that cancel.

        Use the two together: the guide alone claims that its log-density is zero.

        Args:
            model: a module or a function.
            guide: a module or a function, all reparameterised sites of which belong to latent sites of the model with
                registered divergences.
        """
        return self(model), _wrapped(_MaskedGuide(), guide)

    def _pyro_sample(self, msg: Any) -> None:
        q = None if msg["is_observed"] else _guide_distribution(msg["name"])
        if q is None:
            return
        if _is_point_mass(q):  # the ELBO has minus its log-density, that of a change of variables, besides
            if self.strict and _has_auxiliary_sites():
                raise ValueError(
                    f"site {msg['name']!r} is computed from an auxiliary site of its guide, so that its divergence is "
                    "sampled: use a guide that draws it from a registered distribution, such as AutoAdditiveNormal, or "
                    "AnalyticKL(strict=False)"
                )
            return
        marked = isinstance(q, _Marked)
        q = q.base_dist if marked else q
        try:
            divergence = _divergence(q, msg["fn"])
        except NotImplementedError:
            if not self.strict and not marked:
                return
            raise ValueError(
                f"site {msg['name']!r} has no closed divergence of its guide distribution {_name(q)} from its prior "
                f"{_name(msg['fn'])}: register one by torch.distributions.register_kl, or use "
                "AnalyticKL(strict=False) around the model alone, which samples it"
            ) from None
        msg["fn"] = msg["fn"].mask(False) if marked else q
        self._divergences[msg["name"]] = divergence

    def _pyro_post_sample(self, msg: Any) -> None:
        divergence = self._divergences.pop(msg["name"], None)
        if divergence is not None:
            _factor(f"{msg['name']}__kl", -divergence)


class KLWarmUp(nn.Module):
    r"""A factor of the divergences that rises linearly from 0 to 1, as a schedule of training.

    .. math::  f(t) = \min\left(1, \max\left(0, \frac{t - t_0}{t_1 - t_0}\right)\right).

    :meth:`scaled` applies it to a program: all its latent sites, and the factors of :class:`AnalyticKL`, are scaled.
    Wrap the model and the guide, so that a prior and its guide distribution are scaled alike; at 0 the loss is minus
    the log-likelihood of the data alone. Called without arguments it returns the present factor. For
    :func:`pyro_ext.inference.fit` put :meth:`set_num_steps` among the ``schedules`` of what is fitted.

    Args:
        start: the number :math:`t_0` of steps at which the factor begins to rise.
        end: the number :math:`t_1` of steps from which it is 1; the same as ``start`` for a jump, 0 for no warm-up.
        every: the number of steps between two changes, such as those of an epoch.

    Raises:
        ValueError: if ``start`` is not a number of at least 0, ``end`` is below ``start``, or ``every`` is not a
            positive integer.

    References:
        | Variational dropout sparsifies deep neural networks (Molchanov et al., 2017), section 5
        | https://arxiv.org/abs/1701.05369

    Example:
        >>> warm_up = KLWarmUp(start=5 * 100, end=20 * 100, every=100)
        >>> [round(warm_up.factor_at(epoch * 100), 2) for epoch in (0, 5, 11, 20, 50)]
        [0.0, 0.0, 0.4, 1.0, 1.0]
    """

    factor: Tensor

    def __init__(self, start: float = 0.0, end: float = 0.0, every: int = 1) -> None:
        super().__init__()
        self.start, self.end = nonnegative_number("start", start), nonnegative_number("end", end)
        if self.end < self.start:
            raise ValueError(f"end={end} is below start={start}: the factor rises, give a later end")
        self.every = positive_int("every", every)
        self.register_buffer("factor", torch.tensor(self.factor_at(0)))

    def factor_at(self, num_steps: int) -> float:
        """Return the factor after ``num_steps`` steps."""
        changed_at = self.every * (num_steps // self.every)
        if changed_at >= self.end:
            return 1.0
        return max(0.0, (changed_at - self.start) / (self.end - self.start))

    def forward(self) -> Tensor:
        """Return the present factor, shape ``()``."""
        return self.factor.clone()  # the buffer changes in place, which a graph kept for later must not see

    def set_num_steps(self, num_steps: int) -> None:
        """Go to the factor after ``num_steps`` steps."""
        self.factor.fill_(self.factor_at(positive_int("num_steps", num_steps, minimum=0)))

    def scaled(self, program: Callable[..., Any]) -> Any:
        """Return a model or guide whose latent sites are scaled by the factor; a module becomes a module."""
        return _wrapped(_ScaledSites(self), program)

    def extra_repr(self) -> str:
        """Return the arguments, for ``repr``."""
        return f"start={self.start:g}, end={self.end:g}, every={self.every}"


class _ScaledSites(Messenger):
    """Scales latent sites and closed divergences; unlike poutine.scale, by zero too."""

    def __init__(self, factor: KLWarmUp) -> None:
        super().__init__()
        self.factor = factor

    def _pyro_sample(self, msg: Any) -> None:
        if isinstance(msg["fn"], _Subsample) or (msg["is_observed"] and _MARK not in msg["infer"]):
            return
        msg["scale"] = msg["scale"] * self.factor()


class _Marked(MaskedDistribution):
    """A guide distribution without density, whose divergence the model accounts for."""

    def __init__(self, base_dist: Any) -> None:
        super().__init__(base_dist, False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        return _Marked(self.base_dist.expand(batch_shape))


class _MaskedGuide(Messenger):
    """Takes the densities of reparameterised sites away."""

    def _pyro_sample(self, msg: Any) -> None:
        is_auxiliary = msg["infer"].get("is_auxiliary", False)
        if not msg["is_observed"] and not is_auxiliary and msg["fn"].has_rsample and not _is_point_mass(msg["fn"]):
            msg["fn"] = _Marked(msg["fn"])


class _WrappedModule(nn.Module):
    """A program that runs under a messenger; a plain module, so that no name of a site gains a prefix."""

    def __init__(self, messenger: Messenger, program: nn.Module) -> None:
        super().__init__()
        self.program = program
        self.messenger = messenger
        if isinstance(messenger, _ScaledSites):
            self.warm_up = messenger.factor

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the program."""
        with self.messenger:
            return self.program(*args, **kwargs)


def _wrapped(messenger: Messenger, program: Callable[..., Any]) -> Any:
    if isinstance(program, nn.Module):
        return _WrappedModule(messenger, program)

    @functools.wraps(program)
    def run(*args: Any, **kwargs: Any) -> Any:
        with messenger:
            return program(*args, **kwargs)

    return run


def _guide_distribution(name: str) -> Any:
    """Return the reparameterised distribution from which the value replayed at a site was drawn, if there is one."""
    for frame in reversed(_PYRO_STACK):
        if isinstance(frame, ReplayMessenger) and frame.trace is not None and name in frame.trace:
            q = frame.trace.nodes[name]["fn"]
            return q if not isinstance(q, _Subsample) and q.has_rsample else None
    return None


def _has_auxiliary_sites() -> bool:
    """Return whether the guide whose trace is replayed computes its sites from others."""
    return any(
        node["type"] == "sample" and node["infer"].get("is_auxiliary", False)
        for frame in _PYRO_STACK
        if isinstance(frame, ReplayMessenger) and frame.trace is not None
        for node in frame.trace.nodes.values()
    )


def _is_point_mass(d: Any) -> bool:
    while isinstance(d, Independent | MaskedDistribution):
        d = d.base_dist
    return isinstance(d, Delta)


def _divergence(q: Any, p: Any) -> Tensor:
    """Return the divergence below masks, which enter where they stand, and below ``.to_event``."""
    for masked, rest in ((q, lambda base: _divergence(base, p)), (p, lambda base: _divergence(q, base))):
        if isinstance(masked, MaskedDistribution):
            mask = masked._mask
            inner = rest(masked.base_dist)
            return torch.zeros_like(inner) if mask is False else scale_and_mask(inner, mask=mask)
    if isinstance(q, Independent) and isinstance(p, Independent):
        shared = min(q.reinterpreted_batch_ndims, p.reinterpreted_batch_ndims)
        bases = (d.base_dist.to_event(d.reinterpreted_batch_ndims - shared) for d in (q, p))
        return sum_rightmost(_divergence(*bases), shared)
    return kl_divergence(q, p)


def _factor(name: str, log_factor: Tensor) -> None:
    """Add a factor that a warm-up recognises."""
    unit = Unit(log_factor)
    pyro.sample(name, unit, obs=unit.sample(), infer={"is_auxiliary": True, _MARK: True})


def _name(d: Any) -> str:
    while isinstance(d, Independent | MaskedDistribution):
        d = d.base_dist
    return type(d).__name__
