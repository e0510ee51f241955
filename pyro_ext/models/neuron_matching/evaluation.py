"""The identities of neurons according to a guide of permutations, and how many of them are right."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pyro_ext.datasets import Batch
from pyro_ext.models.toolkit.permutations import PermutationGuide
from pyro_ext.ops.assignment import linear_assignment
from pyro_ext.plotting import COLOURS, finish, given_or_new, integer_ticks
from pyro_ext.utils.random_state import isolated_random_state

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Evaluation", "identify"]


def identify(marginals: Tensor, candidates: Tensor) -> Tensor:
    """Return the permutation with the most neurons expected to be right, as identities ``(B, N)``.

    Args:
        marginals: the probability of every identity (columns) of every neuron (rows), ``(B, N, N)``.
        candidates: which identities are possible, bool ``(B, N, N)``.

    Example:
        >>> identify(torch.tensor([[[0.6, 0.4], [0.9, 0.1]]]), torch.ones(1, 2, 2, dtype=torch.bool))
        tensor([[1, 0]])
    """
    return linear_assignment(marginals.masked_fill(~candidates, -torch.inf))


class Evaluation:
    """Metrics and plots of a guide.

    Args:
        guide: has a distribution of permutations for each worm.
        candidates: the possible identities of the worms' neurons, bool ``(J, N, N)``.
        num_samples: the number of permutations whose frequencies are the marginals.
        seed: the seed of these permutations, which are the same whenever parameters are.
    """

    def __init__(self, guide: PermutationGuide, candidates: Tensor, num_samples: int, seed: int) -> None:
        self.guide = guide
        self.candidates = candidates
        self.num_samples = num_samples
        self.seed = seed

    def metrics(self, loader: Iterable[Batch]) -> dict[str, float]:
        """Return the share of neurons identified rightly, out of those with several candidates and out of all.

        Neurons are identified by the permutation with the most of them expected to be right under the guide. Worms with
        more neurons to identify count more in ``accuracy``, the share among neurons with several candidates.

        Raises:
            ValueError: if there is no worm, or no true identity.
        """
        with isolated_random_state(self.seed, self.candidates.device):  # a DataLoader draws a seed of its own
            results = [self.correct(_labels(y), index) for _, y, index in loader]
        if not results:
            raise ValueError("loader must hold at least one worm, got none")
        right, unknown = (torch.cat(parts) for parts in zip(*results, strict=True))
        # Where no neuron is unknown, none is wrong.
        share = float(right[unknown].double().mean()) if bool(unknown.any()) else 1.0
        return {"accuracy": share, "accuracy_all": float(right.double().mean())}

    def correct(self, y: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """Return which neurons are identified rightly and which have several candidates, both bool ``(B, N)``.

        Args:
            y: the true identities, ``(B, N)``.
            index: the worms' places in the data set, ``(B,)``.
        """
        marginals = self.marginals(index)
        candidates = self.candidates.to(marginals.device)[index.to(marginals.device)]
        identity = identify(marginals, candidates)
        return identity == y.to(identity), candidates.sum(-1) > 1

    @torch.no_grad()
    def marginals(self, index: Tensor) -> Tensor:
        """Return how often each identity occurs for the neurons of the worms ``index``, ``(B, N, N)``."""
        device = next(self.guide.parameters()).device
        with isolated_random_state(self.seed, device):
            index = index.to(device)
            return self.guide.sample_permutations(self.num_samples, index, self.candidates.to(device)[index]).mean(0)

    def plots(self, y: Tensor | None) -> dict[str, Callable[..., Axes]]:
        """Return plots of the first worm's marginals and, with the true identities ``(J, N)``, of all accuracies."""

        def marginals(ax: Axes | None = None) -> Axes:
            """Draw how probable each identity is for the neurons of the first worm; the truth is the diagonal."""
            matrix = self.marginals(torch.tensor([0]))[0].cpu()
            order = y[0].argsort() if y is not None else identify(matrix[None], self.candidates[:1].cpu())[0].argsort()
            ax = given_or_new(ax, width=5.5, height=5)
            image = ax.imshow(matrix[order.cpu()].numpy(), cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
            ax.figure.colorbar(image, ax=ax, label="probability", fraction=0.046, pad=0.04)  # as tall as a square
            ax.grid(False)
            integer_ticks(ax, "both")
            known = y is not None
            title = "first worm: how probable each identity is" + ("; the truth is the diagonal" if known else "")
            return finish(ax, "identity", "neuron, by identity" if known else "neuron, as identified", title)

        def accuracy(ax: Axes | None = None) -> Axes:
            """Draw the share of each worm's neurons identified, of all and of those with several candidates."""
            assert y is not None
            right, unknown = self.correct(y, torch.arange(len(y)))
            several = (right & unknown).sum(-1) / unknown.sum(-1).clamp_min(1)
            ax = given_or_new(ax)
            for place, (label, values) in enumerate(
                {"all neurons": right.double().mean(-1), "several candidates": several}.items()
            ):
                ax.bar(
                    [j + 0.4 * place - 0.2 for j in range(len(y))],
                    values.tolist(),
                    width=0.38,
                    color=COLOURS[place],
                    label=label,
                )
            ax.set(ylim=(0, 1), xticks=range(len(y)))
            ax.grid(False, axis="x")
            return finish(
                ax,
                "worm",
                "share of neurons identified",
                "neurons identified rightly",
                loc="upper left",
                bbox_to_anchor=(1.0, 1.0),
            )

        return {"marginals": marginals} | ({} if y is None else {"accuracy": accuracy})


def _labels(y: Tensor | None) -> Tensor:
    if y is None:
        raise ValueError("loader must hold the true identities y of the worms' neurons, got None")
    return y
