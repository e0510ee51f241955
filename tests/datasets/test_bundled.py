import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from pyro_ext.datasets import AVAILABLE, digits, load


def test_digits_are_those_of_scikit_learn():
    splits = digits()
    images, labels = load_digits(return_X_y=True)
    x = torch.cat([splits.train.x, splits.valid.x])
    y = torch.cat([splits.train.y, splits.valid.y])
    assert (len(splits.train), len(splits.valid), splits.test) == (1500, 297, None)
    assert x.dtype == torch.float32
    assert y.dtype == torch.int64
    np.testing.assert_array_equal(x.numpy(), images > 7.5)
    np.testing.assert_array_equal(y.numpy(), labels)


def test_digits_in_shades():
    x = digits(binarize=None).train.x
    assert (x.min(), x.max()) == (0, 1)
    assert len(x.unique()) == 17


def test_digits_cut_elsewhere():
    splits = digits(num_train=1000)
    assert (len(splits.train), len(splits.valid)) == (1000, 797)
    assert torch.equal(splits.valid.x[0], digits().train.x[1000])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: digits(num_train=0), "num_train must be an integer from 1 to 1796, got 0"),
        (lambda: digits(num_train=1797), "num_train must be an integer from 1 to 1796, got 1797"),
        (lambda: digits(num_train=15.5), "num_train must be an integer"),
        (lambda: digits(binarize=16), r"binarize must be a number in \[0, 16\)"),
        (lambda: digits(binarize=-1.0), r"binarize must be a number in \[0, 16\)"),
        (lambda: load("digit"), f"name must be one of {', '.join(AVAILABLE)}; got 'digit'"),
        (
            lambda: load("digits", threshold=0.5),
            "data set 'digits' has no option 'threshold'; it has binarize, num_train",
        ),
    ],
)
def test_bad_calls(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_load_is_the_loader():
    assert set(AVAILABLE) >= {"digits", "mnist"}
    assert torch.equal(load("digits", num_train=100).train.x, digits(num_train=100).train.x)
