"""CIFAR-10 from its binary version: found under ``PYRO_EXT_DATA``, or fetched and verified."""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from pyro_ext.datasets.base import IndexedDataset, Splits
from pyro_ext.datasets.locate import MissingDataError, data_root, fetch, how_to_get
from pyro_ext.utils.checks import positive_int

__all__ = ["CLASSES", "cifar10"]

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
"""The names of the classes with the labels 0 to 9."""

_ARCHIVE = "cifar-10-binary.tar.gz"
_URL = f"https://www.cs.toronto.edu/~kriz/{_ARCHIVE}"
_MD5 = "c32a1d4ab5d03f1284b67883e8d87530"  # as published beside the archive
_FOLDER = "cifar-10-batches-bin"  # in the archive
_TRAIN = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
_TEST = ("test_batch.bin",)
_SHAPE = (3, 32, 32)
_PIXELS = 3 * 32 * 32
_ROWS = 10_000  # images in a file


def cifar10(num_valid: int = 5_000) -> Splits:
    """Load the CIFAR-10 photographs of 32 x 32 pixels and three colours.

    The archive of the binary version is looked for in ``$PYRO_EXT_DATA/cifar10/``; if it is not there, it is fetched
    once and kept in the cache folder of the user. It is verified by its MD5 sum, and read without being unpacked. The
    folder may also hold the unpacked ``.bin`` files, of which sizes and numbers of labels are checked.

    Args:
        num_valid: the number of images to validate on, which are the last ones of the 50,000 training images.

    Returns:
        ``x`` of shape ``(N, 3072)``, float32 in [0, 1], the red channel first, then the green and the blue one, each
        row by row; and ``y`` of shape ``(N,)``, int64. There is a test split, of 10,000 images.

    Raises:
        ValueError: if ``num_valid`` is out of range or a file is damaged.
        MissingDataError: if the archive is missing and cannot be fetched.

    References:
        | Learning multiple layers of features from tiny images (Krizhevsky, 2009)
        | https://www.cs.toronto.edu/~kriz/cifar.html
    """
    positive_int("num_valid", num_valid, maximum=len(_TRAIN) * _ROWS - 1)
    train, test = _read()
    x, y = _tensors(train)
    return Splits(
        name="cifar10",
        train=IndexedDataset(x[:-num_valid], y[:-num_valid]),
        valid=IndexedDataset(x[-num_valid:], y[-num_valid:]),
        test=IndexedDataset(*_tensors(test)),
        image_shape=_SHAPE[1:],
    )


def _read() -> tuple[np.ndarray, np.ndarray]:
    """Return the records of training and test images, uint8 ``(N, 1 + 3072)`` each."""
    root = data_root()
    if root is None:
        return _records_of_archive(_fetch())
    folder = root / "cifar10"
    if (folder / _ARCHIVE).is_file():
        return _records_of_archive(folder / _ARCHIVE)
    for place in (folder, folder / _FOLDER):
        if (place / _TEST[0]).is_file():
            return _records_of_files(place, _TRAIN), _records_of_files(place, _TEST)
    return _records_of_archive(_fetch())


def _records_of_files(folder: Path, names: Sequence[str]) -> np.ndarray:
    parts = []
    for name in names:
        path = folder / name
        if not path.is_file():
            raise MissingDataError(f"{path} not found beside the other files; {_missing()}")
        parts.append(_records(path.read_bytes(), str(path)))
    records = np.concatenate(parts)
    counts = np.bincount(records[:, 0], minlength=len(CLASSES))
    if (counts != len(records) // len(CLASSES)).any():
        raise ValueError(
            f"{folder}: {', '.join(names)} should hold equally many images of each class, got {counts.tolist()}"
        )
    return records


def _records_of_archive(path: Path) -> tuple[np.ndarray, np.ndarray]:
    with path.open("rb") as file:
        md5 = hashlib.file_digest(file, "md5").hexdigest()
    if md5 != _MD5:
        raise ValueError(f"{path}: content has MD5 {md5}, expected {_MD5}; delete it and get {_URL} again")
    read = {}
    with tarfile.open(path, "r:gz") as archive:
        for member in archive:
            name = Path(member.name).name
            content = archive.extractfile(member) if name in _TRAIN + _TEST else None
            if content is not None:
                read[name] = _records(content.read(), f"{path}: {name}")
    missing = [name for name in _TRAIN + _TEST if name not in read]
    if missing:
        raise ValueError(f"{path}: holds no {', '.join(missing)}")
    return np.concatenate([read[name] for name in _TRAIN]), read[_TEST[0]]


def _records(content: bytes, where: str) -> np.ndarray:
    if len(content) != _ROWS * (1 + _PIXELS):
        raise ValueError(f"{where}: {len(content)} bytes, expected {_ROWS} records of {1 + _PIXELS}")
    records = np.frombuffer(content, np.uint8).reshape(_ROWS, 1 + _PIXELS)
    if records[:, 0].max() >= len(CLASSES):
        raise ValueError(f"{where}: label {records[:, 0].max()}, expected 0 .. {len(CLASSES) - 1}")
    return records


def _tensors(records: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    pixels = records[:, 1:].astype(np.float32)
    pixels /= 255
    return torch.from_numpy(pixels), torch.from_numpy(records[:, 0].astype(np.int64))


def _fetch() -> Path:
    return fetch([_URL], _MD5, "cifar10", _missing())


def _missing() -> str:
    return how_to_get("CIFAR-10 archive", _URL, "cifar10")
