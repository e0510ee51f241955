"""Plots of images decoded from codes that are put together anew."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pyro_ext.datasets import Splits
from pyro_ext.models.disentangling.networks import Codes
from pyro_ext.models.disentangling.programs import Guide, Model
from pyro_ext.models.toolkit import image_rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["interpolations", "model_plots", "prior_samples", "swap_grid"]

_NUMBER = 8  # images in a row


def model_plots(model: Model, guide: Guide, data: Splits, seed: int = 0) -> dict[str, Callable[..., Axes]]:
    """Return the plots of a plan, of held-out images if there are any.

    Args:
        model: the decoder's program.
        guide: the encoder's program.
        data: images with labels and an ``image_shape``.
        seed: the seed of the choice of images and of z from the prior.
    """
    shape = data.image_shape
    assert shape is not None
    x, y = (data.train if data.valid is None else data.valid).__getitems__(range(len(data.valid or data.train)))[:2]
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed), device="cpu")
    by_class = _first_of_each(x[order], y[order])
    some, others = x[order[:_NUMBER]], x[order[_NUMBER : 2 * _NUMBER]]
    others = others if len(others) == len(some) else some.flip(0)

    def analogies() -> list[Tensor]:
        first, second = (_encode(guide, part) for part in (some, others))
        return [some, others, model.decoder(first.z_loc, second.s)]

    plots = {
        "swaps": (
            lambda: swap_grid(model, guide, by_class, some),
            "each image has the s of the image at the left and the z of the image at the top",
        ),
        "analogies": (analogies, "held-out images A and B, and what is decoded of z of A and s of B"),
        "interpolation": (
            lambda: interpolations(model, guide, some[0], others[0], _NUMBER),
            "from one image (top left) to another (bottom right): z changes to the right, s downwards",
        ),
        "prior_samples": (
            lambda: prior_samples(model, guide, by_class, _NUMBER, seed),
            "left column: images; beside each, images decoded of its s and of z from the prior",
        ),
    }
    labels = {
        "swaps": ["z of", *["s of"] * len(by_class)],
        "analogies": ["image A", "image B", "z of A, s of B"],
        "prior_samples": ["s of"] * len(by_class),
    }
    return {name: image_rows(rows, shape, title, labels.get(name, ())) for name, (rows, title) in plots.items()}


def swap_grid(model: Model, guide: Guide, with_s: Tensor, with_z: Tensor) -> list[Tensor]:
    """Return rows of images with the s of one image and the z of another, below and beside these images.

    Args:
        model: the decoder's program.
        guide: the encoder's program.
        with_s: the images, ``(R, D)``, one for each row, whose s is taken.
        with_z: the images, ``(C, D)``, one for each column, whose mean of z is taken.

    Returns:
        R + 1 rows ``(C + 1, D)``. The first row begins with a blank and holds ``with_z``; every other one begins with
        its image of ``with_s``.
    """
    z, s = _encode(guide, with_z).z_loc, _encode(guide, with_s).s
    top = torch.cat([torch.zeros_like(with_z[:1]), with_z])
    rows = [model.decoder(z, code.expand(len(z), -1)) for code in s]
    return [top.to(z), *(torch.cat([image[None].to(z), row]) for image, row in zip(with_s, rows, strict=True))]


def interpolations(model: Model, guide: Guide, first: Tensor, last: Tensor, steps: int) -> list[Tensor]:
    """Return rows of images between two images: z changes along a row, and s from row to row, in equal steps.

    Args:
        model: the decoder's program.
        guide: the encoder's program.
        first: the image, ``(D,)``, whose codes are those at the top left.
        last: the image, ``(D,)``, whose codes are those at the bottom right.
        steps: the number of rows and of columns.
    """
    codes = _encode(guide, torch.stack([first, last]))
    weight = torch.linspace(0, 1, steps).to(codes.s)[:, None]
    z, s = (torch.lerp(code[0], code[1], weight) for code in (codes.z_loc, codes.s))
    return [model.decoder(z, row.expand(steps, -1)) for row in s]


def prior_samples(model: Model, guide: Guide, with_s: Tensor, number: int, seed: int = 0) -> list[Tensor]:
    """Return rows that begin with an image and go on with images of its s and of z from the prior, alike for all rows.

    Args:
        model: the decoder's program.
        guide: the encoder's program.
        with_s: the images, ``(R, D)``, whose s is taken.
        number: the number of draws of z.
        seed: the seed of z.
    """
    s = _encode(guide, with_s).s
    z = torch.randn(number, model.z_size, generator=torch.Generator().manual_seed(seed), device="cpu").to(s)
    rows = [model.decoder(z, code.expand(number, -1)) for code in s]
    return [torch.cat([image[None].to(s), row]) for image, row in zip(with_s, rows, strict=True)]


def _encode(guide: Guide, x: Tensor) -> Codes:
    return guide.encode(x.to(guide.like))


def _first_of_each(x: Tensor, y: Tensor) -> Tensor:
    """Return the first image of each class, of at most ten classes."""
    classes = y.unique()[:10]
    return torch.stack([x[y == label][0] for label in classes])
