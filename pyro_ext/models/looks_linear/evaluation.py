"""What is measured on held-out data: the share of right answers, and how gradients change between two of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from pyro_ext.inference import local_params
from pyro_ext.models.looks_linear.model import Model
from pyro_ext.models.looks_linear.networks import Kind, scalar_network
from pyro_ext.models.toolkit import mean_metrics
from pyro_ext.nn import autocorrelation, gradient_autocorrelation, input_gradients
from pyro_ext.plotting import autocorrelation_curve, finish, gradient_trace
from pyro_ext.utils.random_state import isolated_random_state

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["autocorrelation_by_depth", "diagnose", "gradients_between", "held_out_metrics", "model_plots"]

_POOR = 0.5  # accuracy
_POINTS = 256
_DEPTHS = (2, 4, 10, 24, 50)  # of figure 2 in the paper
_PLOT_WIDTH = 100  # half of the paper's: a plot should take a second
_CPU = torch.device("cpu")


def gradients_between(model: Model, start: Tensor, end: Tensor, n: int = _POINTS) -> tuple[Tensor, Tensor]:
    r"""Return gradients of a score along the line from one input to another.

    The score is the difference of the logits of the two classes that the network gives to the ends of the line, so that
    it says which of them an input looks like. Batch norm uses its running statistics.

    Args:
        model: the model.
        start: the input at 0, shape ``(num_inputs,)``.
        end: the input at 1, shape ``(num_inputs,)``.
        n: the number of points on the line.

    Returns:
        Places t from 0 to 1 and the derivatives of the score with respect to t, both of shape ``(n,)``.

    Example:
        >>> model = Model(size=1, num_inputs=4, num_classes=3)
        >>> t, gradient = gradients_between(model, torch.zeros(4), torch.ones(4), n=8)
        >>> t.shape, torch.allclose(gradient, gradient[0], rtol=1e-3)  # it looks linear
        (torch.Size([8]), True)
    """
    training = model.training
    model.eval()
    try:
        with local_params():
            first, last = (int(model.network(x.unsqueeze(0)).argmax()) for x in (start, end))
            last = last if last != first else (first + 1) % model.num_classes

            def score(t: Tensor) -> Tensor:
                logits = model.network(torch.lerp(start, end, t))
                return logits[:, last] - logits[:, first]

            return input_gradients(score, 0.0, 1.0, n, like=start)
    finally:
        model.train(training)


def held_out_metrics(
    model: Model, lines: tuple[Tensor, Tensor], lags: tuple[int, ...] = (1, 15)
) -> Callable[[Iterable[Any]], dict[str, float]]:
    """Return a function from a loader to ``accuracy``, ``label_loss`` and ``autocorrelation_LAG`` for each lag.

    Args:
        model: the model.
        lines: inputs at the beginning and at the end of lines, both of shape ``(lines, num_inputs)``; along each of
            them the autocorrelation of the gradient is measured, and the mean is returned.
        lags: the lags, in steps of which a line has 255.
    """

    def each(x: Tensor, y: Tensor | None = None, index: Tensor | None = None) -> dict[str, Tensor]:
        if y is None:
            raise ValueError("loader must hold labels, got None")
        logits = model.network(x)
        return {
            "accuracy": (logits.argmax(-1) == y).to(x.dtype),
            "label_loss": F.cross_entropy(logits, y, reduction="none"),
        }

    means = mean_metrics(model, each)

    def evaluate(loader: Iterable[Any]) -> dict[str, float]:
        metrics = means(loader)
        like = next(model.parameters())
        curves = [gradients_between(model, *ends)[1] for ends in zip(*(x.to(like) for x in lines), strict=True)]
        mean = autocorrelation(torch.stack(curves), max(lags)).mean(0)
        return metrics | {f"autocorrelation_{lag}": float(mean[lag]) for lag in lags}

    return evaluate


def autocorrelation_by_depth(
    kind: Kind, depths: Iterable[int] = _DEPTHS, draws: int = 20, width: int = 200, seed: int = 0
) -> dict[str, Tensor]:
    """Return autocorrelations of gradients of networks of one variable at their initialisation, by their depth.

    Args:
        kind: what lies between layers, as for :func:`~pyro_ext.models.looks_linear.deep_network`.
        depths: the numbers of hidden layers.
        draws: the number of initialisations to average over.
        width: the number of features between layers.
        seed: the seed of the initialisations.

    Returns:
        Label -> autocorrelations at lags 0 to 15, shape ``(draws, 16)``.

    Example:
        >>> curves = autocorrelation_by_depth("looks_linear", depths=[2, 10], draws=1, width=20)
        >>> {label: curve.shape for label, curve in curves.items()}
        {'2 layers': torch.Size([1, 16]), '10 layers': torch.Size([1, 16])}
    """
    with isolated_random_state(seed, _CPU):
        return {
            f"{depth} layers": torch.stack(
                [gradient_autocorrelation(scalar_network(kind, depth, width)) for _ in range(draws)]
            )
            for depth in depths
        }


def diagnose(metrics: Mapping[str, float]) -> list[str]:
    """Return a warning if most inputs are misclassified."""
    accuracy = metrics.get("accuracy", 1.0)
    if accuracy >= _POOR:
        return []
    return [
        f"only {accuracy:.1%} of the held-out inputs are classified correctly; take kind='looks_linear' or fewer "
        "layers, clip gradients (--trainer.gradient_clip_val 1), or train longer"
    ]


def model_plots(model: Model, lines: tuple[Tensor, Tensor], draws: int = 3) -> dict[str, Callable[..., Axes]]:
    """Return the plots: gradients between two held-out inputs, and autocorrelations by depth at initialisation."""

    def gradients(ax: Axes | None = None) -> Axes:
        """Draw the gradient along the first line, as the network is now."""
        like = next(model.parameters())
        start, end = (ends[0].to(like) for ends in lines)
        t, gradient = gradients_between(model, start, end)
        where = "place between two held-out inputs (0: the first, 1: the second)"
        return gradient_trace({"": gradient.cpu().numpy()}, t.cpu().numpy(), ax, xlabel=where)

    def autocorrelations(ax: Axes | None = None) -> Axes:
        """Draw autocorrelations of networks of one variable of the model's kind."""
        curves = autocorrelation_by_depth(model.kind, draws=draws, width=_PLOT_WIDTH)
        ax = autocorrelation_curve({label: values.numpy() for label, values in curves.items()}, ax)
        return finish(ax, title=f"{model.kind}, one variable, at initialisation", legend=False)

    return {"gradients": gradients, "autocorrelation": autocorrelations}
