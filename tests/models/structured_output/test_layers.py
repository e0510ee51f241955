import pytest
import torch

from pyro_ext.models.structured_output import Centred, Units
from pyro_ext.models.structured_output.layers import connection, site_names
from pyro_ext.models.toolkit import base_rate_logits


def test_binary_units_are_minus_one_and_one():
    units = Units(5)
    states = units.distribution(torch.zeros(7, 5)).sample()
    assert states.unique().tolist() == [0, 1]
    assert torch.equal(units.values(states), torch.where(states > 0, 1.0, -1.0))


@pytest.mark.parametrize(("categories", "width", "variables"), [(2, 6, 6), (4, 6, 3), (8, 6, 2)])
def test_corners(categories, width, variables):
    units = Units(width, categories)
    assert units.num_variables == variables
    assert units.num_logits == variables * (1 if categories == 2 else categories)
    distribution = units.distribution(torch.randn(500, units.num_logits))
    assert distribution.batch_shape == (500,)
    values = units.values(distribution.sample())
    assert values.shape == (500, width)
    assert values.unique().tolist() == [-1, 1]


@pytest.mark.parametrize("categories", [4, 8])
def test_every_corner_once(categories):
    units = Units(categories.bit_length() - 1, categories)
    corners = units.values(torch.eye(categories).unsqueeze(1))
    assert len(corners.unique(dim=0)) == categories
    assert corners.sum(0).abs().max() == 0
    inside = units.values(torch.full((1, categories), 1 / categories))
    assert inside.abs().max() == 0  # relaxed states lie between the corners


def test_one_hot_units_pass_on_what_they_are():
    units = Units(20, categories=10, coding="one_hot")
    states = units.distribution(torch.zeros(3, 20)).sample()
    assert states.shape == (3, 2, 10)
    assert torch.equal(units.values(states), states.flatten(-2))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0,), "units must be an integer of at least 1, got 0"),
        ((4, 1), "categories must be an integer of at least 2, got 1"),
        ((6, 3), "categories must be a power of 2 with coding='corners', got 3"),
        ((7, 4), "units must be a multiple of 2, the numbers that one variable of 4 categories"),
        ((12, 10, "one_hot"), "units must be a multiple of 10"),
        ((4, 2, "bits"), "coding must be one of corners, one_hot; got 'bits'"),
    ],
)
def test_bad_units(arguments, message):
    with pytest.raises(ValueError, match=message):
        Units(*arguments)


def test_a_running_mean_is_subtracted(dtype):
    centred = Centred(torch.zeros(3, dtype=dtype))
    inputs = torch.randn(2, 50, 3, dtype=dtype) + 4
    for _ in range(100):
        outputs = centred(inputs)
    torch.testing.assert_close(centred.mean, inputs.flatten(0, 1).mean(0), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(outputs.mean((0, 1)), torch.zeros(3, dtype=dtype), rtol=0, atol=1e-3)


def test_the_mean_moves_by_a_tenth_and_in_training_only():
    centred = Centred(torch.tensor([1.0]))
    assert centred(torch.tensor([[3.0], [5.0]])).tolist() == [[2.0], [4.0]]
    assert centred.mean.item() == pytest.approx(0.9 * 1 + 0.1 * 4)
    before = centred.mean.clone()
    with torch.no_grad():
        centred(torch.zeros(2, 1))
    centred.eval()(torch.zeros(2, 1))
    assert torch.equal(centred.mean, before)
    assert torch.equal(Centred(before, decay=1.0).train()(before[None]), torch.zeros(1, 1))


def test_bad_decay():
    with pytest.raises(ValueError, match=r"decay must .*got 1.5"):
        Centred(torch.zeros(2), decay=1.5)


def test_base_rates_are_finite():
    x = torch.tensor([[0.0, 1.0, 0.0]] * 6 + [[0.0, 1.0, 1.0]] * 2)
    torch.testing.assert_close(base_rate_logits(x).sigmoid(), torch.tensor([0.1, 0.9, 0.3]))


def test_connections():
    assert [type(layer).__name__ for layer in connection(3, 4, False, 9)] == ["Linear"]
    assert [type(layer).__name__ for layer in connection(3, 4, True, 9)] == ["Linear", "Tanh"] * 2 + ["Linear"]
    with pytest.raises(ValueError, match="layers must be an integer of at least 1, got 0"):
        site_names(0)
