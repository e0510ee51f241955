"""The Frey faces: frames of a video of one face."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch

from pyro_ext.datasets.base import Splits
from pyro_ext.datasets.locate import MissingDataError, find_file, how_to_get
from pyro_ext.datasets.pixels import Binarization, check_binarization, image_splits
from pyro_ext.utils.checks import positive_int

__all__ = ["freyfaces"]

_FOLDER, _FILE, _ARRAY = "faces", "freyfaces.npz", "images"
_SHAPE = (1965, 28, 20)
_SOURCE = "https://github.com/jmtomczak/vae_vampprior, datasets/Freyfaces, saved as array 'images' of an .npz file"


def freyfaces(
    binarize: Binarization | None = None,
    threshold: float = 0.5,
    num_valid: int = 200,
    num_test: int = 200,
    seed: int = 0,
) -> Splits:
    """Load the Frey faces, 1,965 frames of 28 x 20 pixels, without labels.

    The file ``freyfaces.npz`` is looked for in ``$PYRO_EXT_DATA/faces/``. Frames that follow each other are nearly the
    same, so that held-out frames are drawn at random: they measure how well frames in between are modelled.

    Args:
        binarize: None keeps the shades of grey, scaled to [0, 1]. ``"threshold"`` makes the pixels above the threshold
            1 and the others 0. ``"dynamic"`` draws pixels with their shades as probabilities, those of training images
            anew each time, those of held-out images once.
        threshold: the threshold on the pixels, from 0 to 1.
        num_valid: the number of frames to validate on.
        num_test: the number of frames to test on; with 0 there is no test split.
        seed: the seed of the split and of the draws of ``binarize="dynamic"``.

    Returns:
        ``x`` of shape ``(N, 560)``, float32.

    Raises:
        ValueError: if an argument is out of range or the file is damaged.
        MissingDataError: if the file is missing.

    References:
        | Nonlinear dimensionality reduction by locally linear embedding (Roweis and Saul, 2000), figure 3
        | https://doi.org/10.1126/science.290.5500.2323
    """
    check_binarization(binarize, threshold, seed)
    positive_int("num_valid", num_valid, maximum=_SHAPE[0] - 1)
    positive_int("num_test", num_test, 0, _SHAPE[0] - 1 - num_valid)
    shades = torch.from_numpy(_read().reshape(_SHAPE[0], -1) / np.float32(255))
    shades = shades[torch.randperm(len(shades), generator=torch.Generator().manual_seed(seed), device="cpu")]
    train, valid, test = shades.split([len(shades) - num_valid - num_test, num_valid, num_test])
    parts = {"train": (train, None), "valid": (valid, None)} | ({"test": (test, None)} if num_test else {})
    return image_splits("freyfaces", parts, _SHAPE[1:], binarize, threshold, seed)


def _read() -> np.ndarray:
    path = find_file(_FOLDER, _FILE)
    if path is None or path.name != _FILE:
        raise MissingDataError(how_to_get("file of Frey faces", f"{_SOURCE},", _FOLDER))
    try:
        with zipfile.ZipFile(path) as archive:
            return _array(archive, path)
    except (ValueError, EOFError, KeyError, OSError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        raise ValueError(f"{path}: no file of Frey faces, or damaged ({error}); get it again") from error


def _array(archive: zipfile.ZipFile, path: Path) -> np.ndarray:
    """Read the array if its header is as expected: a damaged or foreign file must not fill the memory."""
    with archive.open(f"{_ARRAY}.npy") as file:
        version = np.lib.format.read_magic(file)
        if version != (1, 0):
            raise ValueError(f"version {version} of the format")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
        if (shape, fortran, dtype) != (_SHAPE, False, np.dtype(np.uint8)):
            raise ValueError(f"an array of shape {shape} and type {dtype}, expected {_SHAPE} and uint8")
        size = int(np.prod(_SHAPE))
        content = file.read(size + 1)
    if len(content) != size:
        raise ValueError(f"{len(content)} bytes, expected {size}")
    return np.frombuffer(content, np.uint8).reshape(_SHAPE)
