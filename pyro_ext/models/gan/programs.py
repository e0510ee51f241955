"""The Pyro programs: images from uniform variables, and what the discriminator says of three kinds of images."""

from __future__ import annotations

from typing import NamedTuple

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions import constraints
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_ext.models.gan.networks import DiscriminatorNetwork
from pyro_ext.utils.checks import nonnegative_number, number_between, positive_int

__all__ = ["Discriminator", "Generator", "Judgement", "SoftTargetBernoulli"]


class SoftTargetBernoulli(dist.Bernoulli):
    r"""A Bernoulli distribution that may be observed as a fraction t, for smoothed targets.

    .. math::  \log p(t) = t \log p + (1 - t) \log(1 - p),

    minus the cross-entropy of a target t. It is no density on [0, 1]; draws are 0 or 1. Pyro refuses to observe a
    Bernoulli site at 0.9.

    Args:
        probs: the probability of 1.
        logits: its log-odds, instead of ``probs``.

    Example:
        >>> SoftTargetBernoulli(logits=torch.tensor(2.0)).log_prob(torch.tensor(0.75))
        tensor(-0.6269)
    """

    @constraints.dependent_property(is_discrete=False, event_dim=0)
    def support(self) -> constraints.Constraint:
        """The interval [0, 1]."""
        return constraints.unit_interval

    has_enumerate_support = False


class Generator(PyroModule):
    r"""Images as a function of uniform variables, :math:`z \sim U(0, 1)^L`, :math:`x = G(z)`.

    It has no density: there is nothing that an ELBO could bound.

    Args:
        network: G, from ``(n, L)`` to rows of pixels ``(n, D)``.
        latent_size: the number L of uniform variables.

    Raises:
        ValueError: if ``latent_size`` is not a positive integer.

    Example:
        >>> generator = Generator(nn.Sequential(nn.Linear(3, 64), nn.Sigmoid()), latent_size=3)
        >>> trace = poutine.trace(generator).get_trace(5)
        >>> trace.nodes["z"]["value"].shape, trace.nodes["x"]["value"].shape
        (torch.Size([5, 3]), torch.Size([5, 64]))
    """

    like: Tensor

    def __init__(self, network: nn.Module, latent_size: int) -> None:
        super().__init__()
        self.network = network
        self.latent_size = positive_int("latent_size", latent_size)
        self.register_buffer("like", torch.zeros(()), persistent=False)  # type and device of what is drawn

    def forward(self, number: int) -> Tensor:
        """Draw images, ``(number, D)``.

        Args:
            number: how many.
        """
        low = self.like.new_zeros(self.latent_size)
        uniform = dist.Uniform(low, torch.ones_like(low), validate_args=False).to_event(1)
        with pyro.plate("images", number):
            z = pyro.sample("z", uniform)
            x: Tensor = pyro.deterministic("x", self.network(z), event_dim=1)
        return x


class Judgement(NamedTuple):
    """What a discriminator says of a batch.

    Args:
        labelled: the logits of the classes of labelled images, ``(B, K)``.
        real: the logits of real images without labels, ``(N, K)``, if there are any.
        generated: the logits of generated images, ``(M, K)``, if there are any.
    """

    labelled: Tensor
    real: Tensor | None = None
    generated: Tensor | None = None


class Discriminator(PyroModule):
    r"""A classifier of K classes and of one more, that of generated images, whose logit is always 0.

    With logits :math:`l(x) \in \mathbb{R}^K` and :math:`l_{K+1} = 0`, an image is real with the log-odds
    :math:`s(x) = \log \sum_k e^{l_k(x)}`, :math:`D(x) = \sigma(s(x))`, and a real one has the class probabilities
    softmax(l). What is observed are

    .. math::

        y \sim \mathrm{Categorical}(\mathrm{softmax}\, l(x)) \text{ of labelled images}, \qquad
        r \sim \mathrm{Bernoulli}(D(x)), \quad r = \alpha \text{ of real images and } 0 \text{ of generated ones},

    each site scaled to the mean over its images, and to a weight. Minus the log-probability of the program is the loss
    of the discriminator: the cross-entropy of labels and that of real against generated images. A constant added to all
    K logits leaves classes as they are and changes D: the logits are unique.

    Args:
        network: l, called as ``network(x, groups)`` like :class:`DiscriminatorNetwork`.
        real_target: the target :math:`\alpha` of real images; below 1 for one-sided label smoothing. Then the best
            discriminator is :math:`\alpha\, p_{data} / (p_{data} + p_G)`. Targets of generated images are not smoothed:
            images would be attractive where there are few real ones.
        unlabelled_weight: the weight w of the second loss, whose two halves have the weight w / 2 each.

    Raises:
        ValueError: if ``real_target`` lies outside (0, 1], or ``unlabelled_weight`` is negative or not finite.

    References:
        | Improved techniques for training GANs (Salimans et al., 2016), sections 3.4 and 5
        | https://arxiv.org/abs/1606.03498

    Example:
        >>> discriminator = Discriminator(DiscriminatorNetwork(nn.Identity(), nn.Linear(64, 10)), real_target=0.9)
        >>> images, y = torch.rand(3, 6, 64), torch.arange(6)
        >>> trace = poutine.trace(discriminator).get_trace(images[0], y, images[1], images[2])
        >>> [name for name, site in trace.nodes.items() if site["type"] == "sample" and site["is_observed"]]
        ['y', 'is_real', 'is_generated']
    """

    def __init__(self, network: DiscriminatorNetwork, real_target: float = 1.0, unlabelled_weight: float = 1.0) -> None:
        super().__init__()
        self.network = network
        self.real_target = number_between("real_target", real_target, 0, 1, "(]")
        self.unlabelled_weight = nonnegative_number("unlabelled_weight", unlabelled_weight)

    def forward(
        self, labelled: Tensor, y: Tensor, real: Tensor | None = None, generated: Tensor | None = None
    ) -> Judgement:
        """Observe the classes of labelled images, and which of the others are real; return the logits.

        Args:
            labelled: images with labels, ``(B, D)``.
            y: their classes, int64 ``(B,)``.
            real: real images without labels, ``(N, D)``, if there are any.
            generated: generated images, ``(M, D)``, if there are any.
        """
        images = [each for each in (labelled, real, generated) if each is not None]
        groups = [len(each) for each in images]
        of_labelled, *others = self.network(torch.cat(images), groups).split(groups)
        with pyro.plate("labelled", len(labelled)), poutine.scale(scale=1 / len(labelled)):
            pyro.sample("y", dist.Categorical(logits=of_labelled, validate_args=False), obs=y)
        half = 0.5 * self.unlabelled_weight
        of_real = others.pop(0) if real is not None else None
        if of_real is not None and half:
            self._observe("real", of_real, self.real_target, half)
        of_generated = others.pop(0) if generated is not None else None
        if of_generated is not None and half:
            self._observe("generated", of_generated, 0.0, half)
        return Judgement(of_labelled, of_real, of_generated)

    @staticmethod
    def _observe(name: str, logits: Tensor, target: float, weight: float) -> None:
        is_real = SoftTargetBernoulli(logits=logits.logsumexp(-1), validate_args=False)
        with pyro.plate(name, len(logits)), poutine.scale(scale=weight / len(logits)):
            pyro.sample(f"is_{name}", is_real, obs=logits.new_full((len(logits),), target))
