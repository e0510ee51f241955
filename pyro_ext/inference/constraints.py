r"""What a reconstruction must fulfil: the constraints of :class:`~pyro_ext.inference.TraceGECO_ELBO`.

Each maps the distribution of an observed site and its value, of a batch of data points, to one number a data point,
which the multiplier drives to 0 or below in expectation (table 1 of Rezende and Viola 2018, arXiv 1810.00597).
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from pyro_ext.distributions.structure import unwrap, with_base
from pyro_ext.utils.checks import finite_number, number_between, positive_int, positive_number

__all__ = [
    "ClassificationConstraint",
    "Constraint",
    "FeatureConstraint",
    "LikelihoodConstraint",
    "PatchCorrelationConstraint",
    "ReconstructionConstraint",
    "as_constraint",
]


class Constraint(nn.Module):
    """A number for each data point, at most 0 in expectation where the constraint is fulfilled.

    Subclasses define :meth:`forward`. Networks inside of one stay as they are: they are in evaluation mode, and no
    optimiser trains them.

    Args:
        scale: the size of the constraint by which steps of its multiplier are divided, so that they do not depend on
            units.

    Raises:
        ValueError: if ``scale`` is not a positive number.

    Example:
        >>> class Brightness(Constraint):
        ...     def forward(self, distribution, value, sites):
        ...         return (distribution.mean - value).sum(-1).abs() - 0.5
        >>> Brightness()(dist.Normal(torch.zeros(3, 4), 1.0).to_event(1), torch.ones(3, 4), {})
        tensor([3.5000, 3.5000, 3.5000])
    """

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = positive_number("scale", scale)

    @abstractmethod
    def forward(self, distribution: TorchDistribution, value: Tensor, sites: Mapping[str, Any]) -> Tensor:
        """Return how far each data point is from fulfilling the constraint.

        Args:
            distribution: that of the observed site.
            value: what was observed.
            sites: the values of all sites that the model has visited before, by name.

        Returns:
            A tensor of the shape of ``distribution.log_prob(value)``.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say what it constrains: define forward()")

    def train(self, mode: bool = True) -> Constraint:
        """Stay in evaluation mode."""
        return super().train(False)


class ReconstructionConstraint(Constraint):
    r"""The squared error (RE in the paper): :math:`\lVert x - g(z) \rVert^2 \le \kappa^2`.

    The reconstruction :math:`g(z)` is the mean of the observed site's distribution, and the norm goes over its event.

    Args:
        tolerance: the root :math:`\kappa` of the squared error that is allowed for a data point, summed over its event.

    Raises:
        ValueError: if ``tolerance`` is not a positive number.

    Example:
        >>> constraint = ReconstructionConstraint(tolerance=2.0)
        >>> constraint(dist.Normal(torch.zeros(3), 1.0).to_event(1), torch.ones(3), {})
        tensor(-1.)
    """

    def __init__(self, tolerance: float) -> None:
        super().__init__(scale=positive_number("tolerance", tolerance) ** 2)
        self.tolerance = tolerance

    def forward(self, distribution: TorchDistribution, value: Tensor, sites: Mapping[str, Any]) -> Tensor:
        """Return the squared error less that allowed, of the batch shape of the distribution."""
        error = with_base(distribution, _SquaredError(unwrap(distribution).base))
        return -error.log_prob(value) - self.scale

    def extra_repr(self) -> str:
        """Return the tolerance."""
        return f"tolerance={self.tolerance:g}"


class LikelihoodConstraint(Constraint):
    r"""The negative log-likelihood (NLL): :math:`-\log p(x \mid z) \le \kappa`.

    Args:
        tolerance: the negative log-likelihood :math:`\kappa` allowed for a data point, in nats; that of densities may
            be negative.
        scale: the size by which steps of the multiplier are divided, in nats.

    Raises:
        ValueError: if an argument is not a finite number, or ``scale`` is not positive.

    Example:
        >>> constraint = LikelihoodConstraint(tolerance=2.0)
        >>> constraint(dist.Bernoulli(torch.full((3,), 0.5)).to_event(1), torch.ones(3), {})
        tensor(0.0794)
    """

    def __init__(self, tolerance: float, scale: float = 1.0) -> None:
        super().__init__(scale)
        self.tolerance = finite_number("tolerance", tolerance)

    def forward(self, distribution: TorchDistribution, value: Tensor, sites: Mapping[str, Any]) -> Tensor:
        """Return the negative log-likelihood less that allowed, of the batch shape of the distribution."""
        log_prob: Tensor = distribution.log_prob(value)
        return -log_prob - self.tolerance

    def extra_repr(self) -> str:
        """Return the tolerance."""
        return f"tolerance={self.tolerance:g}"


