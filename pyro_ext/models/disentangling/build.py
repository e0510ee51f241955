"""From a data set and options to a plan of two players, with probes as its evaluation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from pyro.infer import TraceMeanField_ELBO
from torch import Tensor

from pyro_ext.datasets import Splits, SpriteImages
from pyro_ext.datasets.sprites import FACTORS
from pyro_ext.inference import ELBOObjective, Objective, OptimizerSettings, Player, SumObjective, TrainingPlan
from pyro_ext.models.disentangling.factor_scores import dci, mutual_information_gap
from pyro_ext.models.disentangling.losses import (
    AdversarialInputs,
    AdversarialObjective,
    DiscriminatorObjective,
    SwapObjective,
)
from pyro_ext.models.disentangling.networks import Decoder, Discriminator, Encoder, Network
from pyro_ext.models.disentangling.partners import ClassPartners
from pyro_ext.models.disentangling.plots import model_plots
from pyro_ext.models.disentangling.probes import codes_of, probe_accuracies
from pyro_ext.models.disentangling.programs import Guide, Model
from pyro_ext.models.toolkit import check_image_data, mean_metrics
from pyro_ext.utils.checks import nonnegative_number, number_between, one_of
from pyro_ext.utils.files import write_text
from pyro_ext.utils.tables import markdown_table

__all__ = ["build", "factor_table"]

_SMALL = 16  # pixels; up to this height the networks are perceptrons unless told otherwise
_COLLAPSED = 0.1  # nats per image; below, z says nothing about the image
_PROBED = 5000  # training images that probes learn from

_REMARKS = (
    "`neg_elbo` and `kl` are in nats per image, `squared_error` is the mean per pixel of images decoded from the means "
    "of their codes; that of the mean image is {blank:.4f}. `probe_s`, `probe_z_mean` and `probe_z` are the accuracies "
    "in per cent of classifiers trained on s, on the mean of z and on draws of z; guessing the most frequent class has "
    "{guess:.1f}. A code z from which a classifier cannot tell the class by draws may tell it by its mean."
)


def build(
    data: Splits,
    z_size: int = 8,
    s_size: int = 8,
    hidden: int = 128,
    network: Network | Literal["auto"] = "auto",
    channels: int = 16,
    noise: float = 0.3,
    input_noise: float = 0.2,
    swap_weight: float = 2.0,
    adversarial_weight: float = 20.0,
    adversarial_inputs: AdversarialInputs = "both",
    discriminator: Literal["class", "pair"] = "class",
    real_target: float = 0.95,
    mismatched_weight: float = 1.0,
    evaluation_seed: int = 0,
) -> TrainingPlan:
    """Build encoder, decoder and discriminator for images with labels.

    There are two players: ``autoencoder`` minimises minus the ELBO plus the swap loss and the adversarial loss, and
    ``discriminator`` minimises its own loss. With ``adversarial_weight=0`` there is only the first one. The ELBO is
    ``TraceMeanField_ELBO``, whose divergence of z from its prior is exact.

    Args:
        data: images as rows of ``x``, shades from 0 to 1, with labels of at least two images per class.
        z_size: the number of features of z, for all but the class.
        s_size: the number of features of s, for the class.
        hidden: the number of units of hidden layers.
        network: the kind of all networks; ``"auto"`` is ``"perceptron"`` for images of up to 16 pixels of height, or of
            a height or width that is no multiple of 4, else ``"convolutional"``.
        channels: the number of channels of the first convolution of convolutional networks; the second one has twice
            as many.
        noise: the standard deviation of a pixel. The larger it is, the less of an image z holds, its class included,
            and the less sharp images are.
        input_noise: the standard deviation of Gaussian noise on what the encoder sees of images in training. It keeps
            the encoder from learning the training images by heart, so that s tells the classes of new ones; 0 is better
            where training images are plenty for their variety.
        swap_weight: the weight of the loss of images decoded from their own z and the s of another image of their
            class.
        adversarial_weight: the weight of the adversarial loss.
        adversarial_inputs: where z comes from in images that are shown to the discriminator: ``"other"`` images, the
            ``"prior"``, or ``"both"``.
        discriminator: what a decoded image is judged with: its ``"class"``, or another image of its class
            (``"pair"``), for which the classes need no names.
        real_target: the target of the discriminator for real images, a little below 1; that for decoded images is 0.
        mismatched_weight: the weight, in the loss of the discriminator, of real images shown with a class that is not
            theirs. They teach it to look at the class; 0 is the paper's loss.
        evaluation_seed: the seed of probes and of the choice of images in plots.

    Raises:
        ValueError: if an option is out of range, the data have no labels or image shape, or a class has one image.
    """
    shape = _check(data)
    for name, weight in (("swap_weight", swap_weight), ("adversarial_weight", adversarial_weight)):
        nonnegative_number(name, weight)
    one_of("discriminator", discriminator, ("class", "pair"))
    number_between("real_target", real_target, 0, 1, "(]")
    nonnegative_number("mismatched_weight", mismatched_weight)
    partners = ClassPartners(data.train)
    if network == "auto":
        network = "perceptron" if shape[0] <= _SMALL or any(length % 4 for length in shape) else "convolutional"
    sizes = (shape, z_size, s_size, hidden, network, channels)
    model = Model(len(data.train), Decoder(*sizes), z_size, s_size, noise)
    guide = Guide(len(data.train), Encoder(*sizes), input_noise)
    parts: dict[str, tuple[Objective, float]] = {
        "neg_elbo": (ELBOObjective(model, guide, TraceMeanField_ELBO(max_plate_nesting=1), size=len(data.train)), 1.0)
    }
    if swap_weight:
        parts["swap"] = (SwapObjective(model, guide, partners), swap_weight)
    optimizer = OptimizerSettings("Adam", lr=2e-3)
    players = []
    if adversarial_weight:
        num_classes = int(data.train.y.max()) + 1 if discriminator == "class" else 0
        critic = Discriminator(shape, num_classes, hidden, network, channels)
        game = (model, guide, critic, partners, adversarial_inputs)
        parts["adversarial"] = (AdversarialObjective(*game), adversarial_weight)
        loss = DiscriminatorObjective(*game, real_target, mismatched_weight)
        players = [Player("discriminator", loss, critic.parameters(), optimizer)]
    own = [*model.parameters(), *guide.parameters()]
    players.insert(0, Player("autoencoder", SumObjective(parts), own, optimizer))
    return TrainingPlan(
        players,
        evaluate=_evaluation(model, guide, data, evaluation_seed),
        headline="class_gap",
        headline_mode="max",
        plots=model_plots(model, guide, data, evaluation_seed),
        curves={"probes": ("probe_s", "probe_z_mean", "probe_z")},
        curve_labels={"probes": "accuracy of classifiers of codes (%)"},
        files=_files(guide, data),
        diagnose=_diagnose,
        remarks=_REMARKS.format(blank=_blank(data), guess=_guess(data)),
    )


def factor_table(guide: Guide, x: Tensor, factors: Tensor, names: Iterable[str]) -> list[list[str]]:
    """Return rows of a table of DCI and mutual information gaps of s, of the mean of z, and of both side by side.

    Args:
        guide: the encoder's program.
        x: images, ``(N, D)``.
        factors: their factors, int64 ``(N, K)``.
        names: the names of the K factors.

    Returns:
        A row for each code and factor: code, factor, informativeness, completeness, gap; and one for each code with
        the disentanglement of all its features.
    """
    codes = codes_of(guide, x)
    rows = []
    for code, features in {"s": codes.s, "z": codes.z_loc, "s and z": torch.cat([codes.s, codes.z_loc], -1)}.items():
        scores = dci(features, factors)
        gaps = mutual_information_gap(features, factors) if features.shape[1] > 1 else [math.nan] * factors.shape[1]
        for at, name in enumerate(names):
            numbers = (scores.informativeness[at], scores.completeness[at], gaps[at])
            rows.append([code, name, *(f"{float(number):.3f}" for number in numbers), ""])
        rows.append([code, "all", "", "", "", f"{scores.disentanglement:.3f}"])
    return rows


def _check(data: Splits) -> tuple[int, int]:
    """Return the shape of the images."""
    shape = data.image_shape
    check_image_data(data, binary=False)
    if shape is None:
        raise ValueError("data.image_shape must be height and width of the images, got None")
    if data.train.x.shape[1] != shape[0] * shape[1]:
        raise ValueError(f"data.train.x must have rows of {shape[0]} x {shape[1]} pixels, got {data.train.x.shape[1]}")
    for name, part in (("train", data.train), ("valid", data.valid), ("test", data.test)):
        if part is not None and part.y is None:
            raise ValueError(f"data.{name} must have labels, got none")
    if bool((data.train.y < 0).any()):
        raise ValueError(f"data.train.y must hold classes from 0 on, got {int(data.train.y.min())}")
    return shape


def _evaluation(model: Model, guide: Guide, data: Splits, seed: int) -> Callable[[Iterable[Any]], dict[str, float]]:
    by_image = mean_metrics(guide, partial(held_out_metrics, model, guide), seed)

    def evaluate(loader: Iterable[Any]) -> dict[str, float]:
        batches = [*loader]
        metrics = by_image(batches)
        x, y = (torch.cat([batch[at].cpu() for batch in batches]) for at in (0, 1))
        generator = torch.Generator().manual_seed(seed)
        chosen = torch.randperm(len(data.train), generator=generator, device="cpu")[:_PROBED]
        known, labels = data.train.x[chosen], data.train.y[chosen]
        probes = probe_accuracies(codes_of(guide, known), labels, codes_of(guide, x), y, seed=seed)
        return metrics | probes | {"class_gap": probes["probe_s"] - probes["probe_z"]}

    return evaluate


def held_out_metrics(
    model: Model, guide: Guide, x: Tensor, y: Tensor | None = None, index: Tensor | None = None
) -> dict[str, Tensor]:
    """Return ``neg_elbo`` and ``kl`` in nats, and the ``squared_error`` per pixel, of each image, all ``(B,)``.

    Args:
        model: the decoder's program.
        guide: the encoder's program.
        x: images, ``(B, D)``.
        y: labels, of no use here.
        index: the places of the images in the data set, of no use here.
    """
    codes = guide.encode(x)
    kl = 0.5 * (codes.z_loc.square() + codes.z_log_variance.exp() - 1 - codes.z_log_variance).sum(-1)
    error = (model.decoder(codes.z_loc, codes.s) - x).square().mean(-1)
    return {
        "neg_elbo": kl - model.pixels(codes.sample_z(), codes.s).log_prob(x),
        "kl": kl,
        "squared_error": error,
    }


def _diagnose(metrics: Mapping[str, float]) -> list[str]:
    if metrics.get("kl", math.inf) >= _COLLAPSED:
        return []
    return [
        f"z has collapsed: it holds {metrics['kl']:.3f} nats per image, so that all images of a class are decoded "
        "alike and a probe of z is at the level of guessing for that reason alone; lower --model.noise"
    ]


def _files(guide: Guide, data: Splits) -> dict[str, Callable[[Path], None]]:
    """Return the table of scores against factors, where these are known."""
    if not isinstance(data, SpriteImages) or data.valid is None:
        return {}
    header = ["code", "factor", "informativeness", "completeness", "gap", "disentanglement"]

    def write(path: Path) -> None:
        rows = factor_table(guide, data.valid.x, data.factors["valid"], FACTORS)
        write_text(path, markdown_table(rows, header, left=range(2)) + "\n")

    return {"factors.md": write}


def _blank(data: Splits) -> float:
    x = (data.train if data.valid is None else data.valid).x
    return float((x - data.train.x.mean(0)).square().mean())


def _guess(data: Splits) -> float:
    y = (data.train if data.valid is None else data.valid).y
    return 100 * float((y == data.train.y.bincount().argmax()).double().mean())
