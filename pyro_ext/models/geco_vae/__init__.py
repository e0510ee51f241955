r"""A variational autoencoder trained under a constraint on its reconstructions (Rezende and Viola 2018).

The latent code z of an image is normal, the decoder g gives the mean of the pixels, and the code says as little about
the image as the reconstruction allows:

.. math::

    \min \; \mathbb{E}_x \, \mathrm{KL}(q(z \mid x) \,\Vert\, \mathcal{N}(0, 1)) \quad \text{such that} \quad
    \mathbb{E}_x \, \mathbb{E}_{q(z \mid x)} \lVert x - g(z) \rVert^2 \le \kappa^2

by :class:`~pyro_ext.inference.TraceGECO_ELBO`. What people do instead is an option each, so that one table compares
them on the same networks: a weight of the divergence (beta-VAE), its warm-up, noise on the input, and a calibrated
decoder, whose variance is learnt (sigma-VAE).

Data: the bundled 8 x 8 digits in shades of grey, the Frey faces, or MNIST. No figure of the paper's could be obtained;
a published reproduction on MNIST (networks 784-512-256, :math:`\kappa^2 = 16`) reached a divergence of 10.5 nats and a
squared error of 14.6 for GECO, 1.6 and 55.9 for the plain autoencoder.

References:
    | Taming VAEs (Rezende and Viola, 2018), https://arxiv.org/abs/1810.00597
    | beta-VAE (Higgins et al., 2017), https://openreview.net/forum?id=Sy2fzU9gl
    | Simple and effective VAE training with calibrated decoders (Rybkin et al., 2021),
      https://arxiv.org/abs/2006.13202
"""

from pyro_ext.models.geco_vae.build import build
from pyro_ext.models.geco_vae.model import Guide, Model

__all__ = ["Guide", "Model", "build"]
