"""DisARM where plates share a dim: a plate is told apart by what it is, not by where it lies."""

import itertools

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

from pyro_ext.inference import TraceDisARM_ELBO
from tests.inference.feeding import Feed, gradients, max_z

DOUBLE = torch.float64
HALF = torch.tensor(0.5, dtype=DOUBLE)


def bits(name, logits=None):
    return pyro.sample(name, dist.Bernoulli(HALF) if logits is None else dist.Bernoulli(logits=logits))


def observe(name, loc, num):
    pyro.sample(name, dist.Normal(loc, 1.0), obs=torch.linspace(-1, 2, num, dtype=DOUBLE))


class Sequential:
    """Two plates that know nothing of each other, on one dim."""

    def __init__(self, **sizes):
        self.shapes = {name: (size,) for name, size in sizes.items()}

    def model(self):
        for name, (size,) in self.shapes.items():
            with pyro.plate("plate_" + name, size, dim=-1):
                observe("x_" + name, 3 * bits(name), size)

    def guide(self, t):
        for name, (size,) in self.shapes.items():
            with pyro.plate("plate_" + name, size, dim=-1):
                bits(name, t[name])


class SecondDependsOnFirst:
    """The costs in a second plate depend on the sum of the bits in a first one, on the same dim."""

    def __init__(self, first, second):
        self.shapes = {"z": (first,)}
        self.second = second

    def model(self):
        size = self.shapes["z"][0]
        with pyro.plate("first", size, dim=-1):
            z = bits("z")
        total = (z * torch.arange(1, 1 + size, dtype=DOUBLE)).sum(-1, keepdim=True)
        with pyro.plate("second", self.second, dim=-1):
            observe("x", total, self.second)

    def guide(self, t):
        with pyro.plate("first", self.shapes["z"][0], dim=-1):
            bits("z", t["z"])


class Subsampled:
    """One datum seen of three, beside a plate of four; both scaled, on one dim under a common outer plate."""

    shapes = {"a": (2, 3), "b": (2, 4)}  # noqa: RUF012
    index = torch.tensor([1])

    def model(self):
        with pyro.plate("outer", 2, dim=-2):
            with pyro.plate("data", 3, subsample=self.index, dim=-1):
                observe("x", 2 * bits("a"), 1)
            with pyro.plate("others", 4, dim=-1), poutine.scale(scale=0.5):
                observe("y", bits("b"), 4)

    def guide(self, t):
        with pyro.plate("outer", 2, dim=-2):
            with pyro.plate("data", 3, subsample=self.index, dim=-1):
                bits("a", t["a"][..., self.index])
            with pyro.plate("others", 4, dim=-1), poutine.scale(scale=0.5):
                bits("b", t["b"])


class Crossed:
    """Sites in either of two crossed plates and outside; a cost in both, and one in a third plate on the same dim."""

    shapes = {"a": (2, 1), "b": (3,), "c": ()}  # noqa: RUF012

    def model(self):
        rows, columns = pyro.plate("rows", 2, dim=-2), pyro.plate("columns", 3, dim=-1)
        c = bits("c")
        with rows:
            a = bits("a")
        with columns:
            b = bits("b")
        with rows, columns:
            observe("x", a * b + c, 3)
        with pyro.plate("third", 2, dim=-1):
            observe("y", 2 * c + a.sum(-2, keepdim=True), 2)

    def guide(self, t):
        bits("c", t["c"])
        with pyro.plate("rows", 2, dim=-2):
            bits("a", t["a"])
        with pyro.plate("columns", 3, dim=-1):
            bits("b", t["b"])


CASES = {
    "sequential plates of 1 and 2": Sequential(a=1, b=2),
    "sequential plates of 5 and 1": Sequential(a=5, b=1),
    "sequential plates of 3 and 2": Sequential(a=3, b=2),
    "sequential plates of 2 and 2": Sequential(a=2, b=2),
    "plates of 3 and 3, the second dependent": SecondDependsOnFirst(3, 3),
    "plates of 3 and 4, the second dependent": SecondDependsOnFirst(3, 4),
    "plates of 3 and 1, the second dependent": SecondDependsOnFirst(3, 1),
    "a subsample of one beside a plate of four": Subsampled(),
    "crossed plates": Crossed(),
}


def parameters(case):
    generator = torch.Generator().manual_seed(1)
    return {
        name: torch.randn(shape, dtype=DOUBLE, generator=generator).requires_grad_()
        for name, shape in case.shapes.items()
    }


def exact(case, t):
    """Return the loss and its gradients by enumeration of all bits of all sites."""
    latent = poutine.trace(case.guide).get_trace(t)
    shapes = {name: latent.nodes[name]["value"].shape for name in case.shapes}
    loss = 0.0
    for row in itertools.product((0.0, 1.0), repeat=sum(shape.numel() for shape in shapes.values())):
        pieces = torch.tensor(row, dtype=DOUBLE).split([shape.numel() for shape in shapes.values()])
        values = {name: piece.reshape(shape) for (name, shape), piece in zip(shapes.items(), pieces, strict=True)}
        guide_trace = poutine.trace(Feed(**values)(case.guide)).get_trace(t)
        log_weight = poutine.trace(Feed(**values)(case.model)).get_trace().log_prob_sum() - guide_trace.log_prob_sum()
        log_q = sum(guide_trace.nodes[name]["fn"].log_prob(value).sum() for name, value in values.items())
        loss = loss - log_q.exp() * log_weight
    return loss.detach(), torch.cat([g.flatten() for g in gradients(loss, list(t.values()))])


@pytest.mark.parametrize("name", CASES)
def test_gradients_are_unbiased(name):
    pyro.set_rng_seed(0)
    case = CASES[name]
    t = parameters(case)
    value, truth = exact(case, t)
    copies = 20_000
    leaves = [p.expand(copies, *(1,) * (2 - p.dim()), *p.shape).clone().requires_grad_() for p in t.values()]
    plate = pyro.plate("copies", copies, dim=-3)
    elbo = TraceDisARM_ELBO(max_plate_nesting=3)
    loss = elbo.differentiable_loss(plate(lambda _: case.model()), plate(case.guide), dict(zip(t, leaves, strict=True)))
    samples = torch.cat([g.flatten(1) for g in gradients(loss, leaves)], 1)
    assert max_z(samples, truth) < 4.5
    assert loss.item() / copies == pytest.approx(value.item(), rel=0.02)


def test_a_plate_of_another_size_adds_no_more_than_noise():
    """At even odds and with costs of its own only, each bit's gradient is exact: there is no noise to hide behind."""

    def model():
        with pyro.plate("one", 1, dim=-1):
            pyro.factor("cost_of_one", 3 * bits("a"))
        with pyro.plate("many", 7, dim=-1):
            pyro.factor("cost_of_many", torch.ones(7, dtype=DOUBLE))

    logits = torch.zeros(1, dtype=DOUBLE, requires_grad=True)

    def guide():
        with pyro.plate("one", 1, dim=-1):
            bits("a", logits)

    loss = TraceDisARM_ELBO(max_plate_nesting=1).differentiable_loss(model, guide)
    assert gradients(loss, [logits])[0].item() == pytest.approx(-0.75)
