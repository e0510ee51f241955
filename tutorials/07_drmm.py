# ---
# jupyter:
#   jupytext:
#     text_representation:
#       format_name: percent
# ---

# %% [markdown]
# # A convolutional network is inference
#
# Convolve, keep what is positive, keep the largest value of each cell, repeat. Where do these operations come from? The
# *Deep Rendering Mixture Model* (Patel, Nguyen and Baraniuk, 2016) answers: they search for the most probable
# explanation of an image under a generative model that renders a class template, layer by layer, while parts of it move
# within small cells or are left out. This page shows the equality on an image small enough to try all explanations,
# then uses the generative half to train the network with fifty labels, and then draws digits from it.

# %%
import logging
import os

import matplotlib.pyplot as plt
import pyro
import torch
from pyro.infer import TraceEnum_ELBO, config_enumerate, infer_discrete

from pyro_ext.datasets import load
from pyro_ext.inference import FitSettings, OptimizerSettings, SchedulerSettings, fit
from pyro_ext.models.drmm import DRMM, Layer, build, estimate_switch_distribution
from pyro_ext.models.drmm.conversion import to_sequential
from pyro_ext.models.drmm.exact import ExactProgram, exact_map, log_joint
from pyro_ext.plotting import image_grid, use_style

SMOKE_TEST = bool(os.environ.get("SMOKE_TEST"))
use_style()  # colours that are told apart with each kind of colour blindness
EPOCHS = 2 if SMOKE_TEST else 25
logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
pyro.set_rng_seed(0)

# %% [markdown]
# ## Rendering downwards, convolving upwards
#
# One layer of two templates on images of 3 x 3 pixels. The class chooses how strong each template is (`mu_c`). Each of
# the two units then has a *position* in its cell of 2 x 2 places and is *on* or off: $(4 \cdot 2)^2 = 64$ ways to
# render each of three classes. Pixels get Gaussian noise. The same tensors, read upwards, are a convolutional network:

# %%
model = DRMM(
    [Layer(channels=2, kernel=2, pool=2)], classes=3, image_shape=(1, 3, 3), noise=0.5
).double()
with torch.no_grad():
    # templates of classes are positive, those of pixels have any sign
    model.class_templates.abs_()
print(to_sequential(model))

image = torch.randn(1, 1, 3, 3, dtype=torch.float64)
scores, _, (switches,) = model.infer(image)
print("scores of the network:", scores.tolist())
print(
    "its switches: positions",
    switches.position.flatten().tolist(),
    "on",
    switches.on.flatten().tolist(),
)

# %% [markdown]
# `log_joint` enumerates all 3 x 64 explanations. For each class, take the best one. Up to a constant that is the same
# for all classes, its log-probability times $\sigma^2$ *is* the network's score.

# %%
with torch.no_grad():
    best = log_joint(model, image).amax(-1)[0]
    scores = model.dcn(image)[0]
print("difference, class by class:", (model.noise**2 * best - scores).tolist())

# %% [markdown]
# So the class that the network chooses is the class of the most probable explanation. The model is a Pyro program, and
# Pyro's own exact inference says the same:

# %%
program = config_enumerate(ExactProgram(model))
most_probable = infer_discrete(program, first_available_dim=-2, temperature=0)
trace = pyro.poutine.trace(most_probable).get_trace(image)
print(
    "class by infer_discrete:",
    trace.nodes["c"]["value"].item(),
    "- by the network:",
    scores.argmax().item(),
)

# %% [markdown]
# ## What it takes
#
# Three things make the equality hold. The templates above the pixels must not be negative: otherwise switching a unit
# on could help although its own value is low. The prior of explanations must be the *path prior*, which makes bright
# renderings more probable by just as much as the Gaussian's $|h^0|^2$ makes them less. And what is compared must be the
# *best* explanation of each class, not the sum over all. Under the plain prior, which draws switches independently, the
# network is an approximation:

# %%
plain = model.like(prior="factorised").double()
plain.load_state_dict(model.state_dict())
with torch.no_grad():
    best = log_joint(plain, image).amax(-1)[0]
print(
    "difference, class by class:",
    (plain.noise**2 * best - plain.dcn(image)[0]).tolist(),
)
print("class of the best explanation:", exact_map(plain, image).c.item())

