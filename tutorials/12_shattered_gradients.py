# ---
# jupyter:
#   jupytext:
#     text_representation:
#       format_name: percent
# ---

# %% [markdown]
# # Shattered gradients
#
# With good initial weights and batch normalisation the gradients of a deep network neither vanish nor explode. Still,
# networks of fifty layers are hard to train without skip connections. Balduzzi et al. (2017) looked at another property
# of gradients: how much they have in common at two inputs that are close to each other. In deep networks of rectifiers
# it is next to nothing: the gradient is like white noise, and a step that helps one input says little about its
# neighbours. This page shows such gradients, measures them, and trains networks of many layers that do not have the
# problem, because before training they are linear.

# %%
import logging
import os
import warnings

import matplotlib.pyplot as plt
import numpy as np
import pyro
import torch

from pyro_ext.datasets import load
from pyro_ext.inference import FitSettings, fit
from pyro_ext.models.looks_linear import (
    autocorrelation_by_depth,
    build,
    deep_network,
    freeze_batch_norm,
    scalar_network,
)
from pyro_ext.nn import (
    CReLU,
    assert_looks_linear,
    autocorrelation,
    gradient_autocorrelation,
    gradient_correlation,
    input_gradients,
    looks_linear_,
)
from pyro_ext.plotting import (
    autocorrelation_curve,
    correlation_by_depth,
    gradient_trace,
    use_style,
)

SMOKE_TEST = bool(os.environ.get("SMOKE_TEST"))
use_style()  # colours that are told apart with each kind of colour blindness
DRAWS, WIDTH = (1, 50) if SMOKE_TEST else (20, 200)
logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
warnings.filterwarnings("ignore", message="only .* are classified correctly")

# %% [markdown]
# ## Gradients of a function of one variable
#
# Take a network $f: \mathbb{R} \to \mathbb{R}$ with random weights, 256 points in $[-2, 2]$, and the gradient $f'(x)$
# at each of them. `scalar_network` builds such networks; batch normalisation uses the statistics of all 256 points.

# %%
pyro.set_rng_seed(0)
shown = {
    "1 layer": scalar_network("relu_batch_norm", 1, WIDTH),
    "24 layers": scalar_network("relu_batch_norm", 24, WIDTH),
    "50 layers": scalar_network("relu_batch_norm", 50, WIDTH),
    "50 layers, residual": scalar_network(
        "residual_batch_norm", 50, WIDTH, residual_scale=0.1
    ),
}
fig, axes = plt.subplots(1, 4, figsize=(15, 3), layout="constrained", sharey=True)
for ax, (name, net) in zip(axes, shown.items(), strict=True):
    x, gradient = input_gradients(net)
    gradient_trace({"": gradient.numpy()}, x.numpy(), ax).set_title(name, fontsize=9)
plt.show()

# %% [markdown]
# One layer looks like brown noise (a random walk): the gradient changes a little from point to point. With 24 and with
# 50 layers it looks like white noise. Skip connections with a small factor, here 0.1, keep it smooth at 50 layers.
#
# ## The autocorrelation
#
# With $z_i$ the gradient at point i minus the mean, the autocorrelation at lag k is
# $\sum_i z_i z_{i+k} / \sum_i z_i^2$. White noise has 0 at all lags but the first one; an affine function, whose
# gradient does not change, has 1 by definition.

# %%
noise = torch.randn(20, 256)
kinds = {
    "rectifiers, 24": ("relu", 24, None),
    "rectifiers + batch norm, 24": ("relu_batch_norm", 24, None),
    "residual + batch norm, 50, factor 1": ("residual_batch_norm", 50, 1.0),
    "residual + batch norm, 50, factor .1": ("residual_batch_norm", 50, 0.1),
    "CReLU, 50": ("crelu", 50, None),
    "looks-linear, 50": ("looks_linear", 50, None),
}
curves = {
    name: torch.stack(
        [
            gradient_autocorrelation(scalar_network(kind, depth, WIDTH, scale))
            for _ in range(DRAWS)
        ]
    )
    for name, (kind, depth, scale) in kinds.items()
}
curves |= {
    "white noise": autocorrelation(noise),
    "brown noise": autocorrelation(noise.cumsum(-1)),
}
fig, axes = plt.subplots(1, 2, figsize=(13, 4), layout="constrained", sharey=True)
by_depth = autocorrelation_by_depth("relu_batch_norm", draws=DRAWS, width=WIDTH)
autocorrelation_curve(by_depth, axes[0]).set_title(
    "rectifiers with batch norm", fontsize=9
)
autocorrelation_curve(curves, axes[1]).set_title("kinds of networks", fontsize=9)
plt.show()

