"""Bayesian compression: networks by name, rules for thresholds, metrics, files, refusals, and a run on digits."""

import math

import pyro
import pytest
import torch
from pyro.infer import TraceMeanField_ELBO

from pyro_ext.datasets import IndexedDataset, Splits, load
from pyro_ext.inference import FitSettings, TraceVIMCO_ELBO, fit
from pyro_ext.models.compressed_lenet import Compressor, build
from pyro_ext.models.toolkit import ImageClassifier, classifier, labelled_images
from pyro_ext.nn import AutoGroupSparse, compact, group_sparse, prunable


def generated(side=32, channels=3, number=12):
    """Random images of three classes, which differ in brightness."""
    pyro.set_rng_seed(0)
    y = torch.arange(number) % 3
    x = torch.rand(number, channels * side**2) + y[:, None]
    part = IndexedDataset(x, y)
    return Splits("generated", part, part, image_shape=(side, side))


def trained(data, epochs=1, batch_size=6, **options):
    pyro.set_rng_seed(1)
    plan = build(data, **options)
    settings = FitSettings(max_epochs=epochs, batch_size=batch_size, seed=3)
    return plan, fit(plan, data, settings, enable_progress_bar=False, accelerator="cpu", check_val_every_n_epoch=epochs)


@pytest.mark.filterwarnings("ignore:hardly any group", "ignore:only .* are classified correctly")
@pytest.mark.parametrize("prior", ["normal_jeffreys", "horseshoe"])
@pytest.mark.parametrize(("architecture", "side"), [("lenet_5", 28), ("lenet_5", 8), ("lenet_300_100", 5)])
def test_networks_and_priors(architecture, side, prior):
    plan, result = trained(generated(side, 1), architecture=architecture, prior=prior, kl_warm_up=1)
    assert all(math.isfinite(value) for value in result.metrics.values())
    number = 4 if architecture == "lenet_5" else 3
    assert {f"{name}_{at}" for name in ("size", "bits") for at in range(1, number + 1)} <= result.metrics.keys()
    assert plan.headline == "error"


@pytest.mark.filterwarnings("ignore:hardly any group", "ignore:only .* are classified correctly")
@pytest.mark.slow
def test_vgg_like_network_on_generated_images(tmp_path):
    data = generated()
    plan, result = trained(data, architecture="vgg_like", prior="horseshoe", threshold="gap")
    assert "bits_15" in result.metrics
    plan.files["weights.pt"](tmp_path / "weights.pt")
    network = classifier("vgg_like", (3, 32, 32), 3).eval()
    network.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    images = data.valid.x.reshape(-1, 3, 32, 32)
    small = compact(network)
    with torch.no_grad():
        torch.testing.assert_close(small(images), network(images), atol=1e-4, rtol=1e-4)
        error = 100 * (network(images).argmax(-1) != data.valid.y).double().mean()
    assert error == pytest.approx(result.metrics["error"], abs=1e-4)
    size = sum(weight.numel() for weight in prunable(network).values())
    shrunken = sum(weight.numel() for weight in prunable(small).values())
    assert size / shrunken == pytest.approx(result.metrics["pruning_compression"], rel=0.01)


@pytest.mark.parametrize("prior", ["normal_jeffreys", "horseshoe"])
def test_other_elbos_give_the_same_loss(prior):
    data = generated(5, 1)
    batch = (data.train.x, data.train.y, torch.arange(len(data.train)))
    losses = []
    for elbo in (None, TraceMeanField_ELBO(), TraceVIMCO_ELBO(1)):
        pyro.set_rng_seed(0)
        plan = build(data, prior=prior, kl_warm_up=0)
        plan = plan if elbo is None else plan.with_elbo(elbo)
        plan.players[0].objective(*batch)  # looks at the model
        pyro.set_rng_seed(1)
        losses.append(plan.players[0].objective(*batch).total)
    torch.testing.assert_close(losses[0], losses[1])
    torch.testing.assert_close(losses[0], losses[2])


