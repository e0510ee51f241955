# ---
# jupyter:
#   jupytext:
#     text_representation:
#       format_name: percent
# ---

# %% [markdown]
# # Trees: from a file of samples to the probability of a tree never sampled
#
# A Markov chain over phylogenetic trees writes a file of topologies, with the number of times that each was visited.
# Where the posterior is spread over many trees, most of them were visited once or never, and these counts say little
# about their probabilities. A *subsplit Bayesian network* learns from the parts that trees share. This page reads such
# a file, fits a network, computes the probabilities of trees that are not in the file, and uses the network as a guide
# in a Pyro program.

# %%
import os
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import pyro
import torch

from pyro_ext.distributions import (
    SubsplitBayesianNetwork,
    TreeFrequency,
    UniformTopology,
    tree_kl,
)
from pyro_ext.inference import TraceUnorderedSet_ELBO
from pyro_ext.phylo import (
    SubsplitSupport,
    TreeSet,
    all_trees,
    parse_trees,
    read_trees,
    write_trees,
)
from pyro_ext.plotting import tree_probabilities, use_style

SMOKE_TEST = bool(os.environ.get("SMOKE_TEST"))
use_style()  # colours that are told apart with each kind of colour blindness
VISITS = 300  # the length of the chain
STEPS = 5 if SMOKE_TEST else 200
pyro.set_rng_seed(4)

# %% [markdown]
# ## A posterior to learn, and a file
#
# We make up a posterior, so that we know the true probabilities. Eight taxa fall into two groups of four, whose
# topologies are independent of each other: each of the 15 x 15 combinations has the product of two probabilities. A
# sample from this posterior, written in the format of MrBayes, serves as the file of the chain.

# %%
TAXA = ("Alces", "Bos", "Canis", "Delphinus", "Equus", "Felis", "Gorilla", "Homo")
halves = [
    TreeSet(half, all_trees(4, rooted=True), rooted=True).to_newick()
    for half in (TAXA[:4], TAXA[4:])
]
everything = parse_trees(
    "\n".join(f"({x[:-1]},{y[:-1]});" for x in halves[0] for y in halves[1]),
    rooted=False,
)
first, second = torch.distributions.Dirichlet(
    torch.full((15,), 0.4, dtype=torch.float64)
).sample((2,))
truth = (first.unsqueeze(-1) * second).flatten()
posterior = TreeFrequency.from_trees(everything, truth)
complete = SubsplitSupport.from_trees(everything)
print(
    f"{len(everything)} trees have a positive probability;",
    f"the largest is {truth.max():.3f}",
)

visits = TreeSet(TAXA, posterior.sample((VISITS,)))
counted = visits.unique()
share = counted.probabilities()
by_share = share.argsort(descending=True)
sample_file = Path(tempfile.mkdtemp()) / "run.trprobs"
write_trees(
    sample_file, TreeSet(TAXA, counted.parents[by_share], weights=share[by_share])
)
print("\n".join(line[:100] for line in sample_file.read_text().splitlines()[:14]))

# %% [markdown]
# ## Reading it
#
# `read_trees` reads Newick and NEXUS files with translate blocks, weights and comments, such as those of MrBayes and
# BEAST, plain or gzipped. A topology is one integer vector that holds the parent of every node; equal topologies have
# equal vectors.

# %%
trees = read_trees(sample_file)
print(trees)
print(
    trees[:1].to_newick()[0],
    "has the parents",
    trees.parents[0].tolist(),
    f"and the weight {trees.weights[0]:.3f}",
)

# %% [markdown]
# ## Fitting
#
# The *support* holds the subsplits that occur in the sample, each with its parent subsplit. The trees are unrooted, so
# the place of the root is a latent variable. The *simple average* takes all places of the root to be equally probable.
# *EM* maximises the likelihood of the sample; a Dirichlet prior of strength `alpha` reduces overfitting when the sample
# is small. EM is better for long runs; this run is short.

