"""The Pyro program of images with a class and a style, and its guide."""

from __future__ import annotations

from collections.abc import Sequence

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_ext.models.toolkit import base_rate_logits, data_plate, perceptron
from pyro_ext.utils.checks import number_between, positive_int

__all__ = ["Guide", "Model"]

Batch = tuple[Tensor, Tensor | None, Tensor | None]


class ClassConditioned(nn.Module):
    """A perceptron of an input and a class, whose product with the first weights is taken once for all classes.

    Args:
        width: the number of features of the input.
        classes: the number C of classes.
        hidden: the widths of the hidden layers, one at least.
        output: the number of features of the output.

    Example:
        >>> network = ClassConditioned(4, 3, (8,), 2)
        >>> network(torch.zeros(5, 4), torch.eye(3)[:, None]).shape  # every class for each of five inputs
        torch.Size([3, 5, 2])
    """

    def __init__(self, width: int, classes: int, hidden: Sequence[int], output: int) -> None:
        super().__init__()
        self.width = width
        self.first = nn.Linear(width + classes, hidden[0])
        self.rest = nn.Sequential(nn.ReLU(), *perceptron(*hidden, output))

    def forward(self, inputs: Tensor, y: Tensor) -> Tensor:
        """Return the output, ``(..., output)``.

        Args:
            inputs: shape ``(..., width)``.
            y: classes as rows of C weights, ``(..., C)``; the leading dims of both broadcast.
        """
        weight = self.first.weight
        of_inputs = F.linear(inputs, weight[:, : self.width], self.first.bias)
        output: Tensor = self.rest(of_inputs + F.linear(y, weight[:, self.width :]))
        return output


class Model(PyroModule):
    """The prior of classes and styles, and the decoder.

    Args:
        size: the number of unlabelled images, which the plate ``unlabelled`` stands for.
        num_labelled: the number of labelled images, which the plate ``labelled`` stands for.
        num_pixels: the number D of pixels.
        classes: the number C of classes.
        latent_dim: the number of dimensions of the style z.
        hidden: the widths of the decoder's hidden layers.

    Raises:
        ValueError: if a number is not a positive integer (``classes``: at least 2), or there are no hidden layers.

    Example:
        >>> model = Model(size=1400, num_labelled=100, num_pixels=64)
        >>> images, classes = torch.zeros(20, 64), torch.zeros(20, dtype=torch.long)
        >>> trace = pyro.poutine.trace(model).get_trace((images, None, None), (images[:10], classes[:10], None))
        >>> trace.nodes["y"]["value"].shape, trace.nodes["x"]["scale"], trace.nodes["x_labelled"]["scale"]
        (torch.Size([20, 10]), 70.0, 10.0)
    """

    prior_logits: Tensor

    def __init__(
        self,
        size: int,
        num_labelled: int,
        num_pixels: int,
        classes: int = 10,
        latent_dim: int = 5,
        hidden: Sequence[int] = (128, 128),
    ) -> None:
        super().__init__()
        _check_sizes(size, num_labelled, num_pixels, classes, latent_dim, hidden=hidden)
        self.size = size
        self.num_labelled = num_labelled
        self.num_pixels = num_pixels
        self.latent_dim = latent_dim
        self.labelled_only = False
        self.decoder = ClassConditioned(latent_dim, classes, hidden, num_pixels)
        self.register_buffer("prior_logits", torch.zeros(classes))

    def forward(self, unlabelled: Batch, labelled: Batch) -> None:
        """Sample classes and styles, and observe images and the labels there are.

        Nothing happens in the plate ``unlabelled`` while ``labelled_only`` is set.

        Args:
            unlabelled: images ``x``, shape ``(B, D)``, anything, and their places in the data set or None.
            labelled: images, their labels, shape ``(B',)`` and their places or None.

        Raises:
            ValueError: if images or labels have another shape.
        """
        x, _, index = unlabelled
        _check_images(x, self.num_pixels)
        if not self.labelled_only:
            with data_plate(self.size, x, index, "unlabelled"):
                y = pyro.sample("y", dist.OneHotCategorical(logits=self.prior_logits))
                z = pyro.sample("z", self.style_prior())
                pyro.sample("x", dist.Bernoulli(logits=self.decoder(z, y)).to_event(1), obs=x)
        x, labels, index = labelled
        y = one_hot_labels(x, labels, self.num_pixels, len(self.prior_logits))
        with data_plate(self.num_labelled, x, index, "labelled"):
            pyro.sample("y_labelled", dist.OneHotCategorical(logits=self.prior_logits), obs=y)
            z = pyro.sample("z_labelled", self.style_prior())
            pyro.sample("x_labelled", dist.Bernoulli(logits=self.decoder(z, y)).to_event(1), obs=x)

    @torch.no_grad()
    def start_at_base_rates(self, x: Tensor) -> None:
        """Set the decoder's last biases to the log-odds of each pixel of images ``(N, D)``.

        From there the first steps of training need not learn how bright the average image is.
        """
        _check_images(x, self.num_pixels)
        last = self.decoder.rest[-1]
        assert isinstance(last, nn.Linear)
        last.bias.copy_(base_rate_logits(x))

    def style_prior(self) -> dist.TorchDistribution:
        """Return the distribution of the style, of event shape ``(latent_dim,)``."""
        zeros = self.prior_logits.new_zeros(self.latent_dim)
        return dist.Normal(zeros, torch.ones_like(zeros)).to_event(1)


