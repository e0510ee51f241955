"""Shapes of tensors."""

from __future__ import annotations

from collections.abc import Sequence

import torch

__all__ = ["broadcast_shapes"]


def broadcast_shapes(*shapes: Sequence[int]) -> torch.Size:
    """Return the shape to which tensors of these shapes broadcast, as :func:`torch.broadcast_shapes` does.

    That function imports a package for symbolic mathematics when it is first called, which takes half a second.

    Args:
        *shapes: the shapes.

    Raises:
        RuntimeError: if they do not broadcast.

    Example:
        >>> broadcast_shapes((2, 1), (3,), ())
        torch.Size([2, 3])
    """
    sizes = [1] * max(map(len, shapes), default=0)
    for shape in shapes:
        for at in range(-len(shape), 0):
            if shape[at] != 1 and sizes[at] != shape[at]:
                if sizes[at] != 1:
                    raise RuntimeError(f"shapes {', '.join(str(tuple(each)) for each in shapes)} do not broadcast")
                sizes[at] = shape[at]
    return torch.Size(sizes)
