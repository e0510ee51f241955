"""Every Bayesian layer keeps one contract, on every device; a new one is one line in the list."""

import warnings
from collections.abc import Callable
from typing import NamedTuple

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import JitTraceMeanField_ELBO, Predictive, Trace_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO
from pyro.nn import PyroModule

from pyro_ext import nn
from pyro_ext.distributions import LogUniform
from pyro_ext.distributions.structure import unwrap
from pyro_ext.inference import AnalyticKL, LocalELBOModule, local_params
from pyro_ext.nn import (
    AutoAdditiveNormal,
    SparseVariationalConv1d,
    SparseVariationalConv2d,
    SparseVariationalConv3d,
    SparseVariationalLinear,
    local_parameters,
)
from tests.contracts.device_guard import DEVICE, DeviceGuard
from tests.contracts.test_devices import WAYS, elsewhere


class Member(NamedTuple):
    """How to make a layer, and the shape of what it takes, without batch dims, and gives."""

    make: Callable
    inputs: tuple
    outputs: tuple


MEMBERS = {
    "SparseVariationalLinear": Member(lambda **o: SparseVariationalLinear(4, 3, **o), (4,), (3,)),
    "SparseVariationalLinear, no bias": Member(lambda **o: SparseVariationalLinear(4, 3, bias=False, **o), (4,), (3,)),
    "SparseVariationalConv1d": Member(lambda **o: SparseVariationalConv1d(2, 4, 3, groups=2, **o), (2, 6), (4, 4)),
    "SparseVariationalConv2d": Member(
        lambda **o: SparseVariationalConv2d(2, 3, (3, 2), stride=(2, 1), padding="valid", **o), (2, 5, 4), (3, 2, 3)
    ),
    "SparseVariationalConv2d, same": Member(
        lambda **o: SparseVariationalConv2d(1, 2, 3, padding="same", dilation=2, **o), (1, 5, 5), (2, 5, 5)
    ),
    "SparseVariationalConv3d": Member(
        lambda **o: SparseVariationalConv3d(1, 2, 2, padding=1, bias=False, **o), (1, 3, 2, 2), (2, 4, 3, 3)
    ),
}


class Program(PyroModule):
    """One layer and an observation of the sum of what it gives, for each of B rows."""

    def __init__(self, layer, size=20):
        super().__init__()
        self.layer = layer
        self.size = size

    def forward(self, x, y):
        mean = self.layer(x).flatten(-len(self.layer_outputs), -1).sum(-1)
        index = torch.arange(len(y), device=y.device)
        with pyro.plate("data", self.size, subsample=index):
            pyro.sample("y", dist.Normal(mean, y.new_ones(()), validate_args=False), obs=y)
        return mean


def program(name, dtype=torch.float64, device=None, **options):
    member = MEMBERS[name]
    model = Program(member.make(dtype=dtype, device=device, **options))
    model.layer_outputs = member.outputs
    guide = AutoAdditiveNormal(model, init_log_variance=-2.0)
    x = torch.linspace(-1, 1, 5 * torch.Size(member.inputs).numel(), dtype=dtype, device=device)
    x = x.reshape(5, *member.inputs)
    return model, guide, (x, torch.linspace(-1, 1, 5, dtype=dtype, device=device))


every = pytest.mark.parametrize("name", MEMBERS)


def test_every_layer_is_here():
    layers = {name for name in nn.__all__ if isinstance(getattr(nn, name), type) and "Variational" in name}
    assert {name.partition(",")[0] for name in MEMBERS} == layers


@every
def test_sites_and_shapes(name, dtype):
    model, guide, batch = program(name, dtype)
    trace = poutine.trace(poutine.replay(model, trace=poutine.trace(guide).get_trace(*batch))).get_trace(*batch)
    site = trace.nodes["layer.weight"]
    assert isinstance(unwrap(site["fn"]).base, LogUniform)
    assert site["fn"].batch_shape == ()
    assert (site["scale"], trace.nodes["y"]["scale"]) == (1, 4)
    outputs = model.layer(batch[0])
    assert outputs.shape == (5, *MEMBERS[name].outputs)
    assert outputs.dtype == dtype
    assert trace.nodes["y"]["fn"].loc.dtype == dtype


