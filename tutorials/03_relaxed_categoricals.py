# ---
# jupyter:
#   jupytext:
#     text_representation:
#       format_name: percent
# ---

# %% [markdown]
# # Relaxed categorical variables: temperature, bias and variance, and three objectives
#
# A categorical variable has no gradient, so replace it by one that has: a vector of weights that a temperature draws
# towards the corners of the simplex. The price is a bias, and the choice of a temperature trades it for variance. This
# page shows the trade on a problem whose exact gradient is known, then relaxes an existing model in one line and
# compares the three things that may stand in its bound.

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

SMOKE_TEST = bool(os.environ.get("SMOKE_TEST"))
REPLICATES = 500 if SMOKE_TEST else 20_000  # independent gradient estimates per point
STEPS = 30 if SMOKE_TEST else 400
pyro.set_rng_seed(0)

# %% [markdown]
# ## What a relaxed draw looks like
#
# $x = \mathrm{softmax}((\log p + G) / \lambda)$ with independent Gumbel noise $G$. Its largest entry is distributed as
# the category is, at *every* temperature $\lambda$; only how much the others keep depends on it.

# %%
PROBS = torch.tensor([0.5, 0.3, 0.2])
TEMPERATURES = [5.0, 1.0, 0.3, 0.05]

fig, axes = plt.subplots(1, len(TEMPERATURES), figsize=(10, 2.8), layout="constrained")
for ax, temperature in zip(axes, TEMPERATURES, strict=True):
    x = RelaxedOneHotCategorical(temperature, PROBS).sample((1000,))
    share = x.argmax(-1).bincount(minlength=3) / 1000
    print(f"temperature {temperature:4}: mean largest weight {x.amax(-1).mean():.2f}, largest is", share.numpy())
    ax.scatter(x[:, 1] + x[:, 2] / 2, x[:, 2] * 3**0.5 / 2, s=2, alpha=0.4)  # corners of a triangle
    ax.set(title=f"temperature {temperature}", aspect="equal", xlim=(-0.05, 1.05), ylim=(-0.05, 0.92))
    ax.axis("off")
plt.show()

# %% [markdown]
# ## Bias and variance
#
# The toy: the gradient of $E[f(z)]$ in the logits of eight categories, $f(z) = (z \cdot v - 0.7)^2$ with values $v$
# from -3 to 3. The sum over the categories is exact. Three estimators run through the relaxation:
#
# - **relaxed**: $f$ sees the soft weights, so even its value is biased;
# - **straight-through**: $f$ sees a one-hot vector, and the gradient is taken as that of the soft one;
# - **Gumbel-Rao**: straight-through, averaged over the noise that would have led to the same category.

# %%
VALUES = torch.linspace(-3.0, 3.0, 8)
LOGITS = torch.tensor([-1.0, -0.5, 0.0, 0.5, 1.0, 0.5, 0.0, -0.5])


def f(z):
    return (z @ VALUES - 0.7).square()


LAWS = {
    "relaxed": lambda t, logits: RelaxedOneHotCategorical(t, logits=logits),
    "straight-through": lambda t, logits: RelaxedOneHotCategoricalStraightThrough(t, logits=logits),
    "Gumbel-Rao, 50 inner draws": lambda t, logits: GumbelRaoOneHotCategorical(t, logits, num_inner=50),
}

logits = LOGITS.clone().requires_grad_()
(exact,) = torch.autograd.grad(logits.softmax(-1) @ f(torch.eye(8)), logits)


def estimates(law, temperature):
    """Return independent gradient estimates, shape (REPLICATES, 8)."""
    logits = LOGITS.repeat(REPLICATES, 1).requires_grad_()
    return torch.autograd.grad(f(LAWS[law](temperature, logits).rsample()).sum(), logits)[0]


GRID = [0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0]
bias, variance = {}, {}
for law in LAWS:
    found = [estimates(law, t) for t in GRID]
    bias[law] = [float((g.mean(0) - exact).norm() / exact.norm()) for g in found]
    variance[law] = [float(g.var(0).sum()) for g in found]
    print(f"{law:27} bias    ", *(f"{value:8.2f}" for value in bias[law]))
    print(f"{law:27} variance", *(f"{value:8.2f}" for value in variance[law]))

# %% [markdown]
# A cold relaxation is nearly unbiased and very noisy, a warm one the reverse. Rao-Blackwellisation lowers the variance
# at the cold end and leaves the bias what it is. (At the cold end the bias shown is mostly noise of the mean.)

# %%
fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
for law in LAWS:
    left.loglog(GRID, bias[law], marker="o", label=law)
    right.loglog(GRID, variance[law], marker="o", label=law)
left.set(xlabel="temperature", title="relative bias of the gradient")
right.set(xlabel="temperature", title="variance of the gradient")
left.legend()
plt.show()

