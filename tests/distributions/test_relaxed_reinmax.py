"""ReinMax: its derivative in closed form and in the published one, its bias, and the mean of its control variate."""

import math

import pytest
import torch

from pyro_ext.distributions import OneHotCategoricalReinMax
from pyro_ext.ops.relaxed import conditional_perturbed_logits

F64 = torch.float64
LOGITS = torch.tensor([0.5, -1.0, 2.0, 0.0], dtype=F64)
WEIGHT = torch.tensor([0.3, -2.0, 1.1, 0.7], dtype=F64)


def drawn(num=200, seed=0, logits=LOGITS, **options):
    """Return one-hot draws and, for each of them, the gradient of its product with ``WEIGHT``."""
    torch.manual_seed(seed)
    leaf = logits.expand(num, -1).clone().requires_grad_()
    x = OneHotCategoricalReinMax(logits=leaf, **options).rsample()
    return x.detach(), torch.autograd.grad((x * WEIGHT.to(x)).sum(), leaf)[0]


def softmax_jacobian(p):
    return torch.diag_embed(p) - p.unsqueeze(-1) * p.unsqueeze(-2)


def test_closed_form():
    x, gradient = drawn()
    p = LOGITS.softmax(-1)
    expected = softmax_jacobian(p) @ WEIGHT / 2 + (x - p) * ((x - p) @ WEIGHT).unsqueeze(-1) / 2
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 1.3])
def test_published_form(temperature):
    """Algorithm 2: a softmax that is moved to the mean of the draw and the probabilities, less half of its start."""
    x, gradient = drawn(temperature=temperature)
    logits = LOGITS.expand(200, -1).clone().requires_grad_()
    middle = ((x + (logits / temperature).softmax(-1)) / 2).detach()
    moved = ((middle.log() - logits).detach() + logits).softmax(-1)
    surrogate = 2 * moved - logits.softmax(-1) / 2
    expected = torch.autograd.grad((surrogate * WEIGHT).sum(), logits)[0]
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("power", "unbiased"), [(1, True), (2, True), (3, False)])
def test_exact_mean_for_polynomials(power, unbiased):
    """Summed over all draws, it is the gradient of an expected quadratic, and not of a cubic: it is biased."""
    logits = LOGITS.clone().requires_grad_()
    p = logits.softmax(-1)
    values = torch.eye(4, dtype=F64)
    truth = torch.autograd.grad((p * (values @ WEIGHT) ** power).sum(), logits)[0]
    hard = values.clone().requires_grad_()
    (slope,) = torch.autograd.grad(((hard @ WEIGHT) ** power).sum(), hard)
    d = values - p.detach()
    estimates = slope @ softmax_jacobian(p.detach()) / 2 + d * (d * slope).sum(-1, keepdim=True) / 2
    mean = p.detach() @ estimates
    assert ((mean - truth).abs().max() < 1e-12) == unbiased


def test_variants_agree_in_the_limits():
    """Without weight the control variate is gone; at a high temperature the Rao-Blackwellised derivative is small."""
    torch.testing.assert_close(drawn(variant="cv", eta=0.0), drawn(), rtol=0, atol=1e-12)
    _, gradient = drawn(variant="rao", temperature=1e4)
    p = LOGITS.softmax(-1)
    torch.testing.assert_close(gradient, (-softmax_jacobian(p) @ WEIGHT / 2).expand(200, 4), rtol=0, atol=1e-3)


def differences(num, published, temperature=0.5):
    """Return draws of the control variate times a slope that depends on the draw."""
    torch.manual_seed(3)
    logits = LOGITS.log_softmax(-1)
    scores = logits - torch.empty(num, 4, dtype=F64).exponential_().log()
    hard = torch.nn.functional.one_hot(scores.argmax(-1), 4).to(F64)
    log_pi = ((hard + logits.exp()) / 2).log()
    if published:
        inner = conditional_perturbed_logits(log_pi, hard, 1)[0]
    else:
        inner = conditional_perturbed_logits(logits, hard, 1)[0] + log_pi - logits
    slope = WEIGHT + (hard @ WEIGHT).unsqueeze(-1) * torch.arange(4)
    jacobians = [softmax_jacobian((s / temperature).softmax(-1)) for s in (scores + log_pi - logits, inner)]
    return torch.einsum("...ij,...j->...i", jacobians[0] - jacobians[1], slope)


def z(samples):
    return (samples.mean(0) / (samples.std(0) / math.sqrt(len(samples)))).abs().max().item()


def test_the_control_variate_has_mean_zero_and_the_published_one_has_not():
    """In 400,000 draws: within 3 standard errors in each of four coordinates, and dozens of them away."""
    assert z(differences(400_000, published=False)) < 3
    assert z(differences(400_000, published=True)) > 30


def test_the_variant_uses_that_control_variate():
    """The mean of "cv" is that of "plain", in 400,000 draws, within 3 standard errors."""
    with_cv, gradient = drawn(400_000, variant="cv", num_inner=1, temperature=0.5)
    p = LOGITS.softmax(-1)
    plain = softmax_jacobian(p) @ WEIGHT / 2 + (with_cv - p) * ((with_cv - p) @ WEIGHT).unsqueeze(-1) / 2
    difference = gradient - plain
    assert difference.std() > 0.1
    assert z(difference) < 3


def test_rao_keeps_the_mean_of_its_inner_draws():
    """More inner draws change the variance and not the mean: |z| < 4.5 in four coordinates."""
    few, many = (drawn(100_000, seed, variant="rao", num_inner=n, temperature=0.5)[1] for seed, n in ((1, 1), (2, 8)))
    error = ((few.var(0) + many.var(0)) / 100_000).sqrt()
    assert ((few.mean(0) - many.mean(0)).abs() < 4.5 * error).all()
    assert (many.var(0) < few.var(0)).all()


@pytest.mark.parametrize("variant", ["plain", "rao", "cv"])
def test_impossible_and_certain_categories(variant, dtype):
    logits = torch.tensor([0.0, -math.inf, 0.5, -90.0], dtype=dtype)
    _, gradient = drawn(logits=logits, variant=variant, temperature=0.1)
    assert gradient.isfinite().all()
    assert (gradient[:, 1] == 0).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "public"}, "variant must be one of plain, rao, cv; got 'public'"),
        ({"num_inner": 0}, "num_inner must be an integer of at least 1, got 0"),
        ({"eta": math.nan}, "eta must be a finite number, got nan"),
        ({"temperature": -1.0}, "temperature must"),
    ],
)
def test_bad_input(options, message):
    with pytest.raises(ValueError, match=message):
        OneHotCategoricalReinMax(logits=LOGITS, **options)
