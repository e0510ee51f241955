"""From a data set of two streams and options to a plan of two players."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal, get_args

import torch
from torch import nn

from pyro_ext.datasets import Splits
from pyro_ext.inference import OptimizerSettings, Player, SchedulerSettings, TrainingPlan
from pyro_ext.models.gan.evaluation import diagnose, evaluation
from pyro_ext.models.gan.losses import DiscriminatorObjective, GeneratorLoss, GeneratorObjective, LastImages
from pyro_ext.models.gan.networks import (
    GeneratorNorm,
    Network,
    discriminator_network,
    generator_network,
    latent_size,
    start_at_mean_,
)
from pyro_ext.models.gan.plots import SampleHistory, model_plots
from pyro_ext.models.gan.programs import Discriminator, Generator
from pyro_ext.models.toolkit import Classifier, classifier, labelled_streams, read_weights
from pyro_ext.nn import ParameterAverage, initialize_from_data_
from pyro_ext.utils.checks import number_between, one_of, positive_int, positive_number

__all__ = ["Method", "build"]

Method = Literal["feature_matching", "standard", "minibatch_discrimination", "supervised"]

_SMALL = 16  # pixels; up to this height and width the networks are those for digits unless told otherwise
_DECAY = "pyro_ext.models.toolkit.schedules.ConstantThenLinear"

_REMARKS = (
    "`error` is the percentage of held-out images that are classified wrongly with averaged parameters, `error_last` "
    "with the last ones; `label_loss` is in nats. `belief_real` and `belief_generated` are the means of the "
    "discriminator's probability of being real, of held-out and of generated images. `spread` is the standard "
    "deviation of generated images in parts of that of real ones; `sample_classes` is how many classes samples look "
    "like, `data_classes` how many held-out images look like."
)


def build(
    data: Splits,
    method: Method = "feature_matching",
    network: Network | Literal["auto"] = "auto",
    width: float = 1.0,
    epochs: int = 100,
    batch_size: int = 100,
    lr: float = 3e-3,
    lr_constant: float = 0.5,
    unlabelled_weight: float = 1.0,
    real_target: float = 1.0,
    kernels: int = 50,
    historical_weight: float = 0.0,
    generator_norm: GeneratorNorm = "batch",
    average_share: float = 0.05,
    init_images: int = 500,
    evaluation_samples: int = 500,
    evaluation_seed: int = 0,
    samples_folder: str = "",
    score_network: Classifier = "lenet_5",
    score_weights: str = "",
) -> TrainingPlan:
    """Build generator and discriminator for images of which a few have labels.

    There are two players, ``generator`` and ``discriminator``, or with ``method="supervised"`` the second one alone.
    Both have Adam with a first moment of 0.5, whose learning rate stays for a while and then falls linearly to zero.
    Epochs are counted in batches of ``batch_size``: train with that.

    Args:
        data: images as rows of ``x``, shades from 0 to 1; training data in two streams, of unlabelled and of labelled
            images, as the data set ``few_labels`` has them.
        method: what the generator minimises: ``"feature_matching"``, the distance of mean features, best for few
            labels; ``"standard"``, minus the log-probability of being real; ``"minibatch_discrimination"``, the same
            against a discriminator that compares the images of a batch, best for images to look at; or there is no
            generator, and the discriminator learns from labelled images alone (``"supervised"``).
        network: the pair of networks: ``"digits"``, ``"mnist_small"``, ``"mnist"`` (the paper's) or ``"cifar"`` (the
            paper's, convolutional; it trains with lr=3e-4); ``"auto"`` is ``"digits"`` for images of up to 16 x 16
            pixels, ``"cifar"`` for colour images whose sides are multiples of 8, and ``"mnist"`` for others.
        width: what the numbers of hidden units and channels are multiplied by.
        epochs: the number of epochs that training will take, by which the learning rate is planned.
        batch_size: the number of unlabelled images in a batch, by which epochs are counted.
        lr: the learning rate at the beginning.
        lr_constant: the share of the epochs, below 1, before the learning rate begins to fall.
        unlabelled_weight: the weight of the loss of real against generated images, beside that of labels.
        real_target: the target of real images, below 1 for one-sided label smoothing.
        kernels: the number of kernels of minibatch discrimination, with that method.
        historical_weight: the weight of the squared distance of each player's parameters from their mean over all past
            steps.
        generator_norm: whether the generator normalises by the ``"batch"``, or by a fixed reference batch of 100 draws
            (``"virtual"``).
        average_share: the share of all steps that the running mean of parameters, with which images are classified,
            looks back over; in the published program about 10,000 steps of 180,000.
        init_images: the number of training images by which the discriminator's scales and biases are initialised.
        evaluation_samples: the number of generated images that are measured.
        evaluation_seed: the seed of generated images in evaluation and in plots.
        samples_folder: a folder to write grids of samples into in the course of training; none if empty.
        score_network: the classifier that scores generated images, if there are weights for it.
        score_weights: a file with the weights of that classifier, the ``weights.pt`` of a run of ``sparse_lenet`` with
            the same architecture on the same kind of images; without it there is no inception score.

    Raises:
        ValueError: if an option is out of range, or the data are not as described: not two streams, labels missing or
            not of all classes, no held-out images with labels, no image shape.
    """
    one_of("method", method, get_args(Method))
    number_between("average_share", average_share, 0, 1, "(]")
    positive_number("lr", lr)
    unlabelled, _, classes = labelled_streams(data, binary=False)
    shape = _image_shape(data, unlabelled.x.shape[1])
    name = _network(network, shape)
    own_kernels = positive_int("kernels", kernels) if method == "minibatch_discrimination" else 0
    like = unlabelled.x
    net = discriminator_network(name, shape, classes, own_kernels, width).to(like)
    first = unlabelled.x[: positive_int("init_images", init_images, minimum=2)]
    initialize_from_data_(net, first)
    discriminator = Discriminator(net, real_target, unlabelled_weight)
    steps = positive_int("epochs", epochs) * math.ceil(len(unlabelled) / positive_int("batch_size", batch_size))
    average = ParameterAverage(net, min_weight=1 / max(1.0, average_share * steps))
    start = epochs * number_between("lr_constant", lr_constant, 0, 1, "[)")
    decay = SchedulerSettings(_DECAY, start=start, end=epochs)
    adam = OptimizerSettings("Adam", lr=lr, betas=[0.5, 0.999], scheduler=decay)
    scorer = _scorer(score_network, shape, classes, score_weights, like)
    generator, history, last = None, None, None
    if method != "supervised":
        generator = Generator(generator_network(name, shape, generator_norm, width), latent_size(name)).to(like)
        start_at_mean_(generator.network, torch.rand(500, generator.latent_size).to(like), like)
        last = LastImages(generator)
        history = SampleHistory(generator, steps, shape, folder=samples_folder, seed=evaluation_seed)
    judges = DiscriminatorObjective(discriminator, average, last, historical_weight)
    plan = TrainingPlan(
        [Player("discriminator", judges, _trained(discriminator), adam)],
        evaluate=evaluation(discriminator, average, generator, scorer, evaluation_samples, evaluation_seed),
        headline="error",
        curves={"error": ("error", "error_last")},
        curve_labels={
            "error": "held-out images classified wrongly (%)",
            "belief": "mean probability of being real",
            "spread": "spread of samples / spread of data",
        },
        diagnose=diagnose,
        remarks=_REMARKS,
    )
    if generator is None or history is None:
        return plan
    loss: GeneratorLoss = "feature_matching" if method == "feature_matching" else "standard"
    plays = GeneratorObjective(generator, discriminator, loss, last, historical_weight)
    plays.samples = history  # its buffers are saved with the objective
    return replace(
        plan,  # one after the other: if both step from the same point, they turn around each other and never meet
        players=[*plan.players, Player("generator", plays, _trained(generator), adam)],
        plots=model_plots(generator, history, unlabelled.x, shape, evaluation_seed),
        curves=plan.curves | {"belief": ("belief_real", "belief_generated"), "spread": ("spread",)},
        schedules=[history.note],
    )


def _trained(module: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def _image_shape(data: Splits, pixels: int) -> tuple[int, int, int]:
    if data.image_shape is None:
        raise ValueError("data.image_shape must be height and width of the images, got None; give Splits the shape")
    height, across = data.image_shape
    channels, rest = divmod(pixels, height * across)
    if rest or not channels:
        raise ValueError(
            f"rows of data.train.x must hold a multiple of {height} x {across} pixels, got {pixels} columns"
        )
    return channels, height, across


def _network(network: Network | Literal["auto"], shape: tuple[int, int, int]) -> Network:
    if network != "auto":
        return network
    channels, *sides = shape
    if max(sides) <= _SMALL:
        return "digits"
    return "cifar" if channels == 3 and not any(side % 8 for side in sides) else "mnist"


def _scorer(
    name: Classifier, shape: tuple[int, int, int], classes: int, weights: str, like: torch.Tensor
) -> nn.Module | None:
    state = read_weights(weights)
    if state is None:
        return None
    images = nn.Unflatten(1, shape)
    return nn.Sequential(images, *classifier(name, shape, classes, state)).to(like).requires_grad_(False)
