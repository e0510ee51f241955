"""What every ELBO promises, whatever its estimator. A new ELBO is one line in ``MEMBERS``."""

import copy
import re

import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro import poutine
from pyro.infer import ELBO, SVI, Trace_ELBO, TraceEnum_ELBO

from pyro_ext import inference
from tests.inference import gradient_cases as cases
from tests.inference.feeding import max_z

MEMBERS = {
    "unordered_set": lambda **kw: inference.TraceUnorderedSet_ELBO(3, **kw),
    "sum_and_sample": lambda **kw: inference.TraceSumAndSample_ELBO(3, **kw),
    "leave_one_out": lambda **kw: inference.TraceLeaveOneOut_ELBO(3, **kw),
    "leave_one_out_runs": lambda **kw: inference.TraceLeaveOneOut_ELBO(3, vectorize_samples=False, **kw),
    "reinforce": lambda **kw: inference.TraceSampleSet_ELBO(estimator="reinforce", **kw),
    "analytic_kl": lambda **kw: inference.TraceUnorderedSet_ELBO(3, analytic_kl=True, **kw),
    "exact": lambda **kw: inference.TraceSampleSet_ELBO(estimator="exact", **kw),
    "vimco": lambda **kw: inference.TraceVIMCO_ELBO(num_particles=3, **kw),
    "disarm": lambda **kw: inference.TraceDisARM_ELBO(**kw),
    "double_cv": lambda **kw: inference.TraceDoubleCV_ELBO(3, **kw),
    "leave_one_out, linear": lambda **kw: inference.TraceLeaveOneOut_ELBO(3, control_variate="linear", **kw),
    "unordered_set, mean": lambda **kw: inference.TraceUnorderedSet_ELBO(3, control_variate="mean", **kw),
    "arms, linear": lambda **kw: inference.TraceARMS_ELBO(3, control_variate="linear", **kw),
    "disarm, mean": lambda **kw: inference.TraceDisARM_ELBO(control_variate="mean", **kw),
    "rodeo": lambda **kw: inference.TraceRODEO_ELBO(2, hidden=8, **kw),
    "arms": lambda **kw: inference.TraceARMS_ELBO(3, **kw),
    "unordered_beam": lambda **kw: inference.TraceUnorderedBeam_ELBO(3, **kw),
}
SLOW = {"unordered_set, mean", "arms, linear", "disarm, mean"}  # their parts are those of other members
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.fixture(params=[pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in MEMBERS])
def make_elbo(request):
    return MEMBERS[request.param]


class Model(torch.nn.Module):
    """Bernoulli codes and a normal offset under noisy data of four points, seen two at a time."""

    def __init__(self, dtype=torch.float32, device="cpu"):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([0.5, -1.0, 2.0], dtype=dtype, device=device))
        self.register_buffer("zeros", torch.zeros(3, dtype=dtype, device=device))
        self.register_buffer("x", torch.tensor([0.3, -0.8, 1.7, 0.1], dtype=dtype, device=device))

    def forward(self, index):
        with pyro.plate("data", 4, subsample=index):
            offset = pyro.sample("offset", dist.Normal(self.zeros[0], 1.0))
            code = pyro.sample("code", dist.Bernoulli(logits=self.zeros).to_event(1))
            loc = offset + (code.to(self.weight.dtype) * self.weight).sum(-1)
            pyro.sample("x", dist.Normal(loc, 1.0), obs=self.x[index])


class Guide(torch.nn.Module):
    def __init__(self, dtype=torch.float32, device="cpu"):
        super().__init__()
        self.loc = torch.nn.Parameter(torch.zeros(4, dtype=dtype, device=device))
        self.logits = torch.nn.Parameter(torch.linspace(-1, 1, 12, dtype=dtype, device=device).reshape(4, 3))

    def forward(self, index):
        with pyro.plate("data", 4, subsample=index):
            pyro.sample("offset", dist.Normal(self.loc[index], 0.7))
            pyro.sample("code", dist.Bernoulli(logits=self.logits[index]).to_event(1))


@pytest.fixture
def index():
    return torch.tensor([1, 3])


def parameters(*modules):
    return [p for module in modules for p in module.parameters()]


