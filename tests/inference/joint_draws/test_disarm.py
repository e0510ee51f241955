import itertools
import math

import numpy
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI
from pyro.infer.autoguide import AutoNormalMessenger

from pyro_ext.inference import TraceDisARM_ELBO
from pyro_ext.inference.joint_draws.arms import antithetic_bits
from tests.inference.feeding import Feed, gradients, max_z

DOUBLE = torch.float64
P0 = torch.tensor([0.6, 0.51, 0.48], dtype=DOUBLE)


def pair_outcomes(p):
    """Return the values ``(b, twin)`` that one coordinate can take, with their probabilities."""
    both = ((1.0, 1.0), 2 * p - 1) if p > 0.5 else ((0.0, 0.0), 1 - 2 * p)
    unequal = min(p, 1 - p)
    return [((1.0, 0.0), unequal), ((0.0, 1.0), unequal), both]


def cost(b):
    return ((b - P0) ** 2).sum(-1)


def toy_model():
    """Three latent bits whose own densities are masked out: the loss is the cost."""
    with poutine.mask(mask=False):
        b = pyro.sample("b", dist.Bernoulli(torch.full((3,), 0.5, dtype=DOUBLE)).to_event(1))
    pyro.factor("cost", -cost(b))


def toy_guide(eta, kind):
    parameters = {"logits": eta.expand(3)} if kind == "logits" else {"probs": eta.sigmoid().expand(3)}
    with poutine.mask(mask=False):
        pyro.sample("b", dist.Bernoulli(**parameters).to_event(1))


@pytest.mark.parametrize("kind", ["logits", "probs"])
@pytest.mark.parametrize(("eta", "gradient", "variance"), [(0.0, -0.045, 4.64e-3), (-4.0, -0.00317928712, 3.76e-4)])
def test_bernoulli_toy_by_enumeration(eta, gradient, variance, kind):
    """Exact mean and variance over the joint distribution of the pairs: 27 outcomes."""
    parameter = torch.tensor(eta, dtype=DOUBLE, requires_grad=True)
    elbo = TraceDisARM_ELBO(max_plate_nesting=0)
    total = mean = second = 0.0
    for outcome in itertools.product(pair_outcomes(1 / (1 + math.exp(-eta))), repeat=3):
        pair = torch.tensor([values for values, _ in outcome], dtype=DOUBLE).T
        prob = math.prod(p for _, p in outcome)
        loss = elbo.differentiable_loss(toy_model, lambda pair=pair: Feed(b=pair)(toy_guide)(parameter, kind))
        estimate = gradients(loss, [parameter])[0].item()
        total, mean, second = total + prob, mean + prob * estimate, second + prob * estimate**2
    exact = torch.tensor(eta, dtype=DOUBLE, requires_grad=True)
    p = exact.sigmoid()
    truth = gradients((p * (1 - P0) ** 2 + (1 - p) * P0**2).sum(), [exact])[0].item()
    assert total == pytest.approx(1)
    assert truth == pytest.approx(gradient, rel=1e-6)
    assert mean == pytest.approx(truth, abs=1e-12)
    assert second - mean**2 == pytest.approx(variance, rel=0.03)


@pytest.mark.parametrize(("eta", "gradient", "variance"), [(0.0, -0.045, 4.64e-3), (-4.0, -0.00317928712, 3.76e-4)])
def test_bernoulli_toy_by_draws(eta, gradient, variance):
    pyro.set_rng_seed(0)
    copies = 200_000
    etas = torch.full((copies, 1), eta, dtype=DOUBLE, requires_grad=True)

    def model():
        with pyro.plate("copies", copies):
            toy_model()

    def guide():
        with pyro.plate("copies", copies), poutine.mask(mask=False):
            pyro.sample("b", dist.Bernoulli(logits=etas.expand(copies, 3)).to_event(1))

    samples = gradients(TraceDisARM_ELBO().differentiable_loss(model, guide), [etas])[0]
    assert max_z(samples, gradient) < 4.5
    assert samples.var().item() == pytest.approx(variance, rel=0.05)


def test_pairs_have_the_right_distribution():
    pyro.set_rng_seed(0)
    logits = torch.tensor([-30.0, -2.0, 0.0, 0.7, 30.0]).expand(100_000, 5)
    first, second = antithetic_bits(torch.distributions.Bernoulli(logits=logits), 2)
    p = logits[0].double().sigmoid()
    for half in (first, second):
        error = (p * (1 - p) / 1e5).sqrt().clamp_min(1e-9)
        assert ((half.double().mean(0) - p).abs() / error).max() < 4.5
    unequal = (first != second).double().mean(0)
    assert unequal == pytest.approx(2 * torch.minimum(p, 1 - p), abs=0.01)
    certain = antithetic_bits(torch.distributions.Bernoulli(torch.tensor([0.0, 1.0])), 2)
    assert certain.tolist() == [[0.0, 1.0], [0.0, 1.0]]


