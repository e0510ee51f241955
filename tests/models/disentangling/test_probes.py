import sys

import pytest
import torch

from pyro_ext.models.disentangling import Codes, codes_of, probe_accuracy
from pyro_ext.models.disentangling.probes import probe_accuracies
from tests.models.disentangling.parts import halves

Y = torch.arange(4).repeat(100)


def test_the_mean_of_z_may_tell_what_draws_of_z_do_not():
    """Classes lie on tiny steps of the mean, far below the noise of z: both verdicts are needed."""
    torch.manual_seed(0)
    steps = 0.01 * Y[:, None].float() + 0.001 * torch.randn(400, 2)
    codes = Codes(steps, torch.zeros(400, 2), torch.randn(400, 2))
    scores = probe_accuracies(codes, Y, codes, Y)
    assert scores["probe_z_mean"] > 95
    assert scores["probe_z"] < 40  # guessing has 25
    assert scores["probe_s"] < 60
    assert scores == probe_accuracies(codes, Y, codes, Y)


def test_a_probe_finds_what_is_no_linear_function():
    torch.manual_seed(0)
    codes = torch.randn(800, 2)
    y = (codes[:, 0] * codes[:, 1] > 0).long()
    assert probe_accuracy(codes[:600], y[:600], codes[600:], y[600:]) > 90


def test_few_images_of_a_class():
    codes = torch.nn.functional.one_hot(Y[:8]).float()
    assert 0 <= probe_accuracy(codes, Y[:8], codes, Y[:8]) <= 100


def test_codes_of_many_images():
    _, guide = halves()
    x = torch.randn(2500, 4, dtype=torch.float64)
    codes = codes_of(guide, x)
    torch.testing.assert_close(torch.cat([codes.z_loc, codes.s], -1), x.float())
    assert not codes.s.requires_grad


def test_no_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.neural_network", None)
    with pytest.raises(ImportError, match=r"probe classifiers need scikit-learn: pip install 'pyro-ext\[data\]'"):
        probe_accuracy(torch.zeros(8, 2), Y[:8], torch.zeros(8, 2), Y[:8])
