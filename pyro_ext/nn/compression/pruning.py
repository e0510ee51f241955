"""Which weights are kept: masks by threshold or by sparsity, and the network without the others."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from pyro_ext.utils.checks import number_between, one_of

__all__ = ["Masks", "check_masks", "export_masked", "prunable", "prune"]

Masks = dict[str, Tensor]
"""Name of a parameter -> which of its entries are kept, booleans of its shape."""

_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def prunable(module: nn.Module) -> dict[str, Tensor]:
    """Return the weights of all linear and convolutional layers by name, without biases.

    Args:
        module: any network.

    Example:
        >>> [*prunable(nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2)))]
        ['0.weight', '2.weight']
    """
    return {
        f"{name}.weight" if name else "weight": layer.weight
        for name, layer in module.named_modules()
        if isinstance(layer, _LAYERS)
    }


@torch.no_grad()
def prune(
    module: nn.Module,
    scores: Mapping[str, Tensor] | None = None,
    *,
    threshold: float | Mapping[str, float] | None = None,
    sparsity: float | None = None,
    scope: Literal["layer", "network"] = "layer",
) -> Masks:
    r"""Return which weights of a network to keep; the network stays as it is.

    Entries whose score is below the threshold are kept: a score says how dispensable an entry is, such as
    :math:`\log \alpha = \log \sigma^2 - \log \theta^2`, the noise-to-signal ratio of sparse variational dropout
    (usually cut at 3), or minus the magnitude of a weight.

    Args:
        module: the network.
        scores: a tensor for each parameter to prune, biases included, by name; any shape that broadcasts to the
            parameter's, such as ``(outputs, 1)`` to prune whole rows. Minus the magnitudes of the weights of linear and
            convolutional layers if None.
        threshold: entries with a score of at least this are removed; one number, or one for each name in ``scores``.
        sparsity: instead of a threshold, the fraction of entries to remove, those of the largest scores; in [0, 1].
        scope: whether ``sparsity`` is that of each parameter, or of all together.

    Raises:
        ValueError: if there is no such parameter, a score does not fit it or is NaN, or neither or both of
            ``threshold`` and ``sparsity`` are given.

    Example:
        >>> layer = nn.Linear(3, 1)
        >>> _ = layer.weight.data.copy_(torch.tensor([[0.1, -2.0, 0.0]]))
        >>> prune(layer, threshold=-0.05)
        {'weight': tensor([[ True,  True, False]])}
        >>> prune(layer, sparsity=2 / 3)
        {'weight': tensor([[False,  True, False]])}
    """
    one_of("scope", scope, ("layer", "network"))
    if (threshold is None) == (sparsity is None):
        raise ValueError("give either threshold or sparsity, got both" if sparsity is not None else _NEITHER)
    given = {name: -weight.abs() for name, weight in prunable(module).items()} if scores is None else scores
    full = _expanded(module, given)
    if sparsity is None:
        assert threshold is not None
        return {name: score < _threshold(threshold, name) for name, score in full.items()}
    number_between("sparsity", sparsity, 0, 1)
    if scope == "layer":
        return {name: _all_but_largest(score, sparsity) for name, score in full.items()}
    kept = _all_but_largest(torch.cat([score.flatten() for score in full.values()]), sparsity)
    parts = kept.split([score.numel() for score in full.values()])
    return {name: part.view_as(full[name]) for name, part in zip(full, parts, strict=True)}


@torch.no_grad()
def export_masked(module: nn.Module, masks: Mapping[str, Tensor]) -> nn.Module:
    """Return a copy of a network whose removed entries are zero; its ``state_dict`` has the names it had.

    Args:
        module: the network, which stays as it is.
        masks: which entries of parameters are kept, by name, as :func:`prune` returns them.

    Raises:
        ValueError: if a mask fits no parameter.

    Example:
        >>> layer = nn.Linear(3, 2)
        >>> export_masked(layer, {"bias": torch.tensor([False, True])}).bias[0]
        tensor(0., grad_fn=<SelectBackward0>)
    """
    check_masks(module, masks)
    masked = copy.deepcopy(module)
    for name, mask in masks.items():
        parameter = masked.get_parameter(name)
        parameter.masked_fill_(~mask, 0.0)
    return masked


def check_masks(module: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Raise a ValueError unless each mask is one of booleans, of the shape of the parameter it is named after."""
    parameters = dict(module.named_parameters())
    for name, mask in masks.items():
        _check_name("masks", name, parameters)
        shape = tuple(parameters[name].shape)
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool or tuple(mask.shape) != shape:
            found = f"{mask.dtype} {tuple(mask.shape)}" if isinstance(mask, Tensor) else repr(mask)
            raise ValueError(f"masks[{name!r}] must hold booleans of shape {shape}, got {found}")


_NEITHER = "give threshold, such as 3 for scores log alpha, or sparsity, such as 0.9; got neither"


def _check_name(argument: str, name: str, parameters: Mapping[str, Tensor]) -> None:
    if name not in parameters:
        raise ValueError(f"{argument}: there is no parameter {name!r}; there are {', '.join(parameters)}")


def _expanded(module: nn.Module, scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
    if not scores:
        raise ValueError("scores must name at least one parameter; module has no linear or convolutional layer")
    parameters = dict(module.named_parameters())
    full = {}
    for name, score in scores.items():
        _check_name("scores", name, parameters)
        shape = parameters[name].shape
        try:
            full[name] = score.detach().expand(shape)
        except RuntimeError as error:
            raise ValueError(
                f"scores[{name!r}] must broadcast to the parameter's shape {tuple(shape)}, got {tuple(score.shape)}"
            ) from error
        if bool(score.isnan().any()):
            raise ValueError(f"scores[{name!r}] must be numbers, got NaN; weights or their variances have diverged")
    return full


def _threshold(threshold: float | Mapping[str, float], name: str) -> float:
    value = threshold if not isinstance(threshold, Mapping) else threshold.get(name)
    if value is None:
        raise ValueError(f"threshold must hold one number for each scored parameter, got none for {name!r}")
    return number_between("threshold", value, -math.inf, math.inf)


def _all_but_largest(score: Tensor, sparsity: float) -> Tensor:
    """Return a mask without the given fraction of entries; of equal scores the later ones go first."""
    kept = torch.ones(score.numel(), dtype=torch.bool, device=score.device)
    number = round(sparsity * score.numel())
    order = score.flatten().argsort(stable=True)
    kept[order[score.numel() - number :]] = False
    return kept.view(score.shape)
