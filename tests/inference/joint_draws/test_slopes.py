"""Double control variates and RODEO: exact means, what they learn, and where they fall back."""

import copy
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

from pyro_ext.inference import TraceDoubleCV_ELBO, TraceGECO_ELBO, TraceLeaveOneOut_ELBO, TraceRODEO_ELBO
from tests.inference import gradient_cases as cases
from tests.inference.feeding import gradients, max_z
from tests.inference.joint_draws.enumeration import Enumeration
from tests.inference.joint_draws.test_arms import Masked

F64 = torch.float64
EYE = torch.eye(3, dtype=F64)
TABLE = cases.fixed(3, 3, seed=7)


def double_cv(n, **kwargs):
    """Return the ELBO with a weight of -0.7."""
    elbo = TraceDoubleCV_ELBO(n, **kwargs)
    elbo._cross.fill_(0.7)
    elbo._square.fill_(1.0)
    return elbo


def rodeo(n, **kwargs):
    """Return the ELBO with weights and a network that are not small."""
    elbo = TraceRODEO_ELBO(n, hidden=5, **kwargs)
    elbo._values.copy_(torch.randn(len(elbo._values), generator=torch.Generator().manual_seed(0)))
    return elbo


ELBOS = {"double_cv": double_cv, "rodeo": rodeo}


class OneHots(cases.Plates):
    """Two one-hot vectors as one joint site, in each of two plate elements, one of them masked, with data scaled."""

    nesting = 1
    shapes = {"q": (1, 2, 3), "loc": (1, 3)}  # noqa: RUF012
    size = 1

    def plate(self):
        return pyro.plate("data", 3 * self.size, subsample=torch.arange(self.size), dim=-1)

    def model(self, t):
        with self.plate():
            z = pyro.sample("z", dist.OneHotCategorical(logits=TABLE[:2]).to_event(1))
            loc = (z[..., 0, :] * t["loc"]).sum(-1) + torch.einsum(
                "...i,ij,...j->...", z[..., 0, :], TABLE, z[..., 1, :]
            )
            self.observe("x", loc, cases.X[: self.size])

    def guide(self, t):
        with self.plate():
            pyro.sample("z", dist.OneHotCategorical(logits=t["q"]).to_event(1))


class DependentOneHots(cases.Plates):
    """A one-hot site given by probabilities, and a masked bit for each of two data whose odds depend on it."""

    nesting = 1
    shapes = {"qa": (1, 3), "qb": (2, 3), "loc": (1,)}  # noqa: RUF012

    def model(self, t):
        a = pyro.sample("a", dist.OneHotCategorical(logits=TABLE[0].expand(1, 3)))
        with cases.data_plate():
            with poutine.mask(mask=torch.tensor([True, False])):
                b = pyro.sample("b", dist.Bernoulli(logits=(a * TABLE[1]).sum(-1)))
            self.observe("x", t["loc"] * b + (a * TABLE[2]).sum(-1) - 2 * b * a[..., 0], cases.X)

    def guide(self, t):
        a = pyro.sample("a", dist.OneHotCategorical(probs=t["qa"].softmax(-1)))
        with cases.data_plate(), poutine.mask(mask=torch.tensor([True, False])):
            pyro.sample("b", dist.Bernoulli(logits=(a * t["qb"]).sum(-1)))


class Mixed(cases.Plates):
    """A bit, and a category by which the model indexes."""

    nesting = 1
    shapes = {"qa": (1,), "qc": (1, 3), "loc": (1,)}  # noqa: RUF012

    def model(self, t):
        a = pyro.sample("a", dist.Bernoulli(torch.tensor(0.3, dtype=F64)))
        c = pyro.sample("c", dist.Categorical(logits=TABLE[0].expand(1, 3)))
        self.observe("x", t["loc"] * a + TABLE[1][c] * (1 + a), cases.X[0])

    def guide(self, t):
        pyro.sample("a", dist.Bernoulli(logits=t["qa"]))
        pyro.sample("c", dist.Categorical(logits=t["qc"]))


CASES = [
    (cases.GlobalInPlates, (2, 3)), (cases.GlobalAndLocalInPlates, (2, 3)), (cases.CrossedInPlates, (2,)),
    (cases.LoopedPlate, (2, 3)), (cases.NestedInPlates, (2,)), (Masked, (2, 3)), (OneHots, (2, 3)),
    (DependentOneHots, (2,)),
]  # fmt: skip


@pytest.mark.parametrize("name", ELBOS)
@pytest.mark.parametrize(
    ("case", "n"), [pytest.param(case, n, id=f"{case.__name__}-{n}") for case, sizes in CASES for n in sizes]
)
def test_exactly_unbiased(name, case, n):
    """The sum over all joint values of n independent draws of all sites, parameters of the model included."""
    enumeration = Enumeration(case())
    mean, mass = enumeration.mean(ELBOS[name](n, max_plate_nesting=1 + case.nesting))
    assert mass == pytest.approx(1, abs=1e-12)
    assert (mean - enumeration.exact()).abs().max() < 1e-12


