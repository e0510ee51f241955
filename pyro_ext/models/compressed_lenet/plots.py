"""Plots of a compressed network: scores of groups, error against compression, weights that are left."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from pyro_ext.models.compressed_lenet.compression import Compressor
from pyro_ext.nn import export_masked, prunable, prune, sparsity_report
from pyro_ext.plotting import compression_curve, score_histogram, weight_map

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["compression_plots"]

_WEIGHTS = "weights of the first layer; white: positive, black: negative, grey: 0"
_FRACTIONS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95)


def compression_plots(compressor: Compressor, score: str) -> dict[str, Callable[..., Axes]]:
    """Return functions that draw, by name; each takes ``ax=None`` and returns the axes it drew on.

    Args:
        compressor: makes a smaller network of the posterior.
        score: what the scores are, for the x axis.
    """

    def scores(ax: Axes | None = None) -> Axes:
        made = compressor.compressed()
        return score_histogram(made.exported.scores, ax, thresholds=made.thresholds, xlabel=score)

    @torch.no_grad()
    def compression(ax: Axes | None = None) -> Axes:
        made = compressor.compressed()
        network, points = made.exported.network, []
        for fraction in _FRACTIONS:
            thresholds = {
                name: float(own.flatten().quantile(1 - fraction)) for name, own in made.exported.scores.items()
            }
            masks = prune(network, made.exported.scores, threshold=thresholds) if fraction else {}
            rate = sparsity_report(network, masks).pruning_compression
            points.append((rate, compressor.error(export_masked(network, masks))))
        chosen = (made.report.pruning_compression, compressor.error(made.network))
        label = "the same fraction of groups in all layers"
        return compression_curve(
            {label: points, "chosen": [chosen]},
            ax,
            xlabel="compression by pruning (weights in all / weights left)",
            ylabel="error on training images (%)",
        )

    def weights(ax: Axes | None = None) -> Axes:
        made = compressor.compressed()
        first = next(iter(prunable(made.network).values()))
        if first.dim() == 4:
            return weight_map(first, ax=ax, title=_WEIGHTS)
        _, height, width = compressor.model.image_shape
        return weight_map(first.reshape(-1, height * width), (height, width), ax, title=_WEIGHTS)

    return {"scores": scores, "compression": compression, "weights": weights}