def compressor(rule="error", **options):
    """A network of which only some inputs matter, with scales that say so."""
    pyro.set_rng_seed(0)
    plain = classifier("lenet_300_100", (1, 4, 4), 2)
    model = ImageClassifier(group_sparse(plain), 100, (1, 4, 4))
    guide = AutoGroupSparse(model)
    with torch.no_grad():
        for name, log_variance in guide.log_sigma2.named_parameters():
            if name.endswith("z"):
                log_variance[len(log_variance) // 4 :] = 2.0
                guide.theta.get_parameter(name)[len(log_variance) // 4 :] = 0.01
    x = torch.rand(50, 16)
    return Compressor(model, guide, x, torch.zeros(50, dtype=torch.int64), rule, **options)


def test_gaps_separate_noise_from_the_rest():
    made = compressor("gap").compressed()
    assert made.report.sizes == (4, 75, 25)
    assert all(-9 < threshold < 2 + 9.3 for threshold in made.thresholds.values())


def test_no_rule_removes_nothing():
    made = compressor("none").compressed()
    assert made.report.sizes == (16, 300, 100)
    assert made.report.pruning_compression == 1
    assert made.report.fast_compression > 1  # bits


def test_the_error_allowed_is_kept():
    one = compressor(tolerance=2.0)
    made = one.compressed()
    assert one.error(made.network) <= one.error(made.exported.network) + 2.0
    assert made.report.pruning_compression > 4
    rounded, network = (torch.cat([p.flatten() for p in net.parameters()]) for net in (made.rounded, made.network))
    bits = min(row.significand_bits for row in made.report.layers)
    assert (rounded - network).abs().max() <= 2.0 ** -(bits + 1)


def test_labelled_images():
    assert labelled_images(generated(5, 2)) == ((2, 5, 5), 3)
    with pytest.raises(ValueError, match="data must be rows of pixels with an image_shape"):
        labelled_images(Splits("x", *[IndexedDataset(torch.ones(3, 4), torch.zeros(3, dtype=torch.int64))] * 2))
    with pytest.raises(ValueError, match=r"data\.train must have classes as integers y, got none"):
        labelled_images(Splits("x", *[IndexedDataset(torch.ones(3, 4))] * 2, image_shape=(2, 2)))
    with pytest.raises(ValueError, match="must hold a multiple of 3 x 3 pixels, got 4"):
        labelled_images(Splits("x", *[IndexedDataset(torch.ones(3, 4), torch.zeros(3).long())] * 2, image_shape=(3, 3)))


def test_images_have_the_size_of_the_model():
    model = ImageClassifier(torch.nn.Flatten(), 10, (1, 2, 2))
    assert model(torch.ones(3, 1, 2, 2), torch.zeros(3)).shape == (3, 4)
    with pytest.raises(ValueError, match=r"x must hold images of shape \(1, 2, 2\), got \(5,\)"):
        model(torch.ones(3, 5))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prior": "laplace"}, "prior must be one of normal_jeffreys, horseshoe; got 'laplace'"),
        ({"threshold": "best"}, "threshold must be one of error, gap, none; got 'best'"),
        ({"architecture": "vgg_like"}, "vgg_like needs images whose sides are multiples of 32"),
        ({"learning_rate": 0.0}, "learning_rate must be a positive"),
        ({"kl_warm_up": -1}, "kl_warm_up must be an integer of at least 0, got -1"),
        ({"tolerance": -1}, "tolerance must be a finite number of at least 0, got -1"),
        ({"global_scale": 0.0, "prior": "horseshoe"}, "global_scale must be a positive"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        build(generated(5, 1), **options)


def test_weights_are_a_start(tmp_path):
    data = generated(5, 1)
    build(data).files["weights.pt"](tmp_path / "weights.pt")
    expected = torch.load(tmp_path / "weights.pt", weights_only=True)
    build(data, weights=str(tmp_path / "weights.pt"), threshold="none").files["weights.pt"](tmp_path / "again.pt")
    for name, value in torch.load(tmp_path / "again.pt", weights_only=True).items():
        torch.testing.assert_close(value, expected[name])
    with pytest.raises(ValueError, match=r"weights='nothing\.pt' is no file"):
        build(data, weights="nothing.pt")
    with pytest.raises(ValueError, match="weights must be those of lenet_300_100"):
        build(generated(6, 1), weights=str(tmp_path / "weights.pt"))


def test_what_is_wrong_is_said():
    diagnose = build(generated(5, 1)).diagnose
    assert "all groups have become noise" in diagnose({"error": 66.0})[0]
    assert "hardly any group was removed" in diagnose({"error": 3.0, "pruning_compression": 1.0})[0]
    assert diagnose({"error": 3.0, "pruning_compression": 10.0}) == []


@pytest.mark.slow
@pytest.mark.parametrize("prior", ["normal_jeffreys", "horseshoe"])
def test_digits_are_classified_by_a_fraction_of_the_network(prior):
    data = load("digits", binarize=None)
    _, result = trained(data, 80, 100, prior=prior)
    assert result.metrics["error"] < 22
    assert result.metrics["pruning_compression"] > 5
    assert result.metrics["fast_compression"] > 25
