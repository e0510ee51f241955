import gzip
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from pyro_ext.phylo import MutationMatrix, read_mutations, write_mutations


def read(tmp_path, text, name="matrix.csv"):
    path = tmp_path / name
    path.write_text(text)
    return read_mutations(path)


PLAIN = [[1, 0, 1], [0, 3, 1], [0, 0, 0], [1, 1, 1]]


@pytest.mark.parametrize(
    ("text", "cells", "mutations"),
    [
        ("1,0,1\n0,3,1\n0,0,0\n1,1,1\n", False, False),
        ("1\t0\t1\r\n0\tNA\t1\r\n0\t0\t0\r\n1\t1\t1", False, False),
        ("1.0, 0.0, 1.0\n0.0,,1.0\n\n0.0,0.0,0.0\n1.0,1.0,1.0\n", False, False),
        ("a,b,c\n1,0,1\n0,?,1\n0,0,0\n1,1,1\n", False, True),
        ("A,1,0,1\nB,0,nan,1\nC,0,0,0\nD,1,1,1\n", True, False),
        ("cell,a,b,c\nA,1,0,1\nB,0,3,1\nC,0,0,0\nD,1,1,1\n", True, True),
        ("a\tb\tc\nA\t1\t0\t1\nB\t0\t3\t1\nC\t0\t0\t0\nD\t1\t1\t1\n", True, True),
        ("\ufeffcell,a,b,c\nA,1,0,1\nB,0,3,1\nC,0,0,0\nD,1,1,1\n", True, True),
        ('"cell","a","b","c"\n"A",1,0,1\n"B",0,3,1\n"C",0,0,0\n"D",1,1,1\n', True, True),
    ],
)
def test_tables(tmp_path, text, cells, mutations):
    matrix = read(tmp_path, text)
    assert matrix.values.tolist() == PLAIN
    assert matrix.cells == (("A", "B", "C", "D") if cells else ("cell1", "cell2", "cell3", "cell4"))
    assert matrix.mutations == (("a", "b", "c") if mutations else ("m1", "m2", "m3"))


def test_numbers_as_names(tmp_path):
    matrix = read(tmp_path, ",0,1,2\n0,1,0,1\n1,0,3,1\n2,0,0,0\n3,1,1,1\n")
    assert (matrix.values.tolist(), matrix.cells, matrix.mutations) == (PLAIN, ("0", "1", "2", "3"), ("0", "1", "2"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty"),
        ("\n\n", "the file is empty"),
        ("a,b\n", "no line but that of names"),
        ("A\nB\nC\n", "no column but that of names|no line"),
        ("1,0,1\n0,1\n", r"line 2 has 2 fields, line 1 has 3"),
        ("1,0,1\n0,1,2\n1,1,1\n", r"line 2, column 3: entries must be 0, 1, or 3 or NA.*got '2'; take a homozygous"),
        ("1,0,1,1,2\n0,1,1,1,1\n", r"line 1, column 5: entries must be"),
        ("2,0,1,0\n0,1,1,1\n0,0,1,1\n0,0,1,1\n1,1,1,1\n", r"line 1, column 1: entries must be"),
        ("a,b,c\n1,0,x\n1,1,1\n", r"line 2, column 3: .*got 'x'"),
        ("a,b,a\n1,0,1\n1,1,1\n", "mutations must have names that differ, got 'a' twice"),
        ("A,1,0\nA,1,1\n", "cells must have names that differ, got 'A' twice"),
        ("a,b,c\n1,0\n1,0\n", "line 1 names 3 columns, line 2 has 2"),
        ("1,0\0,1\n", "zero bytes"),
    ],
)
def test_broken_tables(tmp_path, text, message):
    with pytest.raises(ValueError, match=message) as caught:
        read(tmp_path, text)
    assert str(caught.value).startswith(str(tmp_path / "matrix.csv"))
    assert str(caught.value).count("matrix.csv") == 1


@pytest.mark.parametrize("name", ["out.csv", "out.tsv", "out.SC"])
def test_written_and_read_again(tmp_path, name):
    matrix = MutationMatrix.of(PLAIN, ["A,1", 'B"', "C", "D"], ["x", "y z", "w"])
    write_mutations(matrix, tmp_path / name)
    again = read_mutations(tmp_path / name)
    assert torch.equal(again.values, matrix.values)
    assert (again.cells, again.mutations) == (matrix.cells, matrix.mutations)
    assert ("\t" in (tmp_path / name).read_text()) == (name != "out.csv")


def test_compressed(tmp_path):
    (tmp_path / "matrix.csv.gz").write_bytes(gzip.compress(b"1,0\n0,1\n", mtime=0))
    assert read_mutations(tmp_path / "matrix.csv.gz").values.tolist() == [[1, 0], [0, 1]]
    with pytest.raises(FileNotFoundError):
        read_mutations(tmp_path / "none.csv")


@pytest.mark.parametrize("dtype", [bool, np.int64, np.uint8, np.float32])
def test_arrays(dtype):
    matrix = MutationMatrix.of(np.array([[1, 0], [0, 1]], dtype))
    assert matrix.values.dtype == torch.int8
    assert matrix.values.tolist() == [[1, 0], [0, 1]]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([[1, 2]], "values must be 0, 1 or 3 .missing., got 2 in row 1, column 2"),
        ([[0.5, 1]], "got 0.5 in row 1"),
        ([[-1, 1]], "got -1 in row 1"),
        ([[float("inf"), 1]], "got inf in row 1"),
        ([[259, 1]], "got 259"),
        ([1, 0], r"values must be \(cells, mutations\), got shape \(2,\)"),
        (np.zeros((0, 3)), "a cell and a mutation at least"),
        (np.zeros((3, 0)), "a cell and a mutation at least"),
        ([["a"]], "array of numbers"),
        ([[1, 0], [1]], "array of numbers"),
    ],
)
def test_wrong_arrays(values, message):
    with pytest.raises(ValueError, match=message):
        MutationMatrix.of(values)


def test_wrong_names():
    with pytest.raises(ValueError, match="cells must have 1 names, got 2"):
        MutationMatrix.of([[1]], ["a", "b"])
    with pytest.raises(ValueError, match=r"values must be int8.*MutationMatrix.of"):
        MutationMatrix(torch.zeros(1, 1), ("a",), ("b",))


def test_parts():
    matrix = MutationMatrix.of(PLAIN)
    assert matrix.observed.tolist()[1] == [True, False, True]
    assert matrix.filled(1).tolist()[1] == [0, 1, 1]
    part = matrix.select([3, 0], [2])
    assert (part.values.tolist(), part.cells, part.mutations) == ([[1], [1]], ("cell4", "cell1"), ("m3",))
    assert matrix.replace(matrix.filled()).cells == matrix.cells
    assert MutationMatrix.of(np.zeros((1, 12), int)).mutations[:2] == ("m01", "m02")


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "shape"),
    [("tnbc", (16, 20)), ("acute_lymphocytic_leukemia6", (146, 10)), ("renal_cell_carcinoma", (17, 35))],
)
def test_real_matrices(name, shape):
    root = os.environ.get("PYRO_EXT_DATA")
    if not root:
        pytest.skip("PYRO_EXT_DATA is not set")
    path = Path(root) / "tumour" / f"{name}.csv"
    assert read_mutations(path).shape == shape
