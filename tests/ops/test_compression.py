"""Bits of weights: the published numbers, and the cases in which the published formulas fail."""

import math

import pytest
import torch

from pyro_ext.ops.compression import code_entropy, exponent_bits, round_to_bits, significand_bits


def test_significands_count_units_above_twice_the_variance():
    for exponent in torch.linspace(-9, 0, 50):
        variance = 10**exponent
        units = sum(1 for t in range(1, 24) if 2 * variance < 2.0**-t)
        assert significand_bits(variance) == units


def test_a_layer_gets_the_mean_rounded_up():
    assert significand_bits(torch.tensor([1e-1, 1e-2])) == math.ceil((2 + 5) / 2)


def test_weights_without_variance_do_not_count():
    variance = torch.tensor([1e-2, 0.0, 0.0, 0.0])
    assert significand_bits(variance) == 5
    assert significand_bits(torch.tensor([1e-2, 1e-8]), torch.tensor([True, False])) == 5


def test_full_precision_where_nothing_is_uncertain():
    assert significand_bits(torch.zeros(3)) == 23
    assert significand_bits(torch.ones(3), torch.zeros(3, dtype=torch.bool)) == 23


def test_kept_needs_the_shape_of_variance():
    with pytest.raises(ValueError, match=r"kept must have the shape \(3,\) of variance, got \(2,\)"):
        significand_bits(torch.ones(3), torch.ones(2, dtype=torch.bool))


@pytest.mark.parametrize("largest", [1.0, 1.5, 2.0, 3.0, 8.0, 100.0])
def test_exponents_of_large_weights_are_as_published(largest):
    published = math.ceil(math.log2(math.log2(largest) + 1) + 1)
    assert exponent_bits(torch.tensor([0.1, -largest])) == published


@pytest.mark.parametrize("largest", [0.5, 0.4, 1e-3, 1e-30, 0.0])
def test_exponents_of_small_weights_are_numbers(largest):
    bits = exponent_bits(torch.tensor([largest]))
    assert 0 <= int(bits) <= 9
    assert exponent_bits(torch.empty(0)) == 0


def test_rounding_errs_by_half_a_unit_at_most():
    torch.manual_seed(0)
    x = torch.randn(1000, dtype=torch.float64)
    for bits in (0, 3, 10, 23):
        rounded = round_to_bits(x, bits)
        assert (rounded - x).abs().max() <= 2.0 ** -(bits + 1)
        assert torch.equal(rounded * 2**bits, torch.round(rounded * 2**bits))


def test_bits_out_of_range_are_refused():
    with pytest.raises(ValueError, match="bits must be an integer from 0 to 23, got 24"):
        round_to_bits(torch.ones(1), 24)


def test_entropy_of_equal_frequencies():
    assert code_entropy(torch.arange(8).repeat(3)).item() == pytest.approx(3)
    assert code_entropy(torch.empty(0)) == 0
