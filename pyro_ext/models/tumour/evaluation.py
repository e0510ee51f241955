"""How often labels of held-out matrices are right, beside the exact test, and plots of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_ext.datasets import IndexedDataset, observe
from pyro_ext.inference import local_params
from pyro_ext.ops.calibration import expected_calibration_error
from pyro_ext.ops.mutations import MISSING, count_conflicts, fill_missing, is_conflict_free, is_linear
from pyro_ext.plotting import COLOURS, confusion_matrix, finish, given_or_new, mutation_matrices, reliability_diagram

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["CLASS_NAMES", "NOISE_RATES", "Task", "accuracy_by_noise", "diagnose", "held_out_metrics", "label_plots"]

Task = Literal["noise", "branching"]

CLASS_NAMES: Mapping[Task, tuple[str, str]] = {"noise": ("clean", "noisy"), "branching": ("linear", "branching")}
"""What labels 0 and 1 are called."""

NOISE_RATES = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35)
"""The rates of errors at which networks that infer branching are tested, as in the publication."""

_POOR = 0.6  # accuracy; guessing has one half
_SHOWN = 12
_DRAWN = 2000  # held-out matrices in plots
_BATCH = 500


@torch.no_grad()
def logits_of(network: nn.Module, x: Tensor) -> Tensor:
    """Return the log-odds of matrices, without dropout, on the device of ``x``, float64 ``(N,)``."""
    like = next(network.parameters())
    training = network.training
    network.eval()
    try:
        with local_params():
            parts = [network(part.to(like.device)) for part in x.split(_BATCH)]
    finally:
        network.train(training)
    return torch.cat(parts).double().to(x.device)


def held_out_metrics(network: nn.Module, task: Task) -> Callable[[Iterable[Any]], dict[str, float]]:
    """Return a function from a loader to metrics.

    They are ``accuracy``, ``label_loss`` in nats, ``calibration_error``, ``sensitivity`` and ``specificity`` (the
    accuracies for labels 1 and 0, if there are any), and ``exact_accuracy``: that of the exact test, which takes
    missing entries as 0.

    Args:
        network: from matrices to log-odds.
        task: what labels say.
    """
    exact = is_conflict_free if task == "noise" else is_linear

    def evaluate(loader: Iterable[Any]) -> dict[str, float]:
        batches = [*loader]
        x, y = (torch.cat([batch[part] for batch in batches]) for part in (0, 1))
        logits = logits_of(network, x)
        right = (logits > 0) == (y == 1)
        probs = logits.sigmoid()
        metrics = {
            "accuracy": float(right.double().mean()),
            "label_loss": float(F.binary_cross_entropy_with_logits(logits, y.double())),
            "calibration_error": float(expected_calibration_error(torch.stack([1 - probs, probs], -1), y.long(), 10)),
            "exact_accuracy": float(((~exact(fill_missing(x))) == (y == 1)).double().mean()),
        }
        for label, name in ((1, "sensitivity"), (0, "specificity")):
            if bool((y == label).any()):
                metrics[name] = float(right[y == label].double().mean())
        return metrics

    return evaluate


def accuracy_by_noise(
    network: nn.Module, data: IndexedDataset, rates: Sequence[float] = NOISE_RATES, seed: int = 0
) -> dict[float, float]:
    """Return the accuracy of labels when errors are added to matrices, by the rate of errors.

    Args:
        network: from matrices ``(B, n, m)`` to log-odds.
        data: matrices ``x``, ``(N, n, m)``, with labels.
        rates: the rates, each of false positives and of false negatives alike.
        seed: the seed of the errors.

    Returns:
        Rate -> accuracy.

    Example:
        >>> from pyro_ext.datasets import load
        >>> from pyro_ext.models.tumour.networks import PairNetwork
        >>> data = load("simulated_tumours", labels="branching", num_train=10, num_valid=20)
        >>> [*accuracy_by_noise(PairNetwork(), data.valid, rates=[0.0, 0.1])]
        [0.0, 0.1]
    """
    if data.y is None:
        raise ValueError("data must have labels, got none")
    generator = torch.Generator().manual_seed(seed)
    x, y = data.x.cpu(), data.y.cpu()
    result = {}
    for rate in rates:
        seen = torch.where(x == MISSING, MISSING, observe(x == 1, rate, rate, generator=generator)).to(torch.int8)
        result[rate] = float(((logits_of(network, seen) > 0) == (y == 1)).double().mean())
    return result


def diagnose(metrics: Mapping[str, float]) -> list[str]:
    """Return a warning if labels are hardly better than guessed."""
    accuracy = metrics.get("accuracy", math.inf)
    if accuracy >= _POOR:
        return []
    return [
        f"only {accuracy:.1%} of the held-out matrices are classified correctly, and guessing is right in half of "
        "them; sort matrices (sort='both'), take network='pairs', train longer or on more matrices"
    ]


def label_plots(network: nn.Module, data: IndexedDataset, task: Task) -> dict[str, Callable[..., Axes]]:
    """Return the plots: matrices with their probabilities, confusion, calibration, and how errors change accuracy.

    Args:
        network: from matrices to log-odds.
        data: held-out matrices with labels.
        task: what labels say.
    """
    assert data.y is not None
    x, y, names = data.x[:_DRAWN], data.y[:_DRAWN].long(), CLASS_NAMES[task]
    drawn = IndexedDataset(x, y)

    def matrices(ax: Axes | None = None) -> Axes:
        """Draw held-out matrices with their labels and probabilities, mutations of many cells first."""
        from pyro_ext.models.tumour.networks import sort_matrices

        probs = logits_of(network, x[:_SHOWN]).sigmoid().tolist()
        titles = [f"{names[label]}, P = {p:.2f}" for label, p in zip(y[:_SHOWN].tolist(), probs, strict=True)]
        ax = mutation_matrices(sort_matrices(x[:_SHOWN]), ax, titles=titles, columns=4)
        return finish(ax, title=f"held-out matrices and their labels; P: probability of {names[1]}", legend=False)

    def confusion(ax: Axes | None = None) -> Axes:
        """Draw which labels are taken for which."""
        return confusion_matrix((logits_of(network, x) > 0).long(), y, ax, class_names=names)

    def calibration(ax: Axes | None = None) -> Axes:
        """Draw how often labels are right, by how probable they are."""
        probs = logits_of(network, x).sigmoid()
        return reliability_diagram(torch.stack([1 - probs, probs], -1), y, ax)

    plots = {"matrices": matrices, "confusion": confusion, "calibration": calibration}
    if task == "branching":
        return plots | {"noise": lambda ax=None: noise_curve({"": accuracy_by_noise(network, drawn)}, ax)}
    return plots | {"conflicts": lambda ax=None: _conflict_curve(network, drawn, ax)}


def noise_curve(accuracies: Mapping[str, Mapping[float, float]], ax: Axes | None = None) -> Axes:
    """Draw accuracies against rates of errors, a line for each network.

    Args:
        accuracies: label of a line -> rate -> accuracy, as :func:`accuracy_by_noise` returns it.
        ax: the axes to draw on; new ones if ``None``.

    Returns:
        The axes drawn on.
    """
    ax = given_or_new(ax, 5.0, 3.5)
    for label, curve in accuracies.items():
        ax.plot([100 * rate for rate in curve], [*curve.values()], marker="o", markersize=4, label=label or "network")
    ax.axhline(0.5, color="grey", linewidth=1, linestyle="--", label="by chance")
    ax.set(ylim=(0.0, 1.02))
    return finish(ax, "false positives and false negatives added (%)", "share classified correctly", loc="lower left")


def _conflict_curve(network: nn.Module, data: IndexedDataset, ax: Axes | None) -> Axes:
    """Draw the share of matrices that are called noisy, by their number of conflicts."""
    number = count_conflicts(fill_missing(data.x)).cpu()
    noisy = (logits_of(network, data.x) > 0).double().cpu()
    groups = [(0, 0), (1, 1), (2, 2), (3, 4), (5, 8), (9, 10**9)]
    members = [noisy[(number >= low) & (number <= high)] for low, high in groups]
    labels = [
        str(low) if low == high else f"{low} - {high}" if high < 10**9 else f"{low} or more" for low, high in groups
    ]
    ax = given_or_new(ax, 5.0, 3.5)
    shares = [float(own.mean()) if len(own) else math.nan for own in members]
    errors = [2 * math.sqrt(share * (1 - share) / max(len(own), 1)) for share, own in zip(shares, members, strict=True)]
    ax.errorbar(range(len(groups)), shares, yerr=errors, fmt="o", color=COLOURS[0], capsize=3)
    numbered = [f"{label}\nn = {len(own)}" for label, own in zip(labels, members, strict=True)]
    ax.set_xticks(range(len(groups)), numbered)
    ax.set(ylim=(0, 1.05), xlim=(-0.5, len(groups) - 0.5))
    title = "n: number of matrices; bars: 2 standard errors"
    return finish(ax, "pairs of mutations in conflict", "share called noisy", title)
