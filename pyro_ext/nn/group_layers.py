r"""Linear and convolutional layers whose inputs or channels share scales: Bayesian compression."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyro.distributions as dist
import torch
from pyro.nn import PyroModule, PyroSample
from torch import Tensor, nn

from pyro_ext.nn.convert import check_not_shared
from pyro_ext.nn.group_scales import GroupScale, NormalJeffreys
from pyro_ext.nn.layers import BayesianLayer
from pyro_ext.nn.local import LocalParameters, convolution, linear
from pyro_ext.nn.local_log_normal import drawn_per_row
from pyro_ext.utils.checks import positive_int

__all__ = [
    "GroupSparseConv1d",
    "GroupSparseConv2d",
    "GroupSparseConv3d",
    "GroupSparseLayer",
    "GroupSparseLinear",
    "LayerMoments",
    "group_sparse",
    "layer_moments",
]


class LayerMoments(NamedTuple):
    """What a posterior says about the weights of a layer.

    Args:
        weight: the posterior means of the weights, scales included.
        bias: those of the biases, or None.
        variance: the posterior variances of the weights.
        score: how dispensable each group is, of a shape that broadcasts to that of the weights; large ones are removed.
    """

    weight: Tensor
    bias: Tensor | None
    variance: Tensor
    score: Tensor


@dataclass(frozen=True)
class _PriorOf:
    """The prior of a site; a class, for PyroSample renames functions."""

    name: str

    def __call__(self, layer: Any) -> Any:
        if self.name in ("weight", "bias"):
            start = getattr(layer, f"{self.name}_start")
            normal = dist.Normal(start.new_zeros(()), start.new_ones(()), validate_args=False)
            return normal.expand(start.shape).to_event(start.dim())
        return layer.scale.prior(self.name, layer.group_like)


class GroupSparseLayer(BayesianLayer):
    r"""What layers with scales have in common.

    .. math::

        w_{ij} = z_i \tilde w_{ij}, \qquad \tilde w_{ij} \sim \mathcal{N}(0, 1), \quad b_j \sim \mathcal{N}(0, 1),

    with one scale :math:`z_i` for each input of a linear layer, or for each output channel of a convolution. Sites are
    ``weight`` for :math:`\tilde w`, ``bias``, and those of the scale.

    Args:
        weight: a value to begin from.
        bias: likewise, or None for no biases.
        scale: the prior of the scales.
        groups: their number.
        local: whether pre-activations are drawn instead of weights, and scales and biases for each row of a batch,
            where the guide lets them be.

    Raises:
        ValueError: if ``scale`` is no prior of scales.
    """

    weight_start: Tensor
    bias_start: Tensor | None
    group_like: Tensor

    def __init__(self, weight: Tensor, bias: Tensor | None, scale: GroupScale, groups: int, local: bool) -> None:
        super().__init__(local)
        if not isinstance(scale, GroupScale):
            raise ValueError(f"scale must be a prior of scales such as NormalJeffreys() or Horseshoe(), got {scale!r}")
        self.scale = scale
        self.register_buffer("weight_start", weight.detach(), persistent=False)
        self.register_buffer("bias_start", None if bias is None else torch.zeros_like(bias), persistent=False)
        self.register_buffer("group_like", weight.new_ones(groups), persistent=False)
        self.group_sites = tuple(scale.starts(self.group_like))
        for name in ("weight", *(["bias"] if bias is not None else []), *self.group_sites):
            setattr(self, name, PyroSample(_PriorOf(name)))

    def starts(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the sites, each with a value to begin from: scales are 1, biases 0."""
        yield "weight", self.weight_start
        if self.bias_start is not None:
            yield "bias", self.bias_start
        yield from self.scale.starts(self.group_like).items()

    @torch.no_grad()
    def start_from(self, plain: nn.Module) -> None:
        """Let weights and biases begin from those of a plain layer.

        Args:
            plain: a layer of :mod:`torch.nn` of the same shape.
        """
        self.weight_start.copy_(plain.get_parameter("weight"))
        if self.bias_start is not None:
            self.bias_start.copy_(plain.get_parameter("bias"))

    @abstractmethod
    def plain(self) -> nn.Module:
        """Return a layer of :mod:`torch.nn` of the same shape, device and type, with values that do not matter."""

    def positive_sites(self) -> set[str]:
        """Return the full names of the sites that are positive."""
        names = self.site_names()
        return {names[name] for name in self.group_sites if self.scale.is_positive}

    def _scales(self, rows: int | None) -> Tensor:
        values = {name: self.drawn(name) for name in self.group_sites}
        return self.scale.drawn(values, rows if self.local else None)

    def _per_row(self, name: str, rows: int | None) -> Tensor:
        value = self.drawn(name)
        return drawn_per_row(value, rows) if self.local else value


