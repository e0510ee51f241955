"""Relaxes discrete sites of a model and its guide, without a change to either."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial, update_wrapper
from typing import Any, ClassVar

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from pyro.infer.reparam.reparam import Reparam
from pyro.poutine.reparam_messenger import ReparamMessenger, _get_init_messengers
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions.constraints import Constraint

from pyro_ext.distributions.relaxed import (
    ExpRelaxedOneHotCategorical,
    LogitRelaxedBernoulli,
    Objective,
    RelaxedBernoulli,
    RelaxedBernoulliStraightThrough,
    RelaxedOneHotCategorical,
    RelaxedOneHotCategoricalStraightThrough,
)
from pyro_ext.distributions.relaxed.bernoulli import RelaxedBernoulliBase
from pyro_ext.distributions.relaxed.objectives import OBJECTIVES
from pyro_ext.distributions.relaxed.parameters import as_temperature
from pyro_ext.distributions.structure import unwrap, with_base
from pyro_ext.inference.temperature import TemperatureSchedule
from pyro_ext.ops.relaxed import (
    bernoulli_score,
    categorical_score,
    floored_log,
    one_hot_of_largest,
    sigmoid,
    straight_through,
)
from pyro_ext.utils.checks import one_of
from pyro_ext.utils.shapes import broadcast_shapes

__all__ = ["RelaxReparam", "relax"]

Temperature = Tensor | float | TemperatureSchedule

# marks of a site that ask for its enumeration or for an estimator without reparameterisation
_DISCRETE_ONLY = ("enumerate", "expand", "num_samples", "estimator", "num_summed")


class RelaxReparam(Reparam):
    r"""Turns a Categorical, OneHotCategorical or Bernoulli site into a relaxed or straight-through one.

    For :func:`pyro.poutine.reparam`, applied to the model *and* the guide; :func:`relax` does that for PyroModules
    too. A distribution below ``.to_event`` and ``.mask`` is relaxed in its place. Observed sites stay as they are.

    The value of a Categorical site becomes a vector of ``K`` weights, with one event dim more: a program that looks up
    ``table[z]`` must write ``z @ table`` to be relaxed. The values of the other two keep their shapes.

    The ``objective`` replaces :math:`\log p(z) - \log q(z)` in the bound, with weights x, and probabilities P in the
    model and Q in the guide:

    * ``"relaxed_density"``: :math:`\log p(x) - \log q(x)` of the relaxed distributions, the only choice that bounds
      the evidence of the relaxed model. The latent variable is the site ``<name>_log`` (``<name>_logit`` where binary)
      of log-weights, which do not underflow; ``<name>`` is a function of it.
    * ``"relaxed_categorical"``: :math:`\sum_k x_k \log (P_k / Q_k)`.
    * ``"categorical"``: :math:`-\sum_k Q_k \log (Q_k / P_k)`, exact. The guide passes Q to the model as the site
      ``<name>_probs``, whose log-probability is zero.

    Args:
        temperature: a positive number, a tensor that broadcasts with the site's batch shape, or a schedule. Model
            and guide may differ.
        objective: ``"relaxed_density"``, ``"relaxed_categorical"`` or ``"categorical"``; the same for model and guide.
        straight_through: whether the program sees exact one-hot (or 0/1) values, with the gradient of relaxed ones.

    Raises:
        ValueError: if ``objective`` is not one of the three, or the temperature is not positive; when applied, if a
            site is not Categorical, OneHotCategorical or Bernoulli.

    References:
        | The Concrete distribution (Maddison et al., 2017), appendix C, https://arxiv.org/abs/1611.00712
        | Categorical reparameterization with Gumbel-softmax (Jang et al., 2017), https://arxiv.org/abs/1611.01144

    Example:
        >>> def model():
        ...     z = pyro.sample("z", dist.OneHotCategorical(torch.tensor([0.3, 0.7])))
        ...     pyro.sample("x", dist.Normal(z @ torch.tensor([-1.0, 1.0]), 1.0), obs=torch.tensor(0.5))
        >>> relaxed = pyro.poutine.reparam(model, config={"z": RelaxReparam(0.5)})
        >>> trace = pyro.poutine.trace(relaxed).get_trace()
        >>> list(trace.stochastic_nodes), trace.nodes["z"]["value"].sum()
        (['z_log', 'z'], tensor(1.))
    """

    def __init__(
        self, temperature: Temperature, objective: Objective = "relaxed_density", straight_through: bool = False
    ) -> None:
        one_of("objective", objective, OBJECTIVES)
        if not isinstance(temperature, TemperatureSchedule):
            as_temperature(temperature, torch.empty(()), validate=True)
        self.temperature = temperature
        self.objective = objective
        self.straight_through = straight_through

    def apply(self, msg: Any) -> Any:
        """Return the site's new distribution and value; sample the sites that these depend on."""
        name, fn = msg["name"], msg["fn"]
        if msg["is_observed"] or _is_relaxed(fn):
            return msg
        if not _can_relax(fn):
            raise ValueError(
                f"site {name!r} is {type(unwrap(fn).base).__name__}, which RelaxReparam cannot relax; leave it out of "
                "the config (only Categorical, OneHotCategorical and Bernoulli sites can be relaxed)"
            )
        initialisers = _get_init_messengers()
        if initialisers and self.objective != "relaxed_density":
            raise ValueError(
                f"site {name!r} is relaxed with objective={self.objective!r}, which is no density: automatic guides "
                'and Markov chains need objective="relaxed_density"; or write the guide and relax it too'
            )
        if initialisers and not isinstance(msg, _Message):
            raise ValueError(
                f"site {name!r} is relaxed by poutine.reparam, inside which an automatic guide cannot tell it from a "
                "latent variable: use pyro_ext.inference.relax(model, ...)"
            )
        if self.objective == "relaxed_density":
            return self._through_log_space(name, fn, msg["value"])
        return {"fn": self._scored(name, fn), "value": None, "is_observed": False}

    def relaxation(self, fn: Any) -> Any:
        """Return the relaxed distribution whose draws take the place of those of ``fn``."""
        return with_base(fn, self._relaxed(unwrap(fn).base, RelaxedOneHotCategorical, RelaxedBernoulli))

    def _relaxed(self, base: Any, categorical: type, binary: type) -> Any:
        """Return the relaxation of a distribution, of one class where it is categorical, of another where Bernoulli."""
        temperature = self.temperature() if isinstance(self.temperature, TemperatureSchedule) else self.temperature
        given = "probs" if "probs" in base.__dict__ else "logits"  # the other is clamped, when torch derives it
        kind = binary if isinstance(base, torch.distributions.Bernoulli) else categorical
        return kind(temperature, **{given: getattr(base, given)})

    def _through_log_space(self, name: str, fn: Any, initial: Tensor | None) -> dict[str, Any]:
        base = unwrap(fn).base
        inner = with_base(fn, self._relaxed(base, ExpRelaxedOneHotCategorical, LogitRelaxedBernoulli))
        binary = isinstance(base, torch.distributions.Bernoulli)
        if initial is not None and initial.shape[initial.dim() - inner.event_dim :] == inner.event_shape:
            initial = (
                floored_log(initial) - floored_log(1 - initial) if binary else floored_log(initial).log_softmax(-1)
            )
            infer = {"obs": initial, "infer": {"is_observed": False}}
        else:
            infer = {}
        y = pyro.sample(f"{name}_logit" if binary else f"{name}_log", inner, **infer)
        soft = sigmoid(y) if binary else y.exp()
        if self.straight_through:
            soft = straight_through((y > 0).to(y.dtype) if binary else one_hot_of_largest(y.detach()), soft)
        # not a deterministic site: Pyro expects those of a guide in the model's latent ones
        return {"fn": dist.Delta(soft, event_dim=inner.event_dim).mask(False), "value": None, "is_observed": False}

    def _scored(self, name: str, fn: Any) -> Any:
        hard = (RelaxedOneHotCategoricalStraightThrough, RelaxedBernoulliStraightThrough)
        kinds = hard if self.straight_through else (RelaxedOneHotCategorical, RelaxedBernoulli)
        base, probs = unwrap(fn).base, None
        if self.objective == "categorical":
            unmasked = with_base(fn, self._relaxed(base, *kinds), masked=False)
            own = unwrap(unmasked).base.probs
            probs = pyro.sample(f"{name}_probs", dist.Delta(own, event_dim=unmasked.event_dim).mask(False))
        return with_base(fn, _RelaxedScore(self._relaxed(base, *kinds), probs))


