"""Closed-form divergences: log q counts as the guide says, log p as the model says, whatever the shapes."""

import contextlib

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import TraceEnum_ELBO, config_enumerate

from pyro_ext.inference import TraceLeaveOneOut_ELBO, TraceSumAndSample_ELBO, TraceUnorderedSet_ELBO
from tests.inference.feeding import gradients

DOUBLE = torch.float64
MASK = torch.tensor([True, False, True])
WEIGHTS = torch.tensor([1.0, 2.0, 0.5], dtype=DOUBLE)
X = torch.tensor([0.5, -1.0, 2.0], dtype=DOUBLE)


def observe(loc):
    pyro.sample("x", dist.Normal(loc, 1.0), obs=X)


def categorical(logits):
    return dist.Categorical(logits=logits)


def weighed(model_context, guide_context):
    """One site; contexts around it in model and guide."""

    def model(p):
        with pyro.plate("data", 3):
            with model_context():
                z = pyro.sample("z", categorical(p["prior"]))
            observe(z.to(DOUBLE))

    def guide(p):
        with pyro.plate("data", 3), guide_context():
            pyro.sample("z", categorical(p["q"]))

    return model, guide


def scaled(scale):
    return lambda: poutine.scale(scale=scale)


def masked(mask):
    return lambda: poutine.mask(mask=mask)


def distribution_masks(mask_p, mask_q):
    """The masks belong to the distributions; they lie below ``.to_event``."""

    def model(p):
        with pyro.plate("data", 3):
            z = pyro.sample("z", dist.Bernoulli(logits=p["prior"][..., :2]).mask(mask_p).to_event(1))
            observe(z.sum(-1))

    def guide(p):
        with pyro.plate("data", 3):
            pyro.sample("z", dist.Bernoulli(logits=p["q"][..., :2]).mask(mask_q).to_event(1))

    return model, guide


def shifted(logits, slope, value):
    """Return the logits of a site that depends on a value; its shape is that of the logits if it does not."""
    return logits + slope * value if slope else logits


def dependent(in_model, in_guide):
    """Two Bernoulli sites, the second with a probability that depends on the first."""

    def model(p):
        with pyro.plate("data", 3):
            a = pyro.sample("a", dist.Bernoulli(logits=p["prior"][0]))
            b = pyro.sample("b", dist.Bernoulli(logits=shifted(p["prior"][1], in_model, a)))
            observe(a + 2 * b)

    def guide(p):
        with pyro.plate("data", 3):
            a = pyro.sample("a", dist.Bernoulli(logits=p["q"][:, 0]))
            pyro.sample("b", dist.Bernoulli(logits=shifted(p["q"][:, 1], in_guide, a)))

    return model, guide


def chain(in_model, in_guide, scope):
    def model(p):
        z = torch.zeros((), dtype=DOUBLE)
        for i in scope(range(3)):
            z = pyro.sample(f"z{i}", dist.Bernoulli(logits=shifted(p["prior"][i], in_model, z)))
            pyro.sample(f"x{i}", dist.Normal(z, 1.0), obs=X[i])

    def guide(p):
        z = torch.zeros((), dtype=DOUBLE)
        for i in scope(range(3)):
            z = pyro.sample(f"z{i}", dist.Bernoulli(logits=shifted(p["q"][i, 0], in_guide, z)))

    return model, guide


def partly_observed():
    def model(p):
        with pyro.plate("data", 3):
            z = pyro.sample("z", categorical(p["prior"]), obs=torch.tensor([0, 1, 2]), obs_mask=MASK)
            observe(z.to(DOUBLE))

    def guide(p):
        with pyro.plate("data", 3):
            pyro.sample("z_unobserved", categorical(p["q"]))

    return model, guide


def below_a_site_summed_out():
    """The prior depends on a site that the model sums out: its expectation is inside a logarithm."""

    def model(p):
        with pyro.plate("data", 3):
            c = pyro.sample("c", dist.Bernoulli(logits=p["prior"][0]), infer={"enumerate": "parallel"})
            z = pyro.sample("z", dist.Bernoulli(logits=p["prior"][1] + 2 * c))
            observe(z - c)

    def guide(p):
        with pyro.plate("data", 3):
            pyro.sample("z", dist.Bernoulli(logits=p["q"][:, 0]))

    return model, guide


