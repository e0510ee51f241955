# ---
# jupyter:
#   jupytext:
#     text_representation:
#       format_name: percent
# ---

# %% [markdown]
# # Permutations: relaxed, rounded and exact, and the posterior of a matching
#
# Which neuron is which, which measurement belongs to which target, in what order did things happen? The unknown is a
# permutation. There are $N!$ permutations, and one cannot differentiate with respect to a permutation. There are two
# solutions. One replaces the permutation matrix by a matrix close to it that has a gradient; the other keeps it
# discrete, with exact probabilities, and estimates the gradient from draws. This page shows both, first in plots, then
# for a posterior that is small enough to be known.

# %%
import os

import matplotlib.pyplot as plt
import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, TraceMeanField_ELBO
from torch.distributions import constraints

from pyro_ext.distributions import (
    GumbelMatching,
    GumbelSinkhorn,
    PermutationMatching,
    RelaxedRoundingPermutation,
    RelaxedStickBreakingPermutation,
    StickBreakingPermutation,
)
from pyro_ext.inference import TraceUnorderedSet_ELBO
from pyro_ext.ops.assignment import best_permutation
from pyro_ext.plotting import use_style

SMOKE_TEST = bool(os.environ.get("SMOKE_TEST"))
use_style()  # colours that are told apart with each kind of colour blindness
DRAWS = 500 if SMOKE_TEST else 5000  # per distribution and problem
STEPS = 5 if SMOKE_TEST else 300
PROBLEMS = 4 if SMOKE_TEST else 20  # independent matching problems, fitted side by side
pyro.set_rng_seed(0)

# %% [markdown]
# ## What a relaxed permutation looks like
#
# A matrix is doubly stochastic if its rows and its columns sum to one, and these matrices form a polytope, named after
# Birkhoff, whose corners are the permutation matrices. Three distributions live on it or near it, each with a
# temperature:
#
# - **stick-breaking** fills the cells one after the other, each with a share of what the cells above and to the left
#   leave to it; the shares come from Gaussians, and at low temperature they are all or nothing;
# - **Gumbel-Sinkhorn** perturbs a matrix of scores by Gumbel noise and scales rows and columns until they sum to one;
# - **rounding** adds Gaussian noise to a doubly stochastic matrix and moves the sum towards the nearest permutation.
#   Its matrices lie around the corners, not within the polytope.
#
# Each row below is one draw, that is, one and the same noise seen at falling temperature.

# %%
N = 6
TEMPERATURES = [1.0, 0.5, 0.2, 0.1, 0.02]
RELAXED = {
    "stick-breaking": lambda t: RelaxedStickBreakingPermutation(
        torch.zeros(N - 1, N - 1), 1.0, t
    ),
    "Gumbel-Sinkhorn": lambda t: GumbelSinkhorn(torch.zeros(N, N), t),
    "rounding": lambda t: RelaxedRoundingPermutation(torch.zeros(N, N), 0.3, t),
}

fig, axes = plt.subplots(
    len(RELAXED), len(TEMPERATURES), figsize=(9, 5.6), layout="constrained"
)
for row, (name, relaxed) in zip(axes, RELAXED.items(), strict=True):
    for ax, temperature in zip(row, TEMPERATURES, strict=True):
        pyro.set_rng_seed(5)  # the same noise at each temperature
        ax.imshow(
            relaxed(temperature).sample().numpy(), cmap="gray", vmin=0.0, vmax=1.0
        )
        ax.set(xticks=[], yticks=[])
    row[0].set_ylabel(name)
for ax, temperature in zip(axes[0], TEMPERATURES, strict=True):
    ax.set_title(f"temperature {temperature}")
plt.show()

# %% [markdown]
# The three distributions approach permutations at different rates, so the same temperature does not mean the same in
# all of them. The next output is the mean over draws of the largest entry in a row; for a permutation it is 1.

