"""Families of laws of permutations, the uniform law, and distances."""

import itertools
import math

import pyro
import pytest
import torch
from pyro.distributions import Gumbel, Normal
from torch.distributions import kl_divergence

from pyro_ext.distributions import PermutationMatching, constraints
from pyro_ext.distributions.testing import check_distribution
from pyro_ext.models.permutation_matching.hellinger import frequencies, hellinger_distance, permutation_rank
from pyro_ext.models.permutation_matching.laws import FAMILIES, LocalGuide, Settings, family
from pyro_ext.models.permutation_matching.uniform import UniformPermutation
from pyro_ext.ops.assignment import best_permutation

N, ITEMS = 4, 3
MASKABLE = ("rounding", "gumbel_sinkhorn", "matching")
MASK = torch.ones(ITEMS, N, N, dtype=torch.bool)
MASK[0, 0, 1:] = False  # the first row of the first item is known
MASK[0, 1:, 0] = False


def disturbed(method, dtype=torch.float64):
    """A guide away from its start."""
    guide = LocalGuide(family(method, N), ITEMS).to(dtype)
    with torch.no_grad():
        for value in guide.local.values():
            value.copy_(torch.randn(value.shape))
    return guide


@pytest.mark.parametrize("method", FAMILIES)
def test_model_and_guide_share_a_site(method, dtype):
    guide = disturbed(method, dtype)
    posterior, prior = guide.posterior(), guide.laws.prior(torch.zeros((), dtype=dtype))
    value = posterior.rsample() if posterior.has_rsample else posterior.sample()
    assert posterior.batch_shape == (ITEMS,)
    assert posterior.event_shape == prior.event_shape == prior.sample().shape
    assert posterior.log_prob(value).shape == prior.log_prob(value).shape == (ITEMS,)
    matrix = guide.laws.matrix(value)
    assert matrix.shape == (ITEMS, N, N)
    assert value.dtype == matrix.dtype == prior.log_prob(value).dtype == dtype
    if method != "rounding":  # whose matrices lie around the corners
        torch.testing.assert_close(matrix.sum(-1), torch.ones(ITEMS, N, dtype=dtype))


@pytest.mark.parametrize("method", FAMILIES)
def test_permutations_of_some_items(method, dtype):
    drawn = disturbed(method, dtype).permutations(5, torch.tensor([2, 0]))
    assert drawn.shape == (5, 2, N, N)
    assert drawn.dtype == dtype
    assert not drawn.requires_grad
    assert constraints.permutation_matrix.check(drawn).all()


@pytest.mark.parametrize("method", MASKABLE)
def test_nothing_leaves_the_mask(method):
    guide = disturbed(method)
    assert not (guide.permutations(50, mask=MASK) * ~MASK).any()
    matrix = guide.laws.matrix(guide.posterior(mask=MASK).sample((50,)), MASK)
    assert (matrix[..., ~MASK] == 0).all()
    assert (guide.permutations(50)[..., ~MASK] == 1).any()


@pytest.mark.parametrize("method", ["rounding", "gumbel_sinkhorn"])
def test_cells_outside_the_mask_do_not_count(method):
    guide = disturbed(method)
    prior = guide.laws.prior(torch.zeros((), dtype=torch.float64), MASK)
    value = guide.posterior(mask=MASK).sample()
    assert prior.log_prob(value).tolist() == prior.log_prob(value + 7.0 * ~MASK).tolist()
    whole = guide.laws.prior(torch.zeros((), dtype=torch.float64)).log_prob(value)
    assert prior.log_prob(value)[1:].tolist() == whole[1:].tolist()
    assert prior.log_prob(value)[0] != whole[0]


@pytest.mark.parametrize("method", ["stick_breaking", "exact_stick_breaking"])
def test_stick_breaking_takes_no_mask(method):
    guide = disturbed(method)
    with pytest.raises(ValueError, match="mask is not for stick-breaking: use rounding"):
        guide.posterior(mask=MASK)
    with pytest.raises(ValueError, match="mask is not for stick-breaking: use rounding"):
        guide.laws.prior(torch.zeros(()), MASK)


@pytest.mark.parametrize("method", FAMILIES)
def test_start_near_permutations(method):
    guide = LocalGuide(family(method, N, Settings(min_scale=0.05, max_scale=0.1)), ITEMS).double()
    wanted = best_permutation(torch.randn(ITEMS, N, N, dtype=torch.float64))
    guide.start_near(wanted, confidence=0.99)
    drawn = guide.permutations(400)
    assert torch.equal(best_permutation(drawn.mean(0)), wanted)


@pytest.mark.parametrize("method", MASKABLE)
def test_the_start_without_confidence_is_uniform(method):
    guide = LocalGuide(family(method, 3), 1)
    guide.start_near(torch.eye(3)[None], confidence=0.0)
    # standard deviation of a count 9.1: 5 of them fail falsely less than once in 100,000
    assert (600 * frequencies(guide.permutations(600)) - 100).abs().max() < 5 * 9.1


def test_scales_keep_to_their_bounds():
    guide = LocalGuide(family("rounding", N, Settings(min_scale=0.1, max_scale=0.3)), ITEMS)
    with torch.no_grad():
        guide.local["raw_scale"].copy_(torch.tensor([-100.0, 0.0, 100.0])[:, None, None].expand(ITEMS, N, N))
    torch.testing.assert_close(guide.posterior().scale[:, 0, 0], torch.tensor([0.1, 0.2, 0.3]))


