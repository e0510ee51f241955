"""Scores of generated images by a classifier of one's own: inception score and Fréchet distance of features."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from pyro_ext.inference.training.metrics import evaluation_mode
from pyro_ext.ops.inception_score import inception_score
from pyro_ext.utils.checks import positive_int

__all__ = ["ImageScores", "classifier_scores", "frechet_distance"]

_CHUNK = 500  # images classified together


class ImageScores(NamedTuple):
    """Scores of generated images.

    Args:
        inception_score: from 1 to the number of classes, large for varied and recognisable images.
        inception_deviation: its standard deviation over parts of the images.
        inception_score_real: the score of as many real images, which generated ones can hardly exceed.
        frechet_distance: the Fréchet distance of features from those of real images, small for similar ones.
    """

    inception_score: float
    inception_deviation: float
    inception_score_real: float
    frechet_distance: float


def classifier_scores(
    classifier: nn.Module,
    generated: Tensor,
    real: Tensor,
    features: nn.Module | None = None,
    splits: int = 10,
    seed: int = 0,
) -> ImageScores:
    """Return scores of generated images by a classifier that was trained on real ones.

    Scores by different classifiers, or of different numbers of images, cannot be compared with each other; those of the
    literature are by the Inception network, of 50,000 images.

    Args:
        classifier: maps images to logits of K classes, ``(N, K)``; it is put into evaluation mode.
        generated: images, ``(N, ...)``, in the shape that the classifier takes.
        real: real images that it was not trained on, ``(M, ...)``.
        features: maps images to the features for the Fréchet distance; the classifier without its last linear layer if
            None, which must be an ``nn.Sequential`` then.
        splits: the number of parts of the images for the deviation of the inception score.
        seed: the seed by which images are divided.

    Raises:
        ValueError: if there are fewer than two images of a kind or fewer than parts, or ``features`` are needed.
        ImportError: if torchmetrics is not installed.
    """
    positive_int("splits", splits)
    if features is None:
        if not isinstance(classifier, nn.Sequential) or len(classifier) < 2:
            raise ValueError(
                "features must be a module for a classifier that is no nn.Sequential of several layers, got None"
            )
        features = classifier[:-1]
    probs, of_real = (_apply(classifier, images).softmax(-1) for images in (generated, real))
    own, other = (inception_score(p, min(splits, len(p)), seed) for p in (probs, of_real))
    return ImageScores(
        float(own.mean),
        float(own.deviation),
        float(other.mean),
        frechet_distance(_apply(features, generated), _apply(features, real)),
    )


def frechet_distance(generated: Tensor, real: Tensor) -> float:
    r"""Return the Fréchet distance between features of generated and of real images, as torchmetrics computes it.

    .. math::  \lVert \mu_1 - \mu_2 \rVert^2 + \mathrm{tr}\big(\Sigma_1 + \Sigma_2 - 2 (\Sigma_1 \Sigma_2)^{1/2}\big).

    Args:
        generated: features, ``(N, A)`` or of more dimensions, which are flattened; N at least 2.
        real: features of real images.

    Raises:
        ValueError: if there are fewer than two of a kind.
        ImportError: if torchmetrics is not installed.

    References:
        | GANs trained by a two time-scale update rule converge to a local Nash equilibrium (Heusel et al., 2017)
        | https://arxiv.org/abs/1706.08500

    Example:
        >>> x = torch.tensor([[-1.0], [1.0]])
        >>> round(frechet_distance(x, 3 * x + 1), 4)  # deviations sqrt(2) and 3 sqrt(2), means 0 and 1
        9.0
    """
    if min(len(generated), len(real)) < 2:
        raise ValueError(f"there must be at least two images of each kind, got {len(generated)} and {len(real)}")
    try:
        from torchmetrics.image.fid import FrechetInceptionDistance
    except ImportError as error:
        raise ImportError("the Fréchet distance needs torchmetrics: pip install 'pyro-ext[fit]'") from error
    rows = nn.Flatten()
    rows.num_features = generated[0].numel()  # type: ignore[assignment]
    metric = FrechetInceptionDistance(feature=rows).to(generated.device)
    metric.update(generated, real=False)
    metric.update(real, real=True)
    return float(metric.compute())


def _apply(module: nn.Module, images: Tensor) -> Tensor:
    with evaluation_mode(module), torch.no_grad():
        return torch.cat([module(part) for part in images.split(_CHUNK)])
