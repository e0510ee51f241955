# ---
# jupyter:
#   jupytext:
#     text_representation:
#       format_name: percent
# ---
# %% [markdown]
# # Topics of documents
#
# Six words of each document are given. Every word comes from one of three topics, and a document has shares of the
# topics of its own. The topics of the words are discrete latent variables, the shares a continuous one.
#
# Reference: all 729 ways to give six words topics, the shares integrated out.

# %%
import os
from itertools import product

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.ops.indexing import Vindex
from torch.distributions import constraints

from pyro_ext.inference import TraceUnorderedSet_ELBO, TraceVIMCO_ELBO

SMOKE_TEST = bool(os.environ.get("SMOKE_TEST"))
STEPS, REPEATS = (20, 20) if SMOKE_TEST else (800, 300)
WORDS = ["goal", "team", "bank", "share", "tree", "river"]
TOPICS = torch.tensor(
    [
        [0.4, 0.4, 0.05, 0.05, 0.05, 0.05],
        [0.05, 0.15, 0.4, 0.3, 0.05, 0.05],
        [0.02, 0.03, 0.25, 0.1, 0.3, 0.3],
    ]
)
ALPHA = torch.tensor([0.5, 0.5, 0.5])
TEXTS = [
    "goal team team goal team share",
    "bank share share bank team bank",
    "river bank tree tree river bank",
]
TEXTS += ["bank bank share river tree goal"]
words = torch.tensor([[WORDS.index(word) for word in text.split()] for text in TEXTS])
DOCUMENTS, LENGTH = words.shape


def model():
    with pyro.plate("documents", DOCUMENTS, dim=-2):
        shares = pyro.sample("shares", dist.Dirichlet(ALPHA))
        with pyro.plate("words", LENGTH, dim=-1):
            z = pyro.sample("topic", dist.Categorical(shares))
            pyro.sample("word", dist.Categorical(Vindex(TOPICS)[z]), obs=words)


def guide():
    concentration = pyro.param(
        "concentration", torch.ones(DOCUMENTS, 1, 3), constraint=constraints.positive
    )
    logits = pyro.param("logits", torch.zeros(DOCUMENTS, LENGTH, 3))
    with pyro.plate("documents", DOCUMENTS, dim=-2):
        pyro.sample("shares", dist.Dirichlet(concentration))
        with pyro.plate("words", LENGTH, dim=-1):
            pyro.sample("topic", dist.Categorical(logits=logits))


# %% [markdown]
# ## The reference

# %%
ways = torch.tensor([*product(range(3), repeat=LENGTH)])
counts = torch.nn.functional.one_hot(ways, 3).sum(1)
log_prior = (
    (counts + ALPHA).lgamma().sum(-1) - ALPHA.lgamma().sum() + ALPHA.sum().lgamma()
)
log_prior = log_prior - (ALPHA.sum() + LENGTH).lgamma()
log_joint = log_prior + TOPICS.log()[ways, words[:, None]].sum(-1)  # (documents, ways)
log_evidence = float(log_joint.logsumexp(-1).mean())
shares = (log_joint.softmax(-1) @ (counts + ALPHA)) / (ALPHA.sum() + LENGTH)

# %% [markdown]
# ## Three ELBOs
#
# The guide knows nothing of how topics and shares depend on each other, so its bound stays below the evidence, however
# well it is fitted. The bound of sixteen samples is higher.


# %%
def train(elbo, samples=1):
    """Return the bound per document of a number of samples, and mean shares."""
    pyro.set_rng_seed(0)
    pyro.clear_param_store()
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.03}), elbo)
    for _ in range(STEPS):
        svi.step()
    many = TraceVIMCO_ELBO(samples, vectorize_particles=True, max_plate_nesting=2)
    with torch.no_grad():
        bound = (
            -sum(many.loss(model, guide) for _ in range(REPEATS)) / REPEATS / DOCUMENTS
        )
    concentration = pyro.param("concentration").detach()[:, 0]
    return bound, concentration / concentration.sum(-1, keepdim=True)


pyros, pyros_shares = train(
    Trace_ELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=2)
)
# the line that differs
ours, our_shares = train(TraceUnorderedSet_ELBO(num_samples=3, max_plate_nesting=2))
# or this one
several, _ = train(
    TraceVIMCO_ELBO(16, vectorize_particles=True, max_plate_nesting=2), 16
)

print(f"all {len(ways)} ways             log evidence per document {log_evidence:.3f}")
for name, bound in {
    "Trace_ELBO": pyros,
    "TraceUnorderedSet_ELBO": ours,
    "TraceVIMCO_ELBO, 16": several,
}.items():
    print(f"{name:24} bound {bound:25.3f}")
for text, exact, found in zip(TEXTS, shares, our_shares, strict=True):
    print(
        f"{text:32} shares {exact.numpy().round(2)},",
        f"by TraceUnorderedSet_ELBO {found.numpy().round(2)}",
    )
FIGURES = {"log evidence per document": (log_evidence, several, pyros)}

# %% [markdown]
# - Blei, Ng and Jordan 2003, *Latent Dirichlet allocation*, Journal of Machine Learning Research 3, pages 993 to 1022.
