"""A user's script, as strict as it gets."""

from pathlib import Path

import torch
from torch import Tensor, nn

from pyro_ext.datasets import Splits, load
from pyro_ext.inference import (
    FitResult,
    FitSettings,
    LossObjective,
    OptimizerSettings,
    Player,
    TraceUnorderedSet_ELBO,
    TrainingPlan,
    fit,
    load_run,
)
from pyro_ext.models.categorical_vae import build


def error(x: Tensor, y: Tensor, index: Tensor, network: nn.Module) -> Tensor:
    output: Tensor = network(x)
    return output.square().mean()


def main(out: Path) -> dict[str, float]:
    data: Splits = load("digits", num_train=100)
    plan: TrainingPlan = build(data, num_latents=2, hidden=(8, 8)).with_elbo(TraceUnorderedSet_ELBO(num_samples=2))
    result: FitResult = fit(plan, data, FitSettings(max_epochs=1, seed=0), out=out, enable_progress_bar=False)
    network = nn.Linear(2, 1)
    players = [Player("net", LossObjective(error, network=network), optimizer=OptimizerSettings("SGD", lr=0.1))]
    fit(TrainingPlan(players), torch.zeros(8, 2), FitSettings(max_epochs=1), enable_progress_bar=False)
    metrics: dict[str, float] = load_run(out, build(data, num_latents=2, hidden=(8, 8))).metrics
    return result.metrics | metrics
