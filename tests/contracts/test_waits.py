"""How often the host waits for the device: every place that remains is listed here, with the reason.

Counted are calls that follow a first one, whose tables of constants are kept, and with validation of arguments off,
which looks at values. Whatever is not listed waits for nothing; a new wait, or one that is gone, fails its test.

* ``ops.assignment``: the Hungarian algorithm runs on the CPU, unless ``torch-linear-assignment`` is installed. The
  density of rounded permutations needs two solutions, the second at what the first one gives.
* ``ops.sinkhorn``: one look at the matrices for NaN, and one a step for which of them are solved; how many steps there
  are depends on the matrices.
* ``ops._tree_plans``: the order in which a tree's nodes are visited is found on the CPU, once for each batch of trees.
* ``ops.subsplits.rows``, ``ops.subsplits.keys``: the size of what a distribution of trees is made of, once for each.
* ``ops.subsplits.beam``: the largest number of splits of the beam's clades, once a split: that of all clades would be
  much larger than most.
* ``distributions.trees._without_replacement``: whether there are enough distinct trees among those drawn, or a search
  must continue them.
* ``phylo``: random trees are brought into canonical form, and checked, in steps that depend on their depth.
* ``inference.elbo``: one look at the loss, to warn of one that is not finite.
* ``pyro``: each cost is looked at for values of probability zero; known Kullback-Leibler divergences fill in where they
  are infinite; a loss is returned as a float; its own ELBOs warn of NaN.
"""

import pyro
import pytest
import torch

from tests.contracts import test_elbos, test_models
from tests.contracts.device_guard import DEVICE, DeviceGuard
from tests.contracts.test_devices import DISTRIBUTIONS, Training, tensors

STEPS = -1
"""Stands for a number of waits that depends on values."""

SCIPY, SOLVE = "ops.assignment._by_scipy", "ops.sinkhorn._solve"
BEAM = {"sample_without_replacement": {"ops.subsplits.beam._children": 3}}

DISTRIBUTION_WAITS = {
    "RelaxedRoundingPermutation": {
        "build": {SOLVE: STEPS}, "sample": {SCIPY: 1}, "rsample": {SCIPY: 1}, "log_prob": {SCIPY: 2},
    },
    "GumbelSinkhorn": {"sample": {SOLVE: STEPS}, "rsample": {SOLVE: STEPS}},
    "GumbelMatching": {"sample": {SCIPY: 1}},
    "network": {
        "sample_without_replacement": {
            "distributions.trees._without_replacement.distinct_topologies": 1,
            "distributions.trees._without_replacement.first_topologies": 1,
        },
    },
    "network, rooted": BEAM,
    "network, rooted, of unrooted trees": BEAM,
    "clades": BEAM,
    "frequencies": {
        "build": {"ops.subsplits.rows.distinct_rows": 2},
        "log_prob": {
            "distributions.trees.frequency.TreeFrequency._table": 1,
            "ops.subsplits.keys.key_table": 1,
        },
    },
    "UniformTopology": {
        "sample": {
            "phylo._shapes.check_binary": 1,
            "phylo._renumber.sort_by_depth": 1,
            "phylo._renumber._depths": STEPS,
            "phylo._renumber.root_at_first_leaf": STEPS,
        },
    },
}  # fmt: skip
"""The waits of each operation of a distribution, by its name or by what comes before the comma."""

CHECK, FLOAT = "inference.elbo.checked_loss", "pyro.infer.util.torch_item"

ELBO_WAITS = {
    "analytic_kl": {CHECK: 1, "pyro.distributions.kl._kl_independent_independent": 4, "the backward pass": 4},
}
"""The waits of a differentiable loss and its backward pass; of others, one check of the loss."""

ANALYTIC = {CHECK: 1, "inference.sample_sets.dice._expected_terms": 2, "the backward pass": 2}