nothing = contextlib.nullcontext
PROGRAMS = {
    "alike": weighed(nothing, nothing),
    "scale in the model": weighed(scaled(2.0), nothing),
    "scale in the guide": weighed(nothing, scaled(2.0)),
    "two scales": weighed(scaled(0.5), scaled(3.0)),
    "one tensor of scales": weighed(scaled(WEIGHTS), scaled(WEIGHTS)),
    "two tensors of scales": weighed(scaled(WEIGHTS), scaled(WEIGHTS.flip(0))),
    "mask in the model": weighed(masked(MASK), nothing),
    "mask in the guide": weighed(nothing, masked(MASK)),
    "equal masks": weighed(masked(MASK), masked(MASK.clone())),
    "other masks": weighed(masked(MASK), masked(~MASK)),
    "False in the model": weighed(masked(False), nothing),
    "distributions masked in the model": distribution_masks(MASK[:2], True),
    "prior and guide dependent": dependent(1.5, -1.0),
    "guide dependent": dependent(0.0, 1.0),
    "prior dependent": dependent(1.5, 0.0),
    "chain, prior dependent": chain(1.0, 0.0, pyro.markov),
    "chain, guide dependent": chain(0.0, -1.0, pyro.markov),
    "chain, both dependent": chain(1.0, -1.0, list),
    "partly observed": partly_observed(),
    "below a site summed out": below_a_site_summed_out(),
}


def parameters():
    generator = torch.Generator().manual_seed(0)
    shapes = {"prior": (3,), "q": (3, 3)}
    return {n: torch.randn(s, dtype=DOUBLE, generator=generator).requires_grad_() for n, s in shapes.items()}


@pytest.fixture(autouse=True)
def _double():
    torch.set_default_dtype(DOUBLE)  # TraceEnum_ELBO mixes no dtypes
    yield
    torch.set_default_dtype(torch.float32)


def value_and_gradient(elbo, model, guide):
    p = parameters()
    loss = elbo.differentiable_loss(model, guide, p)
    return torch.cat([loss.detach().reshape(1), *(g.flatten() for g in gradients(loss, list(p.values())))])


def enumerated(name):
    model, guide = PROGRAMS[name]
    if name.startswith("distributions"):  # joint values, which Pyro cannot enumerate
        return value_and_gradient(TraceUnorderedSet_ELBO(4, max_plate_nesting=1), model, guide)
    return value_and_gradient(TraceEnum_ELBO(max_plate_nesting=1), model, config_enumerate(guide, "parallel"))


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_set_of_all_values_gives_the_exact_bound_and_gradient(name):
    model, guide = PROGRAMS[name]
    closed = value_and_gradient(TraceUnorderedSet_ELBO(4, analytic_kl=True, max_plate_nesting=1), model, guide)
    assert torch.allclose(closed, enumerated(name), atol=1e-10)


@pytest.mark.parametrize("mask_p", [True, MASK[:2]])
def test_the_value_where_the_distribution_of_the_guide_is_masked(mask_p):
    model, guide = distribution_masks(mask_p, MASK[:2])
    closed, sampled = (
        TraceUnorderedSet_ELBO(4, analytic_kl=kl, max_plate_nesting=1).loss(model, guide, parameters())
        for kl in (True, False)
    )
    assert closed == pytest.approx(sampled)


@pytest.mark.parametrize("name", ["two scales", "other masks", "prior and guide dependent", "below a site summed out"])
@pytest.mark.parametrize("elbo", [TraceUnorderedSet_ELBO, TraceSumAndSample_ELBO, TraceLeaveOneOut_ELBO])
def test_smaller_sets_are_unbiased(name, elbo):
    pyro.set_rng_seed(0)
    model, guide = PROGRAMS[name]
    copies = 500
    # two values of a Bernoulli site are all of them, except to the estimator that draws with replacement
    estimator = elbo(2, analytic_kl=True, num_particles=copies, vectorize_particles=True, max_plate_nesting=1)
    samples = torch.stack([value_and_gradient(estimator, model, guide) for _ in range(50)])
    error = samples.std(0) / len(samples) ** 0.5
    assert ((samples.mean(0) - enumerated(name)).abs() / error.clamp_min(1e-9)).max() < 4.5


def test_a_reparameterised_site_with_weights_of_its_own():
    """Nothing but the divergence: its closed form, with the entropy scaled by the guide, leaves no noise."""
    loc = torch.tensor(0.3, requires_grad=True)
    log_scale = torch.tensor(-0.5, requires_grad=True)

    def model():
        with poutine.scale(scale=2.0):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    def guide():
        with poutine.scale(scale=0.5):
            pyro.sample("z", dist.Normal(loc, log_scale.exp()))

    loss = TraceUnorderedSet_ELBO(2, analytic_kl=True).differentiable_loss(model, guide)
    q = dist.Normal(loc, log_scale.exp())
    divergence = torch.distributions.kl_divergence(q, dist.Normal(0.0, 1.0))
    exact = 2 * (divergence + q.entropy()) - 0.5 * q.entropy()
    assert torch.allclose(loss, exact)
    for ours, theirs in zip(*(gradients(x, [loc, log_scale]) for x in (loss, exact)), strict=True):
        assert torch.allclose(ours, theirs)
