"""Sets along dims that other sites could take: Markov chains before other sites, plain draws that depend on sets."""

import math

import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro import poutine
from pyro.ops.indexing import Vindex

from pyro_ext.inference import TraceSampleSet_ELBO, TraceUnorderedSet_ELBO
from tests.inference.feeding import gradients

F64 = torch.float64
P = torch.tensor([0.3, 0.7], dtype=F64)
MOVE = torch.tensor([[0.9, 0.1], [0.2, 0.8]], dtype=F64)
PRIOR = torch.tensor([0.5, 0.5], dtype=F64)


def observe(name, loc):
    pyro.sample(name, dist.Normal(loc.to(F64), 1.0), obs=torch.tensor(1.0, dtype=F64))


class ChainThenOthers:
    """A Markov chain, then two global sites, of which the second depends on the first; or one summed out before it."""

    def __init__(self, scope, steps=3, enumerated_in_model=False, dependent=True):
        self.scope, self.steps, self.enumerated_in_model = scope, steps, enumerated_in_model
        self.dependent = dependent

    def run(self, role):
        z, c = torch.tensor(0), torch.tensor(0)
        if self.enumerated_in_model and role == "model":
            c = pyro.sample("c", dist.Categorical(PRIOR), infer={"enumerate": "parallel"})
        for i in self.scope(range(self.steps)):
            z = pyro.sample(f"z{i}", dist.Categorical(self.move(role, z)))
            if role == "model":
                observe(f"x{i}", z + 2 * c)
        if self.enumerated_in_model:
            return
        c = pyro.sample("c", dist.Categorical(PRIOR if role == "model" else P))
        d = pyro.sample("d", dist.Categorical(PRIOR if role == "model" else Vindex(MOVE)[c]))
        if role == "model":
            observe("y", 2 * c + d)

    def move(self, role, z):
        if role == "model":
            return Vindex(MOVE)[z]
        return 1 - Vindex(MOVE)[z] if self.dependent else P

    def model(self):
        self.run("model")

    def guide(self):
        self.run("guide")


@pytest.mark.parametrize("enumerated_in_model", [False, True])
@pytest.mark.parametrize("estimator", ["exact", "unordered_set"])
def test_sites_after_a_markov_chain(estimator, enumerated_in_model):
    """The chain is one joint of eight values without ``pyro.markov``; with it the loss is the same."""
    losses = []
    for scope in (list, pyro.markov):
        program = ChainThenOthers(scope, enumerated_in_model=enumerated_in_model)
        elbo = TraceSampleSet_ELBO(num_samples=2, estimator=estimator, max_plate_nesting=0)
        losses.append(elbo.loss(program.model, program.guide))
    assert losses[1] == pytest.approx(losses[0], rel=1e-12)


def test_a_long_markov_chain_takes_few_dims():
    """Sites after the chain lie left of its two dims, however long it is."""
    program = ChainThenOthers(pyro.markov, steps=60, dependent=False)
    elbo = TraceUnorderedSet_ELBO(2, max_plate_nesting=0)
    ((_, guide_trace),) = elbo._get_traces(program.model, program.guide, (), {})
    assert guide_trace.nodes["d"]["value"].dim() <= 5
    assert math.isfinite(elbo.loss(program.model, program.guide))


def test_plain_draws_in_a_markov_chain():
    program = ChainThenOthers(pyro.markov)
    guide = poutine.infer_config(program.guide, lambda msg: {"estimator": "reinforce"} if msg["name"] == "z1" else {})
    assert math.isfinite(TraceUnorderedSet_ELBO(2, max_plate_nesting=0).loss(program.model, guide))


def test_a_plain_draw_that_depends_on_a_set_and_that_nothing_depends_on():
    """An auxiliary site of one draw per value of the set it depends on; its own term is -log q of that draw."""
    copies = 4_000
    logits = torch.zeros(copies, dtype=F64, requires_grad=True)

    def model():
        with pyro.plate("copies", copies):
            a = pyro.sample("a", dist.Bernoulli(torch.tensor(0.3, dtype=F64)))
            observe("x", a)

    def guide():
        with pyro.plate("copies", copies):
            a = pyro.sample("a", dist.Bernoulli(logits=logits))
            b = dist.Bernoulli(0.2 + 0.5 * a)
            pyro.sample("b", b, infer={"estimator": "reinforce", "is_auxiliary": True})

    samples = gradients(TraceUnorderedSet_ELBO(2, max_plate_nesting=1).differentiable_loss(model, guide), [logits])[0]
    entropy = dist.Bernoulli(torch.tensor([0.2, 0.7], dtype=F64)).entropy()
    q = torch.tensor(0.5, dtype=F64)
    log_p = torch.tensor([math.log(0.7) - 0.5, math.log(0.3)], dtype=F64)
    expected = -0.25 * (log_p[1] - log_p[0] + entropy[1] - entropy[0] - (q / (1 - q)).log())
    assert ((samples.mean() - expected).abs() < 4.5 * samples.std() / copies**0.5).all()


def test_plain_draws_outside_a_plate_whose_costs_are_inside():
    """Costs in the plate depend on a set inside and on each of two plain draws outside, which are sure to be zero."""
    sure = torch.tensor([1.0, 0.0], dtype=F64)

    def program(of_model):
        plate = pyro.plate("data", 2)
        with plate:
            a = pyro.sample("a", dist.Categorical(PRIOR if of_model else P))
            if of_model:
                observe("x", a)
        for i in range(2):
            b = pyro.sample(f"b{i}", dist.Categorical(PRIOR if of_model else sure), infer={"num_samples": 1})
            if of_model:
                with plate:
                    observe(f"y{i}", b)

    loss = TraceUnorderedSet_ELBO(2, max_plate_nesting=1).loss(lambda: program(True), lambda: program(False))
    normal = [dist.Normal(float(v), 1.0).log_prob(torch.tensor(1.0, dtype=F64)) for v in (0, 1)]
    inside = sum(p * ((0.5 / p).log() + f) for p, f in zip(P, normal, strict=True))
    assert loss == pytest.approx(-(2 * inside + 2 * (math.log(0.5) + 2 * normal[0])).item(), rel=1e-6)
