"""What holds for every objective. A new one is one line in ``OBJECTIVES``."""

import copy

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoNormal

from pyro_ext.datasets import digits, few_labels, load
from pyro_ext.inference import (
    ELBOObjective,
    Losses,
    LossObjective,
    Objective,
    PruningObjective,
    SumObjective,
    TraceLeaveOneOut_ELBO,
)
from pyro_ext.models import builder
from pyro_ext.nn import GradualMagnitudePruning
from tests.models.phylo.six_taxa import write_files

ROWS = (torch.linspace(-1, 1, 24).reshape(12, 2), None, torch.arange(12))


def network():
    pyro.set_rng_seed(0)
    return torch.nn.Linear(2, 1)


def squared(x, y, index, net):
    error = net(x).square()
    return Losses(error.mean(), {"largest": error.max()})


def bound():
    pyro.set_rng_seed(0)

    def model(x, y, index):
        with pyro.plate("data", 24, subsample=index):
            loc = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("x", dist.Normal(loc[:, None], 1.0).to_event(1), obs=x)

    def plates(x, y, index):
        return pyro.plate("data", 24, subsample=index)

    return ELBOObjective(model, AutoNormal(model, create_plates=plates), Trace_ELBO())


def penalised_bound():
    return SumObjective({"a": (LossObjective(squared, net=network()), 2.0), "b": (bound(), 0.5)})


def categories():
    class Guide(pyro.nn.PyroModule):
        def __init__(self):
            super().__init__()
            self.net = network()

        def forward(self, x, y, index):
            with pyro.plate("data", 24, subsample=index):
                pyro.sample("z", dist.Bernoulli(logits=self.net(x)[:, 0]))

    def model(x, y, index):
        with pyro.plate("data", 24, subsample=index):
            z = pyro.sample("z", dist.Bernoulli(x.new_tensor(0.5)))
            pyro.sample("x", dist.Normal(z[..., None], 1.0).to_event(1), obs=x)

    return ELBOObjective(model, Guide(), TraceLeaveOneOut_ELBO(2, max_plate_nesting=1), size=24)


def of_model(name, data, **options):
    pyro.set_rng_seed(0)
    (player,) = builder(name)(data, **options).players
    return player.objective


def pruned():
    net = network()
    return PruningObjective(LossObjective(squared, net=net), GradualMagnitudePruning(net, 0.5, end=1))


def drmm():
    return of_model("drmm", load("digits", num_train=60, binarize=None), num_labels=20)


def canvases():
    return load("moving_digits", canvas=12, digit_size=8, num_train=20, num_valid=5)


def phylo(folder):
    write_files(folder)
    data = load("alignment", path=str(folder / "six.fasta"), steps_per_epoch=2)
    return of_model("phylo", data, trees=[str(folder / "six.nwk")], num_particles=2)


OBJECTIVES = {
    "loss": (lambda _: LossObjective(squared, net=network()), lambda _: ROWS),
    "elbo": (lambda _: bound(), lambda _: ROWS),
    "elbo of discrete sites": (lambda _: categories(), lambda _: ROWS),
    "sum": (lambda _: penalised_bound(), lambda _: ROWS),
    "pruned": (lambda _: pruned(), lambda _: ROWS),
    "drmm": (lambda _: drmm(), lambda _: digits(binarize=None, num_train=60).train.__getitems__([*range(12)])),
    "few labels": (
        lambda _: of_model("semi_supervised_vae", few_labels(num_labels=20), hidden=(8,), classifier_hidden=(8,)),
        lambda _: few_labels(num_labels=20).train.__getitems__(([*range(12)], [*range(4)])),
    ),
    "learned baseline": (
        lambda _: of_model("hard_attention", canvases(), window=8, hidden=(8,), channels=2, learned_baseline=True),
        lambda _: canvases().train.__getitems__([*range(12)]),
    ),
    "phylo": (phylo, lambda folder: load("alignment", path=str(folder / "six.fasta")).train[0]),
}


@pytest.fixture(params=OBJECTIVES)
def case(request, tmp_path):
    make, batch = OBJECTIVES[request.param]
    objective = make(tmp_path)
    return objective, batch(tmp_path)


def losses(objective, batch, seed=5):
    pyro.set_rng_seed(seed)
    return objective(*batch)


def test_losses_are_finite_scalars_that_a_seed_repeats(case):
    objective, batch = case
    assert isinstance(objective, Objective)
    losses(objective, batch)  # makes lazy parameters
    first, again = losses(objective, batch), losses(objective, batch)
    assert isinstance(first, Losses)
    for value in (first.total, *first.terms.values()):
        assert value.shape == ()
        assert value.isfinite()
    assert torch.equal(first.total, again.total)
    assert all(name.replace("_", "").isalnum() for name in first.terms)


def test_gradients_reach_the_parameters(case):
    objective, batch = case
    losses(objective, batch)
    losses(objective, batch).total.backward()
    gradients = [p.grad for p in objective.parameters() if p.grad is not None]
    assert gradients
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert any(bool((gradient != 0).any()) for gradient in gradients)


def test_computing_losses_changes_no_state_but_that_of_batch_norm(case):
    objective, batch = case
    losses(objective, batch)
    objective.eval()
    before = {name: value.clone() for name, value in objective.state_dict().items() if isinstance(value, torch.Tensor)}
    with torch.no_grad():
        losses(objective, batch)
    after = objective.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert len(pyro.get_param_store()) == 0


def test_state_and_copies_give_the_same_losses(case):
    objective, batch = case
    losses(objective, batch)
    objective.eval()
    other = copy.deepcopy(objective)
    with torch.no_grad():
        for parameter in objective.parameters():
            parameter.add_(0.1)
    objective.load_state_dict(other.state_dict())
    assert torch.equal(losses(objective, batch).total, losses(other, batch).total)


def test_after_a_step_there_is_nothing_to_say(case):
    objective, batch = case
    losses(objective, batch)
    assert objective.after_step() is None
    assert objective in [*objective.parts()]


def test_a_sum_is_weighted_and_notes_its_parts():
    total = penalised_bound()
    result = losses(total, ROWS)
    assert result.terms.keys() == {"a", "a_largest", "b"}
    torch.testing.assert_close(result.total, 2 * result.terms["a"] + 0.5 * result.terms["b"])
    total.set_weight("b", 0.0)
    torch.testing.assert_close(losses(total, ROWS).total, 2 * result.terms["a"])