# %%
for name, relaxed in RELAXED.items():
    largest = {t: relaxed(t).sample((200,)).amax(-1).mean() for t in TEMPERATURES}
    print(
        f"{name:15} mean largest entry:",
        *(f"{value:.2f} at {t};" for t, value in largest.items()),
    )

# %% [markdown]
# ## Their limits: two discrete distributions
#
# The limit of stick-breaking at temperature zero is a distribution of permutations whose probabilities are known
# exactly: each cell that is not determined by others is zero or one, like a coin with two sides. This distribution is
# `StickBreakingPermutation`, and `zero_temperature_limit()` returns it. For the six permutations of three things, the
# permutations nearest to relaxed draws tend to it as the temperature falls.
#
# Gumbel-Sinkhorn tends to `GumbelMatching`, the best matching under perturbed scores. One can draw from it, but its
# probabilities have no closed form. `PermutationMatching`, the exponential family
# $P(X) \propto \exp \langle L, X \rangle$, is *another* distribution with the same scores $L$, and gives
# probabilities, samples, marginals and entropy exactly. It sums over subsets of columns, which is affordable up to
# $N = 18$.


# %%
def frequencies(draws, values):
    """Return how often each of ``values`` is the nearest to one of the draws."""
    nearest = (best_permutation(draws).flatten(1) @ values.flatten(1).T).argmax(-1)
    return nearest.bincount(minlength=6) / len(draws)


loc = torch.tensor([[0.5, -0.5], [1.0, 0.3]])
scores = torch.tensor([[1.0, 0.0, -1.0], [0.0, 2.0, 0.0], [0.5, 0.0, 0.0]])
limit = RelaxedStickBreakingPermutation(loc, 1.0, 1.0).zero_temperature_limit()
SIX = limit.enumerate_support()
sticks = {
    f"temperature {t}": frequencies(
        RelaxedStickBreakingPermutation(loc, 1.0, t).sample((DRAWS,)), SIX
    )
    for t in (1.0, 0.3, 0.05)
}
sticks["exact limit"] = limit.log_prob(SIX).exp()
matchings = {
    "Gumbel-Sinkhorn 1.0": frequencies(
        GumbelSinkhorn(scores, 1.0, num_iterations=20).sample((DRAWS,)), SIX
    ),
    "GumbelMatching": frequencies(GumbelMatching(scores).sample((DRAWS,)), SIX),
    "PermutationMatching": PermutationMatching(scores).log_prob(SIX).exp(),
}

fig, axes = plt.subplots(1, 2, figsize=(10, 3.3), sharey=True, layout="constrained")
for ax, compared in zip(axes, (sticks, matchings), strict=True):
    for i, (name, probs) in enumerate(compared.items()):
        print(f"{name:19}", *(f"{value:.3f}" for value in probs))
        ax.bar(
            [place + (i - 1) * 0.2 for place in range(6)],
            probs.tolist(),
            width=0.2,
            label=name,
        )
    ax.set_xticks(
        range(6),
        ["".join(str(int(column) + 1) for column in value.argmax(-1)) for value in SIX],
    )
    ax.legend()
axes[0].set(title="stick-breaking and its limit", ylabel="probability")
axes[1].set(title="two distributions with the same scores")
plt.show()

# %% [markdown]
# ## Rounding jumps, and its gradient does not see it
#
# Where the nearest permutation changes, a rounded matrix jumps. The gradient through the draw does not see the jumps,
# and the lower the temperature, the more of the true gradient comes from them. Straight-through treats rounding as the
# identity and keeps more than half of the gradient; the score function is unbiased and noisy. The next output is the
# derivative of $E[X_{11}]$ with respect to the first log-potential. The other two distributions have no such problem:
# their maps from noise to matrix are continuous.

