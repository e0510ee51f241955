"""Small models whose exact gradient ``TraceEnum_ELBO`` knows, for testing estimators against it.

A case has parameters ``theta`` (name -> shape: plate dims of the case, then event dims), the number ``nesting`` of its
plate dims, and ``model`` and ``guide``, both functions of the parameters. ``gradient_samples`` puts the whole case
into one more plate with a copy of the parameters for every element, so that one backward pass gives independent
gradient samples.
"""

import math

import pyro
import torch
from pyro import distributions as dist
from pyro import poutine
from pyro.infer import TraceEnum_ELBO, config_enumerate
from pyro.ops.indexing import Vindex

from pyro_ext.inference._traces import sample_sites
from tests.inference.feeding import Feed, gradients

F64 = torch.float64
ZEROS = torch.zeros(3, dtype=F64)


def fixed(*shape, seed=0):
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


X = fixed(2, seed=100)


def data_plate(**kwargs):
    return pyro.plate("data", 2, dim=-1, **kwargs)


class OneSite:
    """A categorical in a plate of two; its prior and its likelihood have parameters too."""

    nesting = 1
    shapes = {"q": (2, 6), "prior": (1, 6), "loc": (2,)}  # noqa: RUF012

    def model(self, t):
        with data_plate():
            z = pyro.sample("z", dist.Categorical(logits=t["prior"]))
            pyro.sample("x", dist.Normal(t["loc"] * z, 1.5), obs=X)

    def guide(self, t):
        with data_plate():
            pyro.sample("z", dist.Categorical(logits=t["q"]))


class GlobalThenLocal:
    """A global site, and one in a plate whose guide depends on it."""

    nesting = 1
    shapes = {"qa": (1, 3), "qb": (1, 3, 3), "loc": (1, 3, 3)}  # noqa: RUF012
    infer_a = None

    def model(self, t):
        a = pyro.sample("a", dist.Categorical(logits=ZEROS.expand(1, 3)))
        with data_plate():
            b = pyro.sample("b", dist.Categorical(logits=ZEROS))
            pyro.sample("x", dist.Normal(Vindex(t["loc"])[..., a, b], 1.0), obs=X)

    def guide(self, t):
        a = pyro.sample("a", dist.Categorical(logits=t["qa"]), infer=self.infer_a)
        with data_plate():
            pyro.sample("b", dist.Categorical(logits=Vindex(t["qb"])[..., a, :]))


class GlobalEnumerated(GlobalThenLocal):
    """The same, with the global site enumerated by Pyro."""

    infer_a = {"enumerate": "parallel"}  # noqa: RUF012


class MaskedAndScaled(OneSite):
    """Everything scaled by 3.5, one of the two elements masked out."""

    def model(self, t):
        with poutine.scale(scale=3.5), poutine.mask(mask=torch.tensor([True, False])):
            super().model(t)

    def guide(self, t):
        with poutine.scale(scale=3.5), poutine.mask(mask=torch.tensor([True, False])):
            super().guide(t)


class LatentMasked(OneSite):
    """The latent site masked in one element, the observation not."""

    def model(self, t):
        with data_plate():
            with poutine.mask(mask=torch.tensor([True, False])):
                z = pyro.sample("z", dist.Categorical(logits=t["prior"]))
            pyro.sample("x", dist.Normal(t["loc"] * z, 1.5), obs=X)

    def guide(self, t):
        with data_plate(), poutine.mask(mask=torch.tensor([True, False])):
            pyro.sample("z", dist.Categorical(logits=t["q"]))


class Subsampled(OneSite):
    """Two of four elements seen, so that the plate scales by two."""

    def model(self, t):
        with pyro.plate("data", 4, subsample=torch.tensor([1, 3]), dim=-1):
            z = pyro.sample("z", dist.Categorical(logits=t["prior"]))
            pyro.sample("x", dist.Normal(t["loc"] * z, 1.5), obs=X)

    def guide(self, t):
        with pyro.plate("data", 4, subsample=torch.tensor([1, 3]), dim=-1):
            pyro.sample("z", dist.Categorical(logits=t["q"]))


