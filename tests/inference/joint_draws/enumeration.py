"""Exact means of estimators that evaluate n joint draws: a sum over all joint values of the draws.

A case is like those of ``gradient_cases.Plates``: ``shapes``, ``nesting``, ``model`` and ``guide``, with Bernoulli and
one-hot sites. All configurations lie side by side in one more plate, so one backward pass gives the estimate at each.
"""

import itertools
import math

import pyro
import torch
from pyro import poutine

from pyro_ext.distributions.structure import unwrap, with_base
from pyro_ext.inference._traces import sample_sites
from tests.inference.feeding import Feed, gradients
from tests.inference.gradient_cases import F64, parameters

BLOCK = 2**15


def together(q, num_samples, members):
    """Return the probability that ``members`` of n antithetic draws are all the rarer value, of probability ``q``.

    A draw is that where its entry of a uniform point of the simplex exceeds t; m entries all do with probability
    max(1 - m t, 0)^(n - 1).
    """
    t = 1 - q ** (1 / (num_samples - 1))
    return max(1 - members * t, 0.0) ** (num_samples - 1)


def antithetic_probability(bits, p):
    """Return the probability of the joint value ``bits`` of antithetic draws, by inclusion and exclusion."""
    rare = sum(bits) if p < 0.5 else len(bits) - sum(bits)
    others, q = len(bits) - rare, min(p, 1 - p)
    return sum((-1) ** m * math.comb(others, m) * together(q, len(bits), rare + m) for m in range(others + 1))


class Enumeration:
    """All joint values of the discrete sites of a case."""

    def __init__(self, case):
        self.case = case
        trace = poutine.trace(self._plate(1)(case.guide)).get_trace(parameters(case, 1))
        self.sites = {n: s["fn"] for n, s in sample_sites(trace).items() if not s["fn"].has_rsample}
        self.states, self.shapes = {}, {}
        for name, fn in self.sites.items():
            base, num_event_dims = unwrap(fn)
            self.states[name] = base.enumerate_support(expand=False).reshape(-1, *base.event_shape)
            self.shapes[name] = fn.batch_shape[1:] + fn.event_shape[:num_event_dims]

    def _plate(self, size):
        return pyro.plate("configurations", size, dim=-1 - self.case.nesting)

    def _values(self, num_samples):
        """Yield blocks of values, ``(n, configurations) + plate dims + event shape``, and the index of each element."""
        sizes = [len(self.states[name]) ** num_samples for name in self.sites for _ in range(self.shapes[name].numel())]
        for start in range(0, math.prod(sizes), BLOCK):
            rest, index = torch.arange(start, min(start + BLOCK, math.prod(sizes))), []
            for size in sizes:
                index.append(rest % size)
                rest = torch.div(rest, size, rounding_mode="floor")
            values, elements = {}, iter(index)
            for name, states in self.states.items():
                table = torch.tensor([*itertools.product(range(len(states)), repeat=num_samples)])
                columns = [table[next(elements)] for _ in range(self.shapes[name].numel())]
                chosen = states[torch.stack(columns, -1).transpose(0, 1)]
                values[name] = chosen.reshape(*chosen.shape[:2], *self.shapes[name], *states.shape[1:])
            yield values, index

    def _guide_trace(self, values, leaves, number):
        return poutine.trace(self._plate(number)(Feed(**values)(self.case.guide))).get_trace(leaves)

    def _log_q(self, guide, num_leading):
        """Return log q of the discrete sites as they are drawn, summed over all but the leading dims."""
        total = 0.0
        for name in self.sites:
            fn, value = guide.nodes[name]["fn"], guide.nodes[name]["value"]
            log_prob = with_base(fn, unwrap(fn).base, masked=False).log_prob(value)
            total = total + log_prob.reshape(*log_prob.shape[:num_leading], -1).sum(-1)
        return total

    def exact(self):
        """Return the gradient of the expected loss."""
        leaves, loss = parameters(self.case, 1), 0.0
        for values, _ in self._values(1):
            values = {name: value[0] for name, value in values.items()}
            number = len(next(iter(values.values())))
            shared = {name: leaf.expand(number, *leaf.shape[1:]) for name, leaf in leaves.items()}
            guide = self._guide_trace(values, shared, number)
            model = poutine.trace(poutine.replay(self._plate(number)(self.case.model), trace=guide)).get_trace(shared)
            log_weight = 0.0
            for trace, sign in ((model, 1.0), (guide, -1.0)):
                trace.compute_log_prob()
                for site in sample_sites(trace).values():
                    shape = torch.broadcast_shapes(site["log_prob"].shape, (number, *[1] * self.case.nesting))
                    log_weight = log_weight + sign * site["log_prob"].expand(shape).reshape(number, -1).sum(1)
            loss = loss - (self._log_q(guide, 1).exp() * log_weight).sum()
        return torch.cat([g.flatten() for g in gradients(loss, list(leaves.values()))])

    def mean(self, elbo, antithetic=False):
        """Return the mean gradient over all joint draws, and the sum of their probabilities."""
        rows = [*itertools.product((0, 1), repeat=elbo.num_samples)]
        probs = [
            torch.tensor([antithetic_probability(row, float(p)) for row in rows], dtype=F64)
            for fn in self.sites.values()
            for p in (unwrap(fn).base.probs.detach().flatten() if antithetic else ())
        ]
        mean, mass = 0.0, 0.0
        for values, index in self._values(elbo.num_samples):
            number = len(index[0])
            leaves = parameters(self.case, number)
            guide = Feed(**values)(self.case.guide)
            loss = elbo.differentiable_loss(self._plate(number)(self.case.model), self._plate(number)(guide), leaves)
            samples = torch.cat([g.flatten(1) for g in gradients(loss, list(leaves.values()))], 1)
            if antithetic:
                prob = torch.stack([table[i] for table, i in zip(probs, index, strict=True)]).prod(0)
            else:
                with torch.no_grad():
                    prob = self._log_q(self._guide_trace(values, leaves, number), 2).sum(0).exp()
            mean, mass = mean + (prob[:, None] * samples).sum(0), mass + prob.sum().item()
        return mean, mass
