"""Activity of neurons whose identities are hidden, in several animals that share one network of connections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pyro_ext.datasets.base import IndexedDataset, Splits

__all__ = ["WormRecordings", "lag_moments", "record", "simulate_activity", "simulated_worms", "stable_weights"]

_MARGIN = 1.1  # the spectral radius of the weights is 1 over this


@dataclass(kw_only=True)
class WormRecordings(Splits):
    r"""Recordings of J worms of N neurons each, in an order of its own for each worm.

    The rows of ``x`` are the moments of the activity that :func:`lag_moments` returns, ``(J, 2N, 2N)``. The worms to
    validate on are those to train on; what is held out are their true identities ``valid.y``, ``(J, N)``: neuron m of
    worm j is number ``y[j, m]`` of the network.

    Args:
        connectome: the pairs of neurons that are connected, symmetric, bool ``(N, N)``.
        candidates: the possible identities (columns) of each worm's neurons (rows), bool ``(J, N, N)``. A neuron with
            only one candidate is known.
        num_steps: the number T of steps in time.
        weights: the true weights of the connections, ``(N, N)``, where they are known.
        names: the neurons' names in the order of the network, if they have any.

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
        """The neurons with only one candidate, known beforehand or alone at their position, bool ``(J, N)``."""
        return self.candidates.sum(-1) == 1


def lag_moments(activity: Tensor) -> Tensor:
    r"""Return the sums of products of activities that the likelihood of a linear model of first order depends on.

    .. math::  \sum_{t=1}^T z_t z_t^\top, \qquad z_t = \begin{pmatrix} y_t \\ y_{t-1} \end{pmatrix}.

    Args:
        activity: ``batch_shape + (T + 1, N)``, the first row being the state before the first step.

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
        transition: A, ``batch_shape + (N, N)``.
        num_steps: T.
        sample_shape: of independent runs.
        generator: where the noise comes from.

    Returns:
        ``sample_shape + batch_shape + (T + 1, N)``.

    Example:
        >>> simulate_activity(torch.zeros(3, 4, 4), num_steps=10, sample_shape=(5,)).shape
        torch.Size([5, 3, 11, 4])
    """
    shape = (num_steps + 1, *sample_shape, *transition.shape[:-1])
    noise = torch.randn(shape, generator=generator, dtype=transition.dtype, device=transition.device)
    state, states = noise[0], [noise[0]]
    for disturbance in noise[1:]:
        state = (state.unsqueeze(-2) @ transition.mT).squeeze(-2) + disturbance
        states.append(state)
    return torch.stack(states, -2)


def stable_weights(connectome: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draw antisymmetric Gaussian weights of the connections, divided by 1.1 times their spectral radius.

    Their eigenvalues are imaginary: activity oscillates and dies out, unless noise keeps it going.

    Args:
        connectome: symmetric, bool ``(N, N)``.
        generator: where the weights come from.

    Returns:
        ``(N, N)``, float64.

    Example:
        >>> weights = stable_weights(torch.ones(4, 4, dtype=torch.bool))
        >>> torch.linalg.eigvals(weights).abs().max()
        tensor(0.9091, dtype=torch.float64)
    """
    noise = torch.randn(connectome.shape, generator=generator, dtype=torch.float64)
    upper = (noise * connectome).triu(1)
    weights = upper - upper.mT
    radius = torch.linalg.eigvalsh(1j * weights).abs().max()
    return weights / (_MARGIN * radius)


def record(
    name: str, connectome: Tensor, near: Tensor, num_worms: int, num_known: int, num_steps: int, seed: int
) -> WormRecordings:
    """Simulate worms that share weights, each with a random order of its neurons and some random ones known.

    Args:
        name: what the data set is to be called.
        connectome: symmetric, bool ``(N, N)``.
        near: the pairs of neurons that could be taken for each other, symmetric, with a true diagonal, bool ``(N, N)``.
        num_worms: J.
        num_known: how many neurons of each worm have a known identity.
        num_steps: T.
        seed: of everything random.

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
        num_worms: J.
        num_neurons: N.
        num_connections: how many of the N (N - 1) / 2 pairs are connected, at random.
        num_nearby: neurons stand in groups of at most this many, whose members are not told apart by position.
        num_known: how many neurons of each worm have a known identity.
        num_steps: the number of steps in time.
        seed: of everything random.

    Raises:
        ValueError: if a number is out of range.

    Example:
        >>> worms = simulated_worms(num_neurons=6, num_connections=9, num_nearby=3, num_known=1)
        >>> worms.valid
        IndexedDataset(x (2, 12, 12), labels (2, 6))
        >>> worms.candidates[0].sum(-1)
        tensor([3, 3, 3, 2, 2, 1])
    """
    for label, value in (("num_neurons", num_neurons), ("num_nearby", num_nearby)):
        _check_integer(label, value, 2 if label == "num_neurons" else 1, None)
    pairs = torch.triu_indices(num_neurons, num_neurons, 1)
    _check_integer("num_connections", num_connections, 1, pairs.shape[1])
    _check_integer("seed", seed, 0, None)
    generator = torch.Generator().manual_seed(seed)
    rows, columns = pairs[:, torch.randperm(pairs.shape[1], generator=generator)[:num_connections]]
    connectome = torch.zeros(num_neurons, num_neurons, dtype=torch.bool)
    connectome[rows, columns] = connectome[columns, rows] = True
    group = torch.arange(num_neurons) // num_nearby
    near = group[:, None] == group
    return record("simulated_worms", connectome, near, num_worms, num_known, num_steps, seed)


def _orders(number: int, size: int, generator: torch.Generator) -> Tensor:
    """Return random orders of ``size`` things, ``(number, size)``."""
    return torch.stack([torch.randperm(size, generator=generator) for _ in range(number)])


def _candidates(near: Tensor, identity: Tensor, known: Tensor) -> Tensor:
    """Return what each worm's neurons may be: those near their true place that are not known to be others."""
    truth = torch.nn.functional.one_hot(identity, len(near)).bool()
    taken = (truth & known.unsqueeze(-1)).any(-2, keepdim=True)
    return torch.where(known.unsqueeze(-1), truth, near[identity] & ~taken)


def check_numbers(num_neurons: int, num_worms: int, num_known: int, num_steps: int, seed: int) -> None:
    """Raise a ValueError if one of the numbers that describe recordings is out of range."""
    _check_integer("num_worms", num_worms, 1, None)
    _check_integer("num_known", num_known, 0, num_neurons)
    _check_integer("num_steps", num_steps, 1, None)
    _check_integer("seed", seed, 0, None)


def _check_integer(name: str, value: int, least: int, most: int | None) -> None:
    wrong = isinstance(value, bool) or not isinstance(value, int) or value < least
    if wrong or (most is not None and value > most):
        limits = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise ValueError(f"{name} must be an integer {limits}, got {value!r}")
