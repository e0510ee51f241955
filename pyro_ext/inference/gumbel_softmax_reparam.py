"""Rewrites relaxed sites as functions of noise that has no parameters."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.infer.reparam import GumbelSoftmaxReparam as PyroGumbelSoftmaxReparam
from torch import Tensor

from pyro_ext.distributions.relaxed import (
    ExpRelaxedOneHotCategorical,
    LogitRelaxedBernoulli,
    RelaxedBernoulli,
    RelaxedOneHotCategorical,
)
from pyro_ext.distributions.relaxed.bernoulli import RelaxedBernoulliBase
from pyro_ext.distributions.structure import unwrap, with_base
from pyro_ext.ops.relaxed import floored_log, sigmoid

__all__ = ["GumbelSoftmaxReparam"]

_OURS = (RelaxedOneHotCategorical, ExpRelaxedOneHotCategorical, RelaxedBernoulli, LogitRelaxedBernoulli)
_EULER = 0.5772156649015329


class GumbelSoftmaxReparam(PyroGumbelSoftmaxReparam):
    r"""Turns a latent relaxed site into uniform noise and a function of it, for :func:`pyro.poutine.reparam`.

    .. math::

        u_k \sim U(0, 1), \qquad x = \mathrm{softmax}\big((\log\alpha - \log(-\log u)) / \lambda\big),

    or :math:`x = \sigma((\log\alpha + \log u - \log(1 - u)) / \lambda)` where binary. The latent variable becomes the
    site ``<name>_uniform``; ``<name>`` is computed from it and has the same distribution as before.

    It takes the place of :class:`pyro.infer.reparam.GumbelSoftmaxReparam`, and treats Pyro's distributions as that
    does. Pyro's own refuses the distributions of this package, by an ``AssertionError``: it would divide by a
    temperature that lacks the dim of the categories.

    Raises:
        ValueError: when applied, if a site is observed, or neither a ``RelaxedOneHotCategorical``,
            ``ExpRelaxedOneHotCategorical``, ``RelaxedBernoulli`` nor ``LogitRelaxedBernoulli``.

    References:
        | The Concrete distribution (Maddison et al., 2017), https://arxiv.org/abs/1611.00712

    Example:
        >>> from pyro_ext.distributions import RelaxedOneHotCategorical
        >>> def model():
        ...     return pyro.sample("x", RelaxedOneHotCategorical(0.5, probs=torch.tensor([0.3, 0.7])))
        >>> noncentered = pyro.poutine.reparam(model, config={"x": GumbelSoftmaxReparam()})
        >>> list(pyro.poutine.trace(noncentered).get_trace().stochastic_nodes)
        ['x_uniform']
    """

    def apply(self, msg: Any) -> Any:
        """Return the site's new distribution and value; sample the noise that they are computed from."""
        name, fn, value = msg["name"], msg["fn"], msg["value"]
        base = unwrap(fn).base
        if not isinstance(base, _OURS):
            if type(base) is dist.RelaxedOneHotCategorical:
                return super().apply(msg)
            raise ValueError(
                f"site {name!r} is {type(base).__name__}, which GumbelSoftmaxReparam cannot rewrite; leave it out of "
                f"the config (it takes {', '.join(kind.__name__ for kind in _OURS)})"
            )
        if msg["is_observed"]:
            raise ValueError(
                f"site {name!r} is observed, and GumbelSoftmaxReparam rewrites latent sites only; leave it out of the "
                "config"
            )
        uniform = dist.Uniform(torch.zeros_like(base.logits), torch.ones_like(base.logits))
        noise = with_base(fn, uniform if isinstance(base, RelaxedBernoulliBase) else uniform.to_event(1))
        given = {} if value is None else {"obs": _noise_of(base, value), "infer": {"is_observed": False}}
        u = pyro.sample(f"{name}_uniform", noise, **given)
        if value is None:
            value = _value_of(base, u)
        # not a deterministic site: Pyro expects those of a guide in the model's latent ones
        return {"fn": dist.Delta(value, event_dim=fn.event_dim).mask(False), "value": value, "is_observed": True}


def _value_of(base: Any, u: Tensor) -> Tensor:
    """Return the value of a relaxed distribution that uniform noise, in the shape of its logits, stands for."""
    info = torch.finfo(u.dtype)
    u = u.clamp(info.tiny, 1 - info.eps / 2)
    if isinstance(base, RelaxedBernoulliBase):
        y = (base.logits + u.log() - (-u).log1p()) / base.temperature
        return y if isinstance(base, LogitRelaxedBernoulli) else sigmoid(y)
    y = ((base.logits - (-u.log()).log()) / base.temperature.unsqueeze(-1)).log_softmax(-1)
    return y if isinstance(base, ExpRelaxedOneHotCategorical) else y.exp()


def _noise_of(base: Any, value: Tensor) -> Tensor:
    """Return uniform noise that stands for ``value``; of the many there are for weights, one near its median."""
    if isinstance(base, RelaxedBernoulliBase):
        y = value if isinstance(base, LogitRelaxedBernoulli) else floored_log(value) - floored_log(1 - value)
        return (base.temperature * y - base.logits.nan_to_num()).sigmoid()
    y = value if isinstance(base, ExpRelaxedOneHotCategorical) else floored_log(value)
    possible = base.logits > -torch.inf
    gumbel = base.temperature.unsqueeze(-1) * torch.where(possible, y, 0) - torch.where(possible, base.logits, 0)
    mean = gumbel.masked_fill(~possible, 0).sum(-1, keepdim=True) / possible.sum(-1, keepdim=True)
    return (-(mean - _EULER - gumbel).exp()).exp()
