"""The multi-sample bound of held-out images under the discrete model, and plots of what the model draws."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pyro
import torch
from pyro import poutine
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_ext.datasets import Splits
from pyro_ext.models.structured_output.density import DensityModel
from pyro_ext.models.structured_output.lower_half import LowerHalfModel
from pyro_ext.models.toolkit import image_rows, sample_images
from pyro_ext.utils.checks import positive_int

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["density_plots", "importance_bounds", "log_weights", "lower_half_plots"]

_CHUNK = 2**22  # numbers in the largest tensor of a run: a few of that size fit into the caches and any memory


@torch.no_grad()
def log_weights(model: Callable[..., Any], guide: Callable[..., Any], num_samples: int, *batch: Any) -> Tensor:
    r"""Return :math:`\log p(x, z^k) - \log q(z^k \mid x)` of independent samples, ``(num_samples, B)``.

    Args:
        model: a model whose sites all lie in one plate of data points.
        guide: its guide.
        num_samples: the number of samples for each data point.
        *batch: what model and guide are called with.

    Example:
        >>> def model(x):
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("x", dist.Normal(pyro.sample("z", dist.Normal(0.0, 1.0)), 1.0), obs=x)
        >>> def guide(x):
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("z", dist.Normal(x / 2, 0.5**0.5))
        >>> log_weights(model, guide, 3, torch.zeros(2)).exp()  # by the exact posterior: p(x) at 0
        tensor([[0.2821, 0.2821],
                [0.2821, 0.2821],
                [0.2821, 0.2821]])
    """
    samples = pyro.plate("samples", num_samples, dim=-2)
    with pyro.validation_enabled(False), samples:
        guide_trace = poutine.trace(guide).get_trace(*batch)
        model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(*batch)
        return _log_prob(model_trace) - _log_prob(guide_trace)


def _log_prob(trace: Any) -> Any:
    sites = [s for s in trace.nodes.values() if s["type"] == "sample" and not site_is_subsample(s)]
    return sum(site["fn"].log_prob(site["value"]) for site in sites)


def importance_bounds(
    model: Callable[..., Any], guide: Callable[..., Any], num_samples: int, width: int, *batch: Any
) -> tuple[Tensor, Tensor]:
    r"""Return :math:`-\log \frac{1}{L} \sum_k w_k` and :math:`-\frac{1}{L} \sum_k \log w_k`, both ``(B,)``.

    The first is above the negative log-likelihood in expectation, and falls towards it as L grows.

    Args:
        model: as in :func:`log_weights`.
        guide: its guide.
        num_samples: the number L of samples, drawn in chunks that fit into memory.
        width: the number of entries per sample and data point in the largest layer, which sets the size of a chunk.
        *batch: what model and guide are called with.

    Raises:
        ValueError: if ``num_samples`` is not a positive integer.
    """
    left = positive_int("num_samples", num_samples)
    chunk = max(1, _CHUNK // (width * len(batch[0])))
    log_sums, totals = [], []
    while left > 0:
        drawn = log_weights(model, guide, min(chunk, left), *batch)
        log_sums.append(drawn.logsumexp(0))
        totals.append(drawn.sum(0))
        left -= chunk
    bound = torch.stack(log_sums).logsumexp(0) - math.log(num_samples)
    return -bound, -torch.stack(totals).sum(0) / num_samples


def lower_half_plots(
    model: LowerHalfModel, data: Splits, seed: int, number: int = 10, draws: int = 5
) -> dict[str, Callable[..., Axes]]:
    """Return a plot of held-out images (training images if there are none), and predictions of their lower halves.

    Args:
        model: the model.
        data: the images.
        seed: the seed of the predictions.
        number: the number of images.
        draws: the number of predictions for each.
    """
    assert data.image_shape is not None
    height, columns = data.image_shape

    def completions(total: int) -> Tensor:
        x = (data.train if data.valid is None else data.valid).x[:number].to(model.below[-1].bias)
        upper = x[:, : model.hidden.num_inputs]
        rows = [torch.cat([upper, model.complete(upper)], -1) for _ in range(draws)]
        return torch.cat([x, *rows])[:total]

    whole = "training images" if data.valid is None else "held-out images"
    title = f"{whole}, and their lower halves as the model draws them given the upper ones"
    shape, total = (height, columns), number * (draws + 1)
    labels = ["image", *(f"draw {draw}" for draw in range(1, draws + 1))]
    return {
        "completions": sample_images(
            completions, shape, total, columns=number, seed=seed, title=title, row_labels=labels
        )
    }


def density_plots(model: DensityModel, data: Splits, seed: int, number: int = 10) -> dict[str, Callable[..., Axes]]:
    """Return a plot of training images and one of samples: the means of pixels given layers drawn from the prior.

    Args:
        model: the model.
        data: the images.
        seed: the seed of the samples.
        number: the number of training images; twice as many samples are drawn.
    """
    shape = data.image_shape or (1, data.train.x.shape[-1])
    return {
        "images": image_rows(lambda: [data.train.x[:number]], shape, title="training images"),
        "samples": sample_images(
            model.sample_pixels, shape, 2 * number, columns=number, seed=seed, title="samples: means of the pixels"
        ),
    }
