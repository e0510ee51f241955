r"""Hard expectation maximisation at any depth: find switches by the network, then fit templates by least squares.

Given classes and switches, a rendered image is linear in the class templates, and in the templates of each layer:

.. math::  \Lambda^l \leftarrow \arg\min_\Lambda \sum_n |I_n - h^0(c_n, \hat g_n; \Lambda)|^2,

the regression of the images on what is rendered through the layers below. The network's choice of switches and class
leaves out :math:`|h^0|^2`, so the error may rise in an E step, and the class of the longest template wins images that
it does not fit. With ``e_step="joint"`` the class is the most probable one given the network's switches, which images
without labels need; with ``e_step="exact"`` (tiny models) the switches are the most probable ones too, as EM has it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from pyro_ext.models.drmm.cells import Switches
from pyro_ext.models.drmm.least_squares import conjugate_gradients
from pyro_ext.models.drmm.model import DRMM
from pyro_ext.models.drmm.priors import Counts, check_pseudo_count, log_prior, set_class_probabilities
from pyro_ext.utils.checks import positive_int

__all__ = ["EMStep", "EStep", "expected", "fit_templates", "hard_em"]

EStep = Literal["network", "joint", "exact"]
"""How classes and switches are found: both by the network, the class by the joint density, or both by it."""


@dataclass(frozen=True)
class EMStep:
    """One iteration.

    Args:
        before: the mean squared error per pixel after the E step.
        after: the same after the M step.
        log_joint: the mean log joint density of images and configurations per image after the M step.
    """

    before: float
    after: float
    log_joint: float


@torch.no_grad()
def hard_em(
    model: DRMM,
    x: Tensor,
    y: Tensor | None = None,
    *,
    num_steps: int = 10,
    e_step: EStep = "network",
    solver_steps: int = 20,
    min_noise: float = 1e-3,
    pseudo_count: float = 1.0,
) -> list[EMStep]:
    r"""Fit templates, probabilities and noise in place.

    Args:
        model: with the factorised prior and without batch norm.
        x: images, ``(N,) + image_shape``.
        y: labels that fix the class, -1 for none.
        num_steps: how often to go through E and M.
        e_step: by the network; with the class by the joint density; or by going through all configurations.
        solver_steps: of conjugate gradients for each layer and iteration.
        min_noise: the least :math:`\sigma`.
        pseudo_count: added to all counts of classes and switches.

    Raises:
        ValueError: if an option is out of range, or the model is of another kind.

    Example:
        >>> from pyro_ext.models.drmm import DRMM, Layer
        >>> layers = [Layer(4, 3, pool=2, padding=1), Layer(6, 2)]
        >>> model = DRMM(layers, classes=3, image_shape=(1, 6, 6), prior="factorised")
        >>> steps = hard_em(model, torch.rand(50, 1, 6, 6), num_steps=3)
        >>> all(step.after <= step.before for step in steps)
        True
    """
    check_em(model, x, y, num_steps, min_noise)
    positive_int("solver_steps", solver_steps)
    check_pseudo_count(pseudo_count)
    if e_step not in get_args(EStep):
        raise ValueError(f"e_step must be one of {', '.join(get_args(EStep))}; got {e_step!r}")
    history = []
    for _ in range(num_steps):
        c, g = expected(model, x, y, e_step)
        before = (x - model.rendering(c, g).image).square().mean()
        fit_templates(model, x, c, g, solver_steps)
        after = (x - model.rendering(c, g).image).square().mean()
        model.noise.copy_(after.sqrt().clamp_min(min_noise))
        _fit_probabilities(model, c, g, pseudo_count, e_step)
        history.append(EMStep(before.item(), after.item(), _log_joint(model, x, c, g).mean().item()))
    return history


def fit_templates(model: DRMM, x: Tensor, c: Tensor, g: Sequence[Switches], solver_steps: int = 20) -> None:
    """Fit the scale of each class, the class templates, and those of every layer downwards, one after the other.

    Args:
        model: changed in place.
        x: images, ``(N,) + image_shape``.
        c: their classes, ``(N,)``.
        g: their switches.
        solver_steps: of conjugate gradients for each.
    """
    with torch.no_grad():
        _fit_scales(model, x, c, g)
        top = len(model.layers)
        fitted = conjugate_gradients(lambda v: _down(model, v[c], g, top), x, model.class_templates, solver_steps)
        model.class_templates.copy_(fitted)
        for number in range(top, 0, -1):
            layer = model.layers[number - 1]
            u = layer.masked(model.rendering(c, g).levels[number], g[number - 1])

            def through(templates: Tensor, u: Tensor = u, number: int = number) -> Tensor:
                return _down(model, model.layers[number - 1].spread(u, templates), g, number - 1)

            layer.templates.copy_(conjugate_gradients(through, x, layer.templates, solver_steps))


def check_em(model: DRMM, x: Tensor, y: Tensor | None, num_steps: int, min_noise: float) -> None:
    """Raise a ValueError where EM would not be what it should."""
    model.check_plain("EM")
    if model.prior != "factorised":
        raise ValueError(
            f"EM needs prior='factorised', got {model.prior!r}: the path prior is not normalised, and its evidence "
            "grows without limit with the templates"
        )
    model.check_images(x)
    if y is not None:
        model.check_labels(y)
    positive_int("num_steps", num_steps)
    if not 0 < min_noise < math.inf:
        raise ValueError(f"min_noise must be a positive, finite standard deviation, got {min_noise!r}")


@torch.no_grad()
def expected(
    model: DRMM, x: Tensor, y: Tensor | None = None, e_step: EStep = "joint"
) -> tuple[Tensor, tuple[Switches, ...]]:
    """Return the classes, ``(N,)``, and the switches that an E step finds in images.

    Args:
        model: without batch norm.
        x: images, ``(N,) + image_shape``.
        y: labels that fix the class, -1 for none.
        e_step: how.

    Example:
        >>> from pyro_ext.models.drmm import DRMM, Layer
        >>> model = DRMM([Layer(2, 2, pool=2)], classes=3, image_shape=(1, 3, 3), prior="factorised")
        >>> c, _ = expected(model, torch.rand(4, 1, 3, 3), torch.tensor([2, -1, 0, -1]))
        >>> c[[0, 2]]
        tensor([2, 0])
    """
    if e_step == "exact":
        from pyro_ext.models.drmm.exact import exact_map

        best = exact_map(model, x, y)
        return best.c, best.switches
    found = model.infer(x)
    scores = _class_scores(model, x, found.switches) if e_step == "joint" else found.scores
    return model.chosen(scores, y), found.switches


def _class_scores(model: DRMM, x: Tensor, g: Sequence[Switches]) -> Tensor:
    r"""Return :math:`-|I - h^0(c, g)|^2 / 2 + \sigma^2 \ln \pi_c` of every class, ``(N, C)``."""
    each = [model.rendering(x.new_full((), c, dtype=torch.long), g).image for c in range(model.classes)]
    error = torch.stack([(x - image).square().sum((-1, -2, -3)) for image in each], -1)
    return model.noise**2 * model.class_logits.log_softmax(-1) - error / 2


def _down(model: DRMM, h: Tensor, g: Sequence[Switches], level: int) -> Tensor:
    for number in range(level, 0, -1):
        h = model.layers[number - 1].down(h, g[number - 1]).finer
    return h


def _fit_scales(model: DRMM, x: Tensor, c: Tensor, g: Sequence[Switches]) -> None:
    """Scale the template of each class so that the rendered images have the right contrast."""
    rendered = model.rendering(c, g).image
    member = F.one_hot(c, model.classes).to(x.dtype)
    overlap, norm = ((x * rendered).flatten(1).sum(-1) @ member, rendered.square().flatten(1).sum(-1) @ member)
    scale = torch.where(norm > 0, overlap / norm.clamp_min(torch.finfo(x.dtype).tiny), 1.0)
    model.class_templates.mul_(scale[:, None, None, None])


def _fit_probabilities(model: DRMM, c: Tensor, g: Sequence[Switches], pseudo_count: float, e_step: EStep) -> None:
    set_class_probabilities(model, F.one_hot(c, model.classes).sum(0), pseudo_count)
    for layer, switches in zip(model.layers, g, strict=True):
        # The exact E step chooses positions of units that are off too: by their probabilities.
        counts = Counts(layer, every_position=True if e_step == "exact" else None)
        counts.add(switches)
        counts.store("unit", pseudo_count)


def _log_joint(model: DRMM, x: Tensor, c: Tensor, g: Sequence[Switches]) -> Tensor:
    pixels = torch.distributions.Normal(model.rendering(c, g).image, model.noise).log_prob(x)
    return log_prior(model, c, g) + pixels.sum((-1, -2, -3))