class BetweenNormals:
    """A normal site upstream of the discrete one, another downstream."""

    nesting = 1
    shapes = {"qz": (2,), "qb": (2, 3), "slope": (2, 3), "qy": (2, 3)}  # noqa: RUF012

    def model(self, t):
        with data_plate():
            z = pyro.sample("z", dist.Normal(X.new_zeros(2), 1.0))
            b = pyro.sample("b", dist.Categorical(logits=ZEROS))
            y = pyro.sample("y", dist.Normal(b.to(F64), 1.0))
            pyro.sample("x", dist.Normal(z + y * b, 1.0), obs=X)

    def guide(self, t):
        with data_plate():
            z = pyro.sample("z", dist.Normal(t["qz"], 0.5))
            b = pyro.sample("b", dist.Categorical(logits=t["qb"] + t["slope"] * z.unsqueeze(-1)))
            pyro.sample("y", dist.Normal(Vindex(t["qy"])[..., b], 0.5))


class Joint:
    """Three categoricals as one joint site with a cost that does not factorise."""

    nesting = 0
    shapes = {"q": (3, 3), "table": (3, 3, 3)}  # noqa: RUF012

    def model(self, t):
        z = pyro.sample("z", dist.Categorical(logits=ZEROS.expand(3, 3)).to_event(1))
        loc = Vindex(t["table"])[..., z[..., 0], z[..., 1], z[..., 2]]
        pyro.sample("x", dist.Normal(loc, 1.0), obs=torch.tensor(0.5, dtype=F64))

    def guide(self, t):
        pyro.sample("z", dist.Categorical(logits=t["q"]).to_event(1))


class JointAsOne(Joint):
    """The distribution of ``Joint`` as one categorical of 27 values, which Pyro can enumerate."""

    def model(self, t):
        z = pyro.sample("z", dist.Categorical(logits=torch.zeros(27, dtype=F64)))
        table = t["table"].reshape(*t["table"].shape[:-3], 27)
        pyro.sample("x", dist.Normal(Vindex(table)[..., z], 1.0), obs=torch.tensor(0.5, dtype=F64))

    def guide(self, t):
        q = t["q"].log_softmax(-1)
        joint = q[..., 0, :, None, None] + q[..., 1, None, :, None] + q[..., 2, None, None, :]
        pyro.sample("z", dist.Categorical(logits=joint.flatten(-3)))


class ModelEnumerated:
    """A guide site beside one that Pyro marginalises in the model."""

    nesting = 1
    shapes = {"q": (2, 3), "pc": (1, 3, 2), "loc": (1, 2)}  # noqa: RUF012

    def model(self, t):
        with data_plate():
            z = pyro.sample("z", dist.Categorical(logits=ZEROS))
            c = pyro.sample("c", dist.Categorical(logits=Vindex(t["pc"])[..., z, :]), infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Normal(Vindex(t["loc"])[..., c], 1.0), obs=X)

    def guide(self, t):
        with data_plate():
            pyro.sample("z", dist.Categorical(logits=t["q"]))


class PartlyObserved:
    """``obs_mask``: the guide samples the unobserved half of a site."""

    nesting = 1
    shapes = {"q": (2, 3), "prior": (1, 3), "loc": (2,)}  # noqa: RUF012

    def model(self, t):
        with data_plate():
            y = pyro.sample(
                "y",
                dist.Categorical(logits=t["prior"]),
                obs=torch.tensor([1, 2]),
                obs_mask=torch.tensor([True, False]),
            )
            pyro.sample("x", dist.Normal(t["loc"] * y, 1.5), obs=X)

    def guide(self, t):
        with data_plate():
            pyro.sample("y_unobserved", dist.Categorical(logits=t["q"]))


