"""Noise elimination in ``benchmarks/tumour.py``: networks trained and measured, one row for each."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pyro
import torch
from pyro.infer import ELBO
from torch import Tensor

from pyro_ext.datasets import IndexedDataset, Splits, load
from pyro_ext.inference import (
    FitSettings,
    OptimizerSettings,
    SchedulerSettings,
    TraceLeaveOneOut_ELBO,
    TraceUnorderedBeam_ELBO,
    TrainingPlan,
    fit,
    local_params,
)
from pyro_ext.models.tumour.elimination import FlipPolicy, build, denoise, greedy_search, observe, prefix_costs
from pyro_ext.ops.mutations import gamete_product
from support.gradients import measure

__all__ = [
    "ESTIMATORS",
    "FALSE_NEGATIVE",
    "FALSE_POSITIVE",
    "GAMMA",
    "NETWORKS",
    "Setting",
    "gradient_variance",
    "oracle_costs",
    "policy_costs",
    "policy_of",
    "random_matrices",
    "simulated",
    "train",
]

FALSE_POSITIVE, FALSE_NEGATIVE = 0.002, 0.1
GAMMA = 0.04
QUIET = {"enable_progress_bar": False, "accelerator": "cpu"}
ESTIMATORS: dict[str, Callable[[], ELBO] | None] = {
    "unordered beam of 4": partial(TraceUnorderedBeam_ELBO, 4, max_plate_nesting=1),
    "leave-one-out of 4": partial(TraceLeaveOneOut_ELBO, 4, vectorize_samples=False, max_plate_nesting=1),
    "critic": None,
}
NETWORKS: dict[str, dict[str, Any]] = {
    "sees the matrix": {"width": 16, "num_heads": 4, "num_blocks": 1, "state": True},
    "as published": {"width": 128, "num_heads": 16, "num_blocks": 3, "state": False},
}


@dataclass(frozen=True)
class Setting:
    """How a network is trained.

    Args:
        network: one of :data:`NETWORKS`.
        estimator: one of :data:`ESTIMATORS`.
        num_flips: the number of flips of a sequence.
        steps: the number of steps, a whole number of epochs.
        batch: matrices per step.
        lr: the learning rate, which falls linearly to zero over the second half.
        seed: the seed of the weights and of the draws.
        options: further arguments of ``build``.
    """

    network: str
    estimator: str
    num_flips: int
    steps: int
    batch: int
    lr: float = 2e-3
    seed: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)

    def plan(self, data: Splits) -> TrainingPlan:
        """Return the plan of training."""
        pyro.set_rng_seed(self.seed)
        make = ESTIMATORS[self.estimator]
        plan = build(
            data, self.num_flips, GAMMA, learned_baseline=make is None, **NETWORKS[self.network], **self.options
        )
        return plan if make is None else plan.with_elbo(make())


def random_matrices(number: int, size: int, seed: int) -> Tensor:
    """Return matrices whose entries are 0 or 1 with probability 1/2, int8 ``(number, size, size)``."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(2, (number, size, size), generator=generator).to(torch.int8)


def simulated(number: int, size: int, seed: int) -> Splits:
    """Return conflicting matrices of the coalescent with errors, and the true ones."""
    return load(
        "simulated_tumours",
        num_train=number,
        num_valid=1,
        labels="matrix",
        cells=size,
        mutations=size,
        false_positive=FALSE_POSITIVE,
        false_negative=FALSE_NEGATIVE,
        seed=seed,
    )


def train(setting: Setting, x: Tensor, file: Path) -> tuple[FlipPolicy, float]:
    """Return a trained network and the CPU seconds that it took; a network in the file is not trained again.

    Args:
        setting: how to train it.
        x: the matrices to train on, gone through again and again.
        file: where the network is kept.
    """
    data = Splits("matrices", IndexedDataset(x))
    options = {"false_positive": FALSE_POSITIVE, "false_negative": FALSE_NEGATIVE, **setting.options}
    setting = Setting(**{**vars(setting), "options": options})
    plan = setting.plan(data)
    policy = policy_of(plan)
    if file.exists():
        kept = torch.load(file, weights_only=True)
        policy.load_state_dict(kept["policy"])
        return policy.eval(), kept["seconds"]
    plan.evaluate, plan.headline = None, ""
    falls = SchedulerSettings("LambdaLR", interval="step", lr_lambda=_Falling(setting.steps))
    plan = plan.with_optimizer(OptimizerSettings("Adam", lr=setting.lr, scheduler=falls))
    start = time.process_time()
    epochs = round(setting.steps * setting.batch / len(x))
    fit(plan, data, FitSettings(max_epochs=epochs, batch_size=setting.batch, seed=setting.seed),
        gradient_clip_val=1.0, **QUIET)  # fmt: skip
    seconds = time.process_time() - start
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"policy": policy.state_dict(), "seconds": seconds}, file)
    return policy.eval(), seconds


