"""A classifier of images as a Pyro program, whatever its network is made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_ext.models.toolkit import data_plate
from pyro_ext.models.toolkit.classifiers import Classifier, classifier
from pyro_ext.nn import bayesianize, log_uniform_prior
from pyro_ext.nn.layers import Prior

__all__ = ["ImageClassifier", "NoGuide"]


class ImageClassifier(PyroModule):
    r"""Classes of images by a network, with priors of its weights or without.

    .. math::  w \sim p(w), \qquad y_n \sim \mathrm{Categorical}(\mathrm{softmax}(f_w(x_n))).

    Args:
        size: the number N of data points.
        image_shape: channels, height and width; images are rows of as many pixels.
        classes: the number of classes.
        architecture: the name of the network.
        prior: the prior of the weights of linear and convolutional layers; None for a network without priors.
        weights: values to begin from, as a plain network of this architecture has in its ``state_dict``; random ones
            if None.

    Raises:
        ValueError: if a number is out of range, the images do not fit the network, or ``weights`` do not.

    Example:
        >>> model = ImageClassifier(100, (1, 8, 8))
        >>> model(torch.zeros(5, 64)).shape
        torch.Size([5, 10])
        >>> [*model.state_dict()]
        ['net.1.bias', 'net.3.bias', 'net.5.bias']
    """

    def __init__(
        self,
        size: int,
        image_shape: tuple[int, int, int],
        classes: int = 10,
        architecture: Classifier = "lenet_300_100",
        prior: Prior | None = log_uniform_prior,
        weights: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.size, self.image_shape, self.classes, self.architecture = size, image_shape, classes, architecture
        network = classifier(architecture, image_shape, classes)
        if weights is not None:
            try:
                network.load_state_dict(dict(weights))
            except RuntimeError as error:
                raise ValueError(f"weights must be those of {architecture}: {error}") from error
        self.net: nn.Module = network if prior is None else bayesianize(network, prior)

    def forward(self, x: Tensor, y: Tensor | None = None, index: Tensor | None = None) -> Tensor:
        """Draw classes of a batch, or score those given.

        Args:
            x: images ``(B, pixels)``.
            y: classes ``(B,)``; drawn if None.
            index: the places of the batch in the data set; the first ones if None.

        Returns:
            The log-odds of the classes, ``(B, classes)``.
        """
        logits: Tensor = self.net(x.reshape(-1, *self.image_shape))
        with data_plate(self.size, x, index):
            pyro.sample("y", dist.Categorical(logits=logits, validate_args=False), obs=y)
        return logits

    def plain(self, weights: Mapping[str, Tensor]) -> nn.Sequential:
        """Return a plain network of the same architecture, whose parameters share no memory with this one's.

        Args:
            weights: the values of sites, by their names in this program; other parameters and the statistics of batch
                norms are those of this program.
        """
        state = {name: value.detach().clone() for name, value in self.net.state_dict().items()}
        state |= {name.removeprefix("net."): value.detach().clone() for name, value in weights.items()}
        with torch.device("meta"):
            network = classifier(self.architecture, self.image_shape, self.classes)
        network.load_state_dict(state, assign=True)
        return network.train(self.training)


class NoGuide(PyroModule):
    """The guide of a model without latent sites."""

    def forward(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing."""