class NestedPlates:
    """A site in the outer plate, and one inside both plates that depends on it."""

    nesting = 2
    shapes = {"qb": (1, 2, 3), "qc": (3, 2, 3, 2), "loc": (1, 1, 3, 2)}  # noqa: RUF012
    x = fixed(3, 2, seed=101)

    def model(self, t):
        with pyro.plate("outer", 2, dim=-1) as outer:
            b = pyro.sample("b", dist.Categorical(logits=ZEROS))
            with pyro.plate("inner", 3, dim=-2):
                c = pyro.sample("c", dist.Categorical(logits=ZEROS[:2]))
                pyro.sample("x", dist.Normal(Vindex(t["loc"])[..., b, c], 1.0), obs=self.x[:, outer])

    def guide(self, t):
        with pyro.plate("outer", 2, dim=-1):
            b = pyro.sample("b", dist.Categorical(logits=t["qb"]))
            with pyro.plate("inner", 3, dim=-2):
                pyro.sample("c", dist.Categorical(logits=Vindex(t["qc"])[..., b, :]))


class SequentialPlate:
    """A sequential plate of two sites under one global site."""

    nesting = 0
    shapes = {"qa": (3,), "qb": (2, 3), "loc": (3, 3)}  # noqa: RUF012

    def model(self, t):
        a = pyro.sample("a", dist.Categorical(logits=ZEROS))
        for i in pyro.plate("steps", 2):
            b = pyro.sample(f"b{i}", dist.Categorical(logits=ZEROS))
            pyro.sample(f"x{i}", dist.Normal(Vindex(t["loc"])[..., a, b], 1.0), obs=X[i])

    def guide(self, t):
        pyro.sample("a", dist.Categorical(logits=t["qa"]))
        for i in pyro.plate("steps", 2):
            pyro.sample(f"b{i}", dist.Categorical(logits=t["qb"][..., i, :]))


class Chain:
    """A hidden Markov chain of five states; the guide's sites are independent."""

    nesting = 0
    shapes = {"q": (5, 2), "move": (2, 2), "loc": (2,)}  # noqa: RUF012
    x = fixed(5, seed=102)
    dependent = False
    scope = staticmethod(pyro.markov)

    def model(self, t):
        z = torch.zeros((), dtype=torch.long)
        for i in self.scope(range(5)):
            z = pyro.sample(f"z{i}", dist.Categorical(logits=Vindex(t["move"])[..., z, :]))
            pyro.sample(f"x{i}", dist.Normal(Vindex(t["loc"])[..., z], 1.0), obs=self.x[i])

    def guide(self, t):
        z = torch.zeros((), dtype=torch.long)
        for i in self.scope(range(5)):
            logits = t["q"][..., i, :]
            if self.dependent:
                logits = logits + Vindex(t["move"])[..., z, :]
            z = pyro.sample(f"z{i}", dist.Categorical(logits=logits))


class DependentChain(Chain):
    """The same chain; each guide site depends on the one before."""

    dependent = True


class UnscopedChain(Chain):
    """The chain as one joint of 32 values: nothing tells Pyro that its memory is short."""

    scope = staticmethod(list)


class UnscopedDependentChain(DependentChain):
    """The same with a dependent guide."""

    scope = staticmethod(list)


class Plates:
    """Bernoulli sites independent of each other in the guide, in some arrangement of plates.

    ``bound_dims`` are the dims of the plates common to all of them, inside which a multi-sample bound is taken.
    """

    bound_dims = ()

    def bernoulli(self, name, logits):
        return pyro.sample(name, dist.Bernoulli(logits=logits))

    def prior(self, name):
        return pyro.sample(name, dist.Bernoulli(torch.tensor(0.4, dtype=F64)))

    def observe(self, name, loc, x):
        pyro.sample(name, dist.Normal(loc, 0.8), obs=x)


class GlobalInPlates(Plates):
    """One global site under data in a plate."""

    nesting = 1
    shapes = {"qa": (1,), "loc": (1,)}  # noqa: RUF012

    def model(self, t):
        a = self.prior("a")
        with data_plate():
            self.observe("x", t["loc"] * a, X)

    def guide(self, t):
        self.bernoulli("a", t["qa"])


