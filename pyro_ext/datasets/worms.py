"""Recordings of neurons of unknown identity in several animals that share one network of connections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pyro_ext.datasets.base import IndexedDataset, Splits
from pyro_ext.utils.checks import positive_int

__all__ = ["WormRecordings", "lag_moments", "record", "simulate_activity", "simulated_worms", "stable_weights"]

_MARGIN = 1.1  # the spectral radius of the weights is 1 over this


@dataclass(kw_only=True)
class WormRecordings(Splits):
    r"""Recordings of J worms of N neurons each, in an order of its own for each worm.

    The rows of ``x`` are the moments of the activity that :func:`lag_moments` returns, ``(J, 2N, 2N)``. Training and
    validation have the same worms; only ``valid`` has their true identities ``y``, ``(J, N)``: neuron m of worm j is
    number ``y[j, m]`` of the network.

    Args:
        connectome: the pairs of neurons that are connected, symmetric, bool ``(N, N)``.
        candidates: the possible identities (columns) of the neurons (rows) of each worm, bool ``(J, N, N)``. A neuron
            with only one candidate is known.
        num_steps: the number T of steps in time.
        weights: the true weights of the connections, ``(N, N)``; None if they are unknown.
        names: the names of the neurons in the order of the network; None if they have no names.

    Raises:
        ValueError: if the shapes do not fit together.
    """

    connectome: Tensor = field(repr=False)
    candidates: Tensor = field(repr=False)
    num_steps: int
    weights: Tensor | None = field(default=None, repr=False)
    names: tuple[str, ...] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        n, num_worms = len(self.connectome), len(self.train)
        expected = {
            "connectome": (self.connectome, (n, n)),
            "candidates": (self.candidates, (num_worms, n, n)),
            "train.x": (self.train.x, (num_worms, 2 * n, 2 * n)),
        }
        if self.valid.y is not None:
            expected["valid.y"] = (self.valid.y, (num_worms, n))
        for name, (tensor, shape) in expected.items():
            if tensor.shape != shape:
                raise ValueError(f"{name} must have shape {shape} for {num_worms} worms, got {tuple(tensor.shape)}")

    @property
    def known(self) -> Tensor:
        """The neurons with only one candidate: known from the start, or alone at their position, bool ``(J, N)``."""
        return self.candidates.sum(-1) == 1


def lag_moments(activity: Tensor) -> Tensor:
    r"""Return the sums of products of activities, sufficient statistics of a linear model of first order.

    .. math::  \sum_{t=1}^T z_t z_t^\top, \qquad z_t = \begin{pmatrix} y_t \\ y_{t-1} \end{pmatrix}.

    Args:
        activity: the activity at T + 1 times, ``batch_shape + (T + 1, N)``; the first row is the state before the first
            step.

    Returns:
        ``batch_shape + (2N, 2N)``, in the type of ``activity``, summed in float64.

    Raises:
        ValueError: if there are fewer than two rows.

    Example:
        >>> lag_moments(torch.tensor([[1.0], [2.0], [3.0]]))
        tensor([[13.,  8.],
                [ 8.,  5.]])
    """
    if activity.dim() < 2 or activity.shape[-2] < 2:
        raise ValueError(f"activity must have shape (..., T + 1, N) with T at least 1, got {tuple(activity.shape)}")
    pairs = torch.cat([activity[..., 1:, :], activity[..., :-1, :]], -1).double()
    return (pairs.mT @ pairs).to(activity.dtype)


def simulate_activity(
    transition: Tensor, num_steps: int, sample_shape: Sequence[int] = (), generator: torch.Generator | None = None
) -> Tensor:
    r"""Simulate :math:`y_t = A y_{t-1} + \epsilon_t` with standard Gaussian noise and start.

    Args:
        transition: the transition matrix A, ``batch_shape + (N, N)``.
        num_steps: the number T of steps in time.
        sample_shape: the shape of independent runs.
        generator: the random generator of the noise; None for the global one.

    Returns:
        ``sample_shape + batch_shape + (T + 1, N)``.

    Example:
        >>> simulate_activity(torch.zeros(3, 4, 4), num_steps=10, sample_shape=(5,)).shape
        torch.Size([5, 3, 11, 4])
    """
    shape = (num_steps + 1, *sample_shape, *transition.shape[:-1])
    noise = torch.randn(shape, generator=generator, dtype=transition.dtype, device=transition.device)
    state, states = noise[0], [noise[0]]
    for innovation in noise[1:]:
        state = (state.unsqueeze(-2) @ transition.mT).squeeze(-2) + innovation
        states.append(state)
    return torch.stack(states, -2)


def stable_weights(connectome: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draw antisymmetric Gaussian weights of the connections, divided by 1.1 times their spectral radius.

    The eigenvalues are imaginary and smaller than 1 in size, so that activity without noise oscillates and decays.

    Args:
        connectome: the pairs of neurons that are connected, symmetric, bool ``(N, N)``.
        generator: the random generator of the weights; None for the global one.

    Returns:
        ``(N, N)``, float64.

    Example:
        >>> weights = stable_weights(torch.ones(4, 4, dtype=torch.bool))
        >>> torch.linalg.eigvals(weights).abs().max()
        tensor(0.9091, dtype=torch.float64)
    """
    noise = torch.randn(connectome.shape, generator=generator, dtype=torch.float64, device="cpu")
    upper = (noise * connectome).triu(1)
    weights = upper - upper.mT
    radius = torch.linalg.eigvalsh(1j * weights).abs().max()
    return weights / (_MARGIN * radius)


