"""Probabilities of classes and switches: of a configuration, estimated from images, and drawn from."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from pyro_ext.models.drmm.cells import Switches

if TYPE_CHECKING:
    from pyro_ext.models.drmm.model import DRMM
    from pyro_ext.models.drmm.rendering_layer import RenderingLayer
    from pyro_ext.models.drmm.switch_law import SwitchLaw

__all__ = ["Counts", "Shared", "check_pseudo_count", "draw", "estimate_priors", "log_prior", "set_class_probabilities"]

Shared = Literal["unit", "channel", "layer"]
"""Which units of a layer share their probabilities: none, those of a channel, or all."""


def log_prior(model: DRMM, c: Tensor, g: Iterable[Switches]) -> Tensor:
    r"""Return :math:`\ln \pi_c + \sum_l \ln \pi_{t^l} + \ln \pi_{a^l}`, the factorised part, ``batch_shape``."""
    total = model.class_logits.log_softmax(-1)[c]
    for layer, switches in zip(model.layers, g, strict=True):
        total = total + layer.switch_log_prior(switches)
    return total


@torch.no_grad()
def estimate_priors(model: DRMM, batches: Iterable[Tensor], shared: Shared = "unit", pseudo_count: float = 1.0) -> None:
    """Set the probabilities of switches to how often the network finds them; those of classes stay.

    Positions of ``relu`` units are counted where they are on: elsewhere they make no difference.

    Args:
        model: changed in place.
        batches: images, ``(B,) + image_shape`` each.
        shared: which units share probabilities.
        pseudo_count: added to every count, so that nothing becomes impossible.

    Raises:
        ValueError: if there are no images, or an option is out of range.

    Example:
        >>> from pyro_ext.models.drmm import DRMM, Layer
        >>> model = DRMM([Layer(4, 3, pool=2)], classes=3, image_shape=(1, 8, 8))
        >>> estimate_priors(model, [torch.rand(50, 1, 8, 8)])
        >>> model.sample(2)[0].shape
        torch.Size([2, 1, 8, 8])
    """
    if shared not in get_args(Shared):
        raise ValueError(f"shared must be one of {', '.join(get_args(Shared))}; got {shared!r}")
    check_pseudo_count(pseudo_count)
    number = 0
    counts = [Counts(layer) for layer in model.layers]
    for x in batches:
        number += len(x)
        for count, switches in zip(counts, model.switches(x), strict=True):
            count.add(switches)
    if number == 0:
        raise ValueError("batches must hold at least one image, got none")
    for count in counts:
        count.store(shared, pseudo_count)


def check_pseudo_count(value: float) -> None:
    """Raise a ValueError unless ``value`` is positive and finite."""
    if not 0 < value < math.inf:
        raise ValueError(f"pseudo_count must be positive and finite, got {value!r}")


def set_class_probabilities(model: DRMM, counts: Tensor, pseudo_count: float) -> None:
    """Make the classes as probable as the counts, ``(C,)``, with ``pseudo_count`` added to each, say."""
    with torch.no_grad():
        model.class_logits.copy_(((counts + pseudo_count) / (counts + pseudo_count).sum()).log())


class Counts:
    """How often the units of a layer are on, off, and where.

    Args:
        layer: whose units.
        every_position: whether to count the positions of units that are off too; only where they make a difference
            if None.
    """

    def __init__(self, layer: RenderingLayer, every_position: bool | None = None) -> None:
        self.layer = layer
        self.every_position = layer.factors[0] != 0 if every_position is None else every_position
        self.on = torch.zeros_like(layer.on_logits)
        self.off = torch.zeros_like(layer.on_logits)
        self.position = torch.zeros_like(layer.position_logits)

    def add(self, switches: Switches) -> None:
        """Count the switches of images, ``(B, K, H, W)``."""
        on = switches.on.to(self.on.dtype)
        self.on += on.sum(0)
        self.off += (1 - on).sum(0)
        counted = torch.ones_like(on) if self.every_position else on
        weighted = F.one_hot(switches.position, self.position.shape[-1]) * counted[..., None]
        self.position += weighted.sum(0)

    def store(self, shared: Shared, pseudo_count: float) -> None:
        """Give the layer the probabilities that belong to the counts."""
        on, off, position = (_pooled(count, shared) + pseudo_count for count in (self.on, self.off, self.position))
        self.layer.on_logits.copy_((on / off).log())
        self.layer.position_logits.copy_((position / position.sum(-1, keepdim=True)).log())


def _pooled(count: Tensor, shared: Shared) -> Tensor:
    """Sum counts ``(K, H, W)`` or ``(K, H, W, P)`` over the units that share them, keeping the dims."""
    dims = {"unit": (), "channel": (1, 2), "layer": (0, 1, 2)}[shared]
    return count.sum(dims, keepdim=True) if dims else count


@torch.no_grad()
def draw(
    model: DRMM, n: int, c: Tensor | None = None, with_noise: bool = True, law: SwitchLaw | None = None
) -> tuple[Tensor, Tensor]:
    """Draw ``n`` images; see :meth:`~pyro_ext.models.drmm.model.DRMM.sample`.

    Raises:
        ValueError: if ``c`` is not ``n`` classes.
    """
    if c is None:
        c = torch.distributions.Categorical(logits=model.class_logits).sample((n,))
    elif c.shape != (n,) or (c < 0).any() or (c >= model.classes).any():
        raise ValueError(f"c must hold {n} classes of 0 .. {model.classes - 1}, got {c!r}")
    switches = [_independent(layer, n) for layer in model.layers] if law is None else law.draw(c)
    image = model.rendering(c, switches).image
    return (image + model.noise * torch.randn_like(image) if with_noise else image), c


def _independent(layer: RenderingLayer, n: int) -> Switches:
    position = torch.distributions.Categorical(logits=layer.position_logits).sample((n,))
    return Switches(position, layer.on_logits.sigmoid().expand(n, *layer.on_logits.shape).bernoulli())
