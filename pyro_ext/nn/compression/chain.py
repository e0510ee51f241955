"""A chain of layers: which of its units no output depends on, and which are constant."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from pyro_ext.nn.compression.pruning import export_masked

__all__ = ["ChainLayer", "analyse", "flattened", "is_chain", "layer_sizes"]

Weighted = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d
Norm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d

_WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_ELEMENTWISE = (
    *(nn.ReLU, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.ReLU6, nn.Softplus),
    *(nn.Softsign, nn.Tanh, nn.Sigmoid, nn.LogSigmoid, nn.Hardtanh, nn.Hardsigmoid, nn.Hardswish, nn.Identity),
)
_DROPOUT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
_AVERAGES = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
_POOLS = (
    *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d),
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
)


@dataclass
class ChainLayer:
    """A linear or convolutional layer of a chain, and what follows it up to the next one.

    Args:
        name: where it is in the network.
        layer: the layer.
        weight: its weight without removed entries and without columns of constant inputs.
        bias: its bias, with what constant inputs add up to.
        inputs: which inputs are used, ``(in_features,)`` or ``(in_channels,)``.
        outputs: which outputs are used by later layers, ``(out_features,)`` or ``(out_channels,)``.
        followers: activations, pools, norms and the like before the next layer.
    """

    name: str
    layer: Weighted
    weight: Tensor
    bias: Tensor | None
    inputs: Tensor
    outputs: Tensor
    followers: list[nn.Module] = field(default_factory=list)

    @property
    def shrunken(self) -> Tensor:
        """The weight without unused rows and columns."""
        return self.weight[self.outputs][:, self.inputs]


def flattened(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Yield the modules of a chain in order, with their names; sequences inside of sequences are opened."""
    if not isinstance(module, nn.Sequential):
        yield prefix, module
        return
    for name, child in module._modules.items():  # named_children() leaves out what was there before
        assert child is not None
        yield from flattened(child, f"{prefix}.{name}" if prefix else name)


def is_chain(module: nn.Module) -> bool:
    """Return whether :func:`analyse` can follow the units through a network, no layer of which stands in two places."""
    try:
        _, layers = _layers(module)
    except ValueError:
        return False
    return len({id(one.layer) for one in layers}) == len(layers)


@torch.no_grad()
def analyse(module: nn.Module, masks: Mapping[str, Tensor] | None = None) -> tuple[list[nn.Module], list[ChainLayer]]:
    """Return the modules before the first layer with weights, and these layers with the units that are needed.

    One sweep from the input finds the units that are constant, whatever the input is, and adds what they contribute to
    the next layer's bias; one sweep from the output finds the units that no output depends on. A unit found in the
    second sweep contributes nothing to units that are left, so that no constant unit is new after it.

    A constant channel, other than zero, stays where its next layer pads with zeros: at the border it is not constant.

    Args:
        module: linear and convolutional layers, batch norm, pools, elementwise activations, ``Flatten`` and dropout
            in (nested) ``nn.Sequential``.
        masks: which entries of parameters are kept, by name; all of them if None.

    Raises:
        ValueError: if the network is no such chain, or a mask fits no parameter.
    """
    masked = export_masked(module, masks or {})
    before, layers = _layers(masked)
    constant = torch.full((layers[0].inputs.numel(),), torch.nan, dtype=torch.float64, device=layers[0].weight.device)
    for layer in layers:
        constant = _fold(layer, _at_inputs(constant, layer))
        constant = _follow(layer, constant)
    needed = torch.ones_like(layers[-1].outputs)
    for layer in reversed(layers):
        layer.outputs = needed.view(len(layer.outputs), -1).any(1)
        used = layer.weight[layer.outputs] != 0
        needed = layer.inputs = _at_least_one(used.transpose(0, 1).flatten(1).any(1))
    return before, layers


def layer_sizes(layers: Iterable[ChainLayer]) -> list[int]:
    """Return the learned sizes as papers list them: used inputs of linear, outputs of convolutional layers.

    Args:
        layers: what :func:`analyse` returns.

    Example:
        >>> network = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> layer_sizes(analyse(network, {"2.weight": torch.tensor([[True, False, False]] * 2)})[1])
        [4, 1]
    """
    return [int((one.inputs if isinstance(one.layer, nn.Linear) else one.outputs).sum()) for one in layers]


def _refusal(module: nn.Module) -> str | None:
    """Return why a module cannot be part of a chain, or None."""
    if isinstance(module, (*_WEIGHTED, *_NORMS)):
        if getattr(module, "groups", 1) != 1:
            return "has groups of channels"
        if isinstance(module, _NORMS) and (module.running_mean is None or module.running_var is None):
            return "has no running moments (track_running_stats=False)"
        return None
    if isinstance(module, nn.Flatten):
        return None if (module.start_dim, module.end_dim) == (1, -1) else "flattens other dims than all but the first"
    if isinstance(module, (*_ELEMENTWISE, *_DROPOUT, *_AVERAGES, *_POOLS)):
        return None
    return "is none of Linear, Conv, BatchNorm, MaxPool, AvgPool, Flatten, Dropout and elementwise activations"


