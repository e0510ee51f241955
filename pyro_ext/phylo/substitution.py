"""Models of nucleotide substitution: reversible Markov processes with one expected change per unit of time."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from pyro_ext.ops.symmetric_exp import symmetric_exp
from pyro_ext.utils.checks import check_positive_tensor

__all__ = ["GTR", "HKY85", "JC69", "K80", "SubstitutionModel"]

NUM_STATES = 4


class SubstitutionModel(ABC):
    """A reversible substitution process on the states A, C, G, T.

    Branch lengths are expected substitutions per site.
    """

    @property
    @abstractmethod
    def frequencies(self) -> Tensor:
        """Stationary probabilities of the states, ``batch_shape + (4,)``."""

    @abstractmethod
    def transition_matrices(self, branch_lengths: Tensor) -> Tensor:
        """Return the probabilities of ending in each state (columns), given the state at the start (rows).

        Args:
            branch_lengths: the lengths of E branches, not negative, ``batch_shape + (E,)``.

        Returns:
            ``batch_shape + (E, 4, 4)``.
        """


class JC69(SubstitutionModel):
    r"""All substitutions at one rate: :math:`P_{ij}(t) = \frac14 + (\delta_{ij} - \frac14) e^{-4t/3}`.

    Args:
        like: a tensor with the floating type and device of the frequencies; torch's defaults if None.

    References:
        | Evolution of protein molecules (Jukes and Cantor, 1969)

    >>> JC69().transition_matrices(torch.tensor([0.1]))[0, 0]
    tensor([0.9064, 0.0312, 0.0312, 0.0312])
    """

    def __init__(self, like: Tensor | None = None) -> None:
        self._frequencies = (torch.empty(()) if like is None else like).new_full((NUM_STATES,), 1 / NUM_STATES)

    @property
    def frequencies(self) -> Tensor:
        """A quarter each, ``(4,)``."""
        return self._frequencies

    def transition_matrices(self, branch_lengths: Tensor) -> Tensor:
        """Return the probabilities of ending in each state, ``batch_shape + (E, 4, 4)``."""
        change = -(-4 / 3 * branch_lengths).expm1() / 4
        same = torch.eye(NUM_STATES, dtype=change.dtype, device=change.device)
        change = change[..., None, None]
        return change + same * (1 - 4 * change)

    def __repr__(self) -> str:
        return "JC69()"


class HKY85(SubstitutionModel):
    r"""Transitions (A-G, C-T) at :math:`\kappa` times the rate of transversions; any frequencies.

    Args:
        kappa: the ratio :math:`\kappa` of the rates of transitions and transversions, positive, ``batch_shape``.
        frequencies: the stationary probabilities of A, C, G, T, positive, summing to 1, ``batch_shape + (4,)``;
            a quarter each if None.

    Raises:
        ValueError: if an argument is out of range or of a wrong shape.

    References:
        | Dating of the human-ape splitting by a molecular clock of mitochondrial DNA (Hasegawa et al., 1985)
        | https://doi.org/10.1007/BF02101694

    >>> HKY85(torch.tensor(2.0)).transition_matrices(torch.tensor([0.1]))[0, 0]
    tensor([0.9066, 0.0238, 0.0459, 0.0238])
    """

    def __init__(self, kappa: Tensor, frequencies: Tensor | None = None) -> None:
        check_positive_tensor("kappa", kappa)
        quarter = kappa.new_full((NUM_STATES,), 1 / NUM_STATES)
        self.kappa = kappa
        self._frequencies = quarter if frequencies is None else _checked_frequencies(frequencies)

    @property
    def frequencies(self) -> Tensor:
        """Stationary probabilities, ``batch_shape + (4,)``."""
        return self._frequencies

    def transition_matrices(self, branch_lengths: Tensor) -> Tensor:
        """Return the probabilities of ending in each state, ``batch_shape + (E, 4, 4)``."""
        pi, kappa = self._frequencies, self.kappa.unsqueeze(-1)
        group = pi + pi.roll(2, -1)  # purines A, G; pyrimidines C, T
        purine, pyrimidine = group[..., :1], group[..., 1:2]
        pairs = (pi[..., :2] * pi[..., 2:]).sum(-1, keepdim=True)
        time = branch_lengths / (2 * (purine * pyrimidine + kappa * pairs))
        # P_ij = pi_j (1 - e^(-t)) + [i, j in one group] pi_j / g (e^(-t) - d) + delta_ij d, where g is the group of j
        # and d = e^(-t (1 + g (kappa - 1))); written in differences from 1, which stay precise for short branches
        t = time[..., None, None]
        to, of = pi[..., None, None, :], group[..., None, None, :]
        eye = torch.eye(NUM_STATES, dtype=pi.dtype, device=pi.device)
        within = eye + eye.roll(2, -1)
        across = (-t).exp()
        faster = -t * of * (kappa[..., None, None] - 1)
        return -to * (-t).expm1() - within * to / of * across * faster.expm1() + eye * across * faster.exp()

    def __repr__(self) -> str:
        return f"HKY85(kappa={_shown(self.kappa)}, frequencies={_shown(self._frequencies)})"


class K80(HKY85):
    r"""Transitions at :math:`\kappa` times the rate of transversions, all states equally frequent.

    Args:
        kappa: the ratio :math:`\kappa` of the rates of transitions and transversions, positive, ``batch_shape``.

    Raises:
        ValueError: if ``kappa`` is not positive.

    References:
        | A simple method for estimating evolutionary rates of base substitutions (Kimura, 1980)
        | https://doi.org/10.1007/BF01731581

    >>> K80(torch.tensor(2.0)).frequencies
    tensor([0.2500, 0.2500, 0.2500, 0.2500])
    """

    def __init__(self, kappa: Tensor) -> None:
        super().__init__(kappa)

    def __repr__(self) -> str:
        return f"K80(kappa={_shown(self.kappa)})"


class GTR(SubstitutionModel):
    r"""The general reversible model: rate :math:`q_{ij} \propto r_{ij} \pi_j` with symmetric exchangeabilities r.

    Args:
        rates: exchangeabilities AC, AG, AT, CG, CT, GT up to a common factor, positive, ``batch_shape + (6,)``.
        frequencies: the stationary probabilities of A, C, G, T, positive, summing to 1, ``batch_shape + (4,)``.

    Raises:
        ValueError: if an argument is out of range or of a wrong shape.

    References:
        | Some probabilistic and statistical problems in the analysis of DNA sequences (Tavare, 1986)

    >>> model = GTR(torch.ones(6), torch.full((4,), 0.25))  # which is JC69
    >>> model.transition_matrices(torch.tensor([0.1]))[0, 0]
    tensor([0.9064, 0.0312, 0.0312, 0.0312])
    """

    def __init__(self, rates: Tensor, frequencies: Tensor) -> None:
        check_positive_tensor("rates", rates)
        if rates.dim() < 1 or rates.shape[-1] != 6:
            raise ValueError(f"rates must have shape batch_shape + (6,), AC AG AT CG CT GT, got {tuple(rates.shape)}")
        self.rates = rates
        self._frequencies = _checked_frequencies(frequencies)

    @property
    def frequencies(self) -> Tensor:
        """Stationary probabilities, ``batch_shape + (4,)``."""
        return self._frequencies

    def transition_matrices(self, branch_lengths: Tensor) -> Tensor:
        """Return the probabilities of ending in each state, ``batch_shape + (E, 4, 4)``."""
        # In float64, because for short branches the terms of these sums cancel.
        frequencies, scaled = self._frequencies.double(), self._exchangeabilities().double()
        root = frequencies.sqrt()
        out = (scaled * frequencies.unsqueeze(-2)).sum(-1)
        total = (out * frequencies).sum(-1, keepdim=True)
        # D^(1/2) Q D^(-1/2) is symmetric, D the frequencies
        symmetric = scaled * root.unsqueeze(-1) * root.unsqueeze(-2) - out.diag_embed()
        powers = symmetric_exp(symmetric / total.unsqueeze(-1), branch_lengths.double(), largest_is_zero=True)
        powers = powers * root[..., None, None, :] / root[..., None, :, None]
        return powers.clamp_min(0).to(branch_lengths.dtype)

    def _exchangeabilities(self) -> Tensor:
        """Return the symmetric matrix of rates, zeros on its diagonal."""
        upper, right = torch.triu_indices(NUM_STATES, NUM_STATES, 1, device=self.rates.device)
        matrix = self.rates.new_zeros((*self.rates.shape[:-1], NUM_STATES, NUM_STATES))
        matrix[..., upper, right] = self.rates
        return matrix + matrix.mT

    def __repr__(self) -> str:
        return f"GTR(rates={_shown(self.rates)}, frequencies={_shown(self._frequencies)})"


def _checked_frequencies(frequencies: Tensor) -> Tensor:
    if frequencies.dim() < 1 or frequencies.shape[-1] != NUM_STATES:
        raise ValueError(f"frequencies must have shape batch_shape + (4,), got {tuple(frequencies.shape)}")
    check_positive_tensor("frequencies", frequencies)
    total = frequencies.detach().sum(-1)
    if ((total - 1).abs() > 1e-4).any():
        raise ValueError(f"frequencies must sum to 1, got a sum of {total.flatten()[0]:g}; divide by it")
    return frequencies


def _shown(value: Tensor) -> str:
    return f"{value.item():.4g}" if value.dim() == 0 else str(tuple(value.shape))
