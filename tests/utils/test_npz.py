"""Arrays of archives, and archives made to do harm."""

import io
import struct
import zipfile

import numpy as np
import pytest

from pyro_ext.utils.npz import DamagedArchive, npz_arrays


def archive(descr, shape, content=b""):
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}\n".encode()
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as parts:
        parts.writestr("a.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + content)
    return written.getvalue()


def test_arrays_as_numpy_writes_them(tmp_path):
    path = tmp_path / "file.npz"
    np.savez_compressed(path, a=np.arange(5), b=np.asfortranarray(np.arange(6.0).reshape(2, 3)))
    found = npz_arrays(path)
    assert found["a"].tolist() == [0, 1, 2, 3, 4]
    assert found["b"].tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (archive("'|O'", (1,), b"\x80\x04N."), "a.npy holds objects of Python"),
        (archive("[('a', '|O')]", (1,), b"\0" * 8), "a.npy holds objects of Python"),
        (archive("'|V0'", (3,)), "a.npy holds entries without content"),
        (archive("'|S0'", (3,)), "a.npy holds entries without content"),
        (archive("('<f8', (0,))", (3,)), "a.npy holds entries without content"),
        (archive("'<f8'", (-1, 0)), "do not fit its shape"),
        (archive("'<f8'", (10**6,)), "do not fit its shape"),
        (archive("'<f8'", (2,), b"\0" * 15), "do not fit its shape"),
        (archive("'<f8'", (1,), b"\0" * 8)[:-30], "no .npz archive, or not a whole one"),
        (b"", "no .npz archive, or not a whole one"),
    ],
    ids=["object", "field", "no bytes", "no text", "no numbers", "negative", "large", "short", "truncated", "empty"],
)
def test_damaged_or_malicious(tmp_path, content, message):
    path = tmp_path / "file.npz"
    path.write_bytes(content)
    with pytest.raises(DamagedArchive, match=message):
        npz_arrays(path)
