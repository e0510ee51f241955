"""From a posterior to a smaller network: thresholds, masks, rounding, and figures of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pyro_ext.models.toolkit import ImageClassifier, mean_metrics
from pyro_ext.nn import (
    AutoGroupSparse,
    PosteriorNetwork,
    SparsityReport,
    choose_threshold,
    export_masked,
    export_posterior,
    prune,
    quantize,
    sparsity_report,
    widest_gap,
)
from pyro_ext.utils.checks import nonnegative_number, one_of, positive_int

__all__ = ["Compressed", "Compressor", "Rule"]

Rule = Literal["error", "gap", "none"]


@dataclass(frozen=True)
class Compressed:
    """A posterior and what has been made of it.

    Args:
        exported: ordinary layers with posterior means, with scores of groups and variances of weights.
        thresholds: from which score on groups are removed, by the names of weights.
        masks: which entries of the weights are kept.
        network: the same layers without what is removed.
        rounded: the same with each layer's weights rounded to its bits.
        report: what that saves.
    """

    exported: PosteriorNetwork
    thresholds: dict[str, float]
    masks: dict[str, Tensor]
    network: nn.Module
    rounded: nn.Module
    report: SparsityReport


class Compressor:
    r"""Removes groups of a trained network, layer by layer, and rounds what is left.

    Args:
        model: the model.
        guide: its guide.
        images: training images, by whose error thresholds are chosen, ``(N, D)``.
        labels: their classes, ``(N,)``.
        rule: ``"error"`` removes as many groups of each layer as leaves the error on these images below that of the
            whole network plus ``tolerance``; ``"gap"`` cuts at the widest gap between the scores of a layer;
            ``"none"`` removes none.
        tolerance: in per cent of the images.
        number: how many thresholds are tried in each layer.

    Raises:
        ValueError: if an option is out of range.

    Example:
        >>> from pyro_ext.models.toolkit import lenet_300_100
        >>> from pyro_ext.nn import group_sparse
        >>> model = ImageClassifier(group_sparse(lenet_300_100((1, 8, 8), 10)), 100, (1, 8, 8))
        >>> compressor = Compressor(model, AutoGroupSparse(model), torch.rand(9, 64), torch.arange(9), rule="gap")
        >>> len(compressor.compressed().report.sizes)
        3
    """

    def __init__(
        self,
        model: ImageClassifier,
        guide: AutoGroupSparse,
        images: Tensor,
        labels: Tensor,
        rule: Rule = "error",
        tolerance: float = 0.2,
        number: int = 16,
    ) -> None:
        self.model, self.guide, self.images, self.labels = model, guide, images, labels
        self.rule = one_of("threshold", rule, ("error", "gap", "none"))
        self.tolerance = nonnegative_number("tolerance", tolerance)
        self.number = positive_int("number", number)

    @torch.no_grad()
    def compressed(self) -> Compressed:
        """Return what is left of the present posterior."""
        exported = export_posterior(self.model.net, self.guide)
        exported.network.eval()
        thresholds = self._thresholds(exported)
        masks = prune(exported.network, exported.scores, threshold=thresholds)
        network = export_masked(exported.network, masks)
        report = sparsity_report(exported.network, masks, variances=exported.variances)
        return Compressed(exported, thresholds, masks, network, quantize(network, report.significands()), report)

    @torch.no_grad()
    def error(self, network: nn.Module) -> float:
        """Return the per cent of the training images at hand that a network does not classify correctly."""
        like = next(network.parameters())
        x, y = self.images.to(like), self.labels.to(like.device)
        return 100 * float((network(self.model.as_images(x)).argmax(-1) != y).double().mean())

    def metrics(self) -> Callable[[Iterable[Any]], dict[str, float]]:
        """Return the function of a loader that ``TrainingPlan.evaluate`` is."""

        @torch.no_grad()
        def evaluate(loader: Iterable[Any]) -> dict[str, float]:
            made = self.compressed()
            networks = {"error": made.network, "error_unpruned": made.exported.network, "error_rounded": made.rounded}

            def errors(x: Tensor, y: Tensor | None = None, index: Tensor | None = None) -> dict[str, Tensor]:
                if y is None:
                    raise ValueError("loader must hold labels, got None")
                images = self.model.as_images(x)
                logits = {name: network(images) for name, network in networks.items()}
                wrong = {name: 100.0 * (own.argmax(-1) != y).to(x.dtype) for name, own in logits.items()}
                return wrong | {"label_loss": nn.functional.cross_entropy(logits["error"], y, reduction="none")}

            return mean_metrics(made.network, errors)(loader) | _figures(made.report)

        return evaluate

    def _thresholds(self, exported: PosteriorNetwork) -> dict[str, float]:
        """Return thresholds by the names of weights; a layer's is chosen with those before it pruned."""
        thresholds = dict.fromkeys(exported.scores, math.inf)
        if self.rule == "gap":
            # a single stray group is no cluster
            return {name: widest_gap(score, fewest=2) for name, score in exported.scores.items()}
        if self.rule == "error":
            allowed = self.error(exported.network) + self.tolerance
            for name, score in exported.scores.items():

                def error(threshold: float, name: str = name) -> float:
                    masks = prune(exported.network, exported.scores, threshold={**thresholds, name: threshold})
                    return self.error(export_masked(exported.network, masks))

                margin = max(0.0, allowed - error(math.inf))
                thresholds[name], _ = choose_threshold(score, error, margin, self.number)
        return thresholds


def _figures(report: SparsityReport) -> dict[str, float]:
    figures = {
        "kept": report.percent_kept,
        "pruning_compression": report.pruning_compression,
        "fast_compression": report.fast_compression,
        "maximum_compression": report.maximum_compression,
    }
    figures |= {f"size_{at}": float(size) for at, size in enumerate(report.sizes, 1)}
    return figures | {f"bits_{at}": float(row.bits) for at, row in enumerate(report.layers, 1)}
