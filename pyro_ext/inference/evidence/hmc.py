r"""Hamiltonian Monte Carlo for many chains of many distributions, with one batch of gradients for each step.

Each group of chains draws from one distribution, such as a power of the likelihood times the prior, and has its own
step size, scales and length of trajectory. A distribution is given by its log-density and its gradient at a batch of
points.

Pyro's NUTS runs one chain of one distribution at a time, or each chain in a process of its own, to which the model is
pickled. On models with eight latents this sampler gives 4 to 8 times as many effective draws per second of processor
time as compiled NUTS, and 30 times as many for twelve powers of a likelihood (``benchmarks/evidence_peers.py``). NUTS
has the larger effective sample size per draw; its draws can be passed to ``estimate_evidence`` as ``posterior``.

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
_DIVERGENT = 1000.0  # an error of the energy above this counts as a divergence
_PATH = math.pi / 2  # the length of a trajectory under the metric: a quarter of a period removes the correlation
_LARGEST_STEP = 1.2  # under the metric; leapfrog steps are unstable above 2


class HMCSettings(NamedTuple):
    """The numbers of steps of the chains, and the settings of their tuning.

    Attributes:
        num_warmup: the number of warm-up steps, which tune the sampler and are not kept.
        num_draws: the number of draws to keep from each chain.
        target_accept: the acceptance rate to which step sizes are tuned.
        max_leapfrog: the largest number of gradients in one step of a chain.
    """

    num_warmup: int
    num_draws: int
    target_accept: float = 0.8
    max_leapfrog: int = 32


@dataclass(frozen=True)
class Chains:
    """Draws of G groups of C chains.

    Args:
        z: the draws, ``(N, G, C, D)``.
        extras: the extras that the target returned at the draws, ``(N, G, C, A)``.
        acceptance: the mean acceptance rate of each group, ``(G,)``.
        divergences: the number of divergent trajectories in each group, ``(G,)``.
        step_size: the step size of each group under its metric, ``(G,)``.
    """

    z: Tensor
    extras: Tensor
    acceptance: Tensor
    divergences: Tensor
    step_size: Tensor


class _State(NamedTuple):
    """The states of all chains, R = G C rows: positions, log-densities, gradients and extras."""

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
    """Run all chains through warm-up, then return their draws.

    Args:
        target: a function of points ``(R, D)`` and of the group of each point ``(R,)``, that returns log-densities
            ``(R,)``, gradients ``(R, D)`` and extras ``(R, A)`` to be kept with the draws. A log-density that is not a
            number counts as zero density.
        start: the points where the chains start, ``(G, C, D)``.
        scale: rough standard deviations of the distributions, ``(G, D)``.
        settings: the numbers of steps and the settings of the tuning.
        advance: called with 1 after each step of all chains.

    Raises:
        ValueError: if the density is zero or not a number where a chain starts.

    Example:
        >>> def target(z, group):  # normal distributions of standard deviations 1 and 100
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
    """The states of the chains, their step sizes and their metrics."""

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
        # The lengths are random: after trajectories of half a period even functions would keep their values.
        length = _PATH * (0.5 + jitter)
        counts = (length / self.step).ceil().clamp(1, self._settings.max_leapfrog).long()
        step = torch.minimum(length / counts, self.step)
        momentum = torch.randn_like(self.state.z)
        end, final = self._trajectory(momentum, step[self._group, None], counts)
        energy = momentum.square().sum(-1) / 2 - self.state.log_density
        change = (final.square().sum(-1) / 2 - end.log_density - energy).nan_to_num(torch.inf, torch.inf)
        acceptance = (-change).exp().clamp(max=1.0)
        self.state = end.where(torch.rand_like(acceptance) < acceptance, self.state)
        accepted = acceptance.unflatten(0, (self._groups, -1))
        self.acceptance = self.acceptance + accepted.mean(-1)
        # Trajectories that end where the density is zero say nothing about the step size.
        inside = end.log_density.isfinite().unflatten(0, (self._groups, -1)).to(accepted)
        self._accepted = accepted.sum(-1) / inside.sum(-1).clamp_min(1.0)
        self.divergences = self.divergences + (change > _DIVERGENT).unflatten(0, (self._groups, -1)).sum(-1)

    def tune(self, count: int) -> None:
        """Tune step sizes and metrics after warm-up step number ``count``."""
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
        """Make leapfrog steps under the metric, for each group its own number."""
        state, lengths = self.state, counts[self._group]
        momentum = momentum + self._metric.rows(self._group).pull(state.gradient) * step / 2
        for i in range(int(counts.max())):
            rows = (lengths > i).nonzero().squeeze(-1)
            group = self._group[rows]
            metric = self._metric.rows(group)
            z = state.z[rows] + metric.push(momentum[rows]) * step[rows]
            proposed = _State(z, *_defined(self._target(z, group)))
            is_last = (lengths[rows] == i + 1).unsqueeze(-1)
            kick = metric.pull(proposed.gradient) * step[rows] * torch.where(is_last, 0.5, 1.0).to(z)
            if len(rows) == len(momentum):
                state, momentum = proposed, momentum + kick
            else:
                state = _State(*(old.index_copy(0, rows, new) for old, new in zip(state, proposed, strict=True)))
                momentum = momentum.index_add(0, rows, kick)
        return state, momentum


def _defined(target_values: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Give points where the target is not finite a density of zero, so that they are rejected, and a zero gradient."""
    log_density, gradient, extras = target_values
    good = log_density.isfinite() & gradient.isfinite().all(-1)
    return torch.where(good, log_density, -torch.inf), torch.where(good[:, None], gradient, 0.0), extras


def _check_start(log_density: Tensor) -> None:
    wrong = ~log_density.isfinite()
    if wrong.any():
        raise ValueError(
            f"the log-density is {log_density[wrong][0]:g} where {int(wrong.sum())} of {len(wrong)} chains start: "
            "check the model for values of zero likelihood"
        )


def _like(mask: Tensor, other: Tensor) -> Tensor:
    return mask.reshape(mask.shape + (1,) * (other.dim() - mask.dim()))
