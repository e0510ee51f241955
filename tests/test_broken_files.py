"""Broken files: whatever is in them, they are read, or refused in time with an error of ours that names the file."""

import contextlib
import gzip
import io
import logging
import pickle
import random
import signal
import struct
import traceback
import zipfile
from pathlib import Path

import numpy as np
import pytest

import pyro_ext
from pyro_ext.datasets import planetoid, read_idx
from pyro_ext.datasets.celegans import read_connectome
from pyro_ext.datasets.locate import ENVIRONMENT_VARIABLE
from pyro_ext.datasets.pickled import read_pickle
from pyro_ext.distributions import SubsplitBayesianNetwork
from pyro_ext.phylo import SubsplitSupport, parse_trees, read_alignment, read_trees
from tests.broken_texts import TEXTS, broken, changed
from tests.datasets import planetoid_files
from tests.datasets.python2 import pickled
from tests.datasets.test_celegans import CONNECTIONS, TYPES

PACKAGE = str(Path(pyro_ext.__file__).parent)
SECONDS = 5  # for one file, of which the whole ones take milliseconds


@pytest.fixture(autouse=True)
def _quiet():
    logging.disable(logging.WARNING)  # of multifurcations
    yield
    logging.disable(logging.NOTSET)


class TooLongError(BaseException):
    """Reading a file takes too long."""


@contextlib.contextmanager
def time_limit():
    def stop(*_):
        raise TooLongError

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def check(error, path):
    """Every message begins with the file and says nothing that another library said."""
    assert type(error) is ValueError, repr(error)
    assert str(error).startswith(str(path)), error
    cause = error
    while cause is not None:
        line = traceback.extract_tb(cause.__traceback__)[-1]
        is_ours = line.filename.startswith(PACKAGE) and (line.line or "").lstrip().startswith("raise")
        assert is_ours or cause is not error, error
        assert is_ours or not str(cause) or str(cause) not in str(error), error
        cause = cause.__cause__


def refusals(contents, path, calls, shown=None):
    """Write each content and read it; return how often it was refused."""
    refused = 0
    for content in contents:
        path.write_bytes(content)
        for call in calls:
            try:
                with time_limit():
                    call()
            except ValueError as error:
                check(error, shown or path)
                refused += 1
            except BaseException as error:
                raise AssertionError(f"{type(error).__name__}: {error}, reading {content!r}") from error
    return refused


TREES, ALIGNMENTS = TEXTS[:8], TEXTS[8:]
SEEDS = 4


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(SEEDS))
def test_trees(tmp_path, seed):
    rng = random.Random(seed)
    path = tmp_path / "broken"

    def call():
        read_trees(
            path,
            rooted=rng.choice([None, False, True]),
            allow_truncated=rng.random() < 0.3,
            polytomies=rng.choice(["refuse", "random", "zero_length", "all", "skip"]),
            burnin=rng.choice([0, 0, 1, 0.5]),
            weights=rng.random() < 0.8,
        )

    number = 12_000
    contents = (broken(rng, TREES if rng.random() < 0.9 else TEXTS) for _ in range(number))
    assert number / 3 < refusals(contents, path, [call]) < number


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(SEEDS))
def test_alignments(tmp_path, seed):
    rng = random.Random(100 + seed)
    path = tmp_path / "broken"

    def call():
        kind = rng.choice([None, None, "fasta", "phylip", "nexus", "clustal", "stockholm"])
        read_alignment(path, format=kind, names=rng.choice(["word", "word", "joined", "ten"]))

    number = 8_000
    contents = (broken(rng, ALIGNMENTS if rng.random() < 0.9 else TEXTS) for _ in range(number))
    assert number / 3 < refusals(contents, path, [call]) < number


def packed_or_not(content, rng):
    if rng.random() < 0.3:
        content = gzip.compress(content, 1)
        if rng.random() < 0.5:
            content = changed(content, rng)
    return content


def broken_idx(rng):
    dims = [rng.randrange(4) for _ in range(rng.randrange(1, 5))]
    kind, size = rng.choice([(8, 1), (9, 1), (11, 2), (12, 4), (13, 4), (14, 8)])
    content = bytes([0, 0, kind, len(dims)]) + struct.pack(f">{len(dims)}I", *dims) + bytes(int(np.prod(dims)) * size)
    for _ in range(rng.choice([0, 1, 1, 2])):
        content = changed(content, rng)
    return packed_or_not(content, rng)


@pytest.mark.slow
def test_idx(tmp_path):
    rng = random.Random(1)
    path = tmp_path / "broken"
    number = 12_000
    refused = refusals((broken_idx(rng) for _ in range(number)), path, [lambda: read_idx(path)])
    assert number / 3 < refused < number


