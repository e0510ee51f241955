"""Shapes of tensors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["broadcast_shapes", "compact"]


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


def compact(x: Tensor) -> Tensor:
    """Undo ``expand``: cut batch dims along which a tensor is the same memory to size 1, the last dim excepted.

    Args:
        x: the tensor, with one dim at least.

    Example:
        >>> compact(torch.ones(3, 1, 2).expand(3, 4, 2)).shape
        torch.Size([3, 1, 2])
    """
    kept = (slice(0, 1) if stride == 0 else slice(None) for stride in x.stride()[:-1])
    return x[(*kept, slice(None))]