def _can_relax(fn: Any) -> bool:
    """Return whether :class:`RelaxReparam` can relax a distribution, below whatever ``.to_event`` and ``.mask``."""
    kinds = (torch.distributions.Categorical, torch.distributions.OneHotCategorical, torch.distributions.Bernoulli)
    return isinstance(unwrap(fn).base, kinds)


def _is_relaxed(fn: Any) -> bool:
    """Return whether a site was made by relaxing another one."""
    if isinstance(fn, dist.MaskedDistribution) and isinstance(fn.base_dist, dist.Delta):
        return fn._mask is False
    return isinstance(unwrap(fn).base, ExpRelaxedOneHotCategorical | LogitRelaxedBernoulli | _RelaxedScore)


class _RelaxedScore(TorchDistribution):
    r"""Draws from a relaxed distribution, and scores :math:`\sum_k w_k \log p_k` with its probabilities p.

    The score is not a density, but what the objectives ``"relaxed_categorical"`` and ``"categorical"`` sum.

    Args:
        relaxed: the relaxed distribution.
        weights: the weights w, in the shape of a value; the value itself is taken if None.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    has_rsample = True

    def __init__(self, relaxed: Any, weights: Tensor | None = None) -> None:
        if weights is not None:
            split = weights.dim() - relaxed.event_dim
            relaxed = relaxed.expand(broadcast_shapes(relaxed.batch_shape, weights.shape[:split]))
        self.relaxed = relaxed
        self.weights = weights
        super().__init__(relaxed.batch_shape, relaxed.event_shape, validate_args=False)

    @property
    def support(self) -> Constraint:
        """The support of the relaxed distribution."""
        return self.relaxed.support

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> Any:
        """Return the same with the relaxed distribution broadcast to ``batch_shape``."""
        return _RelaxedScore(self.relaxed.expand(torch.Size(batch_shape)), self.weights)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw from the relaxed distribution, ``sample_shape + batch_shape + event_shape``."""
        return self.relaxed.rsample(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the score of ``value``, ``(...)``."""
        weights = value if self.weights is None else self.weights
        score = bernoulli_score if isinstance(self.relaxed, RelaxedBernoulliBase) else categorical_score
        scores = score(weights, self.relaxed.logits)
        split = value.dim() - self.relaxed.event_dim
        return scores.expand(broadcast_shapes(scores.shape, value.shape[:split]))


def relax(
    program: Callable[..., Any],
    reparam: RelaxReparam | Mapping[str, RelaxReparam],
    sites: Collection[str] | None = None,
) -> Callable[..., Any]:
    """Return a model or guide with its discrete latent sites relaxed.

    Like :func:`pyro.poutine.reparam`, but where ``program`` is a module the result is one too, with the same
    parameters, as :func:`pyro_ext.inference.fit` and ``elbo(model, guide)`` need; a schedule of the temperature
    becomes a part of it. Automatic guides of a relaxed model have the latent log-weights as their variables
    (objective ``"relaxed_density"``). Relaxed sites lose the marks that ask for enumeration or for another estimator;
    other sites keep theirs.

    Args:
        program: a model or a guide; its guide or model must be relaxed in the same way.
        reparam: how to relax the sites: one strategy for all, or a mapping from names of sites to strategies.
        sites: the names of the sites to relax; by default all latent sites that can be.

    Raises:
        ValueError: if ``sites`` is given beside a mapping by name, or is a single string.

    Warns:
        UserWarning: if the program has run without one of the sites that were named.

    Example:
        >>> guide = lambda: pyro.sample("z", dist.Bernoulli(torch.full((3,), 0.3)).to_event(1))
        >>> relax(guide, RelaxReparam(0.5, straight_through=True))()
        tensor([...])
    """
    if isinstance(reparam, Mapping):
        if sites is not None:
            raise ValueError(f"give sites={sites!r} as the keys of reparam, or a single RelaxReparam for all of them")
        by_name: Mapping[str, RelaxReparam] | None = dict(reparam)
    elif isinstance(sites, str):
        raise ValueError(f"sites must be a collection of names, got {sites!r}: write [{sites!r}]")
    else:
        by_name = None if sites is None else dict.fromkeys(sites, reparam)
    config = _Config(by_name, None if isinstance(reparam, Mapping) else reparam)
    if not isinstance(program, torch.nn.Module):
        return update_wrapper(partial(_run, program, config), program)
    reparams = reparam.values() if isinstance(reparam, Mapping) else [reparam]
    return _RelaxedModule(program, config, [r.temperature for r in reparams])


class _Config:
    """Chooses how to relax a site: by name, or all that can be; a class, for it must be picklable."""

    def __init__(self, by_name: Mapping[str, RelaxReparam] | None, of_all: RelaxReparam | None) -> None:
        self.by_name = by_name
        self.of_all = of_all
        self.missing = set(by_name or ())

    def __call__(self, msg: Any) -> RelaxReparam | None:
        if self.by_name is not None:
            self.missing.discard(msg["name"])
            reparam = self.by_name.get(msg["name"])
        else:
            reparam = self.of_all if _can_relax(msg["fn"]) else None
        if reparam is not None and not msg["is_observed"]:
            for mark in _DISCRETE_ONLY:
                msg["infer"].pop(mark, None)
        return reparam

    def warn_of_missing(self) -> None:
        """Warn, once, of named sites that the program does not have."""
        if self.missing:
            names, self.missing = sorted(self.missing), set()
            warnings.warn(
                f"sites {names} are to be relaxed, but the program has run without them: check their spelling",
                stacklevel=4,
            )


class _Message(dict[str, Any]):
    """What :class:`_RelaxMessenger` asks a reparametrisation with."""


class _RelaxMessenger(ReparamMessenger):
    """Relaxes sites as :func:`pyro.poutine.reparam` does, for automatic guides too.

    These are asked for initial values of the relaxed sites, not of the discrete ones, and see the values computed
    from their latent log-weights as deterministic. A guide may hold those: they are auxiliary there.
    """

    def _pyro_sample(self, msg: Any) -> None:
        reparam = None if site_is_subsample(msg) else self.config(msg)
        if reparam is None or msg["is_observed"] or _is_relaxed(msg["fn"]):
            return
        initialisers = _get_init_messengers()
        if initialisers and _can_relax(msg["fn"]) and msg["value"] is None:
            probe = {**msg, "fn": reparam.relaxation(msg["fn"])}
            for messenger in initialisers:
                messenger._process_message(probe)
            msg["value"] = probe["value"]
        msg.update(reparam.apply(_Message({key: msg[key] for key in ("name", "fn", "value", "is_observed")})))
        if reparam.objective == "relaxed_density":
            msg["value"], msg["is_observed"] = msg["fn"].base_dist.v, True
            msg["infer"] = {**msg["infer"], "_deterministic": True, "is_auxiliary": True}


def _run(program: Callable[..., Any], config: _Config, *args: Any, **kwargs: Any) -> Any:
    with _RelaxMessenger(config):
        result = program(*args, **kwargs)
    config.warn_of_missing()
    return result


class _RelaxedModule(torch.nn.Module):
    """A program whose sites are relaxed while it runs; a plain module, so that no name of a site gains a prefix."""

    def __init__(self, program: torch.nn.Module, config: _Config, temperatures: list[Temperature]) -> None:
        super().__init__()
        self.program = program
        schedules = [t for t in temperatures if isinstance(t, TemperatureSchedule)]
        self.schedules = torch.nn.ModuleList(dict.fromkeys(schedules))
        self._config = config

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the program."""
        return _run(self.program, self._config, *args, **kwargs)
