"""Estimators that run a program once per sample: exact unbiasedness, and programs that do nothing but run."""

import itertools
import re

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO

from pyro_ext.inference import (
    TraceARMS_ELBO,
    TraceDisARM_ELBO,
    TraceDoubleCV_ELBO,
    TraceLeaveOneOut_ELBO,
    TraceSumAndSample_ELBO,
    TraceUnorderedBeam_ELBO,
    TraceUnorderedSet_ELBO,
    TraceVIMCO_ELBO,
)
from tests.inference import gradient_cases as cases
from tests.inference.feeding import Feed, gradients

F64 = torch.float64


def vimco(vectorize):
    return lambda k, **kw: TraceVIMCO_ELBO(k, vectorize_particles=vectorize, **kw)


def runs(k, **kw):
    return TraceLeaveOneOut_ELBO(k, vectorize_samples=False, **kw)


SMALL = [case for case in cases.PLATES if case is not cases.NestedInPlates]


@pytest.mark.filterwarnings("ignore:TraceEnum_ELBO found no sample sites")
@pytest.mark.parametrize("case", SMALL)
@pytest.mark.parametrize(
    ("build", "k", "particles"),
    [
        pytest.param(vimco(True), 2, 2, id="vimco"),
        pytest.param(vimco(False), 2, 2, id="vimco looped"),
        pytest.param(vimco(False), 1, 1, id="vimco of one"),
        pytest.param(runs, 2, 1, id="leave one out"),
        pytest.param(runs, 1, 1, id="one run"),
    ],
)
def test_gradient_averaged_over_all_values_is_exact(case, build, k, particles):
    """The program as a user writes it, in no plate of copies: every tuple of joint values, by its probability."""
    case = case()
    leaves = {name: leaf[0].detach().requires_grad_() for name, leaf in cases.parameters(case, 1).items()}
    joint = cases.configurations(case, leaves)
    log_prob = [poutine.trace(Feed(**values)(case.guide)).get_trace(leaves).log_prob_sum().detach() for values in joint]
    elbo = build(k, max_plate_nesting=case.nesting)
    total = 0.0
    for index in itertools.product(range(len(joint)), repeat=k):
        chosen = [joint[i] for i in index]
        if elbo.vectorize_particles:
            guide = Feed(**{name: stacked([values[name] for values in chosen], case.nesting) for name in joint[0]})(
                case.guide
            )
        else:
            feeds = iter(chosen)
            guide = lambda t, feeds=feeds: Feed(**next(feeds))(case.guide)(t)  # noqa: E731
        loss = elbo.differentiable_loss(case.model, guide, leaves)
        gradient = torch.cat([g.flatten() for g in gradients(loss, list(leaves.values()))])
        total = total + sum(log_prob[i] for i in index).exp() * gradient
    torch.testing.assert_close(total, cases.enumerated_gradient(case, particles), rtol=0, atol=1e-10)


def stacked(values, nesting):
    return torch.stack([v.reshape((1,) * (nesting - v.dim()) + v.shape) for v in values])