MODEL_WAITS = {
    "categorical_vae": {CHECK: 1},
    "compressed_lenet": {FLOAT: 29, "pyro.util.warn_if_nan": 2},
    "disentangling": {FLOAT: 2, "pyro.util.warn_if_nan": 2},
    "gcn": {FLOAT: 4, "pyro.util.warn_if_nan": 2},
    "geco_vae": {FLOAT: 2, "pyro.util.warn_if_nan": 3},
    "hard_attention": ANALYTIC,
    "looks_linear": {FLOAT: 2, "pyro.util.warn_if_nan": 2},
    "neuron_matching": {
        "ops.sinkhorn._Scalable.forward": 1, SCIPY: 1, FLOAT: 2, "pyro.util.warn_if_nan": 2,
    },
    "phylo": {CHECK: 1, "ops._tree_plans._content": 1},
    "point_matching": {
        "ops.sinkhorn._Scalable.forward": 1, SCIPY: 1, FLOAT: 4, "pyro.util.warn_if_nan": 2,
    },
    "sparse_lenet": {FLOAT: 11, "pyro.util.warn_if_nan": 2},
    "structured_output": {CHECK: 1},
    "tumour_elimination": {CHECK: 1},
    "semi_supervised_vae": ANALYTIC,
}  # fmt: skip
"""The waits of a step of training."""


def operations(build, parameters):
    """Yield the name of each operation of training when it is done."""
    d = build(*parameters)
    yield "build"
    x = d.sample((3,))
    yield "sample"
    if d.has_rsample:
        y = d.rsample((3,))
        yield "rsample"
        y.sum().backward(retain_graph=True)
        yield "rsample, backward"
    try:
        log_prob = d.log_prob(x.clone())  # a value that the distribution does not know again
    except NotImplementedError:
        return
    yield "log_prob"
    if log_prob.requires_grad:
        log_prob.sum().backward(retain_graph=True)
        yield "log_prob, backward"
    if hasattr(d, "sample_without_replacement"):
        d.sample_without_replacement(2)
        yield "sample_without_replacement"


def waits(steps):
    """Return the waits of each of the named steps where there are any, those of the first one left out."""
    found = {}
    with pyro.validation_enabled(False), DeviceGuard() as guard:
        for name in steps:
            found[name] = dict(guard.waits)
            guard.waits.clear()
    found.pop("first")
    return {name: places for name, places in found.items() if places}


def twice(name):
    """Yield what is done with a distribution, all at once the first time."""
    member = DISTRIBUTIONS[name]
    parameters = tensors(member.parameters, DEVICE)
    done = [*operations(member.build, parameters)]
    yield "first"
    yield from (name for name in operations(member.build, parameters) if name in done)


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_distributions(name):
    expected = DISTRIBUTION_WAITS.get(name, DISTRIBUTION_WAITS.get(name.partition(",")[0], {}))
    found = waits(twice(name))
    assert found == {
        operation: {place: found[operation].get(place) if n == STEPS else n for place, n in places.items()}
        for operation, places in expected.items()
        if operation in found or "score function" not in name
    }


@pytest.mark.parametrize("name", test_elbos.MEMBERS)
def test_elbos_(name):
    def steps():
        model, guide = (make(torch.float32, DEVICE) for make in (test_elbos.Model, test_elbos.Guide))
        elbo, index = test_elbos.MEMBERS[name](max_plate_nesting=1), torch.tensor([1, 3], device=DEVICE)
        elbo.loss_and_grads(model, guide, index)
        yield "first"
        loss = elbo.differentiable_loss(model, guide, index)
        yield "loss"
        loss.backward()
        yield "backward"
        elbo.loss_and_grads(model, guide, index)
        yield "loss_and_grads"

    found = waits(steps())
    together = dict(found["loss"])
    if "backward" in found:
        together["the backward pass"] = sum(found["backward"].values())
    assert together == ELBO_WAITS.get(name, {CHECK: 1})
    assert sum(found["loss_and_grads"].values()) == sum(together.values()) + 1
    assert found["loss_and_grads"][FLOAT] == 1


@pytest.mark.filterwarnings("ignore:the latent code has collapsed")
@pytest.mark.parametrize("name", test_models.SMALL)
def test_models_(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    training = Training(name, tmp_path)

    def steps():
        training.move(DEVICE)
        training.step()
        yield "first"
        training.step()
        yield "step"

    found = waits(steps()).get("step", {})
    for place in [place for place in found if place.endswith("test_devices.Training.step")]:
        found["the backward pass"] = found.pop(place)  # it has no place of its own
    assert found == MODEL_WAITS.get(name, {})
