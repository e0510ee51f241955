# ---
# jupyter:
#   jupytext:
#     text_representation:
#       format_name: percent
# ---

# %% [markdown]
# # Discrete latent variables: from a five-line model to the right ELBO
#
# Pyro differentiates through continuous latent variables by reparameterisation. This is not possible for a discrete
# variable: the gradient is estimated from samples, and its variance depends on the estimator. The model of this page is
# so small that its exact gradient is known, so we can compare the estimators. To change the estimator, change one
# argument.

# %%
import os
from functools import partial

import matplotlib.pyplot as plt
import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, Trace_ELBO, TraceEnum_ELBO, config_enumerate
from torch.distributions import constraints

from pyro_ext.inference import (
    TraceLeaveOneOut_ELBO,
    TraceSumAndSample_ELBO,
    TraceUnorderedSet_ELBO,
)
from pyro_ext.plotting import use_style

SMOKE_TEST = bool(os.environ.get("SMOKE_TEST"))
use_style()  # colours that are told apart with each kind of colour blindness
# the number of independent estimates of the gradient
REPLICATES = 500 if SMOKE_TEST else 20_000
STEPS = 50 if SMOKE_TEST else 400
pyro.set_rng_seed(0)

# %% [markdown]
# ## A model and a guide
#
# A signal comes from one of eight stations and is heard with noise; which station was it? The guide holds one logit per
# station, and variational inference moves the logits towards the posterior.
#
# Both functions take the logits of the guide as an argument, and both have a plate of *independent copies* of the
# problem. This is only needed for the measurements below: each copy has its own row of logits, so one backward pass
# gives as many independent gradient estimates as there are rows.

# %%
STATIONS = torch.linspace(-3.0, 3.0, 8)
HEARD = torch.tensor(0.7)
GUIDE_LOGITS = torch.tensor([-1.0, -0.5, 0.0, 0.5, 1.0, 0.5, 0.0, -0.5])


def model(logits):
    with pyro.plate("copies", len(logits)):
        station = pyro.sample("station", dist.Categorical(logits=torch.zeros(8)))
        pyro.sample(
            "heard", dist.Normal(STATIONS[station], 1.0), obs=HEARD.expand(len(logits))
        )


def guide(logits):
    with pyro.plate("copies", len(logits)):
        pyro.sample("station", dist.Categorical(logits=logits))


# %% [markdown]
# ## The exact gradient
#
# With one site of eight categories Pyro can enumerate all values. The result is our reference. Where enumeration is
# affordable, it is also the best choice. With many sites it is too expensive: twenty variables of ten categories have
# $10^{20}$ joint values.


# %%
def gradients(elbo, copies, guide=guide):
    """Return one estimate of the loss gradient per copy, shape (copies, 8)."""
    logits = GUIDE_LOGITS.repeat(copies, 1).requires_grad_()
    elbo.differentiable_loss(model, guide, logits).backward()
    return logits.grad


exact = gradients(TraceEnum_ELBO(max_plate_nesting=1), 1, config_enumerate(guide))[0]
print("exact gradient:", exact.numpy().round(4))

# %% [markdown]
# ## Four estimators, the same budget
#
# Each of them evaluates the model for $k$ values of the latent variable per step.
#
# - `Trace_ELBO` takes $k$ independent draws, and multiplies the score $\nabla \log q(z)$ of each by its log weight
#   $f(z) = \log p(x, z) - \log q(z)$. There is no baseline for $f$, so the variance is large.
# - `TraceLeaveOneOut_ELBO` takes the same draws; the baseline of each draw is the mean of $f$ over the others.
# - `TraceSumAndSample_ELBO` sums over the most probable values exactly, and samples only the rest.
# - `TraceUnorderedSet_ELBO` draws $k$ *distinct* values, without replacement. Each has the weight $p(s) R(S, s)$; with
#   the leave-one-out ratio $R$ the estimate is the average over all orders in which the set $S$ can be drawn.
#
# All four are unbiased. The following output shows it: the mean of many estimates minus the exact gradient, divided by
# the standard error.

# %%
ESTIMATORS = {
    "Trace_ELBO": lambda k: Trace_ELBO(
        num_particles=k, vectorize_particles=True, max_plate_nesting=1
    ),
    "leave one out": partial(TraceLeaveOneOut_ELBO, max_plate_nesting=1),
    "sum and sample": partial(TraceSumAndSample_ELBO, max_plate_nesting=1),
    "unordered set": partial(TraceUnorderedSet_ELBO, max_plate_nesting=1),
}

for name, make in ESTIMATORS.items():
    estimates = gradients(make(4), REPLICATES)
    standard_error = estimates.std(0) / REPLICATES**0.5
    largest = ((estimates.mean(0) - exact) / standard_error).abs().max()
    print(
        f"{name:15} k=4  largest deviation of the mean: {largest:.1f} standard errors"
    )