# %% [markdown]
# The plain prior has its own use: it is normalised, so that the model has an evidence, which `TraceEnum_ELBO`
# computes, and can be fitted by expectation maximisation (`models.drmm.ecm`, `models.drmm.em`). The path prior is not:
# its "evidence" would grow without limit with the templates, and `log_evidence` raises an error.

# %%
loss = TraceEnum_ELBO(max_plate_nesting=1).loss(
    config_enumerate(ExactProgram(plain)), lambda x: None, image
)
print(f"log evidence of the image: {-loss:.4f}")

# %% [markdown]
# ## Fifty labels
#
# A generative model can learn from images without labels. `build` makes a two-layer model for the digits of 8 x 8
# pixels, of which only fifty of 1,500 have labels. Its objective adds three losses to the cross-entropy of those
# labels: the error of rendering each image from its best class and switches, a penalty on negative templates, and the
# *entropy* of the class. Without these three, it is an ordinary network of the same shape.

# %%
digits = load("digits", binarize=None)
supervised = {
    "reconstruction_weight": 0.0,
    "entropy_weight": 0.0,
    "nonnegativity_weight": 0.0,
}
decay = SchedulerSettings("StepLR", interval="step", step_size=40, gamma=0.7)
optimizer = OptimizerSettings("Adam", lr=4e-3, scheduler=decay)
errors, trained = {}, None
for name, options in {
    "labels only": supervised,
    "all losses": {"reconstruction_weight": 5.0},
}.items():
    pyro.set_rng_seed(0)
    plan = build(digits, num_labels=50, **options).with_optimizer(optimizer)
    quiet = {"enable_progress_bar": False, "check_val_every_n_epoch": EPOCHS}
    result = fit(plan, digits, FitSettings(max_epochs=EPOCHS, seed=0), **quiet)
    errors[name] = result.metrics["error"]
    trained = result.plan.players[0].objective.model.eval()
for name, error in errors.items():
    print(f"{name}: {error:.1f} % of held-out digits wrong")

# %% [markdown]
# More than a third of the errors disappear, mostly because of the entropy: it is *minimised*, which makes the network
# decide on a class for images without labels. This is the opposite of the term of the evidence lower bound, $-KL(q(c
# \mid I) \| p(c))$, which spreads $q$ over the classes and makes the classifier worse (`kl_weight`). Each loss has its
# own column in `metrics.csv`, and `benchmarks/drmm.py` measures the effect of each by itself. From a shell, the same is
# `pyro-ext fit drmm --data digits --model.reconstruction_weight 5`.
#
# ## What the network believes
#
# The output of an ordinary network is ten scores. This one can also render its explanation: the best class, with the
# switches that it inferred from the image.

# %%
images = digits.valid.x[:10].reshape(-1, 1, 8, 8)
with torch.no_grad():
    rendered = trained.reconstruct(images)
_, ax = plt.subplots(figsize=(8, 2))
image_grid(torch.stack([images[:, 0], rendered[:, 0].clamp(0, 1)]), ax=ax)
ax.set_title("held-out digits, and their reconstructions", fontsize=9)
plt.show()

# %% [markdown]
# New digits need a distribution of switches given the class, since independent switches do not render anything like a
# digit. `estimate_switch_distribution` estimates a mixture of ten styles for each class from the switches that the
# network infers from the training images.

# %%
distribution = estimate_switch_distribution(trained, digits.train.x)
classes = torch.arange(10).repeat(6)
drawn, _ = trained.sample(
    60, classes, with_noise=False, switch_distribution=distribution
)
_, ax = plt.subplots(figsize=(6, 4))
image_grid(drawn[:, 0].clamp(0, 1), columns=10, ax=ax)
ax.set_title("samples, a column for each class", fontsize=9)
plt.show()

# %% [markdown]
# ## Where to go from here
#
# * `DRMM` is a `PyroModule`: `model` and `model.guide` are programs for any ELBO, with `c` enumerated.
# * `models.drmm.conversion.from_sequential` turns a trained `nn.Sequential` into the model whose inference it is.
# * `models.drmm.clusters.start_classes` and `models.drmm.em.hard_em(..., e_step="joint")` cluster images without any
#   label; on these digits they are no better than k-means, as `benchmarks/drmm.py` shows.
