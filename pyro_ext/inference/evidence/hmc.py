r"""Hamiltonian Monte Carlo in lockstep: many chains of many laws, every gradient one batch.

Groups of chains belong to different laws, such as the powers of a likelihood; each group has its own step size,
scales and length of trajectory. A law enters only by log-density and gradient at a batch of points.

References:
    | MCMC using Hamiltonian dynamics (Neal, 2011)
    | https://arxiv.org/abs/1206.1901
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_ext.inference.evidence.tuning import DualAveraging, Metric, window_ends

__all__ = ["Chains", "HMCSettings", "run_chains"]

Target = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]
_DIVERGENT = 1000.0  # error in energy
_PATH = math.pi / 2  # of a trajectory under the metric: a quarter turn decorrelates
_LARGEST_STEP = 1.2  # under the metric; leapfrog steps are unstable above 2


class HMCSettings(NamedTuple):
    """How chains are run.

    Attributes:
        num_warmup: steps that tune and are not kept.
        num_draws: steps kept.
        target_accept: the acceptance rate aimed at.
        max_leapfrog: the most gradients in one step.
    """

    num_warmup: int
    num_draws: int
    target_accept: float = 0.8
    max_leapfrog: int = 32


@dataclass(frozen=True)
class Chains:
    """Draws of G groups of C chains.

    Args:
        z: positions, ``(N, G, C, D)``.
        extras: what the target returned beside the log-density there, ``(N, G, C, A)``.
        acceptance: mean acceptance rates, ``(G,)``.
        divergences: how many trajectories failed, ``(G,)``.
        step_size: in units of the scales, ``(G,)``.
    """

    z: Tensor
    extras: Tensor
    acceptance: Tensor
    divergences: Tensor
    step_size: Tensor


class _State(NamedTuple):
    """Where all chains are, R = G C rows: positions, log-densities, gradients, extras."""

    z: Tensor
    log_density: Tensor
    gradient: Tensor
    extras: Tensor

    def where(self, accepted: Tensor, other: _State) -> _State:
        return _State(*(torch.where(_like(accepted, a), a, b) for a, b in zip(self, other, strict=True)))


def run_chains(
    target: Target,
    start: Tensor,
    scale: Tensor,
    settings: HMCSettings,
    advance: Callable[[int], object] | None = None,
) -> Chains:
    """Run all chains through warm-up, then keep their draws.

    Args:
        target: takes points ``(R, D)`` and the group of each ``(R,)``; returns log-densities ``(R,)``, gradients
            ``(R, D)`` and extras ``(R, A)`` to be kept with the draws. Not-a-number counts as density zero.
        start: where chains begin, ``(G, C, D)``.
        scale: first guesses at the standard deviations, ``(G, D)``.
        settings: how to run them.
        advance: called with 1 after each step.

    Raises:
        ValueError: if the density is zero or not a number where a chain begins.

    Example:
        >>> def target(z, group):  # normal laws of standard deviations 1 and 100
        ...     sd = torch.tensor([1.0, 100.0])[group, None]
        ...     return -(z / sd).square().sum(-1) / 2, -z / sd.square(), z
        >>> chains = run_chains(target, torch.zeros(2, 8, 3), torch.ones(2, 3), HMCSettings(200, 200))
        >>> sd = chains.z.transpose(0, 1).flatten(1).std(-1)
        >>> (sd / torch.tensor([1.0, 100.0]) - 1).abs() < 0.1
        tensor([True, True])
    """
    sampler = _Sampler(target, start, scale, settings)
    kept = []
    for i in range(settings.num_warmup + settings.num_draws):
        sampler.move()
        if i < settings.num_warmup:
            sampler.tune(i + 1)
        else:
            kept.append((sampler.state.z, sampler.state.extras))
        if advance is not None:
            advance(1)
    shape = start.shape[:2]
    z, extras = (torch.stack(part).unflatten(1, shape) for part in zip(*kept, strict=True))
    return Chains(z, extras, sampler.acceptance / settings.num_draws, sampler.divergences, sampler.step)


class _Sampler:
    """The chains and what was learnt about their laws."""

    def __init__(self, target: Target, start: Tensor, scale: Tensor, settings: HMCSettings) -> None:
        self._target, self._settings = target, settings
        self._groups, self._chains, dim = start.shape
        self._group = torch.arange(self._groups, device=start.device).repeat_interleave(self._chains)
        self._metric = Metric(scale)
        self.step = start.new_full((self._groups,), dim**-0.25)
        self._averaging = DualAveraging(self.step, settings.target_accept)
        self._ends = window_ends(settings.num_warmup)
        self._window: list[Tensor] = []
        self.state = _State(start.flatten(0, 1), *target(start.flatten(0, 1), self._group))
        _check_start(self.state.log_density)
        self.acceptance = torch.zeros_like(self.step)
        self.divergences = torch.zeros_like(self.step, dtype=torch.long)

    def move(self) -> None:
        """Propose a trajectory for every chain, and accept or reject it."""
        jitter = torch.rand(self._groups, dtype=self.step.dtype, device=self.step.device)
        # Each trajectory has its length from the jitter alone: half turns would leave even functions where they were.
        length = _PATH * (0.5 + jitter)
        counts = (length / self.step).ceil().clamp(1, self._settings.max_leapfrog).long()
        step = torch.minimum(length / counts, self.step)
        momentum = torch.randn_like(self.state.z)
        end, final = self._trajectory(momentum, step[self._group, None], counts)
        energy = momentum.square().sum(-1) / 2 - self.state.log_density
        change = (final.square().sum(-1) / 2 - end.log_density - energy).nan_to_num(torch.inf, torch.inf)
        acceptance = (-change).exp().clamp(max=1.0)
        self.state = end.where(torch.rand_like(acceptance) < acceptance, self.state)
        self._accepted = acceptance.unflatten(0, (self._groups, -1)).mean(-1)
        self.acceptance = self.acceptance + self._accepted
        self.divergences = self.divergences + (change > _DIVERGENT).unflatten(0, (self._groups, -1)).sum(-1)

    def tune(self, count: int) -> None:
        """Learn from the last move, the ``count``-th."""
        self._averaging.update(self._accepted)
        self.step = self._averaging.step.clamp_max(_LARGEST_STEP)
        self._window.append(self.state.z)
        if count in self._ends:
            if count != self._ends[0]:
                draws = torch.stack(self._window).unflatten(1, (self._groups, -1))
                self._metric = Metric.from_draws(draws, self._metric)
            self._averaging.restart(self._averaging.averaged())
            self._window = []
        if count == self._settings.num_warmup:
            self.step = self._averaging.averaged().clamp_max(_LARGEST_STEP)
            self.acceptance = torch.zeros_like(self.acceptance)
            self.divergences = torch.zeros_like(self.divergences)

    def _trajectory(self, momentum: Tensor, step: Tensor, counts: Tensor) -> tuple[_State, Tensor]:
        """Follow the leapfrog rule under the metric, each group for its own number of steps."""
        state, lengths = self.state, counts[self._group]
        momentum = momentum + self._metric.rows(self._group).pull(state.gradient) * step / 2
        for i in range(int(counts.max())):
            rows = (lengths > i).nonzero().squeeze(-1)
            group = self._group[rows]
            metric = self._metric.rows(group)
            z = state.z[rows] + metric.push(momentum[rows]) * step[rows]
            moved = _State(z, *_defined(self._target(z, group)))
            is_last = (lengths[rows] == i + 1).unsqueeze(-1)
            kick = metric.pull(moved.gradient) * step[rows] * torch.where(is_last, 0.5, 1.0).to(z)
            if len(rows) == len(momentum):
                state, momentum = moved, momentum + kick
            else:
                state = _State(*(old.index_copy(0, rows, new) for old, new in zip(state, moved, strict=True)))
                momentum = momentum.index_add(0, rows, kick)
        return state, momentum


def _defined(found: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Make points without a density ones of density zero, to be rejected, that exert no force."""
    log_density, gradient, extras = found
    good = log_density.isfinite() & gradient.isfinite().all(-1)
    return torch.where(good, log_density, -torch.inf), torch.where(good[:, None], gradient, 0.0), extras


def _check_start(log_density: Tensor) -> None:
    wrong = ~log_density.isfinite()
    if wrong.any():
        raise ValueError(
            f"the log-density is {log_density[wrong][0]:g} where {int(wrong.sum())} of {len(wrong)} chains begin: "
            "check the model for values without a likelihood"
        )


def _like(mask: Tensor, other: Tensor) -> Tensor:
    return mask.reshape(mask.shape + (1,) * (other.dim() - mask.dim()))
