"""Deep networks that differ in nothing but what lies between their layers and how they are initialised."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pyro_ext.nn import CReLU, looks_linear_
from pyro_ext.utils.checks import one_of, positive_int, positive_number

__all__ = ["KINDS", "Kind", "deep_network", "freeze_batch_norm", "scalar_network"]

Kind = Literal[
    "looks_linear", "crelu", "relu", "relu_batch_norm", "linear", "residual", "residual_batch_norm"
]  # fmt: skip
KINDS: tuple[Kind, ...] = get_args(Kind)


def deep_network(
    kind: Kind,
    depth: int,
    inputs: int,
    outputs: int,
    width: int = 48,
    image_shape: tuple[int, int] | None = None,
    residual_scale: float | None = None,
) -> nn.Sequential:
    r"""Return a network of ``depth`` layers with weights.

    | ``looks_linear``: concatenated rectifiers, mirrored orthogonal weights;
    | ``crelu``: concatenated rectifiers, normal weights as below;
    | ``relu``: rectifiers, normal weights of variance 2 / (number of inputs) (He et al., 2015);
    | ``relu_batch_norm``: the same with batch norm before each rectifier;
    | ``linear``: no rectifiers, orthogonal weights;
    | ``residual``: layers :math:`x + \beta W \max(x, 0)` between the first one and the last one, weights as above;
    | ``residual_batch_norm``: layers :math:`x + \beta W \max(\mathrm{BN}(x), 0)`.

    Biases are zero at the beginning.

    Args:
        kind: what lies between layers.
        depth: the number of layers with weights, the first one and the last one included; two at least.
        inputs: the number of features of an input.
        outputs: the number of features of an output.
        width: the number of features between layers, before a CReLU doubles it.
        image_shape: height and width in pixels; then inputs are flattened images, ``width`` is a number of channels,
            and all layers but the last one are convolutions with kernels of 3 x 3. By default all layers are dense.
        residual_scale: the number :math:`\beta`; by default :math:`1 / \sqrt{depth}`.

    Raises:
        ValueError: if a number is out of range, there is no such kind, or ``image_shape`` has another number of pixels
            than ``inputs``.

    Example:
        >>> deep_network("looks_linear", depth=3, inputs=64, outputs=10)
        Sequential(
          (0): Linear(in_features=64, out_features=48, bias=True)
          (1): CReLU(dim=-1)
          (2): Linear(in_features=96, out_features=48, bias=True)
          (3): CReLU(dim=-1)
          (4): Linear(in_features=96, out_features=10, bias=True)
        )
    """
    one_of("kind", kind, KINDS)
    positive_int("depth", depth, minimum=2)
    for name, value in (("inputs", inputs), ("outputs", outputs), ("width", width)):
        positive_int(name, value)
    beta = 1 / math.sqrt(depth) if residual_scale is None else positive_number("residual_scale", residual_scale)
    pixels = 1
    if image_shape is not None:
        pixels = math.prod(image_shape)
        if pixels != inputs:
            raise ValueError(f"image_shape must have as many pixels as there are inputs, {inputs}, got {image_shape}")
    layers: list[nn.Module] = [] if image_shape is None else [nn.Unflatten(-1, (1, *image_shape))]
    layers.append(_layer(inputs if image_shape is None else 1, width, image_shape))
    for _ in range(depth - 2):
        layers += _hidden(kind, width, image_shape, beta)
    layers += _before_a_layer(kind, width, image_shape)
    features = width * (2 if kind in ("looks_linear", "crelu") else 1)
    layers += (
        [nn.Linear(features, outputs)] if image_shape is None else [nn.Flatten(), nn.Linear(features * pixels, outputs)]
    )
    net = nn.Sequential(*layers)
    if kind == "looks_linear":
        looks_linear_(net)
    elif kind == "linear":
        looks_linear_(net, ordinary=[name for name, inner in net.named_modules() if _has_matrix(inner)])
    else:
        _initialise_as_he(net)
    return net


def scalar_network(kind: Kind, depth: int, width: int = 200, residual_scale: float | None = None) -> nn.Sequential:
    r"""Return a network of one variable whose batch norm has the statistics of 256 points in [-2, 2] and is frozen.

    Biases are uniform in :math:`\pm 1 / \sqrt{n}`, n being the number of inputs of the layer: with biases of zero all
    rectifiers would bend at the same point.

    Args:
        kind: what lies between layers, as for :func:`deep_network`.
        depth: the number of hidden layers; there is one more layer behind them.
        width: the number of features between layers.
        residual_scale: the factor of what is added to a skip connection; by default one over the root of the depth.

    Raises:
        ValueError: if an argument is out of range.

    Example:
        >>> from pyro_ext.nn import gradient_autocorrelation
        >>> gradient_autocorrelation(scalar_network("looks_linear", depth=50), max_lag=2)
        tensor([1., 1., 1.])
    """
    positive_int("depth", depth)
    net = deep_network(kind, depth + 1, 1, 1, width, residual_scale=residual_scale)
    for layer in net.modules():
        if isinstance(layer, nn.Linear):
            nn.init.uniform_(layer.bias, -(layer.in_features**-0.5), layer.in_features**-0.5)
    return freeze_batch_norm(net, torch.linspace(-2, 2, 256).unsqueeze(-1))


@torch.no_grad()
def freeze_batch_norm(net: nn.Sequential, inputs: Tensor) -> nn.Sequential:
    """Give batch norm the statistics of ``inputs``, so that each row is mapped by itself; return the network.

    Args:
        net: a network, which is in evaluation mode from then on.
        inputs: all rows by which features are normalised.

    Example:
        >>> net = freeze_batch_norm(nn.Sequential(nn.BatchNorm1d(1)), torch.tensor([[0.0], [2.0]]))
        >>> net(torch.tensor([[1.0]])).item()
        0.0
    """
    norms = [inner for inner in net.modules() if isinstance(inner, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    net.train()(inputs)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return net.eval()


class _Residual(nn.Module):
    """``x + scale * inner(x)``."""

    def __init__(self, inner: nn.Module, scale: float) -> None:
        super().__init__()
        self.inner = inner
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return x + self.scale * self.inner(x)


def _hidden(kind: Kind, width: int, image_shape: tuple[int, int] | None, beta: float) -> list[nn.Module]:
    before = _before_a_layer(kind, width, image_shape)
    doubled = 2 if kind in ("looks_linear", "crelu") else 1
    layers = [*before, _layer(doubled * width, width, image_shape)]
    return [_Residual(nn.Sequential(*layers), beta)] if kind.startswith("residual") else layers


def _before_a_layer(kind: Kind, width: int, image_shape: tuple[int, int] | None) -> list[nn.Module]:
    """Return what lies between the output of a layer and the next layer."""
    if kind == "linear":
        return []
    if kind in ("looks_linear", "crelu"):
        return [CReLU(-1 if image_shape is None else 1)]
    norm = nn.BatchNorm1d if image_shape is None else nn.BatchNorm2d
    return [norm(width), nn.ReLU()] if kind.endswith("batch_norm") else [nn.ReLU()]


def _layer(inputs: int, outputs: int, image_shape: tuple[int, int] | None) -> nn.Module:
    return nn.Linear(inputs, outputs) if image_shape is None else nn.Conv2d(inputs, outputs, 3, padding=1)


def _has_matrix(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear | nn.Conv2d)


def _initialise_as_he(net: nn.Module) -> None:
    for layer in net.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
