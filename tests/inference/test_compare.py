import itertools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import RenyiELBO, Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule

from pyro_ext.inference import (
    TraceDisARM_ELBO,
    TraceLeaveOneOut_ELBO,
    TraceSumAndSample_ELBO,
    TraceUnorderedSet_ELBO,
    TraceVIMCO_ELBO,
)
from pyro_ext.inference.compare import ExactELBO, Moments, Subject, compare_gradients, refusal
from pyro_ext.inference.sample_sets.weights import unordered_set_weights
from pyro_ext.ops.sets import set_log_prob

LOGITS = [0.3, -0.5, 1.0, 0.0]
X = torch.tensor(1.7)


class Model(PyroModule):
    """One of four locations, which are parameters."""

    def __init__(self):
        super().__init__()
        self.loc = torch.nn.Parameter(torch.arange(4.0))

    def forward(self):
        z = pyro.sample("z", dist.Categorical(torch.ones(4)))
        pyro.sample("x", dist.Normal(self.loc[z], 1.0), obs=X)


class Guide(PyroModule):
    def __init__(self):
        super().__init__()
        self.logits = torch.nn.Parameter(torch.tensor(LOGITS))

    def forward(self):
        pyro.sample("z", dist.Categorical(logits=self.logits))


def subject(size=1.0):
    return Subject(Model(), Guide(), (), size)


def exact_variances(k):
    """Return the total variances of the unordered-set estimator by going through all sets: encoder, decoder."""
    logits = torch.tensor(LOGITS, dtype=torch.float64)
    loc = torch.arange(4.0, dtype=torch.float64)
    log_q = logits.log_softmax(0)
    cost = -(math.log(0.25) + dist.Normal(loc, 1.0).log_prob(X.double()) - log_q)
    scores = torch.eye(4, dtype=torch.float64) - log_q.exp()
    pathwise = torch.diag(loc - X)
    sets = torch.tensor(list(itertools.combinations(range(4), k)))
    outside = torch.ones(len(sets), 4, dtype=torch.bool).scatter(-1, sets, False)
    log_rest = log_q.expand(len(sets), 4).masked_fill(~outside, -math.inf).logsumexp(-1)
    weights = unordered_set_weights(log_q[sets], log_rest)
    weighted = weights.log_weight.exp() * cost[sets]
    coefficients = weighted - (weights.baseline * weighted.unsqueeze(-1)).sum(-2)
    probability = set_log_prob(log_q[sets], log_rest).exp()
    assert probability.sum().item() == pytest.approx(1.0)

    def total(gradients):
        mean = probability @ gradients
        return (probability @ (gradients - mean).square()).sum().item()

    encoder = (coefficients.unsqueeze(-1) * scores[sets]).sum(-2)
    decoder = (weights.log_weight.exp().unsqueeze(-1) * pathwise[sets]).sum(-2)
    return {"encoder": total(encoder), "decoder": total(decoder)}


def test_moments_are_those_of_all_vectors_together():
    vectors = 1e4 + torch.randn(50, 7)
    one, other = Moments(7, vectors.device), Moments(7, vectors.device)
    other.merge(Moments(7, vectors.device))
    for vector in vectors[:13]:
        one.add(vector)
    for vector in vectors[13:]:
        other.add(vector)
    one.merge(other)
    assert one.count == 50
    torch.testing.assert_close(one.mean, vectors.double().mean(0))
    torch.testing.assert_close(one.variance, vectors.double().var(0))


@pytest.mark.parametrize("k", [2, 3])
def test_variance_equals_that_over_all_sets(k):
    figures = compare_gradients({"it": TraceUnorderedSet_ELBO(k)}, subject(), repeats=200, seed=1)["it"]
    for name, variance in exact_variances(k).items():
        # ten rounds give the standard error: four of them, and a little for its own scatter
        assert abs(figures.log_variance[name] - math.log(variance)) < 6 * figures.log_variance_error[name]
        assert figures.log_variance_error[name] < 0.25


def test_loss_is_divided_by_the_size():
    elbos = {"it": TraceLeaveOneOut_ELBO(2)}
    whole, share = (compare_gradients(elbos, subject(size), repeats=20)["it"] for size in (1.0, 10.0))
    for name, log_variance in whole.log_variance.items():
        assert share.log_variance[name] == pytest.approx(log_variance - 2 * math.log(10.0), abs=1e-4)


def test_a_set_that_covers_the_domain_is_exact():
    figures = compare_gradients({"it": TraceUnorderedSet_ELBO(4)}, subject(), reference=ExactELBO(), repeats=10)["it"]
    assert figures.log_variance == {"encoder": -math.inf, "decoder": -math.inf}
    assert figures.log_variance_error == {"encoder": 0.0, "decoder": 0.0}
    assert figures.bias_z < 1


