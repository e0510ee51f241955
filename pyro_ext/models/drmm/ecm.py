r"""Exact expectation conditional maximisation (ECM) of tiny models of one layer.

The E step enumerates all classes and switches: :math:`\gamma_{ncg} = p(c, g \mid I_n)`. A rendered image is linear in
the templates given the class templates, and in the class templates given the templates, so the M step solves two
weighted least-squares problems one after the other, by their normal equations:

.. math::
    \Lambda \leftarrow \arg\min_\Lambda \sum_{ncg} \gamma_{ncg} |I_n - h^0(c, g; \Lambda, \mu)|^2, \qquad
    \mu \leftarrow \arg\min_\mu \sum_{ncg} \gamma_{ncg} |I_n - h^0(c, g; \Lambda, \mu)|^2,

then :math:`\sigma^2` is the weighted residual, and all probabilities are means of responsibilities. The evidence never
decreases. Parameters that the data do not determine, such as the template of a class without data, stay as they are.

References:
    | Maximum likelihood estimation via the ECM algorithm (Meng and Rubin, 1993)
    | https://doi.org/10.1093/biomet/80.2.267
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from pyro_ext.models.drmm.cells import Switches
from pyro_ext.models.drmm.em import check_em
from pyro_ext.models.drmm.exact import configurations, log_joint
from pyro_ext.models.drmm.layers import RenderingLayer
from pyro_ext.models.drmm.model import DRMM

__all__ = ["Responsibilities", "e_step", "exact_ecm", "m_step"]


@dataclass(frozen=True)
class Responsibilities:
    r"""The result of the E step: sums over images for each of the C classes and G combinations of switches.

    Args:
        weight: the sums of responsibilities, :math:`\sum_n \gamma_{ncg}`, ``(C, G)``.
        image: the weighted sums of images, :math:`\sum_n \gamma_{ncg} I_n`, ``(C, G) + image_shape``.
        square: the sum of squares of all pixels, :math:`\sum_n |I_n|^2`, a scalar.
        log_evidence: the log evidence of all images, :math:`\sum_n \ln p(I_n)`, a scalar.
    """

    weight: Tensor
    image: Tensor
    square: Tensor
    log_evidence: Tensor


@torch.no_grad()
def exact_ecm(model: DRMM, x: Tensor, num_steps: int = 30, min_noise: float = 1e-3) -> list[float]:
    r"""Fit a tiny model of one layer in place.

    Args:
        model: a model with one layer and the factorised prior; changed in place.
        x: images, ``(N,) + image_shape``.
        num_steps: the number of iterations.
        min_noise: the smallest :math:`\sigma` allowed.

    Returns:
        The log evidence of all images before the first iteration and after each one.

    Raises:
        ValueError: if the model is of another kind or too large.

    Example:
        >>> from pyro_ext.models.drmm import DRMM, Layer
        >>> model = DRMM([Layer(2, 2, pool=2)], classes=2, image_shape=(1, 3, 3), prior="factorised")
        >>> history = exact_ecm(model, torch.rand(40, 1, 3, 3), num_steps=5)
        >>> all(after >= before for before, after in zip(history, history[1:], strict=False))
        True
    """
    check_em(model, x, None, num_steps, min_noise)
    if len(model.layers) != 1:
        raise ValueError(f"exact ECM needs a model of one layer, got {len(model.layers)}; use hard_em")
    history = []
    for _ in range(num_steps):
        responsibilities = e_step(model, x)
        history.append(responsibilities.log_evidence.item())
        m_step(model, responsibilities, min_noise)
    history.append(e_step(model, x).log_evidence.item())
    return history


def e_step(model: DRMM, x: Tensor) -> Responsibilities:
    """Return the responsibilities of all configurations for images ``(N,) + image_shape``."""
    table = log_joint(model, x)
    log_evidence = table.flatten(1).logsumexp(-1)
    gamma = (table - log_evidence[:, None, None]).exp()
    image = torch.einsum("ncg,nkhw->cgkhw", gamma, x)
    return Responsibilities(gamma.sum(0), image, x.square().sum(), log_evidence.sum())


@torch.no_grad()
def m_step(model: DRMM, sums: Responsibilities, min_noise: float = 1e-3) -> None:
    r"""Maximise over the templates, the class templates, the noise and the probabilities, in this order.

    Args:
        model: the model; changed in place.
        sums: the result of the E step.
        min_noise: the smallest :math:`\sigma` allowed.
    """
    layer = model.layers[0]
    _, (g,) = configurations(model)
    _fit_templates(model, layer, g, sums)
    _fit_class_templates(model, layer, g, sums)
    c = torch.arange(model.classes, device=sums.weight.device)[:, None]
    rendered = model.rendering(c, (g,)).image
    norm = rendered.square().sum((-1, -2, -3))
    residual = sums.square - 2 * (rendered * sums.image).sum() + (norm * sums.weight).sum()
    variance = residual / (sums.weight.sum() * rendered[0, 0].numel())
    model.noise.copy_(variance.clamp_min(min_noise**2).sqrt())
    _fit_probabilities(model, layer, g, sums.weight)


def _fit_templates(model: DRMM, layer: RenderingLayer, g: Switches, sums: Responsibilities) -> None:
    """Regress each pixel of the images on the patch of masked units around it."""
    kernel = layer.layer.kernel
    u = layer.masked(model.class_templates[:, None], g)  # (C, G, K, Hc, Wc)
    margin = kernel - 1 - layer.layer.padding
    patches = F.unfold(F.pad(u.flatten(0, 1), (margin,) * 4), kernel)  # (C G, K k k, pixels)
    weight, image = sums.weight.flatten(), sums.image.flatten(0, 1).flatten(-2)
    gram = torch.einsum("m,mip,mjp->ij", weight, patches, patches)
    moment = torch.einsum("mip,mkp->ik", patches, image)
    # A convolution applies templates flipped.
    current = layer.templates.flip((-1, -2)).transpose(0, 1).flatten(1).mT
    fitted = _solve(gram, moment, current).mT.unflatten(-1, (layer.layer.channels, kernel, kernel))
    layer.templates.copy_(fitted.transpose(0, 1).flip((-1, -2)))


def _fit_class_templates(model: DRMM, layer: RenderingLayer, g: Switches, sums: Responsibilities) -> None:
    """Regress the images of each class on the images rendered from its units one by one."""
    shape = layer.geometry.coarser
    like = model.class_templates
    units = torch.eye(like[0].numel(), dtype=like.dtype, device=like.device).unflatten(-1, shape)
    each = Switches(g.position[0, :, None], g.on[0, :, None])
    design = layer.down(units, each).finer.flatten(2)  # (G, U, D)
    gram = torch.einsum("cg,gid,gjd->cij", sums.weight, design, design)
    moment = torch.einsum("gid,cgd->ci", design, sums.image.flatten(2))
    fitted = _solve(gram, moment[..., None], like.flatten(1)[..., None])
    like.copy_(fitted.reshape(like.shape))


def _solve(gram: Tensor, moment: Tensor, current: Tensor) -> Tensor:
    """Return the solution of ``gram @ v = moment`` that is nearest to ``current``."""
    return current + torch.linalg.pinv(gram, hermitian=True) @ (moment - gram @ current)


def _fit_probabilities(model: DRMM, layer: RenderingLayer, g: Switches, weight: Tensor) -> None:
    share = weight / weight.sum()
    model.class_logits.copy_(_log(share.sum(1)))
    by_switches = share.sum(0)
    on = torch.einsum("g,gkhw->khw", by_switches, g.on[0])
    layer.on_logits.copy_(_log(on) - _log(1 - on))
    position = F.one_hot(g.position[0], layer.layer.pool**2).to(share.dtype)
    layer.position_logits.copy_(_log(torch.einsum("g,gkhwp->khwp", by_switches, position)))


def _log(p: Tensor) -> Tensor:
    """Return the logarithm, finite at zero."""
    return p.clamp_min(torch.finfo(p.dtype).tiny).log()
