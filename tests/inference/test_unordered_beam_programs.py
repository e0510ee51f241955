"""Sets of whole runs in programs of every make: reparameterised sites, plates, masks, scales, events, modules."""

import itertools
import math

import numpy
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI

from pyro_ext.inference.unordered_beam import TraceUnorderedBeam_ELBO
from tests.inference.feeding import gradients, max_z

DOUBLE = torch.float64


def composite(copies, kind):
    """Reparameterised sites before, between and after two discrete ones; a local plate, a mask, a scale."""
    a, m, r = (torch.full((copies, 1), v, dtype=DOUBLE, requires_grad=True) for v in (0.4, 0.3, 0.2))
    x = torch.tensor([0.5, -1.0], dtype=DOUBLE)
    scale = 2.5 if kind == "scale" else 1.0
    mask = torch.tensor([True, kind != "mask"])

    def model():
        with pyro.plate("copies", copies, dim=-2), poutine.scale(scale=scale):
            z = pyro.sample("z", dist.Normal(r, 1.0))
            b = pyro.sample("b", dist.Bernoulli(torch.tensor(0.3, dtype=DOUBLE)))
            y = pyro.sample("y", dist.Normal(z * b, 1.0))
            c = pyro.sample("c", dist.Categorical(torch.ones(3, dtype=DOUBLE)))
            with pyro.plate("inner", 2, dim=-1), poutine.mask(mask=mask):
                v = pyro.sample("v", dist.Normal(c + b, 1.0))
                pyro.sample("x", dist.Normal(0.3 * z + c * b + y + v, 0.8), obs=x)

    def guide():
        with pyro.plate("copies", copies, dim=-2), poutine.scale(scale=scale):
            z = pyro.sample("z", dist.Normal(m, 0.9))
            b = pyro.sample("b", dist.Bernoulli(logits=a + z))
            y = pyro.sample("y", dist.Normal(m + b, 0.7))
            c = pyro.sample("c", dist.Categorical(logits=torch.stack([y, a * y + b, z + 0 * y], -1)))
            with pyro.plate("inner", 2, dim=-1), poutine.mask(mask=mask):
                pyro.sample("v", dist.Normal(m * c, 1.1))

    return [a, m, r], model, guide


def composite_exact(kind, nodes=24):
    """The ELBO's gradients by enumeration of b and c and Gauss-Hermite quadrature over z, y and each v."""
    a, m, r = (torch.tensor(v, dtype=DOUBLE, requires_grad=True) for v in (0.4, 0.3, 0.2))
    points, weights = (torch.tensor(v, dtype=DOUBLE) for v in numpy.polynomial.hermite_e.hermegauss(nodes))
    weights = weights / weights.sum()
    z, loss = m + 0.9 * points[:, None, None], 0.0
    for b, c in itertools.product((0.0, 1.0), (0, 1, 2)):
        b, y = torch.tensor(b, dtype=DOUBLE), m + b + 0.7 * points[:, None]
        v = m * c + 1.1 * points
        q_b = dist.Bernoulli(logits=a + z).log_prob(b)
        log_q = q_b + torch.stack(torch.broadcast_tensors(y, a * y + b, z + 0 * y), -1).log_softmax(-1)[..., c]
        cost = dist.Normal(r, 1.0).log_prob(z) - dist.Normal(m, 0.9).log_prob(z) - log_q - math.log(3)
        cost = cost + dist.Bernoulli(torch.tensor(0.3, dtype=DOUBLE)).log_prob(b)
        cost = cost + dist.Normal(z * b, 1.0).log_prob(y) - dist.Normal(m + b, 0.7).log_prob(y)
        for x_n, keep in ((0.5, 1.0), (-1.0, float(kind != "mask"))):
            log_p = dist.Normal(0.3 * z + c * b + y + v, 0.8).log_prob(torch.tensor(x_n, dtype=DOUBLE))
            cost = cost + keep * (log_p + dist.Normal(c + b, 1.0).log_prob(v) - dist.Normal(m * c, 1.1).log_prob(v))
        loss = loss - (weights[:, None, None] * weights[:, None] * weights * log_q.exp() * cost).sum()
    loss = loss * (2.5 if kind == "scale" else 1.0)
    return loss.item(), torch.stack(gradients(loss, [a, m, r]))


@pytest.mark.parametrize("kind", ["plain", "mask", "scale"])
@pytest.mark.parametrize("k", [2, 4, 6])
def test_reparameterised_sites_between_plates_mask_and_scale(kind, k):
    pyro.set_rng_seed(k)
    copies = 40_000
    parameters, model, guide = composite(copies, kind)
    loss = TraceUnorderedBeam_ELBO(k).differentiable_loss(model, guide)
    value, exact = composite_exact(kind)
    assert max_z(torch.cat(gradients(loss, parameters), -1), exact) < 4.5
    assert loss.item() / copies == pytest.approx(value, rel=0.02)