def test_family(make_elbo):
    elbo = make_elbo()
    assert isinstance(elbo, inference.DifferentiableELBO)
    assert isinstance(elbo, ELBO)
    assert isinstance(elbo, torch.nn.Module)
    assert isinstance(elbo, TraceEnum_ELBO if isinstance(elbo, inference.TraceSampleSet_ELBO) else Trace_ELBO)
    assert type(elbo).__name__ in repr(elbo)


@pytest.mark.parametrize("device", DEVICES)
def test_module_form_reaches_every_parameter(make_elbo, index, dtype, device):
    model, guide = Model(dtype, device), Guide(dtype, device)
    module = make_elbo()(model, guide)
    loss = module(index.to(device))
    assert loss.shape == ()
    assert loss.dtype == dtype
    assert loss.isfinite()
    loss.backward()
    for parameter in module.parameters():
        assert parameter.grad.isfinite().all()
    assert guide.loc.grad[index].abs().min() > 0
    assert guide.logits.grad[index].abs().max() > 0
    assert guide.logits.grad[[0, 2]].abs().max() == 0
    assert not pyro.get_param_store().keys()


def test_loss_is_the_value_of_the_differentiable_loss(make_elbo, index):
    model, guide, elbo = Model(), Guide(), make_elbo(max_plate_nesting=1)
    pyro.set_rng_seed(3)
    expected = elbo.differentiable_loss(model, guide, index)
    pyro.set_rng_seed(3)
    assert elbo.loss(model, guide, index) == pytest.approx(expected.item(), rel=1e-6)
    assert all(p.grad is None for p in parameters(model, guide))


def test_loss_and_grads_is_one_backward_pass(make_elbo, index):
    model, guide, elbo = Model(), Guide(), make_elbo(max_plate_nesting=1)
    pyro.set_rng_seed(3)
    expected = torch.autograd.grad(elbo.differentiable_loss(model, guide, index), parameters(model, guide))
    pyro.set_rng_seed(3)
    elbo.loss_and_grads(model, guide, index)
    torch.testing.assert_close([p.grad for p in parameters(model, guide)], list(expected), rtol=0, atol=0)


def test_only_loss_and_grads_adapts(make_elbo, index):
    """``after_step`` follows the backward pass once; evaluating a loss never calls it."""
    model, guide, elbo = Model(), Guide(), make_elbo(max_plate_nesting=1)
    gradients_seen = []
    elbo.after_step = lambda: gradients_seen.append(guide.logits.grad is not None)
    elbo.loss(model, guide, index)
    elbo.differentiable_loss(model, guide, index).backward()
    elbo(model, guide)(index)
    assert gradients_seen == []
    guide.zero_grad()
    elbo.loss_and_grads(model, guide, index)
    assert gradients_seen == [True]


def test_seed_repeats_a_run(make_elbo, index):
    model, guide, elbo = Model(), Guide(), make_elbo(max_plate_nesting=1)
    losses = []
    for _ in range(2):
        pyro.set_rng_seed(5)
        losses.append(elbo.loss(model, guide, index))
    assert losses[0] == losses[1]


def test_svi_trains(make_elbo, index):
    model, guide = Model(), Guide()
    svi = SVI(_named(model), _named(guide), _adam(), loss=make_elbo())
    before = svi.evaluate_loss(index)
    losses = [svi.step(index) for _ in range(150)]
    assert isinstance(before, float)
    assert sum(losses[-50:]) < sum(losses[:50])


def _named(module):
    """Register the parameters with Pyro, as SVI wants them."""

    def call(*args):
        pyro.module(type(module).__name__, module)
        return module(*args)

    return call


def _adam():
    return pyro.optim.Adam({"lr": 0.03})


def test_works_without_anything_to_learn(make_elbo, index):
    model, guide = Model().requires_grad_(False), Guide().requires_grad_(False)
    loss = make_elbo().differentiable_loss(model, guide, index)
    assert loss.isfinite()
    assert not loss.requires_grad
    make_elbo().loss_and_grads(model, guide, index)


def test_learns_the_guide_alone_and_the_model_alone(make_elbo, index):
    for frozen in (0, 1):
        modules = [Model(), Guide()]
        modules[frozen].requires_grad_(False)
        make_elbo().loss_and_grads(*modules, index)
        assert all(p.grad is not None for p in modules[1 - frozen].parameters())


