"""The guide of normal weights: where it begins, which sites it has, what it refuses, what training does to it."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoGuideList, AutoNormal
from pyro.infer.autoguide.initialization import init_to_value
from pyro.nn import PyroModule, PyroSample
from torch import nn

from pyro_ext.distributions import LogUniform
from pyro_ext.inference import AnalyticKL, KLWarmUp
from pyro_ext.nn import AutoAdditiveNormal, AutoMultiplicativeNormal, SparseVariationalLinear, bayesianize


def network(dtype=None):
    return PyroModule[nn.Sequential](
        SparseVariationalLinear(4, 6, dtype=dtype), PyroModule[nn.ReLU](), SparseVariationalLinear(6, 3, dtype=dtype)
    )


class Classifier(PyroModule):
    def __init__(self, net, size):
        super().__init__()
        self.net = net
        self.size = size

    def forward(self, x, y):
        logits = self.net(x)
        with pyro.plate("data", self.size, subsample=torch.arange(len(y))):
            pyro.sample("y", dist.Categorical(logits=logits), obs=y)


def test_begins_where_layers_do():
    net = network()
    guide = AutoAdditiveNormal(net, init_log_variance={"2.weight": -5.0})
    assert torch.equal(guide.theta.get_parameter("0.weight"), net[0].weight_start)
    assert guide.theta.get_parameter("0.weight").data_ptr() != net[0].weight_start.data_ptr()
    values = [float(guide.log_sigma2.get_parameter(name).detach()[0, 0]) for name in ("0.weight", "2.weight")]
    assert values == [-10, -5]
    start = torch.ones(6, 4)
    assert torch.equal(AutoAdditiveNormal(net, init_loc={"0.weight": start}).theta.get_parameter("0.weight"), start)


def test_layers_that_a_function_calls_begin_where_they_are_too():
    net = network()
    guide = AutoAdditiveNormal(lambda x: net(x))
    guide(torch.ones(5, 4))
    assert torch.equal(guide.theta.get_parameter("0.weight"), net[0].weight_start)
    assert torch.equal(guide.theta.get_parameter("2.weight"), net[2].weight_start)


def test_other_sites_begin_where_they_are_told_to():
    values = {"w": torch.full((3,), 0.5), "s": torch.tensor(2.0)}

    def model():
        pyro.sample("w", LogUniform().expand([3]).to_event(1))
        pyro.sample("s", dist.Gamma(2.0, 2.0))

    guide = AutoAdditiveNormal(model, init_loc_fn=init_to_value(values=values))
    guide()
    assert torch.equal(guide.theta.get_parameter("w"), values["w"])
    assert torch.equal(guide.theta.get_parameter("s"), values["s"].log())


def test_sites_of_no_layer():
    class Model(PyroModule):
        def __init__(self):
            super().__init__()
            self.net = network()
            self.noise = PyroSample(dist.Gamma(2.0, 2.0))

        def forward(self, x):
            w = pyro.sample("w", LogUniform().expand([3]).to_event(1))
            return self.net(x) * w * self.noise

    guide = AutoAdditiveNormal(Model(), init_log_variance=-4.0, init_loc={"w": torch.ones(3)})
    values = guide(torch.ones(5, 4))
    assert [*values] == ["w", "net.0.weight", "net.2.weight", "noise"]
    assert guide.theta.get_parameter("w").tolist() == [1, 1, 1]
    assert values["noise"] > 0
    assert guide.masks().keys() == {"w", "net.0.weight", "net.2.weight"}
    assert guide.median()["noise"] == guide.theta.get_parameter("noise").exp()


def test_beside_another_guide():
    def model():
        w = pyro.sample("w", LogUniform().expand([3]).to_event(1))
        with pyro.plate("data", 4):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("y", dist.Normal(w.sum() + z, 1.0), obs=torch.ones(4))

    guide = AutoGuideList(model)
    guide.append(AutoAdditiveNormal(pyro.poutine.block(model, expose=["w"])))
    guide.append(AutoNormal(pyro.poutine.block(model, expose=["z"])))
    assert guide().keys() == {"w", "z"}
    assert SVI(model, guide, pyro.optim.Adam({"lr": 0.01}), TraceMeanField_ELBO()).step() > 0


@pytest.mark.parametrize("elbo", [Trace_ELBO, TraceMeanField_ELBO])
def test_with_svi(elbo):
    x, y = torch.randn(8, 4), torch.arange(8) % 3
    model = Classifier(network(), 80)
    guide = AutoAdditiveNormal(model)
    before = guide.log_sigma2.net.get_parameter("0.weight").clone()
    pair = AnalyticKL(strict=True).pair(model, guide) if elbo is Trace_ELBO else (model, guide)
    svi = SVI(*pair, pyro.optim.Adam({"lr": 0.01}), elbo())
    losses = [svi.step(x, y) for _ in range(30)]
    assert sum(losses[-5:]) < sum(losses[:5])
    assert not torch.equal(guide.log_sigma2.net.get_parameter("0.weight"), before)


def test_warm_up_begins_at_the_likelihood():
    x, y = torch.randn(8, 4), torch.arange(8) % 3
    model = Classifier(network(), 80)
    guide, warm_up = AutoAdditiveNormal(model, init_log_variance=-60.0), KLWarmUp(1, 2)
    nll = float(
        nn.functional.cross_entropy(pyro.poutine.condition(model.net, guide.median())(x), y, reduction="sum").detach()
    )
    for pair in (AnalyticKL(strict=True).pair(model, guide), (model, guide)):
        loss = TraceMeanField_ELBO().loss(*map(warm_up.scaled, pair), x, y)
        assert loss == pytest.approx(10 * nll, rel=1e-5)


def test_random_labels_are_pruned_away():
    """Nothing is to be learned, so every weight becomes noise."""
    torch.manual_seed(0)
    x, y = torch.randn(200, 4), torch.randint(0, 3, (200,))
    model = Classifier(network(), 200)
    guide = AutoAdditiveNormal(model, init_log_variance=-4.0)
    pair = AnalyticKL(strict=True).pair(model, guide)
    guide(x, y)
    optimizer = torch.optim.Adam([*guide.parameters(), *model.parameters()], lr=0.03)
    for _ in range(500):
        optimizer.zero_grad()
        Trace_ELBO().differentiable_loss(*pair, x, y).backward()
        optimizer.step()
    kept = torch.cat([mask.flatten() for mask in guide.masks().values()])
    assert kept.double().mean() < 0.1


def test_noise_does_not_reach_the_gradient_of_the_mean():
    guide = AutoAdditiveNormal(network(), init_log_variance=3.0)
    value = guide(torch.ones(2, 4))["0.weight"]
    (gradient,) = torch.autograd.grad(value.sum(), guide.theta.get_parameter("0.weight"))
    assert torch.equal(gradient, torch.ones(6, 4))


def test_threshold():
    guide = AutoAdditiveNormal(network(), threshold=-2.0)
    with torch.no_grad():
        guide.theta.get_parameter("0.weight").fill_(1.0)
        guide.log_sigma2.get_parameter("0.weight").copy_(torch.linspace(-4, 0, 24).view(6, 4))
    assert guide.masks()["0.weight"].sum() == 12
    assert guide.masks(threshold=3.0)["0.weight"].all()
    assert torch.equal(guide.eval()(torch.ones(2, 4))["0.weight"] != 0, guide.masks()["0.weight"])


def in_plate():
    with pyro.plate("data", 3):
        pyro.sample("z", dist.Normal(0.0, 1.0))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: AutoAdditiveNormal(nn.Sequential(SparseVariationalLinear(2, 2), SparseVariationalLinear(2, 2))),
            r"two layers have a site 'weight'.*PyroModule\[torch.nn.Sequential\]",
        ),
        (
            lambda: AutoAdditiveNormal(network(), init_loc={"0.weight": torch.ones(2)}),
            r"shape \(2,\), the site \(6, 4\)",
        ),
        (lambda: AutoAdditiveNormal(network(), init_loc={"w": torch.ones(2)})(torch.ones(2, 4)), r"no sites \['w'\]"),
        (lambda: AutoAdditiveNormal(network(), threshold=float("nan")), "threshold must be a finite number"),
        (lambda: AutoAdditiveNormal(network(), {"0.weight": "small"}), "init_log_variance of '0.weight' must be"),
        (lambda: AutoAdditiveNormal(network()).log_alpha("3.weight"), "no site '3.weight'"),
        (lambda: AutoAdditiveNormal(in_plate)(), r"'z' lies in the plate 'data'.*AutoGuideList"),
        (
            lambda: AutoAdditiveNormal(lambda: pyro.sample("p", dist.Dirichlet(torch.ones(3))))(),
            "site 'p' has the support .* real and positive sites only",
        ),
    ],
)
def test_wrong_calls(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_of_a_converted_network():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3)).double()
    x = torch.randn(5, 1, 4, 4, dtype=torch.float64)
    guide = AutoAdditiveNormal(bayesianize(net), init_log_variance=-80.0)
    torch.testing.assert_close(pyro.poutine.condition(bayesianize(net), guide.median())(x), net(x))


def test_multiplicative_noise_is_the_same_posterior_with_another_gradient():
    net = network(torch.float64)
    guide, other = AutoAdditiveNormal(net), AutoMultiplicativeNormal(net, largest_log_alpha=float("inf"))
    with torch.no_grad():
        for name in guide.masks():
            guide.log_sigma2.get_parameter(name).uniform_(-6, 2)
            other.log_ratio.get_parameter(name).copy_(guide.log_alpha(name))
    assert [*other.state_dict()] == ["theta.0.weight", "theta.2.weight", "log_ratio.0.weight", "log_ratio.2.weight"]
    x = torch.ones(2, 4, dtype=torch.float64)
    values = []
    for each in (guide, other):
        pyro.set_rng_seed(0)
        each(x)
        pyro.set_rng_seed(1)
        values.append(each(x)["0.weight"].clone())
        torch.testing.assert_close(each.log_alpha("0.weight"), guide.log_alpha("0.weight"))
    torch.testing.assert_close(*values)
    (gradient,) = torch.autograd.grad(values[1].sum(), other.theta.get_parameter("0.weight"))
    loc = other.theta.get_parameter("0.weight")
    torch.testing.assert_close(gradient, values[1] / loc, rtol=1e-6, atol=1e-6)


def test_multiplicative_noise_is_bounded():
    guide = AutoMultiplicativeNormal(network(), init_log_alpha=5.0)
    assert guide.log_alpha("0.weight").max() < 1e-4
    assert all(mask.all() for mask in guide.masks().values())


@pytest.mark.parametrize("give", [pyro.poutine.condition, pyro.poutine.do])
def test_values_that_are_given_are_used(give):
    net, x = network(), torch.ones(5, 4)
    values = AutoAdditiveNormal(net, init_log_variance=0.0)(x)
    given = give(net, values)
    hidden = torch.relu(x @ values["0.weight"].T + net[0].bias)
    torch.testing.assert_close(given(x), hidden @ values["2.weight"].T + net[2].bias)
    assert torch.equal(given(x), given(x))