class _Falling:
    """1 in the first half of training, then linearly to 0."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def __call__(self, step: int) -> float:
        return min(1.0, 2 * (1 - step / self.steps))


def policy_of(plan: TrainingPlan) -> FlipPolicy:
    """Return the network of a plan."""
    return next(module for module in plan.players[0].objective.modules() if isinstance(module, FlipPolicy))


@torch.no_grad()
def policy_costs(policy: FlipPolicy, x: Tensor, num_flips: int, samples: int = 128) -> dict[str, Tensor]:
    """Return the cost of each matrix by several uses of a network, and by greedy search.

    Args:
        policy: the network.
        x: the matrices, ``(N, n, m)``.
        num_flips: the number of flips of the first two.
        samples: the number of sequences of the third one.

    Returns:
        ``one sequence``: drawn at temperature 1; ``most probable``: the most probable flip at each step;
        ``best of ...`` at temperature 3, and ``greedy search``.
    """
    torch.manual_seed(0)
    costs: dict[str, list[Tensor]] = {}
    for rows in x.split(max(1, 2**15 // (samples * x[0].numel()) * 8)):
        observed = observe(rows, policy.false_positive, policy.false_negative)
        rollout, positions = policy.start(rows, samples=(8,)), []
        for _ in range(num_flips):
            logits = rollout.logits().expand(8, len(rows), -1)
            positions.append(torch.distributions.Categorical(logits=logits, validate_args=False).sample())
            rollout.flip(positions[-1])
        drawn = prefix_costs(torch.stack(positions, -1), observed, policy.gamma).amin(-1).mean(0)
        argmax = denoise(policy, rows, num_samples=1, max_flips=num_flips).cost
        best = denoise(policy, rows, num_samples=samples, temperature=3.0).cost
        greedy = greedy_search(rows, FALSE_POSITIVE, FALSE_NEGATIVE, policy.gamma).cost
        found = (drawn, argmax, best, greedy)
        names = (
            "one sequence",
            "most probable",
            f"best of {samples}",
            "greedy search",
        )
        for name, cost in zip(names, found, strict=True):
            costs.setdefault(name, []).append(cost)
    return {name: torch.cat(parts) for name, parts in costs.items()}


@torch.no_grad()
def oracle_costs(x: Tensor) -> Tensor:
    """Return the least cost of each matrix 4 x 4 over all 65,536 matrices, ``(N,)``."""
    every = ((torch.arange(2**16).unsqueeze(-1) >> torch.arange(16)) & 1).float()
    conflicts = 2 * gamete_product(every.unflatten(-1, (4, 4)))
    observed = observe(x, torch.tensor(FALSE_POSITIVE), torch.tensor(FALSE_NEGATIVE))
    start, seen, changes = observed.start, observed.matrix.flatten(1), observed.changes.flatten(1)
    # The sum of changes over entries that differ: those of seen ones that are absent, and of unseen ones present.
    constant = start + (seen * changes).sum(-1)
    slope = torch.where(seen > 0, -changes, changes)
    return torch.cat(
        [
            (GAMMA * (c.unsqueeze(-1) + s @ every.mT) + conflicts).amin(-1)
            for c, s in zip(constant.split(500), slope.split(500), strict=True)
        ]
    )


def gradient_variance(
    setting: Setting, x: Tensor, policy: FlipPolicy, critic_steps: int, repeats: int
) -> dict[str, float]:
    """Return the variance of the gradient of a network at fixed weights, and the CPU time of an estimate.

    Args:
        setting: the network and the estimator.
        x: the matrices of a batch.
        policy: whose weights to take.
        critic_steps: the number of steps in which a critic learns the costs of this network before it is measured.
        repeats: the number of estimates.
    """
    data = Splits("matrices", IndexedDataset(x))
    rates = {"false_positive": FALSE_POSITIVE, "false_negative": FALSE_NEGATIVE}
    plan = Setting(**{**vars(setting), "options": {**rates, **setting.options}}).plan(data)
    objective, own = plan.players[0].objective, policy_of(plan)
    own.load_state_dict(policy.state_dict())
    for part in objective.parts():
        part.num_data = len(x)
    parameters = [*own.parameters()]
    index = torch.arange(len(x))
    if ESTIMATORS[setting.estimator] is None:
        critic = [p for p in objective.parameters() if not any(p is other for other in parameters)]
        optimizer = torch.optim.Adam(critic, lr=2e-3)
        for _ in range(critic_steps):
            optimizer.zero_grad()
            with local_params():
                objective(x, None, index).total.backward()
            optimizer.step()
            objective.after_step()
    objective.zero_grad()

    def step() -> None:
        objective.zero_grad()
        with local_params():
            objective(x, None, index).total.backward()

    start = time.process_time()
    moments = measure(step, {"all": parameters}, repeats)["all"]
    seconds = (time.process_time() - start) / repeats
    return {
        "variance": moments.variance,
        "squared_mean": float(moments.mean.square().sum()),
        "cpu_ms": 1000 * seconds,
    }
