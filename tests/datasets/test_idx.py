import gzip
import hashlib
import struct
import tracemalloc

import numpy as np
import pytest

from pyro_ext.datasets import read_idx

PLAIN = bytes([0, 0, 8, 3]) + struct.pack(">3I", 2, 2, 3) + bytes(range(12))
ZIPPED = gzip.compress(PLAIN, mtime=0)


@pytest.mark.parametrize(("name", "content"), [("a-ubyte", PLAIN), ("a-ubyte.gz", ZIPPED)])
def test_reads_plain_and_compressed(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    array = read_idx(path, hashlib.md5(PLAIN).hexdigest())
    np.testing.assert_array_equal(array, np.arange(12, dtype=np.uint8).reshape(2, 2, 3))
    assert array.flags.writeable


@pytest.mark.parametrize(
    ("code", "dtype"), [(0x08, "u1"), (0x09, "i1"), (0x0B, ">i2"), (0x0C, ">i4"), (0x0D, ">f4"), (0x0E, ">f8")]
)
def test_every_type_comes_in_native_order(tmp_path, code, dtype):
    values = np.array([1, 2, 100], dtype=dtype)
    path = tmp_path / "values"
    path.write_bytes(bytes([0, 0, code, 1]) + struct.pack(">I", 3) + values.tobytes())
    array = read_idx(path)
    assert array.dtype.isnative
    np.testing.assert_array_equal(array, values)


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("empty", b"", "not an IDX file"),
        ("magic", b"\x01" + PLAIN[1:], "not an IDX file, its magic number is 0x01000803"),
        ("type", PLAIN[:2] + b"\x07" + PLAIN[3:], "not an IDX file, its magic number is 0x00000703"),
        ("dims", PLAIN[:3] + b"\x00" + PLAIN[4:], "not an IDX file"),
        ("header", PLAIN[:10], "truncated in the header, 10 bytes of 16"),
        ("short", PLAIN[:-1], r"truncated, 27 bytes where shape \(2, 2, 3\) needs 28"),
        ("long", PLAIN + b"\x00", r"too long, 29 bytes where shape \(2, 2, 3\) needs 28"),
        ("huge", bytes([0, 0, 8, 3]) + b"\xff" * 12, "truncated, 16 bytes"),
        ("many", bytes([0, 0, 8, 65]) + bytes(65 * 4), "the header says 65 dims, more than the 32 of an array"),
        ("wide", bytes([0, 0, 8, 5]) + bytes(4) + b"\xff" * 16, "is none that an array can have"),
        ("plain.gz", PLAIN, "not a whole gzip file"),
        ("cut.gz", ZIPPED[:-9], "not a whole gzip file"),
        ("damaged.gz", ZIPPED[:12] + b"\xff\xff\xff" + ZIPPED[15:], "not a whole gzip file"),
        ("crc.gz", ZIPPED[:-8] + b"\x00" * 4 + ZIPPED[-4:], "not a whole gzip file"),
    ],
)
def test_broken_files_are_named(tmp_path, name, content, problem):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=problem) as error:
        read_idx(path)
    assert str(path) in str(error.value)


def test_other_content_than_promised(tmp_path):
    path = tmp_path / "other"
    path.write_bytes(PLAIN[:-1] + b"\x63")
    with pytest.raises(ValueError, match=r"other: content has MD5 [0-9a-f]{32}, expected"):
        read_idx(path, hashlib.md5(PLAIN).hexdigest())


def test_memory_is_bounded_by_the_shape(tmp_path):
    """What is longer than its header says is counted and not kept, and what grows without measure is refused."""
    path = tmp_path / "bomb.gz"
    header = bytes([0, 0, 8, 1]) + struct.pack(">I", 3)
    with gzip.open(path, "wb", 6) as file:
        file.write(header)
        for _ in range(280):
            file.write(bytes(2**20))
    tracemalloc.start()
    try:
        with pytest.raises(
            ValueError, match=r"bomb.gz: [\d,]+ compressed bytes hold more than 25\d MiB, which is hard"
        ):
            read_idx(path)
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()