def test_rounding_rounds_what_samples_round_to():
    guide = LocalGuide(family("rounding", N, Settings(temperature=0.3)), ITEMS)
    pyro.set_rng_seed(1)
    drawn = guide.permutations(200)
    pyro.set_rng_seed(1)
    assert torch.equal(drawn, best_permutation(guide.posterior().sample((200,))))


@pytest.mark.parametrize("method", ["rounding", "stick_breaking"])
def test_mixture_prior(method, dtype):
    x, eta = torch.randn(2, N, N, dtype=dtype), 0.4
    cells = [(0.5 * Normal(end, eta).log_prob(x).exp()) for end in (0.0, 1.0)]
    expected = sum(cells).log().sum((-2, -1))
    torch.testing.assert_close(family(method, N, Settings(prior_scale=eta)).prior(x).log_prob(x), expected)


def test_gumbel_sinkhorn_divergence_is_the_published_one():
    tau, tau_prior = 0.7, 0.4
    laws = family("gumbel_sinkhorn", N, Settings(temperature=tau, prior_temperature=tau_prior))
    loc = torch.randn(ITEMS, N, N, dtype=torch.float64)
    found = kl_divergence(laws.posterior({"loc": loc}), laws.prior(loc).expand([ITEMS]))
    one = torch.ones((), dtype=torch.float64)
    cells = kl_divergence(Gumbel(loc / tau, one / tau), Gumbel(0 * one, one / tau_prior))
    torch.testing.assert_close(found, cells.sum((-2, -1)))


@pytest.mark.parametrize("method", ["exact_stick_breaking", "matching"])
def test_exact_laws_are_those_of_their_permutations(method):
    guide = disturbed(method)
    law = guide.exact(torch.tensor([1]))
    probs = law.log_prob(law.enumerate_support()).exp().squeeze(-1).detach()
    assert probs.sum() == pytest.approx(1)
    observed = frequencies(guide.permutations(20_000, torch.tensor([1]))).squeeze(0)
    # chi-square of at most 23 degrees of freedom: above 70 with probability 1e-6
    assert (20_000 * (observed - probs).square() / probs).sum() < 70
    assert disturbed("rounding").exact() is None


def test_matching_prior_is_uniform_within_the_mask():
    law = family("matching", N).prior(torch.zeros((), dtype=torch.float64), MASK)
    probs = law.log_prob(law.enumerate_support()).exp()
    assert probs[:, 0].unique().tolist() == pytest.approx([0, 1 / 6])
    torch.testing.assert_close(probs[:, 1], torch.full_like(probs[:, 1], 1 / 24))


def test_gradients_reach_the_items_of_the_batch_alone():
    guide = disturbed("matching")
    guide.posterior(torch.tensor([2])).log_prob(torch.eye(N, dtype=torch.float64)).sum().backward()
    assert guide.local["loc"].grad.abs().sum((-2, -1)).gt(0).tolist() == [False, False, True]


def test_uniform_law():
    check_distribution(UniformPermutation(torch.zeros(2, 3, 3, dtype=torch.float64)))
    assert UniformPermutation(torch.zeros(30, 30)).log_prob(torch.eye(30)) == pytest.approx(-math.lgamma(31))
    counts = 6000 * frequencies(UniformPermutation(torch.zeros(3, 3)).sample((6000,)))
    assert (counts - 1000).abs().max() < 5 * 29


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5])
def test_ranks_are_places_in_the_support(n):
    every = PermutationMatching(torch.zeros(n, n)).enumerate_support()
    assert permutation_rank(every).tolist() == list(range(math.factorial(n)))


def test_frequencies():
    p, q = torch.eye(2), torch.eye(2).flip(0)
    drawn = torch.stack([torch.stack([p, p, q, p]), torch.stack([q, q, q, q])], 1)
    assert frequencies(drawn).tolist() == [[0.75, 0.25], [0.0, 1.0]]


def test_hellinger_distance():
    p, q = torch.rand(2, 5, 7, dtype=torch.float64).softmax(-1)
    for a, b, found in zip(p.tolist(), q.tolist(), hellinger_distance(p, q).tolist(), strict=True):
        assert found == pytest.approx(math.sqrt(1 - sum(map(math.sqrt, map(math.prod, zip(a, b, strict=True))))))
    assert hellinger_distance(p, p).abs().max() == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: family("sorting", 3), "method must be one of rounding, .*; got 'sorting'"),
        (lambda: family("rounding", 0), "size must be an integer of at least 1, got 0"),
        (lambda: LocalGuide(family("rounding", 3), 0), "num_items must be an integer of at least 1, got 0"),
        (lambda: Settings(temperature=0.0), "temperature must be a positive, finite number, got 0.0"),
        (lambda: Settings(prior_scale=math.nan), "prior_scale must be a positive, finite number, got nan"),
        (lambda: Settings(min_scale=0.3, max_scale=0.2), "min_scale=0.3 must lie below max_scale=0.2"),
        (lambda: Settings(num_iterations=0), "num_iterations must be an integer of at least 1, got 0"),
        (lambda: Settings(gradient="none"), "gradient must be one of pathwise, .*, got 'none'"),
        (lambda: LocalGuide(family("rounding", 2), 1).start_near(torch.eye(2), 1.0), r"confidence .* \[0, 1\), got 1"),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("method", FAMILIES)
def test_a_single_element(method):
    guide = LocalGuide(family(method, 1), 2)
    assert guide.permutations(3).tolist() == list(itertools.repeat([[[1.0]], [[1.0]]], 3))