# %%
many = 2_000 if SMOKE_TEST else 200_000
for gradient in ("pathwise", "straight_through", "score_function"):
    potentials = torch.zeros(many, 2, 2).requires_grad_()
    d = RelaxedRoundingPermutation(potentials, 0.4, 0.3, gradient=gradient)
    x = d.rsample() if d.has_rsample else d.sample()
    surrogate = x[:, 0, 0] if d.has_rsample else d.log_prob(x) * (x[:, 0, 0] - 0.5)
    slopes = torch.autograd.grad(surrogate.sum(), potentials)[0][:, 0, 0]
    print(
        f"{gradient:16} {slopes.mean():.4f}"
        f" +- {slopes.std() / many**0.5:.4f} (standard error)"
    )

# %% [markdown]
# ## A matching and its exact posterior
#
# Six places are known. From each comes one point, displaced by Gaussian noise, in an order that is lost:
# $y_i = \sum_j X_{ij} c_j + \varepsilon_i$. All orders are equally probable a priori. Several such problems are
# solved at once, in a plate.
#
# The log-likelihood is $\langle L, X \rangle$ with $L_{ij} = \log N(y_i; c_j, \sigma^2)$, so that the posterior *is* a
# `PermutationMatching`, written in one line. Enumeration of all 720 orders gives the same result.

# %%
NOISE = 0.5
pyro.set_rng_seed(1)
uniform = PermutationMatching(torch.zeros(PROBLEMS, N, N))
PLACES = torch.randn(PROBLEMS, N, 2)
TRUE = uniform.sample()
POINTS = TRUE @ PLACES + NOISE * torch.randn(PROBLEMS, N, 2)

log_likelihood = (
    dist.Normal(PLACES.unsqueeze(-3), NOISE).log_prob(POINTS.unsqueeze(-2)).sum(-1)
)
posterior = PermutationMatching(log_likelihood)

ALL = uniform.enumerate_support(expand=False)  # (720, 1, N, N)
by_hand = dist.Normal(ALL @ PLACES, NOISE).log_prob(POINTS).sum((-2, -1)).softmax(0)
exact = posterior.log_prob(ALL).exp()
print(f"largest difference to enumeration: {(exact - by_hand).abs().max():.1e}")
print(
    "how many orders the posteriors weigh, exp(entropy):",
    posterior.entropy().exp()[:5].numpy().round(1),
)
print(
    "probability of the true order:",
    posterior.log_prob(TRUE).exp()[:5].numpy().round(2),
)

# %% [markdown]
# ## Three guides
#
# Now suppose that the posterior is unknown, as it is with a likelihood that is not linear in $X$. All three guides have
# about as many parameters as a matrix has cells, or twice as many.
#
# **Exact**: the site is a permutation in model and guide, the bound is that of the model itself, and the gradient
# comes from sets of eight distinct permutations.


# %%
def observe(x):
    pyro.sample("points", dist.Normal(x @ PLACES, NOISE).to_event(2), obs=POINTS)


def exact_model():
    with pyro.plate("problems", PROBLEMS):
        observe(pyro.sample("x", uniform))


def exact_distribution():
    return StickBreakingPermutation(
        pyro.param("logits", torch.zeros(PROBLEMS, N - 1, N - 1))
    )


def exact_guide():
    with pyro.plate("problems", PROBLEMS):
        pyro.sample("x", exact_distribution())


# %% [markdown]
# **Relaxed stick-breaking**: the site is a doubly stochastic matrix in both. The model needs a prior on such matrices,
# and the natural one is of the same family, since the divergence of the two is then that of their Gaussians. It is a
# bound for another model: one in which a point may come from between the places, and whose prior prefers some
# permutations. In its limit each free cell is a fair coin, so the first point comes from the first place with
# probability one half.


# %%
def sticks_at(loc, scale, temperature):
    return RelaxedStickBreakingPermutation(loc, scale, temperature)


def stick_model(temperature):
    with pyro.plate("problems", PROBLEMS):
        observe(
            pyro.sample(
                "x", sticks_at(torch.zeros(PROBLEMS, N - 1, N - 1), 2.0, temperature)
            )
        )


def trained_sticks(temperature):
    loc = pyro.param("loc", torch.zeros(PROBLEMS, N - 1, N - 1))
    scale = pyro.param(
        "scale", torch.ones(PROBLEMS, N - 1, N - 1), constraint=constraints.positive
    )
    return sticks_at(loc, scale, temperature)


