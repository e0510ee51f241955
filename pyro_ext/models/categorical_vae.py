r"""The categorical variational autoencoder of Kool et al. (2020).

Each image :math:`x \in \{0, 1\}^D` has a code of N categorical variables with K categories,

.. math::

    p(z) = K^{-N}, \qquad p(x \mid z) = \prod_d \mathrm{Bernoulli}(x_d; \sigma(f(z)_d)), \qquad
    q(z \mid x) = \prod_n \mathrm{Categorical}(z_n; g(x)_n),

with a decoder f and an encoder g of two hidden layers and leaky rectifiers (slope 0.1). The whole code is one site, so
that an estimator without replacement draws distinct *codes* out of :math:`K^N` (section 6.2 of the paper).

Data: the bundled 8 x 8 digits (hidden layers of 128 and 64 units), or MNIST thresholded at 0.5 (512 and 256).
Headline figure, N = 20 and K = 10 on MNIST, unordered-set estimator with 4 samples: negative ELBO of 71.2 nats on
training and 91.3 on validation images (1000 epochs, batches of 200, Adam at 1e-3).

References:
    | Estimating gradients for discrete random variables by sampling without replacement (Kool et al., 2020)
    | https://arxiv.org/abs/2002.06043
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import Trace_ELBO
from pyro.nn import PyroModule
from torch import nn

from pyro_ext.datasets import Splits
from pyro_ext.inference import OptimizerSettings, TraceUnorderedSet_ELBO, TrainingPlan
from pyro_ext.models.toolkit import (
    Relaxation,
    check_image_data,
    data_plate,
    image_rows,
    mean_metrics,
    perceptron,
    sample_images,
)
from pyro_ext.utils.checks import positive_int

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Guide", "Model", "build"]

_SLOPE = 0.1  # of the leaky rectifiers
_COLLAPSED = 0.1  # nats per image; below, the code says nothing about the image
_SMALL_IMAGE = 256  # pixels; up to here hidden layers and learning rate are those for 8 x 8 digits


class Model(PyroModule):
    """The prior and the decoder.

    Args:
        size: the number N of data points that the plate stands for; a batch of b is scaled by N / b.
        num_pixels: D.
        num_latents: the number of latent variables.
        num_categories: the number K of categories of each.
        hidden: the widths of the encoder's hidden layers, which the decoder's mirror; by default (128, 64) for up
            to 256 pixels, else (512, 256).

    Raises:
        ValueError: if a number is not a positive integer (``num_categories``: at least 2).

    Example:
        >>> model = Model(size=1500, num_pixels=64, num_latents=2)
        >>> trace = pyro.poutine.trace(model).get_trace(torch.zeros(100, 64))
        >>> trace.nodes["z"]["value"].shape, trace.nodes["x"]["scale"]
        (torch.Size([100, 2, 10]), 15.0)
    """

    prior_logits: torch.Tensor

    def __init__(
        self,
        size: int,
        num_pixels: int,
        num_latents: int = 20,
        num_categories: int = 10,
        hidden: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        _check_sizes(size, num_pixels, num_latents, num_categories)
        self.size = size
        self.num_pixels = num_pixels
        outer, inner = _hidden(hidden, num_pixels)
        self.decoder = perceptron(num_latents * num_categories, inner, outer, num_pixels, activation=_leaky)
        self.register_buffer("prior_logits", torch.zeros(num_latents, num_categories))

    def forward(
        self, x: torch.Tensor, y: torch.Tensor | None = None, index: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Sample codes and observe ``x``, shape ``(B, D)``; return the pixels' logits, shape ``(..., B, D)``.

        Args:
            x: binary images.
            y: labels, of no use here.
            index: the rows of ``x`` in the data set, shape ``(B,)``.

        Raises:
            ValueError: if ``x`` has another shape.
        """
        _check_batch(x, self.num_pixels)
        with data_plate(self.size, x, index):
            z = pyro.sample("z", dist.OneHotCategorical(logits=self.prior_logits).to_event(1))
            logits = self.decode(z)
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)
        return logits

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        """Return the pixels' logits, shape ``(..., D)``, for one-hot codes ``(..., num_latents, K)``."""
        return self.decoder(z.flatten(-2))


