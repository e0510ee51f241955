r"""Networks that are linear at their initialisation although they are made of rectifiers.

A concatenated rectifier keeps both halves of its input, :math:`\mathrm{CReLU}(x) = [\max(x, 0), \max(-x, 0)]`, so
that a layer with mirrored weights :math:`[W_0, -W_0]` undoes it: :math:`[W_0, -W_0]\, \mathrm{CReLU}(x) = W_0 x`. A
network of such layers is an affine map at its initialisation, however deep it is, and its gradients do not depend on
its input. Training moves the two halves apart.

References:
    | The shattered gradients problem: if resnets are the answer, then what is the question? (Balduzzi et al., 2017),
      section 4
    | https://arxiv.org/abs/1702.08591
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.parameter import is_lazy

from pyro_ext.utils.checks import nonnegative_number, positive_number

__all__ = ["CReLU", "assert_looks_linear", "looks_linear_"]

# Modules without weights that act on both halves of a CReLU alike, and linearly.
_HARMLESS = (
    nn.Flatten, nn.Unflatten, nn.Identity, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.AdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d, nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d,
    nn.Sequential, nn.ModuleList, nn.ModuleDict,
)  # fmt: skip
_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)  # the identity in evaluation mode


class CReLU(nn.Module):
    r"""The concatenated rectifier :math:`[\max(x, 0), \max(-x, 0)]`, which doubles the number of features.

    It keeps the length of its input, :math:`\|\mathrm{CReLU}(x)\| = \|x\|`, and so does its gradient.

    Args:
        dim: the dimension of the features: -1 for linear layers, 1 for the channels of a batch ``(N, C, ...)`` before a
            convolution.

    References:
        | Understanding and improving convolutional neural networks via concatenated rectified linear units
          (Shang et al., 2016)
        | https://arxiv.org/abs/1603.05201

    Example:
        >>> CReLU()(torch.tensor([1.0, -2.0]))
        tensor([1., 0., 0., 2.])
        >>> CReLU(dim=1)(torch.zeros(5, 3, 8, 8)).shape
        torch.Size([5, 6, 8, 8])
    """

    def __init__(self, dim: int = -1) -> None:
        super().__init__()
        if isinstance(dim, bool) or not isinstance(dim, int):
            raise ValueError(f"dim must be an integer, the dimension of the features, got {dim!r}")
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        """Return both halves of ``x``, twice as long as it along ``dim``."""
        # At zero the gradient must pass through one of the halves: clamp passes it there, relu does not.
        return torch.cat([x.relu(), (-x).clamp(min=0)], dim=self.dim)

    def extra_repr(self) -> str:
        """Return what ``print`` shows."""
        return f"dim={self.dim}"


@torch.no_grad()
def looks_linear_(module: nn.Module, ordinary: Collection[str] | None = None, gain: float = 1.0) -> nn.Module:
    r"""Initialise a network of concatenated rectifiers in place so that it is an affine map.

    Weights become :math:`[W_0, -W_0]` along the input features with a random orthogonal :math:`W_0`: its rows
    are orthonormal, or its columns where it has more rows than columns. In a convolution :math:`W_0` is at the centre
    of the kernel, and all other entries are zero (delta-orthogonal). Biases become zero. The first layer, whose input
    has not gone through a CReLU, gets an orthogonal matrix without a mirror.

    Layers are taken in the order in which the modules hold them. Batch norm, other rectifiers and the like are left
    alone; :func:`assert_looks_linear` names them.

    Args:
        module: an ``nn.Sequential`` or any other module with ``nn.Linear`` and ``nn.Conv1d``, ``nn.Conv2d`` or
            ``nn.Conv3d`` layers, or PyroModules of them.
        ordinary: the names, as in ``named_modules()``, of all layers whose input does not come from a CReLU; the first
            layer alone if None.
        gain: the number that each orthogonal matrix is multiplied by.

    Returns:
        The module.

    Raises:
        ValueError: if a layer other than an ordinary one has an odd input width, or a layer is lazy, transposed, has
            groups, is used both as an ordinary layer and behind a CReLU, or has a weight that is not a plain parameter;
            the message names the layer. Then nothing is changed.

    References:
        | The shattered gradients problem (Balduzzi et al., 2017), section 4.1, https://arxiv.org/abs/1702.08591
        | Dynamical isometry and a mean field theory of CNNs (Xiao et al., 2018), section 3.2 (delta-orthogonal)
        | https://arxiv.org/abs/1806.05393

    Example:
        >>> net = looks_linear_(nn.Sequential(nn.Linear(4, 3), CReLU(), nn.Linear(6, 2)))
        >>> x = torch.randn(5, 4)
        >>> torch.allclose(net(2 * x), 2 * net(x), atol=1e-6)  # no bias, so linear and not only affine
        True
    """
    positive_number("gain", gain)
    layers = [*_layers(module, ordinary)]
    for name, layer, mirrored in layers:
        _check_layer(name, layer, mirrored)
    for _, layer, mirrored in layers:
        weight = layer.weight
        rows, columns = weight.shape[0], weight.shape[1] // (2 if mirrored else 1)
        matrix = _orthogonal(rows, columns, weight) * gain
        centre = weight.zero_()
        for size in weight.shape[2:]:
            centre = centre.select(2, size // 2)
        centre.copy_(torch.cat([matrix, -matrix], 1) if mirrored else matrix)
        if layer.bias is not None:
            layer.bias.zero_()
    return module


@torch.no_grad()
def assert_looks_linear(module: nn.Module, ordinary: Collection[str] | None = None, tolerance: float = 0.0) -> None:
    r"""Raise an AssertionError that names the layer by which a network is not looks-linear, if there is one.

    With :math:`W = [P, Q]`, a layer gives :math:`W\, \mathrm{CReLU}(x) = S x + \Delta |x|`, :math:`S = (P - Q) / 2` and
    :math:`\Delta = (P + Q) / 2`: it is linear if and only if :math:`\Delta = 0`. Biases may have any values: the
    network is affine then.

    Args:
        module: a network as :func:`looks_linear_` takes it.
        ordinary: the names of all layers whose input does not come from a CReLU; the first layer alone if None.
        tolerance: the largest :math:`|\Delta|` allowed, relative to the largest weight of the layer.

    Raises:
        AssertionError: if a layer is not mirrored, a module between layers is not linear (batch norm, another
            activation than CReLU, dropout in training mode), or a CReLU before a convolution of the same
            ``nn.Sequential`` doubles another dimension than the channels.
        ValueError: if a layer cannot be looks-linear at all, as for :func:`looks_linear_`.

    Example:
        >>> net = looks_linear_(nn.Sequential(nn.Linear(4, 3), CReLU(), nn.Linear(6, 2)))
        >>> assert_looks_linear(net)
        >>> net[2].weight.data[0, 0] += 1
        >>> assert_looks_linear(net)
        Traceback (most recent call last):
            ...
        AssertionError: layer '2' does not look linear: its mirrored halves differ, max |P + Q| / 2 = 0.5; ...
    """
    nonnegative_number("tolerance", tolerance)
    for name, inner in module.named_modules():
        if not _is_container(inner):
            _assert_linear(name, inner)
        if isinstance(inner, nn.Sequential):
            _assert_channels(name, inner)
    for name, layer, mirrored in _layers(module, ordinary):
        _check_layer(name, layer, mirrored)
        if mirrored:
            first, second = layer.weight.chunk(2, dim=1)
            difference = float((first + second).abs().max()) / 2
            if not difference <= tolerance * float(layer.weight.abs().max()):
                raise AssertionError(
                    f"layer {name!r} does not look linear: its mirrored halves differ, max |P + Q| / 2 = "
                    f"{difference:.3g}; initialise it with looks_linear_, or name it in ordinary if its input does not "
                    "come from a CReLU"
                )


def _layers(module: nn.Module, ordinary: Collection[str] | None) -> Iterator[tuple[str, nn.Linear, bool]]:
    """Yield name, layer, and whether it is mirrored, for each linear and convolutional layer."""
    every = {
        name: inner
        for name, inner in module.named_modules(remove_duplicate=False)
        if isinstance(inner, nn.Linear | _ConvNd)
    }
    found = {name: inner for name, inner in module.named_modules() if name in every}
    if not found:
        raise ValueError("module must hold linear or convolutional layers, got none")
    if isinstance(ordinary, str):
        raise ValueError(f"ordinary must be a collection of names, got the text {ordinary!r}; write [{ordinary!r}]")
    names = [next(iter(found))] if ordinary is None else [*ordinary]
    for name in names:
        if name not in every:
            raise ValueError(f"ordinary names a layer {name!r} that there is not; the layers are {', '.join(every)}")
    for name, layer in found.items():
        uses = [other for other, inner in every.items() if inner is layer]
        mirrored = [other for other in uses if other not in names]
        if 0 < len(mirrored) < len(uses):
            raise ValueError(
                f"layer {name!r} is used again as {mirrored[0]!r}, behind a CReLU: one weight cannot be ordinary and "
                "mirrored; use two layers, or name all of its uses in ordinary if none is behind a CReLU"
            )
        yield name, cast(nn.Linear, layer), bool(mirrored)


def _check_layer(name: str, layer: nn.Linear | _ConvNd, mirrored: bool) -> None:
    if isinstance(layer, _ConvTransposeNd):
        raise ValueError(f"layer {name!r} is a transposed convolution, which looks_linear_ does not initialise")
    if isinstance(layer, _ConvNd) and layer.groups != 1:
        raise ValueError(
            f"layer {name!r} has groups={layer.groups}, which keep apart the two halves of a CReLU; use groups=1"
        )
    weight = layer._parameters.get("weight")
    if weight is None:
        raise ValueError(
            f"the weight of layer {name!r} is not a parameter of it (a PyroSample, a PyroParam or a parametrisation?); "
            "initialise the layer before its weight is replaced"
        )
    if is_lazy(weight):
        raise ValueError(f"layer {name!r} is lazy and has no weight yet; call the module once first")
    if mirrored and weight.shape[1] % 2:
        raise ValueError(
            f"layer {name!r} has an odd input width, {weight.shape[1]}; its input must be that of a CReLU, twice as "
            "wide as the layer before, or it must be named in ordinary"
        )


def _orthogonal(rows: int, columns: int, like: Tensor) -> Tensor:
    """Return a random matrix with orthonormal rows or columns, uniformly distributed, of the type of ``like``."""
    precise = like.dtype if like.dtype in (torch.float32, torch.float64) else torch.float32  # half types have no QR
    normal = torch.randn(max(rows, columns), min(rows, columns), dtype=precise, device=like.device)
    q, r = torch.linalg.qr(normal)
    q = q * r.diagonal().sign()  # without which the distribution is not uniform
    return (q if rows >= columns else q.T).to(like.dtype)


def _is_container(module: nn.Module) -> bool:
    return next(module.children(), None) is not None


def _assert_channels(name: str, module: nn.Sequential) -> None:
    """Raise an AssertionError if a CReLU before a convolution does not double its channels."""
    before: tuple[str, CReLU] | None = None
    for child, inner in module.named_children():
        if isinstance(inner, CReLU):
            before = (f"{name}.{child}" if name else child, inner)
        elif isinstance(inner, _ConvNd):
            channels = -1 - len(inner.kernel_size)  # counted from the last dimension
            if before is not None and before[1].dim not in (1, channels):
                raise AssertionError(
                    f"layer {before[0]!r} is a CReLU of dimension {before[1].dim} before a convolution, whose channels "
                    "it must double: give it dim=1"
                )
            before = None
        elif not isinstance(inner, (*_HARMLESS, *_DROPOUTS)) or _is_container(inner):
            before = None


def _assert_linear(name: str, module: nn.Module) -> None:
    """Raise an AssertionError if a module without children is known not to be linear, or to mix both halves."""
    if isinstance(module, (nn.Linear, _ConvNd, CReLU, *_HARMLESS)):
        return
    where = f"layer {name!r}, {type(module).__name__}, "
    if isinstance(module, _NormBase):
        raise AssertionError(f"{where}is a normalisation: it depends on the batch and shifts what a CReLU mirrors")
    if isinstance(module, _DROPOUTS):
        if module.training:
            raise AssertionError(f"{where}drops features at random; call eval() on the module first")
        return
    known = [kind for kind in type(module).__mro__ if kind is not nn.Module and kind.__module__.startswith("torch.nn")]
    if module._parameters or known:
        raise AssertionError(f"{where}is not one of Linear, Conv, CReLU and linear layers without weights")
