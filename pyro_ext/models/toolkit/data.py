"""Batches of data in models: their plate, a check of images, and metrics averaged over a loader."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pyro
import torch
from torch import Tensor, nn

from pyro_ext.datasets import Splits
from pyro_ext.inference import local_params
from pyro_ext.inference.training.metrics import num_rows
from pyro_ext.utils.random_state import isolated_random_state

__all__ = ["check_image_data", "check_images", "data_plate", "mean_metrics"]


def data_plate(size: int, x: Tensor, index: Tensor | None, name: str = "data") -> pyro.plate:
    """Return the rightmost plate, of ``size`` data points of which a batch is at hand.

    Indices are always handed over: left to itself a plate would permute all of ``size`` at each call.

    Args:
        size: the number N of data points; log-probabilities of a batch of B are scaled by N / B.
        x: the batch, shape ``(B, ...)``.
        index: the places of the batch in the data set, shape ``(B,)``; the first ones if None.
        name: what the plate is called.

    Example:
        >>> with data_plate(100, torch.zeros(4, 2), None) as index:
        ...     index
        tensor([0, 1, 2, 3])
    """
    subsample = torch.arange(len(x), device=x.device) if index is None else index
    return pyro.plate(name, size, subsample=subsample, dim=-1)


def check_image_data(data: Splits, binary: bool = True, held_out: bool = False) -> None:
    """Raise a ValueError unless a data set holds images of one size in all its parts.

    Args:
        data: what should hold images as rows of ``x``, ``(N, pixels)``.
        binary: whether pixels must be zeros and ones, or may have any value from 0 to 1.
        held_out: whether there must be held-out images.

    Example:
        >>> check_image_data(Splits("one", torch.zeros(3, 4), torch.zeros(2, 5)))
        Traceback (most recent call last):
            ...
        ValueError: data.valid.x must have as many pixels as data.train.x has (4), got 5
    """
    for part, rows in (("train", data.train), ("valid", data.valid), ("test", data.test)):
        if rows is None and (part == "test" or (part == "valid" and not held_out)):
            continue
        images = getattr(rows, "x", None)
        if not isinstance(images, Tensor):
            raise ValueError(
                f"data.{part} must hold images as rows of x, as digits and mnist do, got "
                f"{None if rows is None else type(rows).__name__}; use IndexedDataset"
            )
        check_images(f"data.{part}.x", images, binary)
        if images.shape[-1] != data.train.x.shape[-1]:
            raise ValueError(
                f"data.{part}.x must have as many pixels as data.train.x has ({data.train.x.shape[-1]}), got "
                f"{images.shape[-1]}"
            )


def check_images(name: str, images: Tensor, binary: bool = True) -> None:
    """Raise a ValueError unless images are rows of pixels, of which there is at least one.

    Args:
        name: what the images are called.
        images: what should have shape ``(N, pixels)``.
        binary: whether pixels must be zeros and ones, or may have any value from 0 to 1.

    Example:
        >>> check_images("data.train.x", torch.full((2, 4), 0.5))
        Traceback (most recent call last):
            ...
        ValueError: data.train.x must hold zeros and ones, got values in [0.5, 0.5]; threshold the pixels (an option ...
    """
    if images.dim() != 2:
        raise ValueError(f"{name} must have shape (N, pixels), got {tuple(images.shape)}; use .flatten(1)")
    if len(images) == 0:
        raise ValueError(f"{name} must hold at least one image, got none")
    if not images.is_floating_point():
        raise ValueError(f"{name} must be of a floating-point type, got {images.dtype}; use .float()")
    if binary and not ((images == 0) | (images == 1)).all():
        raise ValueError(
            f"{name} must hold zeros and ones, got values in [{images.min():g}, {images.max():g}]; "
            "threshold the pixels (an option of the loaders)"
        )
    if not ((images >= 0) & (images <= 1)).all():  # not a number fails too
        raise ValueError(
            f"{name} must hold pixels in [0, 1], got values in [{images.min():g}, {images.max():g}]; "
            "divide by the largest one"
        )


def mean_metrics(
    module: nn.Module, metrics: Callable[..., Mapping[str, Tensor]], seed: int = 0
) -> Callable[[Iterable[Any]], dict[str, float]]:
    """Return a function from a loader to means of metrics over all its data points, for ``TrainingPlan.evaluate``.

    Args:
        module: whose device and type the tensors of a batch are moved to, integers to the device only.
        metrics: called as ``metrics(*batch)`` without gradients; returns named tensors, either of shape ``(B,)``, a
            value for each data point, or ``()``, their mean over the batch.
        seed: the seed of the noise, which is the same whenever parameters and data are.

    Raises:
        ValueError: by the function returned, if the loader is empty.

    Example:
        >>> evaluate = mean_metrics(torch.nn.Linear(2, 1), lambda x, y, index: {"size": x.square().sum(-1)})
        >>> evaluate([(torch.ones(3, 2), None, torch.arange(3)), (torch.zeros(1, 2), None, torch.arange(1))])
        {'size': 1.5}
    """

    @torch.no_grad()
    def evaluate(loader: Iterable[Any]) -> dict[str, float]:
        like = next((p for p in (*module.parameters(), *module.buffers()) if p.is_floating_point()), torch.zeros(()))
        totals: dict[str, Tensor] = {}
        number = 0
        with isolated_random_state(seed, like.device), local_params():  # a DataLoader draws a seed of its own
            for batch in loader:
                count = num_rows(batch)
                number += count
                for name, value in metrics(*(_like(part, like) for part in batch)).items():
                    total = value.double().sum() if value.dim() else count * value.double()
                    totals[name] = totals[name] + total if name in totals else total
        if number == 0:
            raise ValueError("loader must hold at least one data point, got none")
        return {name: float(total) / number for name, total in totals.items()}

    return evaluate


def _like(part: Any, like: Tensor) -> Any:
    if isinstance(part, tuple | list):
        return [_like(inner, like) for inner in part]
    if not isinstance(part, Tensor):
        return part
    return part.to(like) if part.is_floating_point() else part.to(like.device)
