"""Families of distributions of permutations, and the guide that holds their parameters."""

import itertools
import math

import pyro
import pytest
import torch
from pyro.distributions import Gumbel, Normal
from torch.distributions import kl_divergence

from pyro_ext.distributions import constraints
from pyro_ext.models.point_matching.evaluation import frequencies
from pyro_ext.models.toolkit.permutations import ExactStickBreakingFamily, MatchingFamily, PermutationGuide
from pyro_ext.models.toolkit.relaxed_permutations import (
    GumbelSinkhornFamily,
    GumbelSinkhornSettings,
    RoundingFamily,
    RoundingSettings,
    StickBreakingFamily,
    StickBreakingSettings,
)
from pyro_ext.ops.assignment import best_permutation

N, ITEMS = 4, 3
FAMILIES = {
    "rounding": lambda size, **settings: RoundingFamily(size, RoundingSettings(**settings)),
    "stick_breaking": lambda size, **settings: StickBreakingFamily(size, StickBreakingSettings(**settings)),
    "gumbel_sinkhorn": lambda size, **settings: GumbelSinkhornFamily(size, GumbelSinkhornSettings(**settings)),
    "exact_stick_breaking": ExactStickBreakingFamily,
    "matching": MatchingFamily,
}
GAUSSIAN = ("rounding", "stick_breaking")
MASKABLE = ("rounding", "gumbel_sinkhorn", "matching")
MASK = torch.ones(ITEMS, N, N, dtype=torch.bool)
MASK[0, 0, 1:] = False  # the first row of the first item is known
MASK[0, 1:, 0] = False


def displaced(method, dtype=torch.float64):
    """A guide away from its start."""
    guide = PermutationGuide(FAMILIES[method](N), ITEMS).to(dtype)
    with torch.no_grad():
        for value in guide.local.values():
            value.copy_(torch.randn(value.shape))
    return guide


@pytest.mark.parametrize("method", FAMILIES)
def test_model_and_guide_share_a_site(method, dtype):
    guide = displaced(method, dtype)
    posterior, prior = guide.posterior(), guide.family.prior(torch.zeros((), dtype=dtype))
    value = posterior.rsample() if posterior.has_rsample else posterior.sample()
    assert posterior.batch_shape == (ITEMS,)
    assert posterior.event_shape == prior.event_shape == prior.sample().shape
    assert posterior.log_prob(value).shape == prior.log_prob(value).shape == (ITEMS,)
    matrix = guide.family.matrix(value)
    assert matrix.shape == (ITEMS, N, N)
    assert value.dtype == matrix.dtype == prior.log_prob(value).dtype == dtype
    if method != "rounding":  # whose matrices lie around the corners
        torch.testing.assert_close(matrix.sum(-1), torch.ones(ITEMS, N, dtype=dtype))


@pytest.mark.parametrize("method", FAMILIES)
def test_permutations_of_some_items(method, dtype):
    drawn = displaced(method, dtype).sample_permutations(5, torch.tensor([2, 0]))
    assert drawn.shape == (5, 2, N, N)
    assert drawn.dtype == dtype
    assert not drawn.requires_grad
    assert constraints.permutation_matrix.check(drawn).all()


@pytest.mark.parametrize("method", MASKABLE)
def test_nothing_leaves_the_mask(method):
    guide = displaced(method)
    assert not (guide.sample_permutations(50, mask=MASK) * ~MASK).any()
    matrix = guide.family.matrix(guide.posterior(mask=MASK).sample((50,)), MASK)
    assert (matrix[..., ~MASK] == 0).all()
    assert (guide.sample_permutations(50)[..., ~MASK] == 1).any()


@pytest.mark.parametrize("method", ["rounding", "gumbel_sinkhorn"])
def test_cells_outside_the_mask_do_not_count(method):
    guide = displaced(method)
    prior = guide.family.prior(torch.zeros((), dtype=torch.float64), MASK)
    value = guide.posterior(mask=MASK).sample()
    assert prior.log_prob(value).tolist() == prior.log_prob(value + 7.0 * ~MASK).tolist()
    whole = guide.family.prior(torch.zeros((), dtype=torch.float64)).log_prob(value)
    assert prior.log_prob(value)[1:].tolist() == whole[1:].tolist()
    assert prior.log_prob(value)[0] != whole[0]


@pytest.mark.parametrize("method", ["stick_breaking", "exact_stick_breaking"])
def test_stick_breaking_takes_no_mask(method):
    guide = displaced(method)
    with pytest.raises(ValueError, match="mask is not for stick-breaking: use rounding"):
        guide.posterior(mask=MASK)
    with pytest.raises(ValueError, match="mask is not for stick-breaking: use rounding"):
        guide.family.prior(torch.zeros(()), MASK)


@pytest.mark.parametrize("method", FAMILIES)
def test_start_near_permutations(method):
    narrow = {"min_scale": 0.05, "max_scale": 0.1} if method in GAUSSIAN else {}
    guide = PermutationGuide(FAMILIES[method](N, **narrow), ITEMS).double()
    wanted = best_permutation(torch.randn(ITEMS, N, N, dtype=torch.float64))
    guide.start_near(wanted, confidence=0.99)
    drawn = guide.sample_permutations(400)
    assert torch.equal(best_permutation(drawn.mean(0)), wanted)


@pytest.mark.parametrize("method", MASKABLE)
def test_the_start_without_confidence_is_uniform(method):
    guide = PermutationGuide(FAMILIES[method](3), 1)
    guide.start_near(torch.eye(3)[None], confidence=0.0)
    # standard deviation of a count 9.1: 5 of them fail falsely less than once in 100,000
    assert (600 * frequencies(guide.sample_permutations(600)) - 100).abs().max() < 5 * 9.1


