# ---
# jupyter:
#   jupytext:
#     text_representation:
#       format_name: percent
# ---

# %% [markdown]
# # The evidence of a model, by nineteen methods
#
# Which of two models do the data favour? The Bayesian answer is the ratio of their *evidences*, or marginal
# likelihoods, $Z = \int p(D \mid x) \, p(x) \, dx$. The integral is hard to compute, and there are many methods for it,
# of very different cost and reliability. `estimate_evidence` offers nineteen of them, for any Pyro model with
# continuous latent variables. This page runs them on a model whose evidence is known, and then uses them to choose
# between regressions and between trees.

# %%
import math
import os
import warnings

import matplotlib.pyplot as plt
import pyro
import pyro.distributions as dist
import torch

from pyro_ext.distributions import TreeLikelihood
from pyro_ext.inference.evidence import (
    EvidenceSettings,
    EvidenceWarning,
    compare_evidence,
    estimate_evidence,
)
from pyro_ext.models.phylo import FixedTopology
from pyro_ext.phylo import Alignment, parse_trees
from pyro_ext.plotting import plot_evidence, plot_topology_probabilities, use_style

SMOKE_TEST = bool(os.environ.get("SMOKE_TEST"))
use_style()  # colours that are told apart with each kind of colour blindness
pyro.set_rng_seed(0)
if SMOKE_TEST:
    SETTINGS = EvidenceSettings(
        num_importance=200, num_posterior=80, num_power=40, num_powers=4, num_warmup=12
    )
else:
    SETTINGS = EvidenceSettings(
        num_posterior=1600, num_power=320, num_powers=15, num_warmup=80, num_live=200
    )

# %% [markdown]
# ## Where the answer is known
#
# Waiting times are exponential, and their rate has a Gamma prior. The prior is conjugate, so the evidence has a closed
# form. All values are in float64, which is needed wherever differences of log-densities matter.

# %%
torch.set_default_dtype(torch.float64)
TIMES = torch.tensor([0.31, 1.22, 0.55, 0.84, 0.12, 0.47])
SHAPE, RATE = 3.0, 2.0


def waiting(times):
    rate = pyro.sample("rate", dist.Gamma(SHAPE, RATE))
    with pyro.plate("data", len(times)):
        pyro.sample("times", dist.Exponential(rate), obs=times)


n, total = len(TIMES), TIMES.sum().item()
exact = (
    SHAPE * math.log(RATE)
    - math.lgamma(SHAPE)
    + math.lgamma(SHAPE + n)
    - (SHAPE + n) * math.log(RATE + total)
)
estimate = estimate_evidence(
    waiting, TIMES, method="stepping_stone", seed=0, settings=SETTINGS
)
print(
    f"exact {exact:.4f},",
    f"stepping stone {estimate.log_evidence:.4f} +- {estimate.std_error:.4f}",
)

# %% [markdown]
# All nineteen methods in one call: what several of them need, such as posterior draws, is computed once. The harmonic
# means warn that their variance may be infinite, as it is here; the code below prints each warning once.

# %%
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always", EvidenceWarning)
    comparison = compare_evidence(waiting, TIMES, seed=0, settings=SETTINGS)
for message in {str(w.message) for w in caught}:
    print("warning:", message)
print(comparison.to_markdown())

# %% [markdown]
# Four lines are scores, which rank models but do not estimate the evidence: the highest likelihood (`ml`), the highest
# posterior density (`map`) and two scores of prediction (`cpo`, `ppd`). `gamma_laplus` is exact here, since the
# posterior is a Gamma distribution. For other posteriors it is an approximation without an error bar, which
# `gamma_laplus_is` corrects.

# %%
plot_evidence(comparison, exact=exact)
plt.show()

# %% [markdown]
# ## Which regression?
#
# The same call works for models whose latent variables may be negative. Thirty points lie near a parabola; the
# candidate models are polynomials of degree one to four with standard normal coefficients and an unknown noise level.

# %%
inputs = torch.linspace(-1.5, 1.5, 30)
outputs = 0.6 - 0.4 * inputs + 0.7 * inputs**2 + 0.4 * torch.randn(30)


def polynomial(degree):
    powers = inputs[:, None] ** torch.arange(degree + 1)

    def model():
        weights = pyro.sample(
            "weights", dist.Normal(torch.zeros(degree + 1), 1.0).to_event(1)
        )
        noise = pyro.sample("noise", dist.LogNormal(-1.0, 1.0))
        with pyro.plate("data", len(inputs)):
            pyro.sample(
                "y", dist.Normal((weights * powers).sum(-1), noise), obs=outputs
            )

    return model


DEGREES = [1, 2, 3, 4]
METHODS = ["ml", "elbo", "bridge", "generalized_stepping_stone"]
results = {
    degree: compare_evidence(
        polynomial(degree), methods=METHODS, seed=1, settings=SETTINGS
    )
    for degree in DEGREES
}
print("degree  " + "".join(f"{method:>28}" for method in METHODS))
for degree, result in results.items():
    print(
        f"{degree:6}  "
        + "".join(f"{result[method].log_evidence:28.2f}" for method in METHODS)
    )

