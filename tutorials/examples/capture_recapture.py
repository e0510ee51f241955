# ---
# jupyter:
#   jupytext:
#     text_representation:
#       format_name: percent
# ---
# %% [markdown]
# # Capture and recapture: how many animals are there?
#
# Forty animals are caught, marked and released. Of thirty that are caught later, twelve carry a mark. The size of the
# population is a discrete latent variable with hundreds of values.
#
# Reference: the sum over all values gives the posterior exactly.

# %%
import os

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, Trace_ELBO

from pyro_ext.inference import TraceUnorderedSet_ELBO

SMOKE_TEST = bool(os.environ.get("SMOKE_TEST"))
STEPS = 40 if SMOKE_TEST else 600
MARKED, CAUGHT, RECAUGHT = 40, 30, 12

# at least those that were seen
SIZES = torch.arange(MARKED + CAUGHT - RECAUGHT, 300, dtype=torch.double)
PRIOR = -SIZES.log()  # as many sizes between 60 and 120 as between 120 and 240


def log_choose(n, k):
    n, k = (
        torch.as_tensor(n, dtype=torch.double),
        torch.as_tensor(k, dtype=torch.double),
    )
    return (n + 1).lgamma() - (k + 1).lgamma() - (n - k + 1).lgamma()


def model():
    size = SIZES[pyro.sample("size", dist.Categorical(logits=PRIOR))]
    ways = log_choose(MARKED, RECAUGHT) + log_choose(size - MARKED, CAUGHT - RECAUGHT)
    pyro.factor("recaught", ways - log_choose(size, CAUGHT))


def guide():
    middle = pyro.param("middle", torch.tensor(5.0, dtype=torch.double))
    log_width = pyro.param("log_width", torch.tensor(-1.0, dtype=torch.double))
    # bell-shaped in log size
    logits = -0.5 * ((SIZES.log() - middle) / log_width.exp()).square()
    pyro.sample("size", dist.Categorical(logits=logits))


# %% [markdown]
# ## The reference, and two ELBOs with eight evaluations each

# %%
ways = (
    log_choose(MARKED, RECAUGHT)
    + log_choose(SIZES - MARKED, CAUGHT - RECAUGHT)
    - log_choose(SIZES, CAUGHT)
)
log_joint = PRIOR.log_softmax(0) + ways
log_evidence = float(log_joint.logsumexp(0))
mean = float(log_joint.softmax(0) @ SIZES)


def train(elbo):
    """Return the exact bound, and the guide's mean of the size."""
    pyro.set_rng_seed(0)
    pyro.clear_param_store()
    svi = SVI(model, guide, pyro.optim.ClippedAdam({"lr": 0.03, "lrd": 0.995}), elbo)
    for _ in range(STEPS):
        svi.step()
    log_q = (
        pyro.poutine.trace(guide)
        .get_trace()
        .nodes["size"]["fn"]
        .logits.detach()
        .log_softmax(0)
    )
    return float(log_q.exp() @ (log_joint - log_q)), float(log_q.exp() @ SIZES)


pyros, pyros_mean = train(
    Trace_ELBO(num_particles=8, vectorize_particles=True, max_plate_nesting=0)
)
# the line that differs
ours, our_mean = train(TraceUnorderedSet_ELBO(num_samples=8, max_plate_nesting=0))

print(
    f"sum over {len(SIZES)} sizes       log evidence {log_evidence:.4f},",
    f"mean size {mean:.1f}",
)
print(f"Trace_ELBO              bound        {pyros:.4f}, mean size {pyros_mean:.1f}")
print(f"TraceUnorderedSet_ELBO  bound        {ours:.4f}, mean size {our_mean:.1f}")
FIGURES = {"log evidence": (log_evidence, ours, pyros)}

# %% [markdown]
# - Seber 1982, *The Estimation of Animal Abundance and Related Parameters*, chapter 3.