def test_scales_keep_to_their_bounds():
    guide = PermutationGuide(RoundingFamily(N, RoundingSettings(min_scale=0.1, max_scale=0.3)), ITEMS)
    with torch.no_grad():
        guide.local["raw_scale"].copy_(torch.tensor([-100.0, 0.0, 100.0])[:, None, None].expand(ITEMS, N, N))
    torch.testing.assert_close(guide.posterior().scale[:, 0, 0], torch.tensor([0.1, 0.2, 0.3]))


def test_rounding_rounds_what_samples_round_to():
    guide = PermutationGuide(RoundingFamily(N, RoundingSettings(temperature=0.3)), ITEMS)
    pyro.set_rng_seed(1)
    drawn = guide.sample_permutations(200)
    pyro.set_rng_seed(1)
    assert torch.equal(drawn, best_permutation(guide.posterior().sample((200,))))


@pytest.mark.parametrize("method", GAUSSIAN)
def test_mixture_prior(method, dtype):
    x, eta = torch.randn(2, N, N, dtype=dtype), 0.4
    cells = [(0.5 * Normal(end, eta).log_prob(x).exp()) for end in (0.0, 1.0)]
    expected = sum(cells).log().sum((-2, -1))
    torch.testing.assert_close(FAMILIES[method](N, prior_scale=eta).prior(x).log_prob(x), expected)


def test_gumbel_sinkhorn_divergence_is_the_published_one():
    tau, tau_prior = 0.7, 0.4
    family = GumbelSinkhornFamily(N, GumbelSinkhornSettings(temperature=tau, prior_temperature=tau_prior))
    loc = torch.randn(ITEMS, N, N, dtype=torch.float64)
    divergence = kl_divergence(family.posterior({"loc": loc}), family.prior(loc).expand([ITEMS]))
    one = torch.ones((), dtype=torch.float64)
    cells = kl_divergence(Gumbel(loc / tau, one / tau), Gumbel(0 * one, one / tau_prior))
    torch.testing.assert_close(divergence, cells.sum((-2, -1)))


@pytest.mark.parametrize("method", ["exact_stick_breaking", "matching"])
def test_exact_families_have_the_probabilities_of_their_samples(method):
    guide = displaced(method)
    d = guide.permutation_distribution(torch.tensor([1]))
    probs = d.log_prob(d.enumerate_support()).exp().squeeze(-1).detach()
    assert probs.sum() == pytest.approx(1)
    observed = frequencies(guide.sample_permutations(20_000, torch.tensor([1]))).squeeze(0)
    # chi-square of at most 23 degrees of freedom: above 70 with probability 1e-6
    assert (20_000 * (observed - probs).square() / probs).sum() < 70
    assert displaced("rounding").permutation_distribution() is None


def test_matching_prior_is_uniform_within_the_mask():
    prior = MatchingFamily(N).prior(torch.zeros((), dtype=torch.float64), MASK)
    probs = prior.log_prob(prior.enumerate_support()).exp()
    assert probs[:, 0].unique().tolist() == pytest.approx([0, 1 / 6])
    torch.testing.assert_close(probs[:, 1], torch.full_like(probs[:, 1], 1 / 24))


def test_gradients_reach_the_items_of_the_batch_alone():
    guide = displaced("matching")
    guide.posterior(torch.tensor([2])).log_prob(torch.eye(N, dtype=torch.float64)).sum().backward()
    assert guide.local["loc"].grad.abs().sum((-2, -1)).gt(0).tolist() == [False, False, True]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: MatchingFamily(0), "size must be an integer of at least 1, got 0"),
        (lambda: PermutationGuide(MatchingFamily(3), 0), "num_items must be an integer of at least 1, got 0"),
        (lambda: RoundingSettings(temperature=1.5), r"temperature must be a number in \(0, 1\], got 1.5"),
        (lambda: RoundingSettings(temperature=0.0), r"temperature must be a number in \(0, 1\], got 0.0"),
        (lambda: RoundingSettings(min_scale=0.3, max_scale=0.2), "min_scale=0.3 must lie below max_scale=0.2"),
        (lambda: RoundingSettings(num_iterations=0), "num_iterations must be an integer of at least 1, got 0"),
        (lambda: RoundingSettings(gradient="none"), "gradient must be one of pathwise, .*; got 'none'"),
        (lambda: StickBreakingSettings(temperature=0.0), "temperature must be a positive, finite number, got 0.0"),
        (lambda: StickBreakingSettings(prior_scale=math.nan), "prior_scale must be a positive, finite number, got nan"),
        (lambda: StickBreakingSettings(min_scale=2.0), "min_scale=2.0 must lie below max_scale=1.0"),
        (lambda: GumbelSinkhornSettings(temperature=-1.0), "temperature must be a positive, finite number, got -1.0"),
        (lambda: GumbelSinkhornSettings(prior_temperature=0), "prior_temperature must be a positive, .* got 0"),
        (lambda: GumbelSinkhornSettings(num_iterations=True), "num_iterations must be an integer .*, got True"),
        (
            lambda: PermutationGuide(MatchingFamily(2), 1).start_near(torch.eye(2), 1.0),
            r"confidence .* \[0, 1\), got 1",
        ),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("method", FAMILIES)
def test_a_single_element(method):
    guide = PermutationGuide(FAMILIES[method](1), 2)
    assert guide.sample_permutations(3).tolist() == list(itertools.repeat([[[1.0]], [[1.0]]], 3))