class FeatureConstraint(Constraint):
    r"""The squared error of features (FRE): :math:`\lVert f(x) - f(g(z)) \rVert^2 \le \kappa^2`.

    Args:
        features: a fixed network f, called with a batch of values ``(B,) + event_shape``; a copy of it is kept, which
            nothing trains.
        tolerance: the root :math:`\kappa` of the squared error that is allowed for a data point, summed over features.

    Raises:
        ValueError: if ``features`` cannot be called, or ``tolerance`` is not a positive number.

    Example:
        >>> constraint = FeatureConstraint(lambda x: x.cumsum(-1), tolerance=1.0)
        >>> constraint(dist.Normal(torch.zeros(2, 3), 1.0).to_event(1), torch.ones(2, 3), {})
        tensor([13., 13.])
    """

    def __init__(self, features: Callable[[Tensor], Tensor], tolerance: float) -> None:
        super().__init__(scale=positive_number("tolerance", tolerance) ** 2)
        self.tolerance = tolerance
        self.features = _fixed("features", features)

    def forward(self, distribution: TorchDistribution, value: Tensor, sites: Mapping[str, Any]) -> Tensor:
        """Return the squared error of the features less that allowed, of the batch shape of the distribution."""
        of_data, of_mean = _outputs(self.features, distribution, value)
        return (of_data - of_mean).square().sum(-1) - self.scale

    def extra_repr(self) -> str:
        """Return the tolerance."""
        return f"tolerance={self.tolerance:g}"


class ClassificationConstraint(Constraint):
    r"""A classifier recognises the class of the data in the reconstruction (CLA): :math:`l(x)^T c(g(z)) \le \kappa`.

    Here :math:`l(x)` is the class as a one-hot vector and :math:`c` are negative log-probabilities, so that the left
    side is the cross entropy.

    Args:
        classifier: a fixed network from values ``(B,) + event_shape`` to logits ``(B, C)``; a copy of it is kept, which
            nothing trains.
        tolerance: the cross entropy :math:`\kappa` allowed for a data point, in nats.
        label: the name of a site that the model visits before, whose value is the class; where it is empty, the class
            is the one that the classifier gives to the data.

    Raises:
        ValueError: if ``classifier`` cannot be called, or ``tolerance`` is not a positive number.

    Example:
        >>> constraint = ClassificationConstraint(lambda x: 4 * x, tolerance=0.1)
        >>> constraint(dist.Normal(torch.zeros(1, 2), 1.0).to_event(1), torch.eye(2)[:1], {})
        tensor([0.5931])
    """

    def __init__(self, classifier: Callable[[Tensor], Tensor], tolerance: float, label: str = "") -> None:
        super().__init__(scale=positive_number("tolerance", tolerance))
        self.tolerance = tolerance
        self.classifier = _fixed("classifier", classifier)
        self.label = label

    def forward(self, distribution: TorchDistribution, value: Tensor, sites: Mapping[str, Any]) -> Tensor:
        """Return the cross entropy less that allowed, of the batch shape of the distribution.

        Raises:
            ValueError: if the model has not visited the site of labels.
        """
        of_data, logits = _outputs(self.classifier, distribution, value)
        if not self.label:
            label = of_data.argmax(-1)
        elif self.label in sites:
            label = sites[self.label]
        else:
            raise ValueError(
                f"label must be a site that the model visits before, got {self.label!r}; those are "
                f"{', '.join(sites) or 'none'}"
            )
        log_probs = logits.log_softmax(-1)
        index = label.long().expand(log_probs.shape[:-1]).unsqueeze(-1)
        return -log_probs.gather(-1, index).squeeze(-1) - self.tolerance

    def extra_repr(self) -> str:
        """Return the tolerance."""
        return f"tolerance={self.tolerance:g}"


