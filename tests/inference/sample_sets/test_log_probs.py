"""Log-probabilities of drawn values: those of Pyro, and errors where a model does not know a value."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_ext.inference import TraceLeaveOneOut_ELBO, TraceUnorderedSet_ELBO
from pyro_ext.inference.sample_sets.log_probs import compute_log_probs, sample_one_hot

LOGITS = torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(0))


def site(fn, value, marks=()):
    infer = dict.fromkeys(marks, True)
    return {"type": "sample", "fn": fn, "value": value, "infer": infer, "args": (), "kwargs": {}} | {
        "is_observed": False,
        "scale": 2.0,
        "mask": None,
        "name": "z",
    }


def both(fn, prior, value):
    traces = [pyro.poutine.Trace() for _ in range(2)]
    for trace, distribution in zip(traces, (prior, fn), strict=True):
        trace.add_node("z", **site(distribution, value, ["drawn"]))
    compute_log_probs(*traces, "drawn")
    assert [trace.nodes["z"]["fn"] for trace in traces] == [prior, fn]
    return [trace.nodes["z"] for trace in traces]


@pytest.mark.parametrize("left", [(), (5,), (5, 4)], ids=str)
@pytest.mark.parametrize("kind", ["one-hot", "categorical", "bernoulli"])
def test_they_are_those_of_pyro(kind, left, dtype):
    logits = LOGITS.to(dtype, copy=True).requires_grad_()
    make = {
        "one-hot": lambda x: dist.OneHotCategorical(logits=x),
        "categorical": lambda x: dist.Categorical(logits=x),
        "bernoulli": lambda x: dist.Bernoulli(logits=x[..., 0]),
    }[kind]
    fn, prior = make(logits).to_event(1), make(torch.zeros_like(logits)).to_event(1)
    value = fn.sample(left)
    model, guide = both(fn, prior, value)
    torch.testing.assert_close(model["log_prob"], 2 * prior.log_prob(value))
    torch.testing.assert_close(guide["log_prob"], 2 * fn.log_prob(value))
    assert guide["score_parts"].score_function is not None
    weights = torch.randn(guide["log_prob"].shape, dtype=dtype)
    terms = guide["log_prob"], 2 * fn.log_prob(value)
    ours, theirs = (torch.autograd.grad((term * weights).sum(), logits, retain_graph=True) for term in terms)
    torch.testing.assert_close(ours, theirs)


def test_logits_without_plate_dims_broadcast():
    fn = dist.OneHotCategorical(logits=LOGITS[0, 0])
    value = fn.sample((6, 3))
    _, guide = both(fn, fn, value)
    torch.testing.assert_close(guide["log_prob"], 2 * fn.log_prob(value))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_many_categories_are_told_apart_in_every_type(dtype):
    """bfloat16 has no 257, and products of matrices may round to it too."""
    fn = dist.OneHotCategorical(logits=torch.linspace(0, 1, 3000).to(dtype))
    value = torch.nn.functional.one_hot(torch.arange(3000), 3000).to(dtype)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        _, guide = both(fn, fn, value)
    finally:
        torch.set_float32_matmul_precision(before)
    assert torch.equal(guide["unscaled_log_prob"], fn.log_prob(value))


def test_values_of_probability_zero_have_minus_infinity():
    fn = dist.OneHotCategorical(logits=torch.tensor([0.0, -math.inf]))
    _, guide = both(fn, fn, torch.eye(2))
    assert guide["unscaled_log_prob"].tolist() == [0.0, -math.inf]


def test_one_hot_draws_use_the_random_numbers_of_pyro():
    fn = dist.OneHotCategorical(logits=LOGITS).to_event(1)
    pyro.set_rng_seed(3)
    ours = sample_one_hot(fn, 5)
    pyro.set_rng_seed(3)
    assert torch.equal(ours, fn.sample((5,)))
    assert sample_one_hot(dist.Categorical(logits=LOGITS), 5) is None


@pytest.mark.parametrize("elbo", [TraceLeaveOneOut_ELBO(4), TraceUnorderedSet_ELBO(4)], ids=lambda e: type(e).__name__)
@pytest.mark.parametrize(
    ("of_model", "of_guide"),
    [
        (dist.Categorical(torch.ones(2)), dist.Categorical(torch.tensor([0.1, 0.1, 9.0]))),
        (dist.OneHotCategorical(torch.ones(2)), dist.OneHotCategorical(torch.tensor([0.1, 0.1, 9.0]))),
        (dist.Bernoulli(0.5), dist.Categorical(torch.tensor([0.1, 0.1, 9.0]))),
    ],
    ids=["categorical", "one-hot", "bernoulli"],
)
def test_values_that_the_model_does_not_know_are_refused(elbo, of_model, of_guide):
    with pytest.raises(ValueError, match="z"):
        elbo.loss(lambda: pyro.sample("z", of_model), lambda: pyro.sample("z", of_guide))
