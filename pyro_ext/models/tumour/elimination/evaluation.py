"""What is measured on held-out matrices, and the plots."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pyro_ext.datasets import Splits
from pyro_ext.inference import local_params
from pyro_ext.models.tumour.elimination.cost import observe, prefix_costs
from pyro_ext.models.tumour.elimination.denoising import denoise, greedy_search
from pyro_ext.models.tumour.elimination.program import Guide
from pyro_ext.ops.mutations import MISSING
from pyro_ext.utils.checks import positive_number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["diagnose", "draw_flips", "elimination_metrics", "model_plots"]

_CONFLICTS = 0.95  # share of matrices that should be free of conflicts
_COLOURS = {
    "0": "white",
    "1": "#8c8c8c",
    "0 made 1": "#E69F00",
    "1 made 0": "#0072B2",
    "missing": "#d9d9d9",
    "missing, made 1": "#F6DDA8",
}


def elimination_metrics(
    guide: Guide, num_samples: int = 16, temperature: float = 3.0
) -> Callable[..., dict[str, Tensor]]:
    """Return a function from a batch to metrics of each matrix.

    * ``cost``: of the best beginning of one sequence of flips drawn from the guide; of the most probable flips,
      ``argmax_cost``.
    * ``denoised_cost``, ``neg_log_likelihood`` and ``conflict_free``: of the matrix that :func:`.denoise` returns;
      ``greedy_cost``, ``greedy_neg_log_likelihood``, ``greedy_conflict_free``: of that by greedy search.
    * ``wrong``: the share of its entries that differ from the true matrix, where the data hold it; ``observed_wrong``
      the share before.

    Args:
        guide: the guide.
        num_samples: the number of sequences drawn to denoise a matrix.
        temperature: the temperature at which they are drawn.
    """
    positive_number("temperature", temperature)

    def metrics(x: Tensor, y: Tensor | None = None, index: Tensor | None = None) -> dict[str, Tensor]:
        policy = guide.policy
        alpha, beta = policy.false_positive, policy.false_negative
        observed = observe(x, alpha, beta)
        drawn = prefix_costs(guide(x, y, index), observed, policy.gamma).amin(-1)
        best = denoise(policy, x, num_samples=1, max_flips=guide.num_flips)
        found = denoise(policy, x, num_samples=num_samples, temperature=temperature)
        greedy = greedy_search(x, alpha, beta, policy.gamma)
        result = {
            "cost": drawn,
            "argmax_cost": best.cost,
            "denoised_cost": found.cost,
            "neg_log_likelihood": found.neg_log_likelihood,
            "conflict_free": (found.conflicts == 0).to(drawn.dtype),
            "greedy_cost": greedy.cost,
            "greedy_neg_log_likelihood": greedy.neg_log_likelihood,
            "greedy_conflict_free": (greedy.conflicts == 0).to(drawn.dtype),
        }
        if y is not None and y.shape == x.shape:
            result["wrong"] = _share(found.matrix, y, x)
            result["observed_wrong"] = _share(observed.matrix, y, x)
        return result

    return metrics


def _share(matrix: Tensor, true: Tensor, x: Tensor) -> Tensor:
    """Return the share of entries, padding left out, that differ from the true ones."""
    present = x >= 0
    return ((matrix != true) & present).sum((-2, -1)) / present.sum((-2, -1)).clamp(min=1)


def diagnose(metrics: Mapping[str, float]) -> list[str]:
    """Return warnings if conflicts are left, or greedy search is better than the network."""
    warnings = []
    share, cost = metrics.get("conflict_free", 1.0), metrics.get("denoised_cost", 0.0)
    if share < _CONFLICTS:
        warnings.append(
            f"conflicts are left in {1 - share:.1%} of the denoised matrices; train longer, or draw more sequences"
        )
    if cost > metrics.get("greedy_cost", cost):
        warnings.append(
            f"matrices denoised by the network cost {cost:.4g} on average, by greedy search "
            f"{metrics['greedy_cost']:.4g}; train longer, or draw more sequences"
        )
    return warnings


def model_plots(guide: Guide, data: Splits, num_samples: int, number: int = 4) -> dict[str, Callable[..., Axes]]:
    """Return the plot of a few held-out matrices as the network and greedy search denoise them."""

    def denoised(ax: Axes | None = None) -> Axes:
        part = data.train if data.valid is None else data.valid
        policy = guide.policy
        x = part.x[:number].to(policy.false_positive.device)
        with local_params(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            matrices = denoise(policy, x, num_samples=num_samples).matrix
        greedy = greedy_search(x, policy.false_positive, policy.false_negative, policy.gamma).matrix
        rows = {"network": matrices, "greedy search": greedy}
        if part.y is not None and part.y.shape == part.x.shape:
            rows["truth"] = part.y[:number].to(x.device).bool()
        return draw_flips(x, rows, ax)

    return {"denoised": denoised}


def draw_flips(x: Tensor, denoised: Mapping[str, Tensor], ax: Axes | None = None) -> Axes:
    """Draw observed matrices in columns, and below each what several methods change in it.

    Args:
        x: observed matrices, ``(B, n, m)``; 1 present, 0 absent, 3 missing, -1 padding.
        denoised: matrices of the same shape by the name of a method, which is written at the left of its row.
        ax: the axes to draw on; new ones if None.

    Returns:
        The axes.

    Example:
        >>> x = torch.tensor([[[1, 1], [1, 0], [0, 3]]])
        >>> [label.get_text() for label in draw_flips(x, {"nothing": x == 1}).get_yticklabels()]
        ['observed', 'nothing']
    """
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    from pyro_ext.plotting import finish, given_or_new

    number, n, m = x.shape
    rows = [(x == 1).long(), *(_codes(x, matrix.to(x.device)) for matrix in denoised.values())]
    rows[0] = rows[0].masked_fill(x == MISSING, 4)
    canvas = torch.full((len(rows) * (n + 1) - 1, number * (m + 1) - 1), torch.nan)
    for i, row in enumerate(rows):
        for j, matrix in enumerate(row.cpu()):
            canvas[i * (n + 1) : i * (n + 1) + n, j * (m + 1) : j * (m + 1) + m] = matrix
    ax = given_or_new(ax, width=_inches(canvas.shape[1]) + 2.4, height=_inches(canvas.shape[0]) + 0.5)
    colours = ListedColormap([*_COLOURS.values()])
    ax.set_facecolor("dimgray")
    ax.imshow(canvas.numpy(), cmap=colours, vmin=-0.5, vmax=len(_COLOURS) - 0.5, interpolation="nearest")
    ax.set_xticks([])
    ax.set_yticks([i * (n + 1) + (n - 1) / 2 for i in range(len(rows))], ["observed", *denoised])
    ax.tick_params(length=0)
    ax.grid(False)
    ax.spines[:].set_visible(False)
    handles = [Patch(facecolor=colour, edgecolor="grey", label=name) for name, colour in _COLOURS.items()]
    ax.legend(handles=handles, fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return finish(ax, title="what is changed in mutation matrices (rows: cells)", legend=False)


def _inches(entries: int) -> float:
    return min(12.0, max(3.0, 0.1 * entries))


def _codes(x: Tensor, matrix: Tensor) -> Tensor:
    """Return 0 or 1 where a matrix agrees with what was observed, 2 to 5 for what else there is."""
    codes = (x == 1).long()
    codes = codes.masked_fill((x == 0) & matrix, 2).masked_fill((x == 1) & ~matrix, 3)
    return codes.masked_fill((x == MISSING) & ~matrix, 4).masked_fill((x == MISSING) & matrix, 5)
