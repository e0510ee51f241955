"""Denoised matrices: by a trained network, and by greedy search."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Categorical

from pyro_ext.datasets.tumour.noise import Rate, check_rate
from pyro_ext.models.tumour.elimination.cost import PADDING, Observed, flip_changes, observe
from pyro_ext.models.tumour.elimination.policy import FlipPolicy
from pyro_ext.ops.mutations import MISSING, count_conflicts, gamete_product
from pyro_ext.utils.checks import positive_int, positive_number

__all__ = ["Denoised", "check_matrices", "denoise", "greedy_search"]


class Denoised(NamedTuple):
    """Denoised matrices and what they cost.

    Args:
        matrix: cells x mutations, bool ``(..., n, m)``.
        neg_log_likelihood: of what was observed given the matrix, in nats, ``(...)``.
        conflicts: the number of pairs of columns without a perfect phylogeny, int64 ``(...)``.
        cost: the cost of the matrix, ``(...)``.
        num_flips: the number of entries that were read otherwise, int64 ``(...)``.
    """

    matrix: Tensor
    neg_log_likelihood: Tensor
    conflicts: Tensor
    cost: Tensor
    num_flips: Tensor


class _Best:
    """The best matrix seen on each of many sequences: the first without conflict, or else that of least cost."""

    def __init__(self, observed: Observed, matrix: Tensor, gamma: float) -> None:
        self.observed, self.gamma = observed, gamma
        self.matrix = matrix
        self.cost, self.clean = self._score(matrix)

    def _score(self, matrix: Tensor) -> tuple[Tensor, Tensor]:
        conflicts = gamete_product(matrix)
        return self.gamma * likelihood(matrix, self.observed) + 2 * conflicts, conflicts == 0

    def note(self, matrix: Tensor) -> None:
        """Take matrices one flip further into account."""
        cost, clean = self._score(matrix)
        better = ~self.clean & (clean | (cost < self.cost))
        self.matrix = torch.where(better[..., None, None], matrix, self.matrix)
        self.cost = torch.where(better, cost, self.cost)
        self.clean = self.clean | clean

    def done(self) -> bool:
        return bool(self.clean.all())


@torch.no_grad()
def denoise(
    policy: FlipPolicy,
    x: Tensor,
    rates: tuple[Rate, Rate] | None = None,
    num_samples: int = 128,
    temperature: float = 3.0,
    max_flips: int | None = None,
    gamma: float | None = None,
) -> Denoised:
    """Denoise matrices by a trained network.

    Sequences of flips are drawn for each matrix, the first of them with the most probable flip at each step. Each is
    followed to the first number of flips without a conflict; of those matrices the most probable one is the result. If
    no sequence gets there, the result is the matrix of least cost, and has conflicts.

    Args:
        policy: the network.
        x: observed matrices, ``(B, n, m)``; 1 present, 0 absent, 3 missing, -1 padding.
        rates: the rates of false positives and false negatives, each a number or a tensor that broadcasts against
            ``x``; those that the network was trained with if None.
        num_samples: the number of sequences for each matrix.
        temperature: what the logits are divided by: above 1 sequences differ more than they did in training.
        max_flips: the largest number of flips; half of the entries, as published, if None.
        gamma: the weight of a nat in what the network sees of a matrix; that of its training if None. A larger one may
            help where one kind of error is much rarer than it was in training, or matrices are larger.

    Raises:
        ValueError: if a number is out of range, a rate lies outside of (0, 1), or ``x`` holds no entries or others than
            0, 1, 3 and -1.

    Example:
        >>> policy = FlipPolicy(false_positive=0.002, false_negative=0.1)
        >>> result = denoise(policy, torch.tensor([[[1, 1], [1, 0], [0, 1]]]), num_samples=64)
        >>> result.conflicts, result.num_flips
        (tensor([0]), tensor([1]))
    """
    positive_int("num_samples", num_samples)
    positive_number("temperature", temperature)
    if gamma is not None:
        positive_number("gamma", gamma)
    check_matrices("x", x)
    alpha, beta = (policy.false_positive, policy.false_negative)
    if rates is not None:
        names = ("false_positive", "false_negative")
        alpha, beta = (check_rate(*pair, "()").to(alpha) for pair in zip(names, rates, strict=True))
    entries = x.shape[-2] * x.shape[-1]
    steps = max(1, entries // 2) if max_flips is None else min(positive_int("max_flips", max_flips), entries)
    training = policy.training
    policy.eval()
    try:
        rollout = policy.start(x, (alpha, beta), (num_samples,), gamma)
        best = _Best(rollout.observed, rollout.matrix, policy.gamma)
        for _ in range(steps):
            if best.done():
                break
            logits = rollout.logits()
            logits = logits.expand(num_samples, *logits.shape[-2:])
            drawn = Categorical(logits=logits / temperature, validate_args=False).sample()
            drawn[0] = logits[0].argmax(-1)
            rollout.flip(drawn)
            best.note(rollout.matrix)
    finally:
        policy.train(training)
    nothing = torch.full_like(best.cost, torch.inf)
    among = torch.where(best.clean | ~best.clean.any(0), best.cost, nothing).argmin(0)
    matrix = best.matrix.take_along_dim(among[None, :, None, None], 0).squeeze(0)
    return _denoised(matrix, rollout.observed, policy.gamma)


@torch.no_grad()
def greedy_search(
    x: Tensor, false_positive: Rate, false_negative: Rate, gamma: float = 0.04, max_flips: int | None = None
) -> Denoised:
    """Denoise matrices by flipping, again and again, the entry whose flip leaves the least cost.

    No entry is flipped twice, and the search goes on, even where the cost rises, until there is no conflict.

    Args:
        x: observed matrices, ``(B, n, m)``; 1 present, 0 absent, 3 missing, -1 padding.
        false_positive: the rate of false positives, a number or a tensor that broadcasts against ``x``.
        false_negative: the rate of false negatives, likewise.
        gamma: the weight of a nat in the cost.
        max_flips: the largest number of flips; half of the entries if None.

    Raises:
        ValueError: as :func:`denoise` does.

    Example:
        >>> x = torch.tensor([[[1, 1], [1, 0], [0, 1]]])
        >>> greedy_search(x, 0.002, 0.1).matrix.int()
        tensor([[[1, 1],
                 [1, 1],
                 [0, 1]]], dtype=torch.int32)
    """
    check_matrices("x", x)
    pairs = (("false_positive", false_positive), ("false_negative", false_negative))
    alpha, beta = (check_rate(*pair, "()").to(x.device) for pair in pairs)
    observed = observe(x, alpha, beta)
    entries = x.shape[-2] * x.shape[-1]
    steps = max(1, entries // 2) if max_flips is None else min(positive_int("max_flips", max_flips), entries)
    matrix, open_ = observed.matrix, observed.present
    best = _Best(observed, matrix, gamma)
    for _ in range(steps):
        if best.done():
            break
        change = flip_changes(matrix)[0] + gamma * observed.changes
        position = change.masked_fill(~open_, torch.inf).flatten(-2).argmin(-1)
        chosen = torch.nn.functional.one_hot(position, entries).bool().view_as(open_) & open_
        matrix, open_ = torch.where(chosen, 1 - matrix, matrix), open_ & ~chosen
        best.note(matrix)
    return _denoised(best.matrix, observed, gamma)


def check_matrices(name: str, x: Tensor) -> None:
    """Raise a ValueError unless ``x`` holds matrices of 0, 1, 3 for missing entries, and -1 for padding.

    Args:
        name: what the matrices are called.
        x: what should be matrices, ``(B, n, m)``.
    """
    if x.dim() != 3 or x.numel() == 0:
        raise ValueError(
            f"{name} must be matrices (batch, cells, mutations) with an entry at least, got shape {tuple(x.shape)}"
        )
    wrong = (x != 0) & (x != 1) & (x != MISSING) & (x != PADDING)
    if bool(wrong.any()):
        raise ValueError(
            f"{name} must hold 0, 1, {MISSING} (missing) and {PADDING} (padding) only, got {x[wrong][0].item():g}"
        )


def likelihood(matrix: Tensor, observed: Observed) -> Tensor:
    """Return the negative log-likelihood of what was observed, in nats, ``(...)``, given matrices ``(..., n, m)``."""
    return observed.start + ((matrix != observed.matrix) * observed.changes).sum((-2, -1))


def _denoised(matrix: Tensor, observed: Observed, gamma: float) -> Denoised:
    nll = likelihood(matrix, observed)
    read = observed.present & ~observed.missing
    flips = ((matrix != observed.matrix) & read).sum((-2, -1))
    conflicts = count_conflicts(matrix)
    return Denoised(matrix.bool(), nll, conflicts, gamma * nll + 2 * gamete_product(matrix), flips)
