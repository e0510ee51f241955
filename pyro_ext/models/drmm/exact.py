r"""Exact inference in tiny models, by enumeration of all classes and switches.

The switches of a layer of U units with :math:`2 p^2` states each are coded as one number of :math:`(2 p^2)^U`, whose
digits to the base :math:`2 p^2` are the units' states :math:`p^2 a + t`. With one such code per layer, Pyro's parallel
enumeration needs one dim per layer, and one for the class.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor

from pyro_ext.models.drmm.cells import Switches
from pyro_ext.models.drmm.layers import RenderingLayer
from pyro_ext.models.drmm.model import DRMM
from pyro_ext.models.toolkit import data_plate

__all__ = [
    "MAX_CONFIGURATIONS",
    "ExactMap",
    "ExactProgram",
    "configurations",
    "count_configurations",
    "decode",
    "exact_map",
    "log_evidence",
    "log_joint",
]

MAX_CONFIGURATIONS = 2**18
"""The largest number of configurations, classes times switches, that are enumerated."""


class ExactMap(NamedTuple):
    r"""The most probable configurations.

    Args:
        c: the classes, ``(B,)``.
        switches: the switches of every layer, from the lowest, ``(B, K, H, W)``.
        log_joint: the log joint density :math:`\ln p(I, c, g)`, ``(B,)``, unnormalised under the path prior.
    """

    c: Tensor
    switches: tuple[Switches, ...]
    log_joint: Tensor


class ExactProgram(PyroModule):
    """The generative program with one site for the code of each layer's switches, ``g1, g2, ...``, for exact inference.

    Marked by ``config_enumerate``, ``TraceEnum_ELBO`` gives the evidence and ``infer_discrete`` the most probable
    configuration.

    Args:
        drmm: a tiny model without batch norm.

    Raises:
        ValueError: if there are too many configurations, or there is batch norm.

    Example:
        >>> from pyro_ext.models.drmm import DRMM, Layer
        >>> drmm = DRMM([Layer(2, 2, pool=2)], classes=3, image_shape=(1, 3, 3), prior="factorised")
        >>> program = pyro.infer.config_enumerate(ExactProgram(drmm))
        >>> x = torch.rand(1, 1, 3, 3)
        >>> loss = pyro.infer.TraceEnum_ELBO(max_plate_nesting=1).loss(program, lambda x: None, x)
        >>> torch.allclose(log_evidence(drmm, x), torch.tensor(-loss))
        True
    """

    def __init__(self, drmm: DRMM) -> None:
        super().__init__()
        count_configurations(drmm)
        self.drmm = drmm

    def forward(self, x: Tensor) -> Tensor:
        """Sample a class and codes for images ``(B,) + image_shape``; return the rendered images."""
        drmm = self.drmm
        images = drmm.as_images(x)
        with data_plate(drmm.size or len(images), images, None):
            c = pyro.sample("c", dist.Categorical(logits=drmm.class_logits))
            switches = []
            for number, layer in enumerate(drmm.layers, start=1):
                code = pyro.sample(f"g{number}", dist.Categorical(logits=_code_logits(layer)))
                switches.append(decode(layer, code))
            return drmm.observe(c, switches, images)


def decode(layer: RenderingLayer, code: Tensor) -> Switches:
    """Return the switches, ``batch_shape + (K, H, W)``, of codes, int64 ``batch_shape``."""
    positions = layer.layer.pool**2
    digits = code[..., None] // _powers(layer, code.device) % (2 * positions)
    states = digits.unflatten(-1, layer.geometry.pooled)
    return Switches(states % positions, (states // positions).to(layer.templates.dtype))


def configurations(model: DRMM) -> tuple[Tensor, tuple[Switches, ...]]:
    """Return all classes, ``(C, 1)``, and all G combinations of switches, ``(1, G, K, H, W)`` for every layer.

    Raises:
        ValueError: if there are too many, or there is batch norm.

    Example:
        >>> from pyro_ext.models.drmm import DRMM, Layer
        >>> c, g = configurations(DRMM([Layer(2, 2, pool=2)], classes=3, image_shape=(1, 3, 3)))
        >>> c.shape, g[0].position.shape
        (torch.Size([3, 1]), torch.Size([1, 64, 2, 1, 1]))
    """
    count_configurations(model)
    device = model.class_templates.device
    codes = torch.arange(math.prod(_size(layer) for layer in model.layers), device=device)[None]
    switches = []
    for layer in model.layers:
        switches.append(decode(layer, codes % _size(layer)))
        codes = codes // _size(layer)
    return torch.arange(model.classes, device=device)[:, None], tuple(switches)


def count_configurations(model: DRMM) -> int:
    """Return the number of configurations, classes times switches.

    Raises:
        ValueError: if it is too large, or there is batch norm.
    """
    model.check_no_batch_norm("enumerating all configurations")
    number = model.classes * math.prod(_size(layer) for layer in model.layers)
    if number > MAX_CONFIGURATIONS:
        raise ValueError(
            f"the model has about 10^{math.log10(number):.0f} configurations, more than the {MAX_CONFIGURATIONS} that "
            "can be enumerated; use the network (model.dcn, model.switches)"
        )
    return number


@torch.no_grad()
def log_joint(model: DRMM, x: Tensor) -> Tensor:
    r"""Return :math:`\ln p(I, c, g)` of all configurations, ``(B, C, G)``, unnormalised under the path prior.

    Args:
        model: a tiny model.
        x: images, ``(B,) + image_shape``.
    """
    x = model.as_images(x)
    c, g = configurations(model)
    rendering = model.rendering(c, g)
    variance = model.noise**2
    image = rendering.image.flatten(-3)
    norm = image.square().sum(-1)
    fit = torch.einsum("bd,cgd->bcg", x.flatten(1), image) - norm / 2
    if model.prior == "path":
        fit = fit + norm / 2 + rendering.bias_term
    constant = x.flatten(1).square().sum(-1) / (2 * variance) + image.shape[-1] / 2 * (2 * math.pi * variance).log()
    return fit / variance + model.log_prior(c, g) - constant[:, None, None]


def exact_map(model: DRMM, x: Tensor, y: Tensor | None = None) -> ExactMap:
    """Return the most probable class and switches of each image.

    Args:
        model: a tiny model.
        x: images, ``(B,) + image_shape``.
        y: labels that fix the class, ``(B,)``, -1 for none.

    Raises:
        ValueError: if there are too many configurations, or there is batch norm.
    """
    table = log_joint(model, x)
    if y is not None:
        model.check_labels(y)
        others = (y[:, None] >= 0) & (y[:, None] != torch.arange(model.classes, device=y.device))
        table = table.masked_fill(others[..., None], -math.inf)
    best, place = table.flatten(1).max(-1)
    number = table.shape[-1]
    _, g = configurations(model)
    chosen = place % number
    return ExactMap(place // number, tuple(Switches(s.position[0, chosen], s.on[0, chosen]) for s in g), best)


def log_evidence(model: DRMM, x: Tensor) -> Tensor:
    r"""Return :math:`\ln p(I)` of each image, ``(B,)``.

    Args:
        model: a tiny model with the factorised prior.
        x: images, ``(B,) + image_shape``.

    Raises:
        ValueError: if the prior is not normalised, or there are too many configurations.
    """
    if model.prior == "path":
        raise ValueError(
            "the path prior is not normalised, so there is no evidence (it grows without limit with the templates); "
            "use prior='factorised'"
        )
    return log_joint(model, x).flatten(1).logsumexp(-1)


def _size(layer: RenderingLayer) -> int:
    return int((2 * layer.layer.pool**2) ** math.prod(layer.geometry.pooled))


def _powers(layer: RenderingLayer, device: torch.device) -> Tensor:
    base = 2 * layer.layer.pool**2
    return torch.tensor([base**unit for unit in range(math.prod(layer.geometry.pooled))], device=device)


def _code_logits(layer: RenderingLayer) -> Tensor:
    codes = torch.arange(_size(layer), device=layer.templates.device)
    return layer.switch_log_prior(decode(layer, codes))
