# ---
# jupyter:
#   jupytext:
#     text_representation:
#       format_name: percent
# ---
# %% [markdown]
# # A mixture of Gaussians with an unknown number of components
#
# Eight numbers come from one to four components. The number of components and the component of each number are
# discrete latent variables; the components' means are integrated out. So that components have no order, a number may
# join a component that is in use, or open the next one.
#
# Reference: all 2,795 ways to put eight numbers into at most four components.

# %%
import math
import os

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.ops.indexing import Vindex

from pyro_ext.inference import TraceUnorderedBeam_ELBO

SMOKE_TEST = bool(os.environ.get("SMOKE_TEST"))
STEPS = 12 if SMOKE_TEST else 500
X = torch.tensor([-4.1, -3.2, -3.7, 0.4, -0.3, 3.6, 4.4, 3.9])
# components, and the standard deviation of their means; numbers scatter by 1
MOST, SPREAD = 4, 4.0
LABELS = torch.arange(MOST)


def log_allocation(components, used):
    """Return the log-probability of each label where `used` are in use, (..., MOST)."""
    number, used = components[..., None].float(), used[..., None]
    new = ((number - used).clamp(min=0) / number).clamp(min=1e-30).log()
    logits = torch.where(
        used > LABELS, -number.log(), torch.where(used == LABELS, new, -70.0)
    )
    return logits.log_softmax(-1)


def log_likelihood(z):
    """Return log p(X | z) with the means integrated out; z has shape (..., numbers)."""
    own = torch.nn.functional.one_hot(z, MOST).float()
    n, total = own.sum(-2), (own * X[:, None]).sum(-2)
    fitted = (
        0.5 * SPREAD**2 * total.square() / (1 + SPREAD**2 * n)
        - 0.5 * (1 + SPREAD**2 * n).log()
    )
    return (
        fitted.sum(-1) - 0.5 * X.square().sum() - 0.5 * len(X) * math.log(2 * math.pi)
    )


def model():
    components = 1 + pyro.sample("components", dist.Categorical(torch.ones(MOST)))
    used, z = torch.zeros_like(components), []
    for i in range(len(X)):
        z.append(
            pyro.sample(
                f"z_{i}", dist.Categorical(logits=log_allocation(components, used))
            )
        )
        used = torch.maximum(used, z[-1] + 1)
    pyro.factor("x", log_likelihood(torch.stack(torch.broadcast_tensors(*z), -1)))


def guide():
    components = 1 + pyro.sample(
        "components", dist.Categorical(logits=pyro.param("number", torch.zeros(MOST)))
    )
    # of each label, by the label before it
    scores = pyro.param("scores", torch.zeros(len(X), MOST, MOST))
    used, before = torch.zeros_like(components), torch.zeros_like(components)
    for i in range(len(X)):
        logits = log_allocation(components, used) + Vindex(scores[i])[before]
        before = pyro.sample(f"z_{i}", dist.Categorical(logits=logits))
        used = torch.maximum(used, before + 1)


# %% [markdown]
# ## The reference

# %%
ways = [[0]]
for _ in X[1:]:
    ways = [[*way, label] for way in ways for label in range(min(max(way) + 2, MOST))]
ways = torch.tensor(ways)
used = torch.cat(
    [torch.zeros(len(ways), 1).long(), ways.cummax(1).values[:, :-1] + 1], 1
)
log_joint = torch.stack(
    [
        log_allocation(torch.full(used.shape, k), used)
        .gather(-1, ways[..., None])
        .sum((-1, -2))
        + log_likelihood(ways)
        for k in range(1, MOST + 1)
    ]
) - math.log(MOST)
log_evidence = float(log_joint.logsumexp((0, 1)))
posterior = (log_joint.logsumexp(1) - log_evidence).exp()
print(
    f"{len(ways)} ways: log evidence {log_evidence:.3f}, one to four components",
    posterior.numpy().round(3),
)

# %% [markdown]
# ## Two ELBOs with eight evaluations each
#
# Nine discrete sites depend on each other. `TraceUnorderedBeam_ELBO` draws eight *distinct* joint values of all.


# %%
def train(elbo):
    """Return the bound, and the guide's probabilities of the numbers of components."""
    pyro.set_rng_seed(0)
    pyro.clear_param_store()
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.05}), elbo)
    for _ in range(STEPS):
        svi.step()
    many = Trace_ELBO(num_particles=4000, vectorize_particles=True, max_plate_nesting=0)
    number = pyro.param("number").detach().softmax(0)
    return -many.loss(model, guide), number.numpy().round(3)


pyros, pyros_number = train(
    Trace_ELBO(num_particles=8, vectorize_particles=True, max_plate_nesting=0)
)
# the line that differs
ours, our_number = train(TraceUnorderedBeam_ELBO(num_samples=8, max_plate_nesting=0))
print(
    f"Trace_ELBO               bound {pyros:.3f}, one to four components", pyros_number
)
print(f"TraceUnorderedBeam_ELBO  bound {ours:.3f}, one to four components", our_number)
FIGURES = {"log evidence": (log_evidence, ours, pyros)}

# %% [markdown]
# - Richardson and Green 1997, *On Bayesian analysis of mixtures with an unknown number of components*,
#   [doi 10.1111/1467-9868.00095](https://doi.org/10.1111/1467-9868.00095).
