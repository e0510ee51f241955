# ---
# jupyter:
#   jupytext:
#     text_representation:
#       format_name: percent
# ---

# %% [markdown]
# # Networks that find out which weights they do not need
#
# A trained network hardly needs most of its weights. Variational dropout (Kingma et al. 2015; Molchanov et al. 2017)
# finds out which: each weight gets a normal posterior with a mean and a variance of its own, and a prior that prefers
# no scale. Weights that do not help to explain the data end with a variance far above their squared mean, and are
# removed. Here the weights are ordinary sites of a Pyro program, the posterior is a guide, and the loss is an ELBO.

# %%
import logging
import os

import matplotlib.pyplot as plt
import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.infer import Trace_ELBO
from torch import nn

from pyro_ext.datasets import Splits, load
from pyro_ext.inference import AnalyticKL, FitSettings, KLWarmUp, fit
from pyro_ext.models.sparse_lenet import build
from pyro_ext.nn import AutoAdditiveNormal, bayesianize
from pyro_ext.ops.log_uniform import log_uniform_kl
from pyro_ext.plotting import use_style

SMOKE_TEST = bool(os.environ.get("SMOKE_TEST"))
use_style()  # colours that are told apart with each kind of colour blindness
logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)

# %% [markdown]
# ## A prior without a scale, and its divergence
#
# Under the log-uniform prior $p(w) \propto 1 / |w|$ a weight's logarithm is uniform. The divergence of
# $\mathcal{N}(\theta, \alpha\theta^2)$ from it depends on $\alpha$ alone: a precise weight costs about
# $\frac12 \log (1/\alpha)$ nats, pure noise costs nothing. The exact divergence is an integral of Dawson's function;
# two approximations are in use. The polynomial of the first paper was made for $\alpha \le 1$, where dropout lives, and
# is useless beyond, where pruning happens; the sum of a sigmoid and a logarithm of the second is right within .01
# everywhere.

# %%
log_alpha = torch.linspace(-8, 8, 400, dtype=torch.float64)
exact, approximate = log_uniform_kl(log_alpha, "exact"), log_uniform_kl(log_alpha)
alpha = log_alpha.exp()
constant = exact[log_alpha < -7.9].mean() + 0.5 * log_alpha[0]
polynomial = (
    constant
    - 0.5 * log_alpha
    - 1.16145124 * alpha
    + 1.50204118 * alpha**2
    - 0.58629921 * alpha**3
)

_, (left, right) = plt.subplots(1, 2, figsize=(10, 3.5), layout="constrained")
left.plot(log_alpha, exact, label="exact", color="black")
left.plot(log_alpha, approximate, "--", label="Molchanov et al.")
left.plot(log_alpha, polynomial, ":", label="Kingma et al., for α ≤ 1")
left.set(
    xlabel="log α",
    ylabel="nats",
    ylim=(-1, 5),
    title="divergence from the log-uniform prior",
)
left.legend(frameon=False)
right.plot(log_alpha, approximate - exact)
right.axhline(0, color="black", linewidth=0.8)
right.set(xlabel="log α", ylabel="nats", title="error of the approximation")
plt.show()
print(f"largest error {float((approximate - exact).abs().max()):.4f}")

# %% [markdown]
# ## Any network, any ELBO
#
# `bayesianize` turns the linear and convolutional layers of a plain network into layers whose weights are sites.
# `AutoAdditiveNormal` is the guide. Nothing else is special: the model opens a plate over the data and observes.
#
# Two things make it work. The gradient of a *sampled* divergence contains $1/w$, whose variance is infinite, so
# `AnalyticKL` puts the closed form into the model, for whatever linear ELBO there is. And layers draw their
# pre-activations rather than their weights (*local reparameterisation*): weights drawn by this guide know their mean
# and variance, and the layers look for them. Take the weights apart or draw them otherwise, and layers use them as
# they are.

# %%
torch.manual_seed(0)
pyro.set_rng_seed(0)
points = torch.randn(1000, 20)
# 18 inputs mean nothing
targets = torch.sin(2 * points[:, 0]) + points[:, 1].relu() + 0.3 * torch.randn(1000)
network = bayesianize(nn.Sequential(nn.Linear(20, 50), nn.Tanh(), nn.Linear(50, 1)))


class Regression(pyro.nn.PyroModule):
    """A network and Gaussian noise."""

    def __init__(self):
        super().__init__()
        self.network = network

    def forward(self, x, y):
        """Observe the targets of a batch, all of the data here."""
        mean = self.network(x).squeeze(-1)
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal(mean, 0.3), obs=y)


