# ---
# jupyter:
#   jupytext:
#     text_representation:
#       format_name: percent
# ---

# %% [markdown]
# # From an alignment to a posterior over trees
#
# Aligned sequences do not determine one tree. They make some topologies more probable than others, and branch lengths
# remain uncertain. For six taxa this posterior can be computed topology by topology. This page does so, and then
# approximates the same posterior by a *variational phylogeny*, which scales to hundreds of taxa: a subsplit Bayesian
# network over topologies and log-normal branch lengths given the topology, trained together by stochastic gradients of
# a bound of the evidence.

# %%
import math
import os

import matplotlib.pyplot as plt
import pyro
import pyro.distributions as dist
import torch

from pyro_ext.distributions import SubsplitBayesianNetwork, TreeLikelihood
from pyro_ext.inference import TraceUnorderedSet_ELBO, TraceVIMCO_ELBO
from pyro_ext.inference.evidence import EvidenceSettings, estimate_evidence
from pyro_ext.models.phylo import FixedTopology, VariationalPhylogeny
from pyro_ext.phylo import (
    STATES,
    Alignment,
    SubsplitSupport,
    TreeSet,
    all_trees,
    parse_trees,
)
from pyro_ext.plotting import (
    branch_intervals,
    loss_curve,
    tree_probabilities,
    use_style,
)

SMOKE_TEST = bool(os.environ.get("SMOKE_TEST"))
use_style()  # colours that are told apart with each kind of colour blindness
SITES = 60 if SMOKE_TEST else 150
# for the integrals over branch lengths
FIT_STEPS, DRAWS = (50, 40) if SMOKE_TEST else (250, 1000)
STEPS, EVERY = (20, 10) if SMOKE_TEST else (2000, 100)  # for the variational phylogeny
torch.set_default_dtype(torch.float64)
# parameters stay in their modules, out of Pyro's global store
pyro.settings.set(module_local_params=True)
pyro.set_rng_seed(5)

# %% [markdown]
# ## An alignment
#
# Six sequences evolve along a tree with short inner branches, under the model of Jukes and Cantor. Few sites change on
# a short branch, so the topology remains uncertain. `TreeLikelihood` is the distribution of an alignment given a tree;
# sampling from it simulates an alignment.

# %%
TAXA = ("Alces", "Bos", "Canis", "Delphinus", "Equus", "Felis")
true_tree = parse_trees(
    "(Alces:.1,Bos:.1,((Canis:.1,Felis:.1):.02,(Delphinus:.1,Equus:.1):.02):.02);",
    rooted=False,
)
simulator = TreeLikelihood(
    true_tree.parents[0], true_tree.branch_lengths[0], weights=torch.ones(SITES)
)
states = simulator.sample().argmax(-1)
sequences = {
    taxon: "".join(STATES[state] for state in row)
    for taxon, row in zip(TAXA, states.tolist(), strict=True)
}
for taxon, sequence in sequences.items():
    print(f"{taxon:10} {sequence[:60]}...")
alignment = Alignment.from_sequences(sequences)
print(alignment)

# %% [markdown]
# ## The posterior, topology by topology
#
# There are 105 unrooted topologies of six taxa. They have equal prior probabilities, so the posterior probability of
# each is proportional to its *evidence*: the likelihood with the nine branch lengths integrated out. Likelihoods are
# batched over topologies, so that one Pyro program holds all 105 integrals in a plate. A log-normal guide is fitted to
# the posterior of the branch lengths of each topology, and importance sampling from these guides gives the integrals.

# %%
topologies = all_trees(6)
names = TreeSet(TAXA, topologies).to_newick()


def every_topology():
    with pyro.plate("topologies", len(topologies), dim=-1):
        lengths = pyro.sample("lengths", dist.Exponential(10.0).expand([9]).to_event(1))
        likelihood = TreeLikelihood(topologies, lengths, weights=alignment.weights)
        pyro.sample("alignment", likelihood, obs=alignment.patterns)


