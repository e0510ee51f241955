"""From a data set of two streams and options to a plan of training."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from pyro.infer import Trace_ELBO
from torch import Tensor
from torch.nn import functional as F

from pyro_ext.datasets import Splits
from pyro_ext.inference import (
    ELBOObjective,
    LossObjective,
    OptimizerSettings,
    Player,
    SumObjective,
    TraceSumAndSample_ELBO,
    TrainingPlan,
)
from pyro_ext.models.semi_supervised_vae.evaluation import diagnose, held_out_metrics, model_plots
from pyro_ext.models.semi_supervised_vae.model import Guide, Model
from pyro_ext.models.toolkit import Relaxation, labelled_streams, mean_metrics
from pyro_ext.utils.checks import nonnegative_number, positive_int

__all__ = ["build"]

_REMARKS = (
    "`accuracy` is the share of held-out images that are classified correctly; `label_loss` and `label_entropy` are in "
    "nats, and so is `neg_elbo`, minus the bound of an image without its label, summed over all classes. `train_loss` "
    "is `train_elbo` plus `alpha` times `train_classification`."
)


def build(
    data: Splits,
    latent_dim: int = 5,
    hidden: Sequence[int] = (128, 128),
    classifier_hidden: Sequence[int] = (256, 256, 256),
    alpha: float = 1.0,
    warm_start: int = 200,
    dropout: float = 0.5,
    pixel_dropout: float = 0.2,
    marginalise: bool = False,
    evaluation_samples: int = 4,
    evaluation_seed: int = 0,
    relaxation: Relaxation | None = None,
) -> TrainingPlan:
    """Build the autoencoder for binary images of which a few have labels.

    Its ELBO is ``TraceSumAndSample_ELBO(num_samples=2, num_summed=1, analytic_kl=True)``: of the class of an unlabelled
    image the most probable value is summed and one more is drawn; ``with_elbo`` of the plan takes another one. The sum
    over all classes is ``TraceSampleSet_ELBO(estimator="exact")``, or Pyro's ``TraceEnum_ELBO`` with ``marginalise``.
    With a relaxation it is ``Trace_ELBO``. The optimiser is Adam at 1e-3.

    Args:
        data: images as rows of zeros and ones; training data in two streams, of unlabelled and of labelled images,
            as the data set ``few_labels`` has them.
        latent_dim: the number of dimensions of the style z.
        hidden: the widths of the hidden layers of encoder and decoder.
        classifier_hidden: the widths of the hidden layers of the classifier.
        alpha: the weight of the mean negative log-probability of labels, beside the bound per image; 0.1 in the paper,
            whose training is longer: while the decoder is poor, larger weights keep the classes in place.
        warm_start: the number of steps at the beginning that see labelled images only; without them an untrained
            decoder can draw the classifier away from the labels. Training must be longer to use the other images.
        dropout: the share of the classifier's hidden features that are set to zero in training; without it the
            classifier is sure of its mistakes after the warm start, and images without labels cannot correct them.
        pixel_dropout: the share of the pixels that are set to zero for the classifier in training.
        marginalise: whether to sum over all classes by Pyro's own enumeration, whatever the ELBO; ``TraceEnum_ELBO``
            needs it, and warns in a warm start, where there is nothing to sum over.
        evaluation_samples: the number of styles drawn for each held-out image and class.
        evaluation_seed: the seed of the styles drawn in evaluation, the same whenever ``evaluate`` is called.
        relaxation: how to train through relaxed classes, instead of an estimator for discrete ones.

    Raises:
        ValueError: if an option is out of range, both ``marginalise`` and ``relaxation`` are given, the training data
            are not two streams, the second one has no labels or not all classes, there are no held-out images with
            labels, or the images are not rows of as many zeros and ones.
    """
    nonnegative_number("alpha", alpha)
    positive_int("warm_start", warm_start, minimum=0)
    positive_int("evaluation_samples", evaluation_samples)
    if marginalise and relaxation is not None:
        raise ValueError("marginalise and relaxation exclude each other: they are ways to treat the class; give one")
    unlabelled, labelled, classes = labelled_streams(data)
    sizes = (len(unlabelled), len(labelled), labelled.x.shape[-1], classes, latent_dim, hidden)
    model = Model(*sizes)
    model.start_at_base_rates(unlabelled.x)
    guide = Guide(*sizes, classifier_hidden, marginalise, dropout, pixel_dropout)
    elbo = TraceSumAndSample_ELBO(num_samples=2, num_summed=1, analytic_kl=True, max_plate_nesting=1)
    bound = ELBOObjective(model, guide, elbo, size=len(unlabelled) + len(labelled))
    losses = {"elbo": (bound, 1.0), "classification": (LossObjective(classification_loss, guide=guide), alpha)}

    def begin_with_labelled(step: int) -> None:
        model.labelled_only = guide.labelled_only = step < warm_start

    plan = TrainingPlan(
        [Player("model", SumObjective(losses), optimizer=OptimizerSettings("Adam", lr=1e-3))],
        evaluate=mean_metrics(model, partial(held_out_metrics, model, guide, evaluation_samples), evaluation_seed),
        headline="accuracy",
        headline_mode="max",
        plots=model_plots(model, guide, data, evaluation_seed),
        curves={"accuracy": ("accuracy",)},
        curve_labels={"accuracy": "share of held-out images classified correctly"},
        schedules=[begin_with_labelled],
        diagnose=diagnose,
        remarks=_REMARKS,
    )
    return plan if relaxation is None else relaxation.of(plan, Trace_ELBO(max_plate_nesting=1))


def classification_loss(unlabelled: Any, labelled: Any, guide: Guide) -> Tensor:
    """Return the mean negative log-probability of the labels of labelled images.

    Args:
        unlabelled: the batch of unlabelled images, which is ignored.
        labelled: images and labels.
        guide: whose classifier is trained.
    """
    x, y = labelled[:2]
    return F.cross_entropy(guide.classify(x), y)