@every
@pytest.mark.parametrize("elbo", [Trace_ELBO, TraceMeanField_ELBO])
def test_one_step_of_each_elbo(name, elbo, dtype):
    """All agree with the plain model under TraceMeanField_ELBO, draw by draw."""
    model, guide, batch = program(name, dtype)
    guide(*batch)
    pyro.set_rng_seed(3)
    with local_params():
        expected = LocalELBOModule(model, guide, TraceMeanField_ELBO())(*batch)
    for programs in (AnalyticKL(strict=True).pair(model, guide), (AnalyticKL(strict=True)(model), guide)):
        module = LocalELBOModule(*programs, elbo())
        pyro.set_rng_seed(3)
        loss = module(*batch)
        loss.backward()
        torch.testing.assert_close(loss, expected)
    for parameter in (*guide.parameters(), *model.parameters()):
        assert parameter.grad.isfinite().all()
        assert parameter.grad.any()


def draws(name, local, num=4000):
    """Return outputs under many draws of the weights, ``(num, ...)``."""
    pyro.set_rng_seed(0)
    model, guide, batch = program(name, local=local)
    guide(*batch)
    outputs = []
    for _ in range(num):
        with poutine.replay(trace=poutine.trace(guide).get_trace(*batch)):
            outputs.append(model.layer(batch[0]).detach())
    return torch.stack(outputs)


@every
def test_local_reparameterisation_has_the_moments_of_weights(name):
    a, b = draws(name, True, 600), draws(name, False, 600)
    for x, y in ((a, b), (a.square(), b.square())):
        error = (x.mean(0) - y.mean(0)).abs() / ((x.var(0) + y.var(0)) / len(x)).sqrt()
        assert error.max() < 5.2  # at most 180 positions, a false alarm in 10^4
    rows = a.flatten(2).sum(-1).T.corrcoef()  # rows do not share their noise
    assert rows.fill_diagonal_(0).abs().max() < 5 / 600**0.5


@every
@pytest.mark.parametrize("local", [True, False])
def test_vectorised_particles(name, local):
    model, guide, batch = program(name, local=local)
    seen = []
    model.register_forward_hook(lambda module, args, result: seen.append(result.shape))
    pair = AnalyticKL(strict=True).pair(model, guide)
    guide(*batch)
    pyro.set_rng_seed(0)
    wide = Trace_ELBO(400, max_plate_nesting=1, vectorize_particles=True).loss(*pair, *batch)
    assert seen[-1] == (400, 5)
    single = torch.tensor([Trace_ELBO().loss(*pair, *batch) for _ in range(60)])
    assert abs(wide - single.mean()) < 5 * single.std() * (1 / 400 + 1 / 60) ** 0.5


@every
def test_evaluation_repeats_itself(name, dtype):
    model, guide, batch = program(name, dtype)
    with torch.no_grad():
        guide.log_sigma2.layer.weight.copy_(
            torch.linspace(-8, 6, guide.log_sigma2.layer.weight.numel()).view_as(guide.log_sigma2.layer.weight)
        )
    guide.eval()
    weights = guide(*batch)["layer.weight"]
    kept = guide.masks()["layer.weight"]
    assert 0 < kept.sum() < kept.numel()
    assert torch.equal(weights != 0, kept)
    first, second = (poutine.replay(model, trace=poutine.trace(guide).get_trace(*batch))(*batch) for _ in range(2))
    assert torch.equal(first, second)
    torch.testing.assert_close(guide.median()["layer.weight"], weights)


@every
def test_state(name, dtype):
    model, guide, batch = program(name, dtype)
    other_model, other_guide, _ = program(name, dtype)
    other_guide.load_state_dict(guide.state_dict())  # before the first call
    other_model.load_state_dict(model.state_dict())
    assert [*guide.state_dict()] == ["theta.layer.weight", "log_sigma2.layer.weight"]
    assert not any("start" in name for name in model.state_dict())
    guide.eval(), other_guide.eval()
    assert torch.equal(guide(*batch)["layer.weight"], other_guide(*batch)["layer.weight"])


@every
def test_inside_a_plate_over_data(name):
    model, _, (x, _) = program(name)

    def inside():
        with pyro.plate("data", 5):
            return model.layer(x)

    with pytest.raises(ValueError, match=r"layer 'layer' is called inside the plate 'data'.*before the plate"):
        inside()


class Twice(PyroModule):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x) - self.layer(x)


