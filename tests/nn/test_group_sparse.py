"""Group-sparse layers: priors, divergences, local reparameterisation, moments, export, refusals."""

import copy
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from pyro.nn import PyroModule
from torch import nn

from pyro_ext.inference import AnalyticKL, LocalELBOModule, OptimizerSettings
from pyro_ext.nn import (
    AutoGroupSparse,
    GroupSparseConv1d,
    GroupSparseConv2d,
    GroupSparseConv3d,
    GroupSparseLinear,
    Horseshoe,
    LocalLogNormal,
    NormalJeffreys,
    compact,
    export_masked,
    export_posterior,
    group_sparse,
    prune,
    sparsity_report,
)
from pyro_ext.nn.local_log_normal import drawn_per_row, log_parameters
from tests.contracts.test_devices import WAYS, elsewhere

SCALES = {"normal-Jeffreys": NormalJeffreys(), "horseshoe": Horseshoe()}
LAYERS = {
    "linear": (lambda **options: GroupSparseLinear(4, 3, **options), (4,)),
    "conv1d": (lambda **options: GroupSparseConv1d(2, 3, 3, stride=2, **options), (2, 8)),
    "conv2d": (lambda **options: GroupSparseConv2d(2, 4, (3, 1), padding="same", groups=2, **options), (2, 4, 3)),
    "conv3d": (lambda **options: GroupSparseConv3d(1, 3, 2, dilation=2, **options), (1, 3, 4, 3)),
}


@pytest.fixture(params=SCALES)
def scale(request):
    pyro.set_rng_seed(0)
    return SCALES[request.param]


@pytest.fixture(params=LAYERS)
def kind(request):
    pyro.set_rng_seed(0)
    return LAYERS[request.param]


def randomise(guide, log_variance=-2.0, spread=0.5):
    """Give all parameters random values, biases included."""
    with torch.no_grad():
        for name, parameter in guide.named_parameters():
            if name.startswith("log_sigma2"):
                parameter.fill_(log_variance).add_(spread * torch.randn_like(parameter))
            elif "gamma" not in name and "inverse" not in name:
                parameter.add_(spread * torch.randn_like(parameter))


def drawn(layer, guide, x):
    """Return outputs with one draw of everything that is not drawn by row."""
    return poutine.replay(layer, poutine.trace(guide).get_trace(x))(x)


def particles(number):
    return pyro.plate("num_particles_vectorized", number, dim=-2)


@torch.no_grad()
def test_local_reparameterisation_keeps_means_and_variances(kind, scale):
    make, shape = kind
    x = torch.randn(1, *shape, dtype=torch.float64)
    layer = make(scale=scale).double()
    guide = AutoGroupSparse(layer)
    randomise(guide, log_variance=-3.0, spread=0.2)
    number = 4000
    # rows have noise of their own, so that many equal rows are as good as many draws
    local = drawn(layer, guide, x.expand(number, *shape))
    layer.local = False
    with particles(number):
        sampled = drawn(layer, guide, x)[:, 0]
    error = ((local.var(0) + sampled.var(0)) / number).sqrt()
    assert ((local.mean(0) - sampled.mean(0)).abs() < 4.5 * error).all()
    ratio = local.std(0) / sampled.std(0)
    assert ((ratio - 1).abs() < 0.12).all()  # its standard error is 0.016 where tails are light


@torch.no_grad()
def test_moments_are_those_of_sampled_weights(kind, scale):
    make, _ = kind
    layer = make(scale=scale).double()
    guide = AutoGroupSparse(layer)
    randomise(guide, log_variance=-3.0, spread=0.3)
    (moments,) = guide.moments().values()
    with particles(10_000):
        trace = poutine.trace(guide).get_trace(torch.ones(1, *kind[1], dtype=torch.float64))
    values = {name: site["value"] for name, site in trace.iter_stochastic_nodes() if "num_particles" not in name}
    z = scale.combine({name: values[name] for name in layer.group_sites}).flatten(0, 1)
    weight = values["weight"].flatten(0, 1)
    weights = weight * (z[:, None] if weight.dim() == 3 else z.view(*z.shape, *[1] * (weight.dim() - 2)))
    error = weights.std(0) / math.sqrt(len(weights))
    assert ((weights.mean(0) - moments.weight).abs() < 4.5 * error).all()
    assert ((weights.var(0) / moments.variance - 1).abs() < 0.15).all()
    assert torch.equal(moments.bias, guide.theta.get_parameter("bias"))


