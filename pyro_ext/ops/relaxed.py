"""Relaxed categorical variables: noise, log-densities that stay finite, and straight-through values.

Categories of probability zero have logits of -inf everywhere here; they get the weight 0 and do not enter densities.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pyro_ext.ops.kernels import are_at_hand
from pyro_ext.ops.sets import gumbel_like

__all__ = [
    "bernoulli_score",
    "categorical_score",
    "conditional_perturbed_logits",
    "exp_concrete_log_prob",
    "floored_log",
    "gumbel_log_softmax",
    "infinite",
    "logistic_like",
    "normalised_logits",
    "one_hot_of_largest",
    "rao_blackwell_softmax",
    "relaxed_top_k",
    "sigmoid",
    "straight_through",
]


class _FlooredLog(torch.autograd.Function):
    """``log`` whose value and derivatives stay within the floating type down to zero."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return torch.where(x == 0, torch.finfo(x.dtype).tiny, x).log()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        largest = torch.finfo(x.dtype).max
        # the quotient overflows for the smallest numbers; later factors of the backward pass are as small
        return (grad / torch.where(x == 0, 1, x)).clamp(-largest, largest).masked_fill(x == 0, 0)


def floored_log(x: Tensor) -> Tensor:
    """Return ``log(x)`` for non-negative ``x``, with ``log(finfo.tiny)`` for exact zeros.

    The derivative is 0 at an exact zero, and cut to the largest number of the type where it would overflow.

    >>> floored_log(torch.tensor([1.0, 0.0]))
    tensor([  0.0000, -87.3365])
    """
    return _FlooredLog.apply(x)


def straight_through(hard: Tensor, soft: Tensor) -> Tensor:
    """Return the values of ``hard``, exactly, with the gradient of ``soft`` (both of one shape).

    >>> soft = torch.tensor([0.3, 0.7], requires_grad=True)
    >>> straight_through(torch.tensor([0.0, 1.0]), soft)[1].item()
    1.0
    """
    return hard.detach() + (soft - soft.detach())


def sigmoid(y: Tensor) -> Tensor:
    """Return the logistic function of ``y``, with a derivative that stays positive where the value rounds to 1.

    >>> y = torch.tensor([-20.0, 20.0], requires_grad=True)
    >>> torch.autograd.grad(sigmoid(y).sum(), y)[0]
    tensor([2.0612e-09, 2.0612e-09])
    """
    return torch.where(y > 0, 1 - torch.sigmoid(-y), torch.sigmoid(y))


def infinite(x: Tensor) -> Tensor | None:
    """Return which numbers are infinite; None where a look, which waits for no device, says that none is.

    >>> infinite(torch.zeros(3)), infinite(torch.tensor([0.0, math.inf]))
    (None, tensor([False,  True]))
    """
    return None if are_at_hand(x) and x.detach().sum().isfinite() else x.isinf()


def one_hot_of_largest(x: Tensor) -> Tensor:
    """Return the one-hot vectors of the largest entries, in the type of ``x``, ``batch_shape + (K,)``.

    >>> one_hot_of_largest(torch.tensor([0.3, 0.7]))
    tensor([0., 1.])
    """
    return torch.zeros_like(x).scatter(-1, x.argmax(-1, keepdim=True), 1)


def normalised_logits(probs: Tensor) -> Tensor:
    """Return the log of ``probs`` ``batch_shape + (K,)``, -inf and without gradient where they are zero.

    >>> normalised_logits(torch.tensor([1.0, 0.0]))
    tensor([0., -inf])
    """
    positive = probs > 0
    return torch.where(positive, probs, 1).log().masked_fill(~positive, -math.inf)


def logistic_like(x: Tensor) -> Tensor:
    """Draw independent standard logistics of the shape and device of ``x``, always in float64.

    >>> logistic_like(torch.zeros(3)).dtype
    torch.float64
    """
    uniform = torch.rand(x.shape, dtype=torch.float64, device=x.device)
    uniform = uniform.clamp_min_(torch.finfo(torch.float64).tiny)
    return uniform.log() - (-uniform).log1p()