def record(
    name: str, connectome: Tensor, near: Tensor, num_worms: int, num_known: int, num_steps: int, seed: int
) -> WormRecordings:
    """Simulate worms that share weights; each has a random order of its neurons and some random known neurons.

    Args:
        name: the name of the data set.
        connectome: the pairs of neurons that are connected, symmetric, bool ``(N, N)``.
        near: the pairs of neurons that could be confused with each other, symmetric, with a true diagonal, bool
            ``(N, N)``.
        num_worms: the number J of worms.
        num_known: the number of neurons of each worm whose identity is known.
        num_steps: the number T of steps in time.
        seed: the seed of weights, orders, known neurons and activity.

    Raises:
        ValueError: if a number is out of range, or nothing is connected.
    """
    n = len(connectome)
    check_numbers(n, num_worms, num_known, num_steps, seed)
    if not bool(connectome.triu(1).any()):
        raise ValueError("connectome must connect at least two neurons, got none")
    generator = torch.Generator().manual_seed(seed)
    weights = stable_weights(connectome, generator)
    identity = _orders(num_worms, n, generator)
    known = _orders(num_worms, n, generator) < num_known
    activity = simulate_activity(weights, num_steps, (num_worms,), generator)
    activity = activity.gather(-1, identity.unsqueeze(-2).expand(activity.shape))
    moments = lag_moments(activity).float()
    return WormRecordings(
        name=name,
        train=IndexedDataset(moments),
        valid=IndexedDataset(moments, identity),
        connectome=connectome,
        candidates=_candidates(near, identity, known),
        num_steps=num_steps,
        weights=weights.float(),
    )


def simulated_worms(
    num_worms: int = 2,
    num_neurons: int = 20,
    num_connections: int = 60,
    num_nearby: int = 5,
    num_known: int = 4,
    num_steps: int = 1000,
    seed: int = 0,
) -> WormRecordings:
    """Simulate worms with a random network, a small stand-in for :func:`~pyro_ext.datasets.celegans.celegans`.

    Args:
        num_worms: the number J of worms.
        num_neurons: the number N of neurons of each worm.
        num_connections: the number of random pairs of neurons that are connected, at most N (N - 1) / 2.
        num_nearby: the largest number of neurons at one position, which cannot be told apart by their position.
        num_known: the number of neurons of each worm whose identity is known.
        num_steps: the number T of steps in time.
        seed: the seed of connections, weights, orders, known neurons and activity.

    Raises:
        ValueError: if a number is out of range.

    Example:
        >>> worms = simulated_worms(num_neurons=6, num_connections=9, num_nearby=3, num_known=1)
        >>> worms.valid
        IndexedDataset(x (2, 12, 12), labels (2, 6))
        >>> worms.candidates[0].sum(-1)
        tensor([3, 3, 3, 2, 2, 1])
    """
    positive_int("num_neurons", num_neurons, 2)
    positive_int("num_nearby", num_nearby)
    pairs = torch.triu_indices(num_neurons, num_neurons, 1)
    positive_int("num_connections", num_connections, maximum=pairs.shape[1])
    positive_int("seed", seed, 0)
    generator = torch.Generator().manual_seed(seed)
    rows, columns = pairs[:, torch.randperm(pairs.shape[1], generator=generator, device="cpu")[:num_connections]]
    connectome = torch.zeros(num_neurons, num_neurons, dtype=torch.bool)
    connectome[rows, columns] = connectome[columns, rows] = True
    group = torch.arange(num_neurons) // num_nearby
    near = group[:, None] == group
    return record("simulated_worms", connectome, near, num_worms, num_known, num_steps, seed)


def _orders(number: int, size: int, generator: torch.Generator) -> Tensor:
    """Return random permutations of ``size`` items, ``(number, size)``."""
    return torch.stack([torch.randperm(size, generator=generator, device="cpu") for _ in range(number)])


def _candidates(near: Tensor, identity: Tensor, known: Tensor) -> Tensor:
    """Return the candidates: the neurons near the true position, without those that are known to be other neurons."""
    truth = torch.nn.functional.one_hot(identity, len(near)).bool()
    taken = (truth & known.unsqueeze(-1)).any(-2, keepdim=True)
    return torch.where(known.unsqueeze(-1), truth, near[identity] & ~taken)


def check_numbers(num_neurons: int, num_worms: int, num_known: int, num_steps: int, seed: int) -> None:
    """Raise a ValueError if one of the numbers that describe recordings is out of range."""
    positive_int("num_worms", num_worms)
    positive_int("num_known", num_known, 0, num_neurons)
    positive_int("num_steps", num_steps)
    positive_int("seed", seed, 0)
