"""How near a guide of matching problems comes to their posteriors and to the truth."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pyro_ext.datasets.base import Batch
from pyro_ext.distributions import PermutationMatching
from pyro_ext.models.permutation_matching.hellinger import frequencies, hellinger_distance
from pyro_ext.models.permutation_matching.laws import LocalGuide
from pyro_ext.ops.assignment import best_permutation, linear_assignment
from pyro_ext.ops.permanent import MOST_ROWS
from pyro_ext.plotting import image_grid
from pyro_ext.utils.random_state import isolated_random_state

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Assessment", "best_matching", "log_potentials", "posterior"]

_MOST_LISTED = 7  # N up to here are compared permutation by permutation
_BLOCK = 1000  # samples held at a time


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


def posterior(x: Tensor, noise: float) -> PermutationMatching:
    """Return the exact posterior of problems with N up to 18 under the uniform prior, of batch shape ``(B,)``.

    Args and shapes are those of :func:`log_potentials`.

    Example:
        >>> points = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
        >>> posterior(torch.stack([points, points.flip(0)])[None], noise=0.5).mean
        tensor([[[0.0180, 0.9820],
                 [0.9820, 0.0180]]])
    """
    return PermutationMatching(log_potentials(x, noise))


def best_matching(x: Tensor) -> Tensor:
    """Return the most probable permutation matrix of problems ``(B, 2, N, 2)``, whatever the noise is."""
    return best_permutation(log_potentials(x, 1.0))


class Assessment:
    """Metrics and plots of a guide.

    Args:
        guide: a law for every problem.
        noise: the standard deviation of the observations.
        num_samples: how many permutations are drawn for every problem where probabilities are not known.
        seed: of these; the same ones are drawn whenever parameters are the same.
    """

    def __init__(self, guide: LocalGuide, noise: float, num_samples: int, seed: int) -> None:
        self.guide = guide
        self.noise = noise
        self.num_samples = num_samples
        self.seed = seed

    @torch.no_grad()
    def probabilities(self, index: Tensor) -> Tensor:
        """Return what the guide gives every permutation in problems ``index``, float64 ``(B, N!)``.

        The frequencies of samples, rounded where they are relaxed, stand in for probabilities that are not known.
        """
        law = self.guide.exact(index)
        if law is not None:
            every = law.enumerate_support(expand=False)
            return law.log_prob(every).movedim(0, -1).double().softmax(-1)
        return self._averaged(frequencies, index)

    @torch.no_grad()
    def marginals(self, index: Tensor) -> Tensor:
        """Return the guide's probability of every match in problems ``index``, ``(B, N, N)``."""
        law = self.guide.exact(index)
        if law is not None and self.guide.laws.size <= _MOST_LISTED:
            return law.mean.double()
        return self._averaged(lambda drawn: drawn.double().mean(0), index)

    @torch.no_grad()
    def metrics(self, loader: Iterable[Batch]) -> dict[str, float]:
        """Return means over problems.

        ``accuracy`` is the share of observations matched rightly by the permutation with the most matches expected to
        be right, ``posterior_accuracy`` that of the exact posterior; up to N = 7 there are also ``hellinger``, the
        distance to the posterior, and ``mode``, the share of problems whose most probable permutation is found.

        Raises:
            ValueError: if there is no problem, or its permutation is not known.
        """
        found: dict[str, list[Tensor]] = {}
        at = next(self.guide.parameters()).device
        with isolated_random_state(self.seed, at):
            for x, y, index in loader:
                if y is None:
                    raise ValueError("loader must give the true permutations: evaluate on the part `valid`")
                for name, value in self.batch_metrics(x.to(at), y.to(at), index.to(at)).items():
                    found.setdefault(name, []).append(value.double())
        if not found:
            raise ValueError("loader must hold at least one problem, got none")
        return {name: float(torch.cat(values).mean()) for name, values in found.items()}

    @torch.no_grad()
    def batch_metrics(self, x: Tensor, y: Tensor, index: Tensor) -> dict[str, Tensor]:
        """Return the metrics of every problem, each ``(B,)``.

        Args:
            x: problems ``(B, 2, N, 2)``.
            y: their permutations, ``(B, N)``.
            index: their places, ``(B,)``.
        """
        result = {}
        if self.guide.laws.size > _MOST_LISTED:
            result["accuracy"] = _share_right(self.marginals(index), y)
        else:
            exact = posterior(x.double(), self.noise)
            every = exact.enumerate_support(expand=False)
            p, q = exact.log_prob(every).exp().movedim(0, -1), self.probabilities(index)
            result["accuracy"] = _share_right(_expected(q, every), y)
            result["hellinger"] = hellinger_distance(p, q)
            result["mode"] = p.argmax(-1) == q.argmax(-1)
        if self.guide.laws.size <= MOST_ROWS:
            result["posterior_accuracy"] = _share_right(posterior(x, self.noise).mean, y)
        return result

    def plots(self, x: Tensor, number: int = 8) -> dict[str, Callable[..., Axes]]:
        """Return the plots of the first problems out of ``(num_problems, 2, N, 2)``."""

        @torch.no_grad()
        def marginals(ax: Axes | None = None) -> Axes:
            """Draw the probability of every match, in the posterior (above) and in the guide (below)."""
            at = next(self.guide.parameters()).device
            problems = x[:number].to(at)
            index = torch.arange(len(problems), device=at)
            with isolated_random_state(self.seed, at):
                pictures = [self.marginals(index)]
            exact = self.guide.laws.size <= MOST_ROWS
            if exact:
                pictures.insert(0, posterior(problems.double(), self.noise).mean)
            ax = image_grid(torch.stack(pictures), ax)
            ax.set_title("marginals: posterior above, guide below" if exact else "marginals of the guide")
            return ax

        return {"marginals": marginals}

    def _averaged(self, summary: Callable[[Tensor], Tensor], index: Tensor) -> Tensor:
        """Return the mean of a summary of samples, block by block."""
        total = torch.zeros((), dtype=torch.float64, device=index.device)
        for start in range(0, self.num_samples, _BLOCK):
            number = min(_BLOCK, self.num_samples - start)
            total = total + number * summary(self.guide.permutations(number, index))
        return total / self.num_samples


def _expected(probabilities: Tensor, every: Tensor) -> Tensor:
    """Return the marginals ``(B, N, N)`` of probabilities ``(B, N!)`` of all permutations, ``(N!, 1, N, N)``."""
    n = every.shape[-1]
    return (probabilities @ every.reshape(-1, n * n).to(probabilities)).unflatten(-1, (n, n))


def _share_right(marginals: Tensor, y: Tensor) -> Tensor:
    return (linear_assignment(marginals) == y).double().mean(-1)