loc = torch.full((len(topologies), 9), -2.5, requires_grad=True)
log_scale = torch.full((len(topologies), 9), -1.0, requires_grad=True)


def lengths_guide():
    with pyro.plate("topologies", len(topologies), dim=-1):
        pyro.sample("lengths", dist.LogNormal(loc, log_scale.exp()).to_event(1))


bound, optimiser = (
    pyro.infer.Trace_ELBO(max_plate_nesting=1),
    torch.optim.Adam([loc, log_scale], lr=0.1),
)
for _ in range(FIT_STEPS):
    optimiser.zero_grad()
    bound.differentiable_loss(every_topology, lengths_guide).backward()
    optimiser.step()


@torch.no_grad()
def log_weights(num_draws):
    with pyro.plate("draws", num_draws, dim=-2):
        guide_trace = pyro.poutine.trace(lengths_guide).get_trace()
        model_trace = pyro.poutine.trace(
            pyro.poutine.replay(every_topology, guide_trace)
        ).get_trace()
    for trace in (guide_trace, model_trace):
        trace.compute_log_prob()
    joint = (
        model_trace.nodes["lengths"]["log_prob"]
        + model_trace.nodes["alignment"]["log_prob"]
    )
    return joint - guide_trace.nodes["lengths"]["log_prob"]


