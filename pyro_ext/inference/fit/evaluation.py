"""Held-out evaluation that leaves no trace in training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from pyro_ext.inference.fit.local import local_params
from pyro_ext.utils.random_state import isolated_random_state, mixed_seed

if TYPE_CHECKING:
    from pyro_ext.inference.fit.data import FitDataModule
    from pyro_ext.inference.fit.module import FitModule

__all__ = ["held_out_metrics"]

_STREAM = 1_000_003  # sets the noise of evaluation apart from that of training


def held_out_metrics(
    module: FitModule, data: FitDataModule, split: str, evaluate: Callable[..., Mapping[str, float]]
) -> dict[str, float]:
    """Evaluate on held-out data, with the same noise at every call and without a draw from the training's noise.

    Under several processes each one evaluates all the data: none has to wait for another.

    Args:
        module: what is being trained; it knows its trainer.
        data: where the held-out data are.
        split: ``"valid"`` or ``"test"``.
        evaluate: maps a loader to named metrics.
    """
    precision = module.trainer.precision_plugin

    def convert(batch: Any) -> Any:
        return precision.convert_input(module.transfer_batch_to_device(batch, module.device, 0))

    loader = data.held_out(split, convert)
    if loader is None:
        return {}
    noise = isolated_random_state(mixed_seed(module.seed, _STREAM), module.device)
    with noise, _eval_mode(module), torch.no_grad(), local_params(), precision.forward_context():
        return {name: float(value) for name, value in evaluate(loader).items()}


@contextmanager
def _eval_mode(module: torch.nn.Module) -> Iterator[None]:
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, training in modes.items():
            part.training = training
