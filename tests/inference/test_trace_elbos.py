"""What the ELBOs on pairs of whole traces share: dtypes, devices, auxiliary sites, and programs at the edge."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_ext.inference import (
    TraceARMS_ELBO,
    TraceDisARM_ELBO,
    TraceDoubleCV_ELBO,
    TraceRODEO_ELBO,
    TraceUnorderedBeam_ELBO,
    TraceVIMCO_ELBO,
)
from tests.inference.feeding import gradients, max_z

ELBOS = {
    "disarm": lambda **kwargs: TraceDisARM_ELBO(**kwargs),
    "disarm of two pairs": lambda **kwargs: TraceDisARM_ELBO(2, vectorize_particles=True, **kwargs),
    "double cv": lambda **kwargs: TraceDoubleCV_ELBO(2, **kwargs),
    "rodeo": lambda **kwargs: TraceRODEO_ELBO(2, hidden=4, **kwargs),
    "arms": lambda **kwargs: TraceARMS_ELBO(3, **kwargs),
    "beam of one": lambda **kwargs: TraceUnorderedBeam_ELBO(1, **kwargs),
    "beam": lambda **kwargs: TraceUnorderedBeam_ELBO(2, **kwargs),
    "two beams": lambda **kwargs: TraceUnorderedBeam_ELBO(2, num_particles=2, **kwargs),
}
each_elbo = pytest.mark.parametrize("make", ELBOS.values(), ids=ELBOS.keys())


@pytest.fixture(params=["float32", "float64"])
def default_dtype(request):
    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, request.param))
    yield
    torch.set_default_dtype(before)


def bits(logits, event):
    return dist.Bernoulli(logits=logits).to_event(1) if event else dist.Bernoulli(logits=logits[0])


def program(dtype, event, device="cpu"):
    """Return logits, and a model and guide that mention no dtype or device but theirs."""
    logits = torch.tensor([0.3, -0.2, 0.1], dtype=dtype, device=device, requires_grad=True)
    one = torch.ones((), dtype=dtype, device=device)

    def model():
        z = pyro.sample("z", bits(torch.zeros_like(logits), event))
        y = pyro.sample("y", dist.Normal(0 * one, one))
        pyro.sample("x", dist.Normal(y + (z.sum(-1) if event else z), one), obs=0 * one)

    def guide():
        pyro.sample("z", bits(logits, event))
        pyro.sample("y", dist.Normal(logits[1], one))

    return logits, model, guide


@each_elbo
@pytest.mark.parametrize("event", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.usefixtures("default_dtype")
def test_the_loss_has_the_dtype_of_the_model(make, dtype, event):
    logits, model, guide = program(dtype, event)
    loss = make(max_plate_nesting=0).differentiable_loss(model, guide)
    assert loss.dtype == dtype
    assert loss.isfinite()
    gradient = gradients(loss, [logits])[0]
    assert gradient.dtype == dtype
    assert gradient.isfinite().all()


@each_elbo
@pytest.mark.parametrize("event", [False, True])
def test_the_loss_is_on_the_device_of_the_inputs(make, event):
    """With a default device that holds no data, a constant made there could not be computed with."""
    logits, model, guide = program(torch.float64, event)
    with torch.device("meta"):
        loss = make(max_plate_nesting=0).differentiable_loss(model, guide)
    assert loss.device == logits.device
    assert gradients(loss, [logits])[0].isfinite().all()


@pytest.mark.gpu
@each_elbo
@pytest.mark.parametrize("event", [False, True])
def test_the_loss_is_on_the_gpu_of_the_inputs(make, event):
    logits, model, guide = program(torch.float32, event, "cuda")
    loss = make(max_plate_nesting=0).differentiable_loss(model, guide)
    assert loss.device == logits.device
    assert gradients(loss, [logits])[0].isfinite().all()


TABLE = torch.tensor([[0.1, 0.2, 0.7], [0.5, 0.3, 0.2]], dtype=torch.float64)


def auxiliary(logits):
    """Return a model, and a guide that draws the latent value through a site which the model does not have."""

    def model():
        z = pyro.sample("z", dist.Categorical(logits.new_tensor([0.2, 0.3, 0.5])))
        pyro.sample("x", dist.Normal(z.double(), 1.0), obs=logits.new_tensor(1.0))

    def guide():
        a = pyro.sample("a", dist.Categorical(logits=logits), infer={"is_auxiliary": True})
        pyro.sample("z", dist.Categorical(TABLE[a]))

    return model, guide


def auxiliary_exact(logits):
    log_q = logits.log_softmax(-1)[..., None] + TABLE.log()
    z = torch.arange(3, dtype=torch.float64)
    log_p = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64).log() + dist.Normal(z, 1.0).log_prob(z.new_tensor(1.0))
    return -(log_q.exp() * (log_p - log_q)).sum()


@pytest.mark.parametrize("k", [1, 2])
def test_auxiliary_guide_sites_count_in_the_signal(k):
    pyro.set_rng_seed(0)
    copies = 20_000
    values = torch.tensor([-0.8, 0.4], dtype=torch.float64)
    logits = values.expand(copies, 2).clone().requires_grad_()
    plate = pyro.plate("copies", copies)
    model, guide = auxiliary(logits)
    elbo = TraceUnorderedBeam_ELBO(k, max_plate_nesting=1)
    samples = gradients(elbo.differentiable_loss(plate(model), plate(guide)), [logits])[0]
    values.requires_grad_()
    truth = gradients(auxiliary_exact(values), [values])[0]
    assert truth[1].item() == pytest.approx(0.2383, abs=1e-4)
    assert max_z(samples, truth) < 4.5


def nothing():
    pass


def empty_plate():
    with pyro.plate("data", 3):
        pass


@each_elbo
@pytest.mark.parametrize("program", [nothing, empty_plate])
def test_programs_without_sites_cost_nothing(make, program):
    assert make().loss(program, program) == 0
    assert make().loss_and_grads(program, program) == 0


@each_elbo
def test_programs_without_latent_sites(make):
    def model():
        pyro.sample("x", dist.Normal(0.0, 1.0), obs=torch.tensor(1.0))

    assert make().loss(model, nothing) == pytest.approx(0.5 + 0.5 * math.log(2 * math.pi))


@each_elbo
def test_impossible_values_are_named_and_leave_the_others_their_gradient(make):
    logits = torch.zeros(2, requires_grad=True)

    def model():
        with pyro.plate("data", 2):
            z = pyro.sample("z", dist.Bernoulli(torch.tensor(0.5)))
            pyro.factor("rule", torch.where(torch.tensor([True, False]), -math.inf * torch.ones(2), 1 + z))

    def guide():
        with pyro.plate("data", 2):
            pyro.sample("z", dist.Bernoulli(logits=logits))

    pyro.set_rng_seed(0)
    with pytest.warns(UserWarning, match=r"model site 'rule' \(-inf\)"):
        loss = make().differentiable_loss(model, guide)
    assert loss.item() == math.inf
    gradient = gradients(loss, [logits])[0]
    assert gradient.isfinite().all()
    assert gradient[0] == 0
    assert gradient[1] != 0


@pytest.mark.parametrize("make", [TraceDisARM_ELBO, lambda: TraceUnorderedBeam_ELBO(2)])
def test_values_impossible_for_some_draws_only(make):
    logit = torch.zeros((), requires_grad=True)

    def model():
        z = pyro.sample("z", dist.Bernoulli(torch.tensor(0.5)))
        pyro.sample("y", dist.Binomial(z, torch.tensor(0.5), validate_args=False), obs=torch.tensor(1.0))

    def guide():
        pyro.sample("z", dist.Bernoulli(logits=logit))

    with pytest.warns(UserWarning, match=r"model site 'y' \(-inf\)"):
        loss = make().differentiable_loss(model, guide)
    assert loss.item() == math.inf
    assert gradients(loss, [logit])[0].isfinite()


@pytest.mark.filterwarnings("ignore:Found vars in model but not guide")
@pytest.mark.parametrize("make", [*ELBOS.values(), lambda: TraceVIMCO_ELBO(2)])
def test_refuses_sites_to_be_summed_out_of_the_model(make):
    def model():
        z = pyro.sample("z", dist.Bernoulli(torch.tensor(0.5)))
        c = pyro.sample("c", dist.Bernoulli(torch.tensor(0.5)), infer={"enumerate": "parallel"})
        pyro.sample("x", dist.Normal(z + c, 1.0), obs=torch.tensor(1.0))

    def guide():
        pyro.sample("z", dist.Bernoulli(torch.tensor(0.5)))

    with pytest.raises(NotImplementedError, match=r"'c' is marked .*'parallel'.* TraceUnorderedSet_ELBO"):
        make().loss(model, guide)
