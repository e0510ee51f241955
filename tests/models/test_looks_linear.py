"""Deep classifiers: networks of all kinds, the Pyro program, evaluation, and what depth does to training."""

import inspect
import math

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from pyro_ext.datasets import IndexedDataset, Splits, collate, load
from pyro_ext.inference import FitSettings, TraceUnorderedSet_ELBO, TraceVIMCO_ELBO, fit
from pyro_ext.models.looks_linear import (
    KINDS,
    Model,
    autocorrelation_by_depth,
    build,
    deep_network,
    freeze_batch_norm,
    gradients_between,
    guide,
    scalar_network,
)
from pyro_ext.nn import assert_looks_linear, gradient_autocorrelation

SIZE, INPUTS, CLASSES = 40, 6, 3
SMALL = {"depth": 4, "width": 5}
ELBOS = {
    "Trace": Trace_ELBO,
    "TraceMeanField": TraceMeanField_ELBO,
    "TraceEnum": lambda: TraceEnum_ELBO(strict_enumeration_warning=False),
    "TraceUnorderedSet": TraceUnorderedSet_ELBO,
    "TraceVIMCO": TraceVIMCO_ELBO,
}


def digits():
    return load("digits", binarize=None, mixed=True)


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.rand(SIZE, INPUTS, generator=generator), torch.arange(SIZE) % CLASSES
    return Splits("toy", IndexedDataset(x, y), IndexedDataset(x[:10], y[:10]), image_shape=(2, 3))


def weights(net):
    return [inner for inner in net.modules() if isinstance(inner, nn.Linear | nn.Conv2d)]


@pytest.mark.parametrize("image_shape", [None, (2, 3)], ids=["dense", "convolutional"])
@pytest.mark.parametrize("kind", KINDS)
def test_networks_of_every_kind(kind, image_shape, dtype):
    net = deep_network(kind, 7, INPUTS, CLASSES, width=4, image_shape=image_shape).to(dtype)
    assert len(weights(net)) == 7
    assert all(isinstance(layer, nn.Linear) == (image_shape is None) for layer in weights(net)[:-1])
    y = net(torch.randn(8, INPUTS, dtype=dtype))
    assert (y.shape, y.dtype) == ((8, CLASSES), dtype)
    assert y.isfinite().all()
    if kind == "looks_linear":
        assert_looks_linear(net)
    elif kind == "crelu":
        with pytest.raises(AssertionError, match="does not look linear"):
            assert_looks_linear(net)


@pytest.mark.parametrize("kind", ["looks_linear", "linear"])
def test_looks_linear_and_linear_networks_are_affine(kind):
    net = deep_network(kind, 100, 16, 16, width=16).double()
    x = torch.randn(2, 9, 16, dtype=torch.float64)
    torch.testing.assert_close(net(x[0] - x[1]), net(x[0]) - net(x[1]), rtol=0, atol=1e-5)  # drawn in float32
    torch.testing.assert_close(net(x).norm(dim=-1), x.norm(dim=-1), rtol=1e-4, atol=0)


def test_he_initialisation_keeps_the_size_of_features():
    net = deep_network("relu", 20, 500, 500, width=500)
    x = torch.randn(50, 500)
    assert 0.3 < net(x).square().mean() / net[:1](x).square().mean() < 3


def test_skip_connections_are_scaled():
    torch.manual_seed(0)
    net = deep_network("residual", 3, 4, 4, width=4, residual_scale=0.5)
    x = torch.randn(5, 4)
    hidden = net[0](x)
    torch.testing.assert_close(net[1](hidden), hidden + 0.5 * weights(net)[1](hidden.relu()))
    assert deep_network("residual", 16, 4, 4)[1].scale == 0.25


def test_frozen_batch_norm_has_the_statistics_of_the_inputs():
    net = deep_network("relu_batch_norm", 4, INPUTS, 1, width=50)
    x = torch.randn(300, INPUTS)
    expected = net.train()(x)
    torch.testing.assert_close(freeze_batch_norm(net, x)(x), expected, rtol=0.02, atol=0.02)  # n - 1 instead of n
    assert {inner.momentum for inner in net.modules() if isinstance(inner, nn.BatchNorm1d)} == {0.1}
    assert not net.training


