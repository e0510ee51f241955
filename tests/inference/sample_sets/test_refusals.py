"""What the sample-set ELBOs refuse: the site, what is wrong, and the way out."""

import math
import re

import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro.infer import Trace_ELBO

from pyro_ext.inference import (
    TraceLeaveOneOut_ELBO,
    TraceSampleSet_ELBO,
    TraceSumAndSample_ELBO,
    TraceUnorderedSet_ELBO,
    config_sample_set,
)

LOGITS = torch.zeros(3, requires_grad=True)


def pair(site, infer=None):
    """A model and a guide with one latent site ``z`` of the distribution ``site()``."""

    def model():
        z = pyro.sample("z", site())
        pyro.sample("x", dist.Normal(z.double().sum(), 1.0), obs=torch.tensor(0.0, dtype=torch.float64))

    return model, lambda: pyro.sample("z", site(), infer=infer)


def categorical():
    return dist.Categorical(logits=LOGITS)


def loss(elbo, site=categorical, infer=None):
    return elbo.loss(*pair(site, infer))


def nothing_finite():
    return dist.Categorical(logits=torch.full((3,), -math.inf), validate_args=False)


def not_a_number():
    return dist.Categorical(logits=torch.full((3,), math.nan), validate_args=False)


def poisson():
    return dist.Poisson(torch.tensor(2.0))


def ragged_binomial():
    return dist.Binomial(torch.tensor([3, 4]), torch.ones(2) / 2).to_event(1)


def zero_inflated():
    return dist.ZeroInflatedPoisson(torch.tensor(2.0), gate=torch.tensor(0.5))


def not_enumerable(family, estimator):
    return (
        f"site 'z': {family} has no support that can be enumerated, as the {estimator} estimator needs; "
        'mark it infer={"estimator": "leave_one_out"}, or use TraceLeaveOneOut_ELBO'
    )


NO_PROBABILITIES = (
    "site 'z': Categorical has no probabilities: its logits are NaN or all -inf for some batch element; "
    "give every element a finite logit"
)

REFUSED = [
    (lambda: TraceUnorderedSet_ELBO(0), "num_samples must be an integer of at least 1, got 0"),
    (lambda: TraceUnorderedSet_ELBO(2.0), "num_samples must be an integer of at least 1, got 2.0"),
    (lambda: TraceLeaveOneOut_ELBO(True), "num_samples must be an integer of at least 1, got True"),
    (lambda: TraceSumAndSample_ELBO(num_samples="4"), "num_samples must be an integer of at least 1, got '4'"),
    (
        lambda: TraceSumAndSample_ELBO(num_samples=1, num_summed=1),
        "num_summed=1 leaves nothing to sample the rest with: it must be less than num_samples=1",
    ),
    (lambda: TraceSumAndSample_ELBO(num_summed=-1), "num_summed must be an integer of at least 0, got -1"),
    (lambda: TraceSumAndSample_ELBO(num_summed="best"), "num_summed must be an integer or \"optimal\", got 'best'"),
    (lambda: TraceUnorderedSet_ELBO(max_leaves=0), "max_leaves must be an integer of at least 1, got 0"),
    (
        lambda: TraceSampleSet_ELBO(estimator="ordered_set"),
        "estimator must be one of unordered_set, sum_and_sample, leave_one_out, exact, reinforce; got 'ordered_set'",
    ),
    (
        lambda: config_sample_set(categorical, estimator="vimco"),
        "estimator must be one of unordered_set, sum_and_sample, leave_one_out, exact, reinforce; got 'vimco'",
    ),
    (lambda: config_sample_set(categorical, num_samples=0), "num_samples must be an integer of at least 1, got 0"),
    (
        lambda: loss(TraceUnorderedSet_ELBO(), infer={"estimator": "rebar"}),
        "site 'z': estimator must be one of unordered_set, sum_and_sample, leave_one_out, exact, reinforce; "
        "got 'rebar'",
    ),
    (
        lambda: loss(TraceUnorderedSet_ELBO(), infer={"num_samples": 0}),
        "site 'z': num_samples must be an integer of at least 1, got 0",
    ),
    (
        lambda: loss(TraceUnorderedSet_ELBO(), infer={"estimater": "exact"}),
        "site 'z': unknown infer key 'estimater'; known keys are estimator, num_samples, num_summed, "
        "enumerate, expand, tmc, is_auxiliary",
    ),
    (
        lambda: loss(TraceUnorderedSet_ELBO(), poisson),
        not_enumerable("Poisson", "unordered_set"),
    ),
    (
        lambda: loss(TraceSumAndSample_ELBO(), lambda: dist.Geometric(torch.tensor([0.3, 0.2])).to_event(1)),
        not_enumerable("Geometric", "sum_and_sample"),
    ),
    (
        lambda: loss(TraceUnorderedSet_ELBO(), ragged_binomial),
        not_enumerable("Binomial", "unordered_set"),
    ),
    (
        lambda: loss(TraceUnorderedSet_ELBO(), lambda: dist.Multinomial(3, torch.ones(3))),
        not_enumerable("Multinomial", "unordered_set"),
    ),
    (
        lambda: loss(TraceUnorderedSet_ELBO(), zero_inflated),
        not_enumerable("ZeroInflatedPoisson", "unordered_set"),
    ),
    (
        lambda: loss(TraceUnorderedSet_ELBO(), nothing_finite),
        NO_PROBABILITIES,
    ),
    (
        lambda: loss(TraceSumAndSample_ELBO(), not_a_number),
        NO_PROBABILITIES,
    ),
    (
        lambda: loss(
            TraceSampleSet_ELBO(estimator="exact"), lambda: dist.Categorical(logits=torch.zeros(20, 10)).to_event(1)
        ),
        f"site 'z': enumerating its {10**20} values exceeds max_leaves=65536; raise max_leaves, or use "
        'estimator="unordered_set"',
    ),
]


