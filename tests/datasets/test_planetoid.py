import gzip
import pickle

import numpy as np
import pytest
import torch

from pyro_ext.datasets import MissingDataError, planetoid
from pyro_ext.datasets.locate import ENVIRONMENT_VARIABLE, find_file
from pyro_ext.ops.graphs import normalize_adjacency
from tests.datasets import planetoid_files
from tests.datasets.planetoid_files import NUM_KNOWN, NUM_TRAIN, NUMBER, TEST, arrays, parts, write_original
from tests.datasets.python2 import pickled


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(tmp_path))
    (tmp_path / "planetoid").mkdir()
    return tmp_path / "planetoid"


@pytest.mark.parametrize("protocol", [0, 2])
def test_original_files(folder, protocol):
    write_original(folder, protocol=protocol)
    data, own = planetoid("citeseer", normalize_features=False), parts()
    assert (data.name, data.num_classes, data.features.shape, data.adjacency.shape[0]) == (
        "citeseer",
        3,
        (NUMBER, 12),
        NUMBER,
    )
    features = data.features.to_dense().numpy()
    assert np.array_equal(features[:NUM_KNOWN], own["allx"].toarray())
    for row, node in enumerate(TEST):  # in the order of the list, not sorted
        assert np.array_equal(features[node], own["tx"].toarray()[row])
        assert int(data.labels[node]) == own["ty"][row].argmax()
    missing = [node for node in range(NUM_KNOWN, NUMBER) if node not in TEST]
    assert not features[missing].any()
    assert data.labels[missing].tolist() == [-1] * 4
    assert data.labels[:NUM_KNOWN].tolist() == own["ally"].argmax(1).tolist()
    assert data.train[0][1].tolist() == [*range(NUM_TRAIN)]
    assert data.valid[0][1].tolist() == [*range(NUM_TRAIN, NUM_TRAIN + 500)]
    assert data.test[0][1].tolist() == sorted(TEST)
    assert all(
        torch.equal(labels, data.labels[nodes]) for labels, nodes in (data.train[0], data.valid[0], data.test[0])
    )
    full = data.adjacency.to_dense()
    assert torch.equal(full, full.T)
    assert full[3, 3] == 1
    assert {(int(a), int(b)) for a, b in full.nonzero()} == {
        pair for node, others in own["graph"].items() for other in others for pair in ((node, other), (other, node))
    }
    assert not full[NUMBER - 5 :].any()  # nodes without edges are there


def test_rows_are_divided_by_their_sums_and_zeros_make_no_nan(folder):
    write_original(folder)
    data = planetoid("citeseer")
    totals = data.features.to_dense().sum(1)
    assert torch.equal((totals == 0).nonzero()[:, 0], torch.tensor([7, 522, 524, 526, 528]))
    torch.testing.assert_close(totals[totals > 0], torch.ones(NUMBER - 5))
    for self_loops in ("add", "remaining", "none"):
        assert normalize_adjacency(data.adjacency, self_loops=self_loops).values.isfinite().all()


def test_archive(folder):
    np.savez(folder / "cora.npz", **arrays())
    data = planetoid(steps_per_epoch=3)
    assert (data.name, data.num_classes, len(data.train), data.train.steps_per_epoch) == ("cora", 2, 1, 3)
    assert torch.equal(
        data.features.to_dense(), torch.tensor([[0.25, 0, 0.75], [0, 1, 0], [0, 0, 0], [0, 0, 1], [0, 0, 0]])
    )
    assert data.features.dtype == data.adjacency.dtype == torch.float32
    assert data.adjacency.to_dense().sum(1).tolist() == [1, 2, 2, 2, 1]


@pytest.mark.data
@pytest.mark.skipif(find_file("planetoid", "cora.npz") is None, reason="cora.npz is not at hand")
def test_cora():
    data = planetoid("cora")
    assert data.features.shape == (2708, 1433)
    assert (len(data.features.values), data.num_classes) == (49_216, 7)
    assert len(data.adjacency.values) == 2 * 5278
    assert [len(part[0][0]) for part in (data.train, data.valid, data.test)] == [140, 500, 1000]
    assert data.labels[data.train[0][1]].bincount().tolist() == [20] * 7
    added, kept = (normalize_adjacency(data.adjacency, self_loops=own).values for own in ("add", "remaining"))
    assert torch.equal(added, kept)  # no node of Cora cites itself


def test_missing_files_say_where_to_put_them(folder, monkeypatch):
    with pytest.raises(MissingDataError, match=r"pubmed.npz, .* ind.pubmed.x, were not found: .*folder planetoid"):
        planetoid("pubmed")
    write_original(folder)
    (folder / "ind.citeseer.ty").unlink()
    with pytest.raises(MissingDataError, match=r"ind\.citeseer\.ty, were not found"):
        planetoid("citeseer")
    monkeypatch.delenv(ENVIRONMENT_VARIABLE)
    with pytest.raises(MissingDataError, match="set PYRO_EXT_DATA"):
        planetoid("citeseer")