def composite(copies, kind):
    """Reparameterised sites up- and downstream, two Bernoulli sites, one of them in a nested plate."""
    a = torch.full((copies, 1), 0.4, dtype=DOUBLE, requires_grad=True)
    m = torch.full((copies, 1), 0.3, dtype=DOUBLE, requires_grad=True)
    r = torch.full((copies, 1), 0.2, dtype=DOUBLE, requires_grad=True)
    x = torch.tensor([0.5, -1.0], dtype=DOUBLE)
    scale = 2.5 if kind == "scale" else 1.0
    mask = torch.tensor([True, kind != "mask"])

    def model():
        with pyro.plate("copies", copies, dim=-2), poutine.scale(scale=scale):
            z = pyro.sample("z", dist.Normal(r, 1.0))
            b = pyro.sample("b", dist.Bernoulli(torch.tensor(0.3, dtype=DOUBLE)))
            y = pyro.sample("y", dist.Normal(z * b, 1.0))
            with pyro.plate("inner", 2, dim=-1), poutine.mask(mask=mask):
                c = pyro.sample("c", dist.Bernoulli(0.2 + 0.5 * b))
                pyro.sample("x", dist.Normal(z + c * b + y, 0.8), obs=x)

    def guide():
        with pyro.plate("copies", copies, dim=-2), poutine.scale(scale=scale):
            z = pyro.sample("z", dist.Normal(m, 0.9))
            b = pyro.sample("b", dist.Bernoulli(logits=a + z))
            pyro.sample("y", dist.Normal(m + b, 0.7))
            with pyro.plate("inner", 2, dim=-1), poutine.mask(mask=mask):
                pyro.sample("c", dist.Bernoulli(probs=(0.5 * a - z).sigmoid()))

    return [a, m, r], model, guide


def composite_exact(kind, nodes=30):
    """The ELBO's gradients by enumeration of b and c and Gauss-Hermite quadrature over z and y."""
    a, m, r = (torch.tensor(v, dtype=DOUBLE, requires_grad=True) for v in (0.4, 0.3, 0.2))
    x = torch.tensor([0.5, -1.0], dtype=DOUBLE)
    scale = 2.5 if kind == "scale" else 1.0
    keep = [1.0, float(kind != "mask")]
    points, weights = (torch.tensor(v, dtype=DOUBLE) for v in numpy.polynomial.hermite_e.hermegauss(nodes))
    weights = weights / weights.sum()
    z = m + 0.9 * points[:, None]
    loss = 0.0
    for bits in itertools.product((0.0, 1.0), repeat=3):
        b, *cs = (torch.tensor(v, dtype=DOUBLE) for v in bits)
        y = m + b + 0.7 * points
        q_b = dist.Bernoulli(logits=a + z).log_prob(b)
        log_q, cost = q_b, dist.Bernoulli(torch.tensor(0.3, dtype=DOUBLE)).log_prob(b) - q_b
        cost = cost + dist.Normal(r, 1.0).log_prob(z) - dist.Normal(m, 0.9).log_prob(z)
        cost = cost + dist.Normal(z * b, 1.0).log_prob(y) - dist.Normal(m + b, 0.7).log_prob(y)
        for c, x_n, keep_n in zip(cs, x, keep, strict=True):
            q_c = dist.Bernoulli(logits=0.5 * a - z).log_prob(c)
            log_p = dist.Bernoulli(0.2 + 0.5 * b).log_prob(c) + dist.Normal(z + c * b + y, 0.8).log_prob(x_n)
            log_q, cost = log_q + q_c, cost + keep_n * (log_p - q_c)
        loss = loss - (weights[:, None] * weights * log_q.exp() * scale * cost).sum()
    return loss.item(), torch.stack(gradients(loss, [a, m, r]))


@pytest.mark.parametrize("kind", ["plain", "mask", "scale"])
def test_mixed_sites_nested_plates_mask_and_scale(kind):
    pyro.set_rng_seed(0)
    copies = 60_000
    parameters, model, guide = composite(copies, kind)
    loss = TraceDisARM_ELBO().differentiable_loss(model, guide)
    value, exact = composite_exact(kind)
    assert max_z(torch.cat(gradients(loss, parameters), -1), exact) < 4.5
    assert loss.item() / copies == pytest.approx(value, rel=0.02)