@pytest.mark.slow
@pytest.mark.parametrize("name", ["NeuronType.csv", "NeuronConnect.csv"])
def test_tables_of_neurons(tmp_path, monkeypatch, name):
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(tmp_path))
    rng = random.Random(2)
    folder = tmp_path / "celegans"
    folder.mkdir()
    whole = {"NeuronType.csv": TYPES, "NeuronConnect.csv": CONNECTIONS}
    for each, text in whole.items():
        (folder / each).write_text(text)

    def contents(number):
        for _ in range(number):
            content = whole[name].encode(rng.choice(["utf-8"] * 9 + ["utf-16"]))
            for _ in range(rng.choice([1, 1, 2, 4])):
                content = changed(content, rng)
            yield packed_or_not(content, rng)

    number = 3_000
    refused = refusals(contents(number), folder / name, [read_connectome], shown=folder)
    assert number / 3 < refused < number


def stored(arrays, rng):
    """An archive of arrays, of which some bytes have changed before their check sums were written."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])) as archive:
        for name, array in arrays.items():
            own = io.BytesIO()
            np.save(own, array)
            content = own.getvalue()
            if rng.random() < 0.1:
                content = changed(content, rng)
            archive.writestr(f"{name}.npy", content)
    return stream.getvalue()


def broken_array(array, rng):
    kind = rng.randrange(6)
    if kind == 0:
        return array[: rng.randrange(len(array) + 1)] if array.ndim else array
    if kind == 1:
        kinds = ["U1", "S9"] if array.dtype.kind in "US" else ["f8", "i1", "u8", "U3", "bool", "c16"]
        with np.errstate(invalid="ignore"):
            return array.astype(rng.choice(kinds))
    if kind == 2:
        return array.reshape(rng.choice([(-1,), (1, -1), (-1, 1)]))
    if kind == 3 and array.dtype.kind in "iuf" and array.size:
        array = array.copy()
        array.reshape(-1)[rng.randrange(array.size)] = rng.choice([-1, 0, 1, 2, 99, 2**31 - 1])
        return array
    if kind == 4:
        return np.concatenate([np.atleast_1d(array)] * 2)
    return rng.choice([np.array(0), np.zeros(0), np.array("x"), np.array([np.nan]), np.zeros((2, 2, 2))])


@pytest.mark.slow
def test_networks(tmp_path):
    rng = random.Random(3)
    path = tmp_path / "broken.npz"
    SubsplitBayesianNetwork.from_trees(parse_trees("(a,b,(c,d));(a,c,(b,d));")).save(path)
    whole = path.read_bytes()
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}

    def contents(number):
        for _ in range(number):
            if rng.random() < 0.4:
                yield changed(whole, rng)
                continue
            own = dict(arrays)
            for _ in range(rng.choice([1, 1, 2])):
                name = rng.choice(list(own))
                own[name] = broken_array(own[name], rng)
            yield stored(own, rng)

    number = 3_000
    calls = [lambda: SubsplitSupport.load(path), lambda: SubsplitBayesianNetwork.load(path)]
    refused = refusals(contents(number), path, calls)
    assert number / 3 < refused < 2 * number


INSTRUCTIONS = [b"0", b"2", b"(", b")", b"R", b"b", b"\x81", b"\x93", b"h\x00", b"cos\nsystem\n", b"cnumpy\nndarray\n"]


def broken_pickle(content, rng):
    for _ in range(rng.choice([1, 1, 2, 5])):
        at = rng.randrange(len(content) + 1)
        kind = rng.randrange(3)
        if kind == 0:
            content = changed(content, rng)
        elif kind == 1:
            content = content[:at] + rng.choice(INSTRUCTIONS) + content[at:]
        else:
            content = content[:at] + bytes([rng.randrange(256)]) + content[at + 1 :]
    return content


@pytest.mark.slow
def test_pickles(tmp_path):
    rng = random.Random(4)
    path = tmp_path / "broken"
    values = [*planetoid_files.parts().values(), {"a": [1.5, None, True, 2**40, ((),)]}]
    wholes = [pickle.dumps(value, protocol) for value in values for protocol in range(6)]
    wholes += [pickled(value, protocol) for value in values[:-1] for protocol in (0, 2)]
    number = 6_000
    contents = (broken_pickle(rng.choice(wholes), rng) for _ in range(number))
    assert number / 3 < refusals(contents, path, [lambda: read_pickle(path)]) < number


@pytest.mark.slow
def test_citation_graphs(tmp_path, monkeypatch):
    rng = random.Random(5)
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(tmp_path))
    folder = tmp_path / "planetoid"
    planetoid_files.write_original(folder)
    refused, number = 0, 40
    for path in sorted(folder.iterdir()):
        whole = path.read_bytes()
        contents = (broken_pickle(whole, rng) for _ in range(number))
        refused += refusals(contents, path, [lambda: planetoid("citeseer")], shown=folder)
        path.write_bytes(whole)
    assert number < refused < 8 * number
    whole = planetoid_files.arrays()
    path = folder / "cora.npz"

    def archives(number):
        for _ in range(number):
            own = dict(whole)
            for _ in range(rng.choice([1, 1, 2])):
                name = rng.choice(list(own))
                own[name] = broken_array(own[name], rng)
            yield stored(own, rng)

    assert 300 < refusals(archives(1_000), path, [planetoid], shown=folder) < 1_000
