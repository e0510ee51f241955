# ---
# jupyter:
#   jupytext:
#     text_representation:
#       format_name: percent
# ---

# %% [markdown]
# # Few labels and a generator
#
# Labels cost more than images. A generative adversarial network can make use of images without labels in a roundabout
# way: a generator makes images of noise, and the classifier has to tell them from real ones beside its own task. To
# do so it must learn what real images look like, labelled or not. This page builds such a classifier for digits with
# 50 labels (Salimans et al., 2016), looks at what makes the game work, and at how to see that a generator has
# collapsed.

# %%
import logging
import os
import warnings

import matplotlib.pyplot as plt
import pyro
import torch
from pyro import poutine
from torch import nn
from torch.nn import functional as F

from pyro_ext.datasets import keep_few_labels, load
from pyro_ext.inference import FitSettings, FitWarning, fit
from pyro_ext.models.gan import (
    Discriminator,
    DiscriminatorNetwork,
    SoftTargetBernoulli,
    build,
    classifier_scores,
    diagnose,
    draw_samples,
)
from pyro_ext.nn import (
    MinibatchDiscrimination,
    VirtualBatchNorm,
    WithReferenceBatch,
    initialize_from_data_,
)
from pyro_ext.plotting import image_grid, use_style

SMOKE_TEST = bool(os.environ.get("SMOKE_TEST"))
use_style()  # colours that are told apart with each kind of colour blindness
EPOCHS = 1 if SMOKE_TEST else 100
logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
warnings.simplefilter("ignore", FitWarning)

# %% [markdown]
# ## Two streams of images
#
# `keep_few_labels` keeps five labels of each digit. All 1,500 training images go into the stream without labels, the
# 50 labelled ones into the other. A batch has 100 images of each stream.

# %%
digits = load("digits", binarize=None, mixed=True)
data = keep_few_labels(digits, num_labels=50, labelled_batch_size=100, unlabelled="all")
print(data.train)
_, ax = plt.subplots(figsize=(5, 2.8))
image_grid(
    data.train.second.x[data.train.second.y.argsort()]
    .reshape(10, 5, 8, 8)
    .transpose(0, 1),
    ax,
)
ax.set_title("all labelled images", fontsize=9)
plt.show()

# %% [markdown]
# ## The discriminator is a Pyro program
#
# A classifier of $K$ classes has logits $l(x) \in \mathbb{R}^K$. Give it one more class, that of generated images,
# whose logit is always zero. Then an image is real with probability
# $$D(x) = \frac{Z(x)}{Z(x) + 1}, \qquad Z(x) = \sum_{k=1}^K e^{l_k(x)},$$
# and a real image has the class probabilities $\mathrm{softmax}(l)$. As a program: a categorical site for the labels,
# and Bernoulli sites for what is real. What is minimised is minus its log-probability.

# %%
program = Discriminator(DiscriminatorNetwork(nn.Identity(), nn.Linear(64, 10)))
x, labels = data.train.second.x[:20], data.train.second.y[:20]
noise = torch.rand(20, 64)
trace = poutine.trace(program).get_trace(x, labels, data.train.first.x[:20], noise)
for name, site in trace.nodes.items():
    if site["type"] == "sample" and name in ("y", "is_real", "is_generated"):
        print(
            f"{name:12s} {type(site['fn']).__name__:20s}",
            f"observed at {site['value'][:4].tolist()} ...",
        )
print(f"loss: {-trace.log_prob_sum():.4f}")

# %% [markdown]
# The same number from the $K + 1$ probabilities, written out:

# %%
with torch.no_grad():
    k_plus_one = [
        F.pad(program.network(images), (0, 1)).softmax(-1)
        for images in (data.train.first.x[:20], noise)
    ]
    real, generated = (
        (1 - k_plus_one[0][:, 10]).log().mean(),
        k_plus_one[1][:, 10].log().mean(),
    )
    classified = F.cross_entropy(program.network(x), labels)
    print(f"loss: {classified - 0.5 * real - 0.5 * generated:.4f}")

# %% [markdown]
# Real images may be observed at a target $\alpha$ a little below one (one-sided label smoothing). The best
# discriminator is then $D^* = \alpha\, p / (p + g)$, with p and g the densities of real and of generated images. Were
# the targets of generated images smoothed as well, g would appear in the numerator, and images that are far from all
# real ones would look attractive to the generator. Pyro refuses to observe a Bernoulli site at 0.9;
# `SoftTargetBernoulli` takes it.

# %%
site = SoftTargetBernoulli(logits=torch.linspace(-4, 6, 200))
for alpha in (1.0, 0.9, 0.75):
    loss = -site.log_prob(torch.tensor(alpha))
    plt.plot(
        site.probs,
        loss,
        label=f"target {alpha:g}, best at D = {site.probs[loss.argmin()]:.2f}",
    )
plt.xlabel("D of a real image")
plt.ylabel("loss, nats")
plt.ylim(0, 3)
plt.legend()
plt.show()

# %% [markdown]
# ## Three ways to learn from 50 labels
#
# `supervised` is the same discriminator without a generator. With `feature_matching` the generator makes the mean
# features of its images (the last hidden layer) those of real ones, and with `standard` it maximises $\log D(G(z))$.
# There are two players: each has an optimiser, and its steps never touch the parameters of the other one.