# %% [markdown]
# ## Relaxing an existing model
#
# A signal comes from one of the eight places and is heard with noise. Model and guide are ordinary Pyro programs with a
# one-hot site. `relax` turns their discrete sites into relaxed ones; nothing else changes.

# %%
HEARD = torch.tensor(0.7)


def model():
    place = pyro.sample("place", dist.OneHotCategorical(logits=torch.zeros(8)))
    pyro.sample("heard", dist.Normal(place @ VALUES, 1.0), obs=HEARD)


def guide():
    logits = pyro.param("logits", torch.zeros(8))
    pyro.sample("place", dist.OneHotCategorical(logits=logits))


log_evidence = dist.Normal(VALUES, 1.0).log_prob(HEARD).logsumexp(0) - torch.tensor(8.0).log()
print(f"log evidence of the discrete model: {log_evidence:.3f}")

# %% [markdown]
# In the place of $\log p(z) - \log q(z)$ there may stand, for relaxed weights $x$ and probabilities $P$ of the model
# and $Q$ of the guide,
#
# | `objective` | term | a bound? |
# |---|---|---|
# | `"relaxed_density"` | $\log p_\lambda(x) - \log q_\lambda(x)$, relaxed densities | on the relaxed model |
# | `"relaxed_categorical"` | $\sum_k x_k \log (P_k / Q_k)$ | no |
# | `"categorical"` | $-\mathrm{KL}(Q \Vert P)$, exact | no; of the discrete model once values are hard |
#
# Each is trained below at three temperatures. What counts in the end is the bound of the *discrete* model that the
# trained guide reaches, which here is known exactly.


# %%
def discrete_bound():
    """Return the evidence lower bound of the discrete model and guide, summed over the places."""
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
        print(f"temperature {temperature}, {objective:20} discrete bound {bounds[-1]:.3f}")
        ax.plot(bounds, label=objective)
    ax.set(title=f"temperature {temperature}", xlabel="step", ylim=(-4, -2))
axes[0].set_ylabel("bound of the discrete model")
axes[-1].legend()
plt.show()

# %% [markdown]
# A warm relaxed model is another model: its decoder sees averages of places, so the best guide of it is not that of the
# discrete one. The density's bound is a true one, of a model in which weights near the corners are what prior and guide
# quarrel about; as a way to train a *discrete* model, the two that are no bounds do better here.
#
# ## A falling temperature
#
# Begin warm, for gradients with little noise, and end cold, for little bias. `TemperatureSchedule` is a module with a
# `step()`; Jang et al. use `TemperatureSchedule.jang()`. With the fit engine, put `schedule.set_num_steps` among the
# `schedules` of what is fitted. Straight-through values are what the decoder will see at test time, so they are trained
# with here.

# %%
schedule = TemperatureSchedule.exponential(2.0, rate=0.01, floor=0.2)
bounds = train("categorical", schedule, straight_through=True)
print(f"from 2.0 to {float(schedule()):.2f}: discrete bound {bounds[-1]:.3f}")

# %% [markdown]
# ## Cold, in single precision
#
# At a temperature of 0.05 most weights underflow to zero in float32, and the density in PyTorch's class is then not a
# number. Ours is finite; and `relax` infers log-weights, which do not underflow, so that its densities are exact.

# %%
logits = torch.tensor([10.0, -10.0, 0.0])
theirs = torch.distributions.RelaxedOneHotCategorical(torch.tensor(0.05), logits=logits, validate_args=False)
ours = RelaxedOneHotCategorical(0.05, logits=logits)
x = ours.sample((1000,))
for name, d in (("PyTorch", theirs), ("pyro_ext", ours)):
    print(f"{name:8} finite log-probabilities: {d.log_prob(x).isfinite().float().mean():.0%}")

# %% [markdown]
# ## Which one to take
#
# | | take |
# |---|---|
# | a bound is wanted, or a relaxed model is the goal | `RelaxReparam(t, "relaxed_density")`, t about 0.5 |
# | a discrete model, trained on hard values | `RelaxReparam(t, "categorical", straight_through=True)`, t to 0.5 |
# | variance at low temperatures hurts | `GumbelRaoOneHotCategorical` |
# | an unbiased gradient | no relaxation: `TraceUnorderedSet_ELBO` and its kin, see the first tutorial |
#
# - Maddison, Mnih & Teh 2017, *The Concrete distribution*, [arXiv 1611.00712](https://arxiv.org/abs/1611.00712).
# - Jang, Gu & Poole 2017, *Categorical reparameterization with Gumbel-softmax*,
#   [arXiv 1611.01144](https://arxiv.org/abs/1611.01144).
# - Paulus, Maddison & Krause 2021, *Rao-Blackwellizing the straight-through Gumbel-softmax gradient estimator*,
#   [arXiv 2010.04838](https://arxiv.org/abs/2010.04838).
