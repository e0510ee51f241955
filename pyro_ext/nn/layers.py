"""Linear and convolutional layers whose weights are sites of a Pyro program."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from pyro.nn import PyroModule, PyroSample
from pyro.poutine.condition_messenger import ConditionMessenger
from pyro.poutine.do_messenger import DoMessenger
from pyro.poutine.indep_messenger import IndepMessenger
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import _PYRO_STACK
from torch import Tensor, nn

from pyro_ext.distributions import LogUniform
from pyro_ext.nn.local import convolution, linear, local_parameters
from pyro_ext.ops.log_uniform import KLForm
from pyro_ext.utils.checks import positive_int

__all__ = [
    "BayesianLayer",
    "Prior",
    "SparseVariationalConv1d",
    "SparseVariationalConv2d",
    "SparseVariationalConv3d",
    "SparseVariationalLinear",
    "log_uniform_prior",
]

Prior = Callable[[Tensor], Any]
"""From a tensor of the shape, type and device of a weight to its prior, all dims of which are event dims."""

# plates whose elements are whole draws of all weights
_PARTICLES = ("num_particles_vectorized", "_num_predictive_samples", "_evidence_particles")
_GIVERS = (ConditionMessenger, DoMessenger)


def log_uniform_prior(weight: Tensor, kl: KLForm = "approx") -> Any:
    """Return independent log-uniform priors, :class:`~pyro_ext.distributions.LogUniform`, of all entries of a weight.

    Args:
        weight: a tensor of the shape, type and device of the weight; its values do not matter.
        kl: the form of the divergence, ``"approx"`` or ``"exact"``.

    Example:
        >>> log_uniform_prior(torch.zeros(3, 2)).event_shape
        torch.Size([3, 2])
    """
    low = weight.new_full((), 1e-4)
    return LogUniform(low, 1.0, kl, validate_args=False).expand(weight.shape).to_event(weight.dim())


class RecordStarts(Messenger):
    """Notes where the sites of layers begin, by their full names, when a program runs whose modules are not known."""

    def __init__(self) -> None:
        super().__init__()
        self.starts: dict[str, Tensor] = {}


class BayesianLayer(PyroModule):
    """A layer with sites among its weights: what guides, conversions and reports ask of one.

    Subclasses define :meth:`starts`, and draw their weights by :meth:`drawn`.

    Args:
        local: whether pre-activations are drawn instead of weights, where the guide lets them be; see
            :func:`~pyro_ext.nn.local.linear`.

    Example:
        >>> class Scale(BayesianLayer):
        ...     def __init__(self, size):
        ...         super().__init__()
        ...         self.scale = PyroSample(log_uniform_prior(torch.ones(size)))
        ...
        ...     def starts(self):
        ...         yield "scale", torch.ones(3)
        ...
        ...     def forward(self, x):
        ...         return x * self.drawn("scale")
        >>> Scale(3)(torch.ones(2, 3)).shape
        torch.Size([2, 3])
    """

    def __init__(self, local: bool = True) -> None:
        super().__init__()
        self.local = local

    def starts(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the names of the layer's sites, without that of the layer, each with a value to begin from."""
        raise NotImplementedError(f"{type(self).__name__} does not say which sites it has: define starts()")

    def site_names(self) -> dict[str, str]:
        """Return the full names of the layer's sites in the program that it is a part of, by their own names."""
        prefix = self._pyro_name
        return {name: f"{prefix}.{name}" if prefix else name for name, _ in self.starts()}

    def drawn(self, name: str) -> Tensor:
        """Return a site's value, drawn at the first use in a forward pass.

        Args:
            name: the site's name, without that of the layer.

        Raises:
            ValueError: if the layer is called inside a plate over data, or a second time in a forward pass with
                local reparameterisation.
        """
        context, key = self._pyro_context, f"{self._pyro_name}.{name}"
        if context.active and context.get(f"{key}:drawn") is None:
            self._refuse_plates()
        for frame in _PYRO_STACK:
            if isinstance(frame, RecordStarts):
                names = self.site_names()
                frame.starts |= {names[own]: start for own, start in self.starts()}
        value: Tensor = getattr(self, name)
        if self._is_given(name):
            value = value.clone()  # which is no sample any more
        if context.get(f"{key}:drawn") is not None and self.local and local_parameters(value) is not None:
            raise ValueError(
                f"layer {self._pyro_name!r} is used twice in one forward pass; local reparameterisation would give it "
                "different weights each time: build it with local=False"
            )
        context.set(f"{key}:drawn", value)
        return value

    def _is_given(self, name: str) -> bool:
        """Return whether a program is conditioned on a site's value, which then is meant, be it a sample of a guide."""
        full = f"{self._pyro_name}.{name}" if self._pyro_name else name
        return any(isinstance(frame, _GIVERS) and full in frame.data for frame in _PYRO_STACK)

    def _refuse_plates(self) -> None:
        for frame in _PYRO_STACK:
            if isinstance(frame, IndepMessenger) and frame.name not in _PARTICLES:
                raise ValueError(
                    f"layer {self._pyro_name!r} is called inside the plate {frame.name!r}, where each datum would draw "
                    "weights of its own and pay for their divergence: call the network before the plate is opened"
                )


@dataclass(frozen=True)
class _PriorOf:
    """The prior of a layer's weight; a class, for PyroSample renames functions."""

    prior: Prior

    def __call__(self, layer: Any) -> Any:
        return self.prior(layer.weight_start)


