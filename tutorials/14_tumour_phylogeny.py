# ---
# jupyter:
#   jupytext:
#     text_representation:
#       format_name: percent
# ---

# %% [markdown]
# # The phylogeny of a tumour, from the mutations of single cells
#
# The cells of a tumour descend from one cell, and on the way collect mutations. Sequencing single cells tells, with
# errors, which cell has which mutation. If each mutation arises once and is never lost, the true table of cells and
# mutations fits a tree, a *perfect phylogeny*; the observed one hardly ever does. This page takes the table of a real
# patient and asks three questions that Azer et al. (2020) answer by neural networks: does it have errors, does the tree
# have branches, and which entries are wrong? The last is a choice of entries to flip, one after the other: a pointer
# network draws them without replacement, and Pyro sees an autoregressive guide of categorical sites.

# %%
import logging
import os

import matplotlib.pyplot as plt
import pyro

from pyro_ext.datasets import MissingDataError, simulated_tumours, tumour
from pyro_ext.inference import (
    FitSettings,
    OptimizerSettings,
    TraceLeaveOneOut_ELBO,
    TraceUnorderedBeam_ELBO,
    fit,
    local_params,
)
from pyro_ext.models.tumour import branching, elimination, noise
from pyro_ext.models.tumour.elimination import denoise, draw_flips, greedy_search
from pyro_ext.models.tumour.prediction import predict_label
from pyro_ext.ops.mutations import count_conflicts
from pyro_ext.phylo import (
    MutationMatrix,
    maximum_likelihood_phylogeny,
    perfect_phylogeny,
    phylogeny_newick,
)
from pyro_ext.plotting import clone_tree, mutation_matrices, use_style

SMOKE_TEST = bool(os.environ.get("SMOKE_TEST"))
use_style()  # colours that are told apart with each kind of colour blindness
logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
QUIET = {"enable_progress_bar": False, "accelerator": "cpu"}
pyro.set_rng_seed(0)

# %% [markdown]
# ## A patient
#
# The table of a patient with triple-negative breast cancer has 16 cells and 20 mutations, with the published rates of
# errors below. Where it is not at hand (`PYRO_EXT_DATA` names the folder of data sets), a simulated one takes its
# place.

# %%
try:
    patient, rates = tumour("tnbc").matrix, (1.24e-6, 0.0973)
    if SMOKE_TEST:
        patient = patient.select(range(8), range(6, 14))
except MissingDataError:
    rates = (0.002, 0.1)
    simulated = simulated_tumours(
        num_train=1, num_valid=1, labels="matrix", cells=8, mutations=8
    )
    patient = MutationMatrix.of(simulated.train.x[0])
print(
    patient, f"{int(count_conflicts(patient.filled()))} pairs of mutations in conflict"
)

# %% [markdown]
# Two mutations are in conflict if some cell has both, some only the first, and some only the second: no tree has room
# for that. Red triangles mark mutations that are in conflict with another one.

# %%
_, ax = plt.subplots(figsize=(7, 6), layout="constrained")
mutation_matrices(
    patient.values, ax=ax, cells=patient.cells, mutations=patient.mutations
)
plt.show()

# %% [markdown]
# ## The exact answer
#
# With a false positive rate $\alpha$ and a false negative rate $\beta$ the most probable table without conflicts is an
# integer program. Weighted MaxSAT (python-sat) solves it for tables of this size, in time that may grow exponentially.

# %%
optimum = maximum_likelihood_phylogeny(patient, *rates)
print(
    f"optimum: {optimum.negative_log_likelihood:.2f} nats,",
    f"{optimum.gained} entries 0 -> 1, {optimum.lost} 1 -> 0",
)
_, ax = plt.subplots(figsize=(9, 6), layout="constrained")
clone_tree(perfect_phylogeny(optimum.matrix), ax=ax)
plt.show()

# %% [markdown]
# ## A network that flips entries
#
# The model gives a sequence $\pi$ of entries to flip the density
#
# $$p(\pi \mid X) \propto \exp\big(-\min_i [\gamma\,\mathrm{NLL}(A_i) + \mathrm{conflicts}(A_i)] / T\big),$$
#
# where $A_i$ is the table after the first $i$ flips. The guide is the pointer network: each flip is a
# `pyro.sample("flip_...", Categorical(...))` over the entries that are left. Any ELBO for autoregressive guides trains
# it: whole sequences drawn without replacement, independent ones with the mean of the others as baseline, or a critic.

# %%
size = 4 if SMOKE_TEST else 10
data = simulated_tumours(
    num_train=16 if SMOKE_TEST else 6400,
    num_valid=4 if SMOKE_TEST else 100,
    labels="matrix",
    cells=size,
    mutations=size,
)
options = (
    {"num_flips": 3, "width": 8, "num_heads": 2, "evaluation_samples": 2}
    if SMOKE_TEST
    else {"num_flips": 6}
)
plan = elimination.build(data, **options)
policy = plan.elbo_objectives[0].guide.policy
batch = data.train.__getitems__(range(8))
for elbo in (
    TraceUnorderedBeam_ELBO(4, max_plate_nesting=1),
    TraceLeaveOneOut_ELBO(4, vectorize_samples=False, max_plate_nesting=1),
):
    with local_params():
        print(
            type(elbo).__name__,
            f"{plan.with_elbo(elbo).elbo_objectives[0](*batch).total.item():.1f}",
        )

