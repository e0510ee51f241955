"""Sparse classifiers: every architecture and estimator takes steps, digits are classified with few weights."""

import math
import warnings

import pyro
import pytest
import torch
from pyro.infer import TraceMeanField_ELBO

from pyro_ext.datasets import Splits, load
from pyro_ext.inference import FitSettings, FitWarning, TraceVIMCO_ELBO, fit
from pyro_ext.models.sparse_lenet import SparseClassifier, build, export
from pyro_ext.nn import AutoAdditiveNormal, prunable

QUIET = {"enable_progress_bar": False, "accelerator": "cpu"}
ESTIMATORS = ["sparse", "multiplicative", "dense", "magnitude"]


@pytest.fixture(scope="module")
def digits():
    return load("digits", num_train=160, binarize=None)


def colours(number=6, side=32):
    """Generated images of three channels, rows of pixels."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(number, 3 * side * side, generator=generator)
    y = torch.arange(number) % 3
    return Splits("colours", (x, y), (x, y), image_shape=(side, side))


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("architecture", ["lenet_300_100", "lenet_5", "vgg_like"])
def test_takes_steps(architecture, estimator, digits, tmp_path):
    data = digits if architecture != "vgg_like" else colours()
    options = {"architecture": architecture, "estimator": estimator, "epochs": 1, "batch_size": 80}
    plan = build(data, sparsity=0.5, **options)
    result = fit(plan, data, FitSettings(max_epochs=1, batch_size=80, seed=0), **QUIET)
    assert math.isfinite(result.history[-1]["train_loss"])
    assert 0 <= result.metrics["error"] <= 100
    if estimator == "magnitude" and architecture != "vgg_like":  # of two steps at least
        assert result.metrics["sparsity"] == pytest.approx(50, abs=1)
    plan.files["weights.pt"](tmp_path / "weights.pt")
    again = build(data, weights=str(tmp_path / "weights.pt"), **options)
    assert again.evaluate is not None


@pytest.mark.parametrize("elbo", [TraceMeanField_ELBO, lambda: TraceVIMCO_ELBO(1)], ids=["mean field", "VIMCO"])
def test_other_elbos_give_the_same_loss(elbo, digits):
    x, y, index = digits.train.x[:20], digits.train.y[:20], torch.arange(20)
    losses = []
    for other in (None, elbo()):
        pyro.set_rng_seed(0)
        plan = build(digits)
        plan = plan if other is None else plan.with_elbo(other)
        plan.schedules[0](10**6)
        plan.players[0].objective(x, y, index)
        pyro.set_rng_seed(1)
        losses.append(plan.players[0].objective(x, y, index).total)
    torch.testing.assert_close(losses[0], losses[1])


def test_exported_network_is_the_model_without_noise(digits):
    model = SparseClassifier(160, (1, 8, 8))
    guide = AutoAdditiveNormal(model)
    with torch.no_grad():
        for name, _ in guide.masks().items():
            guide.log_sigma2.get_parameter(name).uniform_(-8, 8)
    x = digits.train.x[:5]
    plain = export(model, guide)
    logits = pyro.poutine.condition(model, data=guide.median())(x)
    torch.testing.assert_close(plain(x.reshape(-1, 1, 8, 8)), logits)
    for name, weight in prunable(plain).items():
        assert torch.equal(weight != 0, guide.masks()[f"net.{name}"])
    assert all(float(w.detach().abs().sum()) > 0 for w in prunable(export(model, guide, threshold=100.0)).values())


def test_a_pretrained_start(digits, tmp_path):
    settings = FitSettings(max_epochs=1, batch_size=80, seed=0)
    dense = build(digits, estimator="dense", epochs=1)
    fit(dense, digits, settings, **QUIET)
    dense.files["weights.pt"](tmp_path / "weights.pt")
    sparse = build(digits, weights=str(tmp_path / "weights.pt"))
    state = torch.load(tmp_path / "weights.pt", weights_only=True)
    own = dict(sparse.players[0].objective.named_parameters())
    theta = next(value for name, value in own.items() if name.endswith("theta.net.1.weight"))
    assert torch.equal(theta, state["1.weight"])
    assert any(torch.equal(value, state["1.bias"]) for name, value in own.items() if name.endswith("net.1.bias"))


@pytest.mark.slow
def test_digits_with_few_weights():
    data = load("digits", binarize=None)
    plan = build(data, epochs=60)
    result = fit(plan, data, FitSettings(max_epochs=60, batch_size=100, seed=0), **QUIET)
    assert result.metrics["error"] < 13  # 8 without pruning: the last writers are new ones
    assert result.metrics["compression"] > 40


@pytest.mark.slow
def test_random_labels_leave_nothing():
    data = load("digits", num_train=500, binarize=None)
    shuffled = data.train.y[torch.randperm(500, generator=torch.Generator().manual_seed(0))]
    data = Splits("random labels", (data.train.x, shuffled), (data.valid.x, data.valid.y), image_shape=(8, 8))
    plan = build(data, epochs=300, init_log_variance=-6.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitWarning)
        result = fit(plan, data, FitSettings(max_epochs=300, batch_size=100, seed=0), **QUIET)
    assert result.metrics["sparsity"] > 99


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"estimator": "bernoulli"}, "estimator must be one of sparse, multiplicative, dense, magnitude"),
        ({"architecture": "resnet"}, "architecture must be one of"),
        ({"architecture": "vgg_like"}, "multiples of 32"),
        ({"kl": "sampled"}, "kl must be one of approx, exact"),
        ({"epochs": 0}, "epochs must be"),
        ({"weights": "nowhere.pt"}, "weights='nowhere.pt' is no file"),
        ({"warm_up_end": -1.0}, "warm_up_end must be"),
        ({"warm_up_end": 3.0}, "warm_up_end=3 lies before warm_up_start=5: give a later warm_up_end"),
        ({"estimator": "magnitude", "sparsity": 1.5}, "sparsity must be"),
    ],
)
def test_wrong_options(options, message, digits):
    with pytest.raises(ValueError, match=message):
        build(digits, **options)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (lambda x, y: Splits("d", (x, y)), "image_shape=None; give Splits the shape"),
        (lambda x, y: Splits("d", x, image_shape=(8, 8)), "classes as integers"),
        (lambda x, y: Splits("d", (x[:, :60], y), image_shape=(8, 8)), "a multiple of 8 x 8 pixels, got 60"),
    ],
)
def test_wrong_data(data, message, digits):
    with pytest.raises(ValueError, match=message):
        build(data(digits.train.x, digits.train.y))


def test_wrong_weights(digits, tmp_path):
    torch.save({"1.weight": torch.zeros(2)}, tmp_path / "w.pt")
    with pytest.raises(ValueError, match="weights must be those of lenet_300_100"):
        build(digits, weights=str(tmp_path / "w.pt"))
    (tmp_path / "w.pt").write_text("no weights")
    with pytest.raises(ValueError, match="cannot be read"):
        build(digits, weights=str(tmp_path / "w.pt"))
