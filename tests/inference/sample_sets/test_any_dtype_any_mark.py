"""Sample sets in every floating dtype, with marks of None, plain draws, impossible values, and under torch.compile."""

import math

import pyro
import pytest
import torch
from pyro import distributions as dist

from pyro_ext.inference import (
    TraceLeaveOneOut_ELBO,
    TraceSampleSet_ELBO,
    TraceSumAndSample_ELBO,
    TraceUnorderedBeam_ELBO,
    TraceUnorderedSet_ELBO,
    config_sample_set,
)
from tests.inference import gradient_cases as cases
from tests.inference.feeding import max_z

FAMILY = [TraceUnorderedSet_ELBO, TraceSumAndSample_ELBO, TraceLeaveOneOut_ELBO]


@pytest.fixture(params=[torch.float32, torch.float64])
def default_dtype(request):
    torch.set_default_dtype(request.param)
    yield request.param
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("event", [False, True])
@pytest.mark.parametrize("model_dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("elbo", FAMILY)
def test_loss_is_in_the_dtype_of_the_model(default_dtype, elbo, model_dtype, event):
    """All values of a site are in its set, so that the loss is known; half precision has three digits."""
    logits = torch.tensor([0.5, -1.0, 0.25], dtype=model_dtype, requires_grad=True)
    x, one = torch.tensor(0.5, dtype=model_dtype), torch.ones((), dtype=model_dtype)

    def site(logits):
        return dist.Bernoulli(logits=logits).to_event(1) if event else dist.Bernoulli(logits=logits[0])

    def model():
        with pyro.plate("data", 2):
            z = pyro.sample("z", site(torch.zeros_like(logits)))
            pyro.sample("x", dist.Normal(z.sum(-1) if event else z, one), obs=x)

    def guide():
        with pyro.plate("data", 2):
            pyro.sample("z", site(logits))

    pyro.set_rng_seed(0)
    loss = elbo(8, max_plate_nesting=1).differentiable_loss(model, guide)
    loss.backward()
    assert loss.dtype == model_dtype
    assert logits.grad.dtype == model_dtype
    assert logits.grad.isfinite().all()
    if elbo is not TraceLeaveOneOut_ELBO:
        p = logits.detach().double().sigmoid()[: 3 if event else 1]
        kl = (p * (2 * p).log() + (1 - p) * (2 - 2 * p).log()).sum()
        square = (p * (1 - p)).sum() + (p.sum() - 0.5) ** 2
        expected = 2 * (kl + 0.5 * square + 0.5 * math.log(2 * math.pi))
        assert loss.item() == pytest.approx(expected.item(), rel=2 * torch.finfo(model_dtype).eps + 1e-6)


def test_sites_of_different_dtypes():
    def program(observe):
        a = pyro.sample("a", dist.Bernoulli(logits=torch.zeros(())))
        b = pyro.sample("b", dist.Bernoulli(logits=torch.zeros((), dtype=torch.float64)))
        if observe:
            pyro.sample("x", dist.Normal(a + b, 1.0), obs=torch.tensor(1.0))

    loss = TraceUnorderedSet_ELBO(2).differentiable_loss(lambda: program(True), lambda: program(False))
    assert loss.dtype == torch.float64
    assert loss.item() == pytest.approx(0.25 + 0.5 * math.log(2 * math.pi), rel=1e-6)


def pair(infer):
    def model():
        z = pyro.sample("z", dist.Bernoulli(torch.tensor(0.3)))
        pyro.sample("x", dist.Normal(z, 1.0), obs=torch.tensor(0.5))

    return model, lambda: pyro.sample("z", dist.Bernoulli(torch.tensor(0.6)), infer=infer)


@pytest.mark.parametrize("elbo", FAMILY)
def test_none_means_unset(elbo):
    losses = []
    none = dict.fromkeys(("enumerate", "num_samples", "estimator", "num_summed"))
    for infer in ({}, none, {"enumerate": None, "num_samples": None}):
        pyro.set_rng_seed(0)
        losses.append(elbo(2).loss(*pair(infer)))
    assert losses[0] == losses[1] == losses[2]
    model, guide = pair(none)
    marked = config_sample_set(guide, num_samples=3, estimator="exact")
    assert elbo(1).loss(model, marked) == pytest.approx(TraceUnorderedSet_ELBO(2).loss(model, guide))


def test_a_site_opts_out_of_sets():
    """It is drawn once, with no dim for a set; a site that depends on it still has one."""
    shapes = {}

    def model():
        a = pyro.sample("a", dist.Categorical(torch.ones(3)))
        b = pyro.sample("b", dist.Bernoulli(torch.tensor(0.3)))
        shapes.update(a=a.shape, b=b.shape)
        table = [torch.tensor(0.0), torch.tensor(1.0), torch.tensor(2.0)]
        pyro.sample("x", dist.Normal(table[a.item()] + b, 1.0), obs=torch.tensor(0.5))

    def guide():
        a = pyro.sample("a", dist.Categorical(torch.ones(3)), infer={"estimator": "reinforce"})
        pyro.sample("b", dist.Bernoulli(torch.tensor(0.2) * (1 + a)))

    loss = TraceUnorderedSet_ELBO(2, max_plate_nesting=0).loss(model, guide)
    assert math.isfinite(loss)
    assert shapes == {"a": (), "b": (2,)}


class PlainThenSet(cases.GlobalThenLocal):
    """The global site is drawn once."""

    infer_a = {"estimator": "reinforce"}  # noqa: RUF012


def test_opting_out_is_unbiased():
    samples = cases.gradient_samples(TraceUnorderedSet_ELBO, PlainThenSet(), 40_000, num_samples=2)
    assert max_z(samples, cases.exact_gradient(cases.GlobalThenLocal())[0]) < 4.5


def decoder():
    with pyro.plate("latents", 3):
        z = pyro.sample("z", dist.Bernoulli(torch.tensor(0.3)))
    pyro.sample("x", dist.Normal(z.sum(-1, keepdim=True), 1.0), obs=torch.tensor(1.0))


def factorised():
    with pyro.plate("latents", 3):
        pyro.sample("z", dist.Bernoulli(torch.tensor(0.6)))


@pytest.mark.parametrize("vectorize", [True, False])
@pytest.mark.parametrize("elbo", [*FAMILY, lambda _, **kw: TraceSampleSet_ELBO(estimator="reinforce", **kw)])
def test_plate_escape_of_a_single_value(elbo, vectorize):
    """A set of one value has no dim to tell by, but its gradient would lack the cost all the same."""
    with pytest.raises(ValueError, match=r"site 'z' is inside pyro.plate\('latents'\), but a site outside depends"):
        elbo(1, num_particles=2, vectorize_particles=vectorize).loss(decoder, factorised)


def test_single_values_and_costs_outside_that_do_not_depend_on_them():
    def model():
        with pyro.plate("latents", 3):
            pyro.sample("z", dist.Bernoulli(torch.tensor(0.3)))
        pyro.sample("x", dist.Normal(torch.zeros(1), 1.0), obs=torch.tensor(1.0))

    assert math.isfinite(TraceLeaveOneOut_ELBO(1).loss(model, factorised))


@pytest.mark.parametrize("build", [TraceLeaveOneOut_ELBO, lambda k: TraceLeaveOneOut_ELBO(k, vectorize_samples=False)])
def test_impossible_values_name_their_site_and_spare_other_data(build):
    """A count above the number of trials: the loss is infinite, the gradient of the other data is what it was."""
    rate = torch.tensor([2.0, 3.0, 2.0])
    seen = torch.tensor([0.0, 0.0, 50.0])

    def gradient(seen):
        leaf = rate.clone().requires_grad_()

        def model():
            with pyro.plate("sites", 3):
                n = pyro.sample("n", dist.Poisson(6.0))
                pyro.sample("y", dist.Binomial(n, 0.25, validate_args=False), obs=seen)

        def guide():
            with pyro.plate("sites", 3):
                pyro.sample("n", dist.Poisson(leaf))

        pyro.set_rng_seed(0)
        loss = build(8).loss_and_grads(model, guide)
        return loss, leaf.grad

    with pytest.warns(UserWarning, match=r"inf: loss: the log-probability of model site 'y' \(-inf\)"):
        loss, impossible = gradient(seen)
    assert loss == math.inf
    assert impossible[2] == 0
    torch.testing.assert_close(impossible[:2], gradient(torch.zeros(3))[1][:2])


class Model(pyro.nn.PyroModule):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(3))

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.OneHotCategorical(logits=torch.zeros(3)))
            pyro.sample("x", dist.Normal(z @ self.weight, 1.0), obs=x)


class Guide(pyro.nn.PyroModule):
    def __init__(self):
        super().__init__()
        self.logits = torch.nn.Parameter(torch.zeros(3))

    def forward(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.OneHotCategorical(logits=self.logits))


@pytest.fixture
def compiler():
    """Importing the compiler turns the validation of distributions off; put it on again."""
    yield torch.compile
    torch.distributions.Distribution.set_default_validate_args(True)


@pytest.mark.slow
@pytest.mark.parametrize("elbo", [*FAMILY, TraceUnorderedBeam_ELBO])
def test_compiled_equals_eager(elbo, compiler):
    module, x, results = elbo(2, max_plate_nesting=1)(Model(), Guide()), torch.arange(4.0), []
    for run in (module, compiler(module, backend="eager")):
        for _ in range(2):
            module.zero_grad()
            pyro.set_rng_seed(0)
            loss = run(x)
            loss.backward()
            results.append([loss.detach(), *(p.grad.clone() for p in module.parameters())])
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], rtol=0, atol=0)
