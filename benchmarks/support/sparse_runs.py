"""Steps of this package's sparse networks, and the variance of their gradients."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import pyro
import torch
from pyro.infer import Trace_ELBO
from torch import Tensor

from pyro_ext.datasets import Splits
from pyro_ext.inference import AnalyticKL, KLWarmUp, LocalELBOModule
from pyro_ext.models.sparse_lenet import SparseClassifier
from pyro_ext.nn import AutoAdditiveNormal, AutoMultiplicativeNormal, log_uniform_prior
from pyro_ext.ops.log_uniform import KLForm
from support.gradients import Step

__all__ = ["gradient_variances", "particle_step", "program_step"]


def program_step(x: Tensor, y: Tensor, kl: KLForm) -> Step:
    """Return a step of Adam for LeNet-300-100 with N = 60,000 images."""
    model = SparseClassifier(60_000, (1, 28, 28), prior=partial(log_uniform_prior, kl=kl))
    guide = AutoAdditiveNormal(model)
    loss = LocalELBOModule(*AnalyticKL(strict=True).pair(model, guide), Trace_ELBO())
    optimizer = torch.optim.Adam(loss.parameters(), 1e-3)

    def step() -> None:
        optimizer.zero_grad()
        (loss(x, y) / 60_000).backward()
        optimizer.step()

    return step


def particle_step(number: int, vectorized: bool) -> Step:
    """Return the loss and gradient of several particles of a small network."""
    x, y = torch.rand(100, 64), torch.arange(100) % 10
    model = SparseClassifier(1000, (1, 8, 8))
    guide = AutoAdditiveNormal(model)
    elbo = Trace_ELBO(number, max_plate_nesting=1, vectorize_particles=vectorized)
    loss = LocalELBOModule(*AnalyticKL(strict=True).pair(model, guide), elbo)
    return lambda: loss(x, y).backward()


def gradient_variances(data: Splits, epochs: Iterable[int], draws: int = 100) -> dict[int, dict[str, float]]:
    """Train LeNet-300-100 and measure, after some epochs, the variance of gradients of the means in one batch.

    Both parameterisations are given the same posterior, so that only the path of the noise differs.

    Args:
        data: the data set.
        epochs: after which to measure.
        draws: the number of gradients.

    Returns:
        By epoch, the variance averaged over all means, by parameterisation.
    """
    pyro.set_rng_seed(0)
    size, wanted = len(data.train), set(epochs)
    model = SparseClassifier(size, (1, 28, 28))
    guide, warm_up = AutoAdditiveNormal(model), KLWarmUp(5, 20)
    loss = LocalELBOModule(*(warm_up.scaled(part) for part in AnalyticKL().pair(model, guide)), Trace_ELBO())
    optimizer = torch.optim.Adam(loss.parameters(), 1e-3)
    found = {}
    for epoch in range(1, max(wanted) + 1):
        warm_up.set_num_steps(epoch - 1)
        for index in torch.randperm(size).split(100):
            optimizer.zero_grad()
            (loss(data.train.x[index], data.train.y[index], index) / size).backward()
            optimizer.step()
        if epoch in wanted:
            other = AutoMultiplicativeNormal(model, largest_log_alpha=float("inf"))
            with torch.no_grad():
                for name in guide.masks():
                    other.theta.get_parameter(name).copy_(guide.theta.get_parameter(name))
                    other.log_ratio.get_parameter(name).copy_(guide.log_alpha(name))
            batch = (data.train.x[:100], data.train.y[:100], torch.arange(100))
            pairs = {"additive": guide, "multiplicative": other}
            found[epoch] = {name: _variance(model, each, batch, draws) for name, each in pairs.items()}
    return found


def _variance(model: SparseClassifier, guide: AutoAdditiveNormal, batch: tuple[Tensor, ...], draws: int) -> float:
    loss = LocalELBOModule(*AnalyticKL().pair(model, guide), Trace_ELBO())
    loss(*batch)  # finds the order of the sites
    means = [guide.theta.get_parameter(name) for name in guide.masks()]
    total = [torch.zeros_like(mean) for mean in means]
    squares = [torch.zeros_like(mean) for mean in means]
    for _ in range(draws):
        for at, gradient in enumerate(torch.autograd.grad(loss(*batch) / len(batch[0]), means)):
            total[at] += gradient
            squares[at] += gradient.square()
    spread = [(square - one.square() / draws).sum() / (draws - 1) for square, one in zip(squares, total, strict=True)]
    return float(torch.stack(spread).sum()) / sum(mean.numel() for mean in means)
