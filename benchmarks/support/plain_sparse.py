"""A sparse variational layer in plain PyTorch, as a user would write it by hand, and a step of training with it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from support.gradients import Step

__all__ = ["PlainSparseLinear", "plain_step"]


class PlainSparseLinear(nn.Module):
    """Means, log-variances, local reparameterisation, and a divergence to be added to the loss by hand."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        start = nn.Linear(inputs, outputs)
        self.theta, self.bias = nn.Parameter(start.weight.detach()), nn.Parameter(start.bias.detach())
        self.log_sigma2 = nn.Parameter(torch.full((outputs, inputs), -10.0))

    def forward(self, x: Tensor) -> Tensor:
        """Return outputs whose noise is drawn row by row."""
        mean = F.linear(x, self.theta, self.bias)
        variance = F.linear(x * x, self.log_sigma2.exp())
        return mean + torch.sqrt(variance + 1e-8) * torch.randn_like(mean)

    def divergence(self) -> Tensor:
        """Return the approximate divergence of all weights from the log-uniform prior."""
        ratio = self.log_sigma2 - torch.log(self.theta**2 + 1e-16)
        return (0.63576 * torch.sigmoid(-1.87320 - 1.48695 * ratio) + 0.5 * F.softplus(-ratio)).sum()


def plain_step(x: Tensor, y: Tensor, sparse: bool) -> Step:
    """Return a step of Adam for LeNet-300-100 with N = 60,000 images."""
    layer = PlainSparseLinear if sparse else nn.Linear
    network = nn.Sequential(layer(784, 300), nn.ReLU(), layer(300, 100), nn.ReLU(), layer(100, 10))
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)

    def step() -> None:
        optimizer.zero_grad()
        loss = F.cross_entropy(network(x), y)
        for part in network:
            if isinstance(part, PlainSparseLinear):
                loss = loss + part.divergence() / 60_000
        loss.backward()
        optimizer.step()

    return step