def test_score_unscaled_and_costs_scaled_under_subsampling():
    """A masked-out, subsampled site still steers the costs downstream of it."""
    logits = torch.tensor([0.3, -0.2, 0.1, 0.5], dtype=DOUBLE, requires_grad=True)
    index = torch.tensor([2, 0])
    pair = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=DOUBLE)

    def model():
        with pyro.plate("data", 4, subsample=index):
            with poutine.mask(mask=False):
                b = pyro.sample("b", dist.Bernoulli(torch.tensor(0.5, dtype=DOUBLE)))
            pyro.factor("cost", -b * torch.tensor([1.0, 3.0], dtype=DOUBLE))

    def guide():
        with pyro.plate("data", 4, subsample=index), poutine.mask(mask=False):
            pyro.sample("b", dist.Bernoulli(logits=logits[index]))

    loss = TraceDisARM_ELBO(max_plate_nesting=1).differentiable_loss(model, Feed(b=pair)(guide))
    expected = torch.zeros(4, dtype=DOUBLE)
    expected[index] = 0.5 * 2 * torch.tensor([1.0, 3.0], dtype=DOUBLE) * logits[index].detach().abs().sigmoid()
    assert loss.item() == pytest.approx(2 * (0.5 + 1.5))
    assert torch.allclose(gradients(loss, [logits])[0], expected)


def test_cost_outside_the_plate_depends_on_all_its_bits():
    """Exact over the nine outcomes of two pairs, with a joint cost that does not factorise."""
    logits = torch.tensor([0.3, -1.2], dtype=DOUBLE, requires_grad=True)

    def model():
        with pyro.plate("data", 2):
            b = pyro.sample("b", dist.Bernoulli(torch.tensor(0.4, dtype=DOUBLE)))
        pyro.factor("joint", b.prod(-1, keepdim=True) - 2 * b[..., :1])

    def guide():
        with pyro.plate("data", 2):
            pyro.sample("b", dist.Bernoulli(logits=logits))

    mean = 0.0
    for outcome in itertools.product(*(pair_outcomes(p) for p in logits.sigmoid().tolist())):
        pair = torch.tensor([values for values, _ in outcome], dtype=DOUBLE).T
        loss = TraceDisARM_ELBO(max_plate_nesting=1).differentiable_loss(model, Feed(b=pair)(guide))
        mean = mean + math.prod(p for _, p in outcome) * gradients(loss, [logits])[0]
    exact = 0.0
    for bits in itertools.product((0.0, 1.0), repeat=2):
        b = torch.tensor(bits, dtype=DOUBLE)
        log_q = dist.Bernoulli(logits=logits).log_prob(b).sum()
        log_p = dist.Bernoulli(torch.tensor(0.4, dtype=DOUBLE)).log_prob(b).sum() + b.prod() - 2 * b[0]
        exact = exact - log_q.exp() * (log_p - log_q)
    assert torch.allclose(mean, gradients(exact, [logits])[0], atol=1e-12)


def test_independent_costs_of_other_plate_elements_do_not_add_noise():
    pyro.set_rng_seed(0)
    logits = torch.zeros(50, dtype=DOUBLE, requires_grad=True)
    x = torch.linspace(-3, 3, 50, dtype=DOUBLE)

    def model():
        with pyro.plate("data", 50):
            b = pyro.sample("b", dist.Bernoulli(torch.tensor(0.5, dtype=DOUBLE)))
            pyro.sample("x", dist.Normal(b, 1.0), obs=x)

    def guide():
        with pyro.plate("data", 50):
            pyro.sample("b", dist.Bernoulli(logits=logits))

    estimate = gradients(TraceDisARM_ELBO().differentiable_loss(model, guide), [logits])[0]
    assert torch.allclose(estimate, -0.25 * (x - 0.5))  # exact at even odds


@pytest.mark.parametrize("vectorize", [True, False])
def test_particles_are_averaged(vectorize):
    pyro.set_rng_seed(0)
    parameter = torch.tensor(-1.0, dtype=DOUBLE, requires_grad=True)
    elbo = TraceDisARM_ELBO(2000 if vectorize else 200, vectorize_particles=vectorize)

    def model():
        b = pyro.sample("b", dist.Bernoulli(torch.tensor(0.5, dtype=DOUBLE)))
        pyro.factor("cost", -(b**2))

    def guide():
        pyro.sample("b", dist.Bernoulli(logits=parameter))

    loss = elbo.differentiable_loss(model, guide)
    exact = torch.tensor(-1.0, dtype=DOUBLE, requires_grad=True)
    p = exact.sigmoid()
    truth = p + p * (2 * p).log() + (1 - p) * (2 * (1 - p)).log()
    assert loss.item() == pytest.approx(truth.item(), abs=0.1)
    assert gradients(loss, [parameter])[0].item() == pytest.approx(gradients(truth, [exact])[0].item(), abs=0.05)


