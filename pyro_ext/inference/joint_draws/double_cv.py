"""Double control variates for discrete latent variables."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from pyro_ext.inference.joint_draws.slopes import Draws, SlopeELBO, others_mean, remainder
from pyro_ext.utils.checks import number_between

__all__ = ["TraceDoubleCV_ELBO"]


class TraceDoubleCV_ELBO(SlopeELBO):
    r"""The ELBO with double control variates for Bernoulli and one-hot guide sites: leave-one-out and slopes.

    Every site is drawn n times. With :math:`f_k = \log p(x, z_k) - \log q(z_k)`, its derivative :math:`g_k` in the
    value :math:`z_k`, the score :math:`s_k = z_k - p` of the logits, and :math:`\ell(x)_k` the mean of x over the
    other draws,

    .. math::

        c_k = a \, \ell(g)_k \cdot s_k, \qquad
        \frac1n \sum_{k=1}^n \big( f_k + c_k - \ell(f + c)_k \big) s_k - a J_p \bar g,
        \qquad J_p = \mathrm{diag}(p) - p p^T,

    where the last term is what the control variate adds on average, known exactly. It is unbiased for any a that does
    not depend on the draws. The ELBO learns a, which starts at 0 and ends near -1 where costs are nearly linear: it
    minimises moving averages of the squared gradient. ``loss_and_grads`` and ``after_step`` move it; ``loss`` and
    ``differentiable_loss`` never do.

    Derivatives cost one more backward pass through the model. Where a program is not differentiable in the values of a
    site (it indexes by them, say), and for sites of other distributions, the estimate is that of leave-one-out, and a
    warning names the site. Sites may depend on each other. Model parameters and reparameterised guide sites get the
    mean of the n pathwise gradients. Model and guide run once, and must broadcast over an extra dim on the left.

    Args:
        num_samples: the number n of draws, at least 2.
        decay: the weight of the past in the moving averages that a minimises, in [0, 1).
        num_particles: the number of independent sets of n draws averaged.
        max_plate_nesting: the number of plate dims; guessed from one run when infinite.
        vectorize_particles: whether the particles are one outermost plate or repeated runs.
        **kwargs: passed on to :class:`pyro.infer.ELBO`.

    Raises:
        ValueError: if ``num_samples`` is not an integer of at least 2, ``num_particles`` not a positive integer, or
            ``decay`` not in [0, 1).

    References:
        | Double control variates for gradient estimation in discrete latent variable models (Titsias, Shi, 2022),
          section 3
        | https://arxiv.org/abs/2111.05300

    >>> import pyro, pyro.distributions as dist
    >>> logit = torch.zeros(3, requires_grad=True)
    >>> def model():
    ...     z = pyro.sample("z", dist.Bernoulli(torch.full((3,), 0.5)).to_event(1))
    ...     pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=torch.tensor(1.0))
    >>> def guide():
    ...     pyro.sample("z", dist.Bernoulli(logits=logit).to_event(1))
    >>> elbo = TraceDoubleCV_ELBO(num_samples=4)
    >>> for _ in range(50):
    ...     loss = elbo.loss_and_grads(model, guide)
    >>> bool(elbo.weight < 0)
    True
    """

    _cross: Tensor
    _square: Tensor

    def __init__(
        self,
        num_samples: int = 4,
        decay: float = 0.99,
        num_particles: int = 1,
        max_plate_nesting: float = math.inf,
        vectorize_particles: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_samples, num_particles, max_plate_nesting, vectorize_particles, **kwargs)
        self.decay = number_between("decay", decay, 0, 1, "[)")
        for name in ("_cross", "_square"):
            self.register_buffer(name, torch.zeros((), dtype=torch.float64, device="cpu"))

    @property
    def weight(self) -> Tensor:
        """The weight a of the control variate, ``()``."""
        return torch.where(self._square > 0, -self._cross / self._square, 0.0)

    def _estimate(self, draws: Draws) -> tuple[Tensor, Tensor]:
        others = others_mean(draws.slope)
        variate = (others * draws.score).sum((-2, -1))
        weighted = others * draws.prob
        expected = weighted - draws.prob * weighted.sum(-1, keepdim=True)
        plain = remainder(draws.cost)[..., None, None] * draws.score
        change = remainder(variate)[..., None, None] * draws.score - expected / len(variate)
        gradient = plain + self.weight.to(plain.dtype) * change
        if draws.shared:
            plain, change = plain.sum(0), change.sum(0)
        return gradient, torch.stack([(plain * change).double().mean(), change.double().square().mean()])

    def _learn(self, note: Tensor) -> None:
        for average, value in zip((self._cross, self._square), note, strict=True):
            average.mul_(self.decay).add_((1 - self.decay) * value)