# %% [markdown]
# The likelihood can only rise with the degree. The evidence has its maximum at the degree of the curve that generated
# the data: a model with more coefficients spreads its prior over more curves, so each curve has less prior density. The
# model allows `weights` to have further dimensions on the left, since `(weights * powers).sum(-1)` sums over the last
# one only. So one call of the model evaluates hundreds of values at once, which makes fifteen power posteriors with
# eight chains each affordable.

# %%
log_evidence = torch.tensor(
    [results[degree]["bridge"].log_evidence for degree in DEGREES]
)
errors = torch.tensor([results[degree]["bridge"].std_error for degree in DEGREES])
probability = log_evidence.softmax(0)
print(
    "posterior probability of each degree, if their prior probabilities are equal:",
    [round(p, 3) for p in probability.tolist()],
)
fig, ax = plt.subplots(figsize=(5, 3), layout="constrained")
ax.errorbar(
    DEGREES,
    log_evidence,
    yerr=2 * errors,
    fmt="o-",
    capsize=3,
    label="evidence (bridge), ± 2 standard errors",
)
ax.plot(
    DEGREES,
    [results[degree]["ml"].log_evidence for degree in DEGREES],
    "s--",
    label="highest likelihood",
)
ax.set(xlabel="degree", ylabel="nats", xticks=DEGREES)
ax.legend(frameon=False)
plt.show()

# %% [markdown]
# ## Which tree?
#
# The evidence of a tree topology is the likelihood with all branch lengths integrated out. The publication compared the
# nineteen methods on this problem, since phylogenetic analyses may have to compare thousands of topologies.
# `FixedTopology` is the model: branch lengths on a given topology are exponential with mean 0.1. We simulate 120 sites
# along a tree of five taxa with short inner branches, and compare the three topologies that differ in how one inner
# branch is resolved.

# %%
TREES = parse_trees(
    """
    ((lemur:.15,tarsier:.2):.01,gibbon:.1,(chimp:.05,gorilla:.06):.03);
    ((lemur:.15,gibbon:.1):.01,tarsier:.2,(chimp:.05,gorilla:.06):.03);
    ((tarsier:.2,gibbon:.1):.01,lemur:.15,(chimp:.05,gorilla:.06):.03);
    """,
    rooted=False,
)
states = TreeLikelihood(
    TREES.parents[0], TREES.branch_lengths[0], num_sites=120
).sample()
letters = {
    taxon: "".join("ACGT"[i] for i in row)
    for taxon, row in zip(TREES.taxa, states.argmax(-1), strict=True)
}
alignment = Alignment.from_sequences(letters)
print(alignment)

# %% [markdown]
# Branch lengths are positive, so the methods that approximate the posterior by Gamma distributions apply:
# `gamma_laplus` matches the height and the curvature at the mode, `gamma_laplus_is` adds importance sampling from these
# distributions.

# %%
TREE_METHODS = [
    "map",
    "gamma_laplus",
    "gamma_laplus_is",
    "vbis",
    "bridge",
    "generalized_stepping_stone",
]
by_tree = [
    compare_evidence(
        FixedTopology(alignment, tree), methods=TREE_METHODS, seed=2, settings=SETTINGS
    )
    for tree in TREES.parents
]
print(by_tree[0].to_markdown())

# %% [markdown]
# With these three topologies as the only candidates, each method gives them posterior probabilities. The highest
# density, `map`, hardly distinguishes them: where the inner branch has length zero at the mode, the three are the same
# tree. The evidence also takes into account how many other branch lengths explain the data, and the methods that
# estimate it agree.

# %%
shares = {
    method: torch.tensor([comparison[method].log_evidence for comparison in by_tree])
    .softmax(0)
    .tolist()
    for method in TREE_METHODS
}
for method, probabilities in shares.items():
    print(f"{method:27}", *(f"{p:.3f}" for p in probabilities))
plot_topology_probabilities(
    shares, plt.figure(figsize=(6, 3.5), layout="constrained").add_subplot()
)
plt.show()

# %% [markdown]
# From the command line: `pyro-ext evidence ALIGNMENT TREES --method gamma_laplus_is --method bridge --out FOLDER`.
#
# ## Which method?
#
# - **A few dozen latent variables, a reliable answer:** `bridge`, `stepping_stone` or `generalized_stepping_stone`.
#   Trust the result if two of them agree within their errors.
# - **Many models, little time:** `gamma_laplus_is` where latent variables are positive, else `vbis`; check `ess` and
#   `pareto_k` among the diagnostics.
# - **Several modes:** `nested_sampling` or `stepping_stone`, which start from the prior.
# - **Not on their own:** harmonic means, naive Monte Carlo, and the scores.

# %%
torch.set_default_dtype(torch.float32)
