r"""Images from a generator, and a classifier from few labels: improved GANs (Salimans et al., 2016).

A generator makes images of uniform variables, :math:`z \sim U(0, 1)^L`, :math:`x = G(z)`. A discriminator with the
logits :math:`l(x)` of K classes and :math:`l_{K+1} = 0` of generated images is a Pyro program,

.. math::

    y \sim \mathrm{Categorical}(\mathrm{softmax}\, l(x)), \qquad
    r \sim \mathrm{Bernoulli}(D(x)), \qquad D(x) = \frac{Z(x)}{Z(x) + 1}, \qquad Z(x) = \sum_{k=1}^K e^{l_k(x)},

observed at the labels y of a few images, at r = 1 (or a smoothed target) for real images and at r = 0 for generated
ones; its loss is minus the log-probability of this program (section 5 of the paper). The generator minimises the
distance of mean features of generated images from those of real ones (feature matching, section 3.1), or
:math:`-\log D(G(z))`. Minibatch discrimination (3.2), historical averaging (3.3), one-sided label smoothing (3.4) and
virtual batch normalisation (3.5) are options; their layers are in :mod:`pyro_ext.nn`. No ELBO applies: a generator has
no density.

In each step the discriminator moves first, and the generator against the moved one. Three things differ from the
published program: the generator begins at the mean of the training images, and the weights of its last layer are long,
so that they turn slowly (otherwise its first steps turn some pixels on or off for good, by which the discriminator then
tells generated images); averages of parameters do not begin at zero; and a step draws one batch of generated images for
both players.

Data: images of which a few keep their labels (:func:`~pyro_ext.datasets.keep_few_labels`). Headline figure: with 100
labels of MNIST's 60,000 training images, 93 of the 10,000 test images are classified wrongly after 300 epochs (table 1
of the paper). What shorter training and smaller data give is in ``benchmarks/gan.py``. The networks for CIFAR-10 are
tested with generated images only: the paper's figures for CIFAR-10 and SVHN are out of reach here and have not
been repeated, nor has its study with human judges.

References:
    | Improved techniques for training GANs (Salimans et al., 2016)
    | https://arxiv.org/abs/1606.03498, with the program https://github.com/openai/improved-gan
"""

from pyro_ext.models.gan.build import build
from pyro_ext.models.gan.evaluation import diagnose, draw_samples, num_classes_of, spread
from pyro_ext.models.gan.losses import (
    DiscriminatorObjective,
    GeneratorObjective,
    LastImages,
    feature_matching_loss,
    standard_loss,
)
from pyro_ext.models.gan.networks import (
    DiscriminatorNetwork,
    GaussianNoise,
    discriminator_network,
    generator_network,
    latent_size,
)
from pyro_ext.models.gan.plots import SampleHistory
from pyro_ext.models.gan.programs import Discriminator, Generator, Judgement, SoftTargetBernoulli
from pyro_ext.models.gan.scores import ImageScores, classifier_scores, frechet_distance

__all__ = [
    "Discriminator",
    "DiscriminatorNetwork",
    "DiscriminatorObjective",
    "GaussianNoise",
    "Generator",
    "GeneratorObjective",
    "ImageScores",
    "Judgement",
    "LastImages",
    "SampleHistory",
    "SoftTargetBernoulli",
    "build",
    "classifier_scores",
    "diagnose",
    "discriminator_network",
    "draw_samples",
    "feature_matching_loss",
    "frechet_distance",
    "generator_network",
    "latent_size",
    "num_classes_of",
    "spread",
    "standard_loss",
]
