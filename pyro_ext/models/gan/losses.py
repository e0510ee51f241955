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
    """The images that the generator has drawn in this step, for the discriminator's turn: they are drawn once a step.

    Example:
        >>> last = LastImages()
        >>> last.put(torch.ones(3, 2))
        >>> last.take(3, torch.zeros(1)).shape, last.take(3, torch.zeros(1))
        (torch.Size([3, 2]), None)
    """

    def __init__(self) -> None:
        self._images: Tensor | None = None

    def put(self, images: Tensor) -> None:
        """Keep images, without their gradients, in the place of others."""
        self._images = images.detach()

    def take(self, number: int, like: Tensor) -> Tensor | None:
        """Return the images and forget them; None if there are none of this number, device and type."""
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
        generator: draws images, whose parameters are constants here; None to learn from labelled images alone.
        average: the running mean of the network's parameters, which is updated after each step.
        last_images: where the generator's objective leaves its images, so that none are drawn twice.
        historical_weight: the weight of the squared distance of the parameters from their mean over all past steps.

    Raises:
        ValueError: if the weight is negative or not finite.

    Example:
        >>> from pyro_ext.models.gan import DiscriminatorNetwork
        >>> network = DiscriminatorNetwork(nn.Identity(), nn.Linear(4, 3))
        >>> objective = DiscriminatorObjective(
        ...     Discriminator(network), Generator(nn.Linear(2, 4), 2), ParameterAverage(network)
        ... )
        >>> batch = ((torch.rand(5, 4), None, torch.arange(5)), (torch.rand(3, 4), torch.arange(3), torch.arange(3)))
        >>> [*objective(*batch).terms]
        ['y', 'real', 'generated', 'error']
    """

    def __init__(
        self,
        discriminator: Discriminator,
        generator: Generator | None,
        average: ParameterAverage,
        last_images: LastImages | None = None,
        historical_weight: float = 0.0,
    ) -> None:
        super().__init__(discriminator, historical_weight)
        self.discriminator, self.generator, self.average = discriminator, generator, average
        self.last_images = last_images or LastImages()
        _keep_parameters(self)

    def forward(self, unlabelled: Any, labelled: Any) -> Losses:
        """Return the loss of a batch of unlabelled and one of labelled images."""
        x, y = labelled[:2]
        others = () if self.generator is None else (unlabelled[0], self.generated(unlabelled[0]))
        with local_params():
            trace = poutine.trace(self.discriminator).get_trace(x, y, *others)
            total = -trace.log_prob_sum()
        sites = {"y": "y", "real": "is_real", "generated": "is_generated"}
        terms = {name: -trace.nodes[at]["log_prob_sum"] for name, at in sites.items() if at in trace.nodes}
        logits = trace.nodes["_RETURN"]["value"].labelled.detach()
        terms["error"] = 100 * (logits.argmax(-1) != y).to(logits.dtype).mean()
        return self.with_history(total, terms)

    @torch.no_grad()
    def generated(self, x: Tensor) -> Tensor:
        """Return as many generated images as there are real ones, those of this step if there are any."""
        assert self.generator is not None
        last = self.last_images.take(len(x), x)
        if last is not None:
            return last
        z = torch.rand(len(x), self.generator.latent_size, dtype=x.dtype, device=x.device)
        images: Tensor = as_constant(self.generator.network, z)
        return images

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
        last_images: where the images are left for the discriminator's turn.
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
        self.last_images = last_images or LastImages()
        _keep_parameters(self)

    def forward(self, unlabelled: Any, labelled: Any) -> Losses:
        """Return the loss of a batch of unlabelled images; labelled ones are of no use here."""
        x = unlabelled[0]
        with local_params():
            images = self.generator(len(x))
        self.last_images.put(images)
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


def _keep_parameters(objective: Objective) -> None:
    """Keep the parameters of Pyro modules out of the global store."""
    for module in objective.modules():
        give_local_store(module)
