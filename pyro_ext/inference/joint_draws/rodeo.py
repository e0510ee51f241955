"""Stein control variates for discrete latent variables."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from pyro_ext.inference.joint_draws.slopes import Draws, SlopeELBO, remainder
from pyro_ext.utils.checks import positive_int, positive_number

__all__ = ["TraceRODEO_ELBO"]

_BETAS, _EPS = (0.9, 0.999), 1e-8  # of Adam
_NEGATIVE_SLOPE = 0.3  # of the leaky ReLU


class TraceRODEO_ELBO(SlopeELBO):
    r"""The ELBO with RODEO gradients for Bernoulli and one-hot guide sites: control variates by Stein's method.

    Every site is drawn n times. For draws k and j, with :math:`f = \log p(x, z) - \log q(z)`, the derivative
    :math:`g_j` of :math:`f_j` in the value :math:`z_j`, and a small network h of two numbers with two results,

    .. math::

        H_{ic} = h\big(g_j \cdot (z_k^{i \to c} - z_j), f_j\big), \qquad
        A = \frac1D \sum_{i, c} p_{ic} (H_{ic} - h(g_j \cdot (z_k - z_j), f_j))

    has mean zero, for :math:`z_k^{i \to c}` is the draw with its coordinate i (of D) set to category c, which is a step
    of a Markov chain that leaves q as it is. With the first result of h, :math:`A^0` corrects the costs; with the
    second one times the score :math:`s_k = z_k - p`, :math:`A^1` corrects the gradient:

    .. math:: \frac1n \sum_k \big( f_k - \ell(f + a A^0)_k \big) s_k + b A^1_k,

    where both are means over :math:`j \ne k`, and :math:`\ell` is the mean over the other draws. The published method
    is for binary sites; one-hot sites have the same construction. The estimate is unbiased for any a, b and h that do
    not depend on the draws. They are learned: a and b start at 0, and Adam minimises the mean squared gradient.
    ``loss_and_grads`` and ``after_step`` move them; ``loss`` and ``differentiable_loss`` never do.

    It costs :math:`n (n - 1) D C` evaluations of h for each data point, on top of one more backward pass through the
    model. Where a program is not differentiable in the values of a site (it indexes by them, say), and for sites of
    other distributions, the estimate is that of leave-one-out, and a warning names the site. Sites may depend on each
    other. Model parameters and reparameterised guide sites get the mean of the n pathwise gradients. Model and guide
    run once, and must broadcast over an extra dim on the left.

    Args:
        num_samples: the number n of draws, at least 2.
        hidden: the number of hidden units of h.
        lr: the learning rate of a, b and h.
        num_particles: the number of independent sets of n draws averaged.
        max_plate_nesting: the number of plate dims; guessed from one run when infinite.
        vectorize_particles: whether the particles are one outermost plate or repeated runs.
        **kwargs: passed on to :class:`pyro.infer.ELBO`.

    Raises:
        ValueError: if ``num_samples`` is not an integer of at least 2, ``hidden`` or ``num_particles`` not a positive
            integer, or ``lr`` not positive.

    References:
        | Gradient estimation with discrete Stein operators (Shi et al., 2022), section 4
        | https://arxiv.org/abs/2202.09497

    >>> import pyro, pyro.distributions as dist
    >>> logit = torch.zeros(3, requires_grad=True)
    >>> def model():
    ...     z = pyro.sample("z", dist.Bernoulli(torch.full((3,), 0.5)).to_event(1))
    ...     pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=torch.tensor(1.0))
    >>> def guide():
    ...     pyro.sample("z", dist.Bernoulli(logits=logit).to_event(1))
    >>> elbo = TraceRODEO_ELBO(num_samples=2, hidden=8)
    >>> loss = elbo.loss_and_grads(model, guide)
    >>> logit.grad.shape, sorted(elbo.state_dict())
    (torch.Size([3]), ['_first', '_num_steps', '_second', '_values'])
    """

    _values: Tensor
    _first: Tensor
    _second: Tensor
    _num_steps: Tensor

    def __init__(
        self,
        num_samples: int = 2,
        hidden: int = 100,
        lr: float = 1e-3,
        num_particles: int = 1,
        max_plate_nesting: float = math.inf,
        vectorize_particles: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_samples, num_particles, max_plate_nesting, vectorize_particles, **kwargs)
        self.hidden = positive_int("hidden", hidden)
        self.lr = positive_number("lr", lr)
        # a, b, then h: input weights and biases, output weights and biases, uniform as in torch.nn.Linear
        bounds = [(3 * hidden, 2**-0.5), (2 * hidden + 2, hidden**-0.5)]
        drawn = [torch.rand(size, dtype=torch.float32, device="cpu").mul(2).sub(1).mul(bound) for size, bound in bounds]
        values = torch.cat([torch.zeros(2, dtype=torch.float32, device="cpu"), *drawn])
        self.register_buffer("_values", values)
        self.register_buffer("_first", torch.zeros_like(values))
        self.register_buffer("_second", torch.zeros_like(values))
        self.register_buffer("_num_steps", torch.zeros((), dtype=torch.long, device="cpu"))

    def _estimate(self, draws: Draws) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            values = self._values.detach().to(draws.value.dtype).requires_grad_()
            of_costs, of_scores = self._corrections(draws, values[2:])
            # the draw's own correction has no place in its gradient, only those of the others
            others = (of_costs - of_costs.sum(0)) / (len(of_costs) - 1) / len(of_costs)
            weight = remainder(draws.cost) / draws.scale + values[0] * others
            gradient = weight[..., None, None] * draws.score + values[1] * of_scores / len(of_scores)
            squared = (gradient.sum(0) if draws.shared else gradient).square().mean()
            (direction,) = torch.autograd.grad(squared, values)
        return draws.scale * gradient, direction.to(self._values.dtype)

    def _corrections(self, draws: Draws, network: Tensor) -> tuple[Tensor, Tensor]:
        """Return the corrections of costs, ``(n,) + plate dims``, and of scores, in the shape of ``draws.value``."""
        n, num_coordinates = len(draws.value), draws.value.shape[-2]
        slope, cost = draws.slope / draws.scale, draws.full_cost / draws.scale
        of_costs, of_scores = [], []
        for k in range(n):
            others = [j for j in range(n) if j != k]
            value, prob = draws.value[k], draws.prob[k] if not draws.shared else draws.prob
            along = slope[others] * value
            start = (along - slope[others] * draws.value[others]).sum((-2, -1))
            steps = slope[others] - along.sum(-1, keepdim=True)
            here, moved = self._network(start, steps, cost[others], network, value)
            gain = prob[..., None] * (moved - here[..., None, None, :])
            gains = gain.sum((-3, -2)) / num_coordinates
            weighted = prob * moved[..., 1]
            move = (weighted - value * weighted.sum(-1, keepdim=True)) / num_coordinates
            of_costs.append(gains[..., 0].mean(0))
            of_scores.append((gains[..., 1][..., None, None] * (value - prob) + move).mean(0))
        return torch.stack(of_costs), torch.stack(of_scores)

    def _network(
        self, start: Tensor, steps: Tensor, cost: Tensor, network: Tensor, value: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return h at ``start``, ``(...) + (2,)``, and at all steps from there, ``(...) + (D, C, 2)``."""
        by_slope, by_cost, bias, output, output_bias = network.split([self.hidden] * 3 + [2 * self.hidden, 2])
        output = output.reshape(self.hidden, 2)

        def h(linear: Tensor, offset: Tensor) -> Tensor:
            inner = torch.addcmul(offset, linear[..., None], by_slope)
            return torch.nn.functional.leaky_relu(inner, _NEGATIVE_SLOPE) @ output + output_bias

        offset = cost[..., None] * by_cost + bias
        here = h(start, offset)
        if steps.shape[-1] > 2:
            return here, h(start[..., None, None] + steps, offset[..., None, None, :])
        # of the two values of a bit one is that of the draw, where the step is 0
        changed = (steps * (1 - value)).sum(-1)
        flipped = h(start[..., None] + changed, offset[..., None, :])
        stays = value[..., None] > 0.5
        return here, torch.where(stays, here[..., None, None, :], flipped[..., None, :])

    def _learn(self, note: Tensor) -> None:
        """Take one step of Adam."""
        self._num_steps.add_(1)
        self._first.mul_(_BETAS[0]).add_((1 - _BETAS[0]) * note)
        self._second.mul_(_BETAS[1]).add_((1 - _BETAS[1]) * note.square())
        first = self._first / (1 - _BETAS[0] ** self._num_steps)
        second = self._second / (1 - _BETAS[1] ** self._num_steps)
        self._values.sub_(self.lr * first / (second.sqrt() + _EPS))
