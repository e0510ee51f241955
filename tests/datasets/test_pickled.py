import collections
import os
import pickle
import struct

import numpy as np
import pytest
import scipy.sparse

import pyro_ext.datasets.pickled as reader
from pyro_ext.datasets.pickled import StoredMatrix, read_pickle
from tests.datasets.python2 import pickled

RANDOM = np.random.default_rng(0)
MATRIX = scipy.sparse.csr_matrix(RANDOM.random((20, 30), dtype=np.float32) * (RANDOM.random((20, 30)) < 0.1))
GRAPH = collections.defaultdict(list, {0: [1, 2], 1: [0], 300: [70_000, 2], 5: []})
VALUES = {
    "matrix": MATRIX,
    "integers": np.arange(6, dtype=np.int32).reshape(2, 3),
    "in Fortran's order": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "big-endian": np.arange(4, dtype=">i4"),
    "no rows": np.zeros((0, 3)),
    "graph": GRAPH,
    "containers": {"a": [1.5, None, True, False, 2**40, -3, 300, (), (1,), (1, 2, 3, 4)], "b": b"\x00\xff'\\\n"},
}


def same(one, other):
    if isinstance(one, StoredMatrix):
        parts = all(np.array_equal(getattr(one, name), getattr(other, name)) for name in ("data", "indices", "indptr"))
        return parts and one.shape == other.shape
    if isinstance(other, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other)
    return one == other


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("name", VALUES)
def test_what_python_3_writes(tmp_path, name, protocol):
    path = tmp_path / "file"
    path.write_bytes(pickle.dumps(VALUES[name], protocol))
    assert same(read_pickle(path), VALUES[name])


@pytest.mark.parametrize("protocol", [0, 2])
@pytest.mark.parametrize("name", ["matrix", "integers", "graph"])
def test_what_python_2_wrote(tmp_path, name, protocol):
    path = tmp_path / "file"
    path.write_bytes(pickled(VALUES[name], protocol))
    assert same(read_pickle(path), VALUES[name])


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", range(6))
def test_nothing_is_run(tmp_path, protocol):
    path, mark = tmp_path / "file", tmp_path / "mark"
    path.write_bytes(pickle.dumps([1, Evil(mark)], protocol))
    with pytest.raises(ValueError, match=r"file: it asks for (posix|os)\.mkdir, which is neither .*; nothing was run"):
        read_pickle(path)
    assert not mark.exists()
    pickle.loads(path.read_bytes())
    assert mark.exists()


def nested(levels):
    """A tuple of two of a tuple of two ...: small to write, for ever to hash, compare or show."""
    return b"K\x01" + b"".join(b"q" + bytes([at]) + b"h" + bytes([at]) + b"\x86" for at in range(levels))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "ends too early"),
        (b"K\x01", "ends too early"),
        (b".", "nothing is on the stack"),
        (b"(.", "nothing is on the stack"),
        (b"e.", "a mark is missing"),
        (b"K\x01a.", "nothing is on the stack"),
        (b"K\x01K\x01a.", "a list is missing"),
        (b"h\x01.", "nothing was put aside at place 1"),
        (b"2.", "instruction b'2' at byte 0 is none that data need"),
        (b"cos\nsystem\n.", "asks for os.system"),
        (b"\x8c\x02os\x8c\x06system\x93.", "asks for os.system"),
        (b"c__builtin__\neval\n(S'1'\ntR.", "asks for __builtin__.eval"),
        (b"cnumpy\nload\n.", "asks for numpy.load"),
        (b"K\x01)R.", "something that is not a name is called"),
        (b"cnumpy\ndtype\n(S'O8'\nI0\nI1\ntR.", "an array of 'O8', where numbers belong"),
        (b"cnumpy\ndtype\n.", "it holds a name alone"),
        (b"cnumpy\ndtype\n(S'f4'\ntR(I3\nS'x'\ntb.", "unknown byte order"),
        (b"cnumpy\ndtype\n(" + nested(60) + b"tR.", "an array of tuple, where numbers belong"),
        (b"}" + nested(60) + b"K\x01s.", "a tuple as the key of a dict"),
        (b"ccollections\ndefaultdict\n(cnumpy\ndtype\ntR.", "defaultdict is called at byte"),
        (b"c__builtin__\nobject\n)\x81.", "an object other than a sparse matrix"),
        (b"cscipy.sparse.csr\ncsr_matrix\n)\x81.", "a csr_matrix is incomplete"),
        (b"cscipy.sparse.csr\ncsr_matrix\n)\x81}b.", "the parts of a csr_matrix are incomplete"),
        (b"K\x01}b.", "a state of something that has none"),
        (b"r\xff\xff\xff\xff.", "nothing is on the stack"),
        (b"T\xff\xff\xff\x7f.", "ends too early"),
        (b"\x8e" + b"\xff" * 8 + b".", "ends too early"),
        (b"I" + b"9" * 10_000 + b"\n.", "is no integer"),
        (b"}\x8a\x09" + (2**64).to_bytes(9, "little") + b"Ns.", "18446744073709551616 as the key of a dict"),
        (b"Np-1\n.", "there is no place -1"),
        (b"Np18446744073709551616\n.", "there is no place 18446744073709551616"),
        (b"F1e5e5\n.", "is no number"),
        (b"\x8a\xff" + b"\x01" * 255 + b".", "an integer of 255 bytes"),
        (b"S'abc\n.", "text without quotes"),
        (b"X\x02\x00\x00\x00\xff\xff.", "is no UTF-8"),
        (b"(V\xe9\nVlatin1\nt" + b"c_codecs\nencode\nV\xe9" + b"\n.", None),
    ],
)
def test_damaged_or_malicious(tmp_path, content, message):
    path = tmp_path / "file"
    path.write_bytes(content)
    if message is None:
        assert read_pickle(path) == "é"
        return
    with pytest.raises(ValueError, match=message) as caught:
        read_pickle(path)
    assert str(caught.value).startswith(str(path))


