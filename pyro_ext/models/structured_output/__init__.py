r"""Networks of discrete layers, for the lower half of an image given its upper half, and for densities of images.

The lower half x given the upper half u, and whole images x, with layers of n-ary variables h:

.. math::

    p(x \mid u) = \sum_h p(h_1 \mid u) \prod_{l=2}^{L} p(h_l \mid h_{l-1}) \; p(x \mid h_L), \qquad
    p(x) = \sum_h p(h_L) \prod_{l=1}^{L-1} p(h_l \mid h_{l+1}) \; p(x \mid h_1).

Both are trained by the multi-sample bound, for discrete layers or for relaxed ones, and evaluated by that of the
discrete model with more samples. States are the corners of a cube of -1 and 1, or one-hot; the biases of the pixels
start at their base rates; the inputs of the inference network are centred; the density has a learned prior.

Data: the bundled 8 x 8 digits, or MNIST. Headline figures, negative log-likelihood of MNIST by Maddison et al. (2017),
table 1 and figure 4, for 10 million steps with m samples in the bound, Concrete / VIMCO (m = 1: NVIL):

===========================  ===========  ===========  ==========
network                      m = 1        m = 5        m = 50
===========================  ===========  ===========  ==========
392-240-240-392, lower half  58.5/61.4    54.3/54.5    53.4/51.8
200-784, linear              107.3/104.4  104.9/101.9  104.3/98.8
200-200-784, linear          102.1/92.9   99.9/91.7    99.5/90.7
200-784, non-linear          92.1/93.8    89.5/91.4    88.5/89.3
200-200-784, non-linear      87.9/88.4    86.3/86.4    85.7/85.5
===========================  ===========  ===========  ==========

Jang et al. (2017), table 1, for lower halves through two layers of 200 binary units, and of 20 variables with 10 states
each: score function 72.0 and 73.1, straight-through 58.9 and 61.8, Gumbel-softmax 58.5 and 59.0. For example::

    pyro-ext fit structured_output --elbo TraceUnorderedSet_ELBO --elbo.num_samples 4
    pyro-ext fit structured_output --model.task density --model.nonlinear true --model.samples 50

References:
    | The Concrete distribution: a continuous relaxation of discrete random variables (Maddison et al., 2017), section 5
    | https://arxiv.org/abs/1611.00712
    | Categorical reparameterization with Gumbel-softmax (Jang et al., 2017), section 4, https://arxiv.org/abs/1611.01144
    | Techniques for learning binary stochastic feedforward neural networks (Raiko et al., 2015)
    | https://arxiv.org/abs/1406.2989
"""

from pyro_ext.models.structured_output.baselines import LearnedBaselineELBO
from pyro_ext.models.structured_output.build import build
from pyro_ext.models.structured_output.density import DensityGuide, DensityModel
from pyro_ext.models.structured_output.evaluation import importance_bounds, log_weights
from pyro_ext.models.structured_output.layers import Centred, Units
from pyro_ext.models.structured_output.lower_half import LowerHalfGuide, LowerHalfModel, UpperHalfLayers

__all__ = [
    "Centred",
    "DensityGuide",
    "DensityModel",
    "LearnedBaselineELBO",
    "LowerHalfGuide",
    "LowerHalfModel",
    "Units",
    "UpperHalfLayers",
    "build",
    "importance_bounds",
    "log_weights",
]
