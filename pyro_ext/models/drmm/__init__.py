r"""The Deep Rendering Mixture Model: a convolutional network as inference in a generative model.

A class template is rendered into an image through layers of templates; at each layer a unit moves within its cell and
may be off. Inferring the best positions and on/off switches from the image upwards is convolution, max pooling and
rectification with the same templates (:class:`~pyro_ext.models.drmm.model.DRMM`), exactly so under the conditions
stated there.

* :mod:`.model`: both directions, the Pyro program and its max-product guide; :mod:`.exact`: tiny models by enumeration.
* :mod:`.objective`: semi-supervised training by gradients; :mod:`.em`, :mod:`.ecm`: expectation maximisation;
  :mod:`.clusters`: training without labels.
* :mod:`.estimation`: prior probabilities of switches, and their distribution given the class
  (:mod:`.switch_distribution`), which serves sampling.
* :mod:`.conversion`: from and to ``nn.Sequential``; folding batch norm into the templates.

Data: digits or MNIST, of which a few have labels. Published figure, MNIST with 100 labels: test error 0.57 % with the
entropy and nonnegativity terms, 13.41 % with neither.

References:
    | A probabilistic framework for deep learning (Patel, Nguyen and Baraniuk, 2016)
    | https://arxiv.org/abs/1612.01936
    | Semi-supervised learning with the deep rendering mixture model (Nguyen et al., 2016)
    | https://arxiv.org/abs/1612.01942
"""

from __future__ import annotations

from pyro_ext.models.drmm.build import build
from pyro_ext.models.drmm.cells import SWITCHES, Switches
from pyro_ext.models.drmm.estimation import estimate_switch_distribution
from pyro_ext.models.drmm.layers import Inferred, Layer, Rendering
from pyro_ext.models.drmm.model import DRMM
from pyro_ext.models.drmm.switch_distribution import SwitchDistribution

__all__ = [
    "DRMM",
    "SWITCHES",
    "Inferred",
    "Layer",
    "Rendering",
    "SwitchDistribution",
    "Switches",
    "build",
    "estimate_switch_distribution",
]
