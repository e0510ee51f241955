"""Feeding chosen values to the sites of a guide, and comparing many gradient estimates with the exact gradient."""

import torch
from pyro.poutine.messenger import Messenger


class Feed(Messenger):
    """Sets the values of named sites; everything else about the sites is left to the other handlers."""

    def __init__(self, **values):
        super().__init__()
        self.values = values

    def _pyro_sample(self, msg):
        if msg["name"] in self.values and not msg["is_observed"]:
            msg["value"] = self.values[msg["name"]]


def gradients(loss, parameters):
    """Return the gradients of a scalar, zeros where there are none."""
    grads = torch.autograd.grad(loss, parameters, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, grads, strict=True)]


def max_z(samples, exact):
    """Return the largest deviation of the mean of ``samples`` (dim 0) from ``exact``, in standard errors."""
    error = samples.std(0) / len(samples) ** 0.5
    return ((samples.mean(0) - exact).abs() / error.clamp_min(1e-12)).max().item()