class Guide(PyroModule):
    """The encoder.

    Args:
        size: as in :class:`Model`, like all others.
        num_pixels: D.
        num_latents: the number of latent variables.
        num_categories: the number K of categories of each.
        hidden: the widths of the hidden layers.

    Raises:
        ValueError: if a number is not a positive integer (``num_categories``: at least 2).

    Example:
        >>> guide = Guide(size=1500, num_pixels=64, num_latents=2)
        >>> guide.encode(torch.zeros(100, 64)).shape
        torch.Size([100, 2, 10])
    """

    def __init__(
        self,
        size: int,
        num_pixels: int,
        num_latents: int = 20,
        num_categories: int = 10,
        hidden: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        _check_sizes(size, num_pixels, num_latents, num_categories)
        self.size = size
        self.num_pixels = num_pixels
        self.code_shape = (num_latents, num_categories)
        outer, inner = _hidden(hidden, num_pixels)
        self.encoder = perceptron(num_pixels, outer, inner, num_latents * num_categories, activation=_leaky)

    def forward(
        self, x: torch.Tensor, y: torch.Tensor | None = None, index: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Sample codes of ``x``, shape ``(B, D)``; return them, shape ``(..., B, num_latents, K)``.

        Args:
            x: binary images.
            y: labels, of no use here.
            index: the rows of ``x`` in the data set, shape ``(B,)``.

        Raises:
            ValueError: if ``x`` has another shape.
        """
        _check_batch(x, self.num_pixels)
        with data_plate(self.size, x, index):
            return pyro.sample("z", dist.OneHotCategorical(logits=self.encode(x)).to_event(1))

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits of the code, shape ``(..., num_latents, K)``, for images ``(..., D)``."""
        return self.encoder(x).unflatten(-1, self.code_shape)


def build(
    data: Splits,
    num_latents: int = 20,
    num_categories: int = 10,
    hidden: tuple[int, int] | None = None,
    evaluation_samples: int = 16,
    evaluation_seed: int = 0,
    relaxation: Relaxation | None = None,
) -> TrainingPlan:
    """Build the autoencoder for a data set of binary images.

    Its ELBO is ``TraceUnorderedSet_ELBO(num_samples=4)``; ``with_elbo`` of the plan takes another one. With a
    relaxation, for example ``pyro-ext fit categorical_vae --model.relaxation.rate 1e-4``, it is ``Trace_ELBO``.
    Its optimiser is Adam, at 1e-2 for images of up to 256 pixels and at 1e-3, as in the paper, for larger ones; with
    1e-3 the code of the 8 x 8 digits stays collapsed for hundreds of steps.

    Args:
        data: images as rows of ``x``, shape ``(N, D)``, of zeros and ones.
        num_latents: the number of latent variables.
        num_categories: the number of categories of each.
        hidden: the widths of the encoder's hidden layers, mirrored in the decoder; by default (128, 64) for up to
            256 pixels, else (512, 256).
        evaluation_samples: the number of codes drawn for each held-out image.
        evaluation_seed: the seed of the codes drawn for held-out images and for plots; they are the same at each epoch.
        relaxation: how to train through relaxed codes, instead of an estimator for discrete ones.

    Raises:
        ValueError: if a number is out of range, or the images are not rows of zeros and ones.
    """
    check_image_data(data)
    positive_int("evaluation_samples", evaluation_samples)
    sizes = (len(data.train), data.train.x.shape[-1], num_latents, num_categories, hidden)
    small_images = data.train.x.shape[-1] <= _SMALL_IMAGE
    model, guide = Model(*sizes), Guide(*sizes)
    plan = TrainingPlan.of(
        model,
        guide,
        TraceUnorderedSet_ELBO(num_samples=4, max_plate_nesting=1),
        optimizer=OptimizerSettings("Adam", lr=1e-2 if small_images else 1e-3),
        evaluate=mean_metrics(model, partial(_bound, model, guide, evaluation_samples), evaluation_seed),
        headline="neg_elbo",
        plots=_plots(model, guide, data, evaluation_seed),
        diagnose=_diagnose,
    )
    return plan if relaxation is None else relaxation.of(plan, Trace_ELBO(max_plate_nesting=1))


def _leaky() -> nn.Module:
    return nn.LeakyReLU(_SLOPE)


def _hidden(hidden: tuple[int, int] | None, num_pixels: int) -> tuple[int, int]:
    if hidden is None:
        return (128, 64) if num_pixels <= _SMALL_IMAGE else (512, 256)
    if len(hidden) != 2:
        raise ValueError(f"hidden must hold two widths, got {hidden!r}")
    outer, inner = (positive_int("hidden", width) for width in hidden)
    return outer, inner


def _check_sizes(size: int, num_pixels: int, num_latents: int, num_categories: int) -> None:
    positive_int("size", size)
    positive_int("num_pixels", num_pixels)
    positive_int("num_latents", num_latents)
    positive_int("num_categories", num_categories, minimum=2)


def _check_batch(x: torch.Tensor, num_pixels: int) -> None:
    if x.dim() != 2 or x.shape[-1] != num_pixels:
        raise ValueError(f"x must have shape (batch, {num_pixels}), got {tuple(x.shape)}")


def _sample_codes(logits: torch.Tensor, num_samples: int) -> torch.Tensor:
    """Draw one-hot codes, shape ``(num_samples,) + logits.shape``."""
    gumbel = -torch.empty((num_samples, *logits.shape), dtype=logits.dtype, device=logits.device).exponential_().log()
    return nn.functional.one_hot((logits + gumbel).argmax(-1), logits.shape[-1]).to(logits.dtype)


def _bound(
    model: Model, guide: Guide, num_samples: int, x: torch.Tensor, *_: torch.Tensor | None
) -> dict[str, torch.Tensor]:
    """Return minus the bound of each image, its reconstruction term by sampling and its KL term in closed form."""
    log_q = guide.encode(x).log_softmax(-1)
    pixels = model.decode(_sample_codes(log_q, num_samples))
    losses = nn.functional.binary_cross_entropy_with_logits(pixels, x.expand_as(pixels), reduction="none")
    reconstruction = losses.sum(-1).mean(0)
    kl = (log_q.exp() * log_q).sum((-1, -2)) + log_q.shape[-2] * math.log(log_q.shape[-1])
    return {"neg_elbo": reconstruction + kl, "reconstruction": reconstruction, "kl": kl}


def _diagnose(metrics: Mapping[str, float]) -> list[str]:
    if metrics.get("kl", math.inf) >= _COLLAPSED:
        return []
    return [
        f"the latent code has collapsed: it holds {metrics['kl']:.3f} nats per image, so that all images are decoded "
        "alike; train longer, with a larger learning rate, or with an estimator of less variance"
    ]


def _plots(model: Model, guide: Guide, data: Splits, seed: int, number: int = 10) -> dict[str, Callable[..., Axes]]:
    shape = data.image_shape or (1, data.train.x.shape[-1])

    def reconstruction() -> list[torch.Tensor]:
        """Return held-out images, or training images, and the decoder's means at their most probable codes."""
        x = (data.train if data.valid is None else data.valid).x[:number].to(model.prior_logits)
        logits = guide.encode(x)
        codes = nn.functional.one_hot(logits.argmax(-1), logits.shape[-1]).to(x.dtype)
        return [x, model.decode(codes).sigmoid()]

    def samples(number: int) -> torch.Tensor:
        """Return the decoder's means at codes drawn from the prior."""
        return model.decode(_sample_codes(model.prior_logits, number)).sigmoid()

    what = "training images" if data.valid is None else "held-out images"
    title = f"{what}, and the decoder's means at their most probable codes"
    return {
        "reconstruction": image_rows(reconstruction, shape, title, ("image", "reconstruction")),
        "samples": sample_images(samples, shape, seed=seed, title="decoder's means at codes drawn from the prior"),
    }