def gumbel_log_softmax(logits: Tensor, temperature: Tensor, sample_shape: Sequence[int] = ()) -> Tensor:
    r"""Draw :math:`\log\mathrm{softmax}((\log\alpha + G) / \lambda)` with independent standard Gumbels G.

    Args:
        logits: the logits :math:`\log\alpha` of the K categories, ``batch_shape + (K,)``.
        temperature: the temperature :math:`\lambda`, of a shape that broadcasts with ``batch_shape``.
        sample_shape: the shape of a batch of independent draws.

    Returns:
        ``sample_shape + batch_shape + (K,)``, differentiable in both arguments.

    References:
        | The Concrete distribution (Maddison et al., 2017), section 3.1, https://arxiv.org/abs/1611.00712
        | Categorical reparameterization with Gumbel-softmax (Jang et al., 2017), https://arxiv.org/abs/1611.01144

    >>> gumbel_log_softmax(torch.tensor([0.0, -math.inf]), torch.tensor(0.1))
    tensor([0., -inf])
    """
    noise = gumbel_like(logits.expand(torch.Size(sample_shape) + logits.shape)).to(logits.dtype)
    return _tempered_log_softmax(logits, noise, temperature)


def _tempered_log_softmax(logits: Tensor, noise: Tensor, temperature: Tensor) -> Tensor:
    possible = logits > -math.inf
    scores = (torch.where(possible, logits, 0) + noise) / temperature.unsqueeze(-1)
    # log_softmax subtracts the maximum first: without that the weights of a float32 draw at a temperature of 0.01
    # would sum to 1 only to three digits
    return scores.masked_fill(~possible, -math.inf).log_softmax(-1)


def exp_concrete_log_prob(y: Tensor, logits: Tensor, temperature: Tensor) -> Tensor:
    r"""Return the log-density of the logarithm of a Concrete variable.

    .. math::

        \log\Gamma(n) + (n - 1) \log\lambda + \sum_k (\log\alpha_k - \lambda y_k)
        - n \log\sum_k e^{\log\alpha_k - \lambda y_k}

    with sums over the n categories of positive probability. It does not change when a constant is added to ``y``.

    Args:
        y: the logarithm of a point of the simplex, ``(...) + (K,)``; -inf where ``logits`` are.
        logits: the logits :math:`\log\alpha` of the K categories, ``batch_shape + (K,)``.
        temperature: the temperature :math:`\lambda`, of a shape that broadcasts with ``batch_shape``.

    Returns:
        ``(...)``; -inf where ``y`` and ``logits`` are not -inf at the same places.

    References:
        | The Concrete distribution (Maddison et al., 2017), appendix C.3, https://arxiv.org/abs/1611.00712

    >>> exp_concrete_log_prob(torch.tensor([0.2, 0.3, 0.5]).log(), torch.zeros(3), torch.tensor(1.0))
    tensor(-2.8064)
    """
    possible = logits > -math.inf
    present = y > -math.inf
    num = possible.sum(-1).to(y.dtype)
    score = torch.where(possible, logits, 0) - temperature.unsqueeze(-1) * torch.where(present, y, 0)
    score = score - score.masked_fill(~possible, -math.inf).logsumexp(-1, keepdim=True)
    log_prob = torch.lgamma(num) + (num - 1) * temperature.log() + score.masked_fill(~possible, 0).sum(-1)
    return log_prob.masked_fill((possible ^ present).any(-1), -math.inf)


def categorical_score(x: Tensor, logits: Tensor) -> Tensor:
    r"""Return :math:`\sum_k x_k \log p_k`, the log-probability of a one-hot ``x`` made linear in ``x``.

    Its gradient in ``x`` is :math:`\log p_k`, whether ``x`` is one-hot or relaxed (0 where ``p_k`` is zero).

    Args:
        x: the weights of the K categories, ``(...) + (K,)``.
        logits: normalised log-probabilities :math:`\log p` of the categories, ``batch_shape + (K,)``.

    Returns:
        ``(...)``; -inf where ``x`` has weight on a category of probability zero.

    >>> categorical_score(torch.tensor([0.0, 1.0]), torch.tensor([0.3, 0.7]).log()).exp()
    tensor(0.7000)
    """
    possible = logits > -math.inf
    score = (x * torch.where(possible, logits, 0)).sum(-1)
    return score.masked_fill(((x != 0) & ~possible).any(-1), -math.inf)


def bernoulli_score(x: Tensor, logits: Tensor) -> Tensor:
    r"""Return :math:`x \log p + (1 - x) \log(1 - p)`, shape ``(...)``, linear in ``x``.

    Args:
        x: the weights of the value 1, in [0, 1], ``(...)``.
        logits: log-odds of 1, ``batch_shape``; infinite where the value is certain.

    >>> bernoulli_score(torch.tensor([1.0, 0.0]), torch.tensor(0.0)).exp()
    tensor([0.5000, 0.5000])
    """
    x, logits = torch.broadcast_tensors(x, logits)
    certain = infinite(logits)
    if certain is None:
        likely = logits > 0
        return torch.nn.functional.logsigmoid(torch.where(likely, logits, -logits)) + (x - likely.to(x.dtype)) * logits
    inner = logits.masked_fill(certain, 0)  # the derivative of log-sigmoid at infinity times 0 would be NaN
    score = x * torch.nn.functional.logsigmoid(inner) + (1 - x) * torch.nn.functional.logsigmoid(-inner)
    impossible = certain & (x != (logits > 0).to(x.dtype))
    return score.masked_fill(certain, 0).masked_fill(impossible, -math.inf)