def test_scores_are_those_of_the_paper():
    layer = PyroModule[nn.Sequential](GroupSparseLinear(3, 2), GroupSparseConv2d(1, 3, 2, scale=Horseshoe()))
    guide = AutoGroupSparse(layer)
    randomise(guide)
    moments = guide.moments()
    loc, log_variance = guide.parameters_of("0.z")
    torch.testing.assert_close(moments["0"].score, log_variance - loc.square().log())
    parts = [guide.parameters_of(f"1.{name}") for name in Horseshoe.SITES]
    z = LocalLogNormal(0.5 * sum(loc for loc, _ in parts), (0.25 * sum(v.exp() for _, v in parts)).log())
    torch.testing.assert_close(moments["1"].score.flatten(), -(z.loc - z.scale.square()))
    torch.testing.assert_close(moments["1"].variance.shape, torch.Size([3, 1, 2, 2]))


def test_horseshoe_scales_are_half_cauchy():
    pyro.set_rng_seed(0)
    scale = Horseshoe(0.01)
    like = torch.ones(400, dtype=torch.float64)
    values = {name: scale.prior(name, like).sample((500,)) for name in Horseshoe.SITES}
    shared = (values["shared_gamma"] * values["shared_inverse"]).sqrt()
    own = (scale.combine(values) / shared).flatten()
    levels = torch.tensor([0.1, 0.25, 0.5, 0.75, 0.9], dtype=torch.float64)
    expected = (math.pi / 2 * levels).tan()
    for level, quantile in zip(levels, expected, strict=True):
        error = math.sqrt(level * (1 - level) / len(own))
        assert abs((own < quantile).double().mean() - level) < 4.5 * error
    assert abs((shared < 0.01).double().mean() - 0.5) < 4.5 * 0.5 / math.sqrt(500)


def program(layer, x):
    def model():
        layer(x)

    return model


def test_divergence_is_the_sum_of_closed_ones(kind, scale):
    make, shape = kind
    layer = make(scale=scale).double()
    guide = AutoGroupSparse(layer)
    randomise(guide, log_variance=-3.0, spread=0.3)
    x = torch.randn(2, *shape, dtype=torch.float64)
    mean_field = TraceMeanField_ELBO().loss(layer, guide, x)
    assert Trace_ELBO().loss(AnalyticKL(strict=True)(layer), guide, x) == pytest.approx(mean_field)
    by_hand = 0.0
    for name in ("weight", "bias"):
        loc, log_variance = guide.parameters_of(name)
        by_hand += 0.5 * (log_variance.exp() + loc.square() - 1 - log_variance).sum().item()
    if isinstance(scale, NormalJeffreys):
        return  # sampled divergences from the log-uniform prior are compared in the tests of that prior
    with particles(5000):
        draws = poutine.trace(guide).get_trace(x)
    sampled = torch.zeros((), dtype=torch.float64)
    for name in layer.group_sites:
        node = draws.nodes[name]
        prior = scale.prior(name, layer.group_like)
        sampled = sampled + (node["fn"].log_prob(node["value"]) - prior.log_prob(node["value"])).flatten()
    error = sampled.std().item() / math.sqrt(len(sampled))
    assert abs(sampled.mean().item() + by_hand - mean_field) < 4.5 * error


def test_divergence_at_the_start_is_moderate(kind, scale):
    make, shape = kind
    layer = make(scale=scale)
    guide = AutoGroupSparse(layer)
    weights = sum(site.numel() for _, site in layer.starts())
    loss = TraceMeanField_ELBO().loss(layer, guide, torch.randn(2, *shape))
    assert 0 < loss < 1000 + 6 * weights


def test_shared_horseshoe_scales_begin_within_reach():
    layer = GroupSparseLinear(2, 1, bias=False, scale=Horseshoe())
    guide = AutoGroupSparse(layer)
    poutine.trace(guide).get_trace(torch.ones(1, 2))
    loss = TraceMeanField_ELBO().loss(
        poutine.block(layer, expose=["shared_gamma", "shared_inverse"]),
        poutine.block(guide, expose=["shared_gamma", "shared_inverse"]),
        torch.ones(1, 2),
    )
    assert 15 < loss < 60


@pytest.mark.parametrize(("theta", "log_variance"), [(0.0, -12.0), (0.0, 3.0), (1e-20, -30.0)])
def test_gradients_are_finite_where_means_vanish(kind, scale, theta, log_variance):
    make, shape = kind
    layer = make(scale=scale)
    guide = AutoGroupSparse(layer, init_log_variance=log_variance)
    with torch.no_grad():
        for name, parameter in guide.named_parameters():
            if name.startswith("theta") and "gamma" not in name and "inverse" not in name:
                parameter.fill_(theta)
    x = torch.randn(2, *shape)
    x[0] = 0

    def model(x):
        y = layer(x)
        with pyro.plate("data", 2):
            pyro.sample("y", dist.Normal(y.flatten(1), 1.0).to_event(1), obs=torch.zeros_like(y.flatten(1)))

    TraceMeanField_ELBO().differentiable_loss(model, guide, x).backward()
    assert all(parameter.grad.isfinite().all() for parameter in guide.parameters())


