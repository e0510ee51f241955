"""Which models there are: one table, read without importing any of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from pyro_ext.utils.checks import one_of

if TYPE_CHECKING:
    from pyro_ext.inference import TrainingPlan

__all__ = ["MODELS", "ModelEntry", "builder", "describe"]


@dataclass(frozen=True)
class ModelEntry:
    """What there is to know about a model before importing it.

    Args:
        module: the import path of the module that holds ``build``.
        summary: one line.
        paper: authors, year, title and arXiv number.
        data: the data set it is fitted to unless told otherwise.
        files: arguments of ``build`` that are lists of files, for the command line to take as ``--NAME FILE FILE``.
        defaults: options of ``pyro-ext fit`` whose defaults are not those of other models, by their names on the
            command line; those that begin with ``data.`` are for the data set above.
    """

    module: str
    summary: str
    paper: str
    data: str
    files: tuple[str, ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)


MODELS: Mapping[str, ModelEntry] = MappingProxyType(
    {
        "categorical_vae": ModelEntry(
            module="pyro_ext.models.categorical_vae",
            summary="variational autoencoder whose latent code is N categorical variables of K categories",
            paper="Kool et al. 2020, Estimating gradients for discrete random variables by sampling without "
            "replacement, arXiv 2002.06043",
            data="digits",
            defaults=MappingProxyType({"trainer.max_epochs": 100}),
        ),
        "compressed_lenet": ModelEntry(
            module="pyro_ext.models.compressed_lenet",
            summary="classifier of images whose units and kernels are removed, and whose weights are rounded, as far "
            "as the posterior allows",
            paper="Louizos et al. 2017, Bayesian compression for deep learning, arXiv 1705.08665",
            data="digits",
            defaults=MappingProxyType(
                {"trainer.max_epochs": 300, "trainer.check_val_every_n_epoch": 50, "data.binarize": None}
            ),
        ),
        "disentangling": ModelEntry(
            module="pyro_ext.models.disentangling",
            summary="autoencoder whose code s holds the class of an image and whose code z holds the rest, by swapped "
            "codes and an adversary",
            paper="Mathieu et al. 2016, Disentangling factors of variation in deep representations using adversarial "
            "training, arXiv 1611.03383",
            data="digits",
            defaults=MappingProxyType(
                {"trainer.max_epochs": 100, "trainer.check_val_every_n_epoch": 20, "data.binarize": None}
            ),
        ),
        "drmm": ModelEntry(
            module="pyro_ext.models.drmm",
            summary="Deep Rendering Mixture Model: a convolutional network as inference in a generative model, learnt "
            "from few labels",
            paper="Patel et al. 2016, A probabilistic framework for deep learning, arXiv 1612.01936",
            data="digits",
            defaults=MappingProxyType({"trainer.max_epochs": 40, "data.binarize": None}),
        ),
        "gan": ModelEntry(
            module="pyro_ext.models.gan",
            summary="generator of images, and a discriminator that learns classes from few labels and from telling "
            "real images from generated ones",
            paper="Salimans et al. 2016, Improved techniques for training GANs, arXiv 1606.03498",
            data="few_labels",
            defaults=MappingProxyType(
                {
                    "trainer.max_epochs": 100,
                    "trainer.check_val_every_n_epoch": 10,
                    "data.num_labels": 50,
                    "data.unlabelled": "all",
                    "data.binarize": None,
                }
            ),
        ),
        "gcn": ModelEntry(
            module="pyro_ext.models.gcn",
            summary="graph convolutional network that gives the nodes of a graph classes, from a few labels; the most "
            "probable weights or a posterior of them",
            paper="Kipf and Welling 2017, Semi-supervised classification with graph convolutional networks, arXiv "
            "1609.02907",
            data="karate_club",
            defaults=MappingProxyType({"trainer.max_epochs": 20}),
        ),
        "geco_vae": ModelEntry(
            module="pyro_ext.models.geco_vae",
            summary="variational autoencoder whose code says as little as a constraint on its reconstructions allows",
            paper="Rezende and Viola 2018, Taming VAEs, arXiv 1810.00597",
            data="digits",
            defaults=MappingProxyType({"batch_size": 128, "trainer.max_epochs": 300, "data.binarize": None}),
        ),
        "hard_attention": ModelEntry(
            module="pyro_ext.models.hard_attention",
            summary="a digit on a large canvas: its position, one categorical variable with thousands of categories, "
            "is found by a network that scores all of them, then what is there is encoded",
            paper="Liu et al. 2019, Rao-Blackwellized stochastic gradients for discrete distributions, arXiv "
            "1810.04777",
            data="moving_digits",
            defaults=MappingProxyType({"batch_size": 64, "trainer.max_epochs": 20}),
        ),
        "looks_linear": ModelEntry(
            module="pyro_ext.models.looks_linear",
            summary="classifier of hundreds of layers without skip connections, which is an affine map before training",
            paper="Balduzzi et al. 2017, The shattered gradients problem: if resnets are the answer, then what is the "
            "question?, arXiv 1702.08591",
            data="digits",
            defaults=MappingProxyType(
                {
                    "batch_size": 50,
                    "trainer.max_epochs": 8,
                    "trainer.gradient_clip_val": 1.0,
                    "data.binarize": None,
                    "data.mixed": True,
                }
            ),
        ),
        "neuron_matching": ModelEntry(
            module="pyro_ext.models.neuron_matching",
            summary="which neuron of a worm is which, by simulated activity of all neurons",
            paper="Linderman et al. 2018, Reparameterizing the Birkhoff polytope for variational permutation "
            "inference, arXiv 1710.09508",
            data="simulated_worms",
            defaults=MappingProxyType(
                {"batch_size": 200, "trainer.max_epochs": 150, "trainer.check_val_every_n_epoch": 10}
            ),
        ),
        "phylo": ModelEntry(
            module="pyro_ext.models.phylo",
            summary="the posterior of phylogenetic trees of aligned sequences under JC69: topologies from a subsplit "
            "Bayesian network, log-normal branch lengths",
            paper="Zhang and Matsen 2022, A variational approach to Bayesian phylogenetic inference, arXiv 2204.07747 "
            "(first at ICLR 2019)",
            data="alignment",
            files=("trees", "golden"),
            defaults=MappingProxyType({"trainer.max_epochs": 200, "trainer.check_val_every_n_epoch": 10}),
        ),
        "point_matching": ModelEntry(
            module="pyro_ext.models.point_matching",
            summary="noisy observations in an unknown order, matched with the points they come from",
            paper="Linderman et al. 2018, Reparameterizing the Birkhoff polytope for variational permutation "
            "inference, arXiv 1710.09508",
            data="point_matching",
            defaults=MappingProxyType(
                {"batch_size": 200, "trainer.max_epochs": 150, "trainer.check_val_every_n_epoch": 10}
            ),
        ),
        "sparse_lenet": ModelEntry(
            module="pyro_ext.models.sparse_lenet",
            summary="classifiers of images most of whose weights become noise and are removed: sparse variational "
            "dropout, beside dense networks, pruning by magnitude and multiplicative noise",
            paper="Molchanov, Ashukha and Vetrov 2017, Variational dropout sparsifies deep neural networks, arXiv "
            "1701.05369",
            data="digits",
            defaults=MappingProxyType(
                {"trainer.max_epochs": 200, "trainer.check_val_every_n_epoch": 20, "data.binarize": None}
            ),
        ),
        "structured_output": ModelEntry(
            module="pyro_ext.models.structured_output",
            summary="lower halves of images given upper halves, or densities of images, by layers of discrete units",
            paper="Maddison, Mnih and Teh 2017, The Concrete distribution, arXiv 1611.00712; Jang, Gu and Poole 2017, "
            "Categorical reparameterization with Gumbel-softmax, arXiv 1611.01144",
            data="digits",
            defaults=MappingProxyType({"trainer.max_epochs": 100, "trainer.check_val_every_n_epoch": 10}),
        ),
        "tumour_elimination": ModelEntry(
            module="pyro_ext.models.tumour.elimination",
            summary="flips of single entries that rid the mutation matrix of a tumour of its conflicts, one after the "
            "other, by a pointer network",
            paper="Azer et al. 2020, Tumor phylogeny topology inference via deep learning, doi "
            "10.1016/j.isci.2020.101655",
            data="simulated_tumours",
            defaults=MappingProxyType(
                {
                    "batch_size": 64,
                    "trainer.max_epochs": 6,
                    "trainer.gradient_clip_val": 1.0,
                    "data.labels": "matrix",
                    "data.num_train": 6400,
                    "data.num_valid": 200,
                }
            ),
        ),
        "semi_supervised_vae": ModelEntry(
            module="pyro_ext.models.semi_supervised_vae",
            summary="variational autoencoder of images with a class and a style, learnt from few labels; how the class "
            "of the others is summed over or sampled is a choice",
            paper="Kingma et al. 2014, Semi-supervised learning with deep generative models, arXiv 1406.5298",
            data="few_labels",
            defaults=MappingProxyType({"trainer.max_epochs": 100}),
        ),
        "tumour_branching": ModelEntry(
            module="pyro_ext.models.tumour.branching",
            summary="whether the phylogeny of a tumour has branches, by a network trained on simulated tumours",
            paper="Azer et al. 2020, Tumor phylogeny topology inference via deep learning, doi "
            "10.1016/j.isci.2020.101655",
            data="simulated_tumours",
            defaults=MappingProxyType(
                {
                    "trainer.max_epochs": 30,
                    "trainer.check_val_every_n_epoch": 5,
                    "data.labels": "branching",
                    "data.false_positive": 0.0,
                    "data.false_negative": 0.0,
                }
            ),
        ),
        "tumour_noise": ModelEntry(
            module="pyro_ext.models.tumour.noise",
            summary="whether a mutation matrix has errors, by a network trained on simulated tumours",
            paper="Azer et al. 2020, Tumor phylogeny topology inference via deep learning, doi "
            "10.1016/j.isci.2020.101655",
            data="simulated_tumours",
            defaults=MappingProxyType({"trainer.max_epochs": 30, "trainer.check_val_every_n_epoch": 5}),
        ),
    }
)
"""Name of a model -> what there is to know about it."""


def describe(name: str) -> ModelEntry:
    """Return the entry of a model.

    Raises:
        ValueError: if there is no such model.

    Example:
        >>> describe("categorical_vae").data
        'digits'
    """
    return MODELS[one_of("model", name, MODELS)]


def builder(name: str) -> Callable[..., TrainingPlan]:
    """Return a model's ``build``, which maps data and options to a training plan.

    Args:
        name: a model in :data:`MODELS`.

    Raises:
        ValueError: if there is no such model.
    """
    build: Callable[..., TrainingPlan] = import_module(describe(name).module).build
    return build