@pytest.mark.parametrize("vectorize", [True, False])
def test_reparameterised_sites_get_the_pathwise_gradient(vectorize):
    """A global normal site under data in a plate: particles at fixed noise, the bound written out."""
    noise, x = torch.tensor([0.3, -0.7, 1.1], dtype=F64), torch.tensor([0.9, 0.2, 1.4], dtype=F64)
    loc = torch.tensor(0.2, dtype=F64, requires_grad=True)

    class Fixed(dist.Normal):
        draws = iter(noise)

        def rsample(self, sample_shape=()):
            return self.loc + self.scale * (noise.reshape(self.shape()) if self.batch_shape else next(self.draws))

    def model():
        z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=F64), 1.0))
        with pyro.plate("data", 3):
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide():
        pyro.sample("z", Fixed(loc.expand(3, 1) if vectorize else loc, torch.tensor(0.5, dtype=F64)))

    loss = TraceVIMCO_ELBO(3, max_plate_nesting=1, vectorize_particles=vectorize).differentiable_loss(model, guide)
    z = loc + 0.5 * noise
    log_w = dist.Normal(0.0, 1.0).log_prob(z) + dist.Normal(z[:, None], 1.0).log_prob(x).sum(1)
    bound = (log_w - dist.Normal(loc, 0.5).log_prob(z)).logsumexp(0) - torch.tensor(3.0).log()
    torch.testing.assert_close(loss, -bound.to(F64), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(gradients(loss, [loc]), gradients(-bound, [loc]), rtol=1e-6, atol=1e-6)


X = torch.tensor([0.0, 1.0, 10.0, 11.0, 12.0])


def mixture():
    """Means in one plate, chosen in another by indexing."""
    loc = torch.tensor([0.0, 11.0], requires_grad=True)

    def model():
        with pyro.plate("components", 2):
            means = pyro.sample("means", dist.Normal(0.0, 10.0))
        with pyro.plate("data", 5):
            z = pyro.sample("z", dist.Categorical(torch.ones(2)))
            pyro.sample("x", dist.Normal(means[z], 1.0), obs=X)

    def guide():
        with pyro.plate("components", 2):
            pyro.sample("means", dist.Normal(loc, 1.0))
        with pyro.plate("data", 5):
            pyro.sample("z", dist.Categorical(torch.ones(2)))

    return model, guide, loc


def concatenation():
    """Latent bits beside data, in one tensor of two dims."""
    logits = torch.zeros(5, 1, requires_grad=True)

    def model():
        with pyro.plate("data", 5):
            bits = pyro.sample("bits", dist.Bernoulli(torch.full((5, 1), 0.5)).to_event(1))
            pyro.sample("x", dist.Normal(torch.cat([bits, X[:, None]], 1).sum(1), 1.0), obs=X)

    def guide():
        with pyro.plate("data", 5):
            pyro.sample("bits", dist.Bernoulli(logits=logits).to_event(1))

    return model, guide, logits


def as_many_as_drawn():
    """Attend, infer, repeat: each step draws whether there is another object."""
    logit = torch.zeros((), requires_grad=True)

    def program(present, model):
        count = 0
        while count < 3:
            if not pyro.sample(f"present{count}", dist.Bernoulli(logits=present)).item():
                break
            count += 1
            pyro.sample(f"where{count}", dist.Normal(float(count), 1.0))
        if model:
            pyro.sample("x", dist.Normal(torch.tensor(float(count)), 1.0), obs=torch.tensor(2.0))

    return lambda: program(torch.tensor(0.5), True), lambda: program(logit, False), logit


PROGRAMS = [mixture, concatenation, as_many_as_drawn]


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("elbo", [runs(4), TraceVIMCO_ELBO(4), TraceVIMCO_ELBO(1)], ids=["runs", "vimco", "vimco1"])
def test_any_program_runs(program, elbo):
    pyro.set_rng_seed(0)
    model, guide, parameter = program()
    loss = elbo.differentiable_loss(model, guide)
    assert loss.isfinite()
    assert gradients(loss, [parameter])[0].isfinite().all()


@pytest.mark.parametrize("k", [1, 2, 3])
def test_random_numbers_of_sites_are_unbiased(k):
    """The number of objects is geometric, cut at three: four lengths, averaged over all tuples of them."""
    model, guide, logit = as_many_as_drawn()
    stop, go = (dist.Bernoulli(logits=logit).log_prob(torch.tensor(v)) for v in (0.0, 1.0))
    prior_stop, prior_go = (dist.Bernoulli(logits=torch.tensor(0.5)).log_prob(torch.tensor(v)) for v in (0.0, 1.0))
    log_q, log_w = [], []
    for count in range(4):
        log_q.append(count * go + (stop if count < 3 else 0.0))
        log_p = count * prior_go + (prior_stop if count < 3 else 0.0)
        log_w.append(log_p + dist.Normal(float(count), 1.0).log_prob(torch.tensor(2.0)) - log_q[-1])
    log_q, log_w = torch.stack(log_q), torch.stack(log_w)
    exact = gradients(-(log_q.exp() * log_w).sum(), [logit])[0]
    total = 0.0
    for counts in itertools.product(range(4), repeat=k):
        feeds = iter({f"present{i}": torch.tensor(float(i < count)) for i in range(3)} for count in counts)
        loss = runs(k).differentiable_loss(model, lambda feeds=feeds: Feed(**next(feeds))(guide)())
        total = total + log_q[list(counts)].sum().exp().detach() * gradients(loss, [logit])[0]
    torch.testing.assert_close(total, exact, rtol=1e-4, atol=1e-5)


def test_baseline_takes_a_constant_cost_out():
    pyro.set_rng_seed(0)
    logits = torch.zeros(2_000, requires_grad=True)

    def model():
        with pyro.plate("data", 2_000):
            pyro.sample("z", dist.Bernoulli(torch.tensor(0.3)))
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=torch.tensor(10.0))

    def guide():
        with pyro.plate("data", 2_000):
            pyro.sample("z", dist.Bernoulli(logits=logits))

    variances = [
        gradients(runs(4, baseline=baseline).differentiable_loss(model, guide), [logits])[0].var()
        for baseline in (True, False)
    ]
    assert variances[0] < variances[1] / 100


REMEDY = {
    "vectorised sets": "use vectorize_particles=False and TraceLeaveOneOut_ELBO(vectorize_samples=False), which",
    "sets": "TraceLeaveOneOut_ELBO(vectorize_samples=False), which runs it once per sample",
    "particles": "vectorize_particles=False, which runs it once per particle",
}


