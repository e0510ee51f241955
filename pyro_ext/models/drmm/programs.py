r"""The generative program over many images, and the guide that the network is.

.. math::
    q(c, g \mid I) = \mathrm{softmax}(z(I) / \sigma^2)_c \; \delta(g - \hat g(I)).

With the class enumerated, the ELBO holds the mean squared error of all classes' reconstructions, weighted by q, and
the divergence of q(c) from the prior. Labels fix the class in the guide, and are observed through the scores
(the site ``y``), as is usual in semi-supervised models.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor
from torch.nn import functional as F

from pyro_ext.models.drmm.cells import Switches
from pyro_ext.models.drmm.rendering_layer import RenderingLayer

if TYPE_CHECKING:
    from pyro_ext.models.drmm.model import DRMM

__all__ = ["as_images", "data_plate", "guide", "model", "observe_images"]


def model(drmm: DRMM, x: Tensor, y: Tensor | None = None, index: Tensor | None = None) -> Tensor:
    """Sample ``c`` and ``t1, a1, ...``, observe ``x`` and labels ``y``; return the rendered images."""
    images = as_images(drmm, x)
    with data_plate(drmm, x, index):
        c = pyro.sample("c", dist.Categorical(logits=drmm.class_logits))
        switches = [_draw_switches(layer, number) for number, layer in enumerate(drmm.layers, start=1)]
        rendered = observe_images(drmm, c, switches, images)
        if y is not None:
            drmm.check_labels(y)
            labels = dist.Categorical(logits=drmm.dcn(images) / drmm.noise**2).mask(y >= 0)
            pyro.sample("y", labels, obs=y.clamp_min(0))
    return rendered


def guide(drmm: DRMM, x: Tensor, y: Tensor | None = None, index: Tensor | None = None) -> None:
    """Sample ``c`` from the scores, or the label, enumerated in parallel; fix the switches at the best ones."""
    found = drmm.infer(as_images(drmm, x))
    logits = found.scores / drmm.noise**2
    if y is not None:
        drmm.check_labels(y)
        given = F.one_hot(y.clamp_min(0), drmm.classes).to(logits.dtype).log()
        logits = torch.where((y >= 0)[..., None], given, logits)
    with data_plate(drmm, x, index):
        pyro.sample("c", dist.Categorical(logits=logits), infer={"enumerate": "parallel"})
        certain = logits.new_zeros(len(x))  # tells integer positions the dtype of their log-probabilities
        for number, best in enumerate(found.switches, start=1):
            pyro.sample(f"t{number}", dist.Delta(best.position, certain, event_dim=3))
            pyro.sample(f"a{number}", dist.Delta(best.on, certain, event_dim=3))


def observe_images(drmm: DRMM, c: Tensor, switches: list[Switches], images: Tensor) -> Tensor:
    """Observe images at the site ``x``, weigh them by the path prior, and return the rendered ones."""
    rendering = drmm.rendering(c, switches)
    pyro.sample("x", dist.Normal(rendering.image, drmm.noise).to_event(3), obs=images)
    if drmm.prior == "path":
        drmm.check_plain("the path prior")
        norm = rendering.image.square().sum((-1, -2, -3)) / 2
        pyro.factor("path", (norm + rendering.bias_term) / drmm.noise**2)
    return rendering.image


def as_images(drmm: DRMM, x: Tensor) -> Tensor:
    """Return images ``(B,) + image_shape`` of images or rows of pixels.

    Raises:
        ValueError: if ``x`` is neither.
    """
    channels, height, width = drmm.image_shape
    if x.dim() == 2 and x.shape[-1] == channels * height * width:
        return x.reshape(-1, channels, height, width)
    drmm.check_images(x)
    if x.dim() != 4:
        raise ValueError(f"x must have one batch dim, got shape {tuple(x.shape)}")
    return x


def data_plate(drmm: DRMM, x: Tensor, index: Tensor | None) -> pyro.plate:
    """Return the plate of the images, as subsampled by ``index``; by the first ones if None."""
    subsample = torch.arange(len(x), device=x.device) if index is None else index
    return pyro.plate("data", drmm.size or len(x), subsample=subsample, dim=-1)


def _draw_switches(layer: RenderingLayer, number: int) -> Switches:
    position = pyro.sample(f"t{number}", dist.Categorical(logits=layer.position_logits).to_event(3))
    return Switches(position, pyro.sample(f"a{number}", dist.Bernoulli(logits=layer.on_logits).to_event(3)))
