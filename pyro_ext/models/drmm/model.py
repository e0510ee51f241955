r"""The Deep Rendering Mixture Model as a PyroModule: rendering, the network, the program, and its max-product guide.

The guide is the network,

.. math::
    q(c, g \mid I) = \mathrm{softmax}(z(I) / \sigma^2)_c \; \delta(g - \hat g(I)).

With the class enumerated, the ELBO holds the mean squared error of all classes' reconstructions, weighted by q, and
the divergence of q(c) from the prior. Labels fix the class in the guide, and are observed through the scores (at the
site ``y``), as is usual in semi-supervised models.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Literal, cast, get_args

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_ext.models.drmm.cells import SWITCHES, Switch, Switches
from pyro_ext.models.drmm.layers import BatchNorm, Inferred, Layer, Rendering, RenderingLayer, geometries
from pyro_ext.models.drmm.switch_distribution import SwitchDistribution
from pyro_ext.models.toolkit import data_plate
from pyro_ext.utils.checks import one_of, optional_positive_int, positive_int, positive_number

__all__ = ["DRMM", "Prior"]

Prior = Literal["path", "factorised"]


class DRMM(PyroModule):
    r"""A class renders an image through layers of templates, whose units move within their cells and switch off.

    .. math::
        c \sim \mathrm{Cat}(\pi), \quad h^L = \mu_c, \quad
        t^l \sim \mathrm{Cat}(\pi_t^l), \; a^l \sim \mathrm{Bernoulli}(\pi_a^l), \quad
        h^{l-1} = \Lambda^l * \mathrm{Unpool}_{t^l}(a^l h^l), \quad I \sim N(h^0, \sigma^2).

    Upwards, a convolutional network with the same templates computes switches :math:`\hat g` and scores
    :math:`z_c = \langle \mu_c, x^L \rangle + \sigma^2 \ln \pi_c` (with unnormalised :math:`\ln \pi`). Whatever the
    signs of the templates, :math:`\langle I, h^0(c, \hat g) \rangle + \eta = \langle \mu_c, x^L \rangle`. If all
    :math:`h^l` with :math:`l \geq 1` are nonnegative, no other switches reach a larger value, and under the path prior

    .. math::  p(c, g) \propto \pi_c \exp\{(|h^0(c, g)|^2 / 2 + \eta(c, g)) / \sigma^2\}

    the network's class and switches are the most probable ones. Under the factorised prior they are not; but only that
    prior is normalised, so that the model has an evidence and can be fitted by expectation maximisation. Biases belong
    to the network and the path prior; under the factorised prior they are no part of the generative model.

    Args:
        layers: the layers, from the lowest.
        classes: the number C of classes.
        image_shape: channels, height and width of the images.
        prior: the prior of classes and switches.
        switch: the on/off values of the units: 0 and 1, 0.1 and 1, or -1 and 1.
        noise: the standard deviation :math:`\sigma` of the pixels.
        batch_norm: whether channels are normalised over the batch: not at all, on the way up, or on both ways.
            :func:`~pyro_ext.models.drmm.conversion.fold_batch_norm` merges it into the templates.
        size: the number N of data points to which the plate scales a batch; the size of the batch if None.

    Raises:
        ValueError: if an option is out of range, or the layers do not fit the images.

    References:
        | A probabilistic framework for deep learning (Patel, Nguyen and Baraniuk, 2016)
        | https://arxiv.org/abs/1612.01936
        | Semi-supervised learning with the deep rendering mixture model (Nguyen et al., 2016)
        | https://arxiv.org/abs/1612.01942

    Example:
        >>> model = DRMM([Layer(4, 3, pool=2), Layer(6, 2)], classes=3, image_shape=(1, 8, 8))
        >>> images = torch.rand(5, 1, 8, 8)
        >>> scores, features, switches = model.infer(images)
        >>> scores.shape, [tuple(g.on.shape) for g in switches]
        (torch.Size([5, 3]), [(5, 4, 3, 3), (5, 6, 2, 2)])
        >>> rendered = model.render(scores.argmax(-1), switches)
        >>> torch.allclose((images * rendered).sum((1, 2, 3)), scores.max(-1).values, atol=1e-5)
        True
    """

    noise: Tensor
    layers: Sequence[RenderingLayer]

    def __init__(
        self,
        layers: Sequence[Layer],
        classes: int,
        image_shape: Sequence[int],
        prior: Prior = "path",
        switch: Switch = "relu",
        noise: float = 1.0,
        batch_norm: BatchNorm = "none",
        size: int | None = None,
    ) -> None:
        super().__init__()
        one_of("switch", switch, SWITCHES)
        self.classes = positive_int("classes", classes)
        self.size = optional_positive_int("size", size)
        self.image_shape = tuple(image_shape)
        self.prior: Prior = one_of("prior", prior, get_args(Prior))
        self.batch_norm: BatchNorm = one_of("batch_norm", batch_norm, get_args(BatchNorm))
        shapes = geometries(layers, image_shape)
        parts = [RenderingLayer(layer, shape, switch, batch_norm) for layer, shape in zip(layers, shapes, strict=True)]
        self.layers = cast("Sequence[RenderingLayer]", nn.ModuleList(parts))
        top = shapes[-1].coarser
        self.class_templates = nn.Parameter(torch.randn(classes, *top) / (top[0] * top[1] * top[2]) ** 0.5)
        self.class_logits = nn.Parameter(torch.zeros(classes))
        self.register_buffer("noise", torch.tensor(positive_number("noise", noise)))

    def infer(self, x: Tensor) -> Inferred:
        """Pass images ``batch_shape + image_shape`` upwards through the network.

        Raises:
            ValueError: if ``x`` has another shape.
        """
        self.check_images(x)
        switches = []
        for layer in self.layers:
            x, best = layer.up(x)
            switches.append(best)
        scores = x.flatten(-3) @ self.class_templates.flatten(1).mT
        return Inferred(scores + self.noise**2 * self.class_logits, x, tuple(switches))

    def dcn(self, x: Tensor) -> Tensor:
        r"""Return the scores :math:`z`, ``batch_shape + (C,)``, of the convolutional network.

        ``softmax(z / noise**2)`` is proportional to the probability of the best configuration of each class (under the
        path prior and nonnegative templates), not to the probability of the class.
        """
        return self.infer(x).scores

    def switches(self, x: Tensor) -> tuple[Switches, ...]:
        """Return the best switches of every layer, from the lowest; they do not depend on the class."""
        return self.infer(x).switches

    def rendering(self, c: Tensor, g: Sequence[Switches]) -> Rendering:
        """Render classes with given switches, keeping every level.

        Args:
            c: the classes, int64, of any shape that broadcasts with the batch shapes of the switches.
            g: the switches of every layer, from the lowest; each ``batch_shape + (K, H, W)``.

        Raises:
            ValueError: if there are not as many switches as layers.
        """
        if len(g) != len(self.layers):
            raise ValueError(f"g must hold the switches of all {len(self.layers)} layers, got {len(g)}")
        h = self.class_templates[c]
        levels, bias_term = [h], h.new_zeros(())
        for layer, switches in zip(reversed(self.layers), reversed(g), strict=True):
            h, term = layer.down(h, switches)
            levels.append(h)
            bias_term = bias_term + term
        return Rendering(tuple(reversed(levels)), bias_term)

    def render(self, c: Tensor, g: Sequence[Switches], level: int = 0) -> Tensor:
        r"""Return :math:`h^l`, ``batch_shape + (K, H, W)``: the image at level 0, the class template at level L.

        Raises:
            ValueError: if there is no such level.
        """
        if not 0 <= level <= len(self.layers):
            raise ValueError(f"level must lie in 0 .. {len(self.layers)}, got {level}")
        return self.rendering(c, g).levels[level]

    def choose_class(self, scores: Tensor, y: Tensor | None = None) -> Tensor:
        """Return the label where there is one (``y >= 0``), else the class of the best score."""
        best = scores.detach().argmax(-1)
        return best if y is None else torch.where(y >= 0, y, best)

    def reconstruct(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Render images ``batch_shape + image_shape`` from their best classes and switches.

        Args:
            x: the images.
            y: labels that replace the best class, -1 for none.
        """
        if y is not None:
            self.check_labels(y)
        inferred = self.infer(x)
        return self.rendering(self.choose_class(inferred.scores, y), inferred.switches).image

    @torch.no_grad()
    def sample(
        self,
        n: int,
        c: Tensor | None = None,
        with_noise: bool = True,
        switch_distribution: SwitchDistribution | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Draw classes and switches, and render them.

        By default switches are drawn from their prior probabilities, independent of each other and of the class (the
        path prior's weights of rendered images are left out); estimate these probabilities first with
        :func:`~pyro_ext.models.drmm.estimation.estimate_priors`. Images like those of a data set need a distribution of
        switches given the class, :func:`~pyro_ext.models.drmm.estimation.estimate_switch_distribution`.

        Args:
            n: the number of images.
            c: the classes of the images, ``(n,)``; drawn if None.
            with_noise: whether to add the noise of the pixels.
            switch_distribution: the distribution of switches given the class; their prior if None.

        Returns:
            Images, ``(n,) + image_shape``, and classes, ``(n,)``.

        Raises:
            ValueError: if ``n`` is not a positive integer, or ``c`` does not hold ``n`` classes.
        """
        positive_int("n", n)
        if c is None:
            c = torch.distributions.Categorical(logits=self.class_logits).sample((n,))
        elif c.shape != (n,) or (c < 0).any() or (c >= self.classes).any():
            raise ValueError(f"c must hold {n} classes of 0 .. {self.classes - 1}, got {c!r}")
        if switch_distribution is None:
            switches = [layer.sample_switches(n) for layer in self.layers]
        else:
            switches = [*switch_distribution.sample(c)]
        image = self.rendering(c, switches).image
        return (image + self.noise * torch.randn_like(image) if with_noise else image), c

    def log_prior(self, c: Tensor, g: Iterable[Switches]) -> Tensor:
        r"""Return :math:`\ln \pi_c + \sum_l \ln \pi_{t^l} + \ln \pi_{a^l}`, the factorised part, ``batch_shape``."""
        total = self.class_logits.log_softmax(-1)[c]
        for layer, switches in zip(self.layers, g, strict=True):
            total = total + layer.switch_log_prior(switches)
        return total

    def nonnegativity_violation(self) -> Tensor:
        """Return the absolute value of the least entry of the templates that should be nonnegative, if it is negative.

        These are the class templates and those of all layers but the lowest, with ``abs`` switches at the lowest layer
        only. At zero, the network's switches are the best ones (without batch norm).
        """
        upper = [layer.templates for layer in self.layers[1:]]
        worst = [-template.min() for template in (self.class_templates, *upper)]
        return torch.stack(worst).max().clamp_min(0.0)

    def like(self, **changed: Any) -> DRMM:
        """Return a new model of the same shape, dtype and device, with fresh parameters; options may be changed."""
        options = {name: getattr(self, name) for name in ("classes", "image_shape", "prior", "batch_norm", "size")}
        layers = [replace(layer.layer, switch=layer.switch) for layer in self.layers]
        other = DRMM(layers, **(options | {"noise": self.noise.item()} | changed))
        return other.to(self.class_templates)

    def forward(self, x: Tensor, y: Tensor | None = None, index: Tensor | None = None) -> Tensor:
        """Sample ``c`` and ``t1, a1, ...``, observe images and labels; return the rendered images.

        Args:
            x: images ``(B,) + image_shape``, or flattened, ``(B, D)``.
            y: labels, ``(B,)``, -1 for none; these are observed through the network's scores.
            index: the images' places in the data set.
        """
        images = self.as_images(x)
        with data_plate(self.size or len(x), x, index):
            c = pyro.sample("c", dist.Categorical(logits=self.class_logits))
            switches = [_sample_sites(layer, number) for number, layer in enumerate(self.layers, start=1)]
            rendered = self.observe(c, switches, images)
            if y is not None:
                self.check_labels(y)
                labels = dist.Categorical(logits=self.dcn(images) / self.noise**2).mask(y >= 0)
                pyro.sample("y", labels, obs=y.clamp_min(0))
        return rendered

    def guide(self, x: Tensor, y: Tensor | None = None, index: Tensor | None = None) -> None:
        """Sample ``c`` from the scores, or take the label, enumerated in parallel; fix the switches at the best ones.

        Args:
            x: images ``(B,) + image_shape``, or flattened, ``(B, D)``.
            y: labels, ``(B,)``, -1 for none.
            index: the images' places in the data set.
        """
        inferred = self.infer(self.as_images(x))
        logits = inferred.scores / self.noise**2
        if y is not None:
            self.check_labels(y)
            given = F.one_hot(y.clamp_min(0), self.classes).to(logits.dtype).log()
            logits = torch.where((y >= 0)[..., None], given, logits)
        with data_plate(self.size or len(x), x, index):
            pyro.sample("c", dist.Categorical(logits=logits), infer={"enumerate": "parallel"})
            certain = logits.new_zeros(len(x))  # tells integer positions the dtype of their log-probabilities
            for number, best in enumerate(inferred.switches, start=1):
                pyro.sample(f"t{number}", dist.Delta(best.position, certain, event_dim=3))
                pyro.sample(f"a{number}", dist.Delta(best.on, certain, event_dim=3))

    def observe(self, c: Tensor, g: Sequence[Switches], images: Tensor) -> Tensor:
        """Observe images at the site ``x``, weight them by the path prior, and return the rendered ones."""
        rendering = self.rendering(c, g)
        pyro.sample("x", dist.Normal(rendering.image, self.noise).to_event(3), obs=images)
        if self.prior == "path":
            self.check_no_batch_norm("the path prior")
            norm = rendering.image.square().sum((-1, -2, -3)) / 2
            pyro.factor("path", (norm + rendering.bias_term) / self.noise**2)
        return rendering.image

    def as_images(self, x: Tensor) -> Tensor:
        """Return images ``(B,) + image_shape``, or rows of pixels ``(B, D)``, as images.

        Raises:
            ValueError: if ``x`` is neither.
        """
        channels, height, width = self.image_shape
        if x.dim() == 2 and x.shape[-1] == channels * height * width:
            return x.reshape(-1, channels, height, width)
        self.check_images(x)
        if x.dim() != 4:
            raise ValueError(f"x must have one batch dim, got shape {tuple(x.shape)}")
        return x

    def check_images(self, x: Tensor) -> None:
        """Raise a ValueError unless ``x`` is ``batch_shape + image_shape``."""
        if tuple(x.shape[-3:]) != self.image_shape or x.dim() < 3:
            raise ValueError(f"x must have shape (..., {', '.join(map(str, self.image_shape))}), got {tuple(x.shape)}")

    def check_labels(self, y: Tensor) -> None:
        """Raise a ValueError where a label is neither a class nor -1."""
        wrong = (y < -1) | (y >= self.classes)
        if wrong.any():
            label = y[wrong][0].item()
            raise ValueError(f"y must hold classes 0 .. {self.classes - 1}, or -1 for no label; got {label}")

    def check_no_batch_norm(self, what: str) -> None:
        """Raise a ValueError, saying what is not possible, if there is batch norm."""
        if self.batch_norm != "none":
            raise ValueError(f"{what} needs a model without batch norm; use drmm.conversion.fold_batch_norm(model)")

    def extra_repr(self) -> str:
        """Return the options that the layers do not show."""
        return f"classes={self.classes}, image_shape={self.image_shape}, prior={self.prior}"


def _sample_sites(layer: RenderingLayer, number: int) -> Switches:
    position = pyro.sample(f"t{number}", dist.Categorical(logits=layer.position_logits).to_event(3))
    return Switches(position, pyro.sample(f"a{number}", dist.Bernoulli(logits=layer.on_logits).to_event(3)))
