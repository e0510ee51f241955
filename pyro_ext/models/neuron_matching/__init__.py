r"""Identification of the neurons of *C. elegans* by their activity, in several worms at once.

Activity follows linear dynamics whose connections are known and whose weights are not. The neurons of worm j come in
an unknown order,

.. math::

    W_{mn} \sim N(0, 1) \text{ where connected, else } 0, \qquad X_j \sim p(X), \qquad
    y^{(j)}_t = X_j W X_j^\top y^{(j)}_{t-1} + \epsilon_t, \qquad \epsilon_t \sim N(0, I),

and a neuron can only have an identity whose position along the body is near its own, or its known identity. The guide
has a Gaussian for each weight, shared by all worms, and for each worm a relaxed distribution of the permutation, by
rounding or Gumbel-Sinkhorn.

The sums over time reduce to moments: a step costs a few products of matrices ``(N, N)`` per worm, whatever the number
of time steps.

Data: ``simulated_worms``, a small network, or ``celegans``, the real one. Headline figures, the published share of all
279 neurons identified, 25 of them known, at about 10 and 30 candidates: rounding .77 and .33 with one worm, .93 and .70
with four; Gumbel-Sinkhorn .79 and .40, .94 and .69. For example::

    pyro-ext fit neuron_matching --data celegans --data.num_worms 4 --trainer.max_epochs 200

References:
    | Reparameterizing the Birkhoff polytope for variational permutation inference (Linderman et al., 2018)
    | https://arxiv.org/abs/1710.09508, section 5.3
    | Learning latent permutations with Gumbel-Sinkhorn networks (Mena et al., 2018)
    | https://arxiv.org/abs/1802.08665
"""

from pyro_ext.models.neuron_matching.model import Guide, LinearDynamics, Model, build

__all__ = ["Guide", "LinearDynamics", "Model", "build"]
