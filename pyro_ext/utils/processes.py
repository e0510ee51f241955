"""What several processes that train one model agree on."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["mean_over_processes"]


def mean_over_processes(value: Tensor) -> Tensor:
    """Return the mean of a tensor over all processes of distributed training, the tensor itself if there is only one.

    Every process has to call this equally often.

    Args:
        value: a tensor of floating-point numbers, of the same shape in all processes.

    Example:
        >>> mean_over_processes(torch.tensor([1.0, 2.0]))
        tensor([1., 2.])
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return value
    total = value.clone()
    torch.distributed.all_reduce(total)
    return total / torch.distributed.get_world_size()
