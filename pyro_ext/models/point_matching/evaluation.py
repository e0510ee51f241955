"""How near a guide of matching problems comes to their exact posteriors and to the true permutations."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pyro_ext.distributions import PermutationMatching
from pyro_ext.models.toolkit.permutations import PermutationGuide
from pyro_ext.ops.assignment import best_permutation, linear_assignment
from pyro_ext.ops.permanent import MOST_ROWS
from pyro_ext.plotting import image_grid
from pyro_ext.utils.random_state import isolated_random_state

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "Evaluation",
    "best_matching",
    "exact_posterior",
    "frequencies",
    "hellinger_distance",
    "log_potentials",
    "permutation_rank",
]

_MOST_LISTED = 7  # N up to here are compared permutation by permutation
_BLOCK = 1000  # samples held in memory at a time


def log_potentials(x: Tensor, noise: float) -> Tensor:
    r"""Return the log-likelihood of every match up to a constant, :math:`-\lVert y_m - c_n \rVert^2 / (2 \sigma^2)`.

    Args:
        x: the points C and the observations Y of every problem, ``(B, 2, N, 2)``.
        noise: the standard deviation :math:`\sigma` of the observations.

    Returns:
        ``(B, N, N)``, with observations in rows and points in columns.
    """
    points, observed = x.unbind(1)
    return -(observed.unsqueeze(-2) - points.unsqueeze(-3)).square().sum(-1) / (2 * noise**2)


def exact_posterior(x: Tensor, noise: float) -> PermutationMatching:
    """Return the exact posterior of problems with N up to 18 under the uniform prior, of batch shape ``(B,)``.

    Args:
        x: the points and the observations of every problem, ``(B, 2, N, 2)``.
        noise: the standard deviation of the observations.

    Example:
        >>> points = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
        >>> exact_posterior(torch.stack([points, points.flip(0)])[None], noise=0.5).mean
        tensor([[[0.0180, 0.9820],
                 [0.9820, 0.0180]]])
    """
    return PermutationMatching(log_potentials(x, noise))


def best_matching(x: Tensor) -> Tensor:
    """Return the most probable permutation matrix of problems ``(B, 2, N, 2)``, whatever the noise is."""
    return best_permutation(log_potentials(x, 1.0))


class Evaluation:
    """Metrics and plots of a guide.

    Args:
        guide: has a distribution for every problem.
        noise: the standard deviation of the observations.
        num_samples: the number of permutations drawn for every problem where probabilities are not known.
        seed: the seed of the permutations drawn for the plots.
    """

    def __init__(self, guide: PermutationGuide, noise: float, num_samples: int, seed: int) -> None:
        self.guide = guide
        self.noise = noise
        self.num_samples = num_samples
        self.seed = seed

    @torch.no_grad()
    def metrics(self, x: Tensor, y: Tensor | None, index: Tensor) -> dict[str, Tensor]:
        """Return the metrics of every problem, each ``(B,)``.

        ``accuracy`` is the share of observations whose match is right in the permutation with the most matches expected
        to be right, ``posterior_accuracy`` the same for the exact posterior. Up to N = 7 there are also ``hellinger``,
        the distance to the exact posterior, and ``mode``, whether both have the same most probable permutation.

        Args:
            x: problems ``(B, 2, N, 2)``.
            y: their true permutations, ``(B, N)``.
            index: their places in the data set, ``(B,)``.

        Raises:
            ValueError: if the true permutations are not known.
        """
        if y is None:
            raise ValueError("loader must give the true permutations: evaluate on the part `valid`")
        result = {}
        if self.guide.family.size > _MOST_LISTED:
            result["accuracy"] = _share_right(self.marginals(index), y)
        else:
            exact = exact_posterior(x.double(), self.noise)
            every = exact.enumerate_support(expand=False)
            p, q = exact.log_prob(every).exp().movedim(0, -1), self.probabilities(index)
            result["accuracy"] = _share_right(_expected(q, every), y)
            result["hellinger"] = hellinger_distance(p, q)
            result["mode"] = p.argmax(-1) == q.argmax(-1)
        if self.guide.family.size <= MOST_ROWS:
            result["posterior_accuracy"] = _share_right(exact_posterior(x, self.noise).mean, y)
        return result

    @torch.no_grad()
    def probabilities(self, index: Tensor) -> Tensor:
        """Return the guide's probability of every permutation in the problems ``index``, float64 ``(B, N!)``.

        Where probabilities are not known, the frequencies of samples stand in for them, rounded if they are relaxed.
        """
        known = self.guide.permutation_distribution(index)
        if known is not None:
            every = known.enumerate_support(expand=False)
            return known.log_prob(every).movedim(0, -1).double().softmax(-1)
        return self._averaged(frequencies, index)

    @torch.no_grad()
    def marginals(self, index: Tensor) -> Tensor:
        """Return the guide's probability of every match in the problems ``index``, ``(B, N, N)``."""
        known = self.guide.permutation_distribution(index)
        if known is not None and self.guide.family.size <= _MOST_LISTED:
            return known.mean.double()
        return self._averaged(lambda drawn: drawn.double().mean(0), index)

    def plots(self, x: Tensor, number: int = 8) -> dict[str, Callable[..., Axes]]:
        """Return the plots of the first problems out of ``(num_problems, 2, N, 2)``."""

        @torch.no_grad()
        def marginals(ax: Axes | None = None) -> Axes:
            """Draw the probability of every match, in the exact posterior (above) and in the guide (below)."""
            device = next(self.guide.parameters()).device
            problems = x[:number].to(device)
            index = torch.arange(len(problems), device=device)
            with isolated_random_state(self.seed, device):
                rows = [self.marginals(index)]
            has_posterior = self.guide.family.size <= MOST_ROWS
            if has_posterior:
                rows.insert(0, exact_posterior(problems.double(), self.noise).mean)
            labels = ["exact posterior", "guide"] if has_posterior else ["guide"]
            title = "probability of each match (white: 1), a problem in each column"
            return image_grid(torch.stack(rows), ax, title=title, row_labels=labels)

        return {"marginals": marginals}

    def _averaged(self, summary: Callable[[Tensor], Tensor], index: Tensor) -> Tensor:
        """Return the mean of a summary of samples, block by block."""
        total = torch.zeros((), dtype=torch.float64, device=index.device)
        for start in range(0, self.num_samples, _BLOCK):
            number = min(_BLOCK, self.num_samples - start)
            total = total + number * summary(self.guide.sample_permutations(number, index))
        return total / self.num_samples


