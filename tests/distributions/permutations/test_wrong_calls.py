"""What no distribution of permutations accepts, and the messages that say why."""

import math

import pytest
import torch

from pyro_ext.distributions import (
    GumbelMatching,
    GumbelSinkhorn,
    PermutationMatching,
    RelaxedRoundingPermutation,
    RelaxedStickBreakingPermutation,
    StickBreakingPermutation,
)

INF = math.inf
ZEROS = torch.zeros(2, 3, 3)
# of one matrix; the name of that argument, and the least size: stick-breaking of N elements has N - 1 rows
MATRIX = {
    "RelaxedStickBreakingPermutation": (lambda m: RelaxedStickBreakingPermutation(m, 1.0, 1.0), "loc", 0),
    "StickBreakingPermutation": (StickBreakingPermutation, "logits", 0),
    "RelaxedRoundingPermutation": (lambda m: RelaxedRoundingPermutation(m, 1.0, 1.0), "loc", 1),
    "GumbelSinkhorn": (lambda m: GumbelSinkhorn(m, 1.0), "log_potentials", 1),
    "GumbelMatching": (GumbelMatching, "log_potentials", 1),
    "PermutationMatching": (PermutationMatching, "log_potentials", 1),
}
TEMPERATURE = {
    "RelaxedStickBreakingPermutation": (
        lambda t: RelaxedStickBreakingPermutation(ZEROS, 1.0, t),
        "positive and finite",
    ),
    "RelaxedRoundingPermutation": (lambda t: RelaxedRoundingPermutation(ZEROS, 1.0, t), r"in \(0, 1\]"),
    "GumbelSinkhorn": (lambda t: GumbelSinkhorn(ZEROS, t), "positive and finite"),
}
SCALE = {
    "RelaxedStickBreakingPermutation": lambda scale: RelaxedStickBreakingPermutation(ZEROS, scale, 1.0),
    "RelaxedRoundingPermutation": lambda scale: RelaxedRoundingPermutation(ZEROS, scale, 1.0),
}
ITERATIONS = {
    "RelaxedRoundingPermutation": lambda n: RelaxedRoundingPermutation(ZEROS, 1.0, 1.0, num_iterations=n),
    "GumbelSinkhorn": lambda n: GumbelSinkhorn(ZEROS, 1.0, num_iterations=n),
}


@pytest.mark.parametrize("family", MATRIX)
@pytest.mark.parametrize("shape", [(2, 3), (3,), (), (2, 3, 4), (3, 0)])
def test_matrices_must_be_square(family, shape):
    build, name, least = MATRIX[family]
    message = rf"{name} must have shape batch_shape \+ \(N, N\) with N at least {least}, got .*: give square matrices"
    with pytest.raises(ValueError, match=message):
        build(torch.zeros(shape))


@pytest.mark.parametrize("family", [family for family in MATRIX if MATRIX[family][2]])
def test_there_is_no_permutation_of_nothing(family):
    with pytest.raises(ValueError, match=r"with N at least 1, got \(0, 0\)"):
        MATRIX[family][0](torch.zeros(0, 0))


@pytest.mark.parametrize("family", MATRIX)
@pytest.mark.parametrize("value", [None, 1.0, [[0.0, 1.0], [1.0, 0.0]], torch.eye(2, dtype=torch.int64)])
def test_matrices_must_be_floating_point_tensors(family, value):
    build, name, _ = MATRIX[family]
    with pytest.raises(ValueError, match=f"{name} must be a floating point tensor, got "):
        build(value)


@pytest.mark.parametrize("family", MATRIX)
@pytest.mark.parametrize("entry", [math.nan, INF])
def test_matrices_must_hold_numbers(family, entry):
    build, name, _ = MATRIX[family]
    value = torch.zeros(4, 3, 3)
    value[2, 1, 1] = entry
    with pytest.raises(ValueError, match=f"{name} must be (finite|neither NaN nor .inf), got {entry}"):
        build(value)


