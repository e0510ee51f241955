"""Probabilities of switches, estimated from the switches that the network infers from images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from pyro_ext.models.drmm.cells import Switches
from pyro_ext.models.drmm.layers import RenderingLayer
from pyro_ext.models.drmm.model import DRMM
from pyro_ext.models.drmm.switch_distribution import SwitchDistribution, UnitProbabilities, counted_positions
from pyro_ext.utils.checks import one_of, positive_int, positive_number

__all__ = ["Counts", "Shared", "estimate_priors", "estimate_switch_distribution"]

Shared = Literal["unit", "channel", "layer"]
"""Which units of a layer share their probabilities: none, those of a channel, or all."""


@torch.no_grad()
def estimate_priors(model: DRMM, batches: Iterable[Tensor], shared: Shared = "unit", pseudo_count: float = 1.0) -> None:
    """Set the prior probabilities of switches to their frequencies; those of classes stay as they are.

    Positions of ``relu`` units are counted only where the units are on; elsewhere they do not matter.

    Args:
        model: the model; changed in place.
        batches: batches of images, each ``(B,) + image_shape``.
        shared: which units of a layer share their probabilities.
        pseudo_count: a number added to every count, so that no probability is zero.

    Raises:
        ValueError: if there are no images, or an option is out of range.

    Example:
        >>> from pyro_ext.models.drmm import DRMM, Layer
        >>> model = DRMM([Layer(4, 3, pool=2)], classes=3, image_shape=(1, 8, 8))
        >>> estimate_priors(model, [torch.rand(50, 1, 8, 8)])
        >>> model.sample(2)[0].shape
        torch.Size([2, 1, 8, 8])
    """
    one_of("shared", shared, get_args(Shared))
    positive_number("pseudo_count", pseudo_count)
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


class Counts:
    """How often the units of a layer are on, are off, and have each position.

    Args:
        layer: the layer of the units.
        every_position: whether to count the positions of units that are off too; if None, only where they matter.
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
        """Set the layer's probabilities to the frequencies."""
        on, off, position = (_pooled(count, shared) + pseudo_count for count in (self.on, self.off, self.position))
        self.layer.on_logits.copy_((on / off).log())
        self.layer.position_logits.copy_((position / position.sum(-1, keepdim=True)).log())


def _pooled(count: Tensor, shared: Shared) -> Tensor:
    """Sum counts ``(K, H, W)`` or ``(K, H, W, P)`` over the units that share them, keeping the dims."""
    dims = {"unit": (), "channel": (1, 2), "layer": (0, 1, 2)}[shared]
    return count.sum(dims, keepdim=True) if dims else count


@torch.no_grad()
def estimate_switch_distribution(
    model: DRMM,
    x: Tensor,
    y: Tensor | None = None,
    styles: int = 10,
    pseudo_count: float = 0.5,
    iterations: int = 10,
    batch_size: int = 500,
    seed: int = 0,
) -> SwitchDistribution:
    """Estimate the distribution of switches given the class, by expectation maximisation over its styles.

    Each style starts at one image. All are smoothed towards the frequencies in the images of all classes, which are
    also those of a class without images. To save memory, switches are inferred anew in every iteration.

    Args:
        model: the model whose network infers the switches; in evaluation mode where there is batch norm.
        x: images, ``(N,) + image_shape``, or flattened, ``(N, D)``.
        y: labels, ``(N,)``, -1 for none; an image without a label belongs to the class of the best score.
        styles: the number M of styles of each class; with one, switches are independent given the class.
        pseudo_count: the weight of the frequencies in all classes, as a number of images added to each style.
        iterations: the number of iterations of expectation maximisation.
        batch_size: the number of images in a batch.
        seed: the seed by which the images are chosen at which styles start.

    Raises:
        ValueError: if an option or label is out of range, or there are no images.

    Example:
        >>> from pyro_ext.models.drmm import DRMM, Layer
        >>> model = DRMM([Layer(4, 3, pool=2)], classes=3, image_shape=(1, 8, 8))
        >>> distribution = estimate_switch_distribution(model, torch.rand(50, 1, 8, 8), styles=2)
        >>> distribution.weights.shape, distribution.units[0].on.shape
        (torch.Size([3, 2]), torch.Size([3, 2, 4, 3, 3]))
    """
    positive_int("styles", styles)
    positive_int("iterations", iterations)
    positive_number("pseudo_count", pseudo_count)
    if len(x) == 0:
        raise ValueError("x must hold at least one image, got none")
    if y is not None:
        if y.shape != (len(x),):
            raise ValueError(f"y must hold one label for each of the {len(x)} images, got shape {tuple(y.shape)}")
        model.check_labels(y)
    parts = model.as_images(x).split(positive_int("batch_size", batch_size))
    given = [None] * len(parts) if y is None else y.split(batch_size)
    classes = [model.choose_class(model.dcn(part), own) for part, own in zip(parts, given, strict=True)]
    every = _StyleCounts(model, 1, 1)
    starts = _StyleCounts(model, model.classes, styles)
    first = _first_images(torch.cat(classes), model.classes, styles, seed).split(batch_size)
    for part, share in zip(parts, first, strict=True):
        switches = model.switches(part)
        every.add(switches, share.new_ones(len(part), 1))
        starts.add(switches, share)
    frequencies = every.distribution()
    distribution = starts.distribution(frequencies, pseudo_count)
    for _ in range(iterations):
        counts = _StyleCounts(model, model.classes, styles)
        for part, c in zip(parts, classes, strict=True):
            switches = model.switches(part)
            counts.add(switches, _responsibilities(distribution, c, switches))
        distribution = counts.distribution(frequencies, pseudo_count)
    return distribution


