r"""The semi-supervised variational autoencoder M2 of Kingma et al. (2014).

Each image :math:`x \in \{0, 1\}^D` has a class y, known for a few images, and a style z,

.. math::

    p(y) = \tfrac1C, \qquad p(z) = N(0, I), \qquad p(x \mid y, z) = \prod_d \mathrm{Bernoulli}(x_d; \sigma(f(z, y)_d)),

with the guide :math:`q(y \mid x)\, q(z \mid x, y)`. With :math:`L(x, y) = E_{q(z \mid x, y)}[\log p(x, y, z) - \log
q(z \mid x, y)]`, what is maximised is (equations 6 to 9 of the paper)

.. math::

    \sum_{(x, y)\ \mathrm{labelled}} L(x, y)
    + \sum_{x\ \mathrm{unlabelled}} \Big[ \sum_y q(y \mid x)\, L(x, y) + H(q(y \mid x)) \Big]
    + \alpha N\; \mathrm{mean}_{\mathrm{labelled}} \log q(y \mid x).

The sum over the classes of an unlabelled image costs C passes of encoder and decoder. It is what a gradient estimator
replaces: the site ``y`` is a latent variable like any other, and ``--elbo`` says how it is treated.

Data: digits or MNIST of which a few images keep their labels (:func:`~pyro_ext.datasets.keep_few_labels`). Headline
figure, MNIST with 5,000 labels of 50,000: summing the most probable class and sampling the rest reaches a test accuracy
of .9650, the sum over all classes .9663, REINFORCE with a second sample as its baseline .9535 (Liu et al., 2019).

References:
    | Semi-supervised learning with deep generative models (Kingma et al., 2014)
    | https://arxiv.org/abs/1406.5298
    | Rao-Blackwellized stochastic gradients for discrete distributions (Liu et al., 2019)
    | https://arxiv.org/abs/1810.04777
"""

from __future__ import annotations

from pyro_ext.models.semi_supervised_vae.build import build
from pyro_ext.models.semi_supervised_vae.evaluation import label_bounds
from pyro_ext.models.semi_supervised_vae.model import Guide, Model

__all__ = ["Guide", "Model", "build", "label_bounds"]
