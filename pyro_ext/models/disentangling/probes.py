"""Probes: how well a classifier, trained on codes alone, tells the classes of images."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torch import Tensor

from pyro_ext.models.disentangling.networks import Codes
from pyro_ext.models.disentangling.programs import Guide

__all__ = ["codes_of", "probe_accuracies", "probe_accuracy"]

_CHUNK = 1000  # images encoded together
_DRAWS = 4  # of z per training image, so that a probe of z learns more than the noise of one draw


def codes_of(guide: Guide, x: Tensor) -> Codes:
    """Return the codes of many images, without gradients.

    Args:
        guide: the encoder's program.
        x: images, ``(N, D)``, of any device and type.
    """
    with torch.no_grad():
        parts = [guide.encode(part.to(guide.like)) for part in x.split(_CHUNK)]
    return Codes(*(torch.cat(part) for part in zip(*parts, strict=True)))


def probe_accuracy(
    codes: Tensor,
    y: Tensor,
    held_out_codes: Tensor,
    held_out_y: Tensor,
    hidden: tuple[int, ...] = (256, 256),
    seed: int = 0,
) -> float:
    """Return the accuracy of a perceptron that learns classes from codes, in per cent of the held-out rows.

    Features are standardised by the training rows. A tenth of these is set aside, and training stops when the accuracy
    on it no longer rises, so that the probe does not learn noise by heart and make a code look better separated than
    it is.

    Args:
        codes: the codes to learn from, ``(N, D)``.
        y: their classes, int64 ``(N,)``.
        held_out_codes: the codes to classify, ``(M, D)``.
        held_out_y: their classes, int64 ``(M,)``.
        hidden: the widths of the hidden layers, by default those of the paper's independent implementation.
        seed: the seed of the weights and of the rows that are set aside.

    Raises:
        ImportError: if scikit-learn is not installed.

    Example:
        >>> y = torch.arange(3).repeat(40)
        >>> codes = torch.nn.functional.one_hot(y).float()
        >>> probe_accuracy(codes, y, codes, y), round(probe_accuracy(torch.zeros(120, 2), y, torch.zeros(120, 2), y))
        (100.0, 33)
    """
    try:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.neural_network import MLPClassifier
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
    except ImportError as error:
        raise ImportError("probe classifiers need scikit-learn: pip install 'pyro-ext[data]'") from error
    classifier = MLPClassifier(
        hidden, early_stopping=bool(_enough_of_each(y)), learning_rate_init=3e-3, max_iter=200, random_state=seed
    )
    probe = make_pipeline(StandardScaler(), classifier)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        probe.fit(_array(codes), _array(y))
    return 100 * float(np.mean(probe.predict(_array(held_out_codes)) == _array(held_out_y)))


def probe_accuracies(
    codes: Codes, y: Tensor, held_out: Codes, held_out_y: Tensor, hidden: tuple[int, ...] = (256, 256), seed: int = 0
) -> dict[str, float]:
    """Return the accuracies of probes of s, of z as the mean of its posterior, and of z drawn from it, in per cent.

    Args:
        codes: the codes of the training images.
        y: their classes, ``(N,)``.
        held_out: the codes of held-out images.
        held_out_y: their classes, ``(M,)``.
        hidden: the widths of the hidden layers of the probes.
        seed: the seed of the probes and of the draws.
    """
    generator = torch.Generator().manual_seed(seed)

    def drawn(codes: Codes, number: int) -> Tensor:
        noise = torch.randn(number, *codes.z_loc.shape, generator=generator, device="cpu").to(codes.z_loc)
        return (codes.z_loc + codes.z_scale * noise).flatten(0, 1)

    def accuracy(own: Tensor, other: Tensor, repeats: int = 1) -> float:
        return probe_accuracy(own, y.repeat(repeats), other, held_out_y, hidden, seed)

    return {
        "probe_s": accuracy(codes.s, held_out.s),
        "probe_z_mean": accuracy(codes.z_loc, held_out.z_loc),
        "probe_z": accuracy(drawn(codes, _DRAWS), drawn(held_out, 1), _DRAWS),
    }


def _enough_of_each(y: Tensor) -> bool:
    """Return whether a tenth of the rows can be set aside with each class among them."""
    counts = y.unique(return_counts=True)[1]
    return bool(counts.min() >= 10) and len(y) >= 10 * len(counts)


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy()
