r"""Batch norm taken into templates and biases.

On the way up, evaluation uses running means m and variances v:

.. math::
    \gamma \frac{\Lambda \star x + b - m}{\sqrt{v + \epsilon}} + \beta = (s \Lambda) \star x + s (b - m) + \beta,
    \qquad s = \gamma / \sqrt{v + \epsilon},

which is a layer without batch norm. The scales s multiply the rendered templates as well, so what is rendered changes:
the result is the model in which rendering and inference agree.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from pyro_ext.models.drmm.model import DRMM

__all__ = ["folded", "scale_and_shift"]


def scale_and_shift(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Return what a batch norm in evaluation multiplies its channels with and adds to them, each ``(K,)``.

    Raises:
        ValueError: if it keeps no running statistics.

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
def folded(model: DRMM) -> DRMM:
    """Return a model without batch norm whose scores are those of ``model`` in evaluation; ``model`` is not changed.

    Example:
        >>> from pyro_ext.models.drmm import DRMM, Layer
        >>> model = DRMM([Layer(4, 3, pool=2)], classes=3, image_shape=(1, 8, 8), batch_norm="both")
        >>> _ = model.dcn(torch.rand(50, 1, 8, 8))  # running statistics
        >>> x = torch.rand(5, 1, 8, 8)
        >>> torch.allclose(model.folded().dcn(x), model.eval().dcn(x), atol=1e-6)
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