def test_gradients_at_initialisation_by_kind():
    """Figures 1 and 2 of Balduzzi et al. (2017)."""
    lags = {
        (kind, depth, scale): torch.stack(
            [gradient_autocorrelation(scalar_network(kind, depth, 100, scale)) for _ in range(5)]
        ).mean(0)
        for kind, depth, scale in [
            ("relu_batch_norm", 24, None),
            ("relu", 24, None),
            ("residual_batch_norm", 50, 0.1),
            ("looks_linear", 50, None),
        ]
    }
    shattered, smooth, residual, flat = lags.values()
    assert shattered[1:].abs().max() < 0.1
    assert smooth[1] > 0.5
    assert residual[1] > 0.5
    assert (flat == 1).all()


def test_curves_by_depth_repeat_and_leave_the_noise_alone():
    before = torch.get_rng_state()
    first, second = (autocorrelation_by_depth("relu", [2, 3], draws=2, width=10) for _ in range(2))
    assert torch.equal(before, torch.get_rng_state())
    assert first.keys() == {"2 layers", "3 layers"}
    assert all(torch.equal(first[label], second[label]) for label in first)


def test_the_program_observes_labels(data):
    model = Model(SIZE, INPUTS, CLASSES, **SMALL)
    x, y, index = data.train.__getitems__([7, 3])
    trace = poutine.trace(model).get_trace(x, y, index)
    assert trace.nodes["data"]["value"].tolist() == [7, 3]
    assert trace.nodes["y"]["scale"] == SIZE / 2
    assert trace.nodes["y"]["is_observed"]
    assert poutine.trace(model).get_trace(x).nodes["y"]["value"].shape == (2,)
    assert not poutine.trace(guide).get_trace(x, y, index).stochastic_nodes