# %% [markdown]
# The pointer sees the table as the flips so far have left it, in a score that starts as that of greedy search: training
# begins near greedy search, and learns where that goes wrong. `elimination.build(data, width=128, num_heads=16,
# num_blocks=3, state=False)` is the published network, which sees the observed table alone and needs far longer.

# %%
settings = FitSettings(
    max_epochs=1 if SMOKE_TEST else 3, batch_size=8 if SMOKE_TEST else 32, seed=0
)
plan = plan.with_optimizer(OptimizerSettings("Adam", lr=3e-3))
result = fit(plan, data, settings, gradient_clip_val=1.0, **QUIET)
for name in (
    "denoised_cost",
    "greedy_cost",
    "conflict_free",
    "wrong",
    "observed_wrong",
):
    print(f"{name:15} {result.metrics[name]:.4f}")

# %% [markdown]
# ## The network's answer beside the exact one
#
# No size is built into the network, so that it takes the patient's table as it is. Sequences of flips are drawn, each
# followed to the first table without conflicts, and the most probable of these tables is the answer.

# %%
x = patient.values.unsqueeze(0)
found = denoise(policy, x, rates, num_samples=16 if SMOKE_TEST else 64, temperature=1.0)
greedy = greedy_search(x, *rates)
for name, answer in {"network": found, "greedy search": greedy}.items():
    print(
        f"{name:14} {float(answer.neg_log_likelihood):.2f} nats, "
        f"{int(answer.num_flips)} flips, "
        f"{int(answer.conflicts)} conflicts"
    )
answers = {
    "network": found.matrix,
    "greedy search": greedy.matrix,
    "optimum": optimum.matrix.values[None].bool(),
}
_, ax = plt.subplots(figsize=(7, 9), layout="constrained")
draw_flips(x, answers, ax=ax)
plt.show()

# %% [markdown]
# An answer without conflicts is a tree. Its nodes are clones with the numbers of their cells, its edges are named by
# their mutations. `pyro-ext tumour denoise TABLE.csv --run FOLDER --out FOLDER` does this from the command line.

# %%
answer = patient.replace(found.matrix[0])
if int(found.conflicts) == 0:
    tree = perfect_phylogeny(answer)
    print(phylogeny_newick(tree)[:200])
    _, ax = plt.subplots(figsize=(9, 6), layout="constrained")
    clone_tree(tree, ax=ax)
    plt.show()

# %% [markdown]
# Do not take the most probable table for the true one: it is *more* probable than the truth, since errors that make no
# conflict are left in, and others can be explained by fewer flips. In simulations the likelihood of the answer and the
# share of wrong entries are two different things.
#
# ## Errors and branches
#
# Two smaller questions have yes or no as an answer, and are learnt from simulated tables with labels: the simulator is
# the model, the network the guide, trained on draws of the joint distribution. One network tells tables with errors
# from those without, the other one phylogenies with branches from chains.

# %%
small = {
    "num_train": 64 if SMOKE_TEST else 5000,
    "num_valid": 32 if SMOKE_TEST else 500,
}
once = FitSettings(max_epochs=1 if SMOKE_TEST else 10, batch_size=32, seed=0)
shape = {"cells": min(10, patient.shape[0]), "mutations": min(10, patient.shape[1])}
answers = {}
for name, model in {"noise": noise, "branching": branching}.items():
    errors = (
        {"false_positive": 0.0, "false_negative": 0.0} if name == "branching" else {}
    )
    labelled = simulated_tumours(labels=name, **small, **shape, **errors)
    plan = model.build(labelled, width=16 if SMOKE_TEST else 100)
    result = fit(plan, labelled, once, **QUIET)
    network = plan.players[0].objective.modules_by_name["guide"].network
    answers[name] = predict_label(network, patient.values, num_samples=20)
    print(
        f"{name}: accuracy on held-out simulations {result.metrics['accuracy']:.3f}, "
        f"probability for the patient {answers[name].probability:.3f}"
    )

# %% [markdown]
# The networks take tables of 10 cells and 10 mutations; of a larger one, random parts are taken and their probabilities
# averaged. With the optimum at hand the second question has an answer of its own: the tree above either is a chain or
# has branches. Phyolin (2021) decides it by a constraint program in this way, and reports to be more accurate than the
# network.
#
# ## Where to go from here
#
# `pyro-ext fit tumour_elimination` trains on more tables, `pyro-ext fit tumour_branching` and `tumour_noise` train the
# others; `pyro-ext compare tumour_elimination --elbos Trace_ELBO,TraceUnorderedBeam_ELBO` measures the variance of
# gradient estimators of whole sequences on it.
