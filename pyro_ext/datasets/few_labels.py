"""Data sets of which only a few data points keep their labels, as two streams: unlabelled and labelled."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Literal, get_args

import torch

from pyro_ext.datasets.base import IndexedDataset, Splits, TwoStreams
from pyro_ext.datasets.bundled import digits
from pyro_ext.datasets.mnist_files import mnist
from pyro_ext.datasets.pixels import Binarization
from pyro_ext.utils.checks import one_of, positive_int

__all__ = ["choose_labelled", "few_labels", "keep_few_labels"]

Unlabelled = Literal["others", "all"]
_SOURCES: Mapping[str, Callable[..., Splits]] = MappingProxyType({"digits": digits, "mnist": mnist})


def few_labels(
    source: str = "digits",
    num_labels: int = 100,
    labelled_batch_size: int | None = None,
    label_seed: int = 0,
    unlabelled: Unlabelled = "others",
    binarize: Binarization | None = "threshold",
    protocol: str = "auto",
) -> Splits:
    """Load images of which a few keep their labels; see :func:`keep_few_labels`.

    Args:
        source: the data set the images come from: ``"digits"`` or ``"mnist"``.
        num_labels: the number of training images that keep their labels, equally many of each class.
        labelled_batch_size: the number of labelled images in a batch; as many as unlabelled ones if None.
        label_seed: the seed by which the images that keep their labels are chosen.
        unlabelled: the stream without labels: the ``"others"``, or ``"all"`` images.
        binarize: what becomes of the shades of pixels, ``"threshold"``, ``"dynamic"``, or None to keep them; as in the
            loader of the source.
        protocol: the split of MNIST, ``"full"``, ``"split"`` or ``"auto"``, as in its loader; of no use for digits.

    Raises:
        ValueError: if an argument is out of range.
        MissingDataError: if files of MNIST are neither at hand nor to be fetched.

    Example:
        >>> few_labels(num_labels=50).train
        TwoStreams(IndexedDataset(x (1450, 64), no labels), IndexedDataset(x (50, 64), labels (50,)))
    """
    load = _SOURCES[one_of("source", source, _SOURCES)]
    splits = load(binarize=binarize, protocol=protocol) if source == "mnist" else load(binarize=binarize)
    if source != "mnist" and protocol != "auto":
        raise ValueError(f"protocol={protocol!r} is for source='mnist', got source={source!r}; leave it out")
    return keep_few_labels(splits, num_labels, labelled_batch_size, label_seed, unlabelled)


def keep_few_labels(
    splits: Splits,
    num_labels: int,
    labelled_batch_size: int | None = None,
    label_seed: int = 0,
    unlabelled: Unlabelled = "others",
) -> Splits:
    """Return splits whose training data are two streams: unlabelled data points, and the few that keep their labels.

    No data point is in both, unless ``unlabelled="all"``. Held-out data stay as they are, and images whose pixels are
    redrawn go on being redrawn.

    Args:
        splits: a data set with labels 0 .. C - 1.
        num_labels: the number of training data points that keep their labels, equally many of each class.
        labelled_batch_size: the number of labelled data points in a batch; as many as unlabelled ones if None.
        label_seed: the seed by which the data points that keep their labels are chosen.
        unlabelled: the stream without labels: the ``"others"``, or ``"all"`` data points, those that keep their labels
            included, for models to which a data point without its label is one more example of images.

    Raises:
        ValueError: if there are no labels, too few of a class, or no data points would be left without one.

    Example:
        >>> keep_few_labels(digits(num_train=200), num_labels=20).train
        TwoStreams(IndexedDataset(x (180, 64), no labels), IndexedDataset(x (20, 64), labels (20,)))
    """
    data = splits.train
    if not isinstance(data, IndexedDataset) or data.y is None:
        raise ValueError(f"splits.train must be rows with labels, got {data!r}")
    rows = _chosen_rows(data, num_labels, int(data.y.max()) + 1, label_seed)
    if len(rows) == len(data):
        raise ValueError(f"num_labels must be less than {len(data)}, the number of data points, got {num_labels}")
    first = torch.ones(len(data), dtype=torch.bool, device=rows.device)
    if one_of("unlabelled", unlabelled, get_args(Unlabelled)) == "others":
        first[rows] = False
    streams = TwoStreams(data.subset(first, labels=False), data.subset(rows), labelled_batch_size)
    return replace(splits, name=f"{splits.name}-{num_labels}-labels", train=streams)


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
    rows = _chosen_rows(data, num_labels, classes, seed)
    return data.subset(rows)


def _chosen_rows(data: IndexedDataset, num_labels: int, classes: int, seed: int) -> torch.Tensor:
    if data.y is None:
        raise ValueError("data must hold labels to choose from, got none")
    if positive_int("num_labels", num_labels) > len(data):
        raise ValueError(f"num_labels must be at most {len(data)}, the number of data points, got {num_labels}")
    if num_labels < classes:
        raise ValueError(f"num_labels must be at least {classes}, one of each class, got {num_labels}")
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(data), generator=generator, device="cpu")
    shuffled, chosen = data.y.cpu()[order], []  # on the CPU, so that a seed gives the same ones on every device
    for label in range(classes):
        wanted = num_labels // classes + (label < num_labels % classes)
        own = order[shuffled == label]
        if len(own) < wanted:
            raise ValueError(f"num_labels={num_labels} needs {wanted} data points of class {label}, got {len(own)}")
        chosen.append(own[:wanted])
    return torch.cat(chosen)
