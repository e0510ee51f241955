"""The rate-distortion problem of Gaussian data, whose optimum is known: a test of constrained training.

Linear networks encode and decode data with variances s under a constraint on the squared error. The optimum is reverse
water-filling: with the level t at which the sum of min(t, s) is the error allowed, the multiplier is 1 / (2 t) and the
divergence the sum of log(s / t) / 2 over variances above t.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import TraceMeanField_ELBO
from torch import Tensor

from pyro_ext.inference import ReconstructionConstraint, TraceGECO_ELBO

__all__ = ["Path", "optimum", "train"]

VARIANCES = (4.0, 2.0, 1.0, 0.5, 0.25)


@dataclass(frozen=True)
class Path:
    """What training went through, each of shape ``(steps,)``.

    Args:
        multiplier: the multiplier of each step.
        squared_error: the mean squared error of each step.
        divergence: the mean divergence of each step, in nats.
    """

    multiplier: Tensor
    squared_error: Tensor
    divergence: Tensor

    def end(self) -> Tensor:
        """Return the means over the last fifth of the steps, in the order of :func:`optimum`, shape ``(3,)``."""
        path = torch.stack([self.multiplier, self.squared_error, self.divergence])
        return path[:, -path.shape[1] // 5 :].mean(1)


def optimum(tolerance: float) -> Tensor:
    """Return multiplier, squared error and divergence at the optimum, shape ``(3,)``.

    Args:
        tolerance: the squared error allowed, less than the total variance.
    """
    variances = torch.tensor(VARIANCES, dtype=torch.float64).sort().values
    below = torch.cat([variances.new_zeros(1), variances.cumsum(0)[:-1]])
    levels = (tolerance - below) / torch.arange(len(variances), 0, -1)  # if so many are below the level
    level = levels[levels <= variances][0]
    divergence = 0.5 * (variances / level).log().clamp_min(0).sum()
    return torch.stack([1 / (2 * level), levels.new_tensor(tolerance), divergence])


def train(tolerance: float, steps: int, lr: float = 0.02, seed: int = 0, fall: float = 0.6, **options: Any) -> Path:
    """Train linear networks on data of exactly these variances.

    Args:
        tolerance: the squared error allowed.
        steps: the number of steps, each on all data.
        lr: the learning rate of Adam.
        seed: the seed.
        fall: the share of the steps after which the learning rate falls to a tenth.
        **options: of ``TraceGECO_ELBO``.
    """
    pyro.set_rng_seed(seed)
    size = len(VARIANCES)
    x = torch.randn(512, size, dtype=torch.float64)
    x = x - x.mean(0)
    factor = torch.linalg.cholesky(x.T @ x / len(x))
    x = torch.linalg.solve_triangular(factor, x.T, upper=False).T * x.new_tensor(VARIANCES).sqrt()
    encoder, decoder = (torch.nn.Linear(size, size).double() for _ in range(2))
    log_scale = torch.nn.Parameter(x.new_zeros(size))

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(size), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), 1.0).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(encoder(x), log_scale.exp()).to_event(1))

    elbo = TraceGECO_ELBO(TraceMeanField_ELBO(), {"x": ReconstructionConstraint(tolerance**0.5)}, **options)
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters(), log_scale], lr=lr, betas=(0.9, 0.99))
    decrease = torch.optim.lr_scheduler.MultiStepLR(optimizer, [int(fall * steps)], 0.1)
    rows = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = elbo.differentiable_loss(model, guide, x)
        loss.backward()
        optimizer.step()
        decrease.step()
        multiplier, constraint = elbo.terms()["multiplier_x"], elbo.terms()["constraint_x"]
        elbo.after_step()
        rows.append(torch.stack([multiplier, constraint + tolerance, loss.detach() / len(x) - multiplier * constraint]))
    return Path(*torch.stack(rows).unbind(1))