def test_only_the_biased_estimators_stand_out():
    class Shrunk(TraceLeaveOneOut_ELBO):
        def differentiable_loss(self, *args, **kwargs):
            return 0.5 * super().differentiable_loss(*args, **kwargs)

    elbos = {
        "Trace": Trace_ELBO(num_particles=4, vectorize_particles=True),
        "leave one out": TraceLeaveOneOut_ELBO(4),
        "sum and sample": TraceSumAndSample_ELBO(3),
        "unordered": TraceUnorderedSet_ELBO(3),
        "another bound": TraceVIMCO_ELBO(4),
        "shrunk": Shrunk(4),
    }
    # over 18 directions, an unbiased estimator exceeds 4 less than once in 500 times
    result = compare_gradients(elbos, subject(), reference=ExactELBO(), repeats=100)
    assert {name for name, figures in result.items() if figures.bias_z > 4} == {"another bound", "shrunk"}


def test_reference_is_averaged_where_a_site_is_reparameterised():
    class Mixed(Guide):
        def forward(self):
            super().forward()
            pyro.sample("u", dist.Normal(self.logits[0], 1.0))

    class MixedModel(Model):
        def forward(self):
            super().forward()
            pyro.sample("u", dist.Normal(self.loc[0], 2.0))

    class Half(ExactELBO):
        def differentiable_loss(self, *args, **kwargs):
            return 0.2 * super().differentiable_loss(*args, **kwargs)

    both = Subject(MixedModel(), Mixed(), ())
    elbos = {"unordered": TraceUnorderedSet_ELBO(2), "half": Half()}
    result = compare_gradients(elbos, both, reference=ExactELBO(), repeats=60)
    assert 0.1 < result["unordered"].bias_z < 4
    assert result["half"].bias_z > 4


def test_figures_do_not_depend_on_which_other_estimators_are_compared():
    wanted = {"it": TraceLeaveOneOut_ELBO(3)}
    alone = compare_gradients(wanted, subject(), repeats=20, seed=3)["it"]
    among = compare_gradients({"first": TraceUnorderedSet_ELBO(2), **wanted}, subject(), repeats=20, seed=3)["it"]
    assert alone.log_variance == among.log_variance
    other = compare_gradients(wanted, subject(), repeats=20, seed=4)["it"]
    assert other.log_variance != alone.log_variance
    assert alone.bias_z is None


def test_nothing_is_left_behind():
    one = subject()
    before = torch.get_rng_state()
    calls = []
    compare_gradients({"it": TraceUnorderedSet_ELBO(2)}, one, repeats=25, advance=calls.append)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(parameter.grad is None for parameter in one.parameters)
    assert len(pyro.get_param_store()) == 0
    assert sum(calls) == 25
    assert len(calls) == 10


def test_lazy_guide_and_model_without_parameters():
    def model(x):
        loc = pyro.sample("loc", dist.Normal(x.new_zeros(3), 10.0).to_event(1))
        pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    lazy = Subject(model, AutoNormal(model), (torch.ones(3),))
    assert lazy.sizes() == {"encoder": 6}
    figures = compare_gradients({"it": Trace_ELBO()}, lazy, repeats=4)["it"]
    assert math.isfinite(figures.log_variance["encoder"])
    assert figures.milliseconds > 0


def test_unused_parameters_have_a_gradient_of_zero():
    class Idle(Model):
        def __init__(self):
            super().__init__()
            self.idle = torch.nn.Parameter(torch.zeros(2))

    gradient, _ = Subject(Idle(), Guide(), ()).gradient(TraceLeaveOneOut_ELBO(2))
    assert gradient["decoder"].shape == (6,)
    assert gradient["decoder"][4:].tolist() == [0.0, 0.0] or gradient["decoder"][:2].tolist() == [0.0, 0.0]


def test_exact_elbo_overrules_marks():
    def marked():
        pyro.sample("z", dist.Categorical(torch.ones(4)), infer={"estimator": "leave_one_out", "num_samples": 2})

    def model():
        pyro.sample("z", dist.Categorical(torch.tensor([0.1, 0.2, 0.3, 0.4])))

    wanted = -(torch.tensor([0.1, 0.2, 0.3, 0.4]).log() - math.log(0.25)).mean().item()
    assert ExactELBO().loss(model, marked) == pytest.approx(wanted)
    with pytest.raises(ValueError, match="max_leaves=3"):
        ExactELBO(max_leaves=3).loss(model, marked)


def test_refusals_in_one_line():
    one = subject()
    assert refusal(TraceUnorderedSet_ELBO(2), one) is None
    assert refusal(TraceDisARM_ELBO(), one).startswith("guide site 'z' is a Categorical: TraceDisARM_ELBO takes")
    assert refusal(RenyiELBO(), one).startswith("elbo=RenyiELBO has no differentiable_loss")

    class Broken(Trace_ELBO):
        def differentiable_loss(self, *args, **kwargs):
            raise KeyError("there\nis more")

    assert refusal(Broken(), one) == "KeyError: 'there\\nis more'"


def test_bad_input():
    with pytest.raises(ValueError, match="repeats must be an integer of at least 4, got 3"):
        compare_gradients({}, subject(), repeats=3)
    with pytest.raises(ValueError, match="hold no parameters to train"):
        Subject(lambda: None, lambda: None, ())
