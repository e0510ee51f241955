import numpy as np
import pytest
import torch

from pyro_ext.datasets import MissingDataError, find_file, freyfaces
from pyro_ext.datasets.locate import ENVIRONMENT_VARIABLE

FACES = np.random.default_rng(0).integers(0, 256, (1965, 28, 20), dtype=np.uint8)


@pytest.fixture
def path(tmp_path, monkeypatch):
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(tmp_path))
    (tmp_path / "faces").mkdir()
    path = tmp_path / "faces" / "freyfaces.npz"
    np.savez(path, images=FACES)
    return path


def test_frames_are_dealt_out_at_random(path):
    data, other = freyfaces(), freyfaces(seed=1)
    parts = (data.train, data.valid, data.test)
    assert [len(part) for part in parts] == [1565, 200, 200]
    assert data.image_shape == (28, 20)
    assert data.train.y is None
    rows = torch.cat([part.x for part in parts])
    in_order = {row.tobytes() for row in (FACES.reshape(1965, -1) / np.float32(255))}
    assert {row.numpy().tobytes() for row in rows} == in_order
    assert not torch.equal(other.valid.x, data.valid.x)
    assert freyfaces(num_test=0).test is None


@pytest.mark.parametrize(
    ("write", "problem"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:5000]), "File is not a zip file"),
        (lambda path: np.savez(path, faces=FACES), "There is no item named 'images.npy'"),
        (lambda path: np.savez(path, images=FACES[:5]), r"an array of shape \(5, 28, 20\) and type uint8"),
        (lambda path: np.savez(path, images=FACES.astype(float)), "type float64, expected"),
        (lambda path: np.savez(path, images=np.array([object()])), "type object, expected"),
    ],
)
def test_damaged_file(path, write, problem):
    write(path)
    with pytest.raises(ValueError, match=f"freyfaces.npz: no file of Frey faces, or damaged .*{problem}"):
        freyfaces()


def test_missing_file_says_where_to_put_it(path):
    path.unlink()
    with pytest.raises(MissingDataError, match="put it into the folder faces inside a data folder"):
        freyfaces()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_valid": 1965}, "num_valid must be an integer from 1 to 1964"),
        ({"num_test": 1765}, "num_test must be an integer from 0 to 1764"),
        ({"threshold": 2}, "threshold must be a number in"),
    ],
)
def test_bad_options(path, options, message):
    with pytest.raises(ValueError, match=message):
        freyfaces(**options)


@pytest.mark.data
def test_real_faces():
    if find_file("faces", "freyfaces.npz") is None:
        pytest.skip("no Frey faces under PYRO_EXT_DATA")
    data = freyfaces()
    assert data.train.x.shape == (1565, 560)
    x = torch.cat([data.train.x, data.valid.x, data.test.x])
    assert (255 * x.min(), 255 * x.max()) == (8, 238)
