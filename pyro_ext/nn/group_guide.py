"""The guide of group-sparse layers: normal weights, normal or log-normal scales, and what they say about groups."""

from __future__ import annotations

import copy
import math
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from pyro.infer.autoguide.initialization import init_to_sample
from torch import Tensor, nn

from pyro_ext.nn.additive import AutoAdditiveNormal
from pyro_ext.nn.group_layers import GroupSparseLayer, LayerMoments, layer_moments
from pyro_ext.nn.local import LocalParameters
from pyro_ext.nn.local_log_normal import LocalLogNormal

__all__ = ["AutoGroupSparse", "PosteriorNetwork", "export_posterior"]


class AutoGroupSparse(AutoAdditiveNormal):
    r"""A guide of independent weights and scales for networks with group-sparse layers.

    Weights, biases and other real sites are normal, :math:`\mathcal{N}(\theta, e^{\text{log\_sigma2}})`, positive ones
    log-normal; samples of both remember their parameters, so that layers draw pre-activations instead of weights, and
    scales for each row of a batch. Parameters are named by their sites: ``theta.NAME`` and ``log_sigma2.NAME``, so that
    ``OptimizerSettings(groups={"*log_sigma2*": {"lr": 1e-2}})`` lets log-variances, which begin far below their final
    values, move faster than means.

    In evaluation mode, after ``guide.eval()``, sites have single values: means, with the scales of groups whose score
    is at least that of ``thresholds`` at 0. :meth:`moments` has what an export needs.

    Args:
        model: a module with layers of this package.
        init_log_variance: the value at which ``log_sigma2`` begins; or such values by site, others beginning at -9.
            For small data sets values from -6 to -4 spare many steps.
        init_loc: values at which sites begin, by name; ``theta`` of positive ones is the logarithm.
        thresholds: scores from which on groups are removed in evaluation mode, by the name of the layer; none are
            removed in other layers.
        init_loc_fn: where sites of no layer begin, as for Pyro's own automatic guides.

    Raises:
        ValueError: as for :class:`AutoAdditiveNormal`, or if ``thresholds`` names no group-sparse layer.

    References:
        | Bayesian compression for deep learning (Louizos et al., 2017), section 4
        | https://arxiv.org/abs/1705.08665

    Example:
        >>> from pyro_ext.nn import GroupSparseLinear, Horseshoe
        >>> from pyro.nn import PyroModule
        >>> net = PyroModule[nn.Sequential](GroupSparseLinear(3, 4), GroupSparseLinear(4, 2, scale=Horseshoe()))
        >>> guide = AutoGroupSparse(net, init_log_variance=-8.0)
        >>> {name: tuple(moments.score.shape) for name, moments in guide.moments().items()}
        {'0': (3,), '1': (4,)}
        >>> guide(torch.ones(5, 3))["1.gamma"].shape
        torch.Size([4])
    """

    def __init__(
        self,
        model: Callable[..., Any],
        init_log_variance: float | Mapping[str, float] = -9.0,
        init_loc: Mapping[str, Tensor] | None = None,
        thresholds: Mapping[str, float] | None = None,
        init_loc_fn: Callable[[Any], Tensor] = init_to_sample,
    ) -> None:
        super().__init__(model, init_log_variance, init_loc, init_loc_fn=init_loc_fn)
        self.groups = {layer._pyro_name: (layer.scale, layer.site_names()) for layer in _layers(model)}
        self.thresholds: dict[str, float] = {}
        self.set_thresholds(thresholds or {})

    def set_thresholds(self, thresholds: Mapping[str, float]) -> None:
        """Remove groups with these scores in evaluation mode from now on.

        Args:
            thresholds: scores by the name of the layer.

        Raises:
            ValueError: if one names no group-sparse layer.
        """
        unknown = sorted(thresholds.keys() - self.groups.keys())
        if unknown:
            raise ValueError(f"thresholds: there are no layers {unknown}; the layers are {[*self.groups]}")
        self.thresholds = {**thresholds}

    @torch.no_grad()
    def moments(self) -> dict[str, LayerMoments]:
        """Return means and variances of the weights of each layer, scales included, and the scores of its groups.

        Returns:
            By the names of the layers, the sites of which have the names ``LAYER.weight`` and so on.
        """
        return {layer: layer_moments(scale, self._posterior(names)) for layer, (scale, names) in self.groups.items()}

    def masks(self, threshold: float | None = None) -> dict[str, Tensor]:
        """Return which weights are kept, those of groups with scores below the threshold, by site.

        Args:
            threshold: of all layers; the ``thresholds`` of the guide if None.
        """
        kept = {}
        for layer, moments in self.moments().items():
            limit = self.thresholds.get(layer, math.inf) if threshold is None else threshold
            kept[self.groups[layer][1]["weight"]] = (moments.score < limit).expand(moments.weight.shape)
        return kept

    def _posterior(self, names: Mapping[str, str]) -> dict[str, LocalParameters]:
        return {own: LocalParameters(*self.parameters_of(name)) for own, name in names.items()}

    def _add(self, name: str, start: Tensor, positive: bool) -> None:
        of_scale = any(name in layer.positive_sites() for layer in _layers(self.model))
        super()._add(name, start, positive or of_scale)

    def _distribution(self, name: str) -> Any:
        if self.training and self._positive[name]:
            loc, log_variance = self.parameters_of(name)
            return LocalLogNormal(loc, log_variance, validate_args=False).to_event(loc.dim())
        return super()._distribution(name)

    def _value(self, name: str) -> Tensor:
        """Return what a site is in evaluation mode."""
        loc, log_variance = self.parameters_of(name)
        for layer, (scale, names) in self.groups.items():
            for own, full in names.items():
                if full == name and own not in ("weight", "bias"):
                    return scale.value(own, self._posterior(names), self.thresholds.get(layer, math.inf))
        return (loc + 0.5 * log_variance.exp()).exp() if self._positive[name] else loc


