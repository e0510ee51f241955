# ---
# jupyter:
#   jupytext:
#     text_representation:
#       format_name: percent
# ---

# %% [markdown]
# # Relaxed categorical variables: temperature, bias and variance, and three objectives
#
# A sample of a categorical variable has no gradient. A *relaxed* sample has one: it is a vector of weights, and the
# lower the temperature, the nearer it is to a corner of the simplex, which stands for one category. The gradient is
# biased, and the temperature decides between more bias and more variance. This page measures both on a problem whose
# exact gradient is known. It then relaxes an existing model in one line, and compares the three terms that can be used
# in its bound.

# %%
import os

import matplotlib.pyplot as plt
import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, Trace_ELBO

from pyro_ext.distributions import (
    GumbelRaoOneHotCategorical,
    RelaxedOneHotCategorical,
    RelaxedOneHotCategoricalStraightThrough,
)
from pyro_ext.inference import RelaxReparam, TemperatureSchedule, relax
from pyro_ext.plotting import use_style

SMOKE_TEST = bool(os.environ.get("SMOKE_TEST"))
use_style()  # colours that are told apart with each kind of colour blindness
# the number of independent estimates of the gradient
REPLICATES = 500 if SMOKE_TEST else 20_000
STEPS = 30 if SMOKE_TEST else 400
pyro.set_rng_seed(0)

# %% [markdown]
# ## What a relaxed sample looks like
#
# A relaxed sample is $x = \mathrm{softmax}((\log p + G) / \lambda)$ with independent Gumbel noise $G$. The position of
# its largest entry has the distribution of the category, at *every* temperature $\lambda$. The temperature only decides
# how large the other entries are.

# %%
PROBS = torch.tensor([0.5, 0.3, 0.2])
TEMPERATURES = [5.0, 1.0, 0.3, 0.05]

fig, axes = plt.subplots(1, len(TEMPERATURES), figsize=(10, 2.8), layout="constrained")
for ax, temperature in zip(axes, TEMPERATURES, strict=True):
    x = RelaxedOneHotCategorical(temperature, PROBS).sample((1000,))
    share = x.argmax(-1).bincount(minlength=3) / 1000
    print(
        f"temperature {temperature:4}:",
        f"mean largest weight {x.amax(-1).mean():.2f}, largest is",
        share.numpy(),
    )
    # corners of a triangle
    ax.scatter(x[:, 1] + x[:, 2] / 2, x[:, 2] * 3**0.5 / 2, s=2, alpha=0.4)
    ax.set(
        title=f"temperature {temperature}",
        aspect="equal",
        xlim=(-0.05, 1.05),
        ylim=(-0.05, 0.92),
    )
    ax.axis("off")
plt.show()

# %% [markdown]
# ## Bias and variance
#
# Our example is the gradient of $E[f(z)]$ with respect to the logits of eight categories, with
# $f(z) = (z \cdot v - 0.7)^2$ and values $v$ from -3 to 3. A sum over the categories gives it exactly. Three estimators
# use the relaxation:
#
# - **relaxed**: $f$ is evaluated at the soft weights, so even its value is biased;
# - **straight-through**: $f$ is evaluated at a one-hot vector, and its gradient is passed to the soft weights;
# - **Gumbel-Rao**: straight-through, averaged over all noise that leads to the same category.

# %%
VALUES = torch.linspace(-3.0, 3.0, 8)
LOGITS = torch.tensor([-1.0, -0.5, 0.0, 0.5, 1.0, 0.5, 0.0, -0.5])


def f(z):
    return (z @ VALUES - 0.7).square()


DISTRIBUTIONS = {
    "relaxed": lambda t, logits: RelaxedOneHotCategorical(t, logits=logits),
    "straight-through": lambda t, logits: RelaxedOneHotCategoricalStraightThrough(
        t, logits=logits
    ),
    "Gumbel-Rao, 50 inner draws": lambda t, logits: GumbelRaoOneHotCategorical(
        t, logits, num_inner=50
    ),
}