def test_upstream_site_is_shared_by_the_set():
    shapes = {}

    def guide():
        z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
        a = pyro.sample("a", dist.Bernoulli(logits=z))
        y = pyro.sample("y", dist.Normal(a, 1.0))
        b = pyro.sample("b", dist.Bernoulli(logits=y + a))
        free = pyro.sample("free", dist.Normal(z, 1.0))
        shapes.update(z=z.shape, a=a.shape, y=y.shape, b=b.shape, free=free.shape)

    def model():
        for name in ("z", "y", "free"):
            pyro.sample(name, dist.Normal(torch.zeros(()), 1.0))
        for name in ("a", "b"):
            pyro.sample(name, dist.Bernoulli(torch.tensor(0.5)))

    pyro.set_rng_seed(0)
    TraceUnorderedBeam_ELBO(3, max_plate_nesting=0).loss(model, guide)
    assert shapes == {"z": (), "a": (3,), "y": (3,), "b": (3,), "free": ()}


def test_random_subsample_is_drawn_once():
    drawn = []

    def guide():
        with pyro.plate("data", 1000, subsample_size=3) as index:
            drawn.append(index.tolist())
            a = pyro.sample("a", dist.Bernoulli(torch.full((3,), 0.4)))
            pyro.sample("b", dist.Bernoulli(0.2 + 0.5 * a))

    def model():
        with pyro.plate("data", 1000, subsample_size=3) as index:
            drawn.append(index.tolist())
            a = pyro.sample("a", dist.Bernoulli(torch.tensor(0.5)))
            b = pyro.sample("b", dist.Bernoulli(torch.tensor(0.5)))
            pyro.sample("x", dist.Normal(a + b, 1.0), obs=index.float() / 1000)

    TraceUnorderedBeam_ELBO(2, max_plate_nesting=1).loss(model, guide)
    assert len(drawn) == 4
    assert all(index == drawn[0] for index in drawn)


def test_subsampling_scale_is_exact_when_the_set_is_everything():
    logits = torch.tensor([0.3, -0.2, 0.1, 0.5], dtype=DOUBLE, requires_grad=True)
    x = torch.tensor([0.0, 1.0, -1.0, 2.0], dtype=DOUBLE)

    def run(index):
        def guide():
            with pyro.plate("data", 4, subsample=index):
                a = pyro.sample("a", dist.Bernoulli(logits=logits[index]))
                pyro.sample("b", dist.Bernoulli(logits=logits[index] - a))

        def model():
            with pyro.plate("data", 4, subsample=index):
                a = pyro.sample("a", dist.Bernoulli(torch.tensor(0.5, dtype=DOUBLE)))
                b = pyro.sample("b", dist.Bernoulli(torch.tensor(0.3, dtype=DOUBLE)))
                pyro.sample("x", dist.Normal(a - b, 1.0), obs=x[index])

        loss = TraceUnorderedBeam_ELBO(4).differentiable_loss(model, guide)
        return torch.cat([loss.detach()[None], *gradients(loss, [logits])])

    halves = [run(torch.tensor(s)) for s in itertools.combinations(range(4), 2)]
    assert torch.allclose(torch.stack(halves).mean(0), run(torch.arange(4)))


@pytest.mark.parametrize("k", [3, 9, 81])
def test_event_sites(k):
    """A vector of four one-hot digits, then a bit that depends on it; cost over both."""
    pyro.set_rng_seed(k)
    copies = 3 if k == 81 else 10_000
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(3, 3, generator=generator, dtype=DOUBLE)
    table = torch.randn(27, 2, generator=generator, dtype=DOUBLE)
    logits = base.expand(copies, 3, 3).clone().requires_grad_()

    def code(z):
        return (z.argmax(-1) * torch.tensor([9, 3, 1])).sum(-1)

    def guide():
        with pyro.plate("copies", copies):
            z = pyro.sample("z", dist.OneHotCategorical(logits=logits).to_event(1))
            pyro.sample("bit", dist.Bernoulli(logits=0.1 * code(z).to(DOUBLE) + logits[:, 0, 0]))

    def model():
        with pyro.plate("copies", copies):
            z = pyro.sample("z", dist.OneHotCategorical(torch.ones(3, 3, dtype=DOUBLE)).to_event(1))
            bit = pyro.sample("bit", dist.Bernoulli(torch.tensor(0.5, dtype=DOUBLE)))
            pyro.factor("cost", table[code(z), bit.long()])

    single = base.clone().requires_grad_()
    z = torch.tensor(list(itertools.product(range(3), repeat=3)))
    log_z = single.log_softmax(-1)[torch.arange(3), z].sum(-1)
    bit = dist.Bernoulli(logits=0.1 * torch.arange(27, dtype=DOUBLE) + single[0, 0])
    log_q = log_z[:, None] + torch.stack([bit.log_prob(torch.tensor(v, dtype=DOUBLE)) for v in (0.0, 1.0)], -1)
    exact = -(log_q.exp() * (table - math.log(54) - log_q)).sum()
    loss = TraceUnorderedBeam_ELBO(k).differentiable_loss(model, guide)
    samples, truth = gradients(loss, [logits])[0], gradients(exact, [single])[0]
    if k == 81:
        assert loss.item() == pytest.approx(3 * exact.item())
        assert torch.allclose(samples, truth.expand_as(samples))
    else:
        assert max_z(samples, truth) < 4.5


