r"""The objectives of the two players: the discriminator's program, and the losses of the generator."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from pyro import poutine
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from pyro_ext.inference import Losses, Objective, local_params
from pyro_ext.inference.training.local import give_local_store
from pyro_ext.models.gan.programs import Discriminator, Generator
from pyro_ext.nn import HistoricalAverage, ParameterAverage
from pyro_ext.utils.checks import nonnegative_number, one_of

__all__ = [
    "DiscriminatorObjective",
    "GeneratorLoss",
    "GeneratorObjective",
    "LastImages",
    "feature_matching_loss",
    "standard_loss",
]

GeneratorLoss = Literal["feature_matching", "standard"]


def feature_matching_loss(real: Tensor, generated: Tensor) -> Tensor:
    r"""Return the mean squared difference between mean features of real and of generated images.

    .. math::

        \frac1A \sum_a \Big( \frac1N \sum_n f_a(x_n) - \frac1M \sum_m f_a(G(z_m)) \Big)^2.

    The paper has the sum over the A features, its program for MNIST their mean. Real features are constants.

    Args:
        real: features of real images, ``(N, A)``.
        generated: features of generated images, ``(M, A)``.

    References:
        | Improved techniques for training GANs (Salimans et al., 2016), section 3.1
        | https://arxiv.org/abs/1606.03498

    Example:
        >>> feature_matching_loss(torch.ones(3, 2), torch.tensor([[0.0, 1.0], [0.0, 3.0]]))
        tensor(1.)
    """
    return (real.detach().mean(0) - generated.mean(0)).square().mean()


def standard_loss(logits: Tensor) -> Tensor:
    r"""Return minus the mean log-probability of being real of generated images, :math:`-\log D(G(z))`.

    Args:
        logits: the discriminator's logits of K classes, ``(M, K)``.

    Example:
        >>> standard_loss(torch.full((2, 1), 1e4)), standard_loss(torch.full((2, 1), -1e4))
        (tensor(0.), tensor(10000.))
    """
    return F.softplus(-logits.logsumexp(-1)).mean()


class LastImages:
    """The images of a step: drawn for the discriminator's turn, and used once more in the generator's turn after it.

    They are drawn with the graph that the generator's turn needs, although its parameters may need no gradients in the
    turn of the other player.

    Args:
        generator: what draws images.

    Example:
        >>> generator = Generator(nn.Linear(2, 4), 2)
        >>> last = LastImages(generator)
        >>> images = last.draw(3)
        >>> same = last.take(3, images)
        >>> torch.equal(images, same), images.requires_grad, same.requires_grad
        (True, False, True)
        >>> last.take(3, images) is None
        True
    """

    def __init__(self, generator: Generator) -> None:
        _keep_parameters(generator)
        self.generator = generator
        self.trained = [parameter for parameter in generator.parameters() if parameter.requires_grad]
        self._images: Tensor | None = None

    def draw(self, number: int) -> Tensor:
        """Draw images, keep them with their graph in the place of others, and return them without it.

        Args:
            number: how many.
        """
        before = [parameter.requires_grad for parameter in self.trained]
        try:
            for parameter in self.trained:
                parameter.requires_grad_(True)
            with local_params():
                self._images = self.generator(number)
        finally:
            for parameter, needed in zip(self.trained, before, strict=True):
                parameter.requires_grad_(needed)
        return self._images.detach()

    def take(self, number: int, like: Tensor) -> Tensor | None:
        """Return the images with their graph, and forget them; None if there are none of this number and device.

        Args:
            number: how many are needed.
            like: a tensor of the type and on the device that they are needed in.
        """
        images, self._images = self._images, None
        if images is None or len(images) != number or images.device != like.device or images.dtype != like.dtype:
            return None
        return images


class _GameObjective(Objective):
    """What both sides share: who plays, and a penalty for leaving one's own past."""

    def __init__(self, own: nn.Module, historical_weight: float) -> None:
        super().__init__()
        self.historical_weight = nonnegative_number("historical_weight", historical_weight)
        self.history = HistoricalAverage(own) if historical_weight else None

    def with_history(self, total: Tensor, terms: dict[str, Tensor]) -> Losses:
        """Add the penalty of historical averaging, if there is one."""
        if self.history is None:
            return Losses(total, terms)
        penalty = self.historical_weight * self.history.penalty()
        return Losses(total + penalty, terms | {"historical": penalty})

    def after_step(self) -> None:
        """Take the parameters of this step into the mean over all steps."""
        if self.history is not None:
            self.history.update()


