r"""Bayesian compression of LeNet-300-100, LeNet-5 and a VGG-like network (Louizos et al., 2017).

The weights of a group, those from one input of a linear layer or of one kernel of a convolution, share a scale,

.. math::

    w_{ij} = z_i \tilde w_{ij}, \qquad \tilde w_{ij} \sim \mathcal{N}(0, 1), \qquad
    p(z_i) \propto 1 / |z_i| \quad \text{or} \quad z_i = s \tilde z_i,\; s \sim C^+(0, \tau_0),\;
    \tilde z_i \sim C^+(0, 1),

the normal-Jeffreys prior or the horseshoe. Groups whose posterior scale is noise are removed, which makes all layers
smaller, and the posterior variances of the weights that are left say how many bits each layer needs. A guide of
independent normal and log-normal variables is trained by the evidence lower bound with closed divergences and local
reparameterisation (sections 3 and 4 of the paper).

Data: the bundled 8 x 8 digits, or MNIST. Figures of the paper on MNIST, compression by pruning and with fixed-point
weights: LeNet-300-100 learned sizes 278-98-13 (normal-Jeffreys) and 311-86-14 (horseshoe) at 1.8 % error, 9 and 9, 36
and 23; LeNet-5 8-13-88-13 and 5-10-76-16 at 1.0 % error, 108 and 156, 361 and 419. The VGG-like network is for images
of 32 x 32, such as CIFAR-10.

References:
    | Bayesian compression for deep learning (Louizos et al., 2017), https://arxiv.org/abs/1705.08665
    | Variational dropout and the local reparameterization trick (Kingma et al., 2015),
      https://arxiv.org/abs/1506.02557
"""

from pyro_ext.models.compressed_lenet.build import build
from pyro_ext.models.compressed_lenet.compression import Compressed, Compressor, Rule

__all__ = ["Compressed", "Compressor", "Rule", "build"]