@pytest.mark.filterwarnings("ignore:guide site 'c' is a Categorical")
@pytest.mark.parametrize("name", ELBOS)
def test_exactly_unbiased_beside_a_site_that_falls_back(name):
    enumeration = Enumeration(Mixed())
    mean, _ = enumeration.mean(ELBOS[name](2, max_plate_nesting=2))
    assert (mean - enumeration.exact()).abs().max() < 1e-12


@pytest.mark.parametrize("vectorize", [True, False])
@pytest.mark.parametrize("name", ELBOS)
def test_reparameterised_sites_up_and_downstream(name, vectorize):
    """Against TraceEnum_ELBO with a bit between two normals; |z| < 4.5 in 10 coordinates."""

    class Between(cases.Plates):
        nesting = 1
        shapes = {"qz": (2,), "qb": (2,), "qy": (2,)}  # noqa: RUF012

        def model(self, t):
            with cases.data_plate():
                z = pyro.sample("z", dist.Normal(cases.X.new_zeros(2), 1.0))
                b = self.prior("b")
                y = pyro.sample("y", dist.Normal(b, 1.0))
                self.observe("x", z + y * b, cases.X)

        def guide(self, t):
            with cases.data_plate():
                z = pyro.sample("z", dist.Normal(t["qz"], 0.5))
                b = self.bernoulli("b", t["qb"] + z)
                pyro.sample("y", dist.Normal(t["qy"] * b, 0.5))

    options = {"num_particles": 2, "vectorize_particles": vectorize}
    samples = cases.gradient_samples(lambda **kw: ELBOS[name](2, **kw), Between(), 20_000, **options)
    truth = cases.exact_gradient(Between(), 40_000)
    error = (samples.var(0) / len(samples) + truth.var(0) / len(truth)).sqrt()
    assert ((samples.mean(0) - truth.mean(0)).abs() < 4.5 * error).all()


