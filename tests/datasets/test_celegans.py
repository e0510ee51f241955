import gzip
import os
from pathlib import Path

import pytest
import torch

from pyro_ext.datasets import MissingDataError, find_file
from pyro_ext.datasets.celegans import celegans, read_connectome
from pyro_ext.datasets.locate import ENVIRONMENT_VARIABLE

REAL = os.environ.get(ENVIRONMENT_VARIABLE, "")
TYPES = """Neuron,Soma Position,Soma Region
AVAL,0.10,H
AVFL,0.10,H
PVR,0.11,T
VD13,0.13,T
"""
CONNECTIONS = """Neuron 1,Neuron 2,Type,Nbr,
AVAL,avfl,EJ,1,
AVFL,AVAL,EJ,1,
PVR,AVAL,Sp,2,
AVAL,PVR,Rp,2,
AVAL,AVAL,S,1,
VC06,PVR,S,1,
VD13,PVR,S,1,
PVR,VD13,R,1,
VD13,NMJ,NMJ,12,
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Four neurons: two at one position, and two others 0.01 and 0.03 away from them."""
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(tmp_path))
    folder = tmp_path / "celegans"
    folder.mkdir()
    (folder / "NeuronType.csv").write_text(TYPES)
    (folder / "NeuronConnect.csv").write_text(CONNECTIONS)
    return folder


def test_connections_of_listed_neurons_are_read(folder):
    names, position, connectome = read_connectome()
    assert names == ("AVAL", "AVFL", "PVR", "VD13")
    assert position.tolist() == [0.10, 0.10, 0.11, 0.13]
    expected = torch.zeros(4, 4, dtype=torch.bool)
    for a, b in ((0, 1), (0, 2), (2, 3)):
        expected[a, b] = expected[b, a] = True
    assert torch.equal(connectome, expected)


def test_compressed_files_are_read(folder):
    (folder / "NeuronType.csv").unlink()
    (folder / "NeuronType.csv.gz").write_bytes(gzip.compress(TYPES.encode()))
    assert len(read_connectome()[0]) == 4


def test_recordings(folder):
    data = celegans(num_worms=2, num_known=1, num_steps=50, mean_candidates=2)
    assert (data.name, data.names[0], data.num_steps) == ("celegans", "AVAL", 50)
    assert data.train.x.shape == (2, 8, 8)
    assert data.train.x.dtype == torch.float32
    assert data.valid.y.sort(-1).values.tolist() == [[0, 1, 2, 3]] * 2
    assert torch.equal(data.weights != 0, data.connectome)


@pytest.mark.parametrize(
    ("options", "counts"),
    [
        ({"nu": 0.005}, [2, 2, 1, 1]),
        ({"nu": 0.015}, [3, 3, 3, 1]),
        ({"nu": 0.5}, [4, 4, 4, 4]),
        ({"mean_candidates": 1.0}, [2, 2, 1, 1]),
        ({"mean_candidates": 2.4}, [3, 3, 3, 1]),
        ({"mean_candidates": 4.0}, [4, 4, 4, 4]),
    ],
)
def test_candidates_are_near(folder, options, counts):
    data = celegans(num_known=0, num_steps=5, **options)
    place = data.valid.y[0].argsort()
    assert data.candidates[0].sum(-1)[place].tolist() == counts


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"nu": 0.0}, "nu must be a positive, finite number, got 0.0"),
        ({"nu": float("nan")}, "nu must be a positive, finite number"),
        ({"mean_candidates": 0.5}, r"mean_candidates must be a number in \[1, 4\], got 0.5"),
        ({"mean_candidates": 5}, "mean_candidates must be a number in"),
        ({"num_worms": 0}, "num_worms must be an integer of at least 1, got 0"),
        ({"num_known": 5}, "num_known must be an integer from 0 to 4, got 5"),
        ({"num_known": "all"}, "num_known must be an integer from 0 to 4, got 'all'"),
        ({"num_steps": 0}, "num_steps must be an integer of at least 1, got 0"),
        ({"seed": 1.5}, "seed must be an integer of at least 0, got 1.5"),
    ],
)
def test_bad_options(folder, options, message):
    with pytest.raises(ValueError, match=message):
        celegans(**({"num_known": 1} | options))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("NeuronType.csv", TYPES.replace("0.11", "tail"), r"NeuronType.csv, line 4: 'tail' is no position from 0"),
        (
            "NeuronType.csv",
            TYPES.replace("0.11", "nan"),
            r"NeuronType.csv, line 4: 'nan' is no position from 0 \(head\)",
        ),
        ("NeuronType.csv", TYPES.replace("0.11", "-0.1"), r"NeuronType.csv, line 4: '-0.1' is no position"),
        ("NeuronType.csv", TYPES.replace("PVR", "avfl"), r"NeuronType.csv, line 4: neuron 'AVFL' comes twice; get the"),
        ("NeuronType.csv", TYPES.replace("PVR", " "), r"NeuronType.csv, line 4: a neuron has no name"),
        ("NeuronType.csv", TYPES.replace("PVR,0", "PV\rR,0"), r"NeuronType.csv: truncated, line 4 has too little"),
        ("NeuronType.csv", TYPES.replace("PVR", '"PVR'), r"NeuronType.csv, line 5: no row of comma-separated values"),
        ("NeuronType.csv", TYPES.replace("PVR", "PV\udcff"), r"NeuronType.csv, line 4: no UTF-8; get it again from"),
        ("NeuronType.csv", TYPES[:50], r"NeuronType.csv: truncated"),
        (
            "NeuronType.csv",
            "\n".join(TYPES.split("\n")[:3]),
            r"NeuronConnect.csv, line 4: neuron 'PVR' is not among the 2",
        ),
        ("NeuronConnect.csv", "".join(CONNECTIONS.splitlines(True)[:2]), r"truncated, it has too little"),
        (
            "NeuronConnect.csv",
            "".join(CONNECTIONS.splitlines(True)[:4]),
            r"line 4: PVR is connected with AVAL, but not the",
        ),
        (
            "NeuronConnect.csv",
            CONNECTIONS.replace("VD13", "NMJ").replace("PVR", "VC06").replace("AVFL", "NMJ").replace("avfl", "NMJ"),
            r"NeuronConnect.csv: no two of the neurons are connected",
        ),
        ("NeuronType.csv", TYPES.partition("\n")[2], "first two columns must be Neuron and Soma Position"),
        ("NeuronType.csv", "", "first two columns must be Neuron and Soma Position"),
        ("NeuronType.csv", TYPES + "DD01", "truncated, line 6 has too little"),
        ("NeuronConnect.csv", CONNECTIONS.partition("\n")[0], "truncated, it has too little"),
        ("NeuronConnect.csv", "Neuron 1,Neuron 2\nDA1,DA2\nDA2,DA3\n", "line 2: neuron 'DA1' is not among the 4 of"),
    ],
)
def test_damaged_files(folder, name, content, message):
    (folder / name).write_text(content, errors="surrogateescape", newline="")
    with pytest.raises(ValueError, match=message) as error:
        celegans(num_known=1, nu=0.02)
    assert str(folder) in str(error.value)