@every
def test_used_twice_in_one_pass(name):
    member = MEMBERS[name]
    x = torch.ones(5, *member.inputs)
    for local in (True, False):
        model = Twice(member.make(local=local))
        guide = AutoAdditiveNormal(model)
        with poutine.replay(trace=poutine.trace(guide).get_trace(x)):
            if not local:
                assert (model(x) == 0).all()
                continue
            with pytest.raises(ValueError, match=r"layer 'layer' is used twice.*local=False"):
                model(x)
    model = Twice(member.make())
    assert (model(x) == 0).all()  # drawn from the prior: no local reparameterisation, one weight for both


@every
def test_inputs_of_zero(name, dtype):
    model, guide, (x, y) = program(name, dtype)
    module = LocalELBOModule(*AnalyticKL(strict=True).pair(model, guide), Trace_ELBO())
    x = torch.zeros_like(x, requires_grad=True)
    module(x, y).backward()
    assert x.grad.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in guide.parameters())


@every
@pytest.mark.parametrize("elbo", [TraceGraph_ELBO, Trace_ELBO, TraceMeanField_ELBO])
def test_the_wrappers_of_elbos_keep_the_parameters(name, elbo):
    """Were a tag lost, the rows of one batch would share their noise."""
    model, guide, batch = program(name)
    seen = []
    model.layer.register_forward_pre_hook(lambda layer, args: seen.append(local_parameters(layer.drawn("weight"))))
    model.layer.local = False  # so that looking at the weight does not count as a use of the layer
    guide(*batch)
    seen.clear()
    elbo().loss(*AnalyticKL(strict=True).pair(model, guide), *batch)
    assert all(parameters is not None for parameters in seen)
    assert len(seen) == 1


@pytest.mark.parametrize("name", ["SparseVariationalLinear", "SparseVariationalConv2d"])
def test_compiled(name):
    model, guide, batch = program(name)
    guide(*batch)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        jit = JitTraceMeanField_ELBO(ignore_jit_warnings=True)
        losses = torch.tensor([jit.loss_and_grads(model, guide, *batch) for _ in range(20)])
    plain = torch.tensor([TraceMeanField_ELBO().loss(model, guide, *batch) for _ in range(20)])
    assert losses.std() > 0
    assert abs(losses.mean() - plain.mean()) < 5 * (losses.var() / 20 + plain.var() / 20).sqrt()


@every
def test_predictive(name):
    model, guide, batch = program(name)
    samples = Predictive(model, guide=guide, num_samples=7, return_sites=["layer.weight"])(*batch)
    weights = samples["layer.weight"].squeeze(1)  # of the plate over data
    assert weights.shape == (7, *guide.theta.layer.weight.shape)
    assert weights.std(0).min() > 0


@pytest.mark.parametrize("way", WAYS)
@every
def test_devices(name, way):
    with elsewhere(way) as (_, device):
        model, guide, batch = program(name, torch.float32, device)
        module = LocalELBOModule(*AnalyticKL(strict=True).pair(model, guide), Trace_ELBO())
        for _ in range(2):
            module(*batch).backward()
        assert {p.grad.device for p in (*guide.parameters(), *model.parameters())} == {device}
        with local_params():
            guide.eval()
            assert guide(*batch)["layer.weight"].device == device
            samples = guide.train()(*batch)["layer.weight"]
            assert samples.clone().dtype == torch.float32


@every
def test_moved_to_a_device(name):
    model, guide, batch = program(name, torch.float32)
    with DeviceGuard():
        module = LocalELBOModule(*AnalyticKL(strict=True).pair(model, guide), Trace_ELBO())
        model.to(DEVICE), guide.to(DEVICE)
        module(*(x.to(DEVICE) for x in batch)).backward()


@every
def test_waits(name):
    with pyro.validation_enabled(False), DeviceGuard() as guard:
        model, guide, batch = program(name, torch.float32, DEVICE)
        module = LocalELBOModule(*AnalyticKL(strict=True).pair(model, guide), Trace_ELBO())
        module(*batch).backward()
        guard.waits.clear()
        module(*batch).backward()
        waits = dict(guard.waits)
    assert not {place for place in waits if not place.startswith("pyro.")}


@pytest.mark.gpu
@every
def test_on_cuda(name, dtype):
    model, guide, batch = program(name, dtype, torch.device("cuda"))
    module = LocalELBOModule(*AnalyticKL(strict=True).pair(model, guide), Trace_ELBO())
    module(*batch).backward()
    assert all(parameter.grad.isfinite().all() for parameter in guide.parameters())
