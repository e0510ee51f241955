"""Models whose evidence is known in closed form."""

import math

import pyro
import pyro.distributions as dist
import torch

X = torch.tensor([0.31, 1.22, 0.55, 0.84, 0.12, 0.47], dtype=torch.float64)
COUNTS = torch.tensor([3.0, 1.0, 4.0, 2.0, 0.0], dtype=torch.float64)
LOGS = torch.tensor([0.4, -0.3, 0.9], dtype=torch.float64)
SHAPE, RATE = 3.0, 2.0


def gamma_evidence(shape, rate, count, total):
    return (
        shape * math.log(rate)
        - math.lgamma(shape)
        + math.lgamma(shape + count)
        - (shape + count) * math.log(rate + total)
    )


class Toy:
    """A model without arguments, and the logarithm of its evidence."""

    def __init__(self, model, exact, dtype=torch.float64):
        self.model, self.exact, self.dtype = model, float(exact), dtype

    def __call__(self):
        return self.model()


def gamma_exponential(x=X, shape=SHAPE, rate=RATE):
    shape, rate = torch.tensor(shape).to(x), torch.tensor(rate).to(x)

    def model():
        r = pyro.sample("rate", dist.Gamma(shape, rate))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Exponential(r), obs=x)

    return Toy(model, gamma_evidence(shape.item(), rate.item(), len(x), x.sum().item()))


def gamma_poisson(shape=SHAPE, rate=RATE):
    def model():
        r = pyro.sample("rate", dist.Gamma(COUNTS.new_tensor(shape), COUNTS.new_tensor(rate)))
        with pyro.plate("data", len(COUNTS)):
            pyro.sample("x", dist.Poisson(r), obs=COUNTS)

    n, total = len(COUNTS), COUNTS.sum().item()
    return Toy(model, gamma_evidence(shape, rate, total, n) - torch.lgamma(COUNTS + 1).sum())


def copies(d=4):
    """Gamma-Exponential models side by side, each with its own data."""
    x = X[:, None] * torch.linspace(0.5, 2.0, d, dtype=X.dtype)

    def model():
        with pyro.plate("copies", d, dim=-1):
            r = pyro.sample("rate", dist.Gamma(X.new_tensor(SHAPE), X.new_tensor(RATE)))
            with pyro.plate("data", len(x), dim=-2):
                pyro.sample("x", dist.Exponential(r), obs=x)

    return Toy(model, sum(gamma_evidence(SHAPE, RATE, len(x), s) for s in x.sum(0).tolist()))


def lognormal_normal():
    """A normal model of the logarithm: the posterior is lognormal, and normal in the unconstrained coordinate."""
    loc, scale, noise = 0.2, 0.8, 0.5

    def model():
        x = pyro.sample("x", dist.LogNormal(LOGS.new_tensor(loc), LOGS.new_tensor(scale)))
        with pyro.plate("data", len(LOGS)):
            pyro.sample("y", dist.Normal(x.log(), noise), obs=LOGS)

    covariance = scale**2 * torch.ones(3, 3).double() + noise**2 * torch.eye(3).double()
    marginal = torch.distributions.MultivariateNormal(torch.full((3,), loc).double(), covariance)
    return Toy(model, marginal.log_prob(LOGS))


def two_taxa(same=20, different=6):
    """The distance of two sequences under JC69 and an Exp(10) prior.

    With u = exp(-4 t / 3) the evidence is 7.5 / 16^n int u^6.5 (1 + 3 u)^same (1 - u)^different du.
    """
    ten = torch.tensor(10.0, dtype=torch.float64)

    def model():
        t = pyro.sample("t", dist.Exponential(ten))
        u = (-4 * t / 3).exp()
        log_likelihood = same * torch.log1p(3 * u) + different * torch.log1p(-u)
        pyro.factor("D", log_likelihood - (same + different) * math.log(16))

    beta = [
        math.log(math.comb(same, j)) + j * math.log(3)
        + math.lgamma(j + 7.5) + math.lgamma(different + 1) - math.lgamma(j + 8.5 + different)
        for j in range(same + 1)
    ]  # fmt: skip
    sum_log = torch.tensor(beta, dtype=torch.float64).logsumexp(0).item()
    return Toy(model, math.log(7.5) - (same + different) * math.log(16) + sum_log)


def beta_prime():
    """A posterior proportional to a beta prime density: prior BetaPrime(2, 2), likelihood x / (1 + x)^4 up to scale."""

    def model():
        prior = dist.TransformedDistribution(dist.Beta(X.new_tensor(2.0), X.new_tensor(2.0)), [OddsTransform()])
        x = pyro.sample("x", prior)
        pyro.factor("D", x.log() - 4 * torch.log1p(x))

    def log_beta(a, b):
        return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)

    return Toy(model, log_beta(3.0, 5.0) - log_beta(2.0, 2.0))


class OddsTransform(torch.distributions.Transform):
    """x = p / (1 - p), from the unit interval to the positive axis."""

    domain = torch.distributions.constraints.unit_interval
    codomain = torch.distributions.constraints.positive
    bijective = True
    sign = 1

    def __eq__(self, other):
        return isinstance(other, OddsTransform)

    __hash__ = None

    def _call(self, p):
        return p / (1 - p)

    def _inverse(self, x):
        return x / (1 + x)

    def log_abs_det_jacobian(self, p, x):
        return -2 * torch.log1p(-p)


def regression(n=25, d=3):
    """Linear regression on correlated columns."""
    generator = torch.Generator().manual_seed(3)
    features = torch.randn(n, d, generator=generator, dtype=torch.float64)
    features = features + features[:, :1]
    y = features @ torch.tensor([1.0, -0.5, 0.3], dtype=torch.float64)
    y = y + 0.5 * torch.randn(n, generator=generator, dtype=torch.float64)

    def model():
        weights = pyro.sample("weights", dist.Normal(y.new_zeros(d), 1.0).to_event(1))
        with pyro.plate("data", n):
            pyro.sample("y", dist.Normal((weights * features).sum(-1), 0.5), obs=y)

    covariance = features @ features.T + 0.25 * torch.eye(n).double()
    return Toy(model, torch.distributions.MultivariateNormal(torch.zeros(n).double(), covariance).log_prob(y))


TOYS = {
    "gamma_exponential": gamma_exponential,
    "gamma_poisson": gamma_poisson,
    "copies": copies,
    "lognormal_normal": lognormal_normal,
    "two_taxa": two_taxa,
    "regression": regression,
}
