"""Sets of whole runs: unbiased against enumeration, exact when the set is everything, less varied than others."""

import itertools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO

from pyro_ext.inference._beams import BeamGuide, Beams, Drawn
from pyro_ext.inference.unordered_beam import TraceUnorderedBeam_ELBO, set_loss
from pyro_ext.ops.sets import set_log_prob
from tests.inference.feeding import gradients, max_z

DOUBLE = torch.float64
T, C = 4, 3
SEQUENCES = torch.tensor(list(itertools.product(range(C), repeat=T)))


class Chain:
    """Four autoregressive Categorical(3) sites and a cost that does not factorise; copies in a plate."""

    def __init__(self, copies=None):
        generator = torch.Generator().manual_seed(1)

        def draw(*shape):
            x = torch.randn(*shape, generator=generator, dtype=DOUBLE)
            return (x if copies is None else x.expand(copies, *shape).clone()).requires_grad_()

        self.copies = copies
        self.first, self.step = draw(T, C), draw(T - 1, C, C)
        self.cost = torch.randn(C**T, generator=generator, dtype=DOUBLE)
        self.parameters = [self.first, self.step]

    def logits(self, t, previous):
        logits = self.first[..., t, :]
        if t == 0:
            return logits
        table = self.step[..., t - 1, :, :]
        index = previous[..., None, None].expand(*previous.shape, 1, C)
        return logits + table.expand(*previous.shape, C, C).gather(-2, index).squeeze(-2)

    def guide(self):
        z = None
        with pyro.plate("copies", self.copies):
            for t in range(T):
                z = pyro.sample(f"z{t}", dist.Categorical(logits=self.logits(t, z)))

    def model(self):
        index = 0
        with pyro.plate("copies", self.copies):
            for t in range(T):
                index = index * C + pyro.sample(f"z{t}", dist.Categorical(torch.ones(C, dtype=DOUBLE)))
            pyro.factor("cost", self.cost[index])

    def log_q(self, z):
        """Return the log-probability of sequences ``(..., T)``."""
        total = 0.0
        for t in range(T):
            log_prob = self.logits(t, z[..., t - 1] if t else None).log_softmax(-1)
            total = total + log_prob.expand(*z.shape[:-1], C).gather(-1, z[..., t, None]).squeeze(-1)
        return total

    def f(self, z, log_q):
        index = (z * torch.tensor([27, 9, 3, 1])).sum(-1)
        return self.cost[index] - T * math.log(C) - log_q

    def exact(self):
        log_q = self.log_q(SEQUENCES)
        return -(log_q.exp() * self.f(SEQUENCES, log_q)).sum()


def draws(elbo, copies, seed=0):
    """Return the chain's gradient estimates, ``(copies, 39)``."""
    pyro.set_rng_seed(seed)
    chain = Chain(copies)
    estimates = gradients(elbo.differentiable_loss(chain.model, chain.guide), chain.parameters)
    return torch.cat([g.flatten(1) for g in estimates], -1)


def exact_chain():
    chain = Chain()
    loss = chain.exact()
    return loss.item(), torch.cat([g.flatten() for g in gradients(loss, chain.parameters)])


def joint_leave_one_out(copies, k):
    """Return the gradient estimates of ``k`` joint draws with replacement, the others' mean as the baseline."""
    pyro.set_rng_seed(0)
    chain = Chain(copies)
    log_q = Chain().log_q(SEQUENCES).detach()
    z = SEQUENCES[dist.Categorical(logits=log_q).sample((k, copies))]
    log_q = chain.log_q(z)
    f = chain.f(z, log_q.detach())
    surrogate = -((f - (f.sum(0) - f) / (k - 1)) * log_q).sum() / k
    return torch.cat([g.flatten(1) for g in gradients(surrogate, chain.parameters)], -1)


@pytest.mark.parametrize(("k", "baseline"), [(2, True), (4, True), (8, True), (8, False), (13, True)])
def test_chain_is_unbiased(k, baseline):
    _, exact = exact_chain()
    copies = 10_000 if k < 12 else 500  # above 11 the ratios are integrals, and slower
    assert max_z(draws(TraceUnorderedBeam_ELBO(k, baseline), copies), exact) < 4.5


def test_chain_varies_less_than_with_replacement():
    """At eight evaluations: total variance below Trace_ELBO(8) and the joint leave-one-out of eight draws."""
    copies = 10_000
    ours = draws(TraceUnorderedBeam_ELBO(8), copies).var(0).sum()
    plain = draws(Trace_ELBO(8, max_plate_nesting=1, vectorize_particles=True), copies).var(0).sum()
    others = joint_leave_one_out(copies, 8)
    assert max_z(others, exact_chain()[1]) < 4.5
    assert ours < plain  # 0.93 of it at 20,000 copies
    assert ours < others.var(0).sum()  # 0.72