def test_each_row_has_scales_of_its_own():
    pyro.set_rng_seed(0)
    layer = GroupSparseLinear(3, 2, bias=False)
    guide = AutoGroupSparse(layer, init_log_variance={"weight": -40.0, "z": 0.0})
    outputs = drawn(layer, guide, torch.ones(5, 3))
    assert len(outputs[:, 0].unique()) == 5
    layer.local = False
    outputs = drawn(layer, guide, torch.ones(5, 3))
    torch.testing.assert_close(outputs, outputs[:1].expand(5, 2))


@torch.no_grad()
def test_vectorised_particles(kind, scale):
    make, shape = kind
    layer = make(scale=scale)
    guide = AutoGroupSparse(layer)
    randomise(guide, log_variance=-4.0, spread=0.1)
    x = torch.randn(3, *shape)
    expected = layer(x).shape
    for local in (True, False):
        layer.local = local
        with particles(7):
            outputs = drawn(layer, guide, x)
        assert outputs.shape == (7, *expected)
        spread = outputs.std(0)
        assert (spread > 0).all()


@torch.no_grad()
def test_evaluation_is_the_exported_network(scale):
    pyro.set_rng_seed(0)
    plain = nn.Sequential(
        nn.Conv2d(1, 6, 3),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Flatten(),
        nn.Sequential(nn.Linear(96, 8), nn.Tanh()),
        nn.Linear(8, 3),
    ).double()
    network = group_sparse(plain, scale).eval()
    guide = AutoGroupSparse(network)
    randomise(guide)
    exported = export_posterior(network, guide)
    assert [*exported.scores] == ["0.weight", "4.0.weight", "5.weight"]
    thresholds = {name: score.median().item() for name, score in exported.scores.items()}
    guide.set_thresholds({name.removesuffix(".weight"): value for name, value in thresholds.items()})
    masks = prune(exported.network, exported.scores, threshold=thresholds)
    assert all(torch.equal(mask, masks[name]) for name, mask in guide.masks().items())
    x = torch.randn(5, 1, 6, 6, dtype=torch.float64)
    masked = export_masked(exported.network, masks)(x)
    guide.eval()
    first, second = (poutine.replay(network, poutine.trace(guide).get_trace(x))(x) for _ in range(2))
    torch.testing.assert_close(first, second)
    torch.testing.assert_close(first, masked)
    small = compact(exported.network, masks)
    torch.testing.assert_close(small(x), masked)
    report = sparsity_report(exported.network, masks, variances=exported.variances)
    removed = {name: int((~mask.flatten(1).any(1)).sum()) for name, mask in masks.items()}
    assert report.layers[0].rows_alive <= 6 - removed["0.weight"]
    assert report.layers[1].rows_alive == report.layers[2].columns_alive  # a chain
    assert report.layers[2].columns_alive <= 4
    assert all(0 < row.bits <= 32 for row in report.layers)
    assert not any("Pyro" in type(part).__name__ for part in exported.network.modules())


def test_a_trained_network_is_where_it_begins():
    plain = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2, bias=False))
    network = group_sparse(plain, Horseshoe())
    exported = export_posterior(network, AutoGroupSparse(network, init_log_variance=-40.0)).network
    for before, after in zip(plain.parameters(), exported.parameters(), strict=True):
        torch.testing.assert_close(before, after)


def test_log_variances_by_site_and_groups_of_learning_rates():
    network = group_sparse(nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)))
    guide = AutoGroupSparse(network, init_log_variance={"0.z": -4.0})
    assert guide.log_sigma2.get_parameter("0.z").unique().tolist() == [-4.0]
    optimizer = OptimizerSettings("Adam", lr=1e-3, groups={"*log_sigma2*": {"lr": 1e-2}}).make(guide.named_parameters())
    assert [(group["lr"], len(group["params"])) for group in optimizer.param_groups] == [(1e-3, 6), (1e-2, 6)]