class Guide(PyroModule):
    """The classifier and the encoder of styles.

    Args:
        size: as in :class:`Model`, like all others up to ``hidden``.
        num_labelled: the number of labelled images.
        num_pixels: the number D of pixels.
        classes: the number C of classes.
        latent_dim: the number of dimensions of the style z.
        hidden: the widths of the encoder's hidden layers.
        classifier_hidden: the widths of the classifier's hidden layers.
        marginalise: whether the site ``y`` is marked for Pyro's own enumeration, as ``TraceEnum_ELBO`` needs it.
        dropout: the share of the classifier's hidden features that are set to zero in training, in [0, 1).
        pixel_dropout: the share of the pixels that are set to zero for the classifier in training, in [0, 1).

    Raises:
        ValueError: if a number is not a positive integer (``classes``: at least 2), there are no hidden layers, or a
            share is out of range.

    Example:
        >>> guide = Guide(size=1400, num_labelled=100, num_pixels=64)
        >>> guide.classify(torch.zeros(20, 64)).shape
        torch.Size([20, 10])
    """

    def __init__(
        self,
        size: int,
        num_labelled: int,
        num_pixels: int,
        classes: int = 10,
        latent_dim: int = 5,
        hidden: Sequence[int] = (128, 128),
        classifier_hidden: Sequence[int] = (256, 256, 256),
        marginalise: bool = False,
        dropout: float = 0.0,
        pixel_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        _check_sizes(size, num_labelled, num_pixels, classes, latent_dim, hidden=hidden)
        _check_widths("classifier_hidden", classifier_hidden)
        number_between("dropout", dropout, 0, 1, "[)")
        number_between("pixel_dropout", pixel_dropout, 0, 1, "[)")
        self.size = size
        self.num_labelled = num_labelled
        self.num_pixels = num_pixels
        self.classes = classes
        self.labelled_only = False
        self.infer = {"enumerate": "parallel"} if marginalise else {}
        self.classifier = _with_dropout(perceptron(num_pixels, *classifier_hidden, classes), pixel_dropout, dropout)
        self.encoder = ClassConditioned(num_pixels, classes, hidden, 2 * latent_dim)

    def forward(self, unlabelled: Batch, labelled: Batch) -> None:
        """Sample the classes and styles of unlabelled images, and the styles of labelled ones.

        Args:
            unlabelled: images ``x``, shape ``(B, D)``, anything, and their places in the data set or None.
            labelled: images, their labels, shape ``(B',)`` and their places or None.

        Raises:
            ValueError: if images or labels have another shape.
        """
        x, _, index = unlabelled
        _check_images(x, self.num_pixels)
        if not self.labelled_only:
            with data_plate(self.size, x, index, "unlabelled"):
                d = dist.OneHotCategorical(logits=self.classify(x))
                y = pyro.sample("y", d, infer=dict(self.infer))
                pyro.sample("z", self.style(x, y).to_event(1))
        x, labels, index = labelled
        y = one_hot_labels(x, labels, self.num_pixels, self.classes)
        with data_plate(self.num_labelled, x, index, "labelled"):
            pyro.sample("z_labelled", self.style(x, y).to_event(1))

    def classify(self, x: Tensor) -> Tensor:
        """Return the logits of the class, shape ``(..., C)``, of images ``(..., D)``."""
        logits: Tensor = self.classifier(x)
        return logits

    def style(self, x: Tensor, y: Tensor) -> dist.Normal:
        """Return the distribution of the style given images ``(..., D)`` and classes, as C weights, ``(..., C)``."""
        loc, raw_scale = self.encoder(x, y).chunk(2, -1)
        return dist.Normal(loc, F.softplus(raw_scale) + torch.finfo(loc.dtype).eps)


def _with_dropout(network: nn.Sequential, of_input: float, of_hidden: float) -> nn.Sequential:
    """Return a perceptron that drops features before each of its linear layers."""
    layers: list[nn.Module] = []
    for layer in network:
        share = of_hidden if layers else of_input
        layers += [nn.Dropout(share), layer] if isinstance(layer, nn.Linear) and share > 0 else [layer]
    return nn.Sequential(*layers)


def one_hot_labels(x: Tensor, labels: Tensor | None, num_pixels: int, classes: int) -> Tensor:
    """Return labels as one-hot rows ``(B, C)`` in the type of the images, which are checked."""
    _check_images(x, num_pixels)
    if labels is None or labels.shape != x.shape[:1]:
        shape = None if labels is None else tuple(labels.shape)
        raise ValueError(f"labels must have shape ({len(x)},), one for each labelled image, got {shape}")
    return F.one_hot(labels, classes).to(x.dtype)


def _check_images(x: Tensor, num_pixels: int) -> None:
    if x.dim() != 2 or x.shape[-1] != num_pixels:
        raise ValueError(f"x must have shape (batch, {num_pixels}), got {tuple(x.shape)}")
    if len(x) == 0:
        raise ValueError("x must hold at least one image, got none: a plate cannot be scaled from an empty batch")


def _check_sizes(
    size: int, num_labelled: int, num_pixels: int, classes: int, latent_dim: int, hidden: Sequence[int]
) -> None:
    positive_int("size", size)
    positive_int("num_labelled", num_labelled)
    positive_int("num_pixels", num_pixels)
    positive_int("classes", classes, minimum=2)
    positive_int("latent_dim", latent_dim)
    _check_widths("hidden", hidden)


def _check_widths(name: str, widths: Sequence[int]) -> None:
    if len(widths) == 0:
        raise ValueError(f"{name} must hold the width of one layer at least, got {widths!r}")
    for width in widths:
        positive_int(name, width)