logits = LOGITS.clone().requires_grad_()
(exact,) = torch.autograd.grad(logits.softmax(-1) @ f(torch.eye(8)), logits)


def estimates(name, temperature):
    """Return independent gradient estimates, shape (REPLICATES, 8)."""
    logits = LOGITS.repeat(REPLICATES, 1).requires_grad_()
    return torch.autograd.grad(
        f(DISTRIBUTIONS[name](temperature, logits).rsample()).sum(), logits
    )[0]


GRID = [0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0]
bias, variance = {}, {}
for name in DISTRIBUTIONS:
    gradients = [estimates(name, t) for t in GRID]
    bias[name] = [float((g.mean(0) - exact).norm() / exact.norm()) for g in gradients]
    variance[name] = [float(g.var(0).sum()) for g in gradients]
    print(f"{name:27} bias    ", *(f"{value:8.2f}" for value in bias[name]))
    print(f"{name:27} variance", *(f"{value:8.2f}" for value in variance[name]))

# %% [markdown]
# At low temperature the gradient is nearly unbiased but very noisy; at high temperature it is the other way round.
# Rao-Blackwellisation lowers the variance at low temperatures and does not change the bias. (At the lowest temperatures
# the bias shown is mostly the error of the mean.)

# %%
fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
for name in DISTRIBUTIONS:
    left.loglog(GRID, bias[name], marker="o", label=name)
    right.loglog(GRID, variance[name], marker="o", label=name)
left.set(
    xlabel="temperature",
    ylabel="|mean - exact| / |exact|",
    title="relative bias of the gradient",
)
right.set(
    xlabel="temperature",
    ylabel="summed over the logits",
    title="variance of the gradient",
)
left.legend()
plt.show()

# %% [markdown]
# ## Relaxing an existing model
#
# A signal comes from one of eight places and is heard with noise. Model and guide are ordinary Pyro programs with a
# one-hot site. `relax` replaces their discrete sites by relaxed ones; nothing else changes.

# %%
HEARD = torch.tensor(0.7)


def model():
    place = pyro.sample("place", dist.OneHotCategorical(logits=torch.zeros(8)))
    pyro.sample("heard", dist.Normal(place @ VALUES, 1.0), obs=HEARD)


def guide():
    logits = pyro.param("logits", torch.zeros(8))
    pyro.sample("place", dist.OneHotCategorical(logits=logits))


log_evidence = float(
    dist.Normal(VALUES, 1.0).log_prob(HEARD).logsumexp(0) - torch.tensor(8.0).log()
)
print(f"log evidence of the discrete model: {log_evidence:.3f}")

# %% [markdown]
# The bound contains the term $\log p(z) - \log q(z)$. For relaxed weights $x$, with probabilities $P$ of the model and
# $Q$ of the guide, there are three choices for this term:
#
# | `objective` | term | is the result a bound? |
# |---|---|---|
# | `"relaxed_density"` | $\log p_\lambda(x) - \log q_\lambda(x)$, relaxed densities | yes, for the relaxed model |
# | `"relaxed_categorical"` | $\sum_k x_k \log (P_k / Q_k)$ | no |
# | `"categorical"` | $-\mathrm{KL}(Q \Vert P)$, exact | only with straight-through values, for the discrete model |
#
# Below, a guide is trained with each of them at three temperatures. The results are compared by the bound of the
# *discrete* model that the trained guide reaches, which is known exactly here.


# %%
def discrete_bound():
    """Return the discrete model's evidence lower bound, summed over the places."""
    log_q = pyro.param("logits").detach().log_softmax(-1)
    log_p = dist.Normal(VALUES, 1.0).log_prob(HEARD) - torch.tensor(8.0).log()
    return float(log_q.exp() @ (log_p - log_q))


def train(objective, temperature, straight_through=False):
    """Return the discrete bound after each step."""
    pyro.clear_param_store()
    reparam = RelaxReparam(temperature, objective, straight_through)
    svi = SVI(
        relax(model, reparam),
        relax(guide, reparam),
        pyro.optim.Adam({"lr": 0.05}),
        Trace_ELBO(num_particles=8, vectorize_particles=True, max_plate_nesting=0),
    )
    bounds = []
    for _ in range(STEPS):
        svi.step()
        if isinstance(temperature, TemperatureSchedule):
            temperature.step()
        bounds.append(discrete_bound())
    return bounds


