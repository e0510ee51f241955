"""Data sets that come with an installed library and need no network."""

from __future__ import annotations

import numpy as np
import torch

from pyro_ext.datasets.base import IndexedDataset, Splits
from pyro_ext.utils.checks import number_between, positive_int

__all__ = ["digits"]

_WHITE = 16.0  # the pixels of scikit-learn's digits are counts of 0 to 16


def digits(binarize: float | None = 7.5, num_train: int = 1500) -> Splits:
    """Load the 1,797 handwritten digits of 8 x 8 pixels bundled with scikit-learn.

    The first ``num_train`` images are for training and the rest for validation; labels are the digits 0 to 9.

    Args:
        binarize: the threshold on the pixels (0 to 16): those above it become 1 and the others 0. None keeps the shades
            of grey, scaled to [0, 1].
        num_train: the number of images to train on, from 1 to 1796; the others are for validation.

    Returns:
        ``x`` of shape ``(N, 64)``, float32, and ``y`` of shape ``(N,)``, int64.

    Raises:
        ValueError: if ``binarize`` or ``num_train`` is out of range.
        ImportError: if scikit-learn is not installed.

    References:
        | Optical Recognition of Handwritten Digits (Alpaydin and Kaynak, 1998), UCI Machine Learning Repository
        | https://doi.org/10.24432/C50P49

    Example:
        >>> splits = digits()
        >>> splits.train, len(splits.valid), splits.image_shape
        (IndexedDataset(x (1500, 64), labels (1500,)), 297, (8, 8))
        >>> splits.train.x[0].reshape(8, 8)[:3].int()
        tensor([[0, 0, 0, 1, 1, 0, 0, 0],
                [0, 0, 1, 1, 1, 1, 0, 0],
                [0, 0, 1, 0, 0, 1, 1, 0]], dtype=torch.int32)
    """
    if binarize is not None:
        number_between("binarize", binarize, 0, _WHITE, "[)")
    images, labels = _bundled_digits()
    positive_int("num_train", num_train, maximum=len(images) - 1)
    pixels = images / _WHITE if binarize is None else images > binarize
    x = torch.from_numpy(pixels.astype(np.float32))
    y = torch.from_numpy(labels.astype(np.int64))
    return Splits(
        name="digits",
        train=IndexedDataset(x[:num_train], y[:num_train]),
        valid=IndexedDataset(x[num_train:], y[num_train:]),
        image_shape=(8, 8),
    )


def _bundled_digits() -> tuple[np.ndarray, np.ndarray]:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError("the digits come with scikit-learn: pip install 'pyro-ext[data]'") from error
    images, labels = load_digits(return_X_y=True)
    return images, labels
