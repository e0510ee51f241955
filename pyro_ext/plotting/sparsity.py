"""Pruned networks: error against compression, scores of weights, and the weights that are left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pyro_ext.plotting.axes import given_or_new
from pyro_ext.plotting.images import image_grid
from pyro_ext.plotting.style import COLOURS, DASHES, finish

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["compression_curve", "score_histogram", "weight_map"]


def compression_curve(
    curves: Mapping[str, Sequence[tuple[float, float]]],
    ax: Axes | None = None,
    *,
    chosen: float | None = None,
    xlabel: str = "compression (factor)",
    ylabel: str = "error (%)",
) -> Axes:
    """Plot errors against rates of compression, which have a logarithmic axis.

    Args:
        curves: pairs of compression and error, by the label of the curve.
        ax: the axes to draw on; new ones if ``None``.
        chosen: a rate to mark by a line, such as that of the threshold chosen.
        xlabel: the label of the x axis: which rate it is.
        ylabel: the label of the y axis.

    Returns:
        The axes drawn on.

    Raises:
        ValueError: if a curve is not made of pairs, or a rate is not positive.

    Example:
        >>> ax = compression_curve({"sparse": [(68, 1.9), (1, 1.6), (20, 1.7)]})
        >>> ax.lines[0].get_xdata().tolist()
        [1.0, 20.0, 68.0]
    """
    ax = given_or_new(ax)
    for label, pairs in curves.items():
        points = np.asarray(pairs, dtype=float)
        if points.ndim != 2 or points.shape[1] != 2 or not (points[:, 0] > 0).all():
            raise ValueError(f"curves[{label!r}] must be pairs of a positive rate and an error, got {pairs!r}")
        points = points[np.isfinite(points[:, 0])]
        points = points[points[:, 0].argsort(kind="stable")]
        ax.plot(points[:, 0], points[:, 1], marker="o", markersize=4, label=label)
    if chosen is not None:
        ax.axvline(chosen, color="black", linewidth=0.8, linestyle="--", label="chosen")
    ax.set_xscale("log")
    ax.set_ylim(bottom=0)
    return finish(ax, xlabel, ylabel)


def score_histogram(
    scores: Mapping[str, torch.Tensor | np.ndarray],
    ax: Axes | None = None,
    *,
    thresholds: float | Mapping[str, float] | None = None,
    xlabel: str = "log α",
    bins: int = 60,
) -> Axes:
    """Plot how the scores by which weights or groups are pruned are spread, layer by layer.

    Args:
        scores: the scores of each layer, any shape, by its name; large ones are removed.
        ax: the axes to draw on; new ones if ``None``.
        thresholds: where scores are cut: one line, or one for each layer.
        xlabel: the label of the x axis: what the scores are.
        bins: the number of bins, the same for all layers.

    Returns:
        The axes drawn on.

    Raises:
        ValueError: if there are no finite scores.

    Example:
        >>> ax = score_histogram({"first": torch.randn(100), "second": torch.randn(50) + 5}, thresholds=3.0)
        >>> [text.get_text() for text in ax.get_legend().get_texts()]
        ['first', 'second', 'threshold']
    """
    flat = {name: _array(score).ravel() for name, score in scores.items()}
    finite = {name: score[np.isfinite(score)] for name, score in flat.items()}
    if not any(score.size for score in finite.values()):
        raise ValueError("scores must hold at least one finite number, got none")
    ax = given_or_new(ax)
    everything = np.concatenate([*finite.values()])
    edges = np.histogram_bin_edges(everything, bins=bins)
    lines = thresholds if isinstance(thresholds, Mapping) else {}
    for at, (name, score) in enumerate(finite.items()):
        style: dict[str, Any] = {"color": COLOURS[at % len(COLOURS)], "linestyle": DASHES[at % len(DASHES)]}
        weights = np.full(score.size, 100 / max(flat[name].size, 1))
        ax.hist(score, bins=edges.tolist(), weights=weights, histtype="step", label=name, **style)
        if name in lines:
            ax.axvline(lines[name], color=style["color"], linewidth=0.8, linestyle="--")
    if thresholds is not None and not isinstance(thresholds, Mapping):
        ax.axvline(thresholds, color="black", linewidth=0.8, linestyle="--")
    if thresholds is not None:
        ax.plot([], [], color="black", linewidth=0.8, linestyle="--", label="threshold")
    return finish(ax, xlabel, "share of the layer (%)")


def weight_map(
    weights: torch.Tensor | np.ndarray,
    shape: tuple[int, int] | None = None,
    ax: Axes | None = None,
    *,
    number: int = 64,
    title: str = "",
) -> Axes:
    """Draw weights as grey images: zero is grey, the largest positive one white, the largest negative one black.

    Args:
        weights: a weight ``(outputs, inputs)``, drawn as one image, or, with ``shape``, each row as an image of its
            inputs; or kernels ``(outputs, inputs, height, width)``, drawn side by side.
        shape: height and width of the inputs of a linear layer.
        ax: the axes to draw on; new ones if ``None``.
        number: how many rows or kernels to draw at most, those of the largest norm.
        title: what stands above; the meaning of the shades if empty.

    Returns:
        The axes drawn on.

    Raises:
        ValueError: if the shape of ``weights`` is another one, or ``shape`` does not fit it.

    Example:
        >>> weight_map(torch.randn(20, 64), shape=(8, 8)).images[0].get_array().shape
        (37, 46)
    """
    array = _array(weights)
    if array.ndim == 4:
        images = array.reshape(-1, *array.shape[2:])
    elif array.ndim == 2 and shape is not None and array.shape[1] == shape[0] * shape[1]:
        images = array.reshape(-1, *shape)
    elif array.ndim == 2 and shape is None:
        images = array[None]
    else:
        raise ValueError(
            "weights must have shape (outputs, inputs), with inputs that fit shape where it is given, or (outputs, "
            f"inputs, height, width); got {array.shape} and shape {shape}"
        )
    if len(images) > number:
        norms = np.square(images).sum((1, 2))
        images = images[np.sort(norms.argsort(kind="stable")[-number:])]
    largest = np.abs(images).max() or 1.0
    return image_grid(0.5 + 0.5 * images / largest, ax, title=title or "white: positive, black: negative, grey: 0")


def _array(values: torch.Tensor | np.ndarray) -> np.ndarray:
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu().numpy()
    return np.asarray(values, dtype=float)