@pytest.mark.parametrize(
    ("elbo", "remedy"),
    [
        (TraceUnorderedSet_ELBO(2), "sets"),
        (TraceSumAndSample_ELBO(2), "sets"),
        (TraceLeaveOneOut_ELBO(2), "sets"),
        (TraceUnorderedSet_ELBO(2, vectorize_particles=True, num_particles=3), "vectorised sets"),
        (TraceUnorderedBeam_ELBO(2), "sets"),
        (TraceUnorderedBeam_ELBO(2, vectorize_particles=True, num_particles=3), "sets"),
        (TraceDisARM_ELBO(), "sets"),
        (TraceARMS_ELBO(3), "sets"),
        (TraceDoubleCV_ELBO(2), "sets"),
        (TraceDisARM_ELBO(vectorize_particles=True, num_particles=3), "sets"),
        (TraceVIMCO_ELBO(3, vectorize_particles=True), "particles"),
        (TraceLeaveOneOut_ELBO(2, vectorize_samples=False, vectorize_particles=True, num_particles=3), "particles"),
    ],
    ids=lambda x: type(x).__name__,
)
@pytest.mark.parametrize(("program", "place"), [(concatenation, "the model at or before site 'x'")])
def test_programs_that_do_not_broadcast_are_named(elbo, remedy, program, place):
    model, guide, _ = program()
    with pytest.raises(ValueError, match=re.escape(place)) as caught:
        elbo.loss(model, guide)
    assert REMEDY[remedy] in str(caught.value)
    assert "same number of dimensions" in str(caught.value)
    assert caught.value.__cause__ is not None


def test_control_flow_on_a_set_is_named():
    model, guide, _ = as_many_as_drawn()
    with pytest.raises(
        ValueError, match=r"the guide at or before site '\w+\d' does not broadcast over the sample sets"
    ):
        TraceUnorderedSet_ELBO(2, max_plate_nesting=0).loss(model, guide)


def test_errors_of_the_program_itself_are_left_alone():
    def model():
        pyro.sample("z", dist.Bernoulli(torch.tensor(0.5)))
        raise IndexError("of the program")

    def guide():
        pyro.sample("z", dist.Bernoulli(torch.tensor(0.5)))

    for elbo in (TraceUnorderedSet_ELBO(2, max_plate_nesting=0), TraceVIMCO_ELBO(2, 0, True)):
        with pytest.raises(IndexError, match=r"^of the program$"):
            elbo.loss(model, guide)


def marked(infer):
    def guide():
        pyro.sample("z", dist.Categorical(torch.ones(3)), infer=infer)

    return guide


def categorical_model():
    z = pyro.sample("z", dist.Categorical(torch.ones(3)))
    pyro.sample("x", dist.Normal(z.float(), 1.0), obs=torch.tensor(2.0))


@pytest.mark.parametrize(
    "infer", [{"enumerate": "parallel"}, {"estimator": "exact"}, {"num_samples": 2}, {"estimator": "unordered_set"}]
)
def test_marks_that_runs_cannot_honour_are_refused(infer):
    with pytest.raises(ValueError, match=r"site 'z' is marked infer=.* remove the mark, or use vectorize_samples=True"):
        runs(4).loss(categorical_model, marked(infer))


@pytest.mark.parametrize("infer", [{}, {"estimator": None, "num_samples": None}, {"estimator": "reinforce"}])
def test_marks_that_agree_with_runs(infer):
    assert torch.tensor(runs(4).loss(categorical_model, marked(infer))).isfinite()


def test_analytic_kl_needs_samples_in_one_run():
    with pytest.raises(ValueError, match="analytic_kl=True needs vectorize_samples=True"):
        runs(2, analytic_kl=True)


@pytest.mark.filterwarnings("ignore:Found vars in model but not guide")
def test_runs_do_not_sum_sites_out():
    def model():
        pyro.sample("c", dist.Bernoulli(torch.tensor(0.5)), infer={"enumerate": "parallel"})

    with pytest.raises(NotImplementedError, match=r"model site 'c' .*TraceUnorderedSet_ELBO"):
        runs(2).loss(model, lambda: None)


def test_runs_share_the_subsample():
    """Ten data far apart, one drawn: runs that met different data would have a baseline of thousands."""
    data = torch.arange(10.0) * 100
    logit = torch.zeros((), requires_grad=True)

    def model():
        with pyro.plate("data", 10, subsample_size=1) as index:
            z = pyro.sample("z", dist.Bernoulli(torch.tensor(0.5)))
            pyro.sample("x", dist.Normal(z, 1.0), obs=z.detach() * 0 + data[index])

    def guide():
        with pyro.plate("data", 10, subsample_size=1):
            pyro.sample("z", dist.Bernoulli(logits=logit))

    pyro.set_rng_seed(0)
    elbo = runs(4)
    gradient = gradients(elbo.differentiable_loss(model, guide), [logit])[0]
    assert gradient.abs() < 10_000


def test_one_run_is_trace_elbo_without_auxiliary_sites():
    case, results = cases.GlobalAndLocalInPlates(), []
    leaves = {name: leaf[0].detach().requires_grad_() for name, leaf in cases.parameters(case, 1).items()}
    for elbo in (runs(1), Trace_ELBO()):
        pyro.set_rng_seed(2)
        results.append(gradients(elbo.differentiable_loss(case.model, case.guide, leaves), list(leaves.values())))
    torch.testing.assert_close(*results)