class PatchCorrelationConstraint(Constraint):
    r"""Patches of image and reconstruction are correlated (PNCC).

    .. math::  \sum_i \left( \kappa - \psi(x, i)^T \psi(g(z), i) \right) \le 0,

    where :math:`\psi(x, i)` is the patch i less its mean, divided by its length. Patches of the data without any
    variation say nothing and are left out.

    Args:
        tolerance: the mean correlation :math:`\kappa` that is asked for, in (0, 1).
        image_shape: height and width, or channels, height and width, of the event.
        patch: the height and width of a patch.
        stride: the distance between patches.

    Raises:
        ValueError: if a number is out of range, or patches are larger than images.

    Example:
        >>> x = torch.arange(16.0).reshape(1, 16)
        >>> constraint = PatchCorrelationConstraint(0.75, image_shape=(4, 4), patch=2)
        >>> constraint(dist.Normal(-x, 1.0).to_event(1), x, {})
        tensor([7.0000])
    """

    def __init__(self, tolerance: float, image_shape: tuple[int, ...], patch: int = 4, stride: int = 0) -> None:
        number_between("tolerance", tolerance, 0, 1, "()")
        positive_int("patch", patch)
        positive_int("stride", stride, minimum=0)
        if len(image_shape) not in (2, 3):
            raise ValueError(f"image_shape must be (height, width) or (channels, height, width), got {image_shape}")
        if patch > min(image_shape[-2:]):
            raise ValueError(f"patch must be at most {min(image_shape[-2:])}, the size of the images, got {patch}")
        super().__init__()
        self.tolerance, self.patch, self.stride = tolerance, patch, stride or patch
        self.image_shape = (1, *image_shape) if len(image_shape) == 2 else tuple(image_shape)

    def forward(self, distribution: TorchDistribution, value: Tensor, sites: Mapping[str, Any]) -> Tensor:
        """Return the lack of correlation, summed over patches, of the batch shape of the distribution."""
        of_data, of_mean = _outputs(self._patches, distribution, value)
        of_data, of_mean = (
            patches.unflatten(-1, (self.patch**2 * self.image_shape[0], -1)) for patches in (of_data, of_mean)
        )
        varies = of_data.square().sum(-2) > 0
        correlation = (of_data * of_mean).sum(-2)
        return ((self.tolerance - correlation) * varies).sum(-1)

    def _patches(self, images: Tensor) -> Tensor:
        """Return normalised patches, shape ``(B, pixels of a patch * number of patches)``."""
        images = images.reshape(-1, *self.image_shape)
        patches = nn.functional.unfold(images, self.patch, stride=self.stride)
        patches = patches - patches.mean(1, keepdim=True)
        length = patches.square().sum(1, keepdim=True)
        flat = length <= torch.finfo(length.dtype).eps
        return (patches * length.masked_fill(flat, 1).rsqrt()).masked_fill(flat, 0).flatten(1)

    def extra_repr(self) -> str:
        """Return the tolerance and the size of patches."""
        return f"tolerance={self.tolerance:g}, patch={self.patch}"


def as_constraint(name: str, constraint: Any) -> Constraint:
    """Return a constraint, made from a function where one is given.

    Args:
        name: the site it is for.
        constraint: a :class:`Constraint`, or a function of the site's distribution and value.

    Raises:
        ValueError: if it is neither.
    """
    if isinstance(constraint, Constraint):
        return constraint
    if isinstance(constraint, type) or not callable(constraint):
        raise ValueError(
            f"the constraint of {name!r} must be a Constraint such as ReconstructionConstraint(tolerance=1.0), or a "
            f"function of the site's distribution and value, got {constraint!r}"
        )
    return _FunctionConstraint(constraint)


class _FunctionConstraint(Constraint):
    def __init__(self, function: Callable[[TorchDistribution, Tensor], Tensor]) -> None:
        super().__init__()
        self.function = _fixed("constraint", function)

    def forward(self, distribution: TorchDistribution, value: Tensor, sites: Mapping[str, Any]) -> Tensor:
        result: Tensor = self.function(distribution, value)
        return result


class _SquaredError(TorchDistribution):
    """Has minus the squared distance from a distribution's mean as its ``log_prob``."""

    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(self, base: TorchDistribution) -> None:
        self.base = base
        super().__init__(base.batch_shape, base.event_shape, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        error: Tensor = (value - _mean(self.base)).square()
        return -error.flatten(-len(self.event_shape)).sum(-1) if self.event_shape else -error


def _mean(distribution: Any) -> Tensor:
    try:
        mean: Tensor = distribution.mean
    except NotImplementedError as error:
        raise ValueError(
            f"a constraint on the reconstruction needs a distribution with a mean, got {type(distribution).__name__}; "
            "use LikelihoodConstraint, or a function of the distribution and the value"
        ) from error
    return mean


def _fixed(name: str, function: Any) -> Any:
    """Return a function, or a copy of a network that is in evaluation mode and not trained."""
    if not callable(function):
        raise ValueError(f"{name} must be a function or a torch.nn.Module, got {function!r}")
    if isinstance(function, nn.Module):
        return copy.deepcopy(function).eval().requires_grad_(False)
    return function


def _outputs(
    network: Callable[[Tensor], Tensor], distribution: TorchDistribution, value: Tensor
) -> tuple[Tensor, Tensor]:
    """Return what a network makes of the value and of the mean, each of shape ``batch + (outputs,)``."""
    num_event_dims = distribution.event_dim
    with torch.no_grad():
        of_data = _flat_call(network, value, num_event_dims)
    return of_data, _flat_call(network, _mean(distribution), num_event_dims)


def _flat_call(network: Callable[[Tensor], Tensor], x: Tensor, num_event_dims: int) -> Tensor:
    """Call a network with one batch dim, whatever batch dims there are."""
    batch_shape = x.shape[: x.dim() - num_event_dims]
    output = network(x.reshape(-1, *x.shape[x.dim() - num_event_dims :]))
    return output.reshape(*batch_shape, -1)
