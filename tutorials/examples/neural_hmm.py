# ---
# jupyter:
#   jupytext:
#     text_representation:
#       format_name: percent
# ---
# %% [markdown]
# # A hidden Markov model with a neural emission
#
# Sequences of eight points in the plane come from three hidden states; a network says where each state's points lie.
# The states of a sequence are discrete latent variables that depend on each other. The guide is a Markov chain as well,
# whose probabilities a recurrent network reads off the rest of the sequence.
#
# Reference: the forward algorithm sums over all 6,561 sequences of states.

# %%
import os

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, Trace_ELBO
from torch import nn

from pyro_ext.inference import TraceUnorderedBeam_ELBO

SMOKE_TEST = bool(os.environ.get("SMOKE_TEST"))
STEPS = 8 if SMOKE_TEST else 150
STATES, LENGTH, SEQUENCES, NOISE = 3, 8, 40, 0.5
pyro.set_rng_seed(0)

# %%
MEANS = torch.tensor([[1.5, 0.0], [-1.0, 1.2], [-1.0, -1.2]])
MOVES = 0.7 * torch.eye(STATES) + 0.1
state = dist.Categorical(torch.ones(STATES)).sample((SEQUENCES,))
x = []
for _ in range(LENGTH):
    x.append(dist.Normal(MEANS[state], NOISE).sample())
    state = dist.Categorical(MOVES[state]).sample()
x = torch.stack(x)  # (length, sequences, 2)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.emission = nn.Sequential(
            nn.Embedding(STATES, 16), nn.Tanh(), nn.Linear(16, 2)
        )
        self.moves = nn.Parameter(torch.eye(STATES))

    def forward(self, x):
        pyro.module("model", self)
        with pyro.plate("sequences", x.shape[1]):
            state = None
            for t, now in enumerate(x):
                logits = torch.zeros(STATES) if state is None else self.moves[state]
                state = pyro.sample(f"z_{t}", dist.Categorical(logits=logits))
                pyro.sample(
                    f"x_{t}",
                    dist.Normal(self.emission(state), NOISE).to_event(1),
                    obs=now,
                )

    def log_likelihood(self, x):
        """Return the log-likelihood of each sequence by the forward algorithm."""
        log_emission = (
            dist.Normal(self.emission(torch.arange(STATES)), NOISE)
            .to_event(1)
            .log_prob(x[:, :, None])
        )
        forward = log_emission[0] - torch.tensor(float(STATES)).log()
        for now in log_emission[1:]:
            joint = forward[..., None] + self.moves.log_softmax(-1)
            forward = joint.logsumexp(-2) + now
        return forward.logsumexp(-1)


class Guide(nn.Module):
    def __init__(self):
        super().__init__()
        self.rest = nn.GRU(2, 16)
        self.scores, self.after = nn.Linear(16, STATES), nn.Embedding(STATES, STATES)

    def forward(self, x):
        pyro.module("guide", self)
        # of each step, from the rest of the sequence
        scores = self.scores(self.rest(x.flip(0))[0].flip(0))
        with pyro.plate("sequences", x.shape[1]):
            state = None
            for t, own in enumerate(scores):
                logits = own if state is None else own + self.after(state)
                state = pyro.sample(f"z_{t}", dist.Categorical(logits=logits))


# %% [markdown]
# ## Three ways to the same parameters
#
# The forward algorithm gives the exact gradient of the likelihood. The two ELBOs see eight sequences of states each.


# %%
def train(elbo=None):
    """Return the log-likelihood per sequence at the parameters that are reached."""
    pyro.set_rng_seed(1)
    pyro.clear_param_store()
    model, guide = Model(), Guide()
    if elbo is None:
        optimiser = torch.optim.Adam(model.parameters(), lr=0.02)
        for _ in range(STEPS):
            optimiser.zero_grad()
            (-model.log_likelihood(x).mean()).backward()
            optimiser.step()
    else:
        svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.02}), elbo)
        for _ in range(STEPS):
            svi.step(x)
    with torch.no_grad():
        return float(model.log_likelihood(x).mean())


reference = train()
pyros = train(
    Trace_ELBO(num_particles=8, vectorize_particles=True, max_plate_nesting=1)
)
# the line that differs
ours = train(TraceUnorderedBeam_ELBO(num_samples=8, max_plate_nesting=1))

print(f"forward algorithm        log-likelihood per sequence {reference:.3f}")
print(f"Trace_ELBO               log-likelihood per sequence {pyros:.3f}")
print(f"TraceUnorderedBeam_ELBO  log-likelihood per sequence {ours:.3f}")
FIGURES = {"log-likelihood per sequence": (reference, ours, pyros)}

# %% [markdown]
# - Rabiner 1989, *A tutorial on hidden Markov models and selected applications in speech recognition*,
#   [doi 10.1109/5.18626](https://doi.org/10.1109/5.18626).