def test_broken_compression(folder):
    (folder / "NeuronType.csv").unlink()
    (folder / "NeuronType.csv.gz").write_bytes(gzip.compress(TYPES.encode())[:-9])
    with pytest.raises(ValueError, match=r"NeuronType.csv.gz: not a whole gzip file; get it again"):
        read_connectome()


def test_a_table_that_grows_without_measure(folder):
    (folder / "NeuronType.csv").unlink()
    (folder / "NeuronType.csv.gz").write_bytes(gzip.compress(bytes(2**25)))
    with pytest.raises(ValueError, match=r"NeuronType.csv.gz: more than 16777216 bytes, which is no table of neurons"):
        read_connectome()


@pytest.mark.parametrize("name", ["NeuronType.csv", "NeuronConnect.csv"])
def test_missing_files(folder, name):
    (folder / name).unlink()
    with pytest.raises(
        MissingDataError, match=rf"{name} not found: get it from https://github.com/slinderman/birkhoff"
    ):
        celegans()


@pytest.mark.data
def test_real_connectome():
    if find_file("celegans", "NeuronType.csv") is None:
        pytest.skip("no C. elegans files under PYRO_EXT_DATA")
    names, position, connectome = read_connectome()
    assert (len(names), names[-1], connectome.sum().item()) == (279, "VD13", 2 * 2287)
    assert connectome.any(-1).all()
    # Candidates before any neuron is known, of which the publication's are these and those of 25 known neurons.
    distance = (position[:, None] - position).abs()
    means = [(distance < nu).sum(-1).double().mean().item() for nu in (0.0075, 0.01, 0.02, 0.04, 0.05)]
    assert means == pytest.approx([10.42, 17.87, 36.96, 56.92, 68.78], abs=0.005)


@pytest.mark.data
@pytest.mark.parametrize("name", ["NeuronType.csv", "NeuronConnect.csv"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_part_of_the_real_tables_is_refused(folder, monkeypatch, name, share):
    source = Path(REAL) / "celegans"
    for each in ("NeuronType.csv", "NeuronConnect.csv"):
        lines = (source / each).read_text().splitlines(keepends=True)
        (folder / each).write_text("".join(lines[: int(share * len(lines)) if each == name else None]))
    with pytest.raises(ValueError, match=r"NeuronConnect.csv, line \d+: .*get .*again from https"):
        read_connectome()


@pytest.mark.data
def test_real_recordings():
    if find_file("celegans", "NeuronType.csv") is None:
        pytest.skip("no C. elegans files under PYRO_EXT_DATA")
    data = celegans(num_steps=100)
    assert data.train.x.shape == (1, 558, 558)
    assert data.candidates.gather(-1, data.valid.y.unsqueeze(-1)).all()
    assert data.weights[data.connectome].std().item() == pytest.approx(0.08, abs=0.005)
