"""From data to a fitted model: labels, losses, metrics, plots, and a run that learns."""

import math

import pyro
import pytest
import torch
from torch.utils.data import DataLoader

from pyro_ext.datasets import IndexedDataset, Splits, choose_labelled, collate, load
from pyro_ext.inference import FitSettings, OptimizerSettings, TraceUnorderedSet_ELBO, fit
from pyro_ext.models.drmm import DRMM, Layer, build
from pyro_ext.models.drmm.build import ARCHITECTURES
from pyro_ext.models.drmm.objective import LossWeights, SemiSupervisedObjective, training_losses

SUPERVISED = {"reconstruction_weight": 0.0, "entropy_weight": 0.0, "nonnegativity_weight": 0.0}


@pytest.fixture(scope="module")
def digits():
    return load("digits", binarize=None, num_train=600)


@pytest.fixture
def bars():
    """Images of 8 x 8 pixels with a bright row or column: two classes."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(200) % 2
    x = 0.2 * torch.rand(200, 8, 8, generator=generator)
    for i, place in enumerate(torch.randint(8, (200,), generator=generator).tolist()):
        x[i, place] += 1 - y[i]
        x[i, :, place] += y[i]
    x = x.flatten(1)
    x, y = torch.cat([x[::2], x[1:180:2]]), torch.cat([y[::2], y[1:180:2]])  # 100 and 90 of them
    order = torch.randperm(190, generator=generator)
    x, y = x[order], y[order]
    return Splits("bars", IndexedDataset(x[:150], y[:150]), IndexedDataset(x[150:], y[150:]), image_shape=(8, 8))


def objective_of(plan):
    (player,) = plan.players
    return player.objective


def loader(data, batch_size=40):
    return DataLoader(data.valid, batch_size=batch_size, collate_fn=collate)


def test_labels_are_of_all_classes_and_repeat(digits):
    labelled = choose_labelled(digits.train, 53, 10, seed=3)
    assert labelled.y.bincount().tolist() == [6, 6, 6] + 7 * [5]
    assert torch.equal(labelled.x, choose_labelled(digits.train, 53, 10, seed=3).x)
    assert not torch.equal(labelled.x, choose_labelled(digits.train, 53, 10, seed=4).x)
    assert len(labelled.x.unique(dim=0)) == 53


def test_all_labels(bars):
    objective = objective_of(build(bars, num_labels=None))
    assert torch.equal(objective.labelled_y, bars.train.y)
    assert torch.equal(objective.labelled_x.flatten(1), bars.train.x)


def test_labels_that_are_too_few():
    data = IndexedDataset(torch.zeros(5, 4), torch.tensor([0, 0, 0, 0, 1]))
    with pytest.raises(ValueError, match="num_labels=4 needs 2 data points of class 1, got 1"):
        choose_labelled(data, 4, 2)
    with pytest.raises(ValueError, match="data must hold labels to choose from, got none"):
        choose_labelled(IndexedDataset(torch.zeros(5, 4)), 4, 2)


def test_no_other_label_is_looked_at(digits):
    other = Splits("digits", IndexedDataset(digits.train.x, digits.train.y), digits.valid, image_shape=(8, 8))
    losses = []
    for wrong in (False, True):
        pyro.set_rng_seed(0)
        objective = objective_of(build(digits if not wrong else other, num_labels=20))
        x, y, index = digits.train.__getitems__(range(30))
        y = (y + 1) % 10 if wrong else y
        losses.append(objective(x, y, index).total.item())
    assert losses[0] == losses[1]


def test_loss_is_the_weighted_sum(digits):
    weights = {"label": 2.0, "reconstruction": 0.3, "entropy": 0.4, "kl": 0.1, "nonnegativity": 0.7}
    plan = build(digits, num_labels=20, batch_norm="none", **{f"{k}_weight": v for k, v in weights.items()})
    objective, x = objective_of(plan), digits.train.x[:30]
    labelled = choose_labelled(digits.train, 20, 10)
    y = torch.cat([torch.full((30,), -1), labelled.y])
    losses = training_losses(objective.model, torch.cat([x, labelled.x]).reshape(-1, 1, 8, 8), y, num_with_label=20)
    expected = sum(weights[name] * loss for name, loss in losses.items())
    total, terms = objective(x, None, torch.arange(30))
    torch.testing.assert_close(total, expected)
    assert terms.keys() == weights.keys()  # each without its weight
    torch.testing.assert_close(terms, losses)


def test_nothing_is_rendered_in_vain(digits, monkeypatch):
    objective = objective_of(build(digits, num_labels=20, **SUPERVISED))
    monkeypatch.setattr(DRMM, "rendering", lambda *_: pytest.fail("rendered"))
    total, terms = objective(*digits.train.__getitems__(range(30)))
    total.backward()
    assert terms.keys() == {"label", "entropy", "kl"}
    assert objective.model.layers[0].templates.grad.abs().sum() > 0


def test_there_is_no_elbo_to_replace(digits):
    with pytest.raises(ValueError, match="needs a model that is trained by one ELBO; this one has no ELBO"):
        build(digits, num_labels=20).with_elbo(TraceUnorderedSet_ELBO())


def test_training_in_bfloat16(digits):
    objective = objective_of(build(digits, num_labels=20))
    batch = digits.train.__getitems__(range(30))
    full = objective(*batch).total
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = objective(*batch).total
    loss.backward()
    assert loss.item() == pytest.approx(full.item(), rel=0.05)
    assert all(p.grad is None or p.grad.isfinite().all() for p in objective.parameters())


def test_labelled_images_are_drawn_anew():
    model = DRMM([Layer(2, 3)], 3, (1, 8, 8))
    labelled = IndexedDataset(torch.randn(12, 64), torch.arange(12) % 3)
    objective = SemiSupervisedObjective(model, labelled, LossWeights(), labelled_batch_size=4)
    x = torch.randn(5, 64)
    values = {objective(x).total.item() for _ in range(4)}
    assert len(values) > 1
    assert not any("labelled" in name for name in objective.state_dict())
    assert objective.double().labelled_x.dtype == torch.float64


@pytest.mark.parametrize("batch_norm", ["none", "up", "both"])
def test_gradients_reach_every_parameter(digits, batch_norm):
    objective = objective_of(build(digits, num_labels=20, batch_norm=batch_norm))
    objective(*digits.train.__getitems__(range(30))).total.backward()
    for name, parameter in objective.named_parameters():
        assert parameter.grad is not None, name
        # Batch norm takes out what biases add.
        if not (name.endswith("biases") and batch_norm != "none"):
            assert parameter.grad.abs().sum() > 0, name


def test_a_short_run_learns(bars, tmp_path):
    plan = build(bars, num_labels=20)
    before = plan.evaluate(loader(bars))["error"]
    options = {"enable_progress_bar": False, "check_val_every_n_epoch": 12}
    assert f"a blank image is {bars.valid.x.square().mean().item():.4f}" in plan.remarks
    assert (plan.headline, plan.headline_mode) == ("error", "min")
    assert plan.players[0].optimizer == OptimizerSettings("Adam", lr=4e-3)
    plan = plan.with_optimizer(OptimizerSettings("Adam", lr=5e-3))
    settings = FitSettings(max_epochs=12, batch_size=30, seed=0)
    result = fit(plan, bars, settings, out=tmp_path / "run", **options)
    assert result.metrics["error"] <= 10 < before
    terms = {f"train_{name}" for name in ("label", "entropy", "kl", "reconstruction", "nonnegativity")}
    assert result.metrics.keys() == {"train_loss", "error", "label_loss", "reconstruction", "entropy"} | terms
    weighted = {"label": 1.0, "entropy": 0.5, "reconstruction": 0.5, "nonnegativity": 0.5}
    total = sum(weight * result.metrics[f"train_{name}"] for name, weight in weighted.items())
    assert result.metrics["train_loss"] == pytest.approx(total, rel=1e-5)
    header = (tmp_path / "run" / "metrics.csv").read_text().splitlines()[0].split(",")
    assert terms <= {*header}


def test_metrics(bars):
    plan = build(bars, num_labels=10, batch_norm="none")
    model = objective_of(plan).model
    x, y = bars.valid.x.reshape(-1, 1, 8, 8), bars.valid.y
    logits = model.dcn(x)
    metrics = plan.evaluate(loader(bars, 7))
    assert metrics["error"] == pytest.approx(100 * (logits.argmax(-1) != y).float().mean().item())
    assert metrics["label_loss"] == pytest.approx(torch.nn.functional.cross_entropy(logits, y).item(), rel=1e-5)
    assert metrics["reconstruction"] == pytest.approx((x - model.reconstruct(x)).square().mean().item(), rel=1e-5)
    entropy = torch.distributions.Categorical(logits=logits).entropy().mean().item()
    assert metrics["entropy"] == pytest.approx(entropy, rel=1e-5)
    state = torch.get_rng_state()
    plan.evaluate(loader(bars))
    assert torch.equal(state, torch.get_rng_state())


def test_plots_are_of_the_model(bars):
    plan = build(bars, num_labels=10)
    model = objective_of(plan).model.eval()
    assert {"reconstruction", "samples", "class_templates", "templates_2", "switches_2"} <= plan.plots.keys()
    ax = plan.plots["reconstruction"]()
    rendered = model.reconstruct(bars.valid.x[:1].reshape(1, 1, 8, 8))[0, 0].clamp(0, 1)
    drawn = torch.as_tensor(ax.images[0].get_array())[10:18, 1:9]
    torch.testing.assert_close(drawn, rendered.detach().double(), atol=1e-6, rtol=0)


def test_architectures_fit_their_images():
    assert DRMM(ARCHITECTURES["digits"], 10, (1, 8, 8)).class_templates.shape == (10, 32, 2, 2)
    mnist = DRMM(ARCHITECTURES["mnist"], 10, (1, 28, 28))
    assert mnist.class_templates.shape == (10, 128, 1, 1)
    assert [layer.geometry.conv[1] for layer in mnist.layers] == [32, 14, 16, 6]
    assert mnist.reconstruct(torch.rand(2, 1, 28, 28)).shape == (2, 1, 28, 28)
    small = DRMM(ARCHITECTURES["mnist_small"], 10, (1, 28, 28))
    assert [layer.geometry.conv for layer in small.layers] == [
        (layer.geometry.conv[0] // 2, *layer.geometry.conv[1:]) for layer in mnist.layers
    ]


def test_the_network_for_colour_images():
    cifar = DRMM(ARCHITECTURES["cifar"], 10, (3, 32, 32))
    assert [layer.geometry.coarser for layer in cifar.layers] == [
        (128, 32, 32), (128, 32, 32), (128, 16, 16), (256, 16, 16), (256, 16, 16), (256, 8, 8),
        (512, 6, 6), (256, 6, 6), (128, 1, 1),
    ]  # fmt: skip
    assert {layer.switch for layer in cifar.layers} == {"leaky"}
    x, y = torch.rand(12, 3 * 32 * 32), torch.arange(12) % 10
    colours = Splits("colours", IndexedDataset(x, y), IndexedDataset(x, y), image_shape=(32, 32))
    objective = objective_of(build(colours, num_labels=10, labelled_batch_size=2))
    assert [layer.layer for layer in objective.model.layers] == list(ARCHITECTURES["cifar"])
    loss = objective(x[:2], None, torch.arange(2)).total
    loss.backward()
    assert math.isfinite(loss.item())
    assert objective.model.layers[0].templates.grad.abs().sum() > 0


def test_build_repeats_under_a_seed(bars):
    states = []
    for _ in range(2):
        pyro.set_rng_seed(3)
        states.append(objective_of(build(bars, num_labels=10)).state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_labels": 0}, "num_labels must be an integer of at least 1, got 0"),
        ({"num_labels": 151}, "num_labels must be at most 150, the number of data points, got 151"),
        ({"num_labels": 1}, "num_labels must be at least 2, one of each class, got 1"),
        ({"architecture": "vgg"}, "architecture must be one of digits, mnist_small, mnist, cifar; got 'vgg'"),
        ({"architecture": "mnist"}, r"image_shape \(1, 8, 8\) is smaller than the receptive field of layer"),
        ({"entropy_weight": -0.5}, "entropy_weight must be a finite number of at least 0, got -0.5"),
        ({"kl_weight": math.nan}, "kl_weight must be a finite number of at least 0, got nan"),
        ({"labelled_batch_size": 0}, "labelled_batch_size must be an integer of at least 1, got 0"),
        ({"batch_norm": "down"}, "batch_norm must be one of none, up, both; got 'down'"),
        ({"noise": -1.0}, "noise must be a positive, finite number, got -1.0"),
    ],
)
def test_bad_options(bars, options, message):
    with pytest.raises(ValueError, match=message):
        build(bars, **({"num_labels": 10} | options))


def test_bad_data(bars):
    bare = Splits("bare", IndexedDataset(bars.train.x), bars.valid, image_shape=(8, 8))
    with pytest.raises(ValueError, match=r"data.train must have labels, got none"):
        build(bare)
    bare = Splits("bare", bars.train, bars.valid)
    with pytest.raises(ValueError, match="data must be images as rows of x with an image_shape"):
        build(bare)
    negative = Splits("bare", IndexedDataset(bars.train.x, bars.train.y - 1), bars.valid, image_shape=(8, 8))
    with pytest.raises(ValueError, match=r"data.train.y must hold classes 0 .. 0, got -1"):
        build(negative)
    above = Splits("bare", bars.train, IndexedDataset(bars.valid.x, bars.valid.y + 1), image_shape=(8, 8))
    with pytest.raises(ValueError, match=r"data.valid.y must hold classes 0 .. 1, got 2"):
        build(above)
    with pytest.raises(ValueError, match="loader must hold at least one data point"):
        build(bars, num_labels=10).evaluate([])
    model = DRMM([Layer(2, 3)], 2, (1, 8, 8))
    for y, message in ((None, "at least one image and its label"), (-bars.train.y, "labels of all its images")):
        with pytest.raises(ValueError, match=f"labelled must hold .*{message}"):
            SemiSupervisedObjective(model, IndexedDataset(bars.train.x, y), LossWeights())
    with pytest.raises(ValueError, match=r"y must hold classes 0 .. 1, or -1 for no label; got 2"):
        SemiSupervisedObjective(model, IndexedDataset(bars.train.x, bars.train.y + 1), LossWeights())


@pytest.mark.slow
def test_digits_with_few_labels():
    """One seed of each arm; differences between seeds are about 3 points, that between the arms about 10."""
    data, errors = load("digits", binarize=None), []
    for options in ({}, SUPERVISED):
        pyro.set_rng_seed(0)
        plan = build(data, **options).with_optimizer(OptimizerSettings("Adam", lr=2e-3))
        settings = FitSettings(max_epochs=25, batch_size=100, seed=0)
        result = fit(plan, data, settings, enable_progress_bar=False, check_val_every_n_epoch=25)
        errors.append(result.metrics["error"])
    assert errors[0] < errors[1] - 4


@pytest.mark.gpu
def test_on_a_gpu(bars):
    plan = build(bars, num_labels=10)
    objective = objective_of(plan).cuda()
    batch = [part.cuda() for part in bars.train.__getitems__(range(20))]
    objective(*batch).total.backward()
    assert objective.model.layers[0].templates.grad.is_cuda
    assert math.isfinite(plan.evaluate(loader(bars))["error"])
    for plot in plan.plots.values():
        plot()