def stick_guide(temperature):
    with pyro.plate("problems", PROBLEMS):
        pyro.sample("x", trained_sticks(temperature))


# %% [markdown]
# **Gumbel-Sinkhorn**: the matrix has no density, so the noise is the site and the matrix a function of it. With all
# scores equal, all permutations have the same prior probability.


# %%
def gumbel_at(scores, temperature):
    return GumbelSinkhorn(scores, temperature, num_iterations=20)


def gumbel_model(temperature):
    prior = gumbel_at(torch.zeros(PROBLEMS, N, N), temperature)
    with pyro.plate("problems", PROBLEMS):
        observe(prior.from_noise(pyro.sample("noise", prior.noise())))


def trained_gumbel(temperature):
    return gumbel_at(pyro.param("scores", torch.zeros(PROBLEMS, N, N)), temperature)


def gumbel_guide(temperature):
    with pyro.plate("problems", PROBLEMS):
        pyro.sample("noise", trained_gumbel(temperature).noise())


# %% [markdown]
# Each is trained with eight evaluations of the model per step. Compared are probabilities of permutations: for the
# exact guide its own, for a relaxed one how often each permutation is the nearest to its draws. The number is the
# Hellinger distance $\sqrt{1 - \sum_X \sqrt{p(X) q(X)}}$, from 0 for equal distributions to 1 for disjoint ones, with
# its standard error over the problems. Frequencies are noisy: the first line says how much distance comes from that.


# %%
def train(model, guide, elbo, *args, steps=STEPS):
    pyro.clear_param_store()
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.1}), elbo)
    for _ in range(steps):
        svi.step(*args)


def code(x):
    """Number permutation matrices ``(..., N, N)`` by their columns as digits."""
    return (x.argmax(-1) * N ** torch.arange(N)).sum(-1)


POSITION = torch.zeros(N**N, dtype=torch.long)
POSITION[code(ALL.squeeze(1))] = torch.arange(len(ALL))


def nearest(draws):
    """Return how often each one is the nearest to a draw, ``(720, PROBLEMS)``."""
    position = POSITION[code(best_permutation(draws))]
    return torch.zeros(len(ALL), PROBLEMS).scatter_add_(
        0, position, torch.ones(position.shape)
    ) / len(draws)


def distance(probs):
    """Return the Hellinger distance to the posterior, one per problem."""
    return (1 - (exact * probs).sqrt().sum(0)).clamp_min(0).sqrt()


def report(name, probs):
    d = distance(probs)
    print(f"{name:31} {d.mean():.3f} +- {d.std() / PROBLEMS**0.5:.3f}")


report("draws of the posterior itself", nearest(posterior.sample((DRAWS,))))

results = {}
for steps in (STEPS, 3 * STEPS):
    train(
        exact_model,
        exact_guide,
        TraceUnorderedSet_ELBO(num_samples=8, max_plate_nesting=1),
        steps=steps,
    )
    results[steps] = exact_distribution().log_prob(ALL).exp().detach()
    report(f"exact guide, {steps} steps", results[steps])

RELAXED_GUIDES = {
    "stick-breaking": (stick_model, stick_guide, trained_sticks),
    "Gumbel-Sinkhorn": (gumbel_model, gumbel_guide, trained_gumbel),
}
SWEEP = [0.2, 0.5] if SMOKE_TEST else [0.1, 0.2, 0.5, 1.0]
elbo = TraceMeanField_ELBO(
    num_particles=8, vectorize_particles=True, max_plate_nesting=1
)
for name, (model, guide, trained) in RELAXED_GUIDES.items():
    for temperature in SWEEP:
        train(model, guide, elbo, temperature)
        results[name, temperature] = nearest(trained(temperature).sample((DRAWS,)))
        report(f"{name}, temperature {temperature}", results[name, temperature])