fig, axes = plt.subplots(1, 3, figsize=(11, 3.3), sharey=True, layout="constrained")
for ax, temperature in zip(axes, (2.0, 0.5, 0.1), strict=True):
    for objective in ("relaxed_density", "relaxed_categorical", "categorical"):
        bounds = train(objective, temperature)
        print(
            f"temperature {temperature}, {objective:20} discrete bound {bounds[-1]:.3f}"
        )
        ax.plot(bounds, label=objective)
    ax.axhline(
        log_evidence, color="black", linestyle="-", linewidth=0.8, label="log evidence"
    )
    ax.set(
        title=f"temperature {temperature}",
        xlabel="step",
        ylim=(log_evidence - 1.5, log_evidence + 0.1),
    )
axes[0].set_ylabel("bound of the discrete model (nats)")
axes[-1].legend()
plt.show()

# %% [markdown]
# At high temperature the relaxed model is a different model: its likelihood sees averages of places, so its best guide
# is not the best guide of the discrete model. `"relaxed_density"` gives a true bound, but a bound of the relaxed model,
# where relaxed densities of the prior and of the guide are compared. For training a *discrete* model, the two
# objectives that are not bounds work better here.
#
# ## A falling temperature
#
# Start at a high temperature, where gradients have little noise, and end at a low one, where they have little bias.
# `TemperatureSchedule` is a module with a method `step()`; Jang et al. use `TemperatureSchedule.jang()`. In a
# `TrainingPlan`, add `schedule.set_num_steps` to its `schedules`. At test time the model sees one-hot values, so we
# train with straight-through values here.

# %%
schedule = TemperatureSchedule.exponential(2.0, rate=0.01, floor=0.2)
bounds = train("categorical", schedule, straight_through=True)
print(f"from 2.0 to {float(schedule()):.2f}: discrete bound {bounds[-1]:.3f}")

# %% [markdown]
# ## Low temperature in single precision
#
# At a temperature of 0.05 most weights underflow to zero in float32, and then the density of PyTorch's class is NaN.
# Ours is finite. Moreover, the sites made by `relax` are log-weights, which do not underflow, so their densities are
# exact.

# %%
logits = torch.tensor([10.0, -10.0, 0.0])
theirs = torch.distributions.RelaxedOneHotCategorical(
    torch.tensor(0.05), logits=logits, validate_args=False
)
ours = RelaxedOneHotCategorical(0.05, logits=logits)
x = ours.sample((1000,))
for name, d in (("PyTorch", theirs), ("pyro_ext", ours)):
    print(
        f"{name:8} finite log-probabilities:",
        f"{d.log_prob(x).isfinite().float().mean():.0%}",
    )

# %% [markdown]
# ## Which one to use
#
# | you need | use |
# |---|---|
# | a bound, or a relaxed model | `RelaxReparam(t, "relaxed_density")` with t about 0.5 |
# | a model trained on hard values | `RelaxReparam(t, "categorical", straight_through=True)`, t falling to 0.5 |
# | less variance at low temperatures | `GumbelRaoOneHotCategorical` |
# | an unbiased gradient | no relaxation, but an ELBO such as `TraceUnorderedSet_ELBO`, see the first tutorial |
#
# - Maddison, Mnih & Teh 2017, *The Concrete distribution*, [arXiv 1611.00712](https://arxiv.org/abs/1611.00712).
# - Jang, Gu & Poole 2017, *Categorical reparameterization with Gumbel-softmax*,
#   [arXiv 1611.01144](https://arxiv.org/abs/1611.01144).
# - Paulus, Maddison & Krause 2021, *Rao-Blackwellizing the straight-through Gumbel-softmax gradient estimator*,
#   [arXiv 2010.04838](https://arxiv.org/abs/2010.04838).