# %% [markdown]
# ## Comparison of variances
#
# The estimators differ in their variance (summed over the eight logits). Without a baseline it is high and falls as
# $1/k$. With a baseline it is lower. The unordered set never evaluates a value twice, and its variance falls to zero:
# with $k = 8$, the number of values, the estimate is the exact gradient.

# %%
BUDGETS = range(2, 9)
variance = {
    name: [gradients(make(k), REPLICATES).var(0).sum().item() for k in BUDGETS]
    for name, make in ESTIMATORS.items()
}

print("variance, k =", *(f"{k:9d}" for k in BUDGETS))
for name, values in variance.items():
    print(f"{name:15}", *(f"{value:9.2g}" for value in values))

# %%
EXACT = (
    1e-9  # an exact gradient has only the variance of rounding errors, which is smaller
)
fig, ax = plt.subplots(figsize=(6, 4), layout="constrained")
for name, values in variance.items():
    shown = [
        (k, value) for k, value in zip(BUDGETS, values, strict=True) if value > EXACT
    ]
    ax.plot(*zip(*shown, strict=True), marker="o", label=name)
ax.set(
    yscale="log",
    xlabel="model evaluations k",
    ylabel="variance of the gradient",
    xticks=list(BUDGETS),
)
ax.set_title("at k = 8 the last two are exact, without variance", fontsize="medium")
ax.legend()
plt.show()

# %% [markdown]
# ## The effect on training
#
# We train the same model with `SVI`; the probabilities of the guide are a parameter. All runs have the same number of
# model evaluations, and only the ELBO differs. The bound cannot exceed the log evidence, which is the dashed line.


# %%
def trainable_guide(logits):
    probs = pyro.param("probs", torch.full((8,), 1 / 8), constraint=constraints.simplex)
    with pyro.plate("copies", len(logits)):
        pyro.sample("station", dist.Categorical(probs))


one = torch.zeros(1, 8)  # a single copy
log_evidence = (
    dist.Normal(STATIONS, 1.0).log_prob(HEARD).logsumexp(0) - torch.tensor(8.0).log()
)
true_bound = TraceEnum_ELBO(max_plate_nesting=1)


def train(elbo):
    """Return the exact bound after each step."""
    pyro.clear_param_store()
    svi = SVI(model, trainable_guide, pyro.optim.Adam({"lr": 0.05}), elbo)
    bounds = []
    for _ in range(STEPS):
        svi.step(one)
        bounds.append(-true_bound.loss(model, config_enumerate(trainable_guide), one))
    return bounds


fig, ax = plt.subplots(figsize=(6, 4), layout="constrained")
for name, make in ESTIMATORS.items():
    bounds = train(make(4))
    ax.plot(bounds, label=name)
    print(
        f"{name:15} bound after {STEPS} steps: {bounds[-1]:.4f}"
        f"  (log evidence {log_evidence:.4f})"
    )
ax.axhline(log_evidence.item(), color="black", linestyle="--", linewidth=1)
ax.set(
    xlabel="step",
    ylabel="evidence lower bound",
    ylim=(log_evidence.item() - 0.5, log_evidence.item() + 0.05),
)
ax.legend()
plt.show()

# %% [markdown]
# ## Which estimator to use
#
# | the latent variable | use |
# |---|---|
# | few values, few sites | `TraceEnum_ELBO`: exact |
# | many values, or several variables in one `.to_event` site | `TraceUnorderedSet_ELBO(num_samples=4)` |
# | nearly all probability on a few values | `TraceSumAndSample_ELBO` |
# | infinite support (Poisson), or spaces so large that draws hardly ever repeat | `TraceLeaveOneOut_ELBO` |
# | binary | `TraceARMS_ELBO`: n antithetic evaluations; `TraceDisARM_ELBO`: two |
# | several sites, each depending on the one before | `TraceUnorderedBeam_ELBO` |
# | any of these, if you need a tighter bound | `TraceVIMCO_ELBO` |
#
# If you are not sure, measure: `pyro-ext compare` makes the same comparison for a model of yours.
#
# ## Further reading
#
# - A real model: `pyro_ext.models.categorical_vae`, trained by `make demo` or `pyro-ext fit categorical_vae`.
# - Another estimator for a single site: `pyro_ext.inference.config_sample_set`, or `infer={"estimator": ...}`.
# - Sets as random variables: `pyro_ext.distributions.UnorderedSet`.
# - Kool, van Hoof & Welling 2020, *Estimating gradients for discrete random variables by sampling without replacement*,
#   [arXiv 2002.06043](https://arxiv.org/abs/2002.06043); Liu et al. 2019, *Rao-Blackwellized stochastic gradients for
#   discrete distributions*, [arXiv 1810.04777](https://arxiv.org/abs/1810.04777).
