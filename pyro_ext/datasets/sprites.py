"""Sprites: drawn shapes whose factors of variation are known, for measuring disentanglement."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pyro_ext.datasets.base import Splits
from pyro_ext.datasets.pixels import Binarization, check_binarization, image_splits
from pyro_ext.utils.checks import positive_int

__all__ = ["FACTORS", "SHAPES", "SpriteImages", "draw_sprites", "sprites"]

SHAPES = ("square", "ellipse", "heart")
"""The names of the shapes 0 to 2."""

FACTORS = {"shape": 3, "scale": 6, "rotation": 40, "x": 32, "y": 32}
"""The factors of a sprite, in the order of columns, and the number of values of each."""

_SIZE = 32  # pixels of height and width
_GRID = 4  # points per pixel and direction at which coverage is measured
_RADIUS = 7.0  # pixels, of the largest sprite; its centre stays 8 pixels from the border
_MARGIN = 8.0
_WINDOW = 15  # pixels of height and width that the largest sprite can touch
_CHUNK = 256  # images drawn together


@dataclass(kw_only=True)
class SpriteImages(Splits):
    """Images of sprites with their factors.

    Args:
        factors: the factors of the images of each part, int64 ``(N, 5)``, in the order of :data:`FACTORS`.

    Example:
        >>> sprites(num_train=10, num_valid=5).factors["valid"].shape
        torch.Size([5, 5])
    """

    factors: dict[str, Tensor] = field(repr=False)


def sprites(
    num_train: int = 6000,
    num_valid: int = 2000,
    classes: Sequence[str] = ("shape",),
    scales: int = 6,
    rotations: int = 40,
    positions: int = 32,
    binarize: Binarization | None = None,
    threshold: float = 0.5,
    seed: int = 0,
) -> SpriteImages:
    """Draw images of one shape each, 32 x 32 pixels, whose factors of variation are known.

    There are 3 shapes (square, ellipse, heart), 6 scales, 40 rotations and 32 x 32 positions, as in dSprites: 737,280
    combinations in all, of which distinct ones are drawn at random. Squares that differ by a quarter turn and ellipses
    that differ by half a turn look the same, so that among 2,000 images for validation there are about 20 that look
    like one of 6,000 training images. The edges are anti-aliased.

    Some thousands of images are few for that many: a perceptron that has learnt the shape from 4,000 labelled ones for
    12 epochs is right for 56 % of new ones. With ``scales=3`` and ``positions=8`` it is right for all of 1,000, of
    which about a fifth look like a training image then.

    Args:
        num_train: the number of images to train on.
        num_valid: the number of images to validate on, none of which has the factors of a training image.
        classes: the factors (of shape, scale, rotation, x, y) whose combination is the label of an image.
        scales: the number of scales, from 2 to 6; fewer than 6 are the largest ones, whose shapes are easier to tell.
        rotations: the number of rotations, evenly spaced over a whole turn: a divisor of 40, at least 2.
        positions: the number of values of x and of y, from 2 to 32; fewer than 32 are those in the middle.
        binarize: None keeps the grey edges. ``"threshold"`` makes the pixels above the threshold 1 and the others 0.
            ``"dynamic"`` draws pixels with their shades as probabilities, those of training images anew each time,
            those of held-out images once.
        threshold: the threshold on the pixels, from 0 to 1.
        seed: the seed of the choice of images and of the draws of ``binarize="dynamic"``.

    Returns:
        ``x`` of shape ``(N, 1024)``, float32, ``y`` of shape ``(N,)``, int64, and ``factors``.

    Raises:
        ValueError: if an argument is out of range, or ``classes`` names no factor.

    References:
        | dSprites: disentanglement testing sprites dataset (Matthey et al., 2017)
        | https://github.com/google-deepmind/dsprites-dataset

    Example:
        >>> data = sprites(num_train=100, num_valid=10, classes=("shape", "scale"))
        >>> data.train, data.factors["train"].shape
        (IndexedDataset(x (100, 1024), labels (100,)), torch.Size([100, 5]))
    """
    check_binarization(binarize, threshold, seed)
    numbers = {"shape": FACTORS["shape"], "scale": scales, "rotation": rotations, "x": positions, "y": positions}
    for name, option in (("scale", "scales"), ("rotation", "rotations"), ("x", "positions")):
        positive_int(option, numbers[name], 2, maximum=FACTORS[name])
    if FACTORS["rotation"] % rotations:
        raise ValueError(f"rotations must divide {FACTORS['rotation']}, got {rotations}; use 20, 10 or 8, say")
    total = math.prod(numbers.values())
    positive_int("num_train", num_train, maximum=total - 1)
    positive_int("num_valid", num_valid, maximum=total - num_train)
    classes = _check_classes(classes)
    chosen = torch.randperm(total, generator=torch.Generator().manual_seed(seed), device="cpu")[: num_train + num_valid]
    first = (0, FACTORS["scale"] - scales, 0, *2 * [(FACTORS["x"] - positions) // 2])
    steps = (1, 1, FACTORS["rotation"] // rotations, 1, 1)
    factors = torch.stack(torch.unravel_index(chosen, tuple(numbers.values())), -1)
    factors = factors.new_tensor(first) + factors.new_tensor(steps) * factors
    images, labels = draw_sprites(factors).flatten(1).to(torch.float32), _labels(factors, classes)
    rows = {"train": slice(None, num_train), "valid": slice(num_train, None)}
    parts: dict[str, tuple[Tensor, Tensor | None]] = {name: (images[at], labels[at]) for name, at in rows.items()}
    made = image_splits("sprites", parts, (_SIZE, _SIZE), binarize, threshold, seed)
    by_part = {name: factors[at] for name, at in rows.items()}
    return SpriteImages(made.name, made.train, made.valid, image_shape=made.image_shape, factors=by_part)


def draw_sprites(factors: Tensor) -> Tensor:
    """Draw the sprites of given factors.

    Args:
        factors: the values of shape, scale, rotation, x and y, each counted from 0, int64 ``(N, 5)``. Larger x is
            further right, larger y further down.

    Returns:
        The part of each pixel that the shape covers, ``(N, 32, 32)``, in PyTorch's default type.

    Raises:
        ValueError: if the shape is another one or a value is out of range.

    Example:
        >>> square, heart = draw_sprites(torch.tensor([[0, 5, 0, 16, 16], [2, 0, 10, 0, 31]]))
        >>> square.shape, square.sum().sqrt()
        (torch.Size([32, 32]), tensor(10.))
    """
    sizes = torch.tensor([*FACTORS.values()], device=factors.device)
    if factors.dim() != 2 or factors.shape[1] != len(FACTORS):
        raise ValueError(f"factors must have shape (N, {len(FACTORS)}), got {tuple(factors.shape)}")
    wrong = ((factors < 0) | (factors >= sizes)).any(0)
    if bool(wrong.any()):
        name = [*FACTORS][int(wrong.int().argmax())]
        raise ValueError(f"factors: {name} must be an integer from 0 to {FACTORS[name] - 1}")
    if len(factors) == 0:
        return torch.zeros(0, _SIZE, _SIZE, device=factors.device)
    return torch.cat([_draw(part) for part in factors.split(_CHUNK)])


def _draw(factors: Tensor) -> Tensor:
    shape, scale, rotation, x, y = factors.to(torch.get_default_dtype()).unsqueeze(-1).unbind(1)
    radius = _RADIUS * (0.5 + 0.5 * scale / (FACTORS["scale"] - 1))
    angle = 2 * math.pi * rotation / FACTORS["rotation"]
    centre = [_MARGIN + (_SIZE - 2 * _MARGIN) * at / (FACTORS[name] - 1) for name, at in (("x", x), ("y", y))]
    corner = [(at - _RADIUS).floor() for at in centre]  # of the window that the sprite lies in
    points = (torch.arange(_WINDOW * _GRID, device=factors.device, dtype=radius.dtype) + 0.5) / _GRID
    right, down = ((points + at - of) / radius for at, of in zip(corner, centre, strict=True))
    covered = _inside(shape, angle, right, down).unflatten(2, (_WINDOW, _GRID)).unflatten(1, (_WINDOW, _GRID))
    images = radius.new_zeros(len(factors), _SIZE, _SIZE)
    pixels = torch.arange(_WINDOW, device=factors.device)
    columns, rows = (at.long() + pixels for at in corner)
    place = (torch.arange(len(factors), device=factors.device)[:, None, None], rows[:, :, None], columns[:, None, :])
    images[place] = covered.to(radius.dtype).mean((2, 4))
    return images


def _inside(shape: Tensor, angle: Tensor, right: Tensor, down: Tensor) -> Tensor:
    """Say which points of a grid lie in a shape within the unit circle, bool ``(N, G, G)``.

    Args:
        shape: the number of each shape, ``(N, 1)``.
        angle: by how much each is turned, ``(N, 1)``.
        right: the first coordinates of the grid, ``(N, G)``.
        down: the second coordinates of the grid, ``(N, G)``.
    """
    cos, sin = angle.cos(), angle.sin()
    across = (cos * right)[:, None, :] + (sin * down)[:, :, None]
    along = (cos * down)[:, :, None] - (sin * right)[:, None, :]
    inside = torch.empty(across.shape, dtype=torch.bool, device=across.device)
    for number, contains in enumerate((_in_square, _in_ellipse, _in_heart)):
        own = shape[:, 0] == number
        inside[own] = contains(across[own], along[own])
    return inside


def _in_square(across: Tensor, along: Tensor) -> Tensor:
    return torch.maximum(across.abs(), along.abs()) <= math.sqrt(0.5)


def _in_ellipse(across: Tensor, along: Tensor) -> Tensor:
    return across.square() + 4 * along.square() <= 1


def _in_heart(across: Tensor, along: Tensor) -> Tensor:
    r"""Say which points lie in the curve :math:`(u^2 + v^2 - 1)^3 = u^2 v^3`, made to fit into a circle of radius 1."""
    u, v = 1.35 * across, 0.12 - 1.35 * along
    squares = u.square() + v.square() - 1
    return squares * squares.square() <= u.square() * v * v.square()


def _check_classes(classes: Sequence[str]) -> tuple[str, ...]:
    names = (classes,) if isinstance(classes, str) else tuple(classes)
    if not names or len({*names}) < len(names) or not {*names} <= FACTORS.keys():
        raise ValueError(f"classes must be some of {', '.join(FACTORS)}, each once, got {', '.join(names) or 'none'}")
    return names


def _labels(factors: Tensor, classes: Sequence[str]) -> Tensor:
    """Number the combinations of the factors ``classes``, the last one running fastest."""
    label = torch.zeros_like(factors[:, 0])
    for name in classes:
        label = label * FACTORS[name] + factors[:, [*FACTORS].index(name)]
    return label
