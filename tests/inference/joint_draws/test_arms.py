import itertools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

from pyro_ext.inference import TraceARMS_ELBO, TraceDisARM_ELBO, TraceLeaveOneOut_ELBO
from pyro_ext.inference.joint_draws.arms import antithetic_bits
from tests.inference import gradient_cases as cases
from tests.inference.feeding import Feed, gradients, max_z
from tests.inference.joint_draws.enumeration import Enumeration, antithetic_probability

F64 = torch.float64


class Masked(cases.Plates):
    """A global site, and joint sites of two of four data, one of them masked out; probabilities far from one half."""

    nesting = 1
    shapes = {"qa": (1,), "qb": (2, 1), "loc": (1,)}  # noqa: RUF012
    mask = torch.tensor([True, False])

    def plate(self):
        return pyro.plate("data", 4, subsample=torch.tensor([1, 3]), dim=-1)

    def model(self, t):
        a = self.prior("a")
        with self.plate(), poutine.scale(scale=1.7):
            with poutine.mask(mask=self.mask):
                b = pyro.sample("b", dist.Bernoulli(torch.full((1,), 0.4, dtype=F64)).to_event(1))
            self.observe("x", t["loc"] * b[..., 0] - 2 * a * b[..., 0] + a, cases.X)

    def guide(self, t):
        pyro.sample("a", dist.Bernoulli(probs=(3 * t["qa"]).sigmoid()))
        with self.plate(), poutine.scale(scale=1.7), poutine.mask(mask=self.mask):
            pyro.sample("b", dist.Bernoulli(logits=2 * t["qb"]).to_event(1))


CASES = [
    (cases.GlobalInPlates, 4), (cases.GlobalAndLocalInPlates, 4), (cases.CrossedInPlates, 2), (cases.LoopedPlate, 3),
    (cases.NestedInPlates, 2), (cases.OneAfterTheOtherInPlates, 3), (Masked, 4),
]  # fmt: skip


@pytest.mark.parametrize(
    ("case", "n"),
    [pytest.param(case, n, id=f"{case.__name__}-{n}") for case, largest in CASES for n in (2, 3, 4) if n <= largest],
)
def test_exactly_unbiased(case, n):
    """The sum over all joint values of the n draws of all sites, with their probabilities in closed form."""
    enumeration = Enumeration(case())
    mean, mass = enumeration.mean(TraceARMS_ELBO(n, max_plate_nesting=1 + case.nesting), antithetic=True)
    assert mass == pytest.approx(1, abs=1e-12)
    assert (mean - enumeration.exact()).abs().max() < 1e-12


@pytest.mark.parametrize("n", [2, 3, 4, 7])
@pytest.mark.parametrize("kind", ["logits", "probs"])
def test_draws_have_the_probabilities_of_the_closed_form(n, kind):
    """Joint values of n draws, their number of ones, and the odds of 1 in each; |z| < 4.5 in at most 40 numbers."""
    p = torch.tensor([0.02, 0.3, 0.5, 0.81], dtype=F64)
    fn = torch.distributions.Bernoulli(**{kind: (p if kind == "probs" else p.logit()).expand(100_000, 4)})
    bits = antithetic_bits(fn, n)
    for site, each in enumerate(p.tolist()):
        rows = [*itertools.product((0, 1), repeat=n)]
        probs = [antithetic_probability(row, each) for row in rows]
        assert sum(probs) == pytest.approx(1, abs=1e-12)
        assert min(probs) > -1e-14
        assert sum(prob for row, prob in zip(rows, probs, strict=True) if row[0]) == pytest.approx(each, abs=1e-12)
        for ones in range(n + 1):
            exact = sum(prob for row, prob in zip(rows, probs, strict=True) if sum(row) == ones)
            seen = (bits[:, :, site].sum(0) == ones).double().mean().item()
            assert abs(seen - exact) < 4.5 * math.sqrt(max(exact * (1 - exact), 1e-9) / 1e5)
    assert max_z(bits.transpose(0, 1).double(), p.expand(n, 4)) < 4.5


