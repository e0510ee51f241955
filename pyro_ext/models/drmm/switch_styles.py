"""Expectation maximisation for the law of switches given the class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pyro_ext.models.drmm.cells import Switches
from pyro_ext.models.drmm.priors import check_pseudo_count
from pyro_ext.models.drmm.programs import as_images
from pyro_ext.models.drmm.switch_law import SwitchLaw, UnitLaws, counted_positions
from pyro_ext.utils.checks import positive_int

if TYPE_CHECKING:
    from pyro_ext.models.drmm.model import DRMM

__all__ = ["estimate_switch_law"]


@torch.no_grad()
def estimate_switch_law(
    model: DRMM,
    x: Tensor,
    y: Tensor | None = None,
    styles: int = 10,
    pseudo_count: float = 0.5,
    iterations: int = 10,
    batch_size: int = 500,
    seed: int = 0,
) -> SwitchLaw:
    """Estimate the law of switches given the class, by expectation maximisation over its styles.

    Each style starts at one image. All are smoothed towards the frequencies in the images of all classes, which are
    also what a class without images gets. Switches are found anew for every batch and iteration, never kept.

    Args:
        model: whose network finds the switches; in evaluation mode where there is batch norm.
        x: images, ``(N,) + image_shape``, or flattened, ``(N, D)``.
        y: labels, ``(N,)``, -1 for none; the class of images without is the best one.
        styles: M; with one, switches are independent given the class.
        pseudo_count: how many images of all classes are added to those of every style.
        iterations: of expectation maximisation.
        batch_size: how many images to pass upwards at once.
        seed: of the choice of the images to start at.

    Raises:
        ValueError: if an option or label is out of range, or there are no images.

    Example:
        >>> from pyro_ext.models.drmm import DRMM, Layer
        >>> model = DRMM([Layer(4, 3, pool=2)], classes=3, image_shape=(1, 8, 8))
        >>> law = estimate_switch_law(model, torch.rand(50, 1, 8, 8), styles=2)
        >>> law.weights.shape, law.units[0].on.shape
        (torch.Size([3, 2]), torch.Size([3, 2, 4, 3, 3]))
    """
    positive_int("styles", styles)
    positive_int("iterations", iterations)
    check_pseudo_count(pseudo_count)
    if len(x) == 0:
        raise ValueError("x must hold at least one image, got none")
    if y is not None:
        if y.shape != (len(x),):
            raise ValueError(f"y must hold one label for each of the {len(x)} images, got shape {tuple(y.shape)}")
        model.check_labels(y)
    parts = as_images(model, x).split(positive_int("batch_size", batch_size))
    given = [None] * len(parts) if y is None else y.split(batch_size)
    classes = [model.chosen(model.dcn(part), own) for part, own in zip(parts, given, strict=True)]
    every = _Counts(model, 1, 1)
    starts = _Counts(model, model.classes, styles)
    first = _first_images(torch.cat(classes), model.classes, styles, seed).split(batch_size)
    for part, share in zip(parts, first, strict=True):
        switches = model.switches(part)
        every.add(switches, share.new_ones(len(part), 1))
        starts.add(switches, share)
    frequency = every.law()
    law = starts.law(frequency, pseudo_count)
    for _ in range(iterations):
        counts = _Counts(model, model.classes, styles)
        for part, c in zip(parts, classes, strict=True):
            switches = model.switches(part)
            counts.add(switches, _shares(law, c, switches))
        law = counts.law(frequency, pseudo_count)
    return law


class _Counts:
    """How often units are on, and where, in every style of every class, flattened into R rows."""

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

    def law(self, frequency: SwitchLaw | None = None, pseudo_count: float = 1.0) -> SwitchLaw:
        """Return the law of these frequencies, to which those of another law are added, or even ones."""
        weights = self.total.view(self.shape) + pseudo_count
        units, tiny = [], torch.finfo(self.total.dtype).eps
        for number, (on, position, every) in enumerate(zip(self.on, self.position, self.every, strict=True)):
            base_on = on.new_tensor(0.5) if frequency is None else frequency.units[number].on[0]
            even = on.new_tensor(1 / position.shape[-1])
            base_position = even if frequency is None else frequency.units[number].position[0]
            total = (self.total + pseudo_count)[:, None, None, None]
            places = position + pseudo_count * base_position
            units.append(
                UnitLaws(
                    # Probabilities that round to 0 or 1 would have infinite odds.
                    ((on + pseudo_count * base_on) / total).clamp(tiny, 1 - tiny).unflatten(0, self.shape),
                    (places / places.sum(-1, keepdim=True)).unflatten(0, self.shape),
                    every,
                )
            )
        return SwitchLaw(weights / weights.sum(-1, keepdim=True), tuple(units))


def _shares(law: SwitchLaw, c: Tensor, g: Sequence[Switches]) -> Tensor:
    """Return to which styles images belong, ``(B, C * M)``, zero in those of other classes."""
    within = law.log_joint(c, g).softmax(-1)
    classes, styles = law.weights.shape
    every = within.new_zeros(len(c), classes, styles)
    every[torch.arange(len(c), device=c.device), c] = within
    return every.flatten(1)


def _first_images(c: Tensor, classes: int, styles: int, seed: int) -> Tensor:
    """Return one image for every style of every class that has images, as shares, ``(N, C * M)``."""
    generator = torch.Generator().manual_seed(seed)
    share = torch.zeros(len(c), classes, styles, device=c.device)
    order = torch.randperm(len(c), generator=generator).to(c.device)
    for label in range(classes):
        own = order[c[order] == label]
        if len(own):  # with fewer images than styles, some styles are alike
            style = torch.arange(styles, device=c.device)
            share[own[style % len(own)], label, style] = 1
    return share.flatten(1)
