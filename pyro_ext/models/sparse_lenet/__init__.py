r"""Classifiers of images whose weights are pruned by variational dropout, and what they are compared with.

All weights of linear and convolutional layers have log-uniform priors, and independent normal posteriors
:math:`q(w) = \mathcal{N}(\theta, \sigma^2)` whose means and variances are learnt; biases are parameters:

.. math::  \max \; \frac{N}{M} \sum_{m=1}^M \mathbb{E}_q \log p(y_m | x_m, w)
    - \mathrm{KL}\left(q(w) \| p(w)\right).

Most weights become pure noise, :math:`\alpha = \sigma^2 / \theta^2 \to \infty`, and are removed afterwards, those
with :math:`\log\alpha \ge 3`. Pre-activations are drawn instead of weights (local reparameterisation), the
divergence is a closed form (:class:`~pyro_ext.inference.AnalyticKL`), and its factor rises from 0 to 1 between two
epochs. The same networks without priors, with weights pruned gradually by magnitude, and with Kingma's multiplicative
noise stand beside it.

Data: MNIST, in the shades that it comes in. The headline figure is the error of LeNet-300-100 and the compression, the
number of all weights by that of the weights left: 1.92 % at 68 (Molchanov et al., table 1; 1.64 % without pruning),
and .75 % at 280 for LeNet-5. The prior is improper, so that "posterior" and "evidence" are names only: what is
maximised is a penalised likelihood (Hron et al., 2018, https://arxiv.org/abs/1807.01969).

References:
    | Variational dropout sparsifies deep neural networks (Molchanov et al., 2017), equations 11 and 14, section 5
    | https://arxiv.org/abs/1701.05369
    | Variational dropout and the local reparameterization trick (Kingma et al., 2015)
    | https://arxiv.org/abs/1506.02557
"""

from pyro_ext.models.sparse_lenet.build import Estimator, build
from pyro_ext.models.sparse_lenet.evaluation import evaluation, export, model_plots
from pyro_ext.models.sparse_lenet.model import NoGuide, SparseClassifier

__all__ = [
    "Estimator",
    "NoGuide",
    "SparseClassifier",
    "build",
    "evaluation",
    "export",
    "model_plots",
]