class _Weighted(BayesianLayer):
    """A layer with a weight that is a site, and a bias that is a parameter.

    The value that the weight begins from is held as a buffer ``weight_start``, which belongs to no ``state_dict``.
    """

    weight_start: Tensor
    bias: nn.Parameter | None

    def __init__(self, weight: Tensor, bias: Tensor | None, prior: Prior, local: bool) -> None:
        super().__init__(local)
        self.register_buffer("weight_start", weight, persistent=False)
        self.bias = None if bias is None else nn.Parameter(bias)
        self.weight = PyroSample(_PriorOf(prior))

    def starts(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the weight."""
        yield "weight", self.weight_start

    def start_from(self, plain: Any) -> None:
        """Let the weight begin from that of a plain layer, and copy its bias.

        Args:
            plain: a layer of :mod:`torch.nn` of the same shape.
        """
        with torch.no_grad():
            self.weight_start.copy_(plain.weight)
            if self.bias is not None:
                self.bias.copy_(plain.bias)


class SparseVariationalLinear(_Weighted):
    r"""A linear layer whose weight is a site ``NAME.weight`` with a prior, log-uniform unless another is given.

    .. math::  y = x W^T + b, \qquad p(w_{oi}) \propto 1 / |w_{oi}|.

    The posterior belongs to a guide: with :class:`~pyro_ext.nn.AutoAdditiveNormal` the layer draws its
    pre-activations (local reparameterisation), with any other it uses the weights as they are drawn. The bias is a
    parameter. Use the layer inside a :class:`~pyro.nn.PyroModule`, ``PyroModule[torch.nn.Sequential]`` for example,
    outside of plates over data, and once in a forward pass.

    Args:
        in_features: the number I of inputs.
        out_features: the number O of outputs.
        bias: whether to add a bias.
        prior: the prior of the weight, as a function of a tensor like it.
        local: whether pre-activations are drawn instead of weights, where the guide lets them be.
        device: the device of the parameters; torch's default if None.
        dtype: the type of the parameters; torch's default if None.

    Raises:
        ValueError: if a size is not a positive integer; when called, inside a plate over data, or a second time in a
            forward pass with local reparameterisation.

    References:
        | Variational dropout sparsifies deep neural networks (Molchanov et al., 2017), sections 4.2 and 4.5
        | https://arxiv.org/abs/1701.05369

    Example:
        >>> from pyro_ext.nn import AutoAdditiveNormal
        >>> layer = SparseVariationalLinear(3, 2)
        >>> layer(torch.ones(5, 3)).shape
        torch.Size([5, 2])
        >>> {name: tuple(p.shape) for name, p in AutoAdditiveNormal(layer).named_parameters()}
        {'theta.weight': (2, 3), 'log_sigma2.weight': (2, 3)}
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        prior: Prior = log_uniform_prior,
        local: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        sizes = positive_int("in_features", in_features), positive_int("out_features", out_features)
        plain = nn.Linear(*sizes, bias, device, dtype)
        super().__init__(plain.weight.detach(), None if plain.bias is None else plain.bias.detach(), prior, local)
        self.in_features, self.out_features = sizes

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs ``(..., O)`` of inputs ``(..., I)``."""
        return linear(x, self.drawn("weight"), self.bias, self.local)

    def extra_repr(self) -> str:
        """Return the sizes, for ``repr``."""
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


class _SparseVariationalConv(_Weighted):
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
        prior: Prior = log_uniform_prior,
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
        super().__init__(plain.weight.detach(), None if plain.bias is None else plain.bias.detach(), prior, local)
        self.in_channels, self.out_channels, self.kernel_size = in_channels, out_channels, plain.kernel_size
        self.stride, self.padding, self.dilation, self.groups = plain.stride, padding, plain.dilation, groups

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs, batch dims and ``(O, *positions)``, of inputs, batch dims and ``(I, *positions)``."""
        return convolution(
            x,
            self.drawn("weight"),
            self.bias,
            num_spatial=self.num_spatial,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
            local=self.local,
        )

    def extra_repr(self) -> str:
        """Return the sizes, for ``repr``."""
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding={self.padding}, dilation={self.dilation}, groups={self.groups}, bias={self.bias is not None}"
        )


class SparseVariationalConv1d(_SparseVariationalConv):
    """A convolution over one spatial dim whose weight is a site, as in :class:`SparseVariationalLinear`.

    Local reparameterisation draws every position by itself: means and variances are exact, covariances between
    positions are not kept. Arguments are those of :class:`torch.nn.Conv1d` and of :class:`SparseVariationalLinear`.

    Example:
        >>> SparseVariationalConv1d(2, 4, 3, padding=1)(torch.ones(5, 2, 8)).shape
        torch.Size([5, 4, 8])
    """

    num_spatial = 1


class SparseVariationalConv2d(_SparseVariationalConv):
    """A convolution over two spatial dims whose weight is a site, as in :class:`SparseVariationalLinear`.

    Local reparameterisation draws every position by itself: means and variances are exact, covariances between
    positions are not kept. Arguments are those of :class:`torch.nn.Conv2d` and of :class:`SparseVariationalLinear`.

    Example:
        >>> SparseVariationalConv2d(1, 4, (3, 5), bias=False)(torch.ones(5, 1, 8, 8)).shape
        torch.Size([5, 4, 6, 4])
    """

    num_spatial = 2


class SparseVariationalConv3d(_SparseVariationalConv):
    """A convolution over three spatial dims whose weight is a site, as in :class:`SparseVariationalLinear`.

    Local reparameterisation draws every position by itself: means and variances are exact, covariances between
    positions are not kept. Arguments are those of :class:`torch.nn.Conv3d` and of :class:`SparseVariationalLinear`.

    Example:
        >>> SparseVariationalConv3d(2, 4, 2, groups=2)(torch.ones(5, 2, 4, 4, 4)).shape
        torch.Size([5, 4, 3, 3, 3])
    """

    num_spatial = 3
