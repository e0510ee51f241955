"""Second derivatives of functions whose backward pass is written by hand."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["gradients_with_graph"]


def gradients_with_graph(
    function: Callable[..., Tensor], inputs: tuple[Tensor, ...], grad: Tensor
) -> tuple[Tensor | None, ...]:
    """Return the gradients of a function as tensors that autograd can differentiate again.

    A backward pass written by hand calls this where gradients are enabled, as they are under ``create_graph=True``: its
    own results have no graph, so second derivatives through them would be missing without a warning.

    Args:
        function: the forward pass in ordinary operations, called with ``inputs``.
        inputs: the inputs of the forward pass, as they were saved.
        grad: the gradient in the result of ``function``.

    Returns:
        One gradient for each input, None for inputs that need none.

    Example:
        >>> x = torch.tensor(2.0, requires_grad=True)
        >>> (first,) = gradients_with_graph(lambda x: x**3, (x,), torch.tensor(1.0))
        >>> torch.autograd.grad(first, x)  # 6 x
        (tensor(12.),)
    """
    wanted = [x for x in inputs if x.requires_grad]
    with torch.enable_grad():
        gradients = iter(torch.autograd.grad(function(*inputs), wanted, grad, create_graph=True))
    return tuple(next(gradients) if x.requires_grad else None for x in inputs)
