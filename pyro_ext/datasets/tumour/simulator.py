"""A program that simulates what sequencing sees of tumours, given what is to be inferred of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pyro_ext.datasets.tumour.coalescent import simulate_coalescent
from pyro_ext.datasets.tumour.linear import shuffle, simulate_linear
from pyro_ext.datasets.tumour.noise import check_rate, observe
from pyro_ext.datasets.tumour.subclones import simulate_subclones
from pyro_ext.ops.mutations import fill_missing, is_conflict_free, is_linear
from pyro_ext.utils.checks import nonnegative_number, one_of, positive_int

__all__ = ["Genealogy", "Labels", "TumourSimulator"]

Labels = Literal["noise", "branching", "matrix"]
Genealogy = Literal["coalescent", "subclones"]

_TRIES = 50
_MANY = 100


@dataclass(frozen=True)
class TumourSimulator:
    """Draws observed mutation matrices, and what is to be inferred of each.

    Args:
        labels: what is to be inferred: ``"noise"``, whether there are errors; ``"branching"``, whether the phylogeny
            has branches; or ``"matrix"``, the true matrix.
        cells: the number n of cells, at least 3.
        mutations: the number m of mutations, at least 2.
        false_positive: the probability that a 0 is observed as 1.
        false_negative: the probability that a 1 is observed as 0.
        missing: the probability that an entry is missing.
        random_rates: whether each matrix has rates of errors of its own, both the same uniform fraction of those
            given.
        genealogy: ``"coalescent"`` as in the publication, or ``"subclones"``, a population that grows in steps.
        growth: the rate of exponential growth of the coalescent.

    Raises:
        ValueError: if an argument is out of range.

    Example:
        >>> simulator = TumourSimulator("branching", cells=5, mutations=4, false_positive=0.0, false_negative=0.0)
        >>> x = simulator.given(torch.tensor([0, 1, 1]), torch.Generator().manual_seed(0))
        >>> x.shape, is_linear(x)
        (torch.Size([3, 5, 4]), tensor([ True, False, False]))
    """

    labels: Labels = "noise"
    cells: int = 10
    mutations: int = 10
    false_positive: float = 0.002
    false_negative: float = 0.1
    missing: float = 0.0
    random_rates: bool = False
    genealogy: Genealogy = "coalescent"
    growth: float = 0.0

    def __post_init__(self) -> None:
        one_of("labels", self.labels, ("noise", "branching", "matrix"))
        one_of("genealogy", self.genealogy, ("coalescent", "subclones"))
        positive_int("cells", self.cells, 3)
        positive_int("mutations", self.mutations, 2)
        nonnegative_number("growth", self.growth)
        for name in ("false_positive", "false_negative", "missing"):
            check_rate(name, getattr(self, name))
        if self.growth and self.genealogy != "coalescent":
            raise ValueError(
                f"growth is of the coalescent, got growth={self.growth} with genealogy={self.genealogy!r}; leave it out"
            )

    def draw(self, number: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Draw matrices of both classes, as many of each or one less of class 1, in random order.

        Args:
            number: the number N of matrices.
            generator: the random generator, on the CPU; torch's default generator if None.

        Returns:
            The observed matrices, int8 ``(N, n, m)``, and their labels, int64 ``(N,)``, or the true matrices, int8.

        Raises:
            ValueError: if errors hardly ever make a conflict.
        """
        positive_int("number", number)
        if self.labels == "matrix":
            return self._conflicting(number, generator, "cpu")
        if self.labels == "branching":
            branching = self._branching((number + 1) // 2, generator, "cpu")
            chains = simulate_linear(branching.sum((1, 2)), self.cells, self.mutations, generator=generator)
            zeros, ones = self._seen(chains, generator), self._seen(branching[: number // 2], generator)
        else:
            zeros = self._clean(number - number // 2, generator, "cpu")
            ones = self._conflicting(number // 2, generator, "cpu")[0] if number > 1 else zeros[:0]
        labels = torch.arange(number, device="cpu") >= len(zeros)
        order = torch.randperm(number, generator=generator, device="cpu")
        return torch.cat([zeros, ones])[order], labels.long()[order]

    def given(self, labels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draw an observed matrix for each label of noise or branching.

        Args:
            labels: zeros and ones of any type, ``(N,)``.
            generator: the random generator, on the device of ``labels``; torch's default generator if None.

        Returns:
            int8 ``(N, n, m)``.

        Raises:
            ValueError: if what is to be inferred is no label, or errors hardly ever make a conflict.
        """
        if self.labels == "matrix":
            raise ValueError("labels='matrix' has no labels that matrices could be drawn for; use draw")
        number, device = len(labels), labels.device
        if self.labels == "branching":
            truth = self._branching(number, generator, device)
            chains = simulate_linear(truth.sum((1, 2)), self.cells, self.mutations, generator=generator)
            return self._seen(torch.where(labels.bool()[:, None, None], truth, chains), generator)
        x = self._clean(number, generator, device)
        noisy = labels.bool().nonzero().squeeze(-1)
        if len(noisy):
            x[noisy] = self._conflicting(len(noisy), generator, device)[0]
        return x

    def truth(
        self, number: int, generator: torch.Generator | None = None, device: torch.device | str | None = None
    ) -> Tensor:
        """Draw true matrices, without conflicts, bool ``(number, n, m)``."""
        if self.genealogy == "coalescent":
            return simulate_coalescent(
                number, self.cells, self.mutations, growth=self.growth, generator=generator, device=device
            )
        return simulate_subclones(number, self.cells, self.mutations, generator=generator, device=device)

    def _seen(self, truth: Tensor, generator: torch.Generator | None) -> Tensor:
        """Return what is observed of true matrices, whose cells and mutations come into a random order."""
        return self._observed(shuffle(truth, generator), generator)

    def _observed(self, truth: Tensor, generator: torch.Generator | None) -> Tensor:
        share: float | Tensor = 1.0
        if self.random_rates:
            share = torch.rand(len(truth), 1, 1, generator=generator, device=truth.device)
        return observe(
            truth, share * self.false_positive, share * self.false_negative, self.missing, generator=generator
        )

    def _clean(self, number: int, generator: torch.Generator | None, device: torch.device | str) -> Tensor:
        return observe(self.truth(number, generator, device), missing=self.missing, generator=generator)

    def _branching(self, number: int, generator: torch.Generator | None, device: torch.device | str) -> Tensor:
        """Return true matrices of phylogenies with branches."""
        truth = self.truth(number, generator, device)
        for _ in range(_TRIES):
            linear = is_linear(truth).nonzero().squeeze(-1)
            if not len(linear):
                return truth
            truth[linear] = self.truth(len(linear), generator, device)
        raise ValueError("simulated tumours hardly ever have branches; take more cells or mutations")

    def _conflicting(
        self, number: int, generator: torch.Generator | None, device: torch.device | str
    ) -> tuple[Tensor, Tensor]:
        """Return observed matrices with conflicts, and the true ones, int8."""
        clean = self.truth(number, generator, device)
        observed = self._observed(clean, generator)
        tries = clean[0].numel()  # for each true matrix, as in the published program, which then gives up
        again = is_conflict_free(fill_missing(observed)).nonzero().squeeze(-1)
        for draw in range(1, _TRIES * tries):
            if not len(again):
                return observed, clean.to(torch.int8)
            if draw == tries and len(again) == number >= _MANY:
                break
            if draw % tries == 0:
                clean[again] = self.truth(len(again), generator, device)
            drawn = self._observed(clean[again], generator)
            observed[again] = drawn
            again = again[is_conflict_free(fill_missing(drawn))]
        raise ValueError(
            f"errors of rates false_positive={self.false_positive:g}, false_negative={self.false_negative:g} hardly "
            f"ever make a conflict of {self.cells} x {self.mutations} matrices; take larger rates or matrices"
        )