model = Regression()
guide = AutoAdditiveNormal(model, init_log_variance=-8.0)
warm_up = KLWarmUp(300, 1000)  # counts in full after 1,000 steps
programs = [
    warm_up.scaled(program) for program in AnalyticKL(strict=True).pair(model, guide)
]
guide(points, targets)
optimizer = torch.optim.Adam([*guide.parameters(), *model.parameters()], lr=1e-2)
for step in range(10 if SMOKE_TEST else 3000):
    warm_up.set_num_steps(step)
    optimizer.zero_grad()
    loss = Trace_ELBO().differentiable_loss(*programs, points, targets)
    loss.backward()
    optimizer.step()

for name, mask in guide.masks().items():
    print(f"{name}: {int(mask.sum())} of {mask.numel()} weights are left")

# %% [markdown]
# Of the first layer, most of which reads inputs that mean nothing, one weight in sixteen is left. In evaluation mode
# the guide returns the masked means, the weights of the network that one would deploy; its residuals are as large as
# the noise.

# %%
pruned = pyro.poutine.condition(network, data=guide.median())
with torch.no_grad():
    residual = pruned(points).squeeze(-1) - targets
print(
    "standard deviation of the residuals of the pruned network:",
    f"{float(residual.std()):.3f}",
)

# %% [markdown]
# ## Digits
#
# `sparse_lenet` is the network of the paper; here it reads the small digits that come with scikit-learn. Beside it
# stands the same network without priors.

# %%
EPOCHS = 1 if SMOKE_TEST else 80
digits = load("digits", num_train=200 if SMOKE_TEST else 1400, binarize=None)


def trained(data, estimator="sparse", epochs=EPOCHS, **options):
    """Train a network; return the plan and the metrics."""
    pyro.set_rng_seed(0)
    plan = build(data, estimator=estimator, epochs=epochs, **options)
    settings = FitSettings(max_epochs=epochs, batch_size=100, seed=0)
    result = fit(plan, data, settings, enable_progress_bar=False, accelerator="cpu")
    return result.plan, result.metrics


for estimator in ("sparse", "dense"):
    plan, metrics = trained(digits, estimator)
    print(
        f"{estimator}: error {metrics['error']:.1f} %,",
        f"compression {metrics['compression']:.0f}",
    )
    if estimator == "sparse":
        _, axes = plt.subplots(1, 3, figsize=(13, 3.5), layout="constrained")
        for ax, draw in zip(axes, plan.plots.values(), strict=True):
            draw(ax)
        plt.show()

# %% [markdown]
# Left: the ratios of noise to signal by layer, and the threshold. Weights fall into two groups, and where exactly one
# cuts between them does not matter, as the curve in the middle shows. Right: what is left of the first layer.
#
# ## Labels without meaning
#
# A network can memorise labels that were drawn at random (Zhang et al. 2017), and plain dropout does not prevent it.
# The divergence does: to memorise a label costs more nats than its likelihood gains, and no weights are left.

# %%
number = 100 if SMOKE_TEST else 500
generator = torch.Generator().manual_seed(1)
x = digits.train.x[:number]
random_labels = [
    (x, torch.randint(0, 10, (number,), generator=generator)) for _ in range(2)
]
random = Splits("random labels", *random_labels, image_shape=(8, 8))
shares = {}
for estimator in ("sparse", "multiplicative", "dense"):
    plan, metrics = trained(
        random, estimator, 1 if SMOKE_TEST else 300, init_log_variance=-6.0
    )
    own = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(*random_labels[0]), batch_size=500
    )
    shares[estimator] = (plan.evaluate(own)["error"], 100 - metrics["sparsity"])
    print(
        f"{estimator}: error on its own labels {shares[estimator][0]:.0f} %,",
        f"{shares[estimator][1]:.1f} % of weights",
    )

fig, ax = plt.subplots(figsize=(6, 3.5), layout="constrained")
places = np.arange(len(shares))
for offset, label, column in (
    (-0.2, "error on the labels trained on, %", 0),
    (0.2, "weights left, %", 1),
):
    ax.bar(
        places + offset, [share[column] for share in shares.values()], 0.4, label=label
    )
ax.set_xticks(places, [*shares])
ax.set_title("labels drawn at random")
ax.legend(frameon=False)
plt.show()

# %% [markdown]
# ## What to keep in mind
#
# * The prior is improper, so that there is no evidence of which the loss could be a bound (Hron et al. 2018). The loss
#   is a log-likelihood with a penalty, and useful as such.
# * Local reparameterisation is right for whatever is linear in the log-likelihoods of single data: ELBOs, not bounds of
#   several samples. A layer may be used once in a forward pass, and never inside the plate over data; both are refused.
# * Without warm-up the penalty removes weights before they have learnt anything: keep the warm-up.
# * Gradual pruning by magnitude (`estimator="magnitude"`) is simple, and usually about as good at the same sparsity.
#   What it does not have is a sparsity that follows from the data.
