"""One-hot vectors with the second-order straight-through gradient, ReinMax."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from pyro_ext.distributions.relaxed.straight_through import OneHotStraightThrough
from pyro_ext.ops.relaxed import conditional_perturbed_logits
from pyro_ext.utils.checks import finite_number, one_of, positive_int

__all__ = ["OneHotCategoricalReinMax"]

_VARIANTS = ("plain", "rao", "cv")


class OneHotCategoricalReinMax(OneHotStraightThrough):
    r"""One-hot vectors with the ReinMax gradient: straight-through, of second order. It is biased.

    For a draw D from probabilities p, the derivative :math:`J_\pi = \mathrm{diag}(\pi) - \pi \pi^T` of a softmax with
    value :math:`\pi`, and the gradient g of what is computed from D, the logits get

    .. math:: 2 J_\pi g - \tfrac12 J_p g, \qquad \pi = \tfrac12 (D + p),

    which is :math:`\tfrac12 J_p g + \tfrac12 (D - p) (D - p)^T g`. It is unbiased where what is computed is
    quadratic in D; plain straight-through is where it is linear. Samples are exactly one-hot, and ``log_prob`` is that
    of the categorical distribution, linear in the value, so that a prior passes its gradient on to the guide.

    The variants put another derivative in the place of :math:`J_\pi`:

    - ``"plain"``: none; a temperature other than 1 makes the p in :math:`\pi` a softmax at that temperature.
    - ``"rao"``: the mean derivative of softmaxes :math:`\mathrm{softmax}((\log\pi + G) / \lambda)` over J draws of
      Gumbel noise G under which D is the largest.
    - ``"cv"``: :math:`J_\pi - \eta (J_{GS} - J_{GR})`, where :math:`J_{GS}` is such a derivative at the noise under
      which :math:`\log p + G` had its largest entry at D, and :math:`J_{GR}` its mean over J draws of the noise with
      the same condition. The difference has mean zero given D. The published form conditions the noise of
      :math:`J_{GR}` under :math:`\log\pi` instead; its difference has another mean, and changes the bias.

    As :math:`J_\pi` depends on D alone, the mean-zero difference is not correlated with it: the gradient of ``"cv"``
    has the mean of ``"plain"``, and a variance that grows with :math:`\eta^2`. Take ``"plain"`` unless
    you compare them.

    Args:
        temperature: :math:`\lambda > 0`, a number or a tensor of shape ``batch_shape`` (no dim for the categories).
        probs: probabilities up to a factor, ``batch_shape + (K,)``.
        logits: log-probabilities up to a constant instead, ``batch_shape + (K,)``; -inf for an impossible category.
        variant: which derivative is used: ``"plain"``, ``"rao"`` or ``"cv"``.
        num_inner: the number J of inner draws of the Gumbel noise, for ``"rao"`` and ``"cv"``.
        eta: the weight :math:`\eta` of the control variate, for ``"cv"``.
        validate_args: whether to check arguments and values; torch's default if None.

    Raises:
        ValueError: if not exactly one of ``probs`` and ``logits`` is given, an argument is out of range, or the
            shapes do not broadcast.

    References:
        | Bridging discrete and backpropagation: straight-through and beyond (Liu et al., 2023), algorithm 2
        | https://arxiv.org/abs/2304.08612
        | Rao-Blackwellised and control-variate forms: https://arxiv.org/abs/2603.08257

    >>> logits = torch.tensor([0.0, 30.0, 0.0], requires_grad=True)
    >>> x = OneHotCategoricalReinMax(logits=logits).rsample()
    >>> x.tolist(), bool((torch.autograd.grad(x[0], logits)[0].abs() < 1e-6).all())
    ([0.0, 1.0, 0.0], True)
    """

    _plain: ClassVar[tuple[str, ...]] = ("variant", "num_inner", "eta")

    def __init__(
        self,
        temperature: Tensor | float = 1.0,
        probs: Tensor | None = None,
        logits: Tensor | None = None,
        variant: str = "plain",
        num_inner: int = 10,
        eta: float = 1.0,
        validate_args: bool | None = None,
    ) -> None:
        self.variant = one_of("variant", variant, _VARIANTS)
        self.num_inner = positive_int("num_inner", num_inner)
        self.eta = finite_number("eta", eta)
        super().__init__(temperature, probs, logits, validate_args)

    def _soft(self, log_weights: Tensor, hard: Tensor) -> Tensor:
        """Return a tensor whose derivative in the logits is that of the variant; its value plays no part."""
        logits, temperature = self.logits, self.temperature.unsqueeze(-1)
        fixed = logits.detach()
        smooth = (fixed / temperature if self.variant == "plain" else fixed).softmax(-1)
        log_pi = ((hard + smooth) / 2).log()
        if self.variant == "rao":
            inner = conditional_perturbed_logits(log_pi, hard, self.num_inner)
            second = _softmax_at(inner, logits, temperature).mean(0)
        else:
            second = _softmax_at(log_pi, logits, torch.ones_like(temperature))
        if self.variant == "cv":
            # scores shift from log p + G to log pi + G; a constant added to all of a draw's scores changes nothing
            shift = (log_pi - fixed).masked_fill(fixed == -math.inf, 0)
            drawn = (log_weights.detach() * temperature.detach()) + shift
            inner = conditional_perturbed_logits(fixed, hard, self.num_inner) + shift
            difference = _softmax_at(drawn, logits, temperature) - _softmax_at(inner, logits, temperature).mean(0)
            second = second - self.eta * difference
        return 2 * second - _softmax_at(fixed, logits, torch.ones_like(temperature)) / 2


def _softmax_at(scores: Tensor, logits: Tensor, temperature: Tensor) -> Tensor:
    """Return softmaxes of ``scores``, differentiated in ``logits`` as if they were the logits plus noise."""
    possible = logits > -math.inf
    moving = torch.where(possible, logits, 0)
    shifted = torch.where(possible, scores, 0) + (moving - moving.detach())
    return (shifted / temperature.detach()).masked_fill(~possible, -math.inf).softmax(-1)
