"""Steps of the categorical autoencoder as a user would write them for this one model, in plain PyTorch.

They know the model: one site, codes of N one-hot variables, a uniform prior and Bernoulli pixels. The KL term is in
closed form, and nothing is validated.

References:
    | Buy 4 REINFORCE samples, get a baseline for free! (Kool et al., 2019), https://openreview.net/forum?id=r1lgTGL5DE
    | Estimating gradients for discrete random variables by sampling without replacement (Kool et al., 2020)
    | https://arxiv.org/abs/2002.06043
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import permutations

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, one_hot

__all__ = ["HAND_WRITTEN"]


def leave_one_out(encoder: nn.Module, decoder: nn.Module, x: Tensor, k: int) -> Tensor:
    """Return the surrogate of the mean loss an image, with k independent codes each."""
    logits = encoder(x).unflatten(-1, (20, 10)).log_softmax(-1)
    drawn = torch.multinomial(logits.detach().exp().flatten(0, 1), k, replacement=True).T.reshape(k, len(x), 20)
    log_q = logits.expand(k, *logits.shape).gather(-1, drawn[..., None])[..., 0].sum(-1)
    costs = _costs(decoder, drawn, x)
    fixed = costs.detach()
    baseline = (fixed.sum(0) - fixed) / (k - 1)
    return ((fixed - baseline) * log_q + costs).mean() + _divergence(logits)


def unordered_set(encoder: nn.Module, decoder: nn.Module, x: Tensor, k: int) -> Tensor:
    """Return the surrogate of the mean loss an image, with k distinct codes each, drawn by a stochastic beam."""
    logits = encoder(x).unflatten(-1, (20, 10)).log_softmax(-1)
    with torch.no_grad():
        codes = _distinct_codes(logits.double(), k)
    log_q = logits.unsqueeze(-3).expand(-1, k, -1, -1).gather(-1, codes[..., None])[..., 0].sum(-1)
    with torch.no_grad():
        weight, others = _ratios(log_q.double())
    costs = _costs(decoder, codes.movedim(1, 0), x).movedim(0, 1)
    fixed = costs.detach().double()
    baseline = (others * (log_q.detach().double().exp() * fixed)[:, None]).sum(-1)
    surrogate = (weight * (fixed - baseline)).to(costs.dtype) * log_q + weight.to(costs.dtype) * costs
    return surrogate.sum(-1).mean() + _divergence(logits)


def _costs(decoder: nn.Module, codes: Tensor, x: Tensor) -> Tensor:
    pixels = decoder(one_hot(codes, 10).to(x).flatten(-2))
    return binary_cross_entropy_with_logits(pixels, x.expand_as(pixels), reduction="none").sum(-1)


def _divergence(logits: Tensor) -> Tensor:
    return (logits.exp() * (logits + math.log(10))).sum((-1, -2)).mean()


def _distinct_codes(log_p: Tensor, k: int) -> Tensor:
    """Return k distinct codes of each image, ``(B, k, N)``, by a beam search over perturbed log-probabilities."""
    size, number, categories = log_p.shape
    codes = log_p.new_zeros((size, 1, 0), dtype=torch.long)
    total, perturbed = log_p.new_zeros(size, 1), log_p.new_zeros(size, 1)
    for at in range(number):
        child = total[..., None] + log_p[:, None, at]
        gumbel = child - torch.empty_like(child).exponential_().log()
        largest = gumbel.max(-1, keepdim=True).values
        parent = perturbed[..., None]
        v = parent - gumbel + torch.log1p(-(gumbel - largest).exp())
        conditioned = parent - v.clamp(min=0) - torch.log1p((-v.abs()).exp())
        best = conditioned.flatten(1).topk(min(k, conditioned[0].numel()))
        perturbed, row = best.values, best.indices // categories
        total = child.flatten(1).gather(1, best.indices)
        codes = torch.cat(
            [codes.gather(1, row[..., None].expand(-1, -1, at)), best.indices[..., None] % categories], -1
        )
    return codes


def _ratios(log_p: Tensor) -> tuple[Tensor, Tensor]:
    """Return the weights ``(B, k)`` and the second-order ratios ``(B, k, k)``, by all orders of the set."""
    p, k = log_p.exp(), log_p.shape[-1]

    def probability(members: tuple[int, ...], gone: tuple[int, ...]) -> Tensor:
        """Return the probability of drawing the members, in any order, when others are gone already."""
        total: Tensor = torch.zeros_like(p[:, 0])
        for order in permutations(members):
            rest, term = 1 - sum((p[:, g] for g in gone), torch.zeros_like(total)), torch.ones_like(total)
            for member in order:
                term = term * p[:, member] / rest
                rest = rest - p[:, member]
            total = total + term
        return total

    every = tuple(range(k))
    whole = probability(every, ())
    weight, others = [], []
    for s in every:
        left = tuple(i for i in every if i != s)
        without = probability(left, (s,))
        weight.append(p[:, s] * without / whole)
        # the ratio at the set without s: P(set without s and t | s and t gone) over P(set without s | s gone)
        row = [
            probability(tuple(i for i in left if i != t), (s, t)) / without if t != s else torch.ones_like(whole)
            for t in every
        ]
        others.append(torch.stack(row, -1))
    return torch.stack(weight, -1), torch.stack(others, 1)


HAND_WRITTEN: dict[str, Callable[[nn.Module, nn.Module, Tensor, int], Tensor]] = {
    "leave-one-out": leave_one_out,
    "unordered set": unordered_set,
}
