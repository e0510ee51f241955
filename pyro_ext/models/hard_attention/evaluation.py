"""What is measured on held-out canvases, and the plots."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from pyro_ext.datasets import Splits
from pyro_ext.inference import local_params
from pyro_ext.models.hard_attention.model import Guide, Model
from pyro_ext.models.toolkit import image_rows, mean_metrics
from pyro_ext.plotting import COLOURS, finish, image_grid

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["diagnose", "evaluation", "model_plots", "position_metrics"]

_LOST = 0.5  # share of canvases whose digit is found within a pixel of a common shift


def evaluation(model: Model, guide: Guide, num_samples: int, seed: int) -> Callable[[Iterable[Any]], dict[str, float]]:
    """Return the evaluation of held-out canvases: the bound, its parts, and how well positions are found.

    Args:
        model: the model.
        guide: the guide.
        num_samples: the number of positions and styles drawn for each canvas.
        seed: the seed of those draws.
    """

    def bound(x: Tensor, y: Tensor | None = None, index: Tensor | None = None) -> dict[str, Tensor]:
        log_q = guide.attend(x).log_softmax(-1)
        entropy = -(log_q.exp() * log_q).sum(-1)
        loss = x.new_zeros(())
        for _ in range(num_samples):
            position = torch.distributions.Categorical(logits=log_q, validate_args=False).sample()
            style = guide.style(x, position)
            divergence = torch.distributions.kl_divergence(style.to_event(1), model.style_prior())
            loss = loss + (divergence - model.canvas(position, style.rsample()).log_prob(x)) / num_samples
        return {"neg_elbo": loss + math.log(log_q.shape[-1]) - entropy, "position_entropy": entropy}

    means = mean_metrics(model, bound, seed)

    @torch.no_grad()
    def evaluate(loader: Iterable[Any]) -> dict[str, float]:
        with local_params():
            found, true = [], []
            for x, y, *_ in loader:
                found.append(guide.attend(x.to(model.prior_logits)).argmax(-1).cpu())
                true.append(y.cpu())
        return means(loader) | position_metrics(torch.cat(found), torch.cat(true), guide.shape[1])

    return evaluate


def position_metrics(found: Tensor, true: Tensor, width: int) -> dict[str, float]:
    """Return the shares of positions found exactly, and within one pixel in each direction.

    Where in its window the digit stands is for the model to choose, so that all positions may be off by the same shift:
    ``aligned`` shares are the largest that undoing one shift of all gives.

    Args:
        found: positions, int64 ``(N,)``.
        true: true positions, int64 ``(N,)``.
        width: the width of a canvas.

    Example:
        >>> metrics = position_metrics(torch.tensor([10, 21, 37]), torch.tensor([11, 22, 55]), width=10)
        >>> {name: round(share, 2) for name, share in metrics.items()}
        {'exact': 0.0, 'near': 0.67, 'exact_aligned': 0.67, 'near_aligned': 0.67}
    """
    off = torch.stack([found // width - true // width, found % width - true % width], -1)
    rows, columns = (off - off.amin(0)).unbind(-1)
    across = int(columns.max()) + 1
    counts = (rows * across + columns).bincount(minlength=(int(rows.max()) + 1) * across).view(1, -1, across)
    around = 9 * F.avg_pool2d(counts.double(), 3, stride=1, padding=1)  # of shifts within a pixel
    distance = off.abs().amax(-1)
    return {
        "exact": float((distance == 0).double().mean()),
        "near": float((distance <= 1).double().mean()),
        "exact_aligned": float(counts.max() / len(off)),
        "near_aligned": float(around.max().round() / len(off)),
    }


def diagnose(metrics: Mapping[str, float]) -> list[str]:
    """Return a warning if most digits are not found."""
    share = metrics.get("near_aligned", 1.0)
    if share >= _LOST:
        return []
    return [
        f"the digit is found, within a pixel of a common shift, on {share:.1%} of the held-out canvases only; train "
        "longer, or with an estimator of less variance"
    ]


def model_plots(model: Model, guide: Guide, data: Splits, number: int = 8) -> dict[str, Callable[..., Axes]]:
    """Return the plots: where the guide looks, and held-out canvases with their reconstructions."""

    def best(x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the best positions, and the decoder's means there."""
        position = guide.attend(x).argmax(-1)
        return position, model.canvas(position, guide.style(x, position).mean).canvas_logits.sigmoid()

    def reconstruction() -> list[Tensor]:
        x = data.valid.x[:number].to(model.prior_logits)
        return [x, best(x)[1].flatten(1)]

    @torch.no_grad()
    def attention(ax: Axes | None = None) -> Axes:
        """Draw held-out canvases; a square shows the window looked at, a cross the true position."""
        from matplotlib.patches import Rectangle

        width = guide.shape[1]
        with local_params():
            x = data.valid.x[:number].to(model.prior_logits)
            position = best(x)[0].cpu()
        ax = image_grid(x.unflatten(-1, guide.shape), ax, columns=number)
        for place, (found, true) in enumerate(zip(position.tolist(), data.valid.y[:number].tolist(), strict=True)):
            left = 1 + place * (width + 1)
            row, column = divmod(found, width)
            corner = (left + column - guide.window // 2 - 0.5, 1 + row - guide.window // 2 - 0.5)
            ax.add_patch(Rectangle(corner, guide.window, guide.window, fill=False, color=COLOURS[4], linewidth=1.5))
            row, column = divmod(true, width)
            ax.plot(left + column, 1 + row, "x", color=COLOURS[5], markersize=7, markeredgewidth=1.5)
        return finish(ax, title="held-out canvases; squares: windows looked at; crosses: true positions of the digits")

    return {
        "attention": attention,
        "reconstruction": image_rows(
            reconstruction,
            guide.shape,
            "held-out canvases, and their reconstructions from the window looked at",
            ("canvas", "reconstruction"),
        ),
    }
