import math

import pytest
import torch

from pyro_ext.utils import checks

WRONG = [
    (lambda: checks.positive_int("k", 0), "k must be an integer of at least 1, got 0"),
    (lambda: checks.positive_int("k", True), "k must be an integer of at least 1, got True"),
    (lambda: checks.positive_int("k", 2.0), "k must be an integer of at least 1, got 2.0"),
    (lambda: checks.positive_int("k", 9, maximum=8), "k must be an integer from 1 to 8, got 9"),
    (lambda: checks.optional_positive_int("k", 0), "k must be an integer of at least 1, got 0"),
    (lambda: checks.positive_number("noise", math.inf), "noise must be a positive, finite number, got inf"),
    (lambda: checks.positive_number("noise", math.nan), "noise must be a positive, finite number, got nan"),
    (lambda: checks.positive_number("noise", "1"), "noise must be a positive, finite number, got '1'"),
    (lambda: checks.nonnegative_number("rate", -0.5), "rate must be a finite number of at least 0, got -0.5"),
    (lambda: checks.nonnegative_number("rate", False), "rate must be a finite number of at least 0, got False"),
    (lambda: checks.number_between("x", 0, 0, 1, "(]"), r"x must be a number in \(0, 1\], got 0"),
    (lambda: checks.number_between("x", 1, 0, 1, "[)"), r"x must be a number in \[0, 1\), got 1"),
    (lambda: checks.number_between("x", math.nan, 0, 1), r"x must be a number in \[0, 1\], got nan"),
    (lambda: checks.probability("p", 1.5), r"p must be a number in \[0, 1\], got 1.5"),
    (lambda: checks.one_of("kind", "c", ("a", "b")), "kind must be one of a, b; got 'c'"),
    (lambda: checks.check_positive_tensor("s", torch.tensor([1.0, 0.0])), "s must be positive and finite, got 0"),
    (lambda: checks.check_positive_tensor("s", torch.tensor(torch.nan)), "s must be positive and finite, got nan"),
    (lambda: checks.check_positive_tensor("s", torch.tensor(torch.inf)), "s must be positive and finite, got inf"),
]


@pytest.mark.parametrize(("call", "message"), WRONG)
def test_wrong_values_are_named(call, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        call()


def test_right_values_are_returned():
    assert checks.positive_int("k", 3, maximum=3) == 3
    assert checks.optional_positive_int("k", None) is None
    assert checks.positive_number("x", 2) == 2.0
    assert isinstance(checks.positive_number("x", 2), float)
    assert checks.nonnegative_number("x", 0) == 0.0
    assert checks.number_between("x", 0, 0, 1) == 0.0
    assert checks.probability("x", 1) == 1.0
    assert checks.one_of("kind", None, (None, "a")) is None
    checks.check_positive_tensor("x", torch.ones(0))