def quadratic(num, size=10):
    """Return logits of ``num`` copies of a program of bits with a cost that is nearly linear, model and guide."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(size, dtype=F64, generator=generator)
    matrix = 0.1 * torch.randn(size, size, dtype=F64, generator=generator)
    logits = torch.linspace(-1, 1, size, dtype=F64).expand(num, size).clone().requires_grad_()

    def model():
        with pyro.plate("copies", num):
            b = pyro.sample("b", dist.Bernoulli(torch.full((size,), 0.5, dtype=F64)).to_event(1))
            pyro.factor("cost", (b * weight).sum(-1) + ((b @ matrix) * b).sum(-1))

    def guide():
        with pyro.plate("copies", num):
            pyro.sample("b", dist.Bernoulli(logits=logits).to_event(1))

    return logits, model, guide


def variance(elbo, num=3000):
    logits, model, guide = quadratic(num)
    return gradients(elbo.differentiable_loss(model, guide), [logits])[0].var(0).sum().item()


def train(elbo, steps):
    _, model, guide = quadratic(100)
    for _ in range(steps):
        elbo.loss_and_grads(model, guide)


def test_double_cv_learns_its_weight():
    """From leave-one-out to a tenth of its variance where costs are nearly linear; the weight ends near -1."""
    elbo = TraceDoubleCV_ELBO(4, max_plate_nesting=1)
    assert elbo.weight == 0
    plain = variance(elbo)
    assert plain == pytest.approx(variance(TraceLeaveOneOut_ELBO(4, max_plate_nesting=1)), rel=0.1)
    train(elbo, 60)
    assert -1.1 < elbo.weight < -0.7
    assert variance(elbo) < 0.3 * plain


def test_rodeo_learns():
    elbo = TraceRODEO_ELBO(2, hidden=20, lr=0.01, max_plate_nesting=1)
    plain = variance(elbo)
    assert plain == pytest.approx(variance(TraceLeaveOneOut_ELBO(2, max_plate_nesting=1)), rel=0.1)
    train(elbo, 150)
    assert variance(elbo) < 0.75 * plain


@pytest.mark.parametrize("make", [lambda: TraceDoubleCV_ELBO(2), lambda: TraceRODEO_ELBO(2, hidden=4)])
def test_only_steps_change_the_state(make):
    elbo = make()
    logits, model, guide = quadratic(3)
    before = copy.deepcopy(elbo.state_dict())
    elbo.loss(model, guide)
    elbo.differentiable_loss(model, guide)
    elbo.after_step()
    torch.testing.assert_close(elbo.state_dict(), before, rtol=0, atol=0)
    elbo.differentiable_loss(model, guide).backward()
    torch.testing.assert_close(elbo.state_dict(), before, rtol=0, atol=0)
    clone = copy.deepcopy(elbo)
    elbo.after_step()
    learned = elbo.state_dict()
    assert any(not torch.equal(learned[name], before[name]) for name in before)
    elbo.after_step()  # nothing new went backward
    torch.testing.assert_close(elbo.state_dict(), learned, rtol=0, atol=0)
    clone.load_state_dict(learned)
    assert not list(elbo.parameters())
    pyro.set_rng_seed(1)
    expected = gradients(elbo.differentiable_loss(model, guide), [logits])
    pyro.set_rng_seed(1)
    torch.testing.assert_close(gradients(clone.differentiable_loss(model, guide), [logits]), expected, rtol=0, atol=0)


@pytest.mark.parametrize("make", [TraceDoubleCV_ELBO, TraceRODEO_ELBO])
def test_inside_a_constrained_elbo(make):
    elbo = make(2)
    logits = torch.zeros(3, requires_grad=True)

    def model():
        with pyro.plate("data", 3):
            z = pyro.sample("z", dist.Bernoulli(torch.tensor(0.5)))
            pyro.sample("x", dist.Normal(z, 1.0), obs=torch.tensor([0.1, 0.7, 0.2]))

    def guide():
        with pyro.plate("data", 3):
            pyro.sample("z", dist.Bernoulli(logits=logits))

    before = copy.deepcopy(elbo.state_dict())
    TraceGECO_ELBO(elbo, {"x": lambda fn, value: (value - fn.mean) ** 2 - 0.1}).loss_and_grads(model, guide)
    assert any(not torch.equal(value, before[name]) for name, value in elbo.state_dict().items())


def indexing(logits):
    def model():
        z = pyro.sample("z", dist.Bernoulli(torch.tensor(0.5, dtype=F64)))
        w = pyro.sample("w", dist.Bernoulli(torch.tensor(0.5, dtype=F64)))
        pyro.sample("x", dist.Normal(TABLE[0][z.long()] * w, 1.0), obs=torch.tensor(1.0, dtype=F64))

    def guide():
        pyro.sample("z", dist.Bernoulli(logits=logits[0]))
        pyro.sample("w", dist.Bernoulli(logits=logits[1]))

    return model, guide


@pytest.mark.parametrize("name", ELBOS)
def test_indexing_falls_back_and_names_the_site_once(name):
    logits = torch.tensor([0.3, -0.4], dtype=F64, requires_grad=True)
    elbo = ELBOS[name](2, max_plate_nesting=0)
    message = r"guide site 'z' has values in which the log-probability of 'x' is not differentiable: .* leave-one-out"
    with pytest.warns(UserWarning, match=message) as seen:
        elbo.loss_and_grads(*indexing(logits))
    assert len(seen) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        elbo.loss_and_grads(*indexing(logits))


@pytest.mark.parametrize("name", ELBOS)
def test_other_distributions_fall_back(name):
    rate = torch.tensor(2.0, dtype=F64, requires_grad=True)
    copies = 20_000

    def program(observed):
        def run():
            with pyro.plate("copies", copies):
                z = pyro.sample("count", dist.Poisson(leaf if not observed else torch.tensor(3.0, dtype=F64)))
                if observed:
                    pyro.factor("cost", -z)

        return run

    leaf = rate.expand(copies).clone().detach().requires_grad_()
    with pytest.warns(UserWarning, match=r"guide site 'count' is a Poisson, not a Bernoulli or one-hot site: Trace"):
        loss = ELBOS[name](2, max_plate_nesting=1).differentiable_loss(program(True), program(False))
    truth = torch.autograd.grad(rate + rate * (rate / 3).log() - rate + 3, rate)[0]
    assert max_z(gradients(loss, [leaf])[0], truth) < 4.5


@pytest.mark.parametrize("name", ELBOS)
def test_frozen_guides_and_impossible_values(name):
    logits = torch.zeros(2, dtype=F64)
    weight = torch.ones((), dtype=F64, requires_grad=True)

    def model():
        with pyro.plate("data", 2):
            z = pyro.sample("z", dist.Bernoulli(torch.tensor(0.5, dtype=F64)))
            pyro.factor("rule", torch.where(torch.tensor([True, False]), -torch.inf * torch.ones(2), weight * z))

    def guide():
        with pyro.plate("data", 2):
            pyro.sample("z", dist.Bernoulli(logits=logits))

    elbo = ELBOS[name](2)
    with pytest.warns(UserWarning, match="inf"):
        assert gradients(elbo.differentiable_loss(model, guide), [weight])[0].isfinite()
    logits.requires_grad_()
    with pytest.warns(UserWarning, match="inf"):
        gradient = gradients(elbo.differentiable_loss(model, guide), [logits])[0]
    assert gradient.isfinite().all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TraceDoubleCV_ELBO(1), "num_samples must be an integer of at least 2, got 1"),
        (lambda: TraceRODEO_ELBO(1), "num_samples must be an integer of at least 2, got 1"),
        (lambda: TraceDoubleCV_ELBO(2, decay=1.0), r"decay must be a number in \[0, 1\), got 1.0"),
        (lambda: TraceRODEO_ELBO(2, hidden=0), "hidden must be an integer of at least 1, got 0"),
        (lambda: TraceRODEO_ELBO(2, lr=-1), "lr must be a positive, finite number, got -1"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()
