"""The published divergences of MrBayes samples of DS1 and DS3 from long runs, replicate by replicate."""

import functools
import json
import os

import pytest
import torch

from pyro_ext.distributions import ConditionalCladeDistribution, SubsplitBayesianNetwork, TreeFrequency, tree_kl
from pyro_ext.phylo import TreeSet, read_trees

pytestmark = pytest.mark.data
EPS = 2.220446049250313e-16  # the least probability of a tree in these tables
STEPS = 750_001  # states in each of the ten long runs; frequencies in the files are rounded to six decimals


def folder():
    return os.path.join(os.environ["PYRO_EXT_DATA"], "phylo")


@functools.cache
def golden(name):
    parts = [read_trees(f"{folder()}/golden/{name}/rep_{r}/{name}.trprobs.gz") for r in range(1, 11)]
    weights = torch.cat([(part.weights * STEPS).round() / (10 * STEPS) for part in parts])
    return TreeSet(parts[0].taxa, torch.cat([part.parents for part in parts]), weights=weights).unique()


def divergences(name, replicate):
    truth = golden(name)
    sample = read_trees(f"{folder()}/short_runs/{name}/rep_{replicate}/{name}.trprobs.gz")
    average, _ = SubsplitBayesianNetwork.fit(sample)
    fitted, history = SubsplitBayesianNetwork.fit(sample, method="em")
    smooth, smooth_history = SubsplitBayesianNetwork.fit(sample, method="em", alpha=1e-4)
    fitted = {
        "srf": TreeFrequency.from_trees(sample),
        "ccd": ConditionalCladeDistribution.from_trees(sample),
        "sbn_sa": average,
        "sbn_em": fitted,
        "sbn_em_alpha": smooth,
    }
    result = {key: float(tree_kl(truth, d, floor=EPS, normalize=False)) for key, d in fitted.items()}
    result["em_log_likelihood"] = float(history.log_likelihood[-1])
    result["em_alpha_objective"] = float(smooth_history.objective[-1])
    return result, (history.num_iterations, smooth_history.num_iterations)


REPLICATES = [("DS1", 1), ("DS3", 3)]
OTHERS = [(name, r) for name in ("DS1", "DS3") for r in range(1, 11) if (name, r) not in REPLICATES]


@pytest.mark.parametrize(
    ("name", "replicate"), [*REPLICATES, *(pytest.param(*other, marks=pytest.mark.slow) for other in OTHERS)]
)
def test_published_divergences(name, replicate):
    with open(f"{folder()}/reference/sbn_kl.json", encoding="utf-8") as file:
        (expected,) = (row for row in json.load(file)[name] if row["rep"] == replicate)
    result, iterations = divergences(name, replicate)
    assert iterations == (expected["em_iterations"], expected["em_alpha_iterations"])
    for key, value in result.items():
        printed = 5.1e-7 if key.startswith("em_") else 3e-8  # six decimals of likelihoods
        assert value == pytest.approx(expected[key], abs=printed), key
