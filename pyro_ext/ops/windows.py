r"""Square windows cropped from canvases and placed on them, at positions that are known or weighted.

A window of size s at row r and column c covers the rows :math:`r - \lfloor s/2 \rfloor` to :math:`r - \lfloor s/2
\rfloor + s - 1`, and columns likewise; what lies beyond the canvas is zero in a crop and lost in a placement. A
position is the integer :math:`rW + c`, or a vector of H W weights, where the result is the sum over all positions by
weight: a correlation or convolution, taken by fast Fourier transforms without holding the windows of all positions.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from pyro_ext.utils.checks import positive_int
from pyro_ext.utils.shapes import broadcast_shapes

__all__ = ["crop_windows", "place_windows", "window_mask"]


def crop_windows(canvases: Tensor, position: Tensor, size: int) -> Tensor:
    """Return the windows at given positions, ``(..., size, size)``.

    The memory needed is that of the windows, and for weights that of a few canvases per position.

    Args:
        canvases: shape ``(..., H, W)``.
        position: int64 ``(...)``, or weights ``(..., H * W)``; leading dims broadcast with those of the canvases.
        size: the number of rows and columns of a window.

    Raises:
        ValueError: if ``size`` is not a positive integer, or weights are not H W.

    Example:
        >>> canvas = torch.arange(16.0).view(4, 4)
        >>> crop_windows(canvas, torch.tensor([5, 0]), 3)
        tensor([[[ 0.,  1.,  2.],
                 [ 4.,  5.,  6.],
                 [ 8.,  9., 10.]],
        <BLANKLINE>
                [[ 0.,  0.,  0.],
                 [ 0.,  0.,  1.],
                 [ 0.,  4.,  5.]]])
    """
    shape = canvases.shape[-2:]
    before, after = _margins(size)
    padded = F.pad(canvases, (before, after, before, after))
    if position.is_floating_point():
        spectrum = torch.fft.rfft2(_as_map(position, shape), s=padded.shape[-2:]).conj() * torch.fft.rfft2(padded)
        return torch.fft.irfft2(spectrum, s=padded.shape[-2:])[..., :size, :size]
    index = _places(position, shape, size)
    lead = broadcast_shapes(index.shape[:-1], canvases.shape[:-2])
    flat = padded.flatten(-2)
    pixels = flat.expand(lead + flat.shape[-1:]).gather(-1, index.expand(lead + index.shape[-1:]))
    return pixels.unflatten(-1, (size, size))


def place_windows(windows: Tensor, position: Tensor, shape: tuple[int, int]) -> Tensor:
    """Return canvases that are zero but for the windows, ``(..., H, W)``; the adjoint of :func:`crop_windows`.

    Args:
        windows: shape ``(..., size, size)``.
        position: int64 ``(...)``, or weights ``(..., H * W)``; leading dims broadcast with those of the windows.
        shape: height H and width W of the canvases.

    Raises:
        ValueError: if windows are not square, or weights are not H W.

    Example:
        >>> place_windows(torch.ones(2, 2), torch.tensor(5), (3, 4)).int()
        tensor([[1, 1, 0, 0],
                [1, 1, 0, 0],
                [0, 0, 0, 0]], dtype=torch.int32)
    """
    size = windows.shape[-1]
    if windows.shape[-2] != size:
        raise ValueError(f"windows must be square, got shape {tuple(windows.shape)}")
    before, after = _margins(size)
    padded_shape = shape[0] + before + after, shape[1] + before + after
    if position.is_floating_point():
        spectrum = torch.fft.rfft2(_as_map(position, shape), s=padded_shape) * torch.fft.rfft2(windows, s=padded_shape)
        padded = torch.fft.irfft2(spectrum, s=padded_shape)
    else:
        index = _places(position, shape, size)
        lead = broadcast_shapes(index.shape[:-1], windows.shape[:-2])
        empty = windows.new_zeros((*lead, padded_shape[0] * padded_shape[1]))
        values = windows.flatten(-2).expand((*lead, size * size))
        padded = empty.scatter(-1, index.expand(values.shape), values).unflatten(-1, padded_shape)
    return padded[..., before : before + shape[0], before : before + shape[1]]


def window_mask(position: Tensor, shape: tuple[int, int], size: int) -> Tensor:
    """Return which pixels of windows lie on the canvas, bool ``(..., size, size)``.

    Args:
        position: int64 ``(...)``.
        shape: height H and width W of the canvas.
        size: the number of rows and columns of a window.

    Example:
        >>> window_mask(torch.tensor(0), (4, 4), 3).int()
        tensor([[0, 0, 0],
                [0, 1, 1],
                [0, 1, 1]], dtype=torch.int32)
    """
    before, _ = _margins(size)
    offsets = torch.arange(size, device=position.device) - before
    rows = (position // shape[1]).unsqueeze(-1) + offsets
    columns = (position % shape[1]).unsqueeze(-1) + offsets
    rows_inside, columns_inside = (rows >= 0) & (rows < shape[0]), (columns >= 0) & (columns < shape[1])
    return rows_inside.unsqueeze(-1) & columns_inside.unsqueeze(-2)


def _margins(size: int) -> tuple[int, int]:
    """Return how far a window reaches before and after its position."""
    positive_int("size", size)
    return size // 2, size - 1 - size // 2


def _places(position: Tensor, shape: tuple[int, int] | torch.Size, size: int) -> Tensor:
    """Return the indices of windows' pixels in flattened canvases with margins, ``(..., size * size)``."""
    width = shape[1] + size - 1
    steps = torch.arange(size, device=position.device)
    offsets = (steps.unsqueeze(-1) * width + steps).flatten()
    return (position // shape[1] * width + position % shape[1]).unsqueeze(-1) + offsets


def _as_map(weights: Tensor, shape: tuple[int, int] | torch.Size) -> Tensor:
    if weights.shape[-1] != shape[0] * shape[1]:
        raise ValueError(
            f"position must hold {shape[0] * shape[1]} weights, one for each pixel of the canvas, got shape "
            f"{tuple(weights.shape)}; known positions are integers"
        )
    return weights.unflatten(-1, tuple(shape))