@pytest.mark.parametrize("k", [2, 3, 4, 6])
def test_impossible_values(k):
    """Two of four joint values have probability zero, and infinite cost in the model."""
    logits = torch.tensor([0.3, -math.inf, 0.1], requires_grad=True)

    def guide():
        a = pyro.sample("a", dist.Categorical(logits=logits))
        pyro.sample("b", dist.Categorical(logits=torch.tensor([0.0, -math.inf]).expand(*a.shape, 2)))

    def model():
        a = pyro.sample("a", dist.Categorical(logits=torch.tensor([0.0, -math.inf, 0.0])))
        pyro.sample("b", dist.Categorical(logits=torch.tensor([0.0, -math.inf])))
        pyro.factor("cost", 0.5 * a)

    loss = TraceUnorderedBeam_ELBO(k, max_plate_nesting=0).differentiable_loss(model, guide)
    p = logits[[0, 2]].log_softmax(-1)
    exact = -(p.exp() * (torch.tensor([0.0, 1.0]) - math.log(2) - p)).sum()
    assert loss.item() == pytest.approx(exact.item(), abs=1e-6)
    assert torch.allclose(gradients(loss, [logits])[0], gradients(exact, [logits])[0], atol=1e-6)


def test_sites_not_inside_a_plate_are_added_once():
    """A global reparameterised site, a global factor, and local chains."""
    weight = torch.tensor(0.3, dtype=DOUBLE, requires_grad=True)

    def guide():
        pyro.sample("g", dist.Delta(weight))
        with pyro.plate("data", 3):
            a = pyro.sample("a", dist.Bernoulli(torch.tensor(0.4, dtype=DOUBLE)))
            pyro.sample("b", dist.Bernoulli(0.2 + 0.5 * a))

    def model():
        g = pyro.sample("g", dist.Normal(torch.zeros((), dtype=DOUBLE), 1.0))
        pyro.factor("global", 2 * g)
        with pyro.plate("data", 3):
            a = pyro.sample("a", dist.Bernoulli(torch.tensor(0.4, dtype=DOUBLE)))
            pyro.sample("b", dist.Bernoulli(0.2 + 0.5 * a))

    loss = TraceUnorderedBeam_ELBO(3).differentiable_loss(model, guide)
    expected = 0.5 * weight**2 + 0.5 * math.log(2 * math.pi) - 2 * weight
    assert loss.item() == pytest.approx(expected.item())
    assert gradients(loss, [weight])[0] == pytest.approx(gradients(expected, [weight])[0])


class Guide(torch.nn.Module):
    def __init__(self, dtype):
        super().__init__()
        self.a = torch.nn.Linear(1, 2, dtype=dtype)
        self.b = torch.nn.Linear(2, 3, dtype=dtype)

    def forward(self, x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Categorical(logits=self.a(x[:, None])))
            features = torch.stack(torch.broadcast_tensors(x, a.to(x.dtype)), -1)
            pyro.sample("b", dist.Categorical(logits=self.b(features)))


class Model(torch.nn.Module):
    def __init__(self, dtype):
        super().__init__()
        self.mean = torch.nn.Parameter(torch.randn(2, 3, dtype=dtype))

    def forward(self, x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Categorical(logits=x.new_zeros(2)))
            b = pyro.sample("b", dist.Categorical(logits=x.new_zeros(3)))
            pyro.sample("x", dist.Normal(self.mean[a, b], 0.5), obs=x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("k", "num_particles", "vectorize"), [(1, 1, False), (3, 1, False), (2, 2, True), (8, 1, False)]
)
def test_as_a_module_with_plain_parameters(dtype, k, num_particles, vectorize):
    pyro.set_rng_seed(0)
    pyro.clear_param_store()
    x = torch.randn(20, dtype=dtype)
    elbo = TraceUnorderedBeam_ELBO(k, num_particles=num_particles, vectorize_particles=vectorize)
    bound = elbo(Model(dtype), Guide(dtype))
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
        a = pyro.sample("a", dist.Bernoulli(torch.tensor(0.9)))
        b = pyro.sample("b", dist.Bernoulli(torch.tensor(0.5)))
        pyro.sample("x", dist.Normal(a + b, 0.5), obs=torch.tensor(2.0))

    def guide():
        logits = pyro.param("logits", torch.zeros(2))
        a = pyro.sample("a", dist.Bernoulli(logits=logits[0]))
        pyro.sample("b", dist.Bernoulli(logits=logits[1] + a))

    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.1}), TraceUnorderedBeam_ELBO(3))
    for _ in range(50):
        svi.step()
    assert (pyro.param("logits") > 0.5).all()
    pyro.clear_param_store()
