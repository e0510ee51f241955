"""The guide of sparse variational dropout: independent normal weights by mean and log-variance."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.infer.autoguide import AutoGuide
from pyro.infer.autoguide.initialization import InitMessenger, init_to_sample
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_ext.nn.layers import BayesianLayer, RecordStarts
from pyro_ext.nn.local import LocalNormal
from pyro_ext.ops.log_uniform import log_alpha
from pyro_ext.utils.checks import finite_number

__all__ = ["AutoAdditiveNormal", "AutoMultiplicativeNormal"]


class AutoAdditiveNormal(AutoGuide):
    r"""A guide of independent normal weights, parameterised such that the noise does not reach the mean's gradient.

    .. math::  w = \theta + \sigma \epsilon, \qquad \sigma^2 = e^{\text{log\_sigma2}}, \quad
        \log\alpha = \text{log\_sigma2} - \log\theta^2.

    Real sites are normal, positive ones log-normal (``theta`` and ``log_sigma2`` are then those of the logarithm).
    Samples of real sites remember their parameters, so that layers of this package can draw pre-activations instead
    of weights (local reparameterisation).

    In training mode sites are drawn. In evaluation mode, after ``guide.eval()``, each has a single value: its mean
    (median of positive sites), with weights that are mostly noise, ``log_alpha`` of at least ``threshold``, set to 0.

    The sites of :class:`~pyro_ext.nn.BayesianLayer` in a module have their parameters at once, all others when the
    guide is first called, those of layers that a function calls too. Parameters are named by their sites:
    ``theta.NAME`` and ``log_sigma2.NAME``.

    Args:
        model: a module with layers of this package, or any program without latent sites in plates over data.
        init_log_variance: the value at which ``log_sigma2`` begins; or such values by site, others beginning at -10.
        init_loc: values at which ``theta`` begins, by site; layers have their own, those of a network that was
            converted for example.
        threshold: the ``log_alpha`` from which on a weight counts as pure noise; 3 is a rate of binary dropout above
            95 %.
        init_loc_fn: where other sites begin, as for Pyro's own automatic guides.

    Raises:
        ValueError: if two layers have the same name, ``init_loc`` or ``init_log_variance`` names no site or has
            another shape, or a number is not finite; when called, if a latent site lies in a plate over data or is
            neither real nor positive.

    References:
        | Variational dropout sparsifies deep neural networks (Molchanov et al., 2017), equations 11 and 14
        | https://arxiv.org/abs/1701.05369

    Example:
        >>> from pyro_ext.nn import SparseVariationalLinear
        >>> from pyro.nn import PyroModule
        >>> net = PyroModule[nn.Sequential](SparseVariationalLinear(3, 4), PyroModule[nn.ReLU]())
        >>> guide = AutoAdditiveNormal(net, init_log_variance=-8.0)
        >>> [*guide.state_dict()]
        ['theta.0.weight', 'log_sigma2.0.weight']
        >>> guide(torch.ones(5, 3))["0.weight"].shape
        torch.Size([4, 3])
        >>> guide.log_alpha("0.weight").shape, guide.eval().masks()["0.weight"].dtype
        (torch.Size([4, 3]), torch.bool)
    """

    _noise = "log_sigma2"

    def __init__(
        self,
        model: Callable[..., Any],
        init_log_variance: float | Mapping[str, float] = -10.0,
        init_loc: Mapping[str, Tensor] | None = None,
        threshold: float = 3.0,
        init_loc_fn: Callable[[Any], Tensor] = init_to_sample,
    ) -> None:
        super().__init__(model)
        self.threshold = finite_number("threshold", threshold)
        by_site = init_log_variance if isinstance(init_log_variance, Mapping) else {}
        default = -10.0 if isinstance(init_log_variance, Mapping) else init_log_variance
        self._init_log_variance = {
            name: finite_number(f"init_log_variance of {name!r}", value) for name, value in by_site.items()
        }
        self._default_log_variance = finite_number("init_log_variance", default)
        self._init_loc = {**(init_loc or {})}
        self._init_loc_fn = init_loc_fn
        self.theta = nn.Module()
        self.add_module(self._noise, nn.Module())
        self._positive: dict[str, bool] = {}
        for name, start in _starts(model):
            if name in self._positive:
                raise ValueError(
                    f"two layers have a site {name!r}: make the containers of layers PyroModules, such as "
                    "PyroModule[torch.nn.Sequential], so that they name what is inside of them"
                )
            self._add(name, start, positive=False)

    def _add(self, name: str, start: Tensor, positive: bool) -> None:
        loc = self._init_loc.get(name, start)
        if loc.shape != start.shape:
            raise ValueError(f"init_loc of {name!r} has shape {tuple(loc.shape)}, the site {tuple(start.shape)}")
        loc = loc.detach().to(start, copy=True)
        log_variance = self._init_log_variance.get(name, self._default_log_variance)
        _attach(self.theta, name, loc.log() if positive else loc)
        _attach(getattr(self, self._noise), name, torch.full_like(loc, log_variance))
        self._positive[name] = positive

    def _setup_prototype(self, *args: Any, **kwargs: Any) -> None:
        """Run the model once, for the order of its sites and for those that are of no layer of a module."""
        record = RecordStarts()

        def begin(site: Any) -> Tensor:
            if site["name"] in self._positive:
                return self._value(site["name"])
            start = record.starts.get(site["name"])
            return self._init_loc_fn(site) if start is None else start

        model = self.model
        # around the model itself: Pyro hides its prototype run from handlers outside
        self._model = (InitMessenger(begin)(model),)
        try:
            with torch.no_grad(), record:
                super()._setup_prototype(*args, **kwargs)
        finally:
            self._model = (model,)
        found = dict(self.prototype_trace.iter_stochastic_nodes())
        for name, site in found.items():
            if site["cond_indep_stack"]:
                raise ValueError(
                    f"site {name!r} lies in the plate {site['cond_indep_stack'][0].name!r}: AutoAdditiveNormal is for "
                    "weights, which all data share; put a guide for it beside this one into an AutoGuideList"
                )
            if name not in self._positive:
                self._add(name, site["value"], _is_positive(name, site["fn"].support))
        unknown = sorted((self._init_loc.keys() | self._init_log_variance) - self._positive.keys())
        if unknown:
            raise ValueError(f"there are no sites {unknown} to begin from; the sites are {sorted(self._positive)}")
        self._positive = {name: self._positive[name] for name in found}  # the order in which the model draws

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Draw all sites, or in evaluation mode return the values used for predictions, by name."""
        if self.prototype_trace is None:
            self._setup_prototype(*args, **kwargs)
        return {name: pyro.sample(name, self._distribution(name)) for name in self._positive}

    def _distribution(self, name: str) -> Any:
        if not self.training:
            value = self._value(name)
            return dist.Delta(value, event_dim=value.dim())
        loc, log_variance = self.parameters_of(name)
        if self._positive[name]:
            return dist.LogNormal(loc, (0.5 * log_variance).exp()).to_event(loc.dim())
        return LocalNormal(loc, log_variance, validate_args=False).to_event(loc.dim())

    def parameters_of(self, name: str) -> tuple[Tensor, Tensor]:
        """Return the means and the log-variances of a site, or of its logarithm where it is positive.

        Args:
            name: the site's name.

        Raises:
            ValueError: if the guide has no such site.
        """
        if name not in self._positive:
            raise ValueError(
                f"there is no site {name!r}; the sites are {sorted(self._positive)}, and those of no layer are known "
                "when the guide was called once"
            )
        loc: Tensor = self.theta.get_parameter(name)
        return loc, self._log_variance(loc, getattr(self, self._noise).get_parameter(name))

    def _log_variance(self, loc: Tensor, noise: Tensor) -> Tensor:
        return noise

    def log_alpha(self, name: str) -> Tensor:
        """Return the logarithm of the ratio of variance to squared mean of a site's entries.

        Args:
            name: the site's name.

        Raises:
            ValueError: if the guide has no such site.
        """
        return log_alpha(*self.parameters_of(name))

    def masks(self, threshold: float | None = None) -> dict[str, Tensor]:
        """Return which entries of real sites are kept, those with ``log_alpha`` below the threshold, by site.

        Args:
            threshold: the threshold; that of the guide if None.
        """
        threshold = self.threshold if threshold is None else finite_number("threshold", threshold)
        with torch.no_grad():
            return {name: self.log_alpha(name) < threshold for name, is_log in self._positive.items() if not is_log}

    def median(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Return what evaluation mode uses, by site: masked means, and medians of positive sites."""
        if self.prototype_trace is None and (args or kwargs):
            self._setup_prototype(*args, **kwargs)
        return {name: self._value(name).detach() for name in self._positive}

    def _value(self, name: str) -> Tensor:
        loc, _ = self.parameters_of(name)
        return loc.exp() if self._positive[name] else loc.masked_fill(self.log_alpha(name) >= self.threshold, 0)


class AutoMultiplicativeNormal(AutoAdditiveNormal):
    r"""A guide of independent normal weights whose noise is a multiple of the mean: Gaussian dropout, learnt.

    .. math::  w = \theta (1 + \sqrt{\alpha}\, \epsilon), \qquad
        \alpha = \min(e^{\text{log\_ratio}}, \alpha_{\max}).

    The distributions are those of :class:`AutoAdditiveNormal`, but the gradient of the mean contains the noise, and
    all the more the less a weight is worth: :math:`\partial w / \partial\theta = 1 + \sqrt{\alpha}\,\epsilon`.
    As published, :math:`\alpha` is bounded, so that no weight is pruned. It is here to be compared with.

    Parameters are named ``theta.NAME`` and ``log_ratio.NAME``.

    Args:
        model: a module with layers of this package, or any program without latent sites in plates over data.
        init_log_alpha: the value at which ``log_ratio`` begins; or such values by site, others beginning at -10.
        largest_log_alpha: the bound :math:`\log\alpha_{\max}`, 0 as published; infinite for none.
        init_loc: values at which ``theta`` begins, by site; layers have their own.
        threshold: the ``log_alpha`` from which on a weight counts as pure noise.
        init_loc_fn: where other sites begin, as for Pyro's own automatic guides.

    Raises:
        ValueError: as :class:`AutoAdditiveNormal`.

    References:
        | Variational dropout and the local reparameterization trick (Kingma et al., 2015), section 3
        | https://arxiv.org/abs/1506.02557

    Example:
        >>> from pyro_ext.nn import SparseVariationalLinear
        >>> guide = AutoMultiplicativeNormal(SparseVariationalLinear(3, 4), init_log_alpha=2.0)
        >>> [*guide.state_dict()], guide.log_alpha("weight").max().round()
        (['theta.weight', 'log_ratio.weight'], tensor(0., grad_fn=<RoundBackward0>))
    """

    _noise = "log_ratio"

    def __init__(
        self,
        model: Callable[..., Any],
        init_log_alpha: float | Mapping[str, float] = -2.0,
        largest_log_alpha: float = 0.0,
        init_loc: Mapping[str, Tensor] | None = None,
        threshold: float = 3.0,
        init_loc_fn: Callable[[Any], Tensor] = init_to_sample,
    ) -> None:
        super().__init__(model, init_log_alpha, init_loc, threshold, init_loc_fn)
        self.largest_log_alpha = largest_log_alpha

    def _log_variance(self, loc: Tensor, noise: Tensor) -> Tensor:
        return noise.clamp_max(self.largest_log_alpha) - log_alpha(loc, torch.zeros_like(loc))


def _starts(model: Any) -> Iterator[tuple[str, Tensor]]:
    """Yield the sites of all layers inside of a program, and the values that they begin from."""
    for module in model.modules() if isinstance(model, nn.Module) else ():
        if isinstance(module, BayesianLayer):
            names = module.site_names()
            yield from ((names[name], start) for name, start in module.starts())


def _attach(root: nn.Module, name: str, value: Tensor) -> None:
    """Make a value the parameter of a dotted name."""
    *path, last = name.split(".")
    for part in path:
        if part not in root._modules:
            root.add_module(part, nn.Module())
        root = root.get_submodule(part)
    root.register_parameter(last, nn.Parameter(value))


def _is_positive(name: str, support: Any) -> bool:
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    if support is constraints.real:
        return False
    if support in (constraints.positive, constraints.nonnegative):
        return True
    raise ValueError(f"site {name!r} has the support {support}: AutoAdditiveNormal has real and positive sites only")
