r"""The Deep Rendering Mixture Model: a convolutional network as inference in a generative model.

A class template is rendered into an image through layers of templates; on the way each unit moves within its cell and
may be off. Finding the best moves and switches from the image upwards is convolution, max pooling and rectification
with the same templates (:class:`~pyro_ext.models.drmm.model.DRMM`), exactly so under the conditions stated there.

* :mod:`.programs`: the Pyro program and its max-product guide; :mod:`.exact`: tiny models by enumeration.
* :mod:`.losses`: semi-supervised training by gradients; :mod:`.em`, :mod:`.ecm`: by expectation maximisation.
* :mod:`.priors`, :mod:`.switch_law`, :mod:`.switch_styles`: laws of switches, the latter for samples alone.
* :mod:`.conversion`: from and to ``nn.Sequential``; :mod:`.batch_norm`: folding it into the templates.

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
from pyro_ext.models.drmm.geometry import Layer
from pyro_ext.models.drmm.model import DRMM, Inferred, Rendering
from pyro_ext.models.drmm.switch_law import SwitchLaw
from pyro_ext.models.drmm.switch_styles import estimate_switch_law

__all__ = [
    "DRMM",
    "SWITCHES",
    "Inferred",
    "Layer",
    "Rendering",
    "SwitchLaw",
    "Switches",
    "build",
    "estimate_switch_law",
]
