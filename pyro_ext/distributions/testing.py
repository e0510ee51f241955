"""The contract of a distribution, as a function that anyone can run on their own."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from pyro_ext.distributions._contract_samples import SAMPLE_CHECKS
from pyro_ext.distributions._contract_shapes import SHAPE_CHECKS, Coordinates, Subject

__all__ = ["CHECKS", "check_distribution"]

CHECKS: dict[str, Callable[[Subject], None]] = {**SHAPE_CHECKS, **SAMPLE_CHECKS}
"""The single checks by name: each takes a subject and raises an AssertionError."""


def check_distribution(
    d: TorchDistribution,
    *,
    parameters: Sequence[Tensor] = (),
    num_samples: int = 10_000,
    false_alarm: float = 1e-6,
    seed: int = 0,
    skip: Collection[str] = (),
    coordinates: Coordinates | None = None,
) -> None:
    """Check that a distribution keeps what Pyro and its users rely on.

    The checks, by name:

    * ``shapes``: samples have shape ``sample_shape + batch_shape + event_shape``;
    * ``infer_shapes``: the class method finds them from the shapes of the parameters, unless it is not implemented;
    * ``support``: samples lie in the support, and its ``check`` returns the batch shape;
    * ``log_prob``: shape, finite at the distribution's own samples, and part of ``score_parts``;
    * ``refusal``: with validation on, values of a wrong shape are refused;
    * ``dtype``: type and device are those of the parameters;
    * ``expand``, ``to_event``, ``mask``: as Pyro defines them;
    * ``seed``: a seed repeats a sample;
    * ``state``: copies, pickles and copied values give the same density; nothing hangs on tensors;
    * ``repr``: names the class;
    * ``gradients``: ``log_prob``, and samples where reparameterised, reach every one of ``parameters``;
    * ``enumerate``: a finite support is complete: distinct values whose probabilities sum to 1;
    * ``frequencies``: samples of a finite distribution follow ``log_prob``, by a chi-square test;
    * ``rsample``: ``sample`` and ``rsample`` draw from one distribution, by a Kolmogorov-Smirnov test;
    * ``moments``, ``entropy``: ``mean``, ``variance`` and ``entropy()``, where the distribution knows them, are those
      of its samples, by a t-test;
    * ``goodness_of_fit``: samples of a continuous float64 distribution follow ``log_prob``, by a t-test of the volumes
      of cells in unconstrained coordinates: on a bounded support, densities that pile up at the bounds would hide much;
    * ``score``: the gradient of ``log_prob`` in ``parameters`` has mean zero under the samples, by a t-test. It
      relates sampler and density for any distribution whose support does not move with its parameters.

    A distribution without a density, whose ``log_prob`` is not implemented, skips ``log_prob``; what other checks ask
    of densities is then left out.

    Args:
        d: the distribution; an instance of :class:`pyro.distributions.TorchDistribution` or one of Pyro's own.
        parameters: leaf tensors with ``requires_grad`` that ``d`` was built from; without them ``gradients`` and
            ``score`` do nothing.
        num_samples: the number of samples of each statistical check.
        false_alarm: the probability that a right distribution fails, for each of them.
        seed: the checks draw from this seed and leave torch's generators as they were.
        skip: the names of the checks to leave out.
        coordinates: a function of values ``(n,) + batch_shape + event_shape``, for ``goodness_of_fit`` on supports of
            which ``biject_to`` knows nothing useful. It returns free real coordinates ``(n,) + batch_shape + (D,)``
            and the log-determinant of the map from coordinates to values, ``(n,) + batch_shape``.

    Raises:
        AssertionError: naming the check that failed, and how.
        ValueError: if ``skip`` names no check, or a parameter does not require a gradient.

    >>> logits = torch.randn(3, 5, requires_grad=True)
    >>> check_distribution(dist.Categorical(logits=logits), parameters=[logits])
    """
    unknown = sorted(set(skip) - CHECKS.keys())
    if unknown:
        raise ValueError(f"skip names no check: {unknown}; there are {sorted(CHECKS)}")
    if not all(parameter.requires_grad for parameter in parameters):
        raise ValueError("parameters must require gradients: call requires_grad_() on them before building d")
    has_density = "log_prob" not in skip
    needing_density = set() if has_density else {"refusal", "enumerate", *SAMPLE_CHECKS} - {"rsample", "moments"}
    for name, check in CHECKS.items():
        if name in skip or name in needing_density:
            continue
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            torch.manual_seed(seed)
            x = d.sample((4,))
            subject = Subject(d, list(parameters), x, num_samples, false_alarm, has_density, coordinates)
            try:
                check(subject)
            except AssertionError as error:
                raise AssertionError(f"{type(d).__name__} fails the check {name!r}: {error}") from error