class GroupSparseLinear(GroupSparseLayer):
    r"""A linear layer with one scale for each input, :math:`y = \tilde W (z \circ x) + b`.

    An input whose scale is noise is removed; the unit of the layer before that it comes from is then removed too.
    Use it as :class:`SparseVariationalLinear`: inside a PyroModule, outside of plates over data, once in a forward
    pass. With a guide such as :class:`AutoAdditiveNormal` pre-activations are drawn by local reparameterisation.

    Args:
        in_features: the number I of inputs, and of scales.
        out_features: the number O of outputs.
        bias: whether there are biases, which are sites, too.
        scale: the prior of the scales, ``NormalJeffreys()`` or ``Horseshoe()``.
        local: whether pre-activations are drawn instead of weights, where the guide lets them be.
        device: the device of the layer; torch's default if None.
        dtype: the type of the layer; torch's default if None.

    Raises:
        ValueError: if a size is not a positive integer, or ``scale`` is no prior of scales; when called, inside a plate
            over data, or a second time in a forward pass with local reparameterisation.

    References:
        | Bayesian compression for deep learning (Louizos et al., 2017), section 4
        | https://arxiv.org/abs/1705.08665

    Example:
        >>> from pyro_ext.nn import Horseshoe
        >>> layer = GroupSparseLinear(4, 3, scale=Horseshoe())
        >>> trace = pyro.poutine.trace(layer).get_trace(torch.randn(5, 4))
        >>> trace.stochastic_nodes
        ['shared_gamma', 'shared_inverse', 'gamma', 'inverse', 'weight', 'bias']
        >>> trace.nodes["_RETURN"]["value"].shape
        torch.Size([5, 3])
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        scale: GroupScale | None = None,
        local: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        sizes = positive_int("in_features", in_features), positive_int("out_features", out_features)
        plain = nn.Linear(*sizes, bias, device, dtype)
        super().__init__(plain.weight, plain.bias, scale or NormalJeffreys(), in_features, local)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(..., O)`` for ``(..., I)``; the last batch dim holds the rows for which scales are drawn."""
        rows = x.shape[-2] if x.dim() > 1 else None
        y = linear(x * self._scales(rows), self.drawn("weight"), None, self.local)
        return y if self.bias_start is None else y + self._per_row("bias", rows)

    def plain(self) -> nn.Linear:
        """Return a linear layer of the same shape."""
        outputs, inputs = self.weight_start.shape
        options = {"device": self.weight_start.device, "dtype": self.weight_start.dtype}
        return nn.utils.skip_init(nn.Linear, inputs, outputs, self.bias_start is not None, **options)

    def extra_repr(self) -> str:
        """Return the sizes, for ``repr``."""
        outputs, inputs = self.weight_start.shape
        bias = self.bias_start is not None
        return f"in_features={inputs}, out_features={outputs}, bias={bias}, scale={self.scale}"


