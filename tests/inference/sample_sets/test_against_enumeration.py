"""Gradients of all guide and model parameters against exact enumeration.

Each row draws at least 40,000 independent gradients and compares their mean with the exact one, per parameter, in
standard errors. With at most 57 parameters a row, |z| < 4.5 raises a false alarm in fewer than 1 in 2,500 rows; the
seeds are fixed.
"""

import pyro
import pytest
import torch

from pyro_ext.inference import TraceLeaveOneOut_ELBO, TraceSumAndSample_ELBO, TraceUnorderedSet_ELBO
from tests.inference import gradient_cases as cases
from tests.inference.feeding import gradients

COPIES = 40_000
Z_BOUND = 4.5


def unordered(k, **options):
    return pytest.param(TraceUnorderedSet_ELBO, {"num_samples": k, **options}, id=f"unordered{k}{options or ''}")


def summed(k, num_summed="optimal", **options):
    options = {"num_samples": k, "num_summed": num_summed, **options}
    name = f"sum{k}-{num_summed}" + ("" if len(options) == 2 else "-nobl")
    return pytest.param(TraceSumAndSample_ELBO, options, id=name)


def leave_one_out(k, **options):
    return pytest.param(TraceLeaveOneOut_ELBO, {"num_samples": k, **options}, id=f"loo{k}{options or ''}")


def z_scores(samples, exact):
    """Deviations of the means in standard errors; exact equality counts as none."""
    difference = samples.mean(0) - exact.mean(0)
    variance = samples.var(0) / len(samples)
    if len(exact) > 1:
        variance = variance + exact.var(0) / len(exact)
    return torch.where(difference.abs() <= 1e-12, 0.0, difference.abs() / variance.sqrt().clamp_min(1e-300))


def check(case, elbo_type, options, copies=COPIES, exact_copies=1):
    samples = cases.gradient_samples(elbo_type, case, copies, **options)
    exact = cases.exact_gradient(case, exact_copies)
    assert samples.isfinite().all()
    worst = z_scores(samples, exact).max()
    assert worst < Z_BOUND, f"largest |z| is {worst:.1f}"


@pytest.mark.parametrize(
    ("elbo_type", "options"),
    [
        *(unordered(k) for k in range(1, 6)),
        unordered(3, baseline=False),
        *(summed(k) for k in (1, 2, 4)),
        *(summed(k, k - 1) for k in (2, 4)),
        summed(4, 1),
        summed(4, 2, baseline=False),
        *(leave_one_out(k) for k in (1, 2, 4)),
        leave_one_out(4, baseline=False),
    ],
)
def test_one_site_in_a_plate(elbo_type, options):
    check(cases.OneSite(), elbo_type, options)


@pytest.mark.parametrize("k", [6, 7, 100])
@pytest.mark.parametrize("elbo_type", [TraceUnorderedSet_ELBO, TraceSumAndSample_ELBO])
def test_sets_that_cover_the_support_are_exact(elbo_type, k):
    case = cases.OneSite()
    samples = cases.gradient_samples(elbo_type, case, 3, num_samples=k)
    torch.testing.assert_close(samples, cases.exact_gradient(case).expand_as(samples), rtol=0, atol=1e-12)


EVERYWHERE = [
    cases.GlobalThenLocal,
    cases.GlobalEnumerated,
    cases.MaskedAndScaled,
    cases.LatentMasked,
    cases.Subsampled,
    cases.ModelEnumerated,
    cases.PartlyObserved,
    cases.NestedPlates,
    cases.SequentialPlate,
]


@pytest.mark.parametrize("case", EVERYWHERE)
@pytest.mark.parametrize(("elbo_type", "options"), [unordered(2), summed(2), summed(2, 1), leave_one_out(2)])
def test_structure(case, elbo_type, options):
    check(case(), elbo_type, options)


