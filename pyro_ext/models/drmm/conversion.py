r"""Conversion of a network to the model whose inference it is, and back; folding batch norm into templates.

On the way up, batch norm in evaluation uses running means m and variances v:

.. math::
    \gamma \frac{\Lambda \star x + b - m}{\sqrt{v + \epsilon}} + \beta = (s \Lambda) \star x + s (b - m) + \beta,
    \qquad s = \gamma / \sqrt{v + \epsilon},

which is a layer without batch norm. The scales s multiply the rendered templates as well, so rendered images change:
the folded model is one in which rendering and inference agree.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from pyro_ext.models.drmm.cells import SWITCHES, Switch
from pyro_ext.models.drmm.layers import Layer, RenderingLayer
from pyro_ext.models.drmm.model import DRMM

__all__ = ["Absolute", "fold_batch_norm", "from_sequential", "scale_and_shift", "to_sequential"]


class Absolute(nn.Module):
    """The absolute value as a module, which PyTorch does not have."""

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x.abs()``."""
        return x.abs()


@torch.no_grad()
def to_sequential(model: DRMM) -> nn.Sequential:
    r"""Return a network, with copied parameters, whose output for images ``(B,) + image_shape`` is ``model.dcn``.

    The bias of the last, linear layer is :math:`\sigma^2 \ln \pi_c`. Batch norm on the way down is left out.

    Example:
        >>> model = DRMM([Layer(4, 3, pool=2)], classes=3, image_shape=(1, 8, 8))
        >>> to_sequential(model)
        Sequential(
          (0): Conv2d(1, 4, kernel_size=(3, 3), stride=(1, 1))
          (1): ReLU()
          (2): MaxPool2d(kernel_size=2, stride=2, padding=0, dilation=1, ceil_mode=False)
          (3): Flatten(start_dim=1, end_dim=-1)
          (4): Linear(in_features=36, out_features=3, bias=True)
        )
    """
    modules: list[nn.Module] = []
    for layer in model.layers:
        modules += _modules(layer)
    linear = nn.Linear(model.class_templates[0].numel(), model.classes)
    linear.to(model.class_templates)
    linear.weight.copy_(model.class_templates.flatten(1))
    linear.bias.copy_(model.noise**2 * model.class_logits)
    return nn.Sequential(*modules, nn.Flatten(), linear).train(model.training)


@torch.no_grad()
def from_sequential(network: nn.Sequential, image_shape: Sequence[int], **options: Any) -> DRMM:
    """Return a model, with copied parameters, whose ``dcn`` is a given network.

    Args:
        network: groups of ``Conv2d`` (stride 1), at most one ``BatchNorm2d``, a ``ReLU``, ``LeakyReLU(0.1)`` or
            :class:`Absolute`, at most one ``MaxPool2d`` and one ``AvgPool2d``; then ``Flatten`` and ``Linear``.
        image_shape: channels, height and width of the network's input.
        **options: further arguments of :class:`~pyro_ext.models.drmm.model.DRMM`: ``prior``, ``noise``, ``size``, and
            ``batch_norm="both"`` for batch norm on the way down as well.

    Raises:
        ValueError: if a module has no counterpart in the model; the message names it.

    Example:
        >>> nn = torch.nn
        >>> network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 3))
        >>> model = from_sequential(network, image_shape=(1, 8, 8))
        >>> x = torch.rand(5, 1, 8, 8)
        >>> torch.allclose(model.dcn(x), network(x), atol=1e-6)
        True
    """
    *body, last = network
    if not isinstance(last, nn.Linear):
        raise ValueError(f"network must end in Linear, got {last}; leave out what follows the scores")
    stages = _stages(body)
    normed = any(stage.norm is not None for stage in stages)
    options = {"batch_norm": "up" if normed else "none"} | options
    _check_norm(stages, options["batch_norm"])
    _check_channels(stages, image_shape)
    layers = [stage.layer() for stage in stages]
    model = DRMM(layers, classes=last.out_features, image_shape=image_shape, **options).to(last.weight)
    if model.class_templates[0].numel() != last.in_features:
        raise ValueError(
            f"image_shape {tuple(image_shape)!r} leads to {model.class_templates[0].numel()} features, but the last "
            f"Linear takes {last.in_features}"
        )
    for stage, layer in zip(stages, model.layers, strict=True):
        stage.copy_to(layer)
    model.class_templates.copy_(last.weight.unflatten(-1, model.class_templates.shape[1:]))
    if last.bias is None:
        model.class_logits.zero_()
    else:
        model.class_logits.copy_(last.bias / model.noise**2)
    model.train(network.training)
    return model


