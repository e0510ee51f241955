r"""The Deep Rendering Mixture Model as a module: both ways through the same templates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast, get_args

import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_ext.models.drmm.cells import SWITCHES, Switch, Switches
from pyro_ext.models.drmm.geometry import Layer, plan
from pyro_ext.models.drmm.rendering_layer import BatchNorm, RenderingLayer
from pyro_ext.utils.checks import positive_int

if TYPE_CHECKING:
    from pyro_ext.models.drmm.exact import ExactMap
    from pyro_ext.models.drmm.switch_law import SwitchLaw

__all__ = ["DRMM", "Inferred", "Prior", "Rendering"]

Prior = Literal["path", "factorised"]


class Inferred(NamedTuple):
    """What one pass upwards finds.

    Args:
        scores: :math:`z_c`, ``batch_shape + (C,)``.
        features: :math:`x^L`, ``batch_shape + (K, H, W)``.
        switches: the best ones of every layer, from the lowest.
    """

    scores: Tensor
    features: Tensor
    switches: tuple[Switches, ...]


class Rendering(NamedTuple):
    r"""What one pass downwards renders.

    Args:
        levels: :math:`h^0, \dots, h^L`, from the image to the class template.
        bias_term: :math:`\eta = \sum_l \langle b^l, u^l \rangle`, ``batch_shape``.
    """

    levels: tuple[Tensor, ...]
    bias_term: Tensor

    @property
    def image(self) -> Tensor:
        """The image :math:`h^0`, ``batch_shape + image_shape``."""
        return self.levels[0]


class DRMM(PyroModule):
    r"""A class renders an image through layers of templates, which units move and switch off.

    .. math::
        c \sim \mathrm{Cat}(\pi), \quad h^L = \mu_c, \quad
        t^l \sim \mathrm{Cat}(\pi_t^l), \; a^l \sim \mathrm{Bernoulli}(\pi_a^l), \quad
        h^{l-1} = \Lambda^l * \mathrm{Unpool}_{t^l}(a^l h^l), \quad I \sim N(h^0, \sigma^2).

    The pass upwards is a convolutional network with the same templates; it finds switches :math:`\hat g` and scores
    :math:`z_c = \langle \mu_c, x^L \rangle + \sigma^2 \ln \pi_c` (with unnormalised :math:`\ln \pi`). Whatever the
    signs of the templates, :math:`\langle I, h^0(c, \hat g) \rangle + \eta = \langle \mu_c, x^L \rangle`. If all
    :math:`h^l` with :math:`l \geq 1` are nonnegative, no other switches reach more, and under the path prior

    .. math::  p(c, g) \propto \pi_c \exp\{(|h^0(c, g)|^2 / 2 + \eta(c, g)) / \sigma^2\}

    the network finds the most probable class and switches. It does not under the factorised prior, the law that is
    normalised: only that one has an evidence and EM. Biases belong to the network and the path prior; under the
    factorised prior they are no part of the generative model.

    Args:
        layers: from the pixels upwards.
        classes: C.
        image_shape: channels, height and width of the images.
        prior: of classes and switches.
        switch: on/off values: 0 and 1, 0.1 and 1, or -1 and 1.
        noise: :math:`\sigma`.
        batch_norm: normalises channels on the way up, or on both ways. :meth:`folded` takes it into the templates.
        size: the number N of data points that the plate stands for; as many as are given if None.

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
        >>> found = model.infer(images)
        >>> found.scores.shape, [tuple(g.on.shape) for g in found.switches]
        (torch.Size([5, 3]), [(5, 4, 3, 3), (5, 6, 2, 2)])
        >>> c = found.scores.argmax(-1)
        >>> rendered = model.render(c, found.switches)
        >>> torch.allclose((images * rendered).sum((1, 2, 3)), found.scores.max(-1).values, atol=1e-5)
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
        _one_of("prior", prior, get_args(Prior))
        _one_of("switch", switch, tuple(SWITCHES))
        _one_of("batch_norm", batch_norm, get_args(BatchNorm))
        if not 0 < noise < float("inf"):
            raise ValueError(f"noise must be a positive, finite standard deviation, got {noise!r}")
        self.classes = positive_int("classes", classes)
        self.size = None if size is None else positive_int("size", size)
        self.image_shape = tuple(image_shape)
        self.prior: Prior = prior
        self.batch_norm: BatchNorm = batch_norm
        shapes = plan(layers, image_shape)
        parts = [RenderingLayer(layer, shape, switch, batch_norm) for layer, shape in zip(layers, shapes, strict=True)]
        self.layers = cast("Sequence[RenderingLayer]", nn.ModuleList(parts))
        top = shapes[-1].coarser
        self.class_templates = nn.Parameter(torch.randn(classes, *top) / (top[0] * top[1] * top[2]) ** 0.5)
        self.class_logits = nn.Parameter(torch.zeros(classes))
        self.register_buffer("noise", torch.tensor(float(noise)))

    def infer(self, x: Tensor) -> Inferred:
        """Pass images ``batch_shape + image_shape`` upwards.

        Raises:
            ValueError: if ``x`` has another shape.
        """
        self.check_images(x)
        switches = []
        for layer in self.layers:
            x, found = layer.up(x)
            switches.append(found)
        scores = x.flatten(-3) @ self.class_templates.flatten(1).mT
        return Inferred(scores + self.noise**2 * self.class_logits, x, tuple(switches))

    def dcn(self, x: Tensor) -> Tensor:
        r"""Return the scores :math:`z`, ``batch_shape + (C,)``, of the convolutional network.

        ``softmax(z / noise**2)`` is proportional to the probability of the best configuration of each class (under the
        path prior and nonnegative templates), not to that of the class.
        """
        return self.infer(x).scores

    def switches(self, x: Tensor) -> tuple[Switches, ...]:
        """Return the best switches of every layer, from the lowest; they do not depend on the class."""
        return self.infer(x).switches

    def rendering(self, c: Tensor, g: Sequence[Switches]) -> Rendering:
        """Render classes with given switches, keeping every level.

        Args:
            c: int64, any shape that broadcasts with the switches' batch shapes.
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
        r"""Return :math:`h^l` for ``level`` l, ``batch_shape + (K, H, W)``: the image at 0, the class template at L.

        Raises:
            ValueError: if there is no such level.
        """
        if not 0 <= level <= len(self.layers):
            raise ValueError(f"level must lie in 0 .. {len(self.layers)}, got {level}")
        return self.rendering(c, g).levels[level]

    def chosen(self, scores: Tensor, y: Tensor | None = None) -> Tensor:
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
        found = self.infer(x)
        return self.rendering(self.chosen(found.scores, y), found.switches).image

    def sample(
        self, n: int, c: Tensor | None = None, with_noise: bool = True, law: SwitchLaw | None = None
    ) -> tuple[Tensor, Tensor]:
        """Draw classes and switches, and render them.

        Switches are drawn from the model's own probabilities, independent of each other and of the class: estimate
        those first with :func:`~pyro_ext.models.drmm.priors.estimate_priors`. Under the path prior too the draws are
        from these; its weights by the rendered image are left out. Images like those seen need a law of switches
        given the class, :func:`~pyro_ext.models.drmm.switch_styles.estimate_switch_law`.

        Args:
            n: how many.
            c: the classes, ``(n,)``, instead of drawn ones.
            with_noise: whether to add pixel noise.
            law: to draw the switches from, instead of the model's own probabilities.

        Returns:
            Images, ``(n,) + image_shape``, and classes, ``(n,)``.
        """
        from pyro_ext.models.drmm.priors import draw

        return draw(self, positive_int("n", n), c, with_noise, law)

    def exact_map(self, x: Tensor) -> ExactMap:
        """Return the most probable class and switches of images by going through all of them; see :mod:`.exact`."""
        from pyro_ext.models.drmm.exact import exact_map

        return exact_map(self, x)

    def nonnegativity_violation(self) -> Tensor:
        """Return the largest negative entry, as a positive number, of the templates that should have none.

        These are the class templates and those of all layers but the lowest, with ``abs`` switches at the lowest layer
        only. At zero, the network finds the best switches (without batch norm).
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

    def folded(self) -> DRMM:
        """Return an equal model for evaluation whose templates and biases have taken in the batch norm upwards."""
        from pyro_ext.models.drmm.batch_norm import folded

        return folded(self)

    def forward(self, x: Tensor, y: Tensor | None = None, index: Tensor | None = None) -> Tensor:
        """Sample classes and switches, observe images and labels; return the rendered images.

        Args:
            x: images ``(B,) + image_shape``, or flattened, ``(B, D)``.
            y: labels, ``(B,)``, -1 for none; these are observed through the network's scores.
            index: the images' places in the data set.
        """
        from pyro_ext.models.drmm.programs import model

        return model(self, x, y, index)

    def guide(self, x: Tensor, y: Tensor | None = None, index: Tensor | None = None) -> None:
        """Run the max-product guide; for arguments see :meth:`forward`."""
        from pyro_ext.models.drmm.programs import guide

        guide(self, x, y, index)

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

    def check_plain(self, what: str) -> None:
        """Raise a ValueError if there is batch norm."""
        if self.batch_norm != "none":
            raise ValueError(f"{what} needs a model without batch norm; use model.folded()")

    def extra_repr(self) -> str:
        """Return what is not told by the layers."""
        return f"classes={self.classes}, image_shape={self.image_shape}, prior={self.prior}"


def _one_of(name: str, value: Any, known: Sequence[str]) -> None:
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}; got {value!r}")