@pytest.mark.parametrize("p", [1e-300, 1e-12, 1 - 1e-12])
def test_probabilities_near_zero_and_one(p):
    """The gradient of a rare value times its probability is the cost it saves, in float64 and float32 logits."""

    def model():
        b = pyro.sample("b", dist.Bernoulli(torch.tensor(0.5)))
        pyro.factor("cost", -3 * b)

    rare = 1.0 if p < 0.5 else 0.0
    bits = torch.full((3,), 1 - rare, dtype=F64)
    bits[1] = rare
    for parameter, dp in (("probs", 1.0), ("logits", min(p, 1 - p))):
        value = torch.tensor(p, dtype=F64)
        leaf = (value if parameter == "probs" else value.logit()).requires_grad_()

        def guide(leaf=leaf, parameter=parameter):
            with poutine.mask(mask=False):
                pyro.sample("b", dist.Bernoulli(**{parameter: leaf}))

        for fed, expected in ((bits, 3.0), (torch.full((3,), 1 - rare, dtype=F64), 0.0)):
            loss = TraceARMS_ELBO(3, max_plate_nesting=0).differentiable_loss(model, Feed(b=fed)(guide))
            estimate = gradients(loss, [leaf])[0].item()
            assert estimate * 3 * min(p, 1 - p) / dp == pytest.approx(expected, rel=1e-3)


def test_certain_values():
    bits = antithetic_bits(torch.distributions.Bernoulli(torch.tensor([0.0, 1.0])), 5)
    assert bits.tolist() == [[0.0, 1.0]] * 5
    for dtype in (torch.float32, F64):
        logits = torch.tensor([-800.0, 800.0, -math.inf, math.inf], dtype=dtype)
        assert antithetic_bits(torch.distributions.Bernoulli(logits=logits), 3).tolist() == [[0.0, 1.0, 0.0, 1.0]] * 3


def test_two_draws_are_disarm():
    """The same estimate from the same pair, to the last digits, whichever class it is asked of."""
    case = cases.NestedInPlates()
    results = []
    for elbo in (lambda **kw: TraceARMS_ELBO(2, **kw), TraceDisARM_ELBO):
        results.append(cases.gradient_samples(elbo, case, 50))
    torch.testing.assert_close(*results, rtol=0, atol=0)
    assert isinstance(TraceDisARM_ELBO(), TraceARMS_ELBO)
    assert TraceDisARM_ELBO().num_samples == 2


@pytest.mark.parametrize(("n", "ratio"), [(2, 0.92), (4, 0.98)])
def test_less_variance_than_leave_one_out(n, ratio):
    """Twenty bits with a quadratic cost, against as many independent draws."""
    pyro.set_rng_seed(0)
    weights = torch.randn(20, 20, dtype=F64) / 5

    def variance(make):
        logits = torch.linspace(-2, 2, 20, dtype=F64).expand(4000, 20).clone().requires_grad_()

        def model():
            with pyro.plate("copies", 4000):
                b = pyro.sample("b", dist.Bernoulli(torch.full((20,), 0.5, dtype=F64)).to_event(1))
                pyro.factor("cost", -((b @ weights) ** 2).sum(-1))

        def guide():
            with pyro.plate("copies", 4000):
                pyro.sample("b", dist.Bernoulli(logits=logits).to_event(1))

        samples = gradients(make(max_plate_nesting=1).differentiable_loss(model, guide), [logits])[0]
        return samples.var(0).sum().item()

    arms = variance(lambda **kw: TraceARMS_ELBO(n, **kw))
    assert arms < ratio * variance(lambda **kw: TraceLeaveOneOut_ELBO(n, **kw))


@pytest.mark.parametrize("num_samples", [1, 0, 2.5, True])
def test_refuses_fewer_than_two_draws(num_samples):
    with pytest.raises(ValueError, match=r"num_samples must be an integer of at least 2, got"):
        TraceARMS_ELBO(num_samples)


def test_refuses_other_sites_by_name():
    def program():
        pyro.sample("digit", dist.Categorical(torch.ones(3)))

    with pytest.raises(NotImplementedError, match=r"guide site 'digit' is a Categorical: TraceARMS_ELBO takes Bern"):
        TraceARMS_ELBO(3).loss(program, program)


def test_refuses_dependent_sites_by_name():
    def program():
        a = pyro.sample("a", dist.Bernoulli(torch.tensor(0.3)))
        pyro.sample("b", dist.Bernoulli(0.2 + 0.5 * a))

    with pytest.raises(NotImplementedError, match=r"guide site 'b' .* another Bernoulli site's value .*to_event"):
        TraceARMS_ELBO(3).loss(program, program)