def scale_and_shift(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Return the factors and the summands that a batch norm in evaluation applies to its channels, each ``(K,)``.

    Raises:
        ValueError: if the batch norm keeps no running statistics.

    Example:
        >>> scale, shift = scale_and_shift(torch.nn.BatchNorm2d(1, eps=0.0))
        >>> scale.item(), shift.item()
        (1.0, 0.0)
    """
    if norm.running_mean is None or norm.running_var is None:
        raise ValueError("batch norm without running statistics cannot be folded; use track_running_stats=True")
    scale = (norm.running_var + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight
    shift = -norm.running_mean * scale
    return scale, shift if norm.bias is None else shift + norm.bias


@torch.no_grad()
def fold_batch_norm(model: DRMM) -> DRMM:
    """Return a model without batch norm that has the scores of ``model`` in evaluation; ``model`` is not changed.

    Example:
        >>> model = DRMM([Layer(4, 3, pool=2)], classes=3, image_shape=(1, 8, 8), batch_norm="both")
        >>> _ = model.dcn(torch.rand(50, 1, 8, 8))  # running statistics
        >>> x = torch.rand(5, 1, 8, 8)
        >>> torch.allclose(fold_batch_norm(model).dcn(x), model.eval().dcn(x), atol=1e-6)
        True
    """
    plain = model.like(batch_norm="none")
    plain.load_state_dict({name: value for name, value in model.state_dict().items() if ".norm_" not in name})
    for own, layer in zip(plain.layers, model.layers, strict=True):
        if layer.norm_up is not None:
            scale, shift = scale_and_shift(layer.norm_up)
            own.templates.mul_(scale[:, None, None, None])
            own.biases.mul_(scale).add_(shift)
    return plain


def _modules(layer: RenderingLayer) -> list[nn.Module]:
    below, channels, spec = layer.geometry.finer[0], layer.layer.channels, layer.layer
    conv = nn.Conv2d(below, channels, spec.kernel, padding=spec.padding).to(layer.templates)
    conv.weight.copy_(layer.templates)
    conv.bias.copy_(layer.biases)  # type: ignore[union-attr]  # made with a bias
    modules: list[nn.Module] = [conv]
    if layer.norm_up is not None:
        norm = nn.BatchNorm2d(channels).to(layer.templates)
        norm.load_state_dict(layer.norm_up.state_dict())
        modules.append(norm)
    slope = nn.LeakyReLU(SWITCHES["leaky"][0])
    modules.append({"relu": nn.ReLU(), "leaky": slope, "abs": Absolute()}[layer.switch])
    if spec.pool > 1:
        modules.append(nn.MaxPool2d(spec.pool))
    if spec.mean_pool > 1:
        modules.append(nn.AvgPool2d(spec.mean_pool))
    return modules


@dataclass
class _Stage:
    """A convolution and what follows it up to the next one."""

    conv: nn.Conv2d
    norm: nn.BatchNorm2d | None = None
    switch: Switch | None = None
    pool: int = 1
    mean_pool: int = 1
    seen: list[str] = field(default_factory=list)

    def layer(self) -> Layer:
        if self.switch is None:
            raise ValueError(f"{self.conv} is not followed by ReLU, LeakyReLU({SWITCHES['leaky'][0]}) or Absolute")
        kernel, padding = self.conv.kernel_size[0], self.conv.padding[0]
        return Layer(self.conv.out_channels, kernel, self.pool, int(padding), self.mean_pool, self.switch)

    def copy_to(self, layer: RenderingLayer) -> None:
        layer.templates.copy_(self.conv.weight)
        if self.conv.bias is None:
            layer.biases.zero_()
        else:
            layer.biases.copy_(self.conv.bias)
        if self.norm is not None and layer.norm_up is not None:
            layer.norm_up.load_state_dict(self.norm.state_dict())
            layer.norm_up.eps, layer.norm_up.momentum = self.norm.eps, self.norm.momentum


# What may follow what within a stage: max pooling and a monotone activation may change places.
_ORDER = {"norm": (), "switch": ("norm", "pool"), "pool": ("norm", "switch"), "mean_pool": ("norm", "switch", "pool")}


def _stages(body: Iterable[nn.Module]) -> list[_Stage]:
    stages: list[_Stage] = []
    for module in body:
        if isinstance(module, (nn.Flatten, nn.Identity)):
            continue
        if isinstance(module, nn.Conv2d):
            _check_conv(module)
            stages.append(_Stage(module))
        elif not stages:
            raise ValueError(f"network must begin with Conv2d, got {module}")
        else:
            _add(stages[-1], module)
    if not stages:
        raise ValueError("network must hold at least one Conv2d, got none")
    return stages


def _add(stage: _Stage, module: nn.Module) -> None:
    kind, value = _kind(module)
    if kind in stage.seen or any(before not in _ORDER[kind] for before in stage.seen):
        raise ValueError(f"{module} has no counterpart after {stage.conv} and {', '.join(stage.seen) or 'nothing'}")
    if kind == "switch" and value == "abs" and "pool" in stage.seen:
        raise ValueError(f"{module} must come before MaxPool2d: the largest value is not the largest absolute value")
    stage.seen.append(kind)
    setattr(stage, kind, value)


def _kind(module: nn.Module) -> tuple[str, Any]:
    match module:
        case nn.BatchNorm2d():
            if not module.affine or not module.track_running_stats:
                raise ValueError(f"{module} must be affine and track running statistics")
            return "norm", module
        case nn.ReLU():
            return "switch", "relu"
        case Absolute():
            return "switch", "abs"
        case nn.LeakyReLU() if module.negative_slope == SWITCHES["leaky"][0]:
            return "switch", "leaky"
        case nn.MaxPool2d() if not module.ceil_mode and _plain_pool(module) and module.dilation in (1, (1, 1)):
            return "pool", _square(module.kernel_size)
        case nn.AvgPool2d() if not module.ceil_mode and _plain_pool(module) and module.divisor_override is None:
            return "mean_pool", _square(module.kernel_size)
    raise ValueError(f"{module} has no counterpart in the model")


def _plain_pool(module: nn.MaxPool2d | nn.AvgPool2d) -> bool:
    size = _square(module.kernel_size)
    return size > 0 and _square(module.stride) == size and module.padding in (0, (0, 0))


def _square(size: int | tuple[int, ...]) -> int:
    """Return the size if it is the same in both directions, else zero."""
    if isinstance(size, int):
        return size
    return size[0] if len({*size}) == 1 else 0


def _check_conv(conv: nn.Conv2d) -> None:
    plain = conv.stride == (1, 1) and conv.dilation == (1, 1) and conv.groups == 1 and conv.padding_mode == "zeros"
    padding = conv.padding
    if not plain or isinstance(padding, str) or _square(padding) != padding[0] or not _square(conv.kernel_size):
        raise ValueError(
            f"{conv} has no counterpart: kernels must be square, with stride 1, dilation 1, one group and zero padding "
            "given as a number"
        )


def _check_channels(stages: Sequence[_Stage], image_shape: Sequence[int]) -> None:
    first = stages[0].conv
    if first.in_channels != image_shape[0]:
        raise ValueError(f"image_shape {tuple(image_shape)!r} has {image_shape[0]} channels, but {first} takes others")
    for below, above in itertools.pairwise(stage.conv for stage in stages):
        if above.in_channels != below.out_channels:
            raise ValueError(f"{above} takes {above.in_channels} channels, but gets {below.out_channels}")


def _check_norm(stages: Sequence[_Stage], batch_norm: str) -> None:
    normed = [stage.norm is not None for stage in stages]
    if any(normed) and not all(normed):
        raise ValueError("network must have BatchNorm2d after every Conv2d, or none; fold or add the others")
    if all(normed) != (batch_norm != "none"):
        raise ValueError(f"batch_norm={batch_norm!r} does not fit a network with{'' if all(normed) else 'out'} it")
