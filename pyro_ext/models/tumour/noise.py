r"""Does a mutation matrix have errors? A network that is trained on simulated tumours (Azer et al. 2020).

.. math::  y \sim \mathrm{Bernoulli}(\tfrac12), \qquad A' \sim p(A' \mid y), \qquad
    q(y \mid A') = \mathrm{Bernoulli}(\mathrm{logit} = f(A')).

The model simulates a tumour by the coalescent; where :math:`y = 1`, its matrix has errors that make two mutations
conflict. The guide is a network, trained to maximise :math:`E_p \log q(y \mid A')`, which is inference compilation.
Since conflicts are what tells the classes apart, the exact test of three gametes is always right here; how near a
network comes to it shows what the network can learn.

Data: simulated 10 x 10 matrices with false positives of .002 and false negatives of .1. The publication trains two
hidden layers of 100 sigmoid units on 2,000,000 matrices, sorted and not. Its accuracies were not available; with 20,000
sorted matrices its network reaches .66 here (three seeds, ``benchmarks/tumour.py``), which the others are compared
with.

References:
    | Tumor phylogeny topology inference via deep learning (Azer et al., 2020)
    | https://doi.org/10.1016/j.isci.2020.101655
    | Inference compilation and universal probabilistic programming (Le et al., 2017)
    | https://arxiv.org/abs/1610.09900
"""

from __future__ import annotations

from typing import Literal

from torch import nn

from pyro_ext.datasets import Splits
from pyro_ext.inference import TrainingPlan
from pyro_ext.models.tumour.networks import MatrixPerceptron, PairNetwork, Sorting
from pyro_ext.models.tumour.plans import check_matrices, label_plan
from pyro_ext.utils.checks import one_of, positive_int

__all__ = ["Network", "build"]

Network = Literal["rectifier", "sigmoid", "pairs"]


def build(
    data: Splits,
    network: Network = "rectifier",
    width: int = 400,
    dropout: float = 0.2,
    sort: Sorting = "both",
    lr: float = 1e-3,
    decay: float = 0.9,
) -> TrainingPlan:
    """Build a network that tells matrices with errors from those without.

    Its loss is the mean cross entropy of labels; there is no ELBO. Its optimiser is Adam. The publication's network is
    ``network="sigmoid", width=100, sort="mutations", decay=1``.

    Args:
        data: matrices with labels, as ``simulated_tumours`` with ``labels="noise"`` has them.
        network: ``rectifier`` and ``sigmoid`` are two hidden layers on the entries of the matrix, for one size of
            matrices; ``pairs`` looks at each pair of mutations, takes any size, and needs no sorting.
        width: the number of units of a hidden layer; of ``pairs`` a 25th part of it, which is 16 by default.
        dropout: the probability that a hidden unit is dropped in training, in [0, 1); ``pairs`` drops none.
        sort: the order into which the first two put matrices: ``none`` leaves them, ``mutations`` sorts columns as
            words, as the publication does, ``both`` sorts mutations by their number of cells and then cells as words.
        lr: Adam's learning rate in the first epoch.
        decay: the factor by which it is multiplied after each epoch, in (0, 1].

    Raises:
        ValueError: if an option is out of range, or the data are no matrices with labels.
    """
    shape = check_matrices(data, "noise")
    one_of("network", network, ("rectifier", "sigmoid", "pairs"))
    positive_int("width", width)
    if network == "pairs":
        chosen: nn.Module = PairNetwork(max(1, width // 25))
    else:
        activation = nn.ReLU if network == "rectifier" else nn.Sigmoid
        chosen = MatrixPerceptron(shape, (width, width), activation, dropout, sort)
    return label_plan(data, chosen, "noise", lr, decay, "clean", "noisy")