class _GroupSparseConv(GroupSparseLayer):
    """What the convolutions of one, two and three spatial dims share."""

    num_spatial: int

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, ...],
        stride: int | tuple[int, ...] = 1,
        padding: int | tuple[int, ...] | str = 0,
        dilation: int | tuple[int, ...] = 1,
        groups: int = 1,
        bias: bool = True,
        scale: GroupScale | None = None,
        local: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        for name, value in (("in_channels", in_channels), ("out_channels", out_channels), ("groups", groups)):
            positive_int(name, value)
        make: Any = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[self.num_spatial - 1]
        plain = make(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, device=device, dtype=dtype
        )
        super().__init__(plain.weight, plain.bias, scale or NormalJeffreys(), out_channels, local)
        self.stride, self.padding, self.dilation, self.groups = plain.stride, padding, plain.dilation, groups

    def forward(self, x: Tensor) -> Tensor:
        """Return batch dims and ``(O, *positions)`` for batch dims and ``(I, *positions)``."""
        rows = x.shape[-self.num_spatial - 2] if x.dim() > self.num_spatial + 1 else None
        ones = (1,) * self.num_spatial
        z = self._scales(rows)
        y = convolution(
            x,
            self.drawn("weight"),
            None,
            num_spatial=self.num_spatial,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
            local=self.local,
        )
        y = y * z.reshape(z.shape + ones)
        if self.bias_start is None:
            return y
        bias = self._per_row("bias", rows)
        return y + bias.reshape(bias.shape + ones)

    def plain(self) -> nn.Module:
        """Return a convolution of the same shape."""
        outputs, inputs, *kernel = self.weight_start.shape
        settings = (self.stride, self.padding, self.dilation, self.groups, self.bias_start is not None)
        options = {"device": self.weight_start.device, "dtype": self.weight_start.dtype}
        kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[self.num_spatial - 1]
        return nn.utils.skip_init(kind, inputs * self.groups, outputs, tuple(kernel), *settings, **options)

    def extra_repr(self) -> str:
        """Return the sizes, for ``repr``."""
        outputs, inputs, *kernel = self.weight_start.shape
        return (
            f"{inputs * self.groups}, {outputs}, kernel_size={tuple(kernel)}, stride={self.stride}, "
            f"padding={self.padding}, dilation={self.dilation}, groups={self.groups}, "
            f"bias={self.bias_start is not None}, scale={self.scale}"
        )


class GroupSparseConv1d(_GroupSparseConv):
    """A convolution over one spatial dim with a scale for each output channel, as :class:`GroupSparseLinear`.

    Arguments are those of :class:`torch.nn.Conv1d` and of :class:`GroupSparseLinear`. Local reparameterisation draws
    every position by itself, with one scale and one bias for a channel of each row.

    Example:
        >>> GroupSparseConv1d(2, 4, 3)(torch.randn(5, 2, 9)).shape
        torch.Size([5, 4, 7])
    """

    num_spatial = 1


class GroupSparseConv2d(_GroupSparseConv):
    """A convolution over two spatial dims with a scale for each output channel, as :class:`GroupSparseLinear`.

    Arguments are those of :class:`torch.nn.Conv2d` and of :class:`GroupSparseLinear`. Local reparameterisation draws
    every position by itself, with one scale and one bias for a channel of each row.

    Example:
        >>> GroupSparseConv2d(2, 4, (3, 1), padding="same")(torch.randn(5, 2, 9, 9)).shape
        torch.Size([5, 4, 9, 9])
    """

    num_spatial = 2


class GroupSparseConv3d(_GroupSparseConv):
    """A convolution over three spatial dims with a scale for each output channel, as :class:`GroupSparseLinear`.

    Arguments are those of :class:`torch.nn.Conv3d` and of :class:`GroupSparseLinear`. Local reparameterisation draws
    every position by itself, with one scale and one bias for a channel of each row.

    Example:
        >>> GroupSparseConv3d(2, 4, 2)(torch.randn(5, 2, 3, 3, 3)).shape
        torch.Size([5, 4, 2, 2, 2])
    """

    num_spatial = 3


