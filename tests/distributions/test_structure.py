"""Unwrapping and rebuilding distributions, their masks, and sums over supports that can be listed."""

import math

import pyro.distributions as dist
import pytest
import torch
from torch.distributions import kl_divergence
from torch.distributions.transforms import ExpTransform

from pyro_ext.distributions import PlackettLuce, StickBreakingPermutation, UnorderedSet
from pyro_ext.distributions.distinct import DistinctDraws, SamplesWithoutReplacement, distinct_values
from pyro_ext.distributions.structure import enumerated_entropy, enumerated_kl, masks_of, unwrap, with_base
from pyro_ext.ops.sets import SequenceSet

NORMAL = dist.Normal(torch.zeros(2, 3), 1.0)
MASK = torch.tensor([[True, False, True], [False, True, True]])
# how a base is wrapped, how many of its dims become event dims, and whether each mask is a tensor, outermost first
WRAPPINGS = {
    "bare": (lambda base: base, 0, []),
    "to_event": (lambda base: base.to_event(2), 2, []),
    "mask": (lambda base: base.mask(MASK), 0, [True]),
    "mask below to_event": (lambda base: base.mask(MASK).to_event(1), 1, [True]),
    "masks above and below": (lambda base: base.mask(MASK).to_event(1).mask(False).to_event(1), 2, [False, True]),
    "torch's Independent": (lambda base: torch.distributions.Independent(base, 1), 1, []),
}


@pytest.mark.parametrize("name", WRAPPINGS)
def test_unwrapped(name):
    wrap, num_event_dims, masks = WRAPPINGS[name]
    assert unwrap(wrap(NORMAL)) == (NORMAL, num_event_dims)
    assert [isinstance(mask, torch.Tensor) for mask in masks_of(wrap(NORMAL))] == masks


@pytest.mark.parametrize("name", WRAPPINGS)
def test_another_base(name):
    wrap = WRAPPINGS[name][0]
    base, x = dist.Laplace(torch.ones(2, 3), 2.0), torch.randn(2, 3)
    new = with_base(wrap(NORMAL), base)
    assert unwrap(new).base is base
    assert (new.batch_shape, new.event_shape) == (wrap(base).batch_shape, wrap(base).event_shape)
    torch.testing.assert_close(new.log_prob(x), wrap(base).log_prob(x))
    bare = with_base(wrap(NORMAL), base, masked=False)
    assert masks_of(bare) == []
    assert bare.event_shape == new.event_shape


def test_masks_below_a_transform():
    d = dist.TransformedDistribution(NORMAL.mask(MASK), [ExpTransform()])
    assert unwrap(d.mask(False)) == (d, 0)
    outer, inner = masks_of(d.mask(False))
    assert outer is False
    assert torch.equal(inner, MASK)


def test_enumerated_sums():
    q = dist.Categorical(torch.tensor([[0.2, 0.8, 0.0]], dtype=torch.float64))
    p = dist.Categorical(torch.tensor([[0.5, 0.25, 0.25], [1.0, 0.0, 0.0]], dtype=torch.float64))
    torch.testing.assert_close(enumerated_entropy(q), q.entropy())
    divergence = enumerated_kl(q, p)
    assert float(divergence[0]) == pytest.approx(0.2 * math.log(0.2 / 0.5) + 0.8 * math.log(0.8 / 0.25))
    assert divergence[1] > 10  # Categorical's clamped logits: a finite stand-in for infinity
    with pytest.raises(NotImplementedError):
        enumerated_kl(NORMAL, NORMAL)


def unordered(k, num_categories):
    return UnorderedSet(k, torch.zeros(num_categories))


def ordered(k, num_categories):
    return PlackettLuce(torch.zeros(num_categories), k)


DIFFERENT = {
    "sets of other sizes": (unordered(2, 4), unordered(3, 4), "q draws 2 of 4 categories but p draws 3 of 4"),
    "sets of other categories": (unordered(2, 4), unordered(2, 5), "q draws 2 of 4 categories but p draws 2 of 5"),
    "orders": (ordered(2, 4), ordered(2, 3), "q draws 2 of 4 categories but p draws 2 of 3"),
    "permutations": (
        StickBreakingPermutation(torch.zeros(2, 2)),
        StickBreakingPermutation(torch.zeros(3, 3)),
        r"q has event shape \(3, 3\) but p \(4, 4\)",
    ),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_different_supports(name):
    q, p, message = DIFFERENT[name]
    with pytest.raises(ValueError, match=message):
        kl_divergence(q, p)


def test_impossible_sequences_are_replaced_by_the_first():
    actions = torch.tensor([[[1, 0], [0, 1], [1, 1]]])
    log_prob = torch.tensor([[-0.5, -math.inf, -1.0]])
    draws = distinct_values(
        SequenceSet(actions, log_prob, torch.zeros(1)), lambda bits: bits.sum(-1) * 10 + bits[..., 0]
    )
    assert draws.values.tolist() == [[11], [11], [21]]
    assert draws.log_prob.tolist() == [[-0.5], [-math.inf], [-1.0]]


def test_who_draws_distinct_values():
    class Own:
        def sample_without_replacement(self, k):
            return DistinctDraws(torch.arange(k), torch.zeros(k), torch.zeros(()))

    assert isinstance(Own(), SamplesWithoutReplacement)
    assert isinstance(ordered(2, 3), SamplesWithoutReplacement)
    assert not isinstance(NORMAL, SamplesWithoutReplacement)