@pytest.mark.parametrize("k", [81, 100])
@pytest.mark.parametrize("baseline", [True, False])
def test_all_sequences_are_exact(k, baseline):
    value, exact = exact_chain()
    estimates = draws(TraceUnorderedBeam_ELBO(k, baseline), 3)
    assert torch.allclose(estimates, exact.expand_as(estimates), atol=1e-10)
    chain = Chain(3)
    assert TraceUnorderedBeam_ELBO(k).loss(chain.model, chain.guide) == pytest.approx(3 * value)


def test_two_sequences_in_a_run_are_distinct():
    pyro.set_rng_seed(0)
    chain = Chain(500)
    seen = {}

    def model():
        trace = poutine.trace(chain.model).get_trace()
        seen.update({t: trace.nodes[f"z{t}"]["value"] for t in range(T)})

    TraceUnorderedBeam_ELBO(8, max_plate_nesting=1).loss(model, chain.guide)
    codes = sum(seen[t] * C ** (T - 1 - t) for t in range(T))
    assert codes.shape == (8, 500)
    assert (codes.sort(0).values.diff(dim=0) > 0).all()


class Pair:
    """Two sites, six joint values, with parameters on both sides."""

    def __init__(self):
        generator = torch.Generator().manual_seed(4)
        self.a, self.b, self.p, self.cost = (
            torch.randn(*shape, generator=generator, dtype=DOUBLE).requires_grad_()
            for shape in ((2,), (2, 3), (3,), (6,))
        )
        self.parameters = [self.a, self.b, self.p, self.cost]
        self.values = torch.tensor(list(itertools.product(range(2), range(3))))

    def guide(self):
        a = pyro.sample("a", dist.Categorical(logits=self.a))
        pyro.sample("b", dist.Categorical(logits=self.b[a]))

    def model(self):
        a = pyro.sample("a", dist.Categorical(torch.ones(2, dtype=DOUBLE)))
        b = pyro.sample("b", dist.Categorical(logits=self.p))
        pyro.factor("cost", self.cost[3 * a + b])

    def log_q(self):
        return (self.a.log_softmax(-1)[:, None] + self.b.log_softmax(-1)).flatten()

    def exact(self):
        log_q = self.log_q()
        log_p = math.log(0.5) + self.p.log_softmax(-1).repeat(2) + self.cost
        return -(log_q.exp() * (log_p - log_q)).sum()


@pytest.mark.parametrize("baseline", [True, False])
@pytest.mark.parametrize("k", [2, 3, 4, 5, 6])
def test_exactly_unbiased_over_all_sets(k, baseline):
    pair = Pair()
    exact = pair.exact()
    log_q = pair.log_q().detach()
    elbo = TraceUnorderedBeam_ELBO(k, baseline, max_plate_nesting=0)
    total, value, mean = 0.0, 0.0, [torch.zeros_like(p) for p in pair.parameters]
    for subset in itertools.combinations(range(6), k):
        members = list(subset)
        log_rest = torch.tensor([log_q[i] for i in range(6) if i not in subset], dtype=DOUBLE).logsumexp(-1)
        values = {name: Drawn(pair.values[members, i], 0) for i, name in enumerate("ab")}
        beams = Beams(values, ("a", "b"), frozenset(), log_q[members], log_q[members], log_rest)
        traces = elbo._get_trace(pair.model, BeamGuide(beams, 0)(pair.guide), (), {})
        loss = set_loss(traces, beams, baseline, 0)
        prob = set_log_prob(log_q[members], log_rest).exp()
        total, value = total + prob, value + prob * loss.detach()
        mean = [m + prob * g for m, g in zip(mean, gradients(loss, pair.parameters), strict=True)]
    assert total.item() == pytest.approx(1)
    assert value.item() == pytest.approx(exact.item(), abs=1e-12)
    for estimate, truth in zip(mean, gradients(exact, pair.parameters), strict=True):
        assert (estimate - truth).abs().max() < 1e-12


def test_one_sample_is_trace_elbo():
    chain, results = Chain(5), []
    for elbo in (TraceUnorderedBeam_ELBO(1), Trace_ELBO()):
        pyro.set_rng_seed(0)
        loss = elbo.differentiable_loss(chain.model, chain.guide)
        results.append([loss.detach(), *gradients(loss, chain.parameters)])
    for ours, theirs in zip(*results, strict=True):
        assert torch.allclose(ours, theirs)


@pytest.mark.parametrize("vectorize", [True, False])
def test_particles_are_averaged(vectorize):
    pyro.set_rng_seed(0)
    pair = Pair()
    elbo = TraceUnorderedBeam_ELBO(3, num_particles=2000 if vectorize else 50, vectorize_particles=vectorize)
    loss = elbo.differentiable_loss(pair.model, pair.guide)
    exact = pair.exact()
    assert loss.item() == pytest.approx(exact.item(), abs=0.1)
    for estimate, truth in zip(gradients(loss, pair.parameters), gradients(exact, pair.parameters), strict=True):
        assert (estimate - truth).abs().max() < 0.15