def test_tiny_probabilities_keep_their_gradient():
    """Where log-odds made from clamped probabilities would have none."""
    p = torch.tensor(1e-12, requires_grad=True)

    def model():
        b = pyro.sample("b", dist.Bernoulli(torch.tensor(0.5)))
        pyro.factor("cost", -3 * b)

    def guide():
        with poutine.mask(mask=False):
            pyro.sample("b", dist.Bernoulli(p))

    fed = Feed(b=torch.tensor([1.0, 0.0]))(guide)
    estimate = gradients(TraceDisARM_ELBO(max_plate_nesting=0).differentiable_loss(model, fed), [p])[0]
    assert estimate.item() * 2e-12 == pytest.approx(3.0)  # times the probability that the halves differ


def test_equal_infinities_are_no_difference():
    logits = torch.zeros(2, requires_grad=True)

    def model():
        with pyro.plate("data", 2):
            b = pyro.sample("b", dist.Bernoulli(torch.tensor(0.5)))
            pyro.factor("cost", torch.where(torch.tensor([True, False]), -math.inf, -b))

    def guide():
        with pyro.plate("data", 2):
            pyro.sample("b", dist.Bernoulli(logits=logits))

    with pytest.warns(UserWarning, match="inf"):
        loss = TraceDisARM_ELBO().differentiable_loss(model, guide)
    assert loss.item() == math.inf
    assert gradients(loss, [logits])[0].tolist() == [0.0, 0.25]


class Guide(torch.nn.Module):
    def __init__(self, dtype):
        super().__init__()
        self.net = torch.nn.Linear(4, 3, dtype=dtype)

    def forward(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Bernoulli(logits=self.net(x)).to_event(1))


class Model(torch.nn.Module):
    def __init__(self, dtype):
        super().__init__()
        self.net = torch.nn.Linear(3, 4, dtype=dtype)

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Bernoulli(logits=x.new_zeros(3)).to_event(1))
            pyro.sample("x", dist.Normal(self.net(z), 0.5).to_event(1), obs=x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("num_particles", "vectorize"), [(1, False), (3, True), (2, False)])
def test_as_a_module_with_plain_parameters(dtype, num_particles, vectorize):
    pyro.set_rng_seed(0)
    pyro.clear_param_store()
    x = torch.randn(20, 4, dtype=dtype)
    bound = TraceDisARM_ELBO(num_particles, vectorize_particles=vectorize)(Model(dtype), Guide(dtype))
    optimiser = torch.optim.Adam(bound.parameters(), 0.05)
    losses = []
    for _ in range(30):
        optimiser.zero_grad()
        loss = bound(x)
        assert loss.dtype == dtype
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in bound.parameters())
        optimiser.step()
        losses.append(loss.item())
    assert sum(losses[-10:]) < sum(losses[:10])
    assert not list(pyro.get_param_store().keys())


def test_in_svi():
    pyro.set_rng_seed(0)
    pyro.clear_param_store()

    def model():
        z = pyro.sample("z", dist.Bernoulli(torch.tensor(0.9)))
        pyro.sample("x", dist.Normal(z, 1.0), obs=torch.tensor(1.0))

    def guide():
        pyro.sample("z", dist.Bernoulli(logits=pyro.param("logit", torch.tensor(0.0))))

    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.1}), TraceDisARM_ELBO())
    for _ in range(50):
        svi.step()
    assert pyro.param("logit").item() > 0.5
    pyro.clear_param_store()


def test_refuses_other_discrete_sites():
    def program():
        pyro.sample("count", dist.Poisson(torch.tensor(3.0)))

    with pytest.raises(NotImplementedError, match=r"guide site 'count' is a Poisson.*TraceLeaveOneOut_ELBO"):
        TraceDisARM_ELBO().loss(program, program)


def test_refuses_dependent_bernoulli_sites():
    def program():
        a = pyro.sample("a", dist.Bernoulli(torch.tensor(0.3)))
        pyro.sample("b", dist.Bernoulli(0.2 + 0.5 * a))

    with pytest.raises(NotImplementedError, match=r"guide site 'b' .* another Bernoulli site's value .*to_event"):
        TraceDisARM_ELBO().loss(program, program)


def test_refuses_a_guide_messenger():
    guide = AutoNormalMessenger(toy_model)
    with pytest.raises(NotImplementedError, match="TraceDisARM_ELBO does not take a GuideMessenger"):
        TraceDisARM_ELBO().loss(toy_model, guide)


@pytest.mark.parametrize("num_particles", [0, 1.5])
def test_refuses_bad_numbers_of_particles(num_particles):
    with pytest.raises(ValueError, match="num_particles must be an integer of at least 1"):
        TraceDisARM_ELBO(num_particles)