# %% [markdown]
# The deeper, the whiter. Without batch norm the gradients of 24 layers are *not* white: what shatters them is the
# combination of depth and normalisation. The reason is in the next section.
#
# ## The theory
#
# Normalised features are positive half of the time, so that a rectifier is active for half of the inputs, and for a
# quarter of the pairs of unrelated inputs it is active for both. Each layer then halves the correlation of the
# gradients at the two inputs: after L layers it is $2^{-L}$. Around a skip connection the correlation is multiplied by
# 3/4 only, which gives $(3/4)^L$. Without batch norm features become alike in deeper layers, units are active for both
# inputs more often, and gradients have more in common than the theory says.

# %%
LAYERS = (1, 2, 4, 8)
inputs = torch.randn(32, WIDTH) if SMOKE_TEST else torch.randn(128, WIDTH)


def correlations(kind, scale=None):
    """Correlations of gradients at unrelated inputs, averaged over initialisations."""
    values = []
    for layers in LAYERS:
        draws = []
        for _ in range(DRAWS):
            residual = kind == "residual"
            net = deep_network(
                kind, layers + 1 + residual, WIDTH, 1, WIDTH, residual_scale=scale
            )
            if residual:
                # a rectifier behind the last skip connection; the theory has none
                del net[-2]
            draws.append(
                float(gradient_correlation(freeze_batch_norm(net, inputs), inputs))
            )
        values.append(np.mean(draws))
    return values


measured = {
    "rectifiers + batch norm": correlations("relu_batch_norm"),
    "rectifiers": correlations("relu"),
    "residual, factor 1": correlations("residual", 1.0),
}
theory = {
    "$2^{-L}$": lambda layers: 0.5**layers,
    "$(3/4)^L$": lambda layers: 0.75**layers,
}
fig, ax = plt.subplots(figsize=(6, 4), layout="constrained")
correlation_by_depth(measured, LAYERS, theory, ax)
plt.show()

# %% [markdown]
# ## Networks that look linear
#
# The concatenated rectifier keeps both halves of its input, $\mathrm{CReLU}(x) = [\max(x, 0), \max(-x, 0)]$. A layer
# with mirrored weights $[W_0, -W_0]$ puts them together again: $[W_0, -W_0]\,\mathrm{CReLU}(x) = W_0 x$. A network of
# such layers is an affine map, at any depth, until training moves the two halves of its weights apart. With orthogonal
# $W_0$ it also keeps lengths. `looks_linear_` initialises any network of linear and convolutional layers so, and
# `assert_looks_linear` says by which layer a network is not what it should be.

# %%
layers = [torch.nn.Linear(1, WIDTH), CReLU()]
for _ in range(48):
    layers += [torch.nn.Linear(2 * WIDTH, WIDTH), CReLU()]
net = looks_linear_(
    torch.nn.Sequential(*layers, torch.nn.Linear(2 * WIDTH, 1)).double()
)
assert_looks_linear(net)
_, gradient = input_gradients(net)
print(f"50 layers, gradients from {gradient.min():.12f} to {gradient.max():.12f}")

# %% [markdown]
# ## Does it matter?
#
# Digits of 8 x 8 pixels, dense networks of 48 features a layer, all trained alike: Adam at 3e-4, which falls by 0.7
# after each epoch, batches of 50, gradients clipped at 1, 8 epochs. Each network is a Pyro program, with weights as
# parameters and labels observed. Depths of this page are moderate, so that it takes a minute or two;
# `benchmarks/looks_linear.py` goes to 200 layers.

# %%
data = load("digits", binarize=None, mixed=True, num_train=200 if SMOKE_TEST else 1500)
depths = (4,) if SMOKE_TEST else (20, 60)
epochs = 1 if SMOKE_TEST else 8
quiet = {
    "enable_progress_bar": False,
    "check_val_every_n_epoch": epochs,
    "gradient_clip_val": 1.0,
}
print(f"{'accuracy':22s}" + "".join(f"{depth:4d} layers" for depth in depths))
for kind in (
    "looks_linear",
    "crelu",
    "relu",
    "relu_batch_norm",
    "linear",
    "residual_batch_norm",
):
    accuracies = []
    for depth in depths:
        pyro.set_rng_seed(0)
        plan = build(data, kind=kind, depth=depth)
        result = fit(
            plan, data, FitSettings(max_epochs=epochs, batch_size=50, seed=0), **quiet
        )
        accuracies.append(result.metrics["accuracy"])
    print(f"{kind:22s}" + "".join(f"{accuracy:11.3f}" for accuracy in accuracies))

# %% [markdown]
# The deep looks-linear network learns as if it were shallow. The linear network shows what orthogonal weights alone
# give; what the looks-linear network has above that is what its rectifiers learnt. Rectifiers with batch norm, whose
# gradients are white, learn almost nothing in this time, and skip connections repair that.
#
# ## Where to go from here
#
# * From a shell: `pyro-ext fit looks_linear --model.depth 200`, or with convolutions, `--model.architecture
#   convolutional --model.width 8`. The run's plots show the gradient between two held-out images, and the
#   autocorrelation by depth.
# * `gradient_autocorrelation(f)` takes any function of one variable, such as a network of yours along a line.
# * `looks_linear_` leaves batch norm in a network alone, but the network is not linear then: leave it out.