class _StyleCounts:
    """How often units are on, and have each position, in every style of every class, flattened into R rows."""

    def __init__(self, model: DRMM, classes: int, styles: int) -> None:
        rows, self.shape = classes * styles, (classes, styles)
        self.every = [layer.factors[0] != 0 for layer in model.layers]
        self.total = model.class_templates.new_zeros(rows)
        self.on = [layer.on_logits.new_zeros(rows, *layer.on_logits.shape) for layer in model.layers]
        self.position = [layer.on_logits.new_zeros(rows, *layer.position_logits.shape) for layer in model.layers]

    def add(self, g: Sequence[Switches], share: Tensor) -> None:
        """Count switches ``(B, K, H, W)`` of images that belong to the rows by shares ``(B, R)``."""
        share = share.to(self.total)
        self.total += share.sum(0)
        for on, position, every, switches in zip(self.on, self.position, self.every, g, strict=True):
            hot = counted_positions(switches, position.shape[-1], every)
            on += torch.einsum("br,bu->ru", share, switches.on.flatten(1).to(on.dtype)).view_as(on)
            position += torch.einsum("br,bu->ru", share, hot.flatten(1).to(on.dtype)).view_as(position)

    def distribution(
        self, frequencies: SwitchDistribution | None = None, pseudo_count: float = 1.0
    ) -> SwitchDistribution:
        """Return the distribution with these frequencies, smoothed towards given ones, or towards uniform ones."""
        weights = self.total.view(self.shape) + pseudo_count
        units, tiny = [], torch.finfo(self.total.dtype).eps
        for number, (on, position, every) in enumerate(zip(self.on, self.position, self.every, strict=True)):
            base_on = on.new_tensor(0.5) if frequencies is None else frequencies.units[number].on[0]
            even = on.new_tensor(1 / position.shape[-1])
            base_position = even if frequencies is None else frequencies.units[number].position[0]
            total = (self.total + pseudo_count)[:, None, None, None]
            places = position + pseudo_count * base_position
            units.append(
                UnitProbabilities(
                    # Probabilities that round to 0 or 1 would have infinite odds.
                    ((on + pseudo_count * base_on) / total).clamp(tiny, 1 - tiny).unflatten(0, self.shape),
                    (places / places.sum(-1, keepdim=True)).unflatten(0, self.shape),
                    every,
                )
            )
        return SwitchDistribution(weights / weights.sum(-1, keepdim=True), tuple(units))


def _responsibilities(distribution: SwitchDistribution, c: Tensor, g: Sequence[Switches]) -> Tensor:
    """Return the shares by which images belong to styles, ``(B, C * M)``, zero for those of other classes."""
    within = distribution.log_joint(c, g).softmax(-1)
    classes, styles = distribution.weights.shape
    every = within.new_zeros(len(c), classes, styles)
    every[torch.arange(len(c), device=c.device), c] = within
    return every.flatten(1)


def _first_images(c: Tensor, classes: int, styles: int, seed: int) -> Tensor:
    """Return one image for every style of every class that has images, as shares, ``(N, C * M)``."""
    generator = torch.Generator().manual_seed(seed)
    share = torch.zeros(len(c), classes, styles, device=c.device)
    order = torch.randperm(len(c), generator=generator, device="cpu").to(c.device)
    for label in range(classes):
        own = order[c[order] == label]
        if len(own):  # with fewer images than styles, some styles are alike
            style = torch.arange(styles, device=c.device)
            share[own[style % len(own)], label, style] = 1
    return share.flatten(1)