def layer_moments(scale: GroupScale, posterior: Mapping[str, LocalParameters]) -> LayerMoments:
    r"""Return means and variances of the weights, which scales are a part of, and the scores of the groups.

    The variance of a product of independent variables is
    :math:`\mathrm{Var}(z)\,(\sigma^2 + \mu^2) + \sigma^2\, \mathrm{E}(z)^2`.

    Args:
        scale: the prior of the scales.
        posterior: the parameters of the guide's distributions, by the names of sites within the layer; of logarithms
            for positive ones.

    Example:
        >>> certain = LocalParameters(torch.full((2, 3), 0.5), torch.full((2, 3), -60.0))
        >>> moments = layer_moments(NormalJeffreys(), {"weight": certain, "z": LocalParameters(*torch.ones(2, 3))})
        >>> moments.weight[0], moments.variance[0]
        (tensor([0.5000, 0.5000, 0.5000]), tensor([0.6796, 0.6796, 0.6796]))
    """
    loc, log_variance = posterior["weight"]
    variance = log_variance.exp()
    shape = (-1,) if loc.dim() == 2 else (-1, *[1] * (loc.dim() - 1))
    mean, of_scale, score = (x.view(shape) for x in scale.moments(posterior))
    total = of_scale * (variance + loc.square()) + variance * mean.square()
    return LayerMoments(loc * mean, posterior["bias"].loc if "bias" in posterior else None, total, score)


_CONVOLUTIONS: dict[type, Callable[..., GroupSparseLayer]] = {
    nn.Conv1d: GroupSparseConv1d,
    nn.Conv2d: GroupSparseConv2d,
    nn.Conv3d: GroupSparseConv3d,
}


def group_sparse(module: nn.Module, scale: GroupScale | None = None, local: bool = True) -> Any:
    """Return a copy of a network as a Pyro module, with group-sparse layers in place of linear and convolutional ones.

    Weights and biases begin from those of the network, which may have been trained. Other layers are copied as they
    are; parameters of theirs, such as those of batch norm, stay parameters.

    Args:
        module: the network; an ``nn.Sequential``, possibly nested, or a single layer.
        scale: the prior of the scales, ``NormalJeffreys()`` if None.
        local: whether pre-activations are drawn instead of weights, where the guide lets them be.

    Raises:
        ValueError: if a convolution pads with anything but zeros, ``scale`` is no prior of scales, layers lie in other
            containers than ``nn.Sequential``, or different layers share a parameter.

    Example:
        >>> from pyro_ext.nn import Horseshoe
        >>> group_sparse(nn.Sequential(nn.Linear(4, 3), nn.ReLU()), Horseshoe())
        PyroSequential(
          (0): GroupSparseLinear(in_features=4, out_features=3, bias=True, scale=Horseshoe(global_scale=1e-05))
          (1): ReLU()
        )
    """
    check_not_shared(module, dict(module.named_modules()))
    return _converted(module, scale, local, {})


def _converted(module: Any, scale: GroupScale | None, local: bool, known: dict[int, nn.Module]) -> Any:
    """Return the network; what is known is in two places of it."""
    if isinstance(module, nn.Sequential):
        # not named_children(), which leaves out what was there before
        children = {name: _converted(child, scale, local, known) for name, child in module._modules.items()}
        return PyroModule[nn.Sequential](OrderedDict(children)).train(module.training)
    if id(module) not in known:
        known[id(module)] = _converted_layer(module, scale, local)
    return known[id(module)]


def _converted_layer(module: nn.Module, scale: GroupScale | None, local: bool) -> nn.Module:
    options: dict[str, Any] = {"scale": scale, "local": local}
    layer: GroupSparseLayer
    if isinstance(module, nn.Linear):
        layer = GroupSparseLinear(module.in_features, module.out_features, module.bias is not None, **options)
    elif type(module) in _CONVOLUTIONS:
        own: Any = module
        if own.padding_mode != "zeros":
            raise ValueError(f"convolutions must pad with zeros, got padding_mode={own.padding_mode!r}")
        settings = (own.stride, own.padding, own.dilation, own.groups, own.bias is not None)
        make = _CONVOLUTIONS[type(module)]
        layer = make(own.in_channels, own.out_channels, own.kernel_size, *settings, **options)
    else:
        if any(type(part) in (nn.Linear, *_CONVOLUTIONS) for part in module.modules()):
            raise ValueError(
                f"module must be an nn.Sequential, possibly nested, or a single layer; there are linear or "
                f"convolutional layers inside of {type(module).__name__}, which would keep ordinary weights"
            )
        return copy.deepcopy(module)
    layer.to(module.weight)
    layer.start_from(module)
    return layer.train(module.training)
