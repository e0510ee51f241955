import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO
from torch.distributions import kl_divergence

from pyro_ext.inference import ELBOObjective, TraceUnorderedSet_ELBO, TraceVIMCO_ELBO
from pyro_ext.models.disentangling import Decoder, Encoder, Guide, Model
from pyro_ext.models.disentangling.build import held_out_metrics
from tests.models.disentangling.parts import NOISE, HalvesEncoder, halves


@pytest.mark.parametrize("log_variance", [0.7, -1.3])
def test_kl_is_that_of_the_distribution_that_is_sampled(log_variance):
    """The same number must mean the log-variance in the KL divergence and in the draw."""
    model, guide = halves(log_variance=log_variance)
    x = torch.randn(6, 4)
    node = pyro.poutine.trace(guide).get_trace(x).nodes["z"]
    sampled = node["fn"]
    assert sampled.variance.mean() == pytest.approx(math.exp(log_variance))
    torch.manual_seed(0)
    draws = torch.stack([guide.encode(x).sample_z() for _ in range(4000)])
    # The variance of 4,000 draws has a relative standard error of 2.2 %, the mean of twelve of them 0.65 %.
    assert draws.var(0).mean() == pytest.approx(math.exp(log_variance), rel=0.03)
    expected = kl_divergence(sampled.base_dist, dist.Normal(0.0, 1.0)).sum(-1)
    torch.testing.assert_close(held_out_metrics(model, guide, x)["kl"], expected)


def test_noise_on_what_the_encoder_sees_is_for_training_only():
    guide = Guide(6, HalvesEncoder(), input_noise=0.5)
    x = torch.zeros(5000, 4)
    torch.manual_seed(0)
    z = guide.encode_in_training(x).z_loc
    assert z.std() == pytest.approx(0.5, abs=0.015)  # four standard errors of 10,000 draws
    traced = pyro.poutine.trace(guide).get_trace(x).nodes
    assert traced["z"]["fn"].mean.std() == pytest.approx(0.5, abs=0.015)
    for still in (guide.encode(x), guide.eval().encode_in_training(x)):
        assert torch.equal(still.z_loc, x[:, :2])
    assert torch.equal(pyro.poutine.trace(guide).get_trace(x).nodes["s"]["value"], x[:, 2:])


def test_elbo_by_hand_and_by_both_of_pyros_estimators():
    model, guide = halves(log_variance=-1.0)
    x = torch.randn(6, 4)
    z = x[:, :2]
    variance = math.exp(-1.0)
    kl = 0.5 * (z.square() + variance - 1 + 1.0).sum(-1)
    error = 4 * 0.5 * math.log(2 * math.pi * NOISE**2) + 2 * variance / (2 * NOISE**2)
    expected = float((kl + error).mean())
    torch.manual_seed(0)
    for elbo in (Trace_ELBO(num_particles=2000, vectorize_particles=True, max_plate_nesting=1), TraceMeanField_ELBO()):
        repeats = 1 if elbo.num_particles > 1 else 300
        objective = ELBOObjective(model, guide, elbo, size=6)
        estimate = torch.stack([objective(x, None, None).total.detach() for _ in range(repeats)]).mean()
        # Each of at least 1,800 terms varies by less than 2 nats: a standard error below 0.05.
        assert estimate == pytest.approx(expected, abs=0.2)


def test_batches_are_scaled():
    model, guide = halves(size=60)
    x = torch.randn(6, 4)
    whole = ELBOObjective(model, guide, TraceMeanField_ELBO(), size=60)(x, None, torch.arange(6)).total
    small, own = halves(size=6)
    assert ELBOObjective(small, own, TraceMeanField_ELBO(), size=6)(x, None, None).total == pytest.approx(float(whole))


ELBOS = {
    "trace": Trace_ELBO(),
    "mean field": TraceMeanField_ELBO(),
    "enumeration": TraceEnum_ELBO(max_plate_nesting=1),
    "particles": Trace_ELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=1),
    "unordered set": TraceUnorderedSet_ELBO(num_samples=2, max_plate_nesting=1),
    "vimco": TraceVIMCO_ELBO(num_particles=3, max_plate_nesting=1),
}


@pytest.mark.filterwarnings("ignore:TraceEnum_ELBO found no sample sites")
@pytest.mark.parametrize("name", ELBOS)
@pytest.mark.parametrize("network", ["perceptron", "convolutional"])
def test_every_elbo_has_gradients_for_both_networks(name, network):
    sizes = ((8, 8), 3, 2, 5, network)
    model, guide = Model(20, Decoder(*sizes), 3, 2), Guide(20, Encoder(*sizes))
    losses = ELBOObjective(model, guide, ELBOS[name], size=20)(torch.rand(4, 64), None, torch.arange(4))
    losses.total.backward()
    assert losses.total.isfinite()
    assert all(p.grad is not None for p in (*model.parameters(), *guide.parameters()))
    assert len(pyro.get_param_store()) == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_type_follows_the_modules(dtype):
    sizes = ((8, 8), 3, 2, 5)
    model, guide = Model(20, Decoder(*sizes), 3, 2).to(dtype), Guide(20, Encoder(*sizes)).to(dtype)
    loss = ELBOObjective(model, guide, TraceMeanField_ELBO())(torch.rand(4, 64, dtype=dtype), None, None).total
    assert loss.dtype == dtype


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Model(0, Decoder((8, 8)), 8, 8), "size must be an integer of at least 1, got 0"),
        (lambda: Model(1, Decoder((8, 8)), 8, 8, noise=0.0), "noise must be a positive, finite number"),
        (lambda: Guide(1, Encoder((8, 8)), input_noise=-0.1), "input_noise must be a finite number of at least 0"),
        (lambda: Guide(0, Encoder((8, 8))), "size must be an integer of at least 1, got 0"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
