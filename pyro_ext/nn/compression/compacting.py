"""A pruned network as a smaller one, without the units that do nothing."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from pyro_ext.nn.compression.chain import ChainLayer, Norm, Weighted, analyse

__all__ = ["SelectInputs", "compact"]


class SelectInputs(nn.Module):
    """Takes some features, or channels, of its input.

    Args:
        kept: which ones, booleans of shape ``(features,)``.
        dim: the dim of features: 1, as of channels, or -1.

    Example:
        >>> SelectInputs(torch.tensor([True, False, True]))(torch.tensor([[1.0, 2.0, 3.0]]))
        tensor([[1., 3.]])
    """

    index: Tensor

    def __init__(self, kept: Tensor, dim: int = 1) -> None:
        super().__init__()
        self.dim = dim
        self.register_buffer("index", kept.nonzero().squeeze(1))

    def forward(self, x: Tensor) -> Tensor:
        """Return the features that are kept, in order."""
        return x.index_select(self.dim, self.index)

    def extra_repr(self) -> str:
        """Return how many there are."""
        return f"{len(self.index)} inputs"


@torch.no_grad()
def compact(module: nn.Module, masks: Mapping[str, Tensor] | None = None) -> nn.Sequential:
    r"""Return a smaller network of ordinary layers that computes what the masked network computes.

    Units that no output depends on are left out, in all layers at once: the outputs of a layer are the inputs of the
    next. A unit without inputs is constant, :math:`f(b)` with its bias b and the activation f after it; it is left out
    too, and what it contributes, :math:`W f(b)`, becomes part of the next layer's bias. The same holds for channels,
    through pools, batch norm (with its running moments, as in evaluation) and ``Flatten``; a channel that is constant
    but not zero stays where the next convolution pads with zeros. Inputs that no layer uses are skipped by a
    :class:`SelectInputs`. A layer keeps at least one unit, and the last layer all of them.

    Args:
        module: an ``nn.Sequential``, possibly nested, of ``Linear``, ``Conv1d`` to ``Conv3d`` without groups,
            ``BatchNorm``, max and average pools, ``Flatten``, dropout and elementwise activations.
        masks: which entries of parameters are kept, by name, as :func:`prune` returns them; if None, zeros in the
            weights say what has been removed.

    Returns:
        The network in evaluation mode, parameters of its own; dropout is left out.

    Raises:
        ValueError: if the network is no such chain, or a mask fits no parameter.

    Example:
        >>> from pyro_ext.nn import export_masked, prune
        >>> network = nn.Sequential(nn.Linear(64, 30), nn.ReLU(), nn.Linear(30, 10))
        >>> masks = prune(network, sparsity=0.95)
        >>> small = compact(network, masks)
        >>> small
        Sequential(
          (0): SelectInputs(31 inputs)
          (1): Linear(in_features=31, out_features=14, bias=True)
          (2): ReLU()
          (3): Linear(in_features=14, out_features=10, bias=True)
        )
        >>> x = torch.randn(100, 64)
        >>> torch.allclose(small(x), export_masked(network, masks)(x), atol=1e-5)
        True
    """
    before, layers = analyse(module, masks)
    parts: list[nn.Module] = [copy.deepcopy(one) for one in before]
    # Of the channels that reach a flattened layer all features arrive: those that it does not use are skipped there.
    arriving = torch.ones_like(layers[0].inputs)
    for layer in layers:
        arriving = arriving.repeat_interleave(len(layer.inputs) // len(arriving))
        used = layer.inputs[arriving]
        if not bool(used.all()):
            parts.append(SelectInputs(used, dim=-1 if isinstance(layer.layer, nn.Linear) else 1))
        parts.append(_smaller(layer))
        parts += [_follower(one, layer.outputs) for one in layer.followers if not _is_dropout(one)]
        arriving = layer.outputs
    return nn.Sequential(*parts).eval()


def _is_dropout(module: nn.Module) -> bool:
    return isinstance(module, (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d))


def _smaller(layer: ChainLayer) -> Weighted:
    """Return the layer without unused inputs and outputs."""
    old, weight = layer.layer, layer.shrunken
    options = {"bias": layer.bias is not None, "device": weight.device, "dtype": weight.dtype}
    outputs, inputs = weight.shape[:2]
    new: Weighted
    if isinstance(old, nn.Linear):
        new = nn.utils.skip_init(nn.Linear, inputs, outputs, **options)
    else:
        names = ("stride", "padding", "dilation", "padding_mode")
        options |= {name: getattr(old, name) for name in names}
        new = nn.utils.skip_init(type(old), inputs, outputs, old.kernel_size, **options)
    new.weight.copy_(weight)
    if layer.bias is not None:
        assert new.bias is not None
        new.bias.copy_(layer.bias[layer.outputs])
    return new


def _follower(module: nn.Module, outputs: Tensor) -> nn.Module:
    """Return a copy of what follows a layer, for the outputs that are left."""
    new = copy.deepcopy(module)
    if isinstance(new, Norm):
        outputs = outputs.repeat_interleave(new.num_features // len(outputs))
        new.num_features = int(outputs.sum())
        for name in ("weight", "bias"):
            if getattr(new, name) is not None:
                setattr(new, name, nn.Parameter(getattr(new, name).detach()[outputs]))
        for name in ("running_mean", "running_var"):
            setattr(new, name, getattr(new, name)[outputs])
    return new