def _layers(module: nn.Module) -> tuple[list[nn.Module], list[ChainLayer]]:
    before: list[nn.Module] = []
    layers: list[ChainLayer] = []
    for name, member in flattened(module):
        refusal = _refusal(member)
        if refusal is not None:
            raise ValueError(
                f"module must be an nn.Sequential of layers whose units can be followed; {name or 'it'} is "
                f"{type(member).__name__}, which {refusal}; use export_masked() for other networks"
            )
        if isinstance(member, _WEIGHTED):
            bias = None if member.bias is None else member.bias.detach().clone()
            weight = member.weight.detach().clone()
            outputs, inputs = (weight.new_ones(size, dtype=torch.bool) for size in weight.shape[:2])
            layers.append(ChainLayer(name, member, weight, bias, inputs, outputs))
        else:
            (layers[-1].followers if layers else before).append(member)
    if not layers:
        raise ValueError("module must hold at least one linear or convolutional layer, got none")
    for one, other in itertools.pairwise(layers):
        _check_neighbours(one, other)
    return before, layers


def _check_neighbours(one: ChainLayer, other: ChainLayer) -> None:
    """Raise a ValueError unless the inputs of a layer are the outputs of the one before, or their features in order."""
    given, taken = len(one.outputs), len(other.inputs)
    from_linear, to_linear = (isinstance(layer.layer, nn.Linear) for layer in (one, other))
    flat = any(isinstance(module, nn.Flatten) for module in one.followers)
    if to_linear and not from_linear:
        if not flat:
            raise ValueError(
                f"layer {other.name} is linear and follows the convolution {one.name} without a Flatten, so that it "
                "acts on positions instead of channels; use export_masked() for such a network"
            )
        fits = taken % given == 0
    else:
        fits = from_linear == to_linear and taken == given
    if not fits:
        raise ValueError(
            f"layer {other.name} takes {taken} inputs, which do not stand for the {given} outputs of {one.name}; "
            "use export_masked() for such a network"
        )


def _at_inputs(constant: Tensor, layer: ChainLayer) -> Tensor:
    """Return the constants of the units before a layer for each of its inputs: flattened, a channel has several."""
    return constant.repeat_interleave(len(layer.inputs) // len(constant))


def _fold(layer: ChainLayer, constant: Tensor) -> Tensor:
    """Add what constant inputs contribute to the bias, and return the constants of the outputs, NaN if they vary."""
    foldable = ~constant.isnan()
    own = layer.layer
    if not isinstance(own, nn.Linear) and own.padding_mode == "zeros" and _pads(own.padding):
        foldable &= constant == 0
    columns = layer.weight.double().reshape(*layer.weight.shape[:2], -1).sum(2)
    added = columns[:, foldable] @ constant[foldable]
    if layer.bias is not None or bool((added != 0).any()):
        own_bias = torch.zeros_like(added) if layer.bias is None else layer.bias.double()
        layer.bias = (own_bias + added).to(layer.weight.dtype)
    layer.weight[:, foldable] = 0
    fixed = (layer.weight == 0).flatten(1).all(1)
    value = torch.zeros_like(added) if layer.bias is None else layer.bias.double()
    return torch.where(fixed, value, torch.nan)


def _pads(padding: str | tuple[int, ...]) -> bool:
    return padding != "valid" if isinstance(padding, str) else any(padding)


def _follow(layer: ChainLayer, constant: Tensor) -> Tensor:
    """Return what becomes of constants in the modules after a layer."""
    for module in layer.followers:
        if isinstance(module, _NORMS):
            constant = _normalised(module, constant)
        elif isinstance(module, _ELEMENTWISE):
            constant = torch.where(constant.isnan(), torch.nan, module(constant.clone()))
        elif isinstance(module, _AVERAGES) and _changes_constants(module):
            constant = torch.where(constant == 0, constant, torch.nan)
    return constant


def _changes_constants(pool: nn.Module) -> bool:
    padding = pool.padding if isinstance(pool.padding, tuple) else (pool.padding,)
    return (bool(pool.count_include_pad) and any(padding)) or getattr(pool, "divisor_override", None) is not None


def _normalised(norm: Norm, constant: Tensor) -> Tensor:
    """Return batch norm of constants, with its running moments; a channel that it scales by 0 is constant, too."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    constant = constant.repeat_interleave(norm.num_features // len(constant))  # of a channel that was flattened
    if norm.weight is None:
        return (constant - norm.running_mean) * scale
    weight, bias = norm.weight.detach().double(), norm.bias.detach().double()
    normed = (constant - norm.running_mean) * scale * weight + bias
    return torch.where(weight == 0, bias, normed)


def _at_least_one(needed: Tensor) -> Tensor:
    """Keep a unit where none is needed: PyTorch has no layers without."""
    if bool(needed.any()):
        return needed
    kept = torch.zeros_like(needed)
    kept[0] = True
    return kept
