r"""Noise elimination: which entries of a mutation matrix to flip, so that a tumour has a perfect phylogeny.

Of an observed matrix X, with rates :math:`\alpha` of false positives and :math:`\beta` of false negatives, the matrix A
without conflict that makes X most probable is wanted. A pointer network draws entries to flip one after the other,
without replacement; it is the guide of a program in which sequences of flips :math:`\pi` have the density

.. math::  p(\pi \mid X) \propto \exp\Big( -\tfrac{1}{T} \min_i \big[ \gamma\, \mathrm{NLL}(A_i)
        + \textstyle\sum_{p \ne q} n^{11}_{pq} n^{10}_{pq} n^{01}_{pq} \big] \Big),

where :math:`A_i` is X after the first i flips and :math:`n_{pq}` counts gametes of mutations p and q. So the ELBOs for
autoregressive guides train it: whole sequences drawn without replacement, leave-one-out, or a critic.

Data: :func:`~pyro_ext.datasets.simulated_tumours` with ``labels="matrix"``. The exact optimum, by weighted MaxSAT, is
what it is measured against: 7.03 nats on average for 1,000 conflicting 10 x 10 matrices of the coalescent at rates .002
and .1, where greedy search comes to 7.68, and a small network that sees the matrix, after 150 steps, to 7.15. Matrices
that are much larger, or have other rates, need training of their own. The publication trains on two million matrices;
its figures are not reproduced here.

Two defects of the published code are left out: its reward is zero whatever is flipped, since counts of conflicts are
never added to it, and it weighs the likelihood by the rate of false negatives in the place of gamma.

References:
    | Tumor phylogeny topology inference via deep learning (Azer et al., 2020)
    | https://doi.org/10.1016/j.isci.2020.101655
"""

from __future__ import annotations

from pyro_ext.models.tumour.elimination.build import build
from pyro_ext.models.tumour.elimination.cost import (
    PADDING,
    Observed,
    flip_changes,
    matrix_cost,
    observe,
    prefix_costs,
)
from pyro_ext.models.tumour.elimination.critic import Critic
from pyro_ext.models.tumour.elimination.denoising import Denoised, denoise, greedy_search
from pyro_ext.models.tumour.elimination.evaluation import draw_flips
from pyro_ext.models.tumour.elimination.policy import FlipPolicy, Rollout
from pyro_ext.models.tumour.elimination.program import Guide, Model

__all__ = [
    "PADDING",
    "Critic",
    "Denoised",
    "FlipPolicy",
    "Guide",
    "Model",
    "Observed",
    "Rollout",
    "build",
    "denoise",
    "draw_flips",
    "flip_changes",
    "greedy_search",
    "matrix_cost",
    "observe",
    "prefix_costs",
]
