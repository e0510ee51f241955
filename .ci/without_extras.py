"""What works without any extra, and what says which one is missing."""

import sys

EXTRAS = ("lightning", "pytorch_lightning", "jsonargparse", "matplotlib", "sklearn", "pooch", "Bio", "shtab", "yaml")
sys.modules |= dict.fromkeys(EXTRAS)  # as if they were not installed

import pyro
import pyro.distributions as dist
import torch

from pyro_ext.cli.__main__ import main
from pyro_ext.inference import TraceUnorderedSet_ELBO, TrainingPlan, fit


def model():
    z = pyro.sample("z", dist.Categorical(torch.ones(3)))
    pyro.sample("x", dist.Normal(z.float(), 1.0), obs=torch.tensor(2.0))


def guide():
    pyro.sample("z", dist.Categorical(logits=pyro.param("logits", torch.zeros(3))))


svi = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 0.1}), TraceUnorderedSet_ELBO(num_samples=2))
assert svi.step() > 0
try:
    fit(TrainingPlan.of(model, guide, TraceUnorderedSet_ELBO()), torch.zeros(3))
except ImportError as error:
    assert str(error) == "fit needs lightning: pip install 'pyro-ext[fit]'", error
else:
    sys.exit("fit must say which extra is missing")
assert main(["fit", "categorical_vae"]) == 2
assert main(["models"]) == 0
print("without extras: an ELBO steps, fit says what is missing")
