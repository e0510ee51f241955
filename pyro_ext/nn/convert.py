"""Networks of plain layers made Bayesian."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping
from typing import Any

from pyro.nn.module import to_pyro_module_
from torch import nn

from pyro_ext.nn.layers import (
    BayesianLayer,
    Prior,
    SparseVariationalConv1d,
    SparseVariationalConv2d,
    SparseVariationalConv3d,
    SparseVariationalLinear,
    log_uniform_prior,
)

__all__ = ["bayesianize"]

_CONVOLUTIONS: dict[type[nn.Module], Any] = {
    nn.Conv1d: SparseVariationalConv1d,
    nn.Conv2d: SparseVariationalConv2d,
    nn.Conv3d: SparseVariationalConv3d,
}
_CONVERTIBLE = (nn.Linear, *_CONVOLUTIONS)


def bayesianize(
    module: nn.Module,
    prior: Prior | Mapping[str, Prior | None] = log_uniform_prior,
    where: Callable[[str, nn.Module], bool] | Collection[str] | None = None,
    local: bool | Mapping[str, bool] = True,
) -> Any:
    """Return a copy of a network in which the weights of layers are sites, and which begins where the network was.

    :class:`torch.nn.Linear` and convolutions become :class:`~pyro_ext.nn.SparseVariationalLinear` and its relatives,
    every container a :class:`~pyro.nn.PyroModule`; names, biases and all other modules are kept. The values of the
    weights are where :class:`~pyro_ext.nn.AutoAdditiveNormal` lets ``theta`` begin: a trained network is a pretrained
    start. A layer in several places of the network stays a single one, known by the name of the last and used with
    ``local=False``.

    Args:
        module: a network, not changed.
        prior: the prior of the weights, as a function of a tensor like the weight; or such functions by the name of
            the layer, None for a layer that is left as it is; layers not named have log-uniform priors.
        where: which layers are converted, by their names or by a function of name and layer; all if None.
        local: whether pre-activations are drawn instead of weights; or so by the name of the layer, True for others.

    Returns:
        A PyroModule.

    Raises:
        ValueError: if a name is not that of a layer that can be converted, none is converted, a convolution pads by
            anything but zeros, or different layers share a parameter.

    Example:
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> bayesianize(net, where=["0"])
        PyroSequential(
          (0): SparseVariationalLinear(in_features=4, out_features=8, bias=True)
          (1): PyroReLU()
          (2): PyroLinear(in_features=8, out_features=2, bias=True)
        )
        >>> wide = bayesianize(net, prior=lambda w: dist.Normal(torch.zeros_like(w), 1.0).to_event(w.dim()))
        >>> wide(torch.ones(3, 4)).shape
        torch.Size([3, 2])
    """
    layers = {name: layer for name, layer in module.named_modules() if type(layer) in _CONVERTIBLE}
    for argument, names in (("prior", prior), ("where", where), ("local", local)):
        _check_names(argument, names, layers)
    chosen = {name: layer for name, layer in layers.items() if _is_chosen(name, layer, where)}
    priors = {name: prior.get(name, log_uniform_prior) if isinstance(prior, Mapping) else prior for name in chosen}
    chosen = {name: layer for name, layer in chosen.items() if priors[name] is not None}
    if not chosen:
        raise ValueError(f"no layer is converted; those that can be are {[*layers]}: name some of them in where")
    check_not_shared(module, chosen)
    local_of = {name: local.get(name, True) if isinstance(local, Mapping) else local for name in chosen}
    new: dict[str, BayesianLayer] = {
        name: _converted(name, layer, priors[name], local_of[name]) for name, layer in chosen.items()
    }
    if "" in new:
        return new[""]
    result = copy.deepcopy(module)
    for place, layer in module.named_modules(remove_duplicate=False):
        name = next((name for name, old in chosen.items() if old is layer), None)
        if name is not None:
            path, _, last = place.rpartition(".")
            result.get_submodule(path)._modules[last] = new[name]
    to_pyro_module_(result)
    return result.train(module.training)


def check_not_shared(module: nn.Module, layers: Mapping[str, nn.Module]) -> None:
    """Raise a ValueError if a layer shares a parameter with another module, for each would have a site of its own.

    Args:
        module: the network.
        layers: the layers of it that are converted, by name.
    """
    owners: dict[int, list[str]] = {}
    for name, member in module.named_modules():
        for parameter in member.parameters(recurse=False):
            owners.setdefault(id(parameter), []).append(name)
    for layer in layers.values():
        for parameter in layer.parameters(recurse=False):
            names = owners[id(parameter)]
            if len(names) > 1:
                raise ValueError(
                    f"modules {names} of the network share a parameter, of which each would get a copy: use one layer "
                    "in all places instead, or do not convert them"
                )


def _check_names(argument: str, names: Any, layers: Mapping[str, nn.Module]) -> None:
    if isinstance(names, str):
        raise ValueError(f"{argument} must be a collection of names, got {names!r}: write [{names!r}]")
    if not isinstance(names, Collection):
        return
    unknown = sorted({*names} - layers.keys())
    if unknown:
        raise ValueError(f"{argument} names {unknown}, but the layers that can be converted are {[*layers]}")


def _is_chosen(name: str, layer: nn.Module, where: Any) -> bool:
    if where is None:
        return True
    return bool(where(name, layer)) if callable(where) else name in where


def _converted(name: str, layer: Any, prior: Any, local: bool) -> BayesianLayer:
    options = {"bias": layer.bias is not None, "prior": prior, "local": local}
    options |= {"device": layer.weight.device, "dtype": layer.weight.dtype}
    new: Any
    if isinstance(layer, nn.Linear):
        new = SparseVariationalLinear(layer.in_features, layer.out_features, **options)
    else:
        if layer.padding_mode != "zeros":
            raise ValueError(f"layer {name!r} has padding_mode={layer.padding_mode!r}; pad by a module of its own")
        settings = (layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.groups)
        new = _CONVOLUTIONS[type(layer)](layer.in_channels, layer.out_channels, *settings, **options)
    new.start_from(layer)
    result: BayesianLayer = new.train(layer.training)
    return result