class DiscriminatorObjective(_GameObjective):
    r"""Minus the log-probability of the discriminator's program, and the averages of its parameters.

    Terms are the parts of the total by their sites: ``y`` of labels, ``real`` and ``generated``; and ``error``, the
    share of labelled images in the batch that are classified wrongly, in per cent.

    Args:
        discriminator: the program.
        average: the running mean of the network's parameters, which is updated after each step.
        last_images: draws generated images, whose gradients are left to the generator's objective; None to learn from
            labelled images alone.
        historical_weight: the weight of the squared distance of the parameters from their mean over all past steps.

    Raises:
        ValueError: if the weight is negative or not finite.

    Example:
        >>> from pyro_ext.models.gan import DiscriminatorNetwork
        >>> network = DiscriminatorNetwork(nn.Identity(), nn.Linear(4, 3))
        >>> last_images = LastImages(Generator(nn.Linear(2, 4), 2))
        >>> objective = DiscriminatorObjective(Discriminator(network), ParameterAverage(network), last_images)
        >>> batch = ((torch.rand(5, 4), None, torch.arange(5)), (torch.rand(3, 4), torch.arange(3), torch.arange(3)))
        >>> [*objective(*batch).terms]
        ['y', 'real', 'generated', 'error']
    """

    def __init__(
        self,
        discriminator: Discriminator,
        average: ParameterAverage,
        last_images: LastImages | None = None,
        historical_weight: float = 0.0,
    ) -> None:
        super().__init__(discriminator, historical_weight)
        self.discriminator, self.average, self.last_images = discriminator, average, last_images
        if last_images is not None:
            self.generator = last_images.generator  # a part of the objective, so that it is moved and saved with it
        _keep_parameters(self)

    @property
    def loss_label(self) -> str:
        """What the loss is, and its unit."""
        return "−log-probability of labels and origins (nats)"

    def forward(self, unlabelled: Any, labelled: Any) -> Losses:
        """Return the loss of a batch of unlabelled and one of labelled images."""
        x, y = labelled[:2]
        real = unlabelled[0]
        others = () if self.last_images is None else (real, self.last_images.draw(_number(real)))
        with local_params():
            trace = poutine.trace(self.discriminator).get_trace(x, y, *others)
            total = -trace.log_prob_sum()
        sites = {"y": "y", "real": "is_real", "generated": "is_generated"}
        terms = {name: -trace.nodes[at]["log_prob_sum"] for name, at in sites.items() if at in trace.nodes}
        logits = trace.nodes["_RETURN"]["value"].labelled.detach()
        terms["error"] = 100 * (logits.argmax(-1) != y).to(logits.dtype).mean()
        return self.with_history(total, terms)

    def after_step(self) -> None:
        """Take the parameters of this step into their averages."""
        super().after_step()
        self.average.update()


class GeneratorObjective(_GameObjective):
    r"""The generator's loss: mean features like those of real images, or images that pass for real ones.

    The discriminator's parameters and its features of real images are constants.

    Args:
        generator: draws images.
        discriminator: whose features or judgements count.
        loss: ``"feature_matching"`` (section 3.1 of the paper), or ``"standard"``, :math:`-\log D(G(z))`.
        last_images: where images of the discriminator's turn in this step may be found; without it new ones are drawn.
        historical_weight: the weight of the squared distance of the parameters from their mean over all past steps.

    Raises:
        ValueError: if ``loss`` is unknown, or the weight is negative or not finite.

    Example:
        >>> from pyro_ext.models.gan import DiscriminatorNetwork
        >>> discriminator = Discriminator(DiscriminatorNetwork(nn.Identity(), nn.Linear(4, 3)))
        >>> objective = GeneratorObjective(Generator(nn.Linear(2, 4), 2), discriminator)
        >>> batch = ((torch.rand(5, 4), None, torch.arange(5)), (torch.rand(3, 4), torch.arange(3), torch.arange(3)))
        >>> objective(*batch).total.backward()
        >>> [parameter.grad is None for parameter in discriminator.parameters()]
        [True, True]
    """

    def __init__(
        self,
        generator: Generator,
        discriminator: Discriminator,
        loss: GeneratorLoss = "feature_matching",
        last_images: LastImages | None = None,
        historical_weight: float = 0.0,
    ) -> None:
        super().__init__(generator, historical_weight)
        self.generator, self.discriminator = generator, discriminator
        self.loss = one_of("loss", loss, get_args(GeneratorLoss))
        self.last_images = last_images
        _keep_parameters(self)

    @property
    def loss_label(self) -> str:
        """What the loss is, and its unit."""
        return "squared distance of mean features" if self.loss == "feature_matching" else "−log D of samples (nats)"

    def forward(self, unlabelled: Any, labelled: Any) -> Losses:
        """Return the loss of a batch of unlabelled images; labelled ones are of no use here."""
        x = unlabelled[0]
        images = None if self.last_images is None else self.last_images.take(_number(x), x)
        if images is None:
            with local_params():
                images = self.generator(_number(x))
        network = self.discriminator.network
        if self.loss == "standard":
            return self.with_history(standard_loss(as_constant(network, images)), {})
        with torch.no_grad():
            real = as_constant(network.features, x)
        return self.with_history(feature_matching_loss(real, as_constant(network.features, images)), {})


def as_constant(module: nn.Module, *args: Any) -> Any:
    """Call a module so that no gradient goes to its parameters, and its buffers stay as they are.

    Args:
        module: any module.
        *args: what it is called with.
    """
    constants = {name: value.detach() for name, value in module.named_parameters()}
    constants |= {name: value.clone() for name, value in module.named_buffers()}
    return functional_call(module, constants, args)


def _number(real: Tensor) -> int:
    """Return how many images are drawn beside real ones: as many, but two for batch normalisation if there is one."""
    return max(2, len(real))


def _keep_parameters(module: nn.Module) -> None:
    """Keep the parameters of Pyro modules out of the global store."""
    for part in module.modules():
        give_local_store(part)
