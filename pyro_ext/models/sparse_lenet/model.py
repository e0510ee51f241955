"""A classifier of images as a Pyro program, whatever its network is made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_ext.models import toolkit
from pyro_ext.models.toolkit.classifiers import Classifier, classifier
from pyro_ext.nn import bayesianize, log_uniform_prior
from pyro_ext.nn.layers import Prior

__all__ = ["NoGuide", "SparseClassifier"]


class SparseClassifier(toolkit.ImageClassifier):
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
        >>> model = SparseClassifier(100, (1, 8, 8))
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
        network = classifier(architecture, image_shape, classes, weights)
        super().__init__(network if prior is None else bayesianize(network, prior), size, image_shape)
        self.classes, self.architecture = classes, architecture

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
    """The guide of a model without latent sites.

    Example:
        >>> NoGuide()(torch.zeros(5, 64))
    """

    def forward(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing."""
