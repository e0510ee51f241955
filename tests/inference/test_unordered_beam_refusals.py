"""Programs whose runs cannot be drawn as a set are refused, and told the way out."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoNormalMessenger

from pyro_ext.inference.unordered_beam import TraceUnorderedBeam_ELBO


def bit(name, p=0.5):
    return pyro.sample(name, dist.Bernoulli(torch.as_tensor(p)))


def different_plates():
    bit("a")
    with pyro.plate("data", 3):
        bit("b")


def escaping():
    with pyro.plate("data", 3):
        a = bit("a")
    pyro.sample("total", dist.Normal(a.sum(-1, keepdim=True), 1.0), obs=torch.tensor([1.0]))


def escaping_latent():
    with pyro.plate("data", 3):
        a = bit("a")
    pyro.sample("total", dist.Normal(a.sum(-1, keepdim=True), 1.0))


def value_dependent():
    if bit("a") > 0.5:
        bit("b")


def value_read_out():
    for i in range(int(bit("a").item())):
        bit(f"b{i}")


def in_markov():
    for t in pyro.markov(range(3)):
        bit(f"z{t}")


def infinite():
    pyro.sample("count", dist.Poisson(torch.tensor(3.0)))


def undeclared_batch():
    pyro.sample("z", dist.Bernoulli(torch.full((3,), 0.5)))


def guide_factor():
    bit("a")
    pyro.factor("extra", torch.tensor(1.0), has_rsample=False)


@pytest.mark.parametrize(
    ("program", "error", "message"),
    [
        (different_plates, ValueError, r"'a' and 'b' are in different plates: .* use TraceUnorderedSet_ELBO"),
        (escaping, ValueError, r"site 'total' depends on discrete sites \['a'\] but lies outside .*'data'.*to_event"),
        (escaping_latent, ValueError, r"site 'total' depends on discrete sites \['a'\] but lies outside"),
        (value_dependent, ValueError, r"branches on the value of discrete sites \['a'\]: .* use Trace_ELBO"),
        (value_read_out, ValueError, r"branches on the value of discrete sites \['a'\]: .* use Trace_ELBO"),
        (in_markov, NotImplementedError, r"guide site 'z0' is inside pyro.markov: .* ordinary loop"),
        (infinite, ValueError, r"guide site 'count' is a Poisson, .* use TraceLeaveOneOut_ELBO"),
        (undeclared_batch, ValueError, r"guide site 'z' has batch shape \(3,\), .* pyro.plate or .to_event"),
        (guide_factor, NotImplementedError, r"guide site 'extra' is neither reparameterised nor drawn"),
    ],
)
def test_refusals_name_the_site_and_the_way_out(program, error, message):
    guide = poutine.block(program, hide=["total"]) if program is escaping else program
    nesting = 1 if program in (different_plates, escaping, escaping_latent) else 0
    with pytest.raises(error, match=message):
        TraceUnorderedBeam_ELBO(3, max_plate_nesting=nesting).loss(program, guide)


def test_refuses_a_value_dependent_set_of_sites():
    def guide():
        a = pyro.sample("a", dist.Normal(torch.zeros(()), 1.0))
        calls.append(a)
        if len(calls) < 2:
            bit("b")
        bit("c")

    calls = []
    with pytest.raises(ValueError, match=r"guide site 'b' appears for some values of the discrete sites only"):
        TraceUnorderedBeam_ELBO(2, max_plate_nesting=0).loss(guide, guide)


def test_refuses_a_guide_messenger():
    guide = AutoNormalMessenger(different_plates)
    with pytest.raises(NotImplementedError, match="TraceUnorderedBeam_ELBO does not take a GuideMessenger"):
        TraceUnorderedBeam_ELBO(3).loss(different_plates, guide)


@pytest.mark.parametrize("num_samples", [0, -2, 1.5, "4", True])
def test_refuses_bad_set_sizes(num_samples):
    with pytest.raises(ValueError, match="num_samples must be an integer of at least 1"):
        TraceUnorderedBeam_ELBO(num_samples)
