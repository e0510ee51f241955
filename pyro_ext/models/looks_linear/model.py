"""The classifier as a Pyro program."""

from __future__ import annotations

from typing import Any, Literal

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule

from pyro_ext.models.looks_linear.networks import Kind, deep_network
from pyro_ext.models.toolkit import data_plate
from pyro_ext.utils.checks import one_of, positive_int

__all__ = ["Architecture", "Model", "guide"]

Architecture = Literal["dense", "convolutional"]


class Model(PyroModule):
    r"""Labels given inputs, :math:`y \sim \mathrm{Categorical}(\mathrm{softmax}(f(x)))`, with a deep network f.

    The weights are parameters, and nothing is latent.

    Args:
        size: the number N of data points that the plate stands for; a batch of b is scaled by N / b.
        num_inputs: the number of features of an input, which are the pixels of an image.
        num_classes: the number of classes, two at least.
        kind: what lies between layers and how they are initialised, as for
            :func:`~pyro_ext.models.looks_linear.deep_network`.
        depth: the number of layers with weights.
        width: the number of features, or channels, between layers.
        architecture: whether all layers are dense, or all but the last one are convolutions.
        image_shape: height and width in pixels, for convolutions.

    Raises:
        ValueError: if a number is out of range, or convolutions have no image shape.

    Example:
        >>> model = Model(size=1500, num_inputs=64, depth=20)
        >>> trace = pyro.poutine.trace(model).get_trace(torch.zeros(100, 64))
        >>> trace.nodes["y"]["value"].shape, trace.nodes["y"]["scale"]
        (torch.Size([100]), 15.0)
    """

    def __init__(
        self,
        size: int,
        num_inputs: int,
        num_classes: int = 10,
        kind: Kind = "looks_linear",
        depth: int = 50,
        width: int = 48,
        architecture: Architecture = "dense",
        image_shape: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.size = positive_int("size", size)
        positive_int("num_classes", num_classes, minimum=2)
        one_of("architecture", architecture, ("dense", "convolutional"))
        if architecture == "convolutional" and image_shape is None:
            raise ValueError("image_shape must be (height, width) for architecture='convolutional', got None")
        shape = image_shape if architecture == "convolutional" else None
        self.num_inputs = num_inputs
        self.num_classes = num_classes
        self.kind = kind
        self.network = deep_network(kind, depth, num_inputs, num_classes, width, shape)

    def forward(
        self, x: torch.Tensor, y: torch.Tensor | None = None, index: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Observe labels ``y``, shape ``(B,)``, or draw them; return the logits, shape ``(B, num_classes)``.

        Args:
            x: inputs, shape ``(B, num_inputs)``.
            y: labels; drawn if None.
            index: the rows of ``x`` in the data set, shape ``(B,)``.

        Raises:
            ValueError: if ``x`` has another shape.
        """
        if x.dim() != 2 or x.shape[-1] != self.num_inputs:
            raise ValueError(f"x must have shape (batch, {self.num_inputs}), got {tuple(x.shape)}")
        with data_plate(self.size, x, index):
            logits: torch.Tensor = self.network(x)
            pyro.sample("y", dist.Categorical(logits=logits), obs=y)
        return logits


def guide(*batch: Any) -> None:
    """Draw nothing: the model has no latent variables."""
