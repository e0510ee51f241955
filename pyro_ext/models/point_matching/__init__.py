r"""Points matched with noisy observations of them in an unknown order.

.. math::  X \sim p(X), \qquad Y \mid X \sim N(X C, \sigma^2 I), \qquad q(X) = \prod_i q(X_i; \theta_i),

for every problem i, with the N points as the rows of C and the observations as the rows of Y. Each problem has
variational parameters of its own, relaxed or exact, and a batch of problems is trained in one step. The exact
posterior is known for N up to 18.

Data: ``point_matching``, simulated. Headline figures for N = 6 and noise .1 / .25 / .5 / .75, Hellinger distances to
the posterior: rounding .06 / .21 / .32 / .38, relaxed stick-breaking .09 / .23 / .41 / .55. For example::

    pyro-ext fit point_matching --data.noise .25

References:
    | Reparameterizing the Birkhoff polytope for variational permutation inference (Linderman et al., 2018), table 1
    | and section 5.1, https://arxiv.org/abs/1710.09508
    | Learning latent permutations with Gumbel-Sinkhorn networks (Mena et al., 2018)
    | https://arxiv.org/abs/1802.08665
"""

from pyro_ext.models.point_matching.model import Guide, Model, build

__all__ = ["Guide", "Model", "build"]
