"""From a data set with labels and options to a plan of training."""

from __future__ import annotations

import torch
from pyro.infer import Trace_ELBO
from torch import Tensor

from pyro_ext.datasets import IndexedDataset, Splits
from pyro_ext.inference import OptimizerSettings, SchedulerSettings, TrainingPlan
from pyro_ext.models.looks_linear.evaluation import diagnose, held_out_metrics, model_plots
from pyro_ext.models.looks_linear.model import Architecture, Model, guide
from pyro_ext.models.looks_linear.networks import Kind

__all__ = ["build"]

_LINES = 4
_REMARKS = (
    "`accuracy` is the share of held-out inputs that are classified correctly, `label_loss` is in nats. "
    "`autocorrelation_1` and `autocorrelation_15` are those of the gradient on lines between held-out inputs, at lags "
    "of 1 and 15 steps of 255: near 0 if gradients are shattered, 1 if the network is affine."
)


def build(
    data: Splits,
    kind: Kind = "looks_linear",
    depth: int = 50,
    width: int = 48,
    architecture: Architecture = "dense",
    learning_rate: float = 3e-4,
    decay: float = 0.7,
) -> TrainingPlan:
    """Build a deep classifier.

    It has no latent variables, so that all ELBOs give the same: the log-probability of the labels. Its optimiser is
    Adam. Gradients should be clipped, ``fit(..., gradient_clip_val=1.0)``, as ``pyro-ext fit looks_linear`` does.

    Args:
        data: inputs as rows of ``x``, shape ``(N, D)``, with labels 0 .. C - 1.
        kind: what lies between layers and how they are initialised: ``looks_linear``, mirrored orthogonal weights;
            ``crelu``, the same rectifiers with normal weights; ``relu`` (He et al.); ``relu_batch_norm``; ``linear``,
            orthogonal weights; ``residual`` and ``residual_batch_norm``, skip connections around every layer.
        depth: the number of layers with weights, the first and the last one included; two at least.
        width: the number of features between layers, or of channels, before a CReLU doubles it.
        architecture: ``dense``, or ``convolutional``, with kernels of 3 x 3 in all layers but the last one.
        learning_rate: Adam's learning rate in the first epoch.
        decay: the factor by which the learning rate is multiplied after each epoch; 0.7 is for about eight epochs, and
            longer training needs a number nearer to 1.

    Raises:
        ValueError: if an option is out of range, there are no labels or no held-out data, or inputs are not rows.
    """
    train, valid = data.train, data.valid
    for name, part in (("train", train), ("valid", valid)):
        if not isinstance(part, IndexedDataset) or part.x.dim() != 2 or part.y is None or len(part) < 2:
            raise ValueError(f"data.{name} must be two rows or more, of shape (N, D), with labels, got {part}")
    classes = max(int(train.y.max()) + 1, 2)
    for name, part in (("train", train), ("valid", valid), ("test", data.test)):
        if isinstance(part, IndexedDataset) and part.y is not None and bool(((part.y < 0) | (part.y >= classes)).any()):
            raise ValueError(f"labels of data.{name} must be 0 .. {classes - 1}, got {part.y.unique().tolist()}")
    model = Model(
        len(train), train.x.shape[-1], classes, kind, depth, width, architecture, image_shape=data.image_shape
    )
    lines = _lines(valid)
    return TrainingPlan.of(
        model,
        guide,
        Trace_ELBO(max_plate_nesting=1),
        optimizer=OptimizerSettings(
            "Adam", lr=learning_rate, scheduler=SchedulerSettings("ExponentialLR", gamma=decay)
        ),
        evaluate=held_out_metrics(model, lines),
        headline="accuracy",
        headline_mode="max",
        plots=model_plots(model, lines),
        curves={"accuracy": ("accuracy",), "autocorrelation": ("autocorrelation_1", "autocorrelation_15")},
        curve_labels={
            "accuracy": "share of held-out inputs classified correctly",
            "autocorrelation": "autocorrelation of gradients",
        },
        diagnose=diagnose,
        remarks=_REMARKS,
    )


def _lines(valid: IndexedDataset) -> tuple[Tensor, Tensor]:
    """Return the ends of lines between inputs of different classes, the first ones that there are."""
    assert valid.y is not None
    other = (valid.y != valid.y[0]).nonzero().flatten()[:_LINES]
    if len(other) == 0:
        other = torch.tensor([1])
    return valid.x[:1].expand(len(other), -1), valid.x[other]