@pytest.mark.parametrize("elbo", ELBOS.values(), ids=ELBOS)
def test_every_elbo_is_the_log_probability_of_labels(data, elbo, dtype):
    plan = build(data, **SMALL).with_elbo(elbo())
    (objective,) = plan.elbo_objectives
    objective.to(dtype)
    x, y, index = data.train.__getitems__(range(8))
    objective.num_data = SIZE
    total = objective(x.to(dtype), y, index).total
    expected = cross_entropy(objective.model.network(x.to(dtype)), y)
    torch.testing.assert_close(total, expected)
    total.backward()
    assert all(p.grad is not None and p.grad.dtype == dtype for p in objective.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_evaluation(data, kind):
    plan = build(data, kind=kind, **SMALL)
    loader = DataLoader(data.valid, batch_size=4, collate_fn=collate)
    model = plan.elbo_objectives[0].model.eval()
    metrics = plan.evaluate(loader)
    logits = model.network(data.valid.x)
    assert metrics["accuracy"] == pytest.approx((logits.argmax(-1) == data.valid.y).double().mean().item())
    assert metrics["label_loss"] == pytest.approx(cross_entropy(logits, data.valid.y).item(), rel=1e-5)
    assert metrics == plan.evaluate(loader)
    assert -1 <= metrics["autocorrelation_15"] <= metrics["autocorrelation_1"] <= 1
    if kind in ("looks_linear", "linear"):
        assert metrics["autocorrelation_15"] == 1
    assert len(pyro.get_param_store()) == 0


def test_evaluation_needs_labels_and_data(data):
    plan = build(data, **SMALL)
    with pytest.raises(ValueError, match="loader must hold labels, got None"):
        plan.evaluate([(data.valid.x, None, torch.arange(10))])
    with pytest.raises(ValueError, match="loader must hold at least one data point, got none"):
        plan.evaluate([])


def test_gradients_between_two_inputs():
    model = Model(SIZE, INPUTS, CLASSES, kind="relu_batch_norm", **SMALL).double().train()
    a, b = torch.randn(2, INPUTS, dtype=torch.float64)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    t, gradient = gradients_between(model, a, b, n=5)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    model.eval()
    first, last = (int(model.network(x[None]).argmax()) for x in (a, b))
    last = last if last != first else (first + 1) % CLASSES
    step = 1e-6

    def score(t):
        logits = model.network((a + t * (b - a))[None])[0]
        return (logits[last] - logits[first]).item()

    slopes = [(score(at + step) - score(at - step)) / (2 * step) for at in t.tolist()]
    torch.testing.assert_close(gradient, torch.tensor(slopes, dtype=torch.float64), rtol=1e-4, atol=1e-6)


def test_poor_accuracy_is_explained(data):
    diagnose = build(data, **SMALL).diagnose
    assert not diagnose({"accuracy": 0.9})
    assert "only 20.0% of the held-out inputs are classified correctly; take kind=" in diagnose({"accuracy": 0.2})[0]


def accuracy(kind, depth, epochs=8, seed=0, **options):
    pyro.set_rng_seed(seed)
    splits = digits()
    plan = build(splits, kind=kind, depth=depth, **options)
    settings = FitSettings(max_epochs=epochs, batch_size=50, seed=seed)
    quiet = {"enable_progress_bar": False, "accelerator": "cpu", "check_val_every_n_epoch": epochs}
    return fit(plan, splits, settings, gradient_clip_val=1.0, **quiet).metrics["accuracy"]


def test_twenty_layers_in_two_epochs():
    # One held-out image is 0.3 points; seeds differ by about 2 points.
    assert accuracy("looks_linear", 20, epochs=2) > 0.8


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:only .* are classified correctly")
@pytest.mark.parametrize(
    ("kind", "least", "largest"),
    [("looks_linear", 0.96, 1.0), ("relu", 0.0, 0.3), ("crelu", 0.0, 0.6), ("residual_batch_norm", 0.85, 1.0)],
)
def test_two_hundred_layers(kind, least, largest):
    """The headline figure: 200 layers without skip connections are trained, and rectifiers are not."""
    assert least <= accuracy(kind, 200) <= largest


@pytest.mark.slow
def test_convolutions_of_twenty_layers():
    assert accuracy("looks_linear", 20, architecture="convolutional", width=8) > 0.88


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "gru"}, "kind must be one of looks_linear, crelu, relu, .*; got 'gru'"),
        ({"depth": 1}, "depth must be an integer of at least 2, got 1"),
        ({"width": 0}, "width must be an integer of at least 1, got 0"),
        ({"architecture": "recurrent"}, "architecture must be one of dense, convolutional; got 'recurrent'"),
    ],
)
def test_bad_options(data, options, message):
    with pytest.raises(ValueError, match=message):
        build(data, **options)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Model(4, 6, architecture="convolutional"), r"image_shape must be \(height, width\) for"),
        (lambda: deep_network("relu", 3, 6, 2, image_shape=(2, 2)), "as many pixels as there are inputs, 6"),
        (lambda: deep_network("residual", 3, 6, 2, residual_scale=-1), "residual_scale must be a positive"),
        (lambda: scalar_network("relu", 0), "depth must be an integer of at least 1, got 0"),
        (lambda: Model(4, 6)(torch.zeros(2, 5)), r"x must have shape \(batch, 6\), got \(2, 5\)"),
        (lambda: Model(4, 6, num_classes=1), "num_classes must be an integer of at least 2, got 1"),
    ],
)
def test_bad_sizes(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("part", ["train", "valid"])
def test_bad_data(data, part):
    rows = getattr(data, part)
    for wrong, message in [
        (IndexedDataset(rows.x), f"data.{part} must be two rows or more, .* with labels"),
        (IndexedDataset(rows.x.reshape(-1, 2, 3), rows.y), f"data.{part} must be two rows or more"),
        (IndexedDataset(rows.x, rows.y - 1), f"labels of data.{part} must be 0 .. "),
    ]:
        with pytest.raises(ValueError, match=message):
            build(Splits("toy", **{"train": data.train, "valid": data.valid, part: wrong}))


def test_labels_of_the_test_part_are_checked_before_training(data):
    unknown = IndexedDataset(data.valid.x, data.valid.y + 100)
    with pytest.raises(ValueError, match=r"labels of data.test must be 0 .. "):
        build(Splits("toy", data.train, data.valid, unknown), **SMALL)


def test_one_class_alone_can_be_held_out(data):
    alone = IndexedDataset(data.valid.x, torch.zeros(10, dtype=torch.long))
    plan = build(Splits("toy", data.train, alone), **SMALL)
    assert math.isfinite(plan.evaluate([alone.__getitems__(range(10))])["autocorrelation_1"])


def test_options_have_defaults():
    parameters = [*inspect.signature(build).parameters.values()][1:]
    assert all(parameter.default is not None for parameter in parameters)
