"""Models: each module holds a model and a guide as PyroModules and ``build(data, **options) -> Built``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

__all__ = ["AVAILABLE", "Description", "describe"]

AVAILABLE: dict[str, str] = {
    "categorical_vae": "pyro_ext.models.categorical_vae",
    "drmm": "pyro_ext.models.drmm",
    "permutation_matching": "pyro_ext.models.permutation_matching",
    "phylo": "pyro_ext.models.phylo",
}
"""Name of a model -> import path of its module."""


@dataclass(frozen=True)
class Description:
    """What there is to know about a model before importing it.

    Args:
        summary: one line.
        paper: authors, year, title and arXiv number.
        data: the data set it is fitted to unless told otherwise.
        files: arguments of ``build`` that are lists of files, for the command line to take as ``--NAME FILE FILE``.
        defaults: options of ``pyro-ext fit`` whose defaults are not those of other models; those that begin with
            ``data.`` are for the data set above.
    """

    summary: str
    paper: str
    data: str
    files: tuple[str, ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)


_DESCRIPTIONS: Mapping[str, Description] = MappingProxyType(
    {
        "categorical_vae": Description(
            summary="variational autoencoder whose latent code is N categorical variables of K categories",
            paper="Kool et al. 2020, Estimating gradients for discrete random variables by sampling without "
            "replacement, arXiv 2002.06043",
            data="digits",
        ),
        "drmm": Description(
            summary="Deep Rendering Mixture Model: a convolutional network as inference in a generative model, learnt "
            "from few labels",
            paper="Patel et al. 2016, A probabilistic framework for deep learning, arXiv 1612.01936",
            data="digits",
            defaults=MappingProxyType({"trainer.max_epochs": 40, "data.binarize": None}),
        ),
        "permutation_matching": Description(
            summary="observations in an unknown order, matched with noisy points or with the neurons of a worm",
            paper="Linderman et al. 2018, Reparameterizing the Birkhoff polytope for variational permutation "
            "inference, arXiv 1710.09508",
            data="point_matching",
            defaults=MappingProxyType(
                {"lr": 0.1, "batch_size": 200, "trainer.max_epochs": 150, "trainer.check_val_every_n_epoch": 10}
            ),
        ),
        "phylo": Description(
            summary="the posterior of phylogenetic trees of aligned sequences under JC69: topologies from a subsplit "
            "Bayesian network, log-normal branch lengths",
            paper="Zhang and Matsen 2022, A variational approach to Bayesian phylogenetic inference, arXiv 2204.07747 "
            "(first at ICLR 2019)",
            data="alignment",
            files=("trees", "golden"),
            defaults=MappingProxyType(
                {
                    "lr_decay": 0.75,
                    "lr_decay_every": 20_000,
                    "trainer.max_epochs": 200,
                    "trainer.check_val_every_n_epoch": 10,
                }
            ),
        ),
    }
)


def describe() -> dict[str, Description]:
    """Return the description of every model in :data:`AVAILABLE`, without importing any of them.

    Example:
        >>> describe()["categorical_vae"].data
        'digits'
    """
    return dict(_DESCRIPTIONS)
