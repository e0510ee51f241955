"""What Pyro's generic tests of distributions ask for, for every distribution of permutations."""

import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import TorchDistribution

from pyro_ext.distributions import (
    GumbelMatching,
    GumbelSinkhorn,
    PermutationMatching,
    RelaxedRoundingPermutation,
    RelaxedStickBreakingPermutation,
    StickBreakingPermutation,
)

CASES = [
    (RelaxedStickBreakingPermutation, {"loc": (2, 2), "scale": (2, 2), "temperature": ()}),
    (RelaxedStickBreakingPermutation, {"loc": (2, 2, 2), "scale": (), "temperature": (3, 1)}),
    (StickBreakingPermutation, {"logits": (2, 2)}),
    (StickBreakingPermutation, {"logits": (1, 4, 2, 2)}),
    (RelaxedRoundingPermutation, {"loc": (3, 3), "scale": (3, 3), "temperature": ()}),
    (RelaxedRoundingPermutation, {"loc": (2, 3, 3), "scale": (1, 3, 3), "temperature": (2,)}),
    (PermutationMatching, {"log_potentials": (3, 3)}),
    (PermutationMatching, {"log_potentials": (4, 1, 3, 3)}),
    (GumbelSinkhorn, {"log_potentials": (3, 3), "temperature": ()}),
    (GumbelSinkhorn, {"log_potentials": (1, 3, 3), "temperature": (2, 1)}),
    (GumbelMatching, {"log_potentials": (2, 3, 3)}),
]
WITH_DENSITY = [case for case in CASES if not case[0].__name__.startswith("Gumbel")]


def build(family, shapes):
    return family(**{name: torch.rand(shape, dtype=torch.float64) * 0.5 + 0.5 for name, shape in shapes.items()})


def check_densities(small, large):
    for x in (small.sample(), large.sample()):
        expected = small.log_prob(x).expand(large.batch_shape)
        torch.testing.assert_close(large.log_prob(x), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("family", "shapes"), CASES)
def test_shapes_are_inferred_and_the_support_knows_them(family, shapes):
    d = build(family, shapes)
    assert family.infer_shapes(**shapes) == (d.batch_shape, d.event_shape)
    x = d.sample((2,))
    assert x.shape == (2, *d.batch_shape, 3, 3)
    assert d.support.event_dim == d.event_dim == 2
    assert d.support.check(x).shape == (2, *d.batch_shape)
    assert d.support.is_discrete == (
        family.__name__ in {"StickBreakingPermutation", "PermutationMatching", "GumbelMatching"}
    )


@pytest.mark.parametrize("default", [False, True])
@pytest.mark.parametrize("shape_type", [torch.Size, tuple, list])
@pytest.mark.parametrize(("family", "shapes"), WITH_DENSITY)
def test_expand(family, shapes, shape_type, default):
    small = build(family, shapes)
    expand = (lambda d, s: TorchDistribution.expand(d, s)) if default else (lambda d, s: d.expand(s))
    for sample_shape in ((), (2,), (2, 3)):
        check_densities(small, expand(small, shape_type((*sample_shape, *small.batch_shape))))
    if 1 in small.batch_shape:
        wide = [5 if size == 1 else size for size in small.batch_shape]
        check_densities(small, expand(small, shape_type(wide)))
    twice = expand(expand(small, shape_type((2, 1, *small.batch_shape))), shape_type((2, 3, *small.batch_shape)))
    check_densities(small, twice)
    large = expand(small, shape_type((2, 4, *small.batch_shape)))
    with pytest.raises((RuntimeError, ValueError)):
        large.expand(torch.Size((2, 2, 1, *small.batch_shape)))


@pytest.mark.parametrize(("family", "shapes"), WITH_DENSITY)
def test_values_of_the_wrong_shape_are_refused(family, shapes):
    d = build(family, shapes)
    for shape in ((*d.shape(), 1), (*d.batch_shape, 3, 4)):
        with pytest.raises((ValueError, RuntimeError)):
            d.log_prob(torch.ones(shape, dtype=torch.float64))


@pytest.mark.parametrize(("family", "shapes"), WITH_DENSITY)
def test_masked_and_independent(family, shapes):
    d = build(family, shapes).expand((4, *build(family, shapes).batch_shape))
    x = d.sample()
    joint = d.to_event()
    assert isinstance(joint, dist.Independent)
    torch.testing.assert_close(joint.log_prob(x), d.log_prob(x).sum())
    assert not d.mask(False).log_prob(x).any()


@pytest.mark.parametrize("family", [StickBreakingPermutation, PermutationMatching])
def test_enumerated_shapes(family):
    d = family(torch.zeros(4, 1, 2, 2) if family is StickBreakingPermutation else torch.zeros(4, 1, 3, 3))
    assert d.enumerate_support().shape == (6, 4, 1, 3, 3)
    assert d.enumerate_support(expand=False).shape == (6, 1, 1, 3, 3)


@pytest.mark.parametrize(("family", "shapes"), CASES)
@pytest.mark.parametrize("validate", [False, True])
def test_validation_is_a_choice(family, shapes, validate):
    arguments = {name: torch.full(shape, torch.nan) for name, shape in shapes.items()}
    if validate:
        with pytest.raises(ValueError, match="nan"):
            family(**arguments, validate_args=True)
    elif family is not RelaxedRoundingPermutation:  # which scales its centre at construction
        assert family(**arguments, validate_args=False).event_shape == (3, 3)
