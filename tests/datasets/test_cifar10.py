import hashlib
import importlib
import io
import tarfile

import numpy as np
import pooch
import pytest
import torch

from pyro_ext.datasets import MissingDataError, cifar10, load
from pyro_ext.datasets.locate import ENVIRONMENT_VARIABLE, find_file

MODULE = importlib.import_module("pyro_ext.datasets.cifar10")  # whose name in the package is that of the function
ROWS = 20


def batch(number):
    """A file of records: labels in turn, and pixels made from the number of the file."""
    pixels = np.random.default_rng(number).integers(0, 256, (ROWS, 3072), dtype=np.uint8)
    labels = (np.arange(ROWS) % 10).astype(np.uint8)
    return np.concatenate([labels[:, None], pixels], 1).tobytes()


FILES = {f"data_batch_{number}.bin": batch(number) for number in range(1, 6)} | {"test_batch.bin": batch(6)}


def write_archive(path, files=FILES):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in reversed(files.items()):  # in the order of no particular name
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return hashlib.md5(path.read_bytes()).hexdigest()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty data folder, and a loader that expects small files."""
    monkeypatch.setattr(MODULE, "_ROWS", ROWS)
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(tmp_path))
    (tmp_path / "cifar10").mkdir()
    return tmp_path / "cifar10"


@pytest.fixture
def archive(folder, monkeypatch):
    path = folder / "cifar-10-binary.tar.gz"
    monkeypatch.setattr(MODULE, "_MD5", write_archive(path))
    return path


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise ConnectionError("no network")

    monkeypatch.setattr(pooch, "retrieve", refuse)


def check(splits):
    assert (len(splits.train), len(splits.valid), len(splits.test)) == (90, 10, 20)
    assert splits.name == "cifar10"
    assert splits.image_shape == (32, 32)
    raw = np.frombuffer(b"".join(FILES[f"data_batch_{number}.bin"] for number in range(1, 6)), np.uint8)
    raw = raw.reshape(100, 3073)
    x = torch.cat([splits.train.x, splits.valid.x])
    assert x.dtype == torch.float32
    np.testing.assert_allclose(x.numpy(), raw[:, 1:] / 255, atol=1e-7)
    assert (x.min(), x.max()) == (0, 1)
    assert torch.cat([splits.train.y, splits.valid.y]).tolist() == 10 * list(range(10))
    test = np.frombuffer(FILES["test_batch.bin"], np.uint8).reshape(20, 3073)
    np.testing.assert_allclose(splits.test.x.numpy(), test[:, 1:] / 255, atol=1e-7)


def test_archive_is_read_without_being_unpacked(archive, no_network):
    check(load("cifar10", num_valid=10))
    assert [path.name for path in archive.parent.iterdir()] == [archive.name]


@pytest.mark.parametrize("within", [".", "cifar-10-batches-bin"])
def test_unpacked_files(folder, no_network, within):
    (folder / within).mkdir(exist_ok=True)
    for name, content in FILES.items():
        (folder / within / name).write_bytes(content)
    check(cifar10(num_valid=10))


@pytest.mark.parametrize("variable", [True, False])
def test_archive_is_fetched_where_there_is_none(folder, tmp_path, monkeypatch, variable):
    if not variable:
        monkeypatch.delenv(ENVIRONMENT_VARIABLE)
    elsewhere = tmp_path / "fetched.tar.gz"
    md5 = write_archive(elsewhere)
    monkeypatch.setattr(MODULE, "_MD5", md5)

    def retrieve(url, known_hash, fname, path, downloader):
        assert url == "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
        assert known_hash == f"md5:{md5}"
        return str(elsewhere)

    monkeypatch.setattr(pooch, "retrieve", retrieve)
    check(cifar10(num_valid=10))


def test_missing_archive_says_where_to_get_and_put_it(folder, no_network):
    with pytest.raises(MissingDataError) as error:
        cifar10(num_valid=10)
    message = str(error.value)
    assert "get https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz and put it into the folder cifar10" in message
    assert "set PYRO_EXT_DATA" in message
    assert "fetching it failed: ConnectionError" in message


def test_damaged_archive(archive):
    data = archive.read_bytes()
    archive.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(ValueError, match=r"cifar-10-binary.tar.gz: content has MD5 .*, expected .*; delete it and get"):
        cifar10(num_valid=10)


def test_archive_without_a_file(folder, monkeypatch):
    files = {name: content for name, content in FILES.items() if name != "data_batch_3.bin"}
    md5 = write_archive(folder / "cifar-10-binary.tar.gz", files)
    monkeypatch.setattr(MODULE, "_MD5", md5)
    with pytest.raises(ValueError, match=r"holds no data_batch_3.bin"):
        cifar10(num_valid=10)


@pytest.mark.parametrize(
    ("name", "damage", "problem"),
    [
        ("data_batch_2.bin", lambda data: data[:-1], r"data_batch_2.bin: 61459 bytes, expected 20 records of 3073"),
        ("data_batch_5.bin", lambda data: b"\x0b" + data[1:], r"data_batch_5.bin: label 11, expected 0 .. 9"),
        ("test_batch.bin", lambda data: b"\x01" + data[1:], "should hold equally many images of each class"),
        ("data_batch_4.bin", None, r"data_batch_4.bin not found beside the other files; CIFAR-10 archive not found"),
    ],
)
def test_damaged_files(folder, name, damage, problem):
    for own, content in FILES.items():
        (folder / own).write_bytes(content)
    if damage is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(damage(FILES[name]))
    with pytest.raises(ValueError, match=problem):
        cifar10(num_valid=10)


@pytest.mark.parametrize("number", [0, 100, 2.5, True])
def test_bad_number_for_validation(archive, number):
    with pytest.raises(ValueError, match=f"num_valid must be an integer from 1 to 99, got {number}"):
        cifar10(num_valid=number)


@pytest.mark.data
def test_real_images():
    if find_file("cifar10", "cifar-10-binary.tar") is None:
        pytest.skip("no CIFAR-10 archive under PYRO_EXT_DATA")
    splits = cifar10()
    assert (len(splits.train), len(splits.valid), len(splits.test)) == (45000, 5000, 10000)
    assert torch.cat([splits.train.y, splits.valid.y]).bincount().tolist() == 10 * [5000]
    assert splits.train.y[:10].tolist() == [6, 9, 9, 4, 1, 1, 2, 7, 8, 3]
