# ---
# jupyter:
#   jupytext:
#     text_representation:
#       format_name: percent
# ---

# %% [markdown]
# # Labels and attention: summing over the few values that matter
#
# Two models in which one categorical variable decides everything else. In the first it is the class of an image, known
# for a few images and summed over, or sampled, for all others. In the second it is the place where a network looks: one
# of thousands. In both, the posterior soon sits on very few values, and an estimator that sums those and samples the
# rest (Liu et al., 2019) is close to the sum over all values at a fraction of its evaluations.

# %%
import os

import matplotlib.pyplot as plt
import pyro
from torch.utils.data import DataLoader

from pyro_ext.datasets import collate, digits, keep_few_labels, moving_digits
from pyro_ext.inference import (
    FitSettings,
    OptimizerSettings,
    TraceLeaveOneOut_ELBO,
    TraceSampleSet_ELBO,
    TraceSumAndSample_ELBO,
    TraceUnorderedSet_ELBO,
    fit,
)
from pyro_ext.inference.compare import Subject, compare_gradients
from pyro_ext.models import hard_attention, semi_supervised_vae
from pyro_ext.plotting import use_style

SMOKE_TEST = bool(os.environ.get("SMOKE_TEST"))
use_style()  # colours that are told apart with each kind of colour blindness
QUIET = {"enable_progress_bar": False, "accelerator": "cpu"}
WARM_START = 4 if SMOKE_TEST else 200  # the first steps see labelled images only
pyro.set_rng_seed(0)

# %% [markdown]
# ## A hundred labels
#
# `keep_few_labels` cuts the training images into two streams: those without labels, and the few that keep theirs. The
# model is M2 of Kingma et al. (2014): an image has a class and a style, and the guide holds a classifier
# $q(y \mid x)$ and an encoder $q(z \mid x, y)$. Where the label is known it is an observed site. Where it is not, the
# class is a latent site called `y`, and the ELBO decides what happens to it: here two evaluations of ten, the most
# probable class summed and one more drawn.
#
# Two options matter. The first `warm_start` steps see labelled images only, so that the decoder knows the classes
# before it is asked which one an image may have. And the classifier drops half of its hidden features in training
# (`dropout`): a classifier that knows its hundred images by heart is sure of all others too, its mistakes included,
# and images without labels have nothing left to change.

# %%
data = keep_few_labels(digits(num_train=300 if SMOKE_TEST else 1000), num_labels=100)
print(data.train)


def train(elbo, warm_start=WARM_START):
    pyro.set_rng_seed(1)
    plan = semi_supervised_vae.build(data, warm_start=warm_start).with_elbo(elbo)
    plan = plan.with_optimizer(OptimizerSettings("Adam", lr=2e-3))
    settings = FitSettings(max_epochs=6 if SMOKE_TEST else 60, batch_size=100, seed=0)
    return plan, fit(
        plan, data, settings, check_val_every_n_epoch=settings.max_epochs, **QUIET
    )


common = {"max_plate_nesting": 1, "analytic_kl": True}
elbos = {
    "all ten classes": TraceSampleSet_ELBO(estimator="exact", **common),
    "best class summed, one drawn": TraceSumAndSample_ELBO(
        num_samples=2, num_summed=1, **common
    ),
}
plans, results = {}, {}
for name, elbo in elbos.items():
    plans[name], results[name] = train(elbo)
_, results["labelled images only"] = train(elbos["all ten classes"], warm_start=10**6)
for name, result in results.items():
    print(
        f"{name}: accuracy {result.metrics['accuracy']:.3f},",
        f"bound {-result.metrics['neg_elbo']:.2f} nats",
    )

# %% [markdown]
# The first two end up alike, and both ahead of what a hundred labels alone can teach: images without labels show the
# decoder what a digit of a class looks like, and the classifier learns from that. Held-out images with their
# reconstructions, and below styles drawn from the prior, one in each row, in all ten classes:

# %%
fig, axes = plt.subplots(2, 1, figsize=(7, 5.5), height_ratios=(2, 5))
for ax, plot in zip(axes, ("reconstruction", "analogies"), strict=True):
    plans["best class summed, one drawn"].plots[plot](ax=ax)
