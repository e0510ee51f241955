"""REINFORCE with a baseline predicted from the input."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule
from torch import nn

from pyro_ext.datasets import Splits
from pyro_ext.inference import FitSettings, Player, TraceSampleSet_ELBO, TrainingPlan, fit
from pyro_ext.models.toolkit.baseline import LearnedBaselineObjective

SIZE = 30


class Model(PyroModule):
    """A category that shifts a mean, and a continuous variable in between."""

    def __init__(self):
        super().__init__()
        self.means = nn.Parameter(torch.tensor([-1.0, 0.5, 2.0], dtype=torch.float64))

    def forward(self, x, y=None, index=None):
        with pyro.plate("data", SIZE, subsample=torch.arange(len(x))):
            k = pyro.sample("k", dist.Categorical(x.new_tensor([0.2, 0.3, 0.5])))
            z = pyro.sample("z", dist.Normal(self.means[k], 1.0))
            pyro.sample("x", dist.Normal(z, 0.5), obs=x[:, 0])
            if x.shape[1] == 2:  # what no site explains
                pyro.sample("other", dist.Normal(x.new_zeros(()), 1.0), obs=x[:, 1])


class Guide(PyroModule):
    """Both given the observation."""

    def __init__(self):
        super().__init__()
        self.logits = nn.Parameter(torch.tensor([0.5, -0.4, 0.1], dtype=torch.float64))
        self.shift = nn.Parameter(torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64))

    def forward(self, x, y=None, index=None):
        with pyro.plate("data", SIZE, subsample=torch.arange(len(x))):
            k = pyro.sample("k", dist.Categorical(logits=self.logits * x[:, :1]))
            pyro.sample("z", dist.Normal(x[:, 0] + self.shift[k], 0.7))


@pytest.fixture
def objective():
    pyro.set_rng_seed(0)
    return LearnedBaselineObjective(Model(), Guide(), nn.Linear(1, 1).double())


def test_gradients_are_those_of_the_bound(objective):
    x = torch.tensor([[0.4]], dtype=torch.float64).expand(8000, 1)  # independent draws for one observation
    model, guide = objective.model, objective.guide
    parameters = [*model.parameters(), *guide.parameters()]
    objective(x).total.backward()
    objective.after_step()
    exact_elbo = TraceSampleSet_ELBO(estimator="exact", max_plate_nesting=1)
    ours, exact = [], []
    for _ in range(30):
        loss = objective(x).total
        ours.append(torch.cat(torch.autograd.grad(loss, parameters)))
        exact.append(torch.cat(torch.autograd.grad(exact_elbo.differentiable_loss(model, guide, x) / SIZE, parameters)))
    ours, exact = torch.stack(ours), torch.stack(exact)
    z = (ours - exact).mean(0) / ((ours - exact).std(0) / math.sqrt(30))
    # 240,000 draws; z has 29 degrees of freedom: for nine parameters a false alarm above 5 in .03 % of the seeds
    assert z.abs().max() < 5
    assert objective(x).total.item() == pytest.approx(exact_elbo.loss(model, guide, x) / SIZE, abs=0.1)


def test_the_first_step_measures_the_level_alone(objective):
    x = torch.randn(20, 1, dtype=torch.float64)
    loss = objective(x).total
    (gradient,) = torch.autograd.grad(loss, [objective.guide.logits], retain_graph=True, allow_unused=True)
    assert gradient is None or not gradient.any()
    assert not objective.moments.started
    objective.after_step()
    assert objective.moments.started
    first = objective.moments.mean.clone()
    assert first.item() == pytest.approx(-loss.item(), rel=1e-6)  # per data point, without the scale
    loss = objective(x).total
    assert torch.autograd.grad(loss, [objective.guide.logits])[0].any()
    assert torch.equal(objective.moments.mean, first)  # evaluating changes nothing
    objective.after_step()
    assert objective.moments.mean.item() == pytest.approx(0.9 * first.item() - 0.1 * loss.item(), rel=1e-5)


def test_the_level_is_that_of_all_batches_and_processes_since_the_last_step(objective, monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda value: value.add_(3.0))  # the other one's
    x = torch.randn(20, 1, dtype=torch.float64)
    losses = [objective(x).total for _ in range(2)]
    for loss in losses:
        loss.backward()
    objective(10 * x)  # nothing went backward
    objective.after_step()
    assert objective.moments.mean.item() == pytest.approx((3 - sum(losses).item() / 2) / 2, rel=1e-6)
    before = objective.moments.mean.clone()
    objective.after_step()  # nothing new
    assert torch.equal(objective.moments.mean, before)


def test_the_baseline_learns_from_its_error_alone(objective):
    x = torch.randn(20, 1, dtype=torch.float64)
    objective(x).total.backward()
    objective.after_step()
    pyro.set_rng_seed(2)
    losses = objective(x)
    gradient = torch.autograd.grad(losses.total, [*objective.baseline.parameters()])
    pyro.set_rng_seed(2)
    bound = _signals(objective, x)
    error = (bound - objective.moments.mean - objective.baseline(x)[:, 0]).square().mean()
    torch.testing.assert_close(error.detach(), losses.terms["baseline_error"])
    for one, other in zip(gradient, torch.autograd.grad(error, [*objective.baseline.parameters()]), strict=True):
        torch.testing.assert_close(one, other)


def _signals(objective, x):
    guide = pyro.poutine.trace(objective.guide).get_trace(x)
    model = pyro.poutine.trace(pyro.poutine.replay(objective.model, guide)).get_trace(x)
    model.compute_log_prob()
    guide.compute_log_prob()
    sites = [
        (trace.nodes[name]["unscaled_log_prob"], sign)
        for trace, name, sign in ((model, "k", 1), (model, "z", 1), (model, "x", 1), (guide, "k", -1), (guide, "z", -1))
    ]
    return sum(sign * log_prob for log_prob, sign in sites).detach()


def test_a_baseline_lowers_the_variance(objective):
    x = torch.linspace(-1, 1, SIZE, dtype=torch.float64)[:, None] * torch.tensor([1.0, 8.0])
    objective.baseline = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 1)).double()
    optimizer = torch.optim.Adam(objective.baseline.parameters(), 5e-2)

    def variance():
        draws = [torch.autograd.grad(objective(x).total, [objective.guide.logits])[0] for _ in range(100)]
        return torch.stack(draws).var(0).sum().item()

    objective(x).total.backward()
    objective.after_step()
    before = variance()
    for _ in range(200):
        optimizer.zero_grad()
        objective(x).total.backward()
        optimizer.step()
        objective.after_step()
    assert variance() < 0.5 * before


def test_it_is_trained_and_resumed_with_its_level(tmp_path):
    data = Splits("points", torch.randn(40, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64))

    def run(epochs, **options):
        pyro.set_rng_seed(0)
        objective = LearnedBaselineObjective(Model(), Guide(), nn.Linear(1, 1).double())
        settings = FitSettings(max_epochs=epochs, batch_size=20, seed=1)
        flags = {"enable_progress_bar": False, "accelerator": "cpu"}
        return objective, fit(TrainingPlan([Player("model", objective)]), data, settings, **flags, **options)

    whole, result = run(2)
    assert {"train_loss", "train_baseline_error"} <= result.metrics.keys()
    run(1, out=tmp_path / "run")
    resumed, _ = run(2, out=tmp_path / "run", resume=True)
    assert torch.equal(whole.moments.mean, resumed.moments.mean)
    assert "baseline.weight" in whole.state_dict()
    assert len(pyro.get_param_store()) == 0


def test_sites_outside_of_the_plate_are_refused():
    def model(x):
        pyro.sample("shared", dist.Bernoulli(0.5))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=x[:, 0])

    def guide(x):
        pyro.sample("shared", dist.Bernoulli(0.5))

    objective = LearnedBaselineObjective(model, guide, nn.Linear(1, 1))
    with pytest.raises(ValueError, match="site 'shared' must lie in the rightmost plate of data points"):
        objective(torch.zeros(3, 1))


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((None,), {}, "baseline must be a torch.nn.Module, got None"),
        ((nn.Linear(1, 1),), {"size": 0}, "size must be an integer of at least 1, got 0"),
        ((nn.Linear(1, 1),), {"decay": 1.0}, r"decay must be a number in \[0, 1\), got 1.0"),
    ],
)
def test_bad_options(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        LearnedBaselineObjective(Model(), Guide(), *arguments, **options)


def test_a_baseline_of_another_shape_is_refused():
    objective = LearnedBaselineObjective(Model(), Guide(), nn.Linear(1, 2).double())
    with pytest.raises(ValueError, match=r"baseline must return shape \(3,\) or \(3, 1\), got \(3, 2\)"):
        objective(torch.zeros(3, 1, dtype=torch.float64))
