"""What is minimised: an ELBO, a loss of the batch, or a weighted sum of several objectives."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from pyro.infer import ELBO
from torch import Tensor, nn

from pyro_ext.inference.elbo import DifferentiableELBO
from pyro_ext.inference.geco import TraceGECO_ELBO
from pyro_ext.inference.training.local import LocalELBOModule, give_local_store, local_params
from pyro_ext.inference.vimco import TraceVIMCO_ELBO
from pyro_ext.utils.checks import finite_number, positive_int

__all__ = ["ELBOObjective", "LossObjective", "Losses", "Objective", "SumObjective", "check_name"]


class Losses(NamedTuple):
    """What an objective returns.

    Args:
        total: the scalar to minimise.
        terms: scalars to note by name in ``metrics.csv``, the parts of the total for example.
    """

    total: Tensor
    terms: dict[str, Tensor]


class Objective(nn.Module):
    """A loss and the modules whose parameters it depends on.

    Subclasses define :meth:`forward`. They are modules, so parameters, multipliers and moving averages belong to
    ``state_dict`` and follow ``.to(device)``.

    Example:
        >>> class Ridge(Objective):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.network = torch.nn.Linear(2, 1)
        ...     def forward(self, x, y, index):
        ...         error, size = (self.network(x) - y).square().mean(), self.network.weight.square().sum()
        ...         return Losses(error + 0.1 * size, {"error": error, "size": size})
        >>> [*Ridge()(torch.zeros(3, 2), torch.zeros(3, 1), torch.arange(3)).terms]
        ['error', 'size']
    """

    @abstractmethod
    def forward(self, *batch: Any) -> Losses:
        """Return the losses of a batch, such as ``(x, y, index)``."""
        raise NotImplementedError(f"{type(self).__name__} does not say how to compute its losses: define forward()")

    @property
    def loss_label(self) -> str:
        """What the loss is, and its unit, as the label of an axis; "loss" where a class does not say more."""
        return "loss"

    def after_step(self) -> None:
        """Update what the objective adapts; training calls this after each step of the objective's optimiser.

        By default the objectives inside of this one update what they adapt.
        """
        for objective in _inside(self):
            objective.after_step()

    def parts(self) -> Iterator[Objective]:
        """Yield this objective and all objectives inside of it."""
        yield self
        for objective in _inside(self):
            yield from objective.parts()


class ELBOObjective(Objective):
    r"""Minus the evidence lower bound of a model and a guide, per data point.

    .. math::  -\frac{1}{N} \mathbb{E}_{q(z)} \left[ \log p(x, z) - \log q(z) \right],

    estimated on batches by any ELBO whose plates are scaled to N data points. The model and the guide keep their
    parameters to themselves, not in Pyro's global store.

    Args:
        model: a PyroModule, or a function without parameters; called as ``model(*batch)``.
        guide: a PyroModule, an autoguide, or a function without parameters; called like the model.
        elbo: any ELBO of Pyro or of this package that has ``differentiable_loss``.
        size: the number N of data points by which the bound is divided; that of the training data if None, as training
            notes it in ``num_data``.

    Raises:
        ValueError: if the ELBO has no differentiable loss, or ``size`` is not a positive integer.

    Example:
        >>> model = lambda: pyro.sample("x", dist.Normal(0.0, 1.0))
        >>> guide = pyro.infer.autoguide.AutoNormal(model)
        >>> losses = ELBOObjective(model, guide, pyro.infer.Trace_ELBO())()
        >>> losses.total.shape, losses.terms
        (torch.Size([]), {})
    """

    def __init__(
        self, model: Callable[..., Any], guide: Callable[..., Any], elbo: ELBO, size: int | None = None
    ) -> None:
        super().__init__()
        self.module = LocalELBOModule(model, guide, elbo)
        self.size = None if size is None else positive_int("size", size)
        self.num_data: int | None = None

    @property
    def model(self) -> Any:
        """The model."""
        return self.module.model

    @property
    def guide(self) -> Any:
        """The guide."""
        return self.module.guide

    @property
    def elbo(self) -> Any:
        """The ELBO."""
        return self.module.elbo

    @property
    def loss_label(self) -> str:
        """Minus the bound that the ELBO estimates, with its constraints or its number of samples if it has any."""
        if isinstance(self.elbo, TraceGECO_ELBO):
            return "−ELBO without constraints + multipliers × constraints, per data point"
        number = self.elbo.num_particles if isinstance(self.elbo, TraceVIMCO_ELBO) else 1
        bound = "ELBO" if number == 1 else f"bound of {number} samples"
        return f"−{bound} per data point (nats)"

    def replace_elbo(self, elbo: ELBO) -> None:
        """Estimate the bound by another ELBO from now on; under constraints, the one that is constrained.

        Raises:
            ValueError: if it has no differentiable loss.
        """
        if isinstance(self.elbo, TraceGECO_ELBO) and not isinstance(elbo, TraceGECO_ELBO):
            elbo = self.elbo.with_base(elbo)
        self.replace_programs(self.model, self.guide, elbo)

    def replace_programs(self, model: Callable[..., Any], guide: Callable[..., Any], elbo: ELBO) -> None:
        """Bound the evidence of another model by another guide and ELBO from now on.

        Raises:
            ValueError: if the ELBO has no differentiable loss.
        """
        self.module = LocalELBOModule(model, guide, elbo)

    def forward(self, *batch: Any) -> Losses:
        """Return minus the bound per data point; its gradient is the ELBO's estimator."""
        loss = self.module(*batch) / (self.size or self.num_data or 1)
        return Losses(loss, self.elbo.terms() if isinstance(self.elbo, DifferentiableELBO) else {})

    def after_step(self) -> None:
        """Let an ELBO of this package update what it adapts."""
        if isinstance(self.elbo, DifferentiableELBO):
            self.elbo.after_step()


