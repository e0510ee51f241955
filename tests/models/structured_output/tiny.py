"""Tiny networks, and all their states."""

import itertools

import pyro
import torch
from pyro import poutine
from torch.nn.functional import one_hot

from pyro_ext.models.structured_output import (
    DensityGuide,
    DensityModel,
    LowerHalfGuide,
    LowerHalfModel,
    Units,
    UpperHalfLayers,
)


def networks(task, layers=2, units=2, categories=2, nonlinear=False, size=1, pixels=4, dtype=torch.float64):
    """A model and its guide, with weights large enough to matter, in evaluation mode."""
    pyro.set_rng_seed(3)
    kind = Units(units, categories)
    means = torch.linspace(0.2, 0.7, pixels)
    if task == "density":
        pair = DensityModel(size, pixels, kind, layers, nonlinear), DensityGuide(size, means, kind, layers, nonlinear)
    else:
        hidden = UpperHalfLayers(means[: pixels // 2], kind, layers, nonlinear)
        pair = LowerHalfModel(size, hidden, pixels - pixels // 2, nonlinear), LowerHalfGuide(size, hidden)
    for module in pair:
        module.to(dtype).eval()
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.copy_(torch.randn_like(parameter))
    return pair


def every_state(guide):
    """All joint states of the hidden layers: by site, ``(S,) + event_shape``."""
    units = guide.units if isinstance(guide, DensityGuide) else guide.hidden.units
    sites = guide.sites if isinstance(guide, DensityGuide) else guide.hidden.sites
    layer = torch.tensor(list(itertools.product(range(units.categories), repeat=units.num_variables)))
    index = torch.tensor(list(itertools.product(range(len(layer)), repeat=len(sites))))
    states = layer if units.binary else one_hot(layer, units.categories)
    return {name: states[index[:, at]].double() for at, name in enumerate(sites)}


def log_joint(program, states, x):
    """The log-probability of every state (and of the pixels, in a model), ``(S, B)``, differentiable."""
    number = len(next(iter(states.values())))
    values = {name: value.unsqueeze(1).expand(number, len(x), *value.shape[1:]) for name, value in states.items()}
    with pyro.plate("states", number, dim=-2):
        trace = poutine.trace(poutine.condition(program, values)).get_trace(x)
    sites = [
        site for site in trace.nodes.values() if site["type"] == "sample" and site["name"] not in ("data", "states")
    ]
    return sum(site["fn"].log_prob(site["value"]) for site in sites)


def exact_log_likelihood(model, guide, x):
    """The log-likelihood of every image, ``(B,)``."""
    return log_joint(model, every_state(guide), x).logsumexp(0)


def exact_bound(model, guide, x, num_samples=1):
    """The multi-sample bound of every image, by going through all tuples of states, ``(B,)``."""
    log_p, log_q = (log_joint(program, every_state(guide), x) for program in (model, guide))
    tuples = torch.cartesian_prod(*[torch.arange(len(log_p))] * num_samples).reshape(-1, num_samples)
    weights = (log_p - log_q)[tuples].logsumexp(1) - torch.tensor(float(num_samples)).log()
    return (log_q[tuples].sum(1).exp() * weights).sum(0)
