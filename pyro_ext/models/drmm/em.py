r"""Hard expectation maximisation at any depth: choose switches by the network, then fit templates by least squares.

Given classes and switches, a rendered image is linear in the class templates, and in the templates of each layer:

.. math::  \Lambda^l \leftarrow \arg\min_\Lambda \sum_n |I_n - h^0(c_n, \hat g_n; \Lambda)|^2,

the regression of the images on the images rendered through the layers below. The network's choice of switches and
class leaves out :math:`|h^0|^2`, so the error may increase in an E step, and the class with the longest template gets
images that it does not fit. With ``e_step="joint"`` the class is the most probable one given the network's switches,
which is needed for images without labels; with ``e_step="exact"`` (tiny models) the switches are the most probable ones
too, as in proper EM.

The least-squares problems are solved by conjugate gradients,

.. math::  \min_v |b - A v|^2, \qquad r = b - A v, \qquad s = A^\top r,

where A is a function and its adjoint is its derivative. Every step lowers the error, and directions to which A is
insensitive stay as they are at the start.

References:
    | Methods of conjugate gradients for solving linear systems (Hestenes and Stiefel, 1952)
    | https://doi.org/10.6028/jres.049.044
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from pyro_ext.models.drmm.cells import Switches
from pyro_ext.models.drmm.estimation import Counts
from pyro_ext.models.drmm.exact import exact_map
from pyro_ext.models.drmm.model import DRMM
from pyro_ext.utils.checks import one_of, positive_int, positive_number

__all__ = ["EMStep", "EStep", "check_em", "conjugate_gradients", "fit_templates", "hard_e_step", "hard_em"]

EStep = Literal["network", "joint", "exact"]
"""How classes and switches are chosen: both by the network, the class by the joint density, or both by that density."""


@dataclass(frozen=True)
class EMStep:
    """One iteration of hard expectation maximisation.

    Args:
        before: the mean squared error per pixel after the E step.
        after: the mean squared error per pixel after the M step.
        log_joint: the mean log joint density of an image and its configuration after the M step.
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
        model: a model with the factorised prior and without batch norm; changed in place.
        x: images, ``(N,) + image_shape``.
        y: labels that fix the class, ``(N,)``, -1 for none.
        num_steps: the number of iterations, each of an E step and an M step.
        e_step: how classes and switches are chosen: ``"network"``, both by the network; ``"joint"``, the class by the
            joint density; ``"exact"``, both by the joint density, enumerating all configurations.
        solver_steps: the number of steps of conjugate gradients for each layer and iteration.
        min_noise: the smallest :math:`\sigma` allowed.
        pseudo_count: a number added to all counts of classes and switches.

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
    positive_number("pseudo_count", pseudo_count)
    one_of("e_step", e_step, get_args(EStep))
    history = []
    for _ in range(num_steps):
        c, g = hard_e_step(model, x, y, e_step)
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
        model: the model; changed in place.
        x: images, ``(N,) + image_shape``.
        c: the classes of the images, ``(N,)``.
        g: the switches of the images, of every layer from the lowest.
        solver_steps: the number of steps of conjugate gradients for each set of templates.
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


def conjugate_gradients(linear: Callable[[Tensor], Tensor], target: Tensor, start: Tensor, num_steps: int) -> Tensor:
    """Return ``v``, of the shape of ``start``, which makes the squared distance of ``linear(v)`` to ``target`` small.

    Args:
        linear: a linear function A.
        target: the tensor b that is approximated.
        start: the initial value of ``v``.
        num_steps: the number of steps; as many as ``start`` has elements reach the minimum, up to rounding.

    Example:
        >>> a = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
        >>> conjugate_gradients(lambda v: a @ v, a @ torch.tensor([1.0, -1.0]), torch.zeros(2), 2)
        tensor([ 1.0000, -1.0000])
    """
    point = torch.zeros_like(start).requires_grad_()
    with torch.enable_grad():
        image = linear(point)

    def adjoint(r: Tensor) -> Tensor:
        return torch.autograd.grad(image, point, r, retain_graph=True)[0]

    with torch.no_grad():
        v = start.clone()
        r = target - linear(v)
        s = adjoint(r)
        direction, size = s, s.square().sum()
        for _ in range(num_steps):
            step = linear(direction)
            length = _ratio(size, step.square().sum())
            v = v + length * direction
            r = r - length * step
            s = adjoint(r)
            before, size = size, s.square().sum()
            direction = s + _ratio(size, before) * direction
    return v


def check_em(model: DRMM, x: Tensor, y: Tensor | None, num_steps: int, min_noise: float) -> None:
    """Raise a ValueError if an argument is out of range, or the model is one that EM cannot fit."""
    model.check_no_batch_norm("EM")
    if model.prior != "factorised":
        raise ValueError(
            f"EM needs prior='factorised', got {model.prior!r}: the path prior is not normalised, and its evidence "
            "grows without limit with the templates"
        )
    model.check_images(x)
    if y is not None:
        model.check_labels(y)
    positive_int("num_steps", num_steps)
    positive_number("min_noise", min_noise)


@torch.no_grad()
def hard_e_step(
    model: DRMM, x: Tensor, y: Tensor | None = None, e_step: EStep = "joint"
) -> tuple[Tensor, tuple[Switches, ...]]:
    """Return the classes, ``(N,)``, and the switches that an E step chooses for images.

    Args:
        model: a model without batch norm.
        x: images, ``(N,) + image_shape``.
        y: labels that fix the class, ``(N,)``, -1 for none.
        e_step: how classes and switches are chosen, see :func:`hard_em`.

    Example:
        >>> from pyro_ext.models.drmm import DRMM, Layer
        >>> model = DRMM([Layer(2, 2, pool=2)], classes=3, image_shape=(1, 3, 3), prior="factorised")
        >>> c, _ = hard_e_step(model, torch.rand(4, 1, 3, 3), torch.tensor([2, -1, 0, -1]))
        >>> c[[0, 2]]
        tensor([2, 0])
    """
    if e_step == "exact":
        best = exact_map(model, x, y)
        return best.c, best.switches
    inferred = model.infer(x)
    scores = _class_scores(model, x, inferred.switches) if e_step == "joint" else inferred.scores
    return model.choose_class(scores, y), inferred.switches


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
    counted = F.one_hot(c, model.classes).sum(0) + pseudo_count
    model.class_logits.copy_((counted / counted.sum()).log())
    for layer, switches in zip(model.layers, g, strict=True):
        # The exact E step chooses positions of units that are off too: by their probabilities.
        counts = Counts(layer, every_position=True if e_step == "exact" else None)
        counts.add(switches)
        counts.store("unit", pseudo_count)


def _log_joint(model: DRMM, x: Tensor, c: Tensor, g: Sequence[Switches]) -> Tensor:
    pixels = torch.distributions.Normal(model.rendering(c, g).image, model.noise).log_prob(x)
    return model.log_prior(c, g) + pixels.sum((-1, -2, -3))


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Return the ratio, or zero where the denominator is zero."""
    return torch.where(denominator > 0, numerator / denominator.clamp_min(torch.finfo(denominator.dtype).tiny), 0.0)