weights = torch.cat([log_weights(20) for _ in range(DRAWS // 20)])
log_evidence = weights.logsumexp(0) - math.log(DRAWS)
posterior = log_evidence.softmax(0)
evidence = float(log_evidence.logsumexp(0)) - math.log(len(topologies))
by_probability = posterior.argsort(descending=True)
for i in by_probability[:5]:
    print(f"{posterior[i]:.3f}  log-evidence {log_evidence[i]:.2f}  {names[i]}")
is_true = (topologies == true_tree.parents[0]).all(-1)
print(
    "the tree that generated the data has posterior probability",
    f"{posterior[is_true].item():.3f}",
)
print(f"log-evidence of the alignment, all topologies together: {evidence:.2f}")

# %% [markdown]
# `FixedTopology` is the same model for one topology, with any model of substitution, and `estimate_evidence` has
# further methods for the integral (tutorial 6 shows all nineteen). The two estimates agree:

# %%
best = int(by_probability[0])
one = FixedTopology(alignment, topologies[best])
settings = EvidenceSettings(num_importance=500 if SMOKE_TEST else 4000)
estimate = estimate_evidence(one, method="gamma_laplus_is", seed=0, settings=settings)
print(
    f"{log_evidence[best]:.2f} above,",
    f"{estimate.log_evidence:.2f} +- {estimate.std_error:.2f} by another method",
)

# %% [markdown]
# ## A variational phylogeny
#
# There are about 10^31 topologies of 27 taxa, too many for a list. A variational phylogeny needs no list: it composes
# topologies from the subsplits of a *support*, usually those of short runs of a sampler or of bootstrap trees. Branch
# lengths are log-normal, with parameters that belong to the splits, so that topologies share them. Here the support is
# complete. `TraceVIMCO_ELBO` maximises the bound of ten samples, $E \log \frac{1}{10} \sum_k w_k$, as published;
# `TraceUnorderedSet_ELBO` maximises the ordinary ELBO, with ten *distinct* topologies at each step.

# %%
support = SubsplitSupport.from_trees(topologies, taxa=TAXA)
print(support)
elbos = {
    "VIMCO, 10 samples": TraceVIMCO_ELBO(
        num_particles=10, max_plate_nesting=0, vectorize_particles=True
    ),
    "unordered set of 10": TraceUnorderedSet_ELBO(num_samples=10, max_plate_nesting=0),
}
fitted, curves = {}, {}
for name, elbo in elbos.items():
    pyro.set_rng_seed(1)
    fitted[name] = phylogeny = VariationalPhylogeny(alignment, support)
    optimiser = torch.optim.Adam(phylogeny.parameters(), lr=0.01)
    curves[name] = []
    for step in range(STEPS):
        if step % EVERY == 0:
            curves[name].append(
                float(phylogeny.lower_bound(num_particles=10, num_repeats=100).mean())
            )
        optimiser.zero_grad()
        elbo.loss_and_grads(phylogeny.model, phylogeny.guide)
        optimiser.step()

fig, ax = plt.subplots(figsize=(6, 4), layout="constrained")
loss_curve(
    curves,
    ax,
    epochs=range(0, STEPS, EVERY),
    ylabel="bound of 10 samples (nats)",
    xlabel="step",
)
ax.axhline(evidence, color="black", linewidth=0.8)
plt.show()

# %% [markdown]
# ## Comparison with the exact posterior
#
# A thousand samples of a fitted phylogeny estimate the evidence of the alignment, and its network gives each topology a
# probability. With both estimators the evidence is correct. The two bounds have different optima, though. The ELBO
# penalises every sample outside the posterior. The bound of ten samples is large as soon as some of the ten are good,
# so a network trained by VIMCO may be broader than the posterior of topologies. The divergences printed below show that
# it is broader here.

# %%
for name, phylogeny in fitted.items():
    network = SubsplitBayesianNetwork(support, phylogeny.guide.logits.detach())
    log_prob = network.log_prob(topologies)
    kl = float((posterior * (posterior.log() - log_prob)).sum())
    estimate = phylogeny.lower_bound(num_particles=1000, num_repeats=4)
    print(
        f"{name}: log-evidence {estimate.mean():.2f} +- {estimate.std():.2f},",
        f"exact {evidence:.2f}",
    )
    print(f"    KL divergence of the network from the posterior of topologies {kl:.3f}")

fig, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
tree_probabilities(posterior, log_prob, left, xlabel="posterior probability")
lengths = phylogeny.guide.lengths(topologies[[best]]).base_dist
quantiles = torch.stack(
    [lengths.icdf(torch.tensor(level))[0].detach() for level in (0.025, 0.5, 0.975)]
)
branch_intervals(
    quantiles, right, labels=[*TAXA[1:], *(f"inner {i}" for i in (1, 2, 3, 4))]
)
plt.show()

# %% [markdown]
# ## On real data
#
# The command line runs the published recipe on an alignment and any files of trees: 10 samples, 200,000 steps, a power
# of the likelihood that rises to 1 over the first 100,000 steps, and a learning rate that falls in steps.
#
# ```bash
# pyro-ext fit phylo --data DS1.fasta --trees short_runs/*/DS1.trprobs.gz --golden golden/*/DS1.trprobs.gz \
#     --seed 1 --out runs/ds1
# pyro-ext fit phylo --out runs/ds1 --resume  # after a break
# ```
#
# DS1, with 27 taxa and 1,949 sites, takes an hour or two on one core. The folder of results then holds the bounds of
# one and ten samples, importance-sampled estimates of the evidence (-7108.42 by stepping-stone sampling), the
# divergence of the topologies from those of the long runs given as `--golden`, plots of all these, and the file
# `network.npz`, which `pyro-ext sbn sample` and `pyro-ext sbn evaluate` read.
#
# The same run in Python:
#
# ```python
# from pyro_ext.datasets import alignment
# from pyro_ext.inference import FitSettings, fit
# from pyro_ext.models.phylo import build
#
# data = alignment("DS1.fasta")
# plan = build(data, trees=["rep_1/DS1.trprobs.gz", "rep_2/DS1.trprobs.gz"])
# result = fit(plan, data, FitSettings(max_epochs=200, seed=1), out="runs/ds1", check_val_every_n_epoch=10)
# ```

# %%
torch.set_default_dtype(torch.float32)
pyro.settings.set(module_local_params=False)
