"""How good predicted classes are: confidence against accuracy, and which classes are taken for which."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pyro_ext.ops.calibration import calibration_bins
from pyro_ext.plotting.axes import given_or_new
from pyro_ext.plotting.style import COLOURS, finish

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["confusion_matrix", "reliability_diagram"]


def reliability_diagram(probs: Tensor, labels: Tensor, ax: Axes | None = None, num_bins: int = 10) -> Axes:
    """Plot the accuracy of predictions against their confidence; those on the diagonal are calibrated.

    Bars above the diagonal stand for predictions that are right more often than they claim. The line with dots is the
    share of predictions in each bin.

    Args:
        probs: the probabilities of C classes, ``(N, C)``.
        labels: the true classes, int64 ``(N,)``.
        ax: the axes to draw on; new ones if ``None``.
        num_bins: the number of bins of equal width.

    Returns:
        The axes drawn on.

    Raises:
        ValueError: if shapes do not fit, or there are no predictions.

    References:
        | On calibration of modern neural networks (Guo et al., 2017), figure 1
        | https://arxiv.org/abs/1706.04599

    Example:
        >>> ax = reliability_diagram(torch.tensor([[0.9, 0.1], [0.3, 0.7]]), torch.tensor([0, 0]))
        >>> ax.get_xlabel(), ax.get_title()
        ('confidence (probability of the predicted class)', 'expected calibration error 0.400')
    """
    bins = calibration_bins(probs.detach().double().cpu(), labels.cpu(), num_bins)
    ax = given_or_new(ax, 4.5, 4.5)
    width = 1 / num_bins
    middles = [(at + 0.5) * width for at in range(num_bins)]
    ax.bar(middles, bins.accuracy.tolist(), 0.95 * width, color=COLOURS[0], alpha=0.75, label="accuracy")
    ax.plot([0, 1], [0, 1], color="black", linewidth=1, linestyle="--", label="calibrated")
    ax.plot(
        middles,
        bins.share.tolist(),
        color=COLOURS[1],
        linestyle="-",
        linewidth=1,
        marker="o",
        markersize=3,
        label="share of predictions",
    )
    error = float((bins.share * (bins.accuracy - bins.confidence).abs()).sum())
    ax.set(xlim=(0, 1), ylim=(0, 1))
    title = f"expected calibration error {error:.3f}"
    place: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.14), "ncols": 3, "columnspacing": 1.0}
    return finish(ax, "confidence (probability of the predicted class)", "accuracy, share", title, **place)


def confusion_matrix(
    predicted: Tensor, labels: Tensor, ax: Axes | None = None, *, class_names: Sequence[str] = ()
) -> Axes:
    """Plot how often members of each class are taken for members of each other one.

    Args:
        predicted: the predicted classes, int64 ``(N,)``.
        labels: the true classes, int64 ``(N,)``.
        ax: the axes to draw on; new ones if ``None``.
        class_names: what the classes are called, those without members included; their numbers if empty.

    Returns:
        The axes drawn on.

    Raises:
        ValueError: if shapes differ, there are no predictions, a class is negative, or there are too few names.

    Example:
        >>> ax = confusion_matrix(torch.tensor([0, 1, 1]), torch.tensor([0, 1, 0]))
        >>> [text.get_text() for text in ax.texts]
        ['1', '1', '0', '1']
    """
    if predicted.shape != labels.shape or predicted.dim() != 1 or len(labels) == 0:
        raise ValueError(
            f"predicted and labels must be vectors of one length, at least 1, got {tuple(predicted.shape)} and "
            f"{tuple(labels.shape)}"
        )
    predicted, labels = predicted.cpu(), labels.cpu()
    together = torch.stack([predicted, labels])
    if bool((together < 0).any()):
        raise ValueError(
            f"predicted and labels must be classes of at least 0, got {together.min():g}; leave out what has no label"
        )
    number = max(int(together.max()) + 1, len(class_names))
    if class_names and len(class_names) < number:
        raise ValueError(f"class_names must name {number} classes, got {len(class_names)}")
    counts = (labels * number + predicted).bincount(minlength=number**2).reshape(number, number)
    shares = counts / counts.sum(1, keepdim=True).clamp(min=1)
    names = [*class_names] or [str(k) for k in range(number)]
    ax = given_or_new(ax, max(3.2, 1.8 + 0.55 * number), max(2.8, 1.4 + 0.5 * number))
    ax.grid(False)
    ax.imshow(shares.numpy(), cmap="Blues", vmin=0, vmax=1)
    for row in range(number):
        for column in range(number):
            color = "white" if shares[row, column] > 0.5 else "black"
            ax.text(column, row, str(int(counts[row, column])), ha="center", va="center", fontsize=8, color=color)
    ax.set_xticks(range(number), names)
    ax.set_yticks(range(number), names)
    title = "numbers of cases; shades: shares of a row"
    return finish(ax, "predicted class", "true class", title)
