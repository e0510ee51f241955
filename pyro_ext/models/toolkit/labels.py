"""Choosing which data points keep their labels."""

from __future__ import annotations

import torch

from pyro_ext.datasets import IndexedDataset
from pyro_ext.utils.checks import positive_int

__all__ = ["choose_labelled"]


def choose_labelled(data: IndexedDataset, num_labels: int, classes: int, seed: int = 0) -> IndexedDataset:
    """Return some data points with their labels, as many of each class as of the others, or one more.

    Args:
        data: data points and labels.
        num_labels: the number of data points to choose.
        classes: the number C of classes.
        seed: the seed of the choice.

    Raises:
        ValueError: if there are no labels, or too few of a class.

    Example:
        >>> data = IndexedDataset(torch.zeros(9, 4), torch.tensor([0, 0, 0, 0, 1, 1, 1, 2, 2]))
        >>> choose_labelled(data, num_labels=5, classes=3).y
        tensor([0, 0, 1, 1, 2])
    """
    if data.y is None:
        raise ValueError("data must hold labels to choose from, got none")
    if positive_int("num_labels", num_labels) > len(data):
        raise ValueError(f"num_labels must be at most {len(data)}, the number of data points, got {num_labels}")
    if num_labels < classes:
        raise ValueError(f"num_labels must be at least {classes}, one of each class, got {num_labels}")
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(data), generator=generator)
    chosen = []
    for label in range(classes):
        wanted = num_labels // classes + (label < num_labels % classes)
        own = order[data.y[order] == label]
        if len(own) < wanted:
            raise ValueError(f"num_labels={num_labels} needs {wanted} data points of class {label}, got {len(own)}")
        chosen.append(own[:wanted])
    rows = torch.cat(chosen)
    return IndexedDataset(data.x[rows], data.y[rows])