plt.show()

# %% [markdown]
# ## Why so little is lost
#
# After training the classifier is sure of most images, so that nearly all of the sum is in its first term. The
# gradients of four estimators, at the same weights and on the same batch; the style is drawn in all of them, so that
# even the sum over ten classes has some variance:

# %%
plan = plans["all ten classes"]
bound = plan.elbo_objectives[0]
# nothing is dropped: two gradients differ by their draws of classes and styles
bound.guide.eval()
first, second = data.train.first, data.train.second
subject = Subject(
    bound.model,
    bound.guide,
    (first.__getitems__(range(100)), second.__getitems__(range(50))),
    bound.size,
)
figures = compare_gradients(
    {
        **elbos,
        "two distinct ones": TraceUnorderedSet_ELBO(num_samples=2, **common),
        "two independent ones": TraceLeaveOneOut_ELBO(num_samples=2, **common),
    },
    subject,
    repeats=10 if SMOKE_TEST else 200,
)
for name, of_one in figures.items():
    print(
        f"{name:30s} log variance {of_one.log_variance['encoder']:6.2f},",
        f"{of_one.milliseconds:5.1f} ms",
    )

# %% [markdown]
# ## Where to look
#
# Now a digit lies somewhere on a canvas, and its position is a single categorical site with one value for each pixel.
# The guide is a convolutional network that scores all positions, and an encoder of the crop at one of them; the decoder
# draws the digit back at that place. Evaluating a position costs a pass of encoder and decoder, so the sum over all of
# them is out of the question. Nothing tells the model where digits are: it finds out because a window that covers the
# digit makes the canvas more probable.

# %%
size = (
    {"canvas": 24, "digit_size": 12, "num_train": 100}
    if SMOKE_TEST
    else {"canvas": 48, "digit_size": 20}
)
canvases = moving_digits(**size)
loader = DataLoader(canvases.valid, 100, collate_fn=collate)
plan = hard_attention.build(canvases, window=size["digit_size"])
plan = plan.with_optimizer(OptimizerSettings("Adam", lr=3e-3))
print(
    "positions:",
    size["canvas"] ** 2,
    "- evaluated in a step:",
    plan.elbo_objectives[0].elbo.options.num_samples,
)
before = plan.evaluate(loader)
fig, axes = plt.subplots(2, 1, figsize=(9, 3.2))
plan.plots["attention"](ax=axes[0])
EPOCHS = 2 if SMOKE_TEST else 15
settings = FitSettings(max_epochs=EPOCHS, batch_size=50, seed=0)
result = fit(plan, canvases, settings, check_val_every_n_epoch=EPOCHS, **QUIET)
plan.plots["attention"](ax=axes[1])
axes[1].set_title("")
plt.show()

# %% [markdown]
# Above: where it looked before training; below: after. The square need not be centred on the cross: where in its
# window the digit stands is for the model to choose, as long as it is the same for all. `near_aligned` is the share of
# canvases on which the digit is found within a pixel once the best common shift has been undone.

# %%
for name in ("neg_elbo", "position_entropy", "near", "near_aligned"):
    print(f"{name:18s} {before[name]:9.3f} -> {result.metrics[name]:9.3f}")
plan.plots["reconstruction"]()

# %% [markdown]
# ## What to take away
#
# * A label that is known is an observed site, and one that is not is a latent site: a model with few labels is one
#   program, and how the unknown ones are treated is the choice of an ELBO.
# * Where the support is small, `TraceSampleSet_ELBO(estimator="exact")` sums over it. Where a pass of the network is
#   what costs, `TraceSumAndSample_ELBO(num_samples=2, num_summed=1)` comes close once the posterior is concentrated.
# * Where the support is large, any of the estimators works, as long as each evaluation is cheap: crops and placements
#   are gathered and scattered for all samples and images at once (`pyro_ext.ops.windows`).
# * From the command line: `pyro-ext fit semi_supervised_vae --data.num_labels 100`, and
#   `pyro-ext compare hard_attention` for bias, variance and time of the estimators.