class LocalInPlates(Plates):
    """One site for each datum."""

    nesting = 1
    bound_dims = (-1,)
    shapes = {"qb": (2,), "loc": (1,)}  # noqa: RUF012

    def model(self, t):
        with data_plate():
            b = self.prior("b")
            self.observe("x", t["loc"] * b, X)

    def guide(self, t):
        with data_plate():
            self.bernoulli("b", t["qb"])


class GlobalAndLocalInPlates(Plates):
    """A global site and one for each datum."""

    nesting = 1
    shapes = {"qa": (1,), "qb": (2,), "loc": (1,)}  # noqa: RUF012

    def model(self, t):
        a = self.prior("a")
        with data_plate():
            b = self.prior("b")
            self.observe("x", t["loc"] * b - a * b + a, X)

    def guide(self, t):
        self.bernoulli("a", t["qa"])
        with data_plate():
            self.bernoulli("b", t["qb"])


class NestedInPlates(Plates):
    """A site in an outer plate, another in a plate inside it."""

    nesting = 2
    bound_dims = (-1,)
    shapes = {"qb": (1, 2), "qc": (2, 2), "loc": (1, 1)}  # noqa: RUF012
    x = fixed(2, 2, seed=101)

    def model(self, t):
        with pyro.plate("outer", 2, dim=-1):
            b = self.prior("b")
            with pyro.plate("inner", 2, dim=-2):
                c = self.prior("c")
                self.observe("x", t["loc"] * c - b * c + b, self.x)

    def guide(self, t):
        with pyro.plate("outer", 2, dim=-1):
            self.bernoulli("b", t["qb"])
            with pyro.plate("inner", 2, dim=-2):
                self.bernoulli("c", t["qc"])


class CrossedInPlates(Plates):
    """A site for each row and one for each column of a table."""

    nesting = 2
    shapes = {"qr": (2, 1), "qc": (1, 2), "loc": (1, 1)}  # noqa: RUF012
    x = fixed(2, 2, seed=102)

    def model(self, t):
        rows, columns = pyro.plate("rows", 2, dim=-2), pyro.plate("columns", 2, dim=-1)
        with rows:
            r = self.prior("r")
        with columns:
            c = self.prior("c")
        with rows, columns:
            self.observe("x", t["loc"] * c - 2 * r * c + r, self.x)

    def guide(self, t):
        with pyro.plate("rows", 2, dim=-2):
            self.bernoulli("r", t["qr"])
        with pyro.plate("columns", 2, dim=-1):
            self.bernoulli("c", t["qc"])


class OneAfterTheOtherInPlates(Plates):
    """Two plates in one dim, of the same size, each with sites and data of its own."""

    nesting = 1
    shapes = {"qb": (2,), "qc": (2,), "loc": (1,)}  # noqa: RUF012
    x = fixed(2, seed=103)

    def model(self, t):
        with pyro.plate("first", 2, dim=-1):
            b = self.prior("b")
            self.observe("x", t["loc"] * b, X)
        with pyro.plate("second", 2, dim=-1):
            c = self.prior("c")
            self.observe("y", 2 * c, self.x)

    def guide(self, t):
        with pyro.plate("first", 2, dim=-1):
            self.bernoulli("b", t["qb"])
        with pyro.plate("second", 2, dim=-1):
            self.bernoulli("c", t["qc"])


class LoopedPlate(Plates):
    """A global site and one in each step of a sequential plate, with data in a plate inside it."""

    nesting = 1
    shapes = {"qa": (1,), "qb": (2, 1), "loc": (1,)}  # noqa: RUF012

    def model(self, t):
        a = self.prior("a")
        for i in pyro.plate("steps", 2):
            b = self.prior(f"b{i}")
            with pyro.plate(f"data{i}", 2, dim=-1):
                self.observe(f"x{i}", t["loc"] * b + a * (i - b), X)

    def guide(self, t):
        self.bernoulli("a", t["qa"])
        for i in pyro.plate("steps", 2):
            self.bernoulli(f"b{i}", t["qb"][..., i, :])