def test_keys_of_one_hash_are_refused(tmp_path):
    """A dict looks through all keys of one hash, so that work would be in proportion to the square of their number."""
    keys = (b"\x8a\x10" + (i * (2**61 - 1) + 7).to_bytes(16, "little") + b"N" for i in range(100))
    path = tmp_path / "file"
    path.write_bytes(b"}(" + b"".join(keys) + b"u.")
    with pytest.raises(ValueError, match="as the key of a dict"):
        read_pickle(path)


def test_instructions_are_counted(tmp_path, monkeypatch):
    """An empty list takes one byte of a file, a thousandth of that where it is packed, and 64 of memory."""
    monkeypatch.setattr(reader, "_MOST_INSTRUCTIONS", 1000)
    path = tmp_path / "file"
    path.write_bytes(b"]" * 999 + b".")
    assert read_pickle(path) == []
    path.write_bytes(b"]" * 1000 + b".")
    with pytest.raises(ValueError, match="more than 1,000 instructions"):
        read_pickle(path)


@pytest.mark.parametrize("size", [-1, 10**30])
def test_matrices_of_impossible_sizes_are_refused(tmp_path, size):
    part = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"
    part += b"(I1\n(I0\ntcnumpy\ndtype\n(S'i4'\ntRI00\nS''\ntb"
    state = b"".join(b"S'%s'\n%ss" % (name, part) for name in (b"data", b"indices", b"indptr"))
    shape = b"S'_shape'\n(I2\nL%dL\nts" % size
    path = tmp_path / "file"
    path.write_bytes(b"cscipy.sparse.csr\ncsr_matrix\n)\x81}" + state + b"S'_shape'\n(I2\nI3\ntsb.")
    assert read_pickle(path).shape == (2, 3)
    path.write_bytes(b"cscipy.sparse.csr\ncsr_matrix\n)\x81}" + state + shape + b"b.")
    with pytest.raises(ValueError, match="the parts of a csr_matrix are incomplete"):
        read_pickle(path)


def test_a_large_place_takes_no_memory(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"K\x07r" + struct.pack("<I", 2**32 - 1) + b".")
    assert read_pickle(path) == 7


def test_text_is_not_made_bytes_again_and_again(tmp_path):
    path = tmp_path / "file"
    text = b"X" + struct.pack("<I", 50_000) + b"a" * 50_000 + b"q\x00"
    again = b"c_codecs\nencode\n(h\x00X\x06\x00\x00\x00latin1tRa"
    path.write_bytes(b"]q\x01" + text + b"a" + again * 1000 + b".")
    with pytest.raises(ValueError, match="the same text is used again and again"):
        read_pickle(path)
