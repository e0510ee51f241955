"""Plots of samples: at the end, beside their nearest training images, and in the course of training."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from pyro_ext.models.gan.evaluation import draw_samples
from pyro_ext.models.gan.programs import Generator
from pyro_ext.models.toolkit import image_rows
from pyro_ext.utils.checks import positive_int

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["SampleHistory", "as_pictures", "model_plots"]

_LOG = logging.getLogger(__name__)
_COLUMNS = 10
_SEARCHED = 10_000  # training images among which neighbours are looked for


class SampleHistory(nn.Module):
    """Samples at the same uniform variables in the course of training: from a few steps on, then ever more rarely.

    Samples are kept in a buffer, so that a resumed run has those from before. With a folder, a grid of 100 samples is
    drawn there each time, for whoever wants to watch a long run.

    Args:
        generator: what draws samples.
        num_steps: the number of steps that training will take.
        image_shape: channels, height and width.
        rows: how many times samples are kept.
        folder: where grids are written; none are if empty.
        seed: the seed of the uniform variables.

    Raises:
        ValueError: if ``num_steps`` or ``rows`` is not a positive integer.

    Example:
        >>> generator = Generator(nn.Sequential(nn.Linear(3, 4), nn.Sigmoid()), 3)
        >>> history = SampleHistory(generator, 1000, (1, 2, 2), rows=5)
        >>> history.steps
        [0, 63, 125, 250, 500]
        >>> for step in range(300):
        ...     history.note(step)
        >>> [len(row) for row in history.pictures()]
        [10, 10, 10, 10]
    """

    _generator: Generator
    images: Tensor
    noted: Tensor

    def __init__(
        self,
        generator: Generator,
        num_steps: int,
        image_shape: tuple[int, int, int],
        rows: int = 7,
        folder: str = "",
        seed: int = 0,
    ) -> None:
        super().__init__()
        positive_int("num_steps", num_steps)
        object.__setattr__(self, "_generator", generator)  # not registered: it belongs to its objective
        chosen = {0, *(-(-num_steps // 2**power) for power in range(1, positive_int("rows", rows)))}
        self.steps = sorted(step for step in chosen if step < num_steps)
        self.image_shape, self.folder, self.seed = image_shape, folder, seed
        size = image_shape[0] * image_shape[1] * image_shape[2]
        self.register_buffer("images", generator.like.new_zeros(len(self.steps), _COLUMNS, size))
        self.register_buffer("noted", torch.zeros(len(self.steps), dtype=torch.bool, device=generator.like.device))

    def note(self, step: int) -> None:
        """Keep samples if this is one of the steps; one of the plan's ``schedules``."""
        if step not in self.steps:
            return
        row = self.steps.index(step)
        samples = draw_samples(self._generator, 10 * _COLUMNS, self.seed)
        self.images[row].copy_(samples[:_COLUMNS])
        self.noted[row] = True
        if self.folder:
            self._write(samples, step)

    def pictures(self) -> list[Tensor]:
        """Return the rows of samples kept so far, each ``(10, D)``, the first one above."""
        return [row for row, noted in zip(self.images, self.noted.tolist(), strict=True) if noted]

    def _write(self, samples: Tensor, step: int) -> None:
        from pyro_ext.plotting import save

        path = Path(self.folder) / f"samples-{step:07d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        grid = [as_pictures(row, self.image_shape) for row in samples.split(_COLUMNS)]
        save(image_rows(lambda: grid, _shown(self.image_shape), f"samples before step {step + 1}")(), path)
        _LOG.info("%s", path)


def as_pictures(rows: Tensor, image_shape: tuple[int, int, int]) -> Tensor:
    """Return rows of pixels as what plots take: grey pixels as they are, colours as the last dimension.

    Args:
        rows: pixels, ``(N, channels * height * width)``.
        image_shape: channels, height and width; of other numbers of channels than 1 and 3 their mean is shown.

    Example:
        >>> as_pictures(torch.zeros(5, 12), (3, 2, 2)).shape, as_pictures(torch.zeros(5, 4), (1, 2, 2)).shape
        (torch.Size([5, 2, 2, 3]), torch.Size([5, 2, 2]))
    """
    images = rows.reshape(-1, *image_shape)
    return images.movedim(1, -1) if image_shape[0] == 3 else images.mean(1)


def model_plots(
    generator: Generator,
    history: SampleHistory,
    images: Tensor,
    image_shape: tuple[int, int, int],
    seed: int = 0,
) -> dict[str, Callable[..., Axes]]:
    """Return the plots of a plan that has a generator.

    Args:
        generator: what draws samples.
        history: samples from the course of training.
        images: training images, ``(N, D)``.
        image_shape: channels, height and width.
        seed: the seed of samples.
    """

    def sampled(number: int) -> Tensor:
        return draw_samples(generator, number, seed)

    def grid() -> list[Tensor]:
        return [*sampled(10 * _COLUMNS).split(_COLUMNS)]

    def neighbours() -> list[Tensor]:
        samples = sampled(_COLUMNS)
        known = images[:_SEARCHED].to(samples)
        return [samples, known[torch.cdist(samples, known).argmin(-1)]]

    def course() -> list[Tensor]:
        return [*history.pictures(), sampled(_COLUMNS)]

    def steps() -> list[str]:
        noted = zip(history.steps, history.noted.tolist(), strict=True)
        return [*(f"step {step + 1:,}" for step, there in noted if there), "at the end"]

    plots: dict[str, tuple[Callable[[], list[Tensor]], str, Sequence[str] | Callable[[], Sequence[str]]]] = {
        "samples": (grid, "samples of the generator", ()),
        "neighbours": (
            neighbours,
            "samples, and the training images nearest to them",
            ("sample", "training image"),
        ),
        "course": (course, "samples at the same noise in the course of training", steps),
    }
    return {
        name: image_rows(
            lambda rows=rows: [as_pictures(row, image_shape) for row in rows()],  # type: ignore[misc]
            _shown(image_shape),
            title,
            labels,
        )
        for name, (rows, title, labels) in plots.items()
    }


def _shown(image_shape: tuple[int, int, int]) -> tuple[int, ...]:
    return (*image_shape[1:], 3) if image_shape[0] == 3 else image_shape[1:]
