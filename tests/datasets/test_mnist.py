import gzip
import hashlib
import logging
import struct
from dataclasses import replace

import numpy as np
import pooch
import pytest
import torch

from pyro_ext.datasets import MissingDataError, find_file, mnist, mnist_files
from pyro_ext.datasets.locate import ENVIRONMENT_VARIABLE


def content(part, shape):
    """An IDX file of the given shape, its bytes made from the name of the part."""
    values = np.random.default_rng(len(part)).integers(0, 256 if len(shape) == 3 else 10, shape, dtype=np.uint8)
    return bytes([0, 0, 8, len(shape)]) + struct.pack(f">{len(shape)}I", *shape) + values.tobytes()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with small files in place of the four, and a loader that expects their shapes and sums."""
    (tmp_path / "mnist").mkdir()
    small = {}
    for part, file in mnist_files._FILES.items():
        shape = (60 if part.startswith("train") else 20, *file.shape[1:])
        data = content(part, shape)
        small[part] = replace(file, shape=shape, md5=hashlib.md5(data).hexdigest())
        compressed = part.startswith("test")
        path = tmp_path / "mnist" / (file.name + ".gz" * compressed)
        path.write_bytes(gzip.compress(data, mtime=0) if compressed else data)
    monkeypatch.setattr(mnist_files, "_FILES", small)
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(tmp_path))
    return tmp_path / "mnist"


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise ConnectionError("no network")

    monkeypatch.setattr(pooch, "retrieve", refuse)


def test_full_protocol(folder):
    splits = mnist(num_valid=10)
    assert (len(splits.train), len(splits.valid), len(splits.test)) == (50, 10, 20)
    assert splits.name == "mnist"
    assert splits.image_shape == (28, 28)
    assert splits.train.x.shape == (50, 784)
    raw = np.frombuffer(content("train images", (60, 28, 28))[16:], np.uint8).reshape(60, 784)
    np.testing.assert_array_equal(torch.cat([splits.train.x, splits.valid.x]).numpy(), raw / 255 > 0.5)


def test_shades(folder):
    x = mnist(binarize=None, num_valid=10).train.x
    assert x.dtype == torch.float32
    assert (x.min(), x.max()) == (0, 1)
    assert len(x.unique()) == 256


def test_split_protocol_where_only_the_test_images_are(folder, caplog):
    (folder / "train-images-idx3-ubyte").unlink()
    with caplog.at_level(logging.WARNING, "pyro_ext"):
        splits = mnist(num_valid=4)
    assert "only the MNIST test images are under PYRO_EXT_DATA" in caplog.text
    assert (splits.name, len(splits.train), len(splits.valid), splits.test) == ("mnist-split", 16, 4, None)


def test_missing_file_says_where_to_get_and_put_it(folder, no_network):
    (folder / "train-images-idx3-ubyte").unlink()
    with pytest.raises(MissingDataError) as error:
        mnist(protocol="full")
    message = str(error.value)
    assert "train-images-idx3-ubyte not found" in message
    assert "https://ossci-datasets.s3.amazonaws.com/mnist/train-images-idx3-ubyte.gz" in message
    assert "set PYRO_EXT_DATA" in message
    assert isinstance(error.value, FileNotFoundError)
    assert isinstance(error.value, ValueError)


def test_second_mirror_is_tried(folder, monkeypatch):
    tried = []

    def retrieve(url, known_hash, fname, path, downloader):
        tried.append(url)
        if len(tried) == 1:
            raise ConnectionError("no network")
        assert known_hash == "md5:f68b3c2dcbeaaa9fbdd348bbdeb94873"
        return str(folder / "elsewhere")

    (folder / "train-images-idx3-ubyte").rename(folder / "elsewhere")
    monkeypatch.setattr(pooch, "retrieve", retrieve)
    assert len(mnist(protocol="full", num_valid=10).train) == 50
    assert len(tried) == 2


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda data: data[:-1], "truncated"),
        (lambda data: b"\x07" + data[1:], "not an IDX file"),
        (lambda data: data[:-1] + bytes([data[-1] ^ 1]), "content has MD5"),
    ],
)
def test_damaged_file(folder, damage, problem):
    path = folder / "train-labels-idx1-ubyte"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=f"train-labels-idx1-ubyte: .*{problem}"):
        mnist()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"protocol": "small"}, "protocol must be one of auto, full, split; got 'small'"),
        ({"threshold": 1.0}, r"threshold must be a number in \[0, 1\)"),
        ({"binarize": "random"}, "binarize must be one of threshold, dynamic; got 'random'"),
        ({"seed": -1}, "seed must be an integer of at least 0, got -1"),
        ({"num_valid": 60}, "num_valid must be an integer from 1 to 59, got 60"),
        ({"num_valid": 0}, "num_valid must be an integer from 1 to 59, got 0"),
    ],
)
def test_bad_options(folder, options, message):
    with pytest.raises(ValueError, match=message):
        mnist(**options)


def test_folder_that_does_not_exist(monkeypatch, tmp_path):
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(tmp_path / "nowhere"))
    with pytest.raises(MissingDataError, match=r"PYRO_EXT_DATA names .*nowhere', which is not a folder"):
        find_file("mnist", "train-images-idx3-ubyte")


def test_nothing_is_found_without_the_variable(monkeypatch):
    monkeypatch.delenv(ENVIRONMENT_VARIABLE, raising=False)
    assert find_file("mnist", "train-images-idx3-ubyte") is None


@pytest.mark.data
def test_real_test_images():
    if find_file("mnist", "t10k-images-idx3-ubyte") is None:
        pytest.skip("no MNIST test images under PYRO_EXT_DATA")
    splits = mnist(protocol="split")
    assert (len(splits.train), len(splits.valid)) == (8000, 2000)
    assert splits.train.y[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert torch.cat([splits.train.y, splits.valid.y]).bincount().tolist() == [
        980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009,
    ]  # fmt: skip
