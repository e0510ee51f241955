r"""The losses besides the ELBO: swapped codes, and the two sides of the game with the discriminator."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from pyro_ext.inference import Losses, Objective
from pyro_ext.inference.training.local import give_local_store
from pyro_ext.models.disentangling.networks import Discriminator
from pyro_ext.models.disentangling.partners import ClassPartners
from pyro_ext.models.disentangling.programs import Guide, Model
from pyro_ext.utils.checks import nonnegative_number, number_between, one_of

__all__ = ["AdversarialInputs", "AdversarialObjective", "DiscriminatorObjective", "SwapObjective", "swap_loss"]

AdversarialInputs = Literal["both", "other", "prior"]


class SwapObjective(Objective):
    r"""Minus the log-probability of images given their own z and the s of another image of their class.

    .. math::  L_{swap} = -\ln p(x_1 \mid z_1, s_2), \qquad z_1 \sim q(z \mid x_1), \qquad s_2 = s(x_2).

    The paper adds the same with 1 and 2 exchanged. Since the partner is random, one of the two has half the
    expectation of both.

    Args:
        model: the decoder's program.
        guide: the encoder's program.
        partners: draws :math:`x_2`.

    Example:
        >>> from pyro_ext.datasets import IndexedDataset
        >>> from pyro_ext.models.disentangling import Decoder, Encoder
        >>> model, guide = Model(6, Decoder((8, 8)), z_size=8, s_size=8), Guide(6, Encoder((8, 8)))
        >>> x, y = torch.rand(6, 64), torch.arange(6) % 3
        >>> partners = ClassPartners(IndexedDataset(x, y))
        >>> SwapObjective(model, guide, partners)(x, y, torch.arange(6)).total.shape
        torch.Size([])
    """

    def __init__(self, model: Model, guide: Guide, partners: ClassPartners) -> None:
        super().__init__()
        self.model, self.guide, self.partners = model, guide, partners
        _keep_parameters(self)

    @property
    def loss_label(self) -> str:
        """What the loss is, and its unit."""
        return "−log p(image | z, s of another image of its class) (nats per image)"

    def forward(self, x: Tensor, y: Tensor, index: Tensor) -> Losses:
        """Return the mean over a batch, in nats per image."""
        return Losses(swap_loss(self.model, self.guide, x, self.partners.draw(index).same), {})


class _GameObjective(Objective):
    """What the two sides of the game share: who plays, and which images are decoded."""

    def __init__(
        self,
        model: Model,
        guide: Guide,
        discriminator: Discriminator,
        partners: ClassPartners,
        inputs: AdversarialInputs = "both",
    ) -> None:
        super().__init__()
        self.model, self.guide, self.discriminator, self.partners = model, guide, discriminator, partners
        self.inputs = one_of("inputs", inputs, get_args(AdversarialInputs))
        _keep_parameters(self)

    def decoded(self, x: Tensor, other: Tensor) -> dict[str, Tensor]:
        """Return images ``(B, D)`` that are to look like the classes of ``x``, by the origin of their z."""
        if self.inputs == "prior":
            s, z = self.guide.encode_in_training(x).s, {}
        else:  # one call for both, here and below: small networks cost by the call
            codes = self.guide.encode_in_training(torch.cat([x, other]))
            s, z = codes.s[: len(x)], {"other": codes.sample_z()[len(x) :]}
        if self.inputs != "other":
            z["prior"] = torch.randn(len(x), self.model.z_size, dtype=s.dtype, device=s.device)
        images = self.model.decoder(torch.cat([*z.values()]), s.repeat(len(z), 1))
        return dict(zip(z, images.split(len(x)), strict=True))

    def judged(self, images: Sequence[Tensor], context: Tensor, constant: bool = False) -> Tensor:
        """Return the discriminator's logits of batches of images with one context, ``(len(images), B)``.

        Args:
            images: batches ``(B, D)``.
            context: what :class:`Discriminator` takes as the context of a batch.
            constant: whether no gradient goes to the discriminator's parameters, and its buffers stay as they are.
        """
        arguments = (torch.cat([*images]), context.repeat(len(images), *[1] * (context.dim() - 1)))
        if not constant:
            return self.discriminator(*arguments).unflatten(0, (len(images), -1))
        constants = {name: value.detach() for name, value in self.discriminator.named_parameters()}
        constants |= {name: value.clone() for name, value in self.discriminator.named_buffers()}
        return functional_call(self.discriminator, constants, arguments).unflatten(0, (len(images), -1))

    def context(self, y: Tensor, same: Tensor) -> Tensor:
        """Return what images are judged with: their classes, or other images of their classes."""
        return y if self.discriminator.num_classes else same


class AdversarialObjective(_GameObjective):
    r"""The loss of encoder and decoder in the game: decoded images should pass for real ones of the class of s.

    .. math::  L_{adv} = -\ln D(\mathrm{Dec}(z, s_1), y_1),

    the mean over z from the posterior of an image of another class and z from the prior. The discriminator's parameters
    are taken as constants.

    Args:
        model: the decoder's program.
        guide: the encoder's program.
        discriminator: D; its context is the class, or another image of the class where it has ``num_classes=0``.
        partners: draws the other images.
        inputs: where z comes from: ``"other"`` images, the ``"prior"``, or ``"both"``.

    Raises:
        ValueError: if ``inputs`` is none of these.

    Example:
        >>> from pyro_ext.datasets import IndexedDataset
        >>> from pyro_ext.models.disentangling import Decoder, Encoder
        >>> model, guide = Model(6, Decoder((8, 8)), z_size=8, s_size=8), Guide(6, Encoder((8, 8)))
        >>> x, y = torch.rand(6, 64), torch.arange(6) % 3
        >>> partners = ClassPartners(IndexedDataset(x, y))
        >>> losses = AdversarialObjective(model, guide, Discriminator((8, 8), 3), partners)(x, y, torch.arange(6))
        >>> [*losses.terms]
        ['other', 'prior']
    """

    @property
    def loss_label(self) -> str:
        """What the loss is, and its unit."""
        return "−log D of decoded images (nats per image)"

    def forward(self, x: Tensor, y: Tensor, index: Tensor) -> Losses:
        """Return the mean over a batch, in nats, and its parts by the origin of z."""
        partners = self.partners.draw(index)
        decoded = self.decoded(x, partners.other)
        logits = self.judged([*decoded.values()], self.context(y, partners.same), constant=True)
        losses = F.softplus(-logits).mean(-1)
        return Losses(losses.mean(), dict(zip(decoded, losses.unbind(), strict=True)))


class DiscriminatorObjective(_GameObjective):
    r"""The loss of the discriminator: the cross-entropy of real images and decoded ones.

    .. math::  L_D = -t \ln D(x_1, y_1) - (1 - t) \ln(1 - D(x_1, y_1)) - \ln(1 - D(\mathrm{Dec}(z, s_1), y_1)),

    the last term as a mean over the origins of z. Only the target t of real images lies below 1 (one-sided smoothing):
    smoothed targets of decoded images would make wrong ones attractive. No gradient reaches encoder and decoder.

    Nothing here asks whether an image is of its class, as long as all decoded images give themselves away by being
    blurred. With a weight w of mismatched images, the loss has another term, of real images of other classes,
    :math:`-w \ln(1 - D(x_3, y_1))` (Reed et al., 2016), which is not in the paper.

    Args:
        model: the decoder's program.
        guide: the encoder's program.
        discriminator: D; its context is the class, or another image of the class where it has ``num_classes=0``.
        partners: draws the other images.
        inputs: where z comes from: ``"other"`` images, the ``"prior"``, or ``"both"``.
        real_target: the target t of real images.
        mismatched_weight: the weight w of real images that are shown with a class that is not theirs.

    Raises:
        ValueError: if ``inputs`` is none of these, ``real_target`` lies outside (0, 1], or ``mismatched_weight`` is
            negative or not finite.

    References:
        | Generative adversarial text to image synthesis (Reed et al., 2016), section 4.2, https://arxiv.org/abs/1605.05396
        | Improved techniques for training GANs (Salimans et al., 2016), section 3.4, https://arxiv.org/abs/1606.03498

    Example:
        >>> from pyro_ext.datasets import IndexedDataset
        >>> from pyro_ext.models.disentangling import Decoder, Encoder
        >>> model, guide = Model(6, Decoder((8, 8)), z_size=8, s_size=8), Guide(6, Encoder((8, 8)))
        >>> x, y = torch.rand(6, 64), torch.arange(6) % 3
        >>> partners = ClassPartners(IndexedDataset(x, y))
        >>> losses = DiscriminatorObjective(model, guide, Discriminator((8, 8), 3), partners)(x, y, torch.arange(6))
        >>> [*losses.terms]
        ['right_real', 'right_decoded']
        >>> game = DiscriminatorObjective(model, guide, Discriminator((8, 8), 3), partners, mismatched_weight=1.0)
        >>> [*game(x, y, torch.arange(6)).terms]
        ['right_real', 'right_decoded', 'right_mismatched']
    """

    def __init__(
        self,
        model: Model,
        guide: Guide,
        discriminator: Discriminator,
        partners: ClassPartners,
        inputs: AdversarialInputs = "both",
        real_target: float = 0.95,
        mismatched_weight: float = 0.0,
    ) -> None:
        super().__init__(model, guide, discriminator, partners, inputs)
        self.real_target = number_between("real_target", real_target, 0, 1, "(]")
        self.mismatched_weight = nonnegative_number("mismatched_weight", mismatched_weight)

    @property
    def loss_label(self) -> str:
        """What the loss is, and its unit."""
        return "cross-entropy of real and decoded images (nats per image)"

    def forward(self, x: Tensor, y: Tensor, index: Tensor) -> Losses:
        """Return the loss of a batch, and how often the discriminator is right about each kind of images."""
        partners = self.partners.draw(index)
        with torch.no_grad(), _unchanged_buffers(self.model, self.guide):
            decoded = self.decoded(x, partners.other)
        mismatched = [partners.other] if self.mismatched_weight else []
        logits = self.judged([x, *decoded.values(), *mismatched], self.context(y, partners.same))
        real, fake, wrong = logits.split([1, len(decoded), len(mismatched)])
        target = torch.full_like(real, self.real_target)
        total = F.binary_cross_entropy_with_logits(real, target) + F.softplus(fake).mean()
        right = {"right_real": _share(real > 0, real), "right_decoded": _share(fake < 0, fake)}
        if self.mismatched_weight:
            total = total + self.mismatched_weight * F.softplus(wrong).mean()
            right["right_mismatched"] = _share(wrong < 0, wrong)
        return Losses(total, right)


def swap_loss(model: Model, guide: Guide, x: Tensor, same: Tensor) -> Tensor:
    """Return the mean of minus the log-probability of ``x`` given its own z and the s of ``same``.

    Args:
        model: the decoder's program.
        guide: the encoder's program.
        x: images, ``(B, D)``.
        same: for each an image of its class, ``(B, D)``.
    """
    codes = guide.encode_in_training(torch.cat([x, same]))
    z, s = codes.sample_z()[: len(x)], codes.s[len(x) :]
    return -model.pixels(z, s).log_prob(x).mean()


@contextmanager
def _unchanged_buffers(*modules: nn.Module) -> Iterator[None]:
    """Put buffers, such as running statistics, back to their values in the end."""
    kept = [(buffer, buffer.clone()) for module in modules for buffer in module.buffers()]
    yield
    for buffer, value in kept:
        buffer.copy_(value)


def _share(condition: Tensor, like: Tensor) -> Tensor:
    return condition.to(like.dtype).mean()


def _keep_parameters(objective: Objective) -> None:
    """Keep the parameters of Pyro modules out of the global store."""
    for module in objective.modules():
        give_local_store(module)
