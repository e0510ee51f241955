"""What is measured on held-out images, the plots, and the network without Pyro."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_ext.datasets import Splits
from pyro_ext.inference import local_params
from pyro_ext.models.sparse_lenet.model import SparseClassifier
from pyro_ext.models.toolkit import mean_metrics
from pyro_ext.nn import AutoAdditiveNormal, prunable, sparsity_report
from pyro_ext.plotting import compression_curve, score_histogram, weight_map
from pyro_ext.utils.files import write_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["diagnose", "evaluation", "export", "model_files", "model_plots"]

_THRESHOLDS = (-6.0, -4.0, -3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0)


@torch.no_grad()
def export(model: SparseClassifier, guide: Any, threshold: float | None = None) -> nn.Sequential:
    """Return the trained network as a plain one, whose removed weights are zero.

    Args:
        model: the model.
        guide: its guide; :class:`~pyro_ext.models.sparse_lenet.NoGuide` where nothing is removed that is not zero.
        threshold: the ``log_alpha`` from which on a weight is removed; that of the guide if None.

    Example:
        >>> model = SparseClassifier(100, (1, 8, 8))
        >>> export(model, AutoAdditiveNormal(model))[1]
        Linear(in_features=64, out_features=300, bias=True)
    """
    if not isinstance(guide, AutoAdditiveNormal):
        return model.plain({})
    masks = guide.masks(threshold)
    return model.plain({name: guide.parameters_of(name)[0] * mask for name, mask in masks.items()})


def evaluation(model: SparseClassifier, guide: Any) -> Callable[[Iterable[Any]], dict[str, float]]:
    """Return the evaluation of held-out images by the network without its noise and the weights removed.

    Its metrics: the ``error`` in per cent; the ``neg_log_likelihood`` of an image in nats; the per cent of weights
    that are zero, in all (``sparsity``) and by layer (``sparsity_1``, after the layer's place in the network); and
    ``compression``, the number of weights by that of the weights left.

    Args:
        model: the model.
        guide: its guide.
    """

    @torch.no_grad()
    def evaluate(loader: Iterable[Any]) -> dict[str, float]:
        with local_params():
            network = export(model, guide).eval()

        def metrics(x: Tensor, y: Tensor, *_: Any) -> dict[str, Tensor]:
            logits = network(x.reshape(-1, *model.image_shape))
            wrong = (logits.argmax(-1) != y).to(logits)
            return {"error": 100 * wrong, "neg_log_likelihood": F.cross_entropy(logits, y, reduction="none")}

        kept = {name: (int((weight != 0).sum()), weight.numel()) for name, weight in prunable(network).items()}
        left, number = (sum(counts) for counts in zip(*kept.values(), strict=True))
        sparsity = {f"sparsity_{name.partition('.')[0]}": 100 * (1 - n / of) for name, (n, of) in kept.items()}
        return {
            **mean_metrics(network, metrics)(loader),
            "sparsity": 100 * (1 - left / number),
            **sparsity,
            "compression": number / max(left, 1),
        }

    return evaluate


def diagnose(metrics: Mapping[str, float]) -> list[str]:
    """Return a warning if next to nothing is left of the network."""
    if metrics.get("sparsity", 0.0) < 100 or metrics.get("error", 0.0) == 0:
        return []
    return [
        "all weights are removed: the data do not pay for any; give a later warm_up_end or more data, or expect this "
        "where labels are random"
    ]


def model_plots(model: SparseClassifier, guide: Any, data: Splits) -> dict[str, Callable[..., Axes]]:
    """Return the plots: ``log_alpha`` by layer, error against compression, and the first layer's weights.

    Args:
        model: the model.
        guide: its guide; without noise there are only weights to draw.
        data: the data set, on whose held-out images errors are measured.
    """

    @torch.no_grad()
    def weights(ax: Axes | None = None) -> Axes:
        first = next(iter(prunable(export(model, guide)).values()))
        _, height, width = model.image_shape
        flat = first if first.dim() == 4 else first.reshape(-1, height * width)  # each channel by itself
        title = "weights of the first layer; white: positive, black: negative, grey: 0"
        return weight_map(flat, None if flat.dim() == 4 else (height, width), ax, title=title)

    if not isinstance(guide, AutoAdditiveNormal):
        return {"weights": weights}

    @torch.no_grad()
    def log_alpha(ax: Axes | None = None) -> Axes:
        scores = {name.removeprefix("net."): guide.log_alpha(name) for name in guide.masks()}
        return score_histogram(scores, ax, thresholds=guide.threshold)

    @torch.no_grad()
    def error_against_compression(ax: Axes | None = None) -> Axes:
        held_out = data.valid if data.valid is not None else data.train
        points = []
        for threshold in _THRESHOLDS:
            network = export(model, guide, threshold).eval()
            like = next(network.parameters())
            logits = network(held_out.x.to(like).reshape(-1, *model.image_shape))
            error = float(100 * (logits.argmax(-1) != held_out.y.to(like.device)).double().mean())
            parts = prunable(network).values()
            left = sum(int((weight != 0).sum()) for weight in parts)
            points.append((sum(weight.numel() for weight in parts) / max(left, 1), error))
        marked = points[_THRESHOLDS.index(3.0)][0] if guide.threshold == 3 else None
        return compression_curve(
            {"thresholds of log α": points},
            ax,
            chosen=marked,
            xlabel="compression (weights in all / weights left)",
            ylabel="held-out images classified wrongly (%)",
        )

    return {"log_alpha": log_alpha, "error_against_compression": error_against_compression, "weights": weights}


def model_files(model: SparseClassifier, guide: Any) -> dict[str, Callable[[Path], None]]:
    """Return what is written beside the metrics: the plain network's ``state_dict``, and the sparsity by layer."""

    def weights(path: Path) -> None:
        torch.save(export(model, guide).state_dict(), path)

    def sparsity(path: Path) -> None:
        write_text(path, f"{sparsity_report(export(model, guide).eval())}\n")

    return {"weights.pt": weights, "sparsity.md": sparsity}