def test_log_normal_samples_remember_their_parameters():
    q = LocalLogNormal(torch.zeros(3), torch.full((3,), -60.0))
    for wrapped in (q.to_event(1), q.expand([2, 1, 3]), q.mask(False), copy.deepcopy(q)):
        value = wrapped.rsample()
        assert log_parameters(value).loc.shape == (3,)
        assert log_parameters(value * 1) is None
        assert drawn_per_row(value, 4).shape == (*value.shape[:-2], 4, 3)
    reference = dist.LogNormal(q.loc, q.scale)
    value = torch.tensor([0.5, 1.0, 2.0])
    torch.testing.assert_close(
        LocalLogNormal(torch.zeros(3), torch.ones(3)).log_prob(value),
        dist.LogNormal(0.0, math.exp(0.5)).log_prob(value),
    )
    assert reference.batch_shape == q.batch_shape


def test_a_seed_repeats_a_run(scale):
    network = group_sparse(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), scale)
    guide = AutoGroupSparse(network)
    x, outputs = torch.randn(5, 4), []
    guide(x)  # looks at the model first
    for _ in range(2):
        pyro.set_rng_seed(3)
        outputs.append(drawn(network, guide, x))
    assert torch.equal(*outputs)


def test_a_layer_inside_of_a_plate_of_data_is_refused(scale):
    layer = GroupSparseLinear(3, 2, scale=scale)
    with pyro.plate("data", 5), pytest.raises(ValueError, match="is called inside the plate 'data'"):
        layer(torch.ones(5, 3))


def test_a_layer_that_is_used_twice_is_refused():
    class Twice(PyroModule):
        def __init__(self):
            super().__init__()
            self.layer = GroupSparseLinear(3, 3)

        def forward(self, x):
            return self.layer(self.layer(x))

    network = Twice()
    guide = AutoGroupSparse(network)
    with pytest.raises(ValueError, match="is used twice in one forward pass"):
        drawn(network, guide, torch.ones(5, 3))
    network.layer.local = False
    assert drawn(network, guide, torch.ones(5, 3)).shape == (5, 3)


def test_modules_in_two_places():
    layer, relu = nn.Linear(4, 4), nn.ReLU()
    plain = nn.Sequential(layer, relu, layer, relu, nn.Linear(4, 2)).eval()
    network = group_sparse(plain, local=False)
    assert len(network) == 5
    assert network[0] is network[2]
    assert not network.training
    exported = export_posterior(network, AutoGroupSparse(network)).network
    x = torch.randn(7, 4)
    torch.testing.assert_close(exported(x), plain(x))


class Block(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer


BAD = {
    "containers": (
        lambda: group_sparse(nn.Sequential(nn.Linear(2, 2), Block(nn.Linear(2, 2)))),
        "there are linear or convolutional layers inside of Block, which would keep ordinary weights",
    ),
    "exported containers": (
        lambda: export_posterior(Block(GroupSparseLinear(2, 2)), AutoGroupSparse(GroupSparseLinear(2, 2))),
        "there are group-sparse layers inside of Block",
    ),
    "scale": (lambda: GroupSparseLinear(3, 2, scale="horseshoe"), r"scale must be a prior of scales such as Normal"),
    "size": (lambda: GroupSparseLinear(0, 2), "in_features must be an integer of at least 1, got 0"),
    "channels": (lambda: GroupSparseConv1d(2, 0, 3), "out_channels must be an integer of at least 1, got 0"),
    "kl": (lambda: NormalJeffreys("series"), "kl must be one of approx, exact; got 'series'"),
    "global scale": (lambda: Horseshoe(0.0), r"global_scale must be a positive, finite number, got 0\.0"),
    "padding": (
        lambda: group_sparse(nn.Conv1d(1, 2, 3, padding=1, padding_mode="circular")),
        "convolutions must pad with zeros, got padding_mode='circular'",
    ),
    "threshold": (
        lambda: AutoGroupSparse(GroupSparseLinear(2, 2), thresholds={"x": 1.0}),
        r"thresholds: there are no layers \['x'\]",
    ),
    "layer": (
        lambda: export_posterior(
            group_sparse(nn.Sequential(nn.Linear(2, 2))), AutoGroupSparse(GroupSparseLinear(2, 2))
        ),
        "network has a layer '0' that guide does not know",
    ),
}


@pytest.mark.parametrize(("call", "message"), BAD.values(), ids=BAD)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("way", WAYS)
def test_devices(kind, scale, way):
    make, shape = kind
    with elsewhere(way) as (_, device):
        layer = make(scale=scale, device=device, dtype=torch.float32)
        guide = AutoGroupSparse(layer)
        module = LocalELBOModule(*AnalyticKL(strict=True).pair(layer, guide), Trace_ELBO())
        x = torch.ones(2, *shape, device=device, dtype=torch.float32)
        module(x)  # looks at the model
        module(x).backward()
        assert {(p.grad.device, p.dtype) for p in guide.parameters()} == {(device, torch.float32)}
        exported = export_posterior(layer, guide)
        assert exported.network(x).device == device