class PosteriorNetwork(NamedTuple):
    """What :func:`export_posterior` returns.

    Args:
        network: ordinary layers with the posterior means of weights and biases.
        scores: how dispensable groups are, by the names of weights, for :func:`prune`.
        variances: the posterior variances of weights, by their names, for :func:`sparsity_report`.
    """

    network: nn.Module
    scores: dict[str, Tensor]
    variances: dict[str, Tensor]


@torch.no_grad()
def export_posterior(network: nn.Module, guide: AutoGroupSparse) -> PosteriorNetwork:
    """Return a network of ordinary layers with the posterior means of its weights, and what is known of them.

    Args:
        network: an ``nn.Sequential``, possibly nested, with group-sparse layers, or a single one; part of the model of
            the guide, or that model itself.
        guide: the guide.

    Raises:
        ValueError: if the guide does not know a layer of the network, or layers lie in other containers than
            ``nn.Sequential``.

    Example:
        >>> from pyro_ext.nn import compact, group_sparse, prune
        >>> net = group_sparse(nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2)))
        >>> exported = export_posterior(net, AutoGroupSparse(net))
        >>> masks = prune(exported.network, exported.scores, threshold=-2.0)
        >>> compact(exported.network, masks)(torch.ones(3, 8)).shape
        torch.Size([3, 2])
    """
    moments = guide.moments()
    scores, variances = {}, {}

    def plain(module: nn.Module, name: str) -> nn.Module:
        if isinstance(module, GroupSparseLayer):
            own = moments.get(module._pyro_name)
            if own is None:
                raise ValueError(f"network has a layer {module._pyro_name!r} that guide does not know: {[*moments]}")
            new = module.plain()
            new.get_parameter("weight").copy_(own.weight)
            if own.bias is not None:
                new.get_parameter("bias").copy_(own.bias)
            weight = f"{name}.weight" if name else "weight"
            scores[weight], variances[weight] = own.score, own.variance
            return new.train(module.training)
        if isinstance(module, nn.Sequential):
            # not named_children(), which leaves out what was there before
            members = module._modules.items()
            children = ((key, plain(child, f"{name}.{key}" if name else key)) for key, child in members)
            return nn.Sequential(OrderedDict(children)).train(module.training)
        if any(_layers(module)):
            raise ValueError(
                f"network must be an nn.Sequential, possibly nested, or a single layer; there are group-sparse layers "
                f"inside of {type(module).__name__}: export its parts"
            )
        return copy.deepcopy(module)

    return PosteriorNetwork(plain(network, ""), scores, variances)


def _layers(model: Any) -> Iterator[GroupSparseLayer]:
    for module in model.modules() if isinstance(model, nn.Module) else ():
        if isinstance(module, GroupSparseLayer):
            yield module
