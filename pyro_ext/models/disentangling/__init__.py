r"""Codes that separate the class of an image from all else, learnt from labels and an adversary (Mathieu et al., 2016).

An encoder gives each image x a code s, which should hold what all images of a class share, and a distribution of a code
z, which should hold the rest. A decoder makes an image of any z and any s,

.. math::

    p(z) = N(z; 0, I), \qquad p(x \mid z, s) = \prod_d N(x_d; \mathrm{Dec}(z, s)_d, \sigma^2), \qquad
    q(z \mid x) = N(z; \mu(x), \mathrm{diag}\, v(x)), \qquad s = s(x).

Besides minus the ELBO, encoder and decoder minimise two losses of other images: :math:`x_2` of the class of
:math:`x_1`, and :math:`x_3` of another class,

.. math::

    L_{swap} = -\ln p(x_1 \mid z_1, s_2), \qquad
    L_{adv} = -\ln D(\mathrm{Dec}(z, s_1), y_1) \quad \text{with } z = z_3 \text{ and } z \sim N(0, I),

where the discriminator D learns to tell images of a class from decoded ones (section 3 and figure 1 of the paper).

Data: images with labels, such as the bundled digits or sprites. Headline figure: on MNIST a classifier has 2.8 % errors
on s and 87.0 % on z, where guessing has 90.0 % (table 1 of the paper). An independent implementation reports accuracies
of 98.5 % on s and 67 to 72 % on z; z at the level of guessing is not to be expected, and what is measured depends on
whether z is drawn from q or is its mean, so that both are reported here. On random splits of the digits (five seeds, 80
epochs, ``benchmarks/disentangling.py``) classifiers are right for 98.1 % by s, 91.4 % by the mean of z and 27.5 % by
draws of z; with swaps alone for 97.4, 88.8 and 53.7 %. Two things here are not in the paper, and each can be turned
off: noise on the images that the encoder sees in training, and real images shown to the discriminator with another
class.

References:
    | Disentangling factors of variation in deep representations using adversarial training (Mathieu et al., 2016)
    | https://arxiv.org/abs/1611.03383
    | Generative adversarial text to image synthesis (Reed et al., 2016), for images with another class
    | https://arxiv.org/abs/1605.05396
    | Disentangling factors of variation with cycle-consistent variational auto-encoders (Jha et al., 2018)
    | https://arxiv.org/abs/1804.10469, whose code has the independent implementation
    | https://github.com/ananyahjha93/disentangling-factors-of-variation-using-adversarial-training
"""

from pyro_ext.models.disentangling.build import build
from pyro_ext.models.disentangling.factor_scores import DCI, dci, mutual_information_gap
from pyro_ext.models.disentangling.losses import AdversarialObjective, DiscriminatorObjective, SwapObjective
from pyro_ext.models.disentangling.networks import Codes, Decoder, Discriminator, Encoder
from pyro_ext.models.disentangling.partners import ClassPartners
from pyro_ext.models.disentangling.probes import codes_of, probe_accuracy
from pyro_ext.models.disentangling.programs import Guide, Model

__all__ = [
    "DCI",
    "AdversarialObjective",
    "ClassPartners",
    "Codes",
    "Decoder",
    "Discriminator",
    "DiscriminatorObjective",
    "Encoder",
    "Guide",
    "Model",
    "SwapObjective",
    "build",
    "codes_of",
    "dci",
    "mutual_information_gap",
    "probe_accuracy",
]
