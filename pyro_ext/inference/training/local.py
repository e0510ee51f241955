"""ELBO modules whose parameters live in the model and the guide alone, whatever Pyro's global setting says."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pyro
import torch
from pyro.infer import ELBO, ReweightedWakeSleep, TraceGraph_ELBO
from pyro.infer.elbo import ELBOModule
from pyro.infer.renyi_elbo import RenyiELBO
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import Message
from pyro.poutine.subsample_messenger import _Subsample

from pyro_ext.utils.checks import positive_int

__all__ = ["LocalELBOModule", "RefuseSelfSubsampling", "check_elbo", "give_local_store", "local_params", "materialise"]

_INSTEAD = (
    (RenyiELBO, "TraceVIMCO_ELBO for a bound of several samples"),
    (TraceGraph_ELBO, "TraceLeaveOneOut_ELBO or TraceUnorderedSet_ELBO for discrete sites"),
    (ReweightedWakeSleep, "TraceVIMCO_ELBO for a bound of several samples"),
)


def local_params() -> AbstractContextManager[Any]:
    """Return a context in which PyroModules keep their parameters to themselves, not in the global store.

    What :func:`pyro_ext.inference.fit` trained should be called inside it: outside, the first call copies the
    parameters into Pyro's global store, which from then on overrides the modules.

    Example:
        >>> with local_params():
        ...     pyro.settings.get("module_local_params")
        True
        >>> pyro.settings.get("module_local_params")
        False
    """
    return pyro.settings.context(module_local_params=True)


class LocalELBOModule(ELBOModule):
    """A model, a guide and an ELBO as one module that never reads or writes Pyro's global parameter store.

    Unlike with Pyro's own ELBO modules, the model and the guide may have been made outside of ``module_local_params``.

    Args:
        model: a PyroModule, or a function without parameters.
        guide: a PyroModule, an autoguide, or a function without parameters.
        elbo: an ELBO that has ``differentiable_loss``.

    Raises:
        ValueError: if the ELBO cannot be used as a module.

    Example:
        >>> model = lambda: pyro.sample("x", dist.Normal(0.0, 1.0))
        >>> guide = pyro.infer.autoguide.AutoNormal(model)
        >>> module = LocalELBOModule(model, guide, pyro.infer.Trace_ELBO())
        >>> module().shape, len(list(module.parameters())), len(pyro.get_param_store())
        (torch.Size([]), 2, 0)
    """

    def __init__(self, model: Callable[..., Any], guide: Callable[..., Any], elbo: ELBO) -> None:
        check_elbo(elbo)
        super().__init__(model, guide, elbo)
        for module in self.modules():
            give_local_store(module)

    def forward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Return the differentiable loss, a scalar: its value is minus the bound, its gradient the estimator."""
        with local_params():
            return super().forward(*args, **kwargs)


def give_local_store(module: torch.nn.Module) -> None:
    """Let a PyroModule keep its parameters to itself, whatever Pyro's setting was when it was made."""
    # Pyro makes this dict only where the setting was on when the module was made.
    context = getattr(module, "_pyro_context", None)
    if context is not None and not hasattr(context, "param_state"):
        context.param_state = {"params": {}, "constraints": {}}


def check_elbo(elbo: Any) -> None:
    """Raise a ValueError where ``elbo`` has no differentiable loss that works with parameters kept in modules.

    Pyro's own ELBOs do not check their number of particles, so that is checked as well.
    """
    name = type(elbo).__name__
    if isinstance(elbo, type) or not isinstance(elbo, (ELBO, ReweightedWakeSleep)):
        raise ValueError(f"elbo must be an ELBO instance such as Trace_ELBO(), got {elbo!r}")
    if name.startswith("Jit"):
        plain = name.removeprefix("Jit")
        raise ValueError(
            f"elbo={name} compiles against Pyro's global parameter store, which fit does not use; use {plain}"
        )
    if not callable(getattr(elbo, "differentiable_loss", None)):
        instead = next(
            (use for kind, use in _INSTEAD if isinstance(elbo, kind)), "TraceUnorderedSet_ELBO or Trace_ELBO"
        )
        raise ValueError(f"elbo={name} has no differentiable_loss, so it cannot be fitted as a module; use {instead}")
    positive_int("num_particles", getattr(elbo, "num_particles", 1))


class RefuseSelfSubsampling(Messenger):
    """Raise at the first plate that draws its own subsample: every process would draw the same one."""

    def _pyro_sample(self, msg: Message) -> None:
        plate = msg["fn"]
        if not isinstance(plate, _Subsample) or msg["value"] is not None:
            return
        if plate.subsample_size is not None and plate.subsample_size < plate.size:
            raise ValueError(
                f"plate {msg['name']!r} draws its own subsample, the same one in every process; with several devices "
                "give it the batch's indices: pyro.plate(name, size, subsample=index)"
            )


def materialise(objectives: Iterable[torch.nn.Module], batch: Sequence[Any], several_processes: bool = False) -> None:
    """Compute each objective once on ``batch``, so that lazily made parameters exist before optimisers look for them.

    Args:
        objectives: modules that are called with the parts of a batch.
        batch: what they are called with.
        several_processes: whether to refuse plates that draw their own subsample.

    Raises:
        ValueError: if a parameter lives in Pyro's global store, or a plate is refused.
    """
    modules = [*objectives]
    buffers = [(buffer, buffer.detach().clone()) for module in modules for buffer in module.buffers()]
    # With gradients: enumerating ELBOs refuse to run without.
    with pyro.get_param_store().scope() as store, RefuseSelfSubsampling() if several_processes else nullcontext():
        for objective in modules:
            objective(*batch)
    with torch.no_grad():
        for buffer, before in buffers:  # a look at the data is no step: batch norm must not count it
            if buffer.shape == before.shape:
                buffer.copy_(before)
    if store["params"]:
        name = next(iter(store["params"]))
        raise ValueError(
            f"pyro.param({name!r}) in a plain function puts a parameter into Pyro's global store, where fit does not "
            "look; make the function a PyroModule, and the parameter a PyroParam or nn.Parameter of it"
        )
