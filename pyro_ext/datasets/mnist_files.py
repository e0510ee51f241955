"""MNIST from its original IDX files: found under ``PYRO_EXT_DATA``, or fetched and verified."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from pyro_ext.datasets.base import Splits
from pyro_ext.datasets.idx import read_idx
from pyro_ext.datasets.locate import ENVIRONMENT_VARIABLE, fetch, find_file, how_to_get
from pyro_ext.datasets.pixels import Binarization, check_binarization, image_splits
from pyro_ext.utils.checks import one_of, positive_int

__all__ = ["mnist"]

_LOG = logging.getLogger(__name__)
_MIRRORS = ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/")
_PROTOCOLS = ("auto", "full", "split")


@dataclass(frozen=True)
class _File:
    name: str
    shape: tuple[int, ...]
    md5: str  # of the decompressed content: the same in every copy
    md5_gz: str  # of the .gz file as first published: what the mirrors serve


_FILES = {
    "train images": _File(
        "train-images-idx3-ubyte",
        (60000, 28, 28),
        "6bbc9ace898e44ae57da46a324031adb",
        "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    ),
    "train labels": _File(
        "train-labels-idx1-ubyte", (60000,), "a25bea736e30d166cdddb491f175f624", "d53e105ee54ea40749a09fcbcd1e9432"
    ),
    "test images": _File(
        "t10k-images-idx3-ubyte",
        (10000, 28, 28),
        "2646ac647ad5339dbf082846283269ea",
        "9fb629c4189551a2d022fa330f9573f3",
    ),
    "test labels": _File(
        "t10k-labels-idx1-ubyte", (10000,), "27ae3e4e09519cfbb04c329615203637", "ec29112dd5afa0611ce80d1b7f02629c"
    ),
}


def mnist(
    binarize: Binarization | None = "threshold",
    threshold: float = 0.5,
    protocol: str = "auto",
    num_valid: int | None = None,
    seed: int = 0,
) -> Splits:
    """Load the MNIST digits of 28 x 28 pixels.

    The IDX files, plain or ``.gz``, are looked for in ``$PYRO_EXT_DATA/mnist/``. Files that are not there are fetched
    once and kept in the cache folder of the user. The MD5 sums of their decompressed contents are verified.

    Args:
        binarize: ``"threshold"`` makes the pixels above the threshold 1 and the others 0. ``"dynamic"`` draws pixels
            with their shades as probabilities, those of training images anew each time, those of held-out images once.
            None keeps the shades of grey.
        threshold: the threshold on the pixels, from 0 to 1.
        protocol: the split of the images. ``"full"`` trains on the first 50,000 of the 60,000 training images,
            validates on the last 10,000 and tests on the 10,000 test images. ``"split"`` needs only the test images:
            it trains on the first 8,000 of them and validates on the last 2,000. ``"auto"`` is the full protocol, or,
            with a logged warning, the split one if ``PYRO_EXT_DATA`` holds the test images alone.
        num_valid: the number of images to validate on; None for that of the protocol.
        seed: the seed of the draws of ``binarize="dynamic"``.

    Returns:
        ``x`` of shape ``(N, 784)``, float32, and ``y`` of shape ``(N,)``, int64. With ``binarize="dynamic"``,
        ``train`` is :class:`~pyro_ext.datasets.RedrawnPixels`.

    Raises:
        ValueError: if an argument is out of range or a file is damaged.
        MissingDataError: if a file is missing and cannot be fetched.

    References:
        | Gradient-based learning applied to document recognition (LeCun et al., 1998)
        | https://doi.org/10.1109/5.726791
    """
    one_of("protocol", protocol, _PROTOCOLS)
    check_binarization(binarize, threshold, seed)
    if protocol == "auto":
        protocol = _available_protocol()
    x, y = _read("test" if protocol == "split" else "train")
    num_valid = (2_000 if protocol == "split" else 10_000) if num_valid is None else num_valid
    positive_int("num_valid", num_valid, maximum=len(x) - 1)
    parts = {"train": (x[:-num_valid], y[:-num_valid]), "valid": (x[-num_valid:], y[-num_valid:])}
    if protocol == "full":
        parts["test"] = _read("test")
    name = "mnist" if protocol == "full" else "mnist-split"
    return image_splits(name, parts, (28, 28), binarize, threshold, seed)


def _available_protocol() -> str:
    if find_file("mnist", _FILES["train images"].name) or not find_file("mnist", _FILES["test images"].name):
        return "full"
    _LOG.warning(
        "only the MNIST test images are under %s: protocol 'split', the first 8,000 of them for training and the "
        "last 2,000 for validation",
        ENVIRONMENT_VARIABLE,
    )
    return "split"


def _read(part: str) -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = (_read_file(_FILES[f"{part} {kind}"]) for kind in ("images", "labels"))
    shades = images.reshape(len(images), -1) / np.float32(255)
    return torch.from_numpy(shades), torch.from_numpy(labels.astype(np.int64))


def _read_file(file: _File) -> np.ndarray:
    path = find_file("mnist", file.name) or _fetch(file)
    array = read_idx(path, file.md5)
    if array.shape != file.shape:
        raise ValueError(f"{path}: shape {array.shape}, expected {file.shape}")
    return array


def _fetch(file: _File) -> Path:
    urls = [f"{mirror}{file.name}.gz" for mirror in _MIRRORS]
    missing = how_to_get(f"MNIST file {file.name}", f"{urls[0]} (plain or compressed)", "mnist")
    return fetch(urls, file.md5_gz, "mnist", missing)