def test_options_are_checked(folder):
    with pytest.raises(ValueError, match="graph must be one of cora, citeseer, pubmed; got 'nell'"):
        planetoid("nell")
    np.savez(folder / "cora.npz", **arrays())
    with pytest.raises(ValueError, match="steps_per_epoch must be an integer of at least 1"):
        planetoid(steps_per_epoch=0)


CHANGES = {
    "no archive": (b"PK\x03\x04", "no graph, or damaged: it is no .npz archive"),
    "without": ({"edges": None}, "it has no array 'edges'"),
    "objects": ({"labels": np.array([object()] * 5)}, "labels.npy holds objects of Python"),
    "real labels": ({"labels": np.zeros(5)}, "labels holds float64 of shape .*, where integers with 1 dims belong"),
    "three rows": ({"edges": np.zeros((3, 2), int)}, "edges must have two rows"),
    "stranger": ({"edges": np.array([[0], [9]])}, "edges names node 9; there are nodes 0 to 4"),
    "unlabelled": ({"labels": np.array([0, 1, 0, -1, 1])}, "test names node 3, whose label is unknown"),
    "outside": ({"idx_val": np.array([7])}, "valid names nodes outside of 0 to 4"),
    "shared": ({"idx_val": np.array([0])}, "train, valid and test must not share nodes"),
    "none": ({"idx_train": np.zeros(0, int)}, "train must name at least one node"),
    "one class": ({"labels": np.zeros(5, int)}, "labels must be classes 0 .. C - 1 of two at least, got 1"),
    "shape": ({"x_shape": np.array([4, 3])}, "features of shape 4 x 3 do not fit 5 nodes"),
    "wide": ({"x_shape": np.array([5, 2**60])}, "do not fit 5 nodes"),
    "column": ({"x_indices": np.array([0, 2, 1, 3])}, "col must hold integers from 0 to 2"),
    "rows": ({"x_indptr": np.array([0, 2, 3, 2, 4, 4])}, "crow must be 6 integers that rise"),
    "nan": ({"x_data": np.array([1, np.nan, 1, 1])}, "features must be finite and at least 0"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_damaged_archives(folder, name):
    change, message = CHANGES[name]
    path = folder / "cora.npz"
    if isinstance(change, bytes):
        path.write_bytes(change)
    else:
        np.savez(path, **{key: value for key, value in (arrays() | change).items() if value is not None})
    with pytest.raises(ValueError, match=message) as caught:
        planetoid()
    assert str(caught.value).startswith(str(path))


def own(change):
    return lambda: pickled(change(parts()), 2)


DAMAGES = {
    "graph": (
        lambda: pickled([1], 2),
        lambda: pickled({0: [None]}, 2),
        lambda: b"}(K\x00]q\x00K\x01h\x00u.",
        own(lambda p: p["graph"] | {2: [NUMBER]}),
        own(lambda p: p["graph"] | {2: [-1]}),
        own(lambda p: {node: others for node, others in p["graph"].items() if node < 100}),
        lambda: pickle.dumps(print),
    ),
    "ally": (
        own(lambda p: p["ally"] * 2),
        own(lambda p: p["ally"][:-1]),
        own(lambda p: p["ally"][:, 0]),
        own(lambda p: p["graph"]),
        own(lambda p: np.ones_like(p["ally"])),
    ),
    "tx": (own(lambda p: p["tx"][:, :-1]), own(lambda p: p["tx"][:-1]), own(lambda p: p["ty"])),
    "x": (own(lambda p: p["allx"]), lambda: b"", lambda: gzip.compress(b"}.", mtime=0)[:-3]),
    "test_index": (
        lambda: b"520\n521\n",
        lambda: b"",
        lambda: b"520 -3 a b c d",
        lambda: b"\n".join(b"%d" % (node + 1) for node in TEST),
        lambda: b"520\n" * 6,
        lambda: b"520\n521\n522\n523\n524\n999999999\n",
    ),
}


@pytest.mark.parametrize(("part", "at"), [(part, at) for part, own in DAMAGES.items() for at in range(len(own))])
def test_damaged_original_files(folder, part, at):
    write_original(folder, **{part: DAMAGES[part][at]()})
    with pytest.raises(ValueError, match=r"ind\.citeseer") as caught:
        planetoid("citeseer")
    assert type(caught.value) is ValueError
    assert str(caught.value).startswith(str(folder))


def test_the_files_of_the_tests_have_the_traps():
    assert planetoid_files.NUM_KNOWN + 4 + len(TEST) == NUMBER
