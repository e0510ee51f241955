"""Damaged files of subsplits: refused in words of our own that name the file, or read as what was written."""

import io
import zipfile

import numpy as np
import pytest

from pyro_ext.distributions import SubsplitBayesianNetwork
from pyro_ext.phylo import SubsplitSupport, parse_trees


@pytest.fixture
def support():
    return SubsplitSupport.from_trees(parse_trees("(a,b,(c,d));(a,c,(b,d));"))


def damaged(good):
    yield from (good[:k] for k in range(0, len(good), 7))
    yield from (good[:k] + bytes([good[k] ^ 64]) + good[k + 1 :] for k in range(0, len(good), 5))
    yield from (good[:k] + good[k + 8 :] for k in range(0, len(good), 11))
    yield from (good[:k] + b"12345678" + good[k:] for k in range(0, len(good), 11))


def refusal(path, support):
    try:
        assert SubsplitSupport.load(path) == support
    except ValueError as error:
        return error
    return None


def test_damage_of_every_kind(tmp_path, support):
    path = tmp_path / "network.npz"
    support.save(path)
    refused = 0
    for content in damaged(path.read_bytes()):
        path.write_bytes(content)
        error = refusal(path, support)
        assert error is None or (type(error) is ValueError and str(error).startswith(str(path)))
        refused += error is not None
    assert refused > 500


def stored(path, **parts):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            archive.writestr(f"{name}.npy", content)


def header(shape, dtype="<f8", data=b""):
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": dtype, "fortran_order": False, "shape": shape})
    return stream.getvalue() + data


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (header((10**12,)), r"taxa.npy has 0 bytes, which do not fit its shape \(1000000000000,\)"),
        (header((2,), data=bytes(15)), r"taxa.npy has 15 bytes, which do not fit"),
        (header((1,), "|O", bytes(8)), "taxa.npy holds objects of Python"),
        (b"no array", "it is no .npz archive, or not a whole one"),
        (b"\x93NUMPY\x09\x00", "taxa.npy is of version"),
    ],
)
def test_arrays_that_their_headers_do_not_fit(tmp_path, content, message):
    path = tmp_path / "network.npz"
    stored(path, taxa=content)
    for kind in (SubsplitSupport, SubsplitBayesianNetwork):
        with pytest.raises(ValueError, match=f"network.npz is no file of subsplits, or damaged: {message}"):
            kind.load(path)


def test_what_grows_without_measure_is_not_unpacked(tmp_path):
    path = tmp_path / "network.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("taxa.npy", "w") as file:
        for _ in range(260):
            file.write(bytes(2**20))
    with pytest.raises(ValueError, match=r"network.npz is no file of subsplits, or damaged: .* hold more than 260 MiB"):
        SubsplitSupport.load(path)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("logits", lambda x: x.astype("U3"), "logits holds <U3, where numbers belong"),
        ("logits", lambda x: x.astype("c16"), "logits holds complex128, where numbers belong"),
        ("taxa", lambda x: np.arange(len(x)), "taxa holds int64, where texts belong"),
    ],
)
def test_arrays_of_other_types(tmp_path, support, name, change, message):
    path = tmp_path / "network.npz"
    SubsplitBayesianNetwork(support).save(path)
    arrays = dict(np.load(path))
    np.savez(path, **arrays | {name: change(arrays[name])})
    with pytest.raises(ValueError, match=f"network.npz: {message}"):
        SubsplitBayesianNetwork.load(path)
    np.savez(path, **arrays | {"logits": arrays["logits"].astype(">f8")})
    assert SubsplitBayesianNetwork.load(path).subsplits == support