# %%
plans, metrics, course = {}, {}, {}
for method in ("supervised", "feature_matching", "standard"):
    pyro.set_rng_seed(0)
    plan = plans[method] = build(data, method=method, epochs=EPOCHS)
    settings = FitSettings(max_epochs=EPOCHS, batch_size=100, seed=0)
    result = fit(
        plan,
        data,
        settings,
        accelerator="cpu",
        enable_progress_bar=False,
        check_val_every_n_epoch=max(1, EPOCHS // 10),
    )
    metrics[method] = result.metrics
    course[method] = [
        (row["epoch"], row["error"]) for row in result.history if "error" in row
    ]
    print(
        f"{method:17s} {result.metrics['error']:5.1f} % of {len(data.valid)}",
        "held-out images are classified wrongly",
    )

# %%
figure, axes = plt.subplots(1, 2, figsize=(9, 3))
for method, points in course.items():
    axes[0].plot(
        *zip(*points, strict=True),
        marker="o",
        markersize=3,
        label=method.replace("_", " "),
    )
axes[0].set_xlabel("epoch")
axes[0].set_ylabel("wrong, %")
axes[0].legend()
axes[1].bar(
    [method.replace("_", "\n") for method in metrics],
    [each["error"] for each in metrics.values()],
)
axes[1].set_ylabel("wrong in the end, %")
plt.tight_layout()
plt.show()

# %% [markdown]
# One split of 297 images says little: a single image is a third of a per cent, and other labels give other errors.
# Five splits of the digits, and MNIST with 100 labels, are in `benchmarks/gan.py` and its results.
#
# ## Samples
#
# The generator has never seen a label.

# %%
_, ax = plt.subplots(figsize=(6, 6))
plans["feature_matching"].plots["samples"](ax)
plt.show()

# %% [markdown]
# The same noise in the course of training, from top to bottom:

# %%
_, ax = plt.subplots(figsize=(6, 5))
plans["feature_matching"].plots["course"](ax)
plt.show()

# %% [markdown]
# ## Has the generator collapsed?
#
# A discriminator that sees one image at a time cannot tell a generator that always makes the same good image.
# **Minibatch discrimination** compares each image with the others of its batch: for B kernels, it appends $o(x_i)_b =
# \sum_j \exp(-\|M_{i,b} - M_{j,b}\|_1)$ to the features. Here it sees three batches: real images, images of a
# generator, and 100 copies of one real image.

# %%
generator = plans["feature_matching"].players[1].objective.generator
torch.manual_seed(0)
layer = MinibatchDiscrimination(64, kernels=50, exclude_self=True)
real = data.valid.x[:100]
initialize_from_data_(layer, data.train.first.x[:500])
batches = {
    "real images": real,
    "samples": draw_samples(generator, 100),
    "one image, 100 times": real[:1].expand(100, 64),
}
with torch.no_grad():
    similarity = {
        name: (layer(x)[:, 64:] - layer.bias).flatten() for name, x in batches.items()
    }
for name, values in similarity.items():
    plt.hist(
        values,
        bins=torch.linspace(0, 100, 60).numpy(),
        alpha=0.6,
        label=f"{name}: mean {values.mean():.1f}",
    )
plt.yscale("log")
plt.xlabel("how many others an image is close to, by each kernel")
plt.ylabel("images and kernels")
plt.legend()
plt.show()

# %% [markdown]
# After training, two numbers say the same in plain words. `spread` is the standard deviation of samples in parts of
# that of real images, and `sample_classes` the number of classes that samples look like. `diagnose` turns them into
# warnings; `pyro-ext fit gan` shows these at the end.

# %%
for method in ("feature_matching", "standard"):
    print(
        f"{method:17s} spread {metrics[method]['spread']:.2f},",
        f"classes {metrics[method]['sample_classes']:.1f}",
    )
print(*diagnose({"spread": 0.03, "sample_classes": 1.2, "data_classes": 9.9}), sep="\n")

# %% [markdown]
# ## Scores
#
# The inception score, $\exp E_x \mathrm{KL}(p(y \mid x) \| p(y))$, is large for images that a classifier is sure of
# and that are of all classes. The Fréchet distance compares means and covariances of features. Both depend on the
# classifier, which must be another one than the discriminator: here a small network that has learnt from all labels
# of the digits. Numbers by other classifiers cannot be compared with these.

# %%
pyro.set_rng_seed(1)
classifier = nn.Sequential(nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 10))
optimizer = torch.optim.Adam(classifier.parameters(), lr=1e-2)
for _ in range(5 if SMOKE_TEST else 200):
    optimizer.zero_grad()
    F.cross_entropy(classifier(digits.train.x), digits.train.y).backward()
    optimizer.step()
for method in ("feature_matching", "standard"):
    samples = draw_samples(plans[method].players[1].objective.generator, 1000)
    scores = classifier_scores(classifier, samples, data.valid.x)
    print(
        f"{method:17s}",
        ", ".join(f"{name} {value:.2f}" for name, value in scores._asdict().items()),
    )

# %% [markdown]
# ## Normalisation that does not mix examples
#
# Batch normalisation makes a sample depend on the other samples of its batch. Virtual batch normalisation uses a
# fixed reference batch, in which each example counts as one more: a sample is the same whatever is drawn with it, in
# training and in evaluation. `generator_norm="virtual"` builds the generator with it.

# %%
network = nn.Sequential(
    nn.Linear(30, 50),
    VirtualBatchNorm(50, reference_size=100),
    nn.Softplus(),
    nn.Linear(50, 64),
)
virtual = WithReferenceBatch(network, torch.rand(100, 30))
z = torch.rand(10, 30)
with torch.no_grad():
    print(
        "largest difference of a sample drawn alone:",
        float((virtual(z)[:1] - virtual(z[:1])).abs().max()),
    )
