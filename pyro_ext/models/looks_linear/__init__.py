r"""Classifiers of hundreds of layers without skip connections (Balduzzi et al. 2017).

.. math::  y \sim \mathrm{Categorical}(\mathrm{softmax}(f(x))), \qquad
    f = A_L \circ \mathrm{CReLU} \circ A_{L-1} \circ \dots \circ \mathrm{CReLU} \circ A_1,

with affine :math:`A_l` whose weights :math:`[W_l, -W_l]`, :math:`W_l` orthogonal, make f an affine map before training
(section 4 of the paper). Beside it stand networks of the same depth with rectifiers, batch norm and skip connections,
whose gradients explode, vanish or are shattered (section 3).

Data: the bundled 8 x 8 digits in shades of grey, mixed so that training and held-out images have the same writers. The
paper trains convolutional networks on CIFAR-10 and gives curves; what is measured here is that 200 dense layers without
skip connections reach an accuracy of 96 %, where rectifiers with the initialisation of He et al. stay under 30 %.

References:
    | The shattered gradients problem: if resnets are the answer, then what is the question? (Balduzzi et al., 2017)
    | https://arxiv.org/abs/1702.08591
"""

from pyro_ext.models.looks_linear.build import build
from pyro_ext.models.looks_linear.evaluation import autocorrelation_by_depth, gradients_between
from pyro_ext.models.looks_linear.model import Model, guide
from pyro_ext.models.looks_linear.networks import KINDS, Kind, deep_network, freeze_batch_norm, scalar_network

__all__ = [
    "KINDS",
    "Kind",
    "Model",
    "autocorrelation_by_depth",
    "build",
    "deep_network",
    "freeze_batch_norm",
    "gradients_between",
    "guide",
    "scalar_network",
]