# %%
fig, ax = plt.subplots(figsize=(6, 4), layout="constrained")
for name in RELAXED_GUIDES:
    ax.plot(
        SWEEP,
        [float(distance(results[name, t]).mean()) for t in SWEEP],
        marker="o",
        label=f"relaxed, {name}",
    )
for steps, style in ((STEPS, "--"), (3 * STEPS, ":")):
    height = float(distance(results[steps]).mean())
    ax.axhline(
        height, color="black", linestyle=style, label=f"exact guide, {steps} steps"
    )
ax.set(
    xscale="log",
    xlabel="temperature",
    ylabel="Hellinger distance to the posterior",
    ylim=(0, 1),
)
ax.set_xticks(SWEEP, [str(t) for t in SWEEP])
ax.minorticks_off()
ax.legend()
plt.show()

# %% [markdown]
# After the same number of steps the exact guide is nearer to the posterior than both relaxations at any temperature. It
# also improves with more steps, while the relaxed guides have converged: their model is another one, which longer
# training does not change. No guide reaches zero. The posterior is spread over 720 orders, the guide has 25 parameters,
# and a bound of this kind prefers to cover one mode well. With all 720 values in each step, an exact gradient, 300
# steps end at about 0.2.
#
# The next plot shows one problem: the probability of each point (row) to have come from each place (column),
# and the most probable orders one by one.

# %%
shown = {
    "posterior": exact,
    "exact guide": results[3 * STEPS],
    "stick-breaking 0.5": results["stick-breaking", 0.5],
    "Gumbel-Sinkhorn 0.2": results["Gumbel-Sinkhorn", 0.2],
}
PROBLEM = 0
top = exact[:, PROBLEM].topk(12).indices

fig = plt.figure(figsize=(9, 5.4), layout="constrained")
grid = fig.add_gridspec(2, len(shown))
bars = fig.add_subplot(grid[1, :])
for i, (name, probs) in enumerate(shown.items()):
    ax = fig.add_subplot(grid[0, i])
    cells = torch.einsum("k,kij->ij", probs[:, PROBLEM], ALL.squeeze(1))
    ax.imshow(cells.numpy(), cmap="gray", vmin=0.0, vmax=1.0)
    ax.set(title=name, xticks=[], yticks=[])
    bars.bar(
        [place + (i - 1.5) * 0.2 for place in range(12)],
        probs[top, PROBLEM].tolist(),
        width=0.2,
        label=name,
    )
bars.set_xticks(
    range(12), ["".join(str(int(j) + 1) for j in ALL[k, 0].argmax(-1)) for k in top]
)
bars.set(ylabel="probability", title="the twelve most probable orders")
bars.legend()
plt.show()

# %% [markdown]
# ## Which one to use
#
# | you have, or need | use |
# |---|---|
# | a log-probability that is a sum of scores, $N$ up to 18 | `PermutationMatching`: no guide is needed |
# | a discrete model, $N$ up to 8 | a `StickBreakingPermutation` guide, `TraceUnorderedSet_ELBO` |
# | a discrete model, larger | the same guide, `TraceLeaveOneOut_ELBO`, which does not list permutations |
# | gradients through the matrix, a uniform prior | `GumbelSinkhorn`, with its noise as the site |
# | a density on doubly stochastic matrices | `RelaxedStickBreakingPermutation` |
# | some cells known to be empty | `GumbelSinkhorn` with scores of $-\infty$, `RelaxedRoundingPermutation(mask=...)` |
# | a ranking by one score per item | `PlackettLuce` |
#
# All of them are batched and work under plates.
#
# - Linderman, Mena, Cooper, Paninski & Cunningham 2018, *Reparameterizing the Birkhoff polytope for variational
#   permutation inference*, [arXiv 1710.09508](https://arxiv.org/abs/1710.09508).
# - Mena, Belanger, Linderman & Snoek 2018, *Learning latent permutations with Gumbel-Sinkhorn networks*,
#   [arXiv 1802.08665](https://arxiv.org/abs/1802.08665).
