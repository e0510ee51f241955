"""Masks by threshold and by sparsity, masked export, and pruning in the course of training."""

import io
import math

import pytest
import torch
from torch import nn

from pyro_ext.datasets import load
from pyro_ext.inference import (
    FitSettings,
    LossObjective,
    OptimizerSettings,
    Player,
    PruningObjective,
    TrainingPlan,
    fit,
)
from pyro_ext.nn import GradualMagnitudePruning, export_masked, prunable, prune
from tests.nn.compression.networks import lenet, perceptron


def test_scores_of_groups_are_those_of_their_members():
    network = perceptron()
    masks = prune(
        network, {"0.weight": torch.linspace(0, 8, 9)[:, None], "0.bias": torch.linspace(0, 8, 9)}, threshold=4
    )
    assert masks["0.weight"].sum(1).tolist() == [12] * 4 + [0] * 5
    assert masks["0.bias"].tolist() == [True] * 4 + [False] * 5


def test_thresholds_by_name():
    masks = prune(perceptron(), threshold={"0.weight": -math.inf, "2.weight": math.inf, "4.weight": 0.0})
    assert [mask.double().mean().item() for mask in masks.values()] == [0.0, 1.0, 1.0]


@pytest.mark.parametrize("scope", ["layer", "network"])
@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.9, 1.0])
def test_sparsity_is_what_was_asked_for(scope, sparsity):
    network = lenet()
    masks = prune(network, sparsity=sparsity, scope=scope)
    total = sum(mask.numel() for mask in masks.values())
    assert sum(int((~mask).sum()) for mask in masks.values()) == pytest.approx(sparsity * total, abs=len(masks))
    weights = prunable(network)
    if scope == "network" and sparsity == 0.5:
        kept = torch.cat([weights[name][mask].abs() for name, mask in masks.items()])
        gone = torch.cat([weights[name][~mask].abs() for name, mask in masks.items()])
        assert kept.min() >= gone.max()


def test_equal_scores_are_counted():
    layer = nn.Linear(10, 10)
    layer.weight.data.fill_(1.0)
    assert prune(layer, sparsity=0.3)["weight"].sum() == 70


def test_masked_network_loads_into_the_original_class():
    network = lenet()
    masked = export_masked(network, prune(network, sparsity=0.8))
    file = io.BytesIO()
    torch.save(masked.state_dict(), file)
    file.seek(0)
    other = lenet()
    other.load_state_dict(torch.load(file, weights_only=True))
    x = torch.randn(3, 2, 14, 14)
    torch.testing.assert_close(other.eval()(x), masked.eval()(x))
    assert all((network.get_parameter(name) != 0).all() for name in prunable(network))


BAD = {
    "both": ({"threshold": 3.0, "sparsity": 0.5}, "give either threshold or sparsity, got both"),
    "neither": ({}, "got neither"),
    "sparsity": ({"sparsity": 1.5}, r"sparsity must be a number in \[0, 1\], got 1.5"),
    "scope": ({"sparsity": 0.5, "scope": "all"}, "scope must be one of layer, network; got 'all'"),
    "name": ({"scores": {"x": torch.ones(1)}, "threshold": 1}, "scores: there is no parameter 'x'; there are 0.weight"),
    "shape": (
        {"scores": {"0.bias": torch.ones(2)}, "threshold": 1},
        r"scores\['0.bias'\] must broadcast to the parameter's shape \(9,\), got \(2,\)",
    ),
    "nan": ({"scores": {"0.bias": torch.tensor(math.nan)}, "threshold": 1}, r"scores\['0.bias'\] must be numbers"),
    "nothing": ({"scores": {}, "threshold": 1}, "scores must name at least one parameter"),
    "threshold": ({"threshold": {"0.weight": 1.0}}, "got none for '2.weight'"),
}


@pytest.mark.parametrize(("options", "message"), BAD.values(), ids=BAD)
def test_bad_input(options, message):
    with pytest.raises(ValueError, match=message):
        prune(perceptron(), **options)


def loss(x, y, index, network):
    return nn.functional.cross_entropy(network(x), y)


def plan(seed=0, **options):
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(64, 20), nn.ReLU(), nn.Linear(20, 10))
    pruning = GradualMagnitudePruning(network, **options)
    objective = PruningObjective(LossObjective(loss, network=network), pruning)
    player = Player("network", objective, optimizer=OptimizerSettings("Adam", lr=1e-2))
    return TrainingPlan([player], schedules=[pruning.set_num_steps]), network, pruning


def run(made, epochs, **options):
    data = load("digits", num_train=200, binarize=None)
    settings = FitSettings(max_epochs=epochs, batch_size=50, seed=1)
    return fit(made, data, settings, enable_progress_bar=False, accelerator="cpu", **options)


@pytest.mark.parametrize("scope", ["layer", "network"])
def test_training_ends_with_the_sparsity_asked_for(scope):
    made, network, pruning = plan(sparsity=0.9, begin=2, end=14, every=3, scope=scope)
    run(made, 4)
    zeros = {name: (weight == 0).double().mean().item() for name, weight in prunable(network).items()}
    if scope == "layer":
        assert zeros == pytest.approx({"0.weight": 0.9, "2.weight": 0.9})
    assert sum(int((w == 0).sum()) for w in prunable(network).values()) == round(0.9 * (64 * 20 + 200))
    assert all(torch.equal(mask, prunable(network)[name] != 0) for name, mask in pruning.masks.items())


def test_pruned_training_resumes_to_the_same_weights(tmp_path):
    made, whole, _ = plan(sparsity=0.9, begin=2, end=10, every=3)
    run(made, 4)
    run(plan(sparsity=0.9, begin=2, end=10, every=3)[0], 2, out=tmp_path / "run")
    made, resumed, pruning = plan(seed=5, sparsity=0.9, begin=2, end=10, every=3)
    run(made, 4, out=tmp_path / "run", resume=True)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))
    assert float(pruning.masks["0.weight"].double().mean()) == pytest.approx(0.1)


def test_schedule_is_cubic():
    pruning = GradualMagnitudePruning(perceptron(), sparsity=0.9, initial_sparsity=0.3, begin=10, end=110)
    assert pruning.sparsity_at(9) == 0
    assert pruning.sparsity_at(10) == pytest.approx(0.3)
    assert pruning.sparsity_at(60) == pytest.approx(0.9 - 0.6 / 8)
    assert pruning.sparsity_at(200) == 0.9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sparsity": 2.0, "end": 3}, "sparsity must be a number in"),
        ({"sparsity": 0.5, "begin": 3, "end": 3}, "end must be an integer of at least 4, got 3"),
        ({"sparsity": 0.5, "initial_sparsity": 0.6, "end": 3}, "initial_sparsity must be a number in"),
        ({"sparsity": 0.5, "end": 3, "scope": "row"}, "scope must be one of layer, network"),
    ],
)
def test_bad_schedules(options, message):
    with pytest.raises(ValueError, match=message):
        GradualMagnitudePruning(perceptron(), **options)


def test_there_must_be_something_to_prune():
    with pytest.raises(ValueError, match="network must have linear or convolutional layers, got ReLU"):
        GradualMagnitudePruning(nn.ReLU(), 0.5, end=1)
    with pytest.raises(ValueError, match="objective must be an Objective such as LossObjective, got 3"):
        PruningObjective(3, GradualMagnitudePruning(perceptron(), 0.5, end=1))
