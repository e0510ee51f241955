"""Training images in two streams, unlabelled and labelled, as models that learn from few labels take them."""

from __future__ import annotations

import torch

from pyro_ext.datasets import IndexedDataset, Splits, TwoStreams
from pyro_ext.models.toolkit.data import check_images

__all__ = ["labelled_streams"]


def labelled_streams(data: Splits, binary: bool = True) -> tuple[IndexedDataset, IndexedDataset, int]:
    """Return unlabelled and labelled training images, and the number of classes.

    Args:
        data: training data in two streams, of unlabelled and of labelled images, and held-out images with labels.
        binary: whether pixels must be zeros and ones, or may have any value from 0 to 1.

    Raises:
        ValueError: if the training data are not two streams, the second one has no labels or not all classes, there are
            no held-out images with labels, or the images are not rows of as many pixels.

    Example:
        >>> from pyro_ext.datasets import few_labels
        >>> unlabelled, labelled, classes = labelled_streams(few_labels(num_labels=50))
        >>> len(unlabelled), len(labelled), classes
        (1450, 50, 10)
    """
    streams = data.train
    if not isinstance(streams, TwoStreams) or not isinstance(streams.first, IndexedDataset):
        raise ValueError(
            f"data.train must be two streams, of unlabelled and labelled images, got {streams}; use the data set "
            "few_labels, or keep_few_labels(data, num_labels) of pyro_ext.datasets"
        )
    unlabelled, labelled = streams.first, streams.second
    check_images("the unlabelled data.train.x", unlabelled.x, binary)
    if not isinstance(labelled, IndexedDataset) or labelled.y is None:
        raise ValueError(f"the second stream of data.train must have labels, got none in {labelled}")
    if data.valid is None:
        raise ValueError("data.valid must hold images with labels, by which the classifier is judged, got None")
    for name, part in (
        ("the labelled data.train", labelled),
        ("data.valid", data.valid),
        *([] if data.test is None else [("data.test", data.test)]),
    ):
        check_images(f"{name}.x", part.x, binary)
        if part.x.shape[-1] != unlabelled.x.shape[-1]:
            raise ValueError(
                f"{name}.x must have {unlabelled.x.shape[-1]} pixels like the unlabelled images, got {part.x.shape[-1]}"
            )
        if part.y is None or part.y.dim() != 1 or part.y.is_floating_point() or part.y.dtype == torch.bool:
            kind = "none" if part.y is None else f"{part.y.dtype} of shape {tuple(part.y.shape)}"
            raise ValueError(f"{name} must have one integer label for each image, got {kind}")
    classes = int(labelled.y.max()) + 1
    if labelled.y.unique().tolist() != [*range(max(classes, 2))]:
        raise ValueError(
            f"the labels of data.train must be classes 0 .. C - 1, each of them once at least and two or more, got "
            f"{labelled.y.unique().tolist()}"
        )
    for name, part in (("valid", data.valid), ("test", data.test)):
        if part is not None and bool(((part.y < 0) | (part.y >= classes)).any()):
            raise ValueError(
                f"data.{name} must have labels 0 .. {classes - 1}, those of the training images, got "
                f"{part.y.unique().tolist()}"
            )
    return unlabelled, labelled, classes