PLATES = [
    GlobalInPlates,
    LocalInPlates,
    GlobalAndLocalInPlates,
    NestedInPlates,
    CrossedInPlates,
    OneAfterTheOtherInPlates,
    LoopedPlate,
]


def configurations(case, leaves):
    """Return every joint value of the guide's sites, a list of dictionaries."""
    values = {name: site["value"] for name, site in sample_sites(poutine.trace(case.guide).get_trace(leaves)).items()}
    bits = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=F64)] * sum(v.numel() for v in values.values()))
    bits = bits.reshape(len(bits), -1)
    joint = []
    for row in bits:
        pieces = row.split([v.numel() for v in values.values()])
        joint.append({name: piece.reshape(values[name].shape) for name, piece in zip(values, pieces, strict=True)})
    return joint


def enumerated_gradient(case, num_particles=1):
    """Return the gradient of the expected (multi-sample) loss of a case of ``PLATES``, by a sum over all values.

    The bound of several particles sums over all tuples of joint values.
    """
    leaves = {name: leaf[0].detach().requires_grad_() for name, leaf in parameters(case, 1).items()}
    log_weights, log_probs = [], []
    for values in configurations(case, leaves):
        guide = poutine.trace(Feed(**values)(case.guide)).get_trace(leaves)
        model = poutine.trace(poutine.replay(case.model, trace=guide)).get_trace(leaves)
        log_weight = 0.0
        for trace, sign in ((model, 1.0), (guide, -1.0)):
            trace.compute_log_prob()
            for site in sample_sites(trace).values():
                summed = [d for d in range(-site["log_prob"].dim(), 0) if d not in case.bound_dims]
                log_weight = log_weight + sign * (site["log_prob"].sum(summed) if summed else site["log_prob"])
        log_weights.append(log_weight.reshape(-1))
        log_probs.append(guide.log_prob_sum())
    log_weight, log_prob = torch.stack(log_weights), torch.stack(log_probs)
    tuples = torch.cartesian_prod(*[torch.arange(len(log_prob))] * num_particles).reshape(-1, num_particles)
    bound = log_weight[tuples].logsumexp(1).sum(-1) - log_weight.shape[-1] * math.log(num_particles)
    loss = -(log_prob[tuples].sum(-1).exp() * bound).sum()
    return torch.cat([g.flatten() for g in gradients(loss, list(leaves.values()))])


def parameters(case, copies):
    """Return leaves of shape ``(copies,) + shape`` that all hold the same fixed values."""
    leaves = {}
    for seed, (name, shape) in enumerate(case.shapes.items()):
        leaves[name] = fixed(*shape, seed=seed).expand(copies, *shape).clone().requires_grad_()
    return leaves


def gradient_samples(elbo_type, case, copies, seed=0, **options):
    """Return ``(copies, P)`` gradient samples of a case, all parameters side by side."""
    pyro.set_rng_seed(seed)
    leaves = parameters(case, copies)
    replicates = pyro.plate("replicates", copies, dim=-1 - case.nesting)
    elbo = elbo_type(max_plate_nesting=1 + case.nesting, **options)
    loss = elbo.differentiable_loss(replicates(case.model), replicates(case.guide), leaves)
    return torch.cat([g.flatten(1) for g in gradients(loss, list(leaves.values()))], 1)


def exact_gradient(case, copies=1):
    """Return gradient samples of ``TraceEnum_ELBO``: one is exact where all sites are discrete."""
    enumerated = type(case)()
    enumerated.guide = config_enumerate(case.guide)
    torch.set_default_dtype(F64)  # TraceEnum_ELBO mixes no dtypes, and sites on integers have the default one
    try:
        return gradient_samples(TraceEnum_ELBO, enumerated, copies, seed=1, strict_enumeration_warning=False)
    finally:
        torch.set_default_dtype(torch.float32)