class LossObjective(Objective):
    """A loss given as a function of the batch and of modules.

    Its attribute ``label`` says what the loss is, and its unit, in plots: "loss" until it is set.

    Args:
        loss: called as ``loss(*batch, **modules)``; returns a scalar, or :class:`Losses` with terms to note.
        **modules: what the loss depends on, by the names of its arguments.

    Raises:
        ValueError: if ``loss`` cannot be called, or a module is none.

    Example:
        >>> def squared_error(x, y, index, network):
        ...     return (network(x) - y).square().mean()
        >>> objective = LossObjective(squared_error, network=torch.nn.Linear(2, 1))
        >>> objective(torch.zeros(3, 2), torch.zeros(3, 1), torch.arange(3)).total.shape
        torch.Size([])
    """

    def __init__(self, loss: Callable[..., Tensor | Losses], /, **modules: nn.Module) -> None:
        super().__init__()
        if not callable(loss):
            raise ValueError(f"loss must be a function of the batch, got {loss!r}")
        for name, module in modules.items():
            check_name("name of a module", name)
            if not isinstance(module, nn.Module):
                raise ValueError(f"{name} must be a torch.nn.Module, got {module!r}")
        self.loss = loss
        self.label = "loss"
        self.modules_by_name = nn.ModuleDict(modules)
        for module in self.modules():
            give_local_store(module)

    @property
    def loss_label(self) -> str:
        """The ``label`` of this objective."""
        return self.label

    def forward(self, *batch: Any) -> Losses:
        """Return the loss of a batch.

        Raises:
            ValueError: if the function returns neither a scalar nor :class:`Losses`.
        """
        with local_params():
            result = self.loss(*batch, **self.modules_by_name)
        if isinstance(result, Losses):
            return result
        if not isinstance(result, Tensor) or result.dim() != 0:
            shape = tuple(result.shape) if isinstance(result, Tensor) else type(result).__name__
            raise ValueError(f"loss must return a scalar tensor or Losses, got {shape}; take its mean or sum")
        return Losses(result, {})


class SumObjective(Objective):
    """A weighted sum of objectives: an ELBO and a class loss, a loss and a penalty.

    Each part is noted by its name, without its weight, and the terms of a part as ``NAME_TERM``.

    Args:
        parts: pairs of an objective and its weight, by name.

    Raises:
        ValueError: if there are none, or a weight is not a finite number.

    Example:
        >>> penalty = LossObjective(lambda x, network: network.weight.square().sum(), network=torch.nn.Linear(1, 1))
        >>> error = LossObjective(lambda x: x.square().mean())
        >>> losses = SumObjective({"error": (error, 1.0), "penalty": (penalty, 0.0)})(torch.ones(4))
        >>> losses.total, [*losses.terms]
        (tensor(1., grad_fn=<AddBackward0>), ['error', 'penalty'])
    """

    def __init__(self, parts: Mapping[str, tuple[Objective, float]]) -> None:
        super().__init__()
        if not parts:
            raise ValueError("parts must hold at least one objective, got none")
        for name, part in parts.items():
            check_name("name of a part", name)
            if not isinstance(part, tuple) or len(part) != 2 or not isinstance(part[0], Objective):
                raise ValueError(f"part {name!r} must be a pair of an Objective and its weight, got {part!r}")
        self.objectives = nn.ModuleDict({name: objective for name, (objective, _) in parts.items()})
        self.weights: dict[str, float] = {}
        for name, (_, weight) in parts.items():
            self.set_weight(name, weight)

    def set_weight(self, name: str, weight: float) -> None:
        """Change the weight of a part, as a schedule does before a step.

        Raises:
            ValueError: if there is no such part, or the weight is not a finite number.
        """
        if name not in self.objectives:
            raise ValueError(f"there is no part {name!r}; the parts are {', '.join(self.objectives)}")
        self.weights[name] = finite_number(f"the weight of {name!r}", weight)

    @property
    def loss_label(self) -> str:
        """The names of the parts; the label of the only one if there is one."""
        if len(self.objectives) == 1:
            (only,) = (part for part in _inside(self) if isinstance(part, Objective))
            return only.loss_label
        return f"weighted sum of {', '.join(self.objectives).replace('neg_elbo', '−ELBO').replace('_', ' ')}"

    def forward(self, *batch: Any) -> Losses:
        """Return the weighted sum, and each part without its weight."""
        total: Tensor | float = 0.0
        terms: dict[str, Tensor] = {}
        for name, objective in self.objectives.items():
            losses = objective(*batch)
            total = total + self.weights[name] * losses.total
            terms[name] = losses.total
            terms |= {f"{name}_{term}": value for term, value in losses.terms.items()}
        assert isinstance(total, Tensor)
        return Losses(total, terms)


def check_name(what: str, name: Any) -> None:
    """Raise a ValueError unless ``name`` can name a part of a module and a column of metrics.

    Args:
        what: what it names.
        name: the name.
    """
    if not isinstance(name, str) or not name.isidentifier():
        raise ValueError(f"{what} must be a word of letters, digits and underscores, got {name!r}")
    if hasattr(nn.ModuleDict, name) or name == "training":
        raise ValueError(f"{what} must not be {name!r}, which PyTorch's modules use; choose another")


def _inside(module: nn.Module) -> Iterator[Objective]:
    """Yield the outermost objectives inside of a module."""
    for child in module.children():
        if isinstance(child, Objective):
            yield child
        else:
            yield from _inside(child)