def test_scale_multiplies_the_loss(make_elbo, index):
    """A scale on everything inside the plate multiplies loss and gradients; VIMCO's bound has its scale inside."""
    elbo = make_elbo(max_plate_nesting=1)
    if isinstance(elbo, inference.TraceVIMCO_ELBO):
        pytest.skip("a scale that is not a plate's stays inside the multi-sample bound")
    results, state = [], copy.deepcopy(elbo.state_dict())
    for scale in (1.0, 3.0):
        model, guide = Model(), Guide()
        elbo.load_state_dict(state)  # without what the run before has taught it
        pyro.set_rng_seed(1)
        loss = elbo.loss_and_grads(poutine.scale(model, scale), poutine.scale(guide, scale), index)
        results.append((loss, [p.grad for p in parameters(model, guide)]))
    assert results[1][0] == pytest.approx(3 * results[0][0], rel=1e-5)
    torch.testing.assert_close(results[1][1], [3 * g for g in results[0][1]], rtol=1e-4, atol=1e-5)


def test_mask_of_everything_gives_zero(make_elbo, index):
    model, guide = Model(), Guide()
    mask = torch.tensor(False)
    loss = make_elbo().loss_and_grads(poutine.mask(model, mask=mask), poutine.mask(guide, mask=mask), index)
    assert loss == pytest.approx(0, abs=1e-6)
    for parameter in parameters(model, guide):
        assert parameter.grad is None or parameter.grad.abs().max() < 1e-6


def test_copy_and_state_dict(make_elbo, index):
    elbo = make_elbo()
    clone = copy.deepcopy(elbo)
    clone.load_state_dict(elbo.state_dict())
    assert torch.tensor(clone.loss(Model(), Guide(), index)).isfinite()


@pytest.mark.parametrize("num_particles", [0, -1, 1.5, True, "2"])
def test_num_particles_is_checked(make_elbo, num_particles):
    build = inference.TraceVIMCO_ELBO if make_elbo is MEMBERS["vimco"] else make_elbo
    with pytest.raises(ValueError, match=r"num_particles must be an integer of at least 1, got"):
        build(num_particles=num_particles)


def test_messenger_guides_are_refused(make_elbo, index):
    class Messenger(pyro.infer.autoguide.AutoMessenger):
        def get_posterior(self, name, prior):
            return prior

    with pytest.raises(NotImplementedError, match="does not take a GuideMessenger: write the guide"):
        make_elbo().loss(Model(), Messenger(Model()), index)


def test_infinite_cost_is_reported(make_elbo):
    """A value the model rules out makes the loss infinite, with Pyro's warning, and no gradient NaN of ours."""

    def model():
        z = pyro.sample("z", dist.Bernoulli(torch.tensor(0.5)))
        pyro.sample("x", dist.Delta(torch.zeros(())), obs=1.0 + 0 * z)

    logit = torch.zeros((), requires_grad=True)

    def guide():
        pyro.sample("z", dist.Bernoulli(logits=logit))

    with pytest.warns(UserWarning, match="inf"):
        assert make_elbo().loss(model, guide) == float("inf")


@pytest.mark.filterwarnings("ignore:TraceEnum_ELBO found no sample sites")
@pytest.mark.parametrize("vectorize", [True, False])
@pytest.mark.parametrize("case", cases.PLATES)
def test_gradients_in_every_arrangement_of_plates(make_elbo, case, vectorize):
    """The mean of 20,000 gradients against the sum over all values; some estimators refuse, naming a site.

    With control variates, which learn at every step, of 4,000; their exact tests are by enumeration. At most 9
    components a row: |z| < 4.5 raises a false alarm in 1 of 16,000 rows; the seeds are fixed.
    """
    particles = 3 if isinstance(make_elbo(), inference.TraceVIMCO_ELBO) else 1
    repeats = {} if particles > 1 else {"num_particles": 2}
    number = 4_000 if getattr(make_elbo(), "control_variates", None) else 20_000
    try:
        samples = cases.gradient_samples(make_elbo, case(), number, vectorize_particles=vectorize, **repeats)
    except (NotImplementedError, ValueError) as error:
        if case in (cases.GlobalInPlates, cases.LocalInPlates) or not re.search(r"sites? .*'[abcr]\d?'", str(error)):
            raise
        return
    assert max_z(samples, cases.enumerated_gradient(case(), particles)) < 4.5