@torch.no_grad()
def conditional_perturbed_logits(logits: Tensor, hard: Tensor, num_inner: int) -> Tensor:
    r"""Draw perturbed logits :math:`\log p + G` given which of them is the largest.

    With standard exponentials E, and i the largest, they are :math:`-\log E_i` at i and
    :math:`-\log(E_j / p_j + E_i)` elsewhere.

    Args:
        logits: normalised log-probabilities :math:`\log p` of the categories, ``batch_shape + (K,)``.
        hard: one-hot vectors of the largest perturbed logit, ``(...) + (K,)``.
        num_inner: the number J of draws for each one-hot vector.

    Returns:
        ``(J, ...) + (K,)`` in the type of ``logits``, without gradient; -inf where ``logits`` are.

    References:
        | Rao-Blackwellizing the straight-through Gumbel-softmax gradient estimator (Paulus et al., 2021), section 3
        | https://arxiv.org/abs/2010.04838

    >>> drawn = conditional_perturbed_logits(torch.zeros(3) - math.log(3), torch.tensor([0.0, 1.0, 0.0]), 100)
    >>> drawn.argmax(-1).unique()
    tensor([1])
    """
    largest = hard > 0.5
    log_exponential = -gumbel_like(hard.expand((num_inner, *hard.shape)))
    at_largest = log_exponential.masked_fill(~largest, -math.inf).amax(-1, keepdim=True)
    others = torch.logaddexp(log_exponential - logits.double(), at_largest)
    return -torch.where(largest, at_largest, others).to(logits.dtype)


def rao_blackwell_softmax(logits: Tensor, hard: Tensor, temperature: Tensor, num_inner: int) -> Tensor:
    """Return the mean of J softmaxes of perturbed logits whose largest entry is that of ``hard``.

    Args:
        logits: normalised log-probabilities of the categories, ``batch_shape + (K,)``.
        hard: one-hot vectors of the largest perturbed logit, ``(...) + (K,)``.
        temperature: the temperature of the softmax, of a shape that broadcasts with ``batch_shape``.
        num_inner: the number J of softmaxes in the mean.

    Returns:
        ``(...) + (K,)``; its derivative in ``logits`` is the mean derivative of the softmaxes, the noise held fixed.

    >>> rao_blackwell_softmax(torch.zeros(2), torch.tensor([0.0, 1.0]), torch.tensor(0.01), 10).round()
    tensor([0., 1.])
    """
    impossible = logits == -math.inf
    fixed = logits.detach().masked_fill(impossible, 0)
    noise = conditional_perturbed_logits(logits, hard, num_inner).masked_fill(impossible, 0) - fixed
    return _tempered_log_softmax(logits, noise, temperature).exp().mean(0)


def relaxed_top_k(keys: Tensor, k: int, temperature: Tensor) -> Tensor:
    r"""Relax the k-hot vector of the ``k`` largest keys: the sum of ``k`` successive softmaxes.

    .. math:: \alpha^{i+1} = \alpha^i + \log(1 - a^i), \qquad a^i = \mathrm{softmax}(\alpha^i / t)

    Args:
        keys: the scores :math:`\alpha^1` of the categories, ``(...) + (K,)``; -inf for those never chosen.
        k: how many categories to choose, at most the number of finite keys.
        temperature: the temperature t of the softmaxes, of a shape that broadcasts with ``batch_shape``.

    Returns:
        ``(...) + (K,)``, non-negative with sum ``k``; entries may exceed 1.

    References:
        | Reparameterizable subset sampling via continuous relaxations (Xie & Ermon, 2019), section 3
        | https://arxiv.org/abs/1901.10517

    >>> relaxed_top_k(torch.tensor([3.0, 1.0, 2.0]), 2, torch.tensor(0.1)).round()
    tensor([1., 0., 1.])
    """
    tiny = torch.finfo(keys.dtype).tiny
    total = torch.zeros_like(keys)
    for _ in range(k):
        chosen = (keys / temperature.unsqueeze(-1)).softmax(-1)
        total = total + chosen
        keys = keys + (1 - chosen).clamp_min(tiny).log()
    return total