@pytest.mark.parametrize("family", ["GumbelSinkhorn", "GumbelMatching", "PermutationMatching"])
def test_one_matrix_of_a_batch_leaves_no_permutation(family):
    value = torch.zeros(4, 3, 3)
    value[3, 1:, 1:] = -INF
    with pytest.raises(
        ValueError, match=r"log_potentials leaves no permutation: too many of its cells are -inf, allow"
    ):
        MATRIX[family][0](value)


@pytest.mark.parametrize("family", ["RelaxedStickBreakingPermutation", "StickBreakingPermutation"])
def test_stick_breaking_has_no_impossible_cells(family):
    with pytest.raises(ValueError, match="must be finite, got -inf"):
        MATRIX[family][0](torch.full((2, 2), -INF))


@pytest.mark.parametrize("family", TEMPERATURE)
@pytest.mark.parametrize("value", [0.0, -1, math.nan, INF, torch.tensor([1.0, -0.5]), torch.tensor(math.nan)])
def test_temperatures_must_be_positive(family, value):
    build, allowed = TEMPERATURE[family]
    with pytest.raises(ValueError, match=f"temperature must be {allowed}, got (0|0.0|-1|-1.0|nan|inf|-0.5)$"):
        build(value)


@pytest.mark.parametrize("family", TEMPERATURE)
@pytest.mark.parametrize("value", ["cold", None, True, [1.0]])
def test_temperatures_must_be_numbers(family, value):
    with pytest.raises(ValueError, match="temperature must be a number or a tensor, got "):
        TEMPERATURE[family][0](value)


@pytest.mark.parametrize("family", TEMPERATURE)
def test_temperatures_must_fit(family):
    with pytest.raises(ValueError, match=r"temperature.* \(5,\).*: give"):
        TEMPERATURE[family][0](torch.full((5,), 0.5))


@pytest.mark.parametrize("family", TEMPERATURE)
def test_integer_tensors_are_taken_as_numbers(family):
    d = TEMPERATURE[family][0](torch.tensor(1))
    assert d.temperature.dtype == torch.float32


@pytest.mark.parametrize("family", SCALE)
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (0.0, "scale must be positive and finite, got 0"),
        (-1.0, "scale must be positive and finite, got -1"),
        (math.nan, "scale must be positive and finite, got nan"),
        (INF, "scale must be positive and finite, got inf"),
        (torch.eye(3), "scale must be positive and finite, got 0"),
        ("wide", "scale must be a number or a tensor, got 'wide'"),
        (None, "scale must be a number or a tensor, got None"),
        (torch.ones(4, 4), r"scale \(4, 4\) and temperature \(\) do not fit"),
    ],
)
def test_scales_must_be_positive_numbers(family, value, message):
    with pytest.raises(ValueError, match=message):
        SCALE[family](value)


@pytest.mark.parametrize("family", ITERATIONS)
@pytest.mark.parametrize("value", [0, -1, 2.5, True, "many"])
def test_scaling_needs_a_number_of_iterations(family, value):
    with pytest.raises(ValueError, match=f"num_iterations must be an integer of at least 1, got {value!r}"):
        ITERATIONS[family](value)


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, "tight", None])
def test_scaling_needs_a_tolerance(value):
    with pytest.raises(ValueError, match=f"tolerance must be a positive, finite number, got {value!r}"):
        GumbelSinkhorn(ZEROS, 1.0, tolerance=value)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.tensor([[True, True, True], [True, False, False], [True, False, False]]), "mask holds no permutation"),
        (torch.zeros(3, 3, dtype=torch.bool), "mask holds no permutation"),
        (torch.ones(3, 3), "mask must be a bool tensor"),
        ([[True]], "mask must be a bool tensor"),
        (torch.ones(4, 4, dtype=torch.bool), r"mask has shape \(4, 4\), which does not broadcast to that of loc"),
        (torch.ones(5, 2, 3, 3, dtype=torch.bool), "which does not broadcast to that of loc"),
    ],
)
def test_masks_must_hold_a_permutation(mask, message):
    with pytest.raises(ValueError, match=message):
        RelaxedRoundingPermutation(ZEROS, 1.0, 1.0, mask=mask)