def permutation_rank(matrices: Tensor) -> Tensor:
    """Return the place of permutation matrices ``(..., N, N)`` in the lexicographic order of columns, int64 ``(...)``.

    It is the order of ``enumerate_support`` of distributions of permutations.

    Example:
        >>> permutation_rank(torch.eye(3)), permutation_rank(torch.eye(3).flip(0))
        (tensor(0), tensor(5))
    """
    columns = matrices.argmax(-1)
    n = columns.shape[-1]
    later_and_smaller = (columns.unsqueeze(-1) > columns.unsqueeze(-2)).triu(1).sum(-1)
    weights = torch.tensor([math.factorial(n - 1 - row) for row in range(n)], device=columns.device)
    return (later_and_smaller * weights).sum(-1)


def frequencies(matrices: Tensor) -> Tensor:
    """Return the relative frequency of each permutation, float64 ``batch_shape + (N!,)``.

    Args:
        matrices: permutation matrices, ``(num_samples,) + batch_shape + (N, N)``.

    Example:
        >>> frequencies(torch.eye(2).expand(4, 2, 2))
        tensor([1., 0.], dtype=torch.float64)
    """
    rank = permutation_rank(matrices).movedim(0, -1)
    one = torch.ones((), dtype=torch.float64, device=rank.device)
    counts = one.new_zeros(*rank.shape[:-1], math.factorial(matrices.shape[-1]))
    return counts.scatter_add_(-1, rank, one.expand(rank.shape)) / rank.shape[-1]


def hellinger_distance(p: Tensor, q: Tensor) -> Tensor:
    r"""Return the Hellinger distance between probability vectors ``batch_shape + (K,)``, ``batch_shape``.

    .. math::  H(p, q) = \sqrt{1 - \sum_k \sqrt{p_k q_k}} = \sqrt{\tfrac12 \sum_k (\sqrt{p_k} - \sqrt{q_k})^2}.

    Against frequencies of M samples it comes out too large, since the root is concave: :math:`H^2` by about 1 / (8 M)
    for every value that occurs, which is .1 in H where 80 values share the probability and M is 1000.

    Example:
        >>> hellinger_distance(torch.tensor([1.0, 0.0]), torch.tensor([0.5, 0.5]))
        tensor(0.5412)
    """
    return (0.5 * (p.sqrt() - q.sqrt()).square().sum(-1)).sqrt()


def _expected(probabilities: Tensor, every: Tensor) -> Tensor:
    """Return the marginals ``(B, N, N)`` of probabilities ``(B, N!)`` of all permutations, ``(N!, 1, N, N)``."""
    n = every.shape[-1]
    return (probabilities @ every.reshape(-1, n * n).to(probabilities)).unflatten(-1, (n, n))


def _share_right(marginals: Tensor, y: Tensor) -> Tensor:
    """Return the share of matches that are right, ``(B,)``, of the permutation with the most expected to be."""
    return (linear_assignment(marginals) == y).double().mean(-1)