# %%
simple, _ = SubsplitBayesianNetwork.fit(trees)
em, history = SubsplitBayesianNetwork.fit(trees, method="em")
regularised, _ = SubsplitBayesianNetwork.fit(trees, method="em", alpha=0.1)
print(simple.subsplits)
print(
    f"EM: {history.num_iterations} iterations, "
    f"log-likelihood {history.log_likelihood[0]:.4f} to "
    f"{history.log_likelihood[-1]:.4f}"
)
counts = TreeFrequency.from_trees(trees)
estimates = {
    "counting": counts,
    "simple average": simple,
    "EM": em,
    "EM, alpha 0.1": regularised,
}
for name, estimate in estimates.items():
    kl = tree_kl(everything.parents, estimate, truth, floor=2.220446e-16)
    print(f"KL divergence of the posterior from {name:15} {kl:.4f}")

# %% [markdown]
# ## Trees never sampled
#
# Counting gives probability zero to every tree that is not in the file. The network gives such a tree a positive
# probability if the parts of the tree occur in other trees of the file.

# %%
seen = trees.unique().parents
is_seen = (everything.parents.unsqueeze(1) == seen).all(-1).any(-1)
log_prob = simple.log_prob(everything.parents)
print(
    f"{int((~is_seen).sum())} trees were never sampled; "
    f"together they have probability {truth[~is_seen].sum():.3f}, "
    f"and {log_prob[~is_seen].exp().sum():.3f} under the network"
)
best = (truth * ~is_seen).argmax()
print(f"the most probable of them, {everything[[int(best)]].to_newick()[0]}:")
print(f"posterior {truth[best]:.5f}, counting 0, network {log_prob[best].exp():.5f}")

fig, ax = plt.subplots(figsize=(5, 4.5), layout="constrained")
tree_probabilities(
    truth, log_prob, ax, seen=is_seen, xlabel="probability under the posterior"
)
plt.show()

# %% [markdown]
# ## More from a network
#
# A network also gives the probabilities of splits, samples of trees that have a given split, distinct trees sampled
# without replacement, and the probability of each place of the root.

# %%
clades, log_marginal = simple.clade_marginals()
for i in log_marginal.topk(4).indices:
    names = [
        taxon for taxon, inside in zip(TAXA, clades[i].tolist(), strict=True) if inside
    ]
    print(
        f"the split of {', '.join(names)} from the rest",
        f"has probability {log_marginal[i].exp():.3f}",
    )
given = simple.given_clade(["Gorilla", "Homo"])
print("given Gorilla and Homo together:", TreeSet(TAXA, given.sample((2,))).to_newick())
drawn = simple.sample_without_replacement(4)
print("four distinct trees:", TreeSet(TAXA, drawn.values).to_newick())
rootings = simple.log_prob_rootings(trees.parents[:1]).exp()
print(
    f"the first tree has probability {rootings.sum():.4f},",
    f"its most probable rooting {rootings.max():.4f}",
)

# %% [markdown]
# ## A guide over trees
#
# A tree is an ordinary Pyro sample site. As usual, the posterior is known up to a constant, and the guide learns its
# logits from sets of distinct trees: sampling without replacement works for trees as it does for categories.

# %%
logits = torch.zeros(complete.num_parameters, dtype=torch.float64, requires_grad=True)


def model():
    tree = pyro.sample("tree", UniformTopology(8, like=logits))
    pyro.factor("posterior", posterior.log_prob(tree))


def guide():
    pyro.sample("tree", SubsplitBayesianNetwork(complete, logits))


elbo, optimiser = (
    TraceUnorderedSet_ELBO(num_samples=8, max_plate_nesting=0),
    torch.optim.Adam([logits], lr=0.05),
)
for step in range(STEPS):
    optimiser.zero_grad()
    elbo.loss_and_grads(model, guide)
    optimiser.step()
    if step in (0, STEPS - 1):
        learnt = SubsplitBayesianNetwork(complete, logits.detach())
        kl = (
            learnt.log_prob(everything.parents).exp()
            * (learnt.log_prob(everything.parents) - truth.log())
        ).sum()
        print(
            f"step {step + 1}: KL divergence of the guide from the posterior {kl:.3f}"
        )