@pytest.mark.parametrize(("call", "message"), REFUSED, ids=[message[:50] for _, message in REFUSED])
def test_refused(call, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}($|\n *Trace Shapes)"):
        call()


def test_too_many_joint_values():
    def program():
        z = torch.zeros((), dtype=torch.long)
        for i in range(12):
            z = pyro.sample(f"z{i}", dist.Categorical(logits=torch.zeros(3).expand(*z.shape, 3) * z.unsqueeze(-1)))

    with pytest.raises(ValueError, match=r"site 'z10' depends on .* 177147 joint values .* TraceUnorderedBeam_ELBO"):
        TraceUnorderedSet_ELBO(3).loss(program, program)


ELBOS = [TraceUnorderedSet_ELBO(2), TraceSumAndSample_ELBO(2), TraceLeaveOneOut_ELBO(2)]


def joint_decoder():
    with pyro.plate("latents", 3):
        z = pyro.sample("z", dist.Bernoulli(torch.tensor(0.3)))
    total = z.sum(-1, keepdim=True)
    pyro.sample("x", dist.Normal(total, 1.0), obs=torch.tensor(1.0))


def factorised():
    with pyro.plate("latents", 3):
        pyro.sample("z", dist.Bernoulli(torch.tensor(0.6)))


@pytest.mark.parametrize("elbo", ELBOS)
def test_plate_escape(elbo):
    """Latents in a plate under a joint decoder: the enumerated value would be wrong (48.2 for a loss of 18.7)."""
    message = r"site 'z' is inside pyro.plate\('latents'\), but a site outside depends on it.*\.to_event\(1\)"
    with pytest.raises(ValueError, match=message):
        elbo.loss(joint_decoder, factorised)


@pytest.mark.parametrize("elbo", ELBOS)
def test_plate_escape_in_the_guide(elbo):
    def guide():
        factorised_z = None
        with pyro.plate("latents", 3):
            factorised_z = pyro.sample("z", dist.Bernoulli(torch.tensor(0.6)))
        pyro.sample("y", dist.Normal(factorised_z.sum(-1, keepdim=True), 1.0))

    def model():
        with pyro.plate("latents", 3):
            pyro.sample("z", dist.Bernoulli(torch.tensor(0.6)))
        pyro.sample("y", dist.Normal(torch.zeros(1), 1.0))

    with pytest.raises(ValueError, match="site 'z' is inside"):
        elbo.loss(model, guide)


def test_what_the_message_says_helps():
    """The same model with ``.to_event`` agrees with a long run of ``Trace_ELBO``."""

    def model():
        z = pyro.sample("z", dist.Bernoulli(torch.full((3,), 0.3)).to_event(1))
        pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=torch.tensor(1.0))

    def guide():
        pyro.sample("z", dist.Bernoulli(torch.full((3,), 0.6)).to_event(1))

    exact = TraceUnorderedSet_ELBO(8).loss(model, guide)
    elbo = Trace_ELBO(num_particles=20_000, vectorize_particles=True, max_plate_nesting=0)
    assert exact == pytest.approx(elbo.loss(model, guide), abs=0.05)


def test_analytic_kl_needs_one_order():
    def model():
        a = pyro.sample("a", dist.Categorical(torch.ones(2)))
        b = pyro.sample("b", dist.Bernoulli(0.2 + 0.5 * a))
        pyro.sample("x", dist.Normal(b, 1.0), obs=torch.tensor(1.0))

    def guide():
        pyro.sample("b", dist.Bernoulli(torch.tensor(0.5)))
        pyro.sample("a", dist.Categorical(torch.ones(2)))

    with pytest.raises(ValueError, match="the guide samples 'b' where the model samples 'a'"):
        TraceUnorderedSet_ELBO(analytic_kl=True).loss(model, guide)


def test_parallel_enumeration_keeps_its_meaning():
    """Pyro's own marks are left alone, and its ``num_samples`` is not ours."""
    pyro.set_rng_seed(0)
    value = TraceUnorderedSet_ELBO(1).loss(*pair(categorical, {"enumerate": "parallel"}))
    assert value == pytest.approx(TraceUnorderedSet_ELBO(3).loss(*pair(categorical)), rel=1e-6)
    model, guide = pair(categorical, {"enumerate": "parallel", "num_samples": 5, "expand": True})
    assert math.isfinite(TraceUnorderedSet_ELBO(1).loss(model, guide))


def test_site_marks_override_the_elbo():
    model, guide = pair(categorical, {"estimator": "exact"})
    expected = TraceUnorderedSet_ELBO(3).loss(*pair(categorical))
    assert TraceLeaveOneOut_ELBO(1).loss(model, guide) == pytest.approx(expected, rel=1e-6)
    marked = config_sample_set(pair(categorical)[1], num_samples=3)
    assert TraceLeaveOneOut_ELBO(1).loss(model, marked) == pytest.approx(expected, rel=1e-6)
    own = config_sample_set(guide, num_samples=1, estimator="leave_one_out")
    assert TraceLeaveOneOut_ELBO(1).loss(model, own) == pytest.approx(expected, rel=1e-6)