@pytest.mark.parametrize("case", [cases.GlobalThenLocal, cases.NestedPlates, cases.ModelEnumerated, cases.Chain])
@pytest.mark.parametrize("elbo_type", [TraceUnorderedSet_ELBO, TraceSumAndSample_ELBO])
def test_structure_is_exact_when_covered(case, elbo_type):
    samples = cases.gradient_samples(elbo_type, case(), 2, num_samples=3)
    torch.testing.assert_close(samples, cases.exact_gradient(case()).expand_as(samples), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("elbo_type", "options"), [unordered(2), summed(2), leave_one_out(2)])
def test_between_reparameterised_sites(elbo_type, options):
    check(cases.BetweenNormals(), elbo_type, options, copies=100_000, exact_copies=100_000)


@pytest.mark.parametrize("case", [cases.Chain, cases.DependentChain, cases.UnscopedChain, cases.UnscopedDependentChain])
@pytest.mark.parametrize(("elbo_type", "options"), [unordered(1), leave_one_out(2)])
def test_markov_chain(case, elbo_type, options):
    check(case(), elbo_type, options)


@pytest.mark.parametrize(
    ("elbo_type", "options"),
    [unordered(2), unordered(5), summed(2), summed(5, 4), summed(5), leave_one_out(3)],
)
def test_joint_site(elbo_type, options):
    samples = cases.gradient_samples(elbo_type, cases.Joint(), COPIES, **options)
    assert z_scores(samples, cases.exact_gradient(cases.JointAsOne())).max() < Z_BOUND


@pytest.mark.slow
@pytest.mark.parametrize("k", [11, 14])
def test_large_joint_set(k):
    """Both ways of computing the ratios. The dominant values are in all but one in a million sets, so that the mean of
    their gradients is off by a multiple of its standard error, but by little in itself.
    """
    chunks = [
        cases.gradient_samples(TraceUnorderedSet_ELBO, cases.Joint(), 2_000, seed, num_samples=k) for seed in range(20)
    ]
    samples, exact = torch.cat(chunks), cases.exact_gradient(cases.JointAsOne())
    near = (samples.mean(0) - exact[0]).abs() <= 1e-4 * exact[0].abs().max()
    assert torch.where(near, 0.0, z_scores(samples, exact)).max() < Z_BOUND


@pytest.mark.parametrize("elbo_type", [TraceUnorderedSet_ELBO, TraceSumAndSample_ELBO])
def test_joint_site_covered(elbo_type):
    samples = cases.gradient_samples(elbo_type, cases.Joint(), 2, num_samples=27)
    torch.testing.assert_close(samples, cases.exact_gradient(cases.JointAsOne()).expand_as(samples), rtol=0, atol=1e-12)


def test_vectorised_particles_average_independent_sets():
    """Averaging n sets leaves the mean and divides the variance by n."""
    case = cases.OneSite()
    single = cases.gradient_samples(TraceUnorderedSet_ELBO, case, COPIES, num_samples=2)
    pyro.set_rng_seed(1)
    leaves = cases.parameters(case, 1)
    elbo = TraceUnorderedSet_ELBO(2, num_particles=2_000, vectorize_particles=True, max_plate_nesting=1)
    samples = []
    for _ in range(100):
        loss = elbo.differentiable_loss(case.model, case.guide, {name: leaf[0] for name, leaf in leaves.items()})
        samples.append(torch.cat([g.flatten() for g in gradients(loss, list(leaves.values()))]))
    samples = torch.stack(samples)
    assert z_scores(samples, cases.exact_gradient(case)).max() < Z_BOUND
    assert (samples.var(0).sum() / (single.var(0).sum() / 2_000)).item() == pytest.approx(1, abs=0.25)


def test_looped_particles_average_independent_sets():
    case = cases.OneSite()
    samples = cases.gradient_samples(TraceUnorderedSet_ELBO, case, COPIES, num_samples=2, num_particles=3)
    assert z_scores(samples, cases.exact_gradient(case)).max() < Z_BOUND
