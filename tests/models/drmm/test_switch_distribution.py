"""The distribution of switches given the class: its probabilities, its estimation, and samples from it."""

import itertools

import pyro
import pytest
import torch
from torch.nn import functional as F

from pyro_ext.datasets import load
from pyro_ext.inference import FitSettings, OptimizerSettings, fit
from pyro_ext.models.drmm import DRMM, Layer, Switches, build, estimate_switch_distribution
from pyro_ext.models.drmm.switch_distribution import SwitchDistribution, UnitProbabilities

LAYERS = [Layer(4, 3, pool=2, padding=1), Layer(3, 2)]
SHAPE = (2, 7, 7)


@pytest.fixture
def model(dtype):
    pyro.set_rng_seed(0)
    return DRMM(LAYERS, classes=3, image_shape=SHAPE).to(dtype)


def images(model, number=60):
    return torch.randn(number, *SHAPE, dtype=model.class_templates.dtype)


def small_distribution(every_position):
    """One layer of two units with two positions, two classes and two styles, of random probabilities."""
    pyro.set_rng_seed(1)
    on = torch.rand(2, 2, 1, 1, 2, dtype=torch.float64)
    position = torch.rand(2, 2, 1, 1, 2, 2, dtype=torch.float64).softmax(-1)
    weights = torch.tensor([[0.3, 0.7], [1.0, 0.0]], dtype=torch.float64)
    return SwitchDistribution(weights, (UnitProbabilities(on, position, every_position),))


def all_switches():
    """All 16 states of two units, ``(16, 1, 1, 2)``."""
    states = torch.tensor(list(itertools.product((0, 1), repeat=4)))
    return Switches(states[:, None, None, :2], states[:, None, None, 2:].double())


@pytest.mark.parametrize("c", [0, 1])
def test_probabilities_add_up_to_one(c):
    g = all_switches()
    label = torch.full((16,), c)
    total = small_distribution(True).log_prob(label, [g]).exp().sum()
    torch.testing.assert_close(total, torch.ones_like(total))
    # Where positions of units that are off make no difference, each such state stands for all its positions.
    canonical = ((g.on > 0) | (g.position == 0)).all(-1).flatten()
    total = small_distribution(False).log_prob(label, [g])[canonical].exp().sum()
    torch.testing.assert_close(total, torch.ones_like(total))


def test_samples_have_these_probabilities():
    distribution, number = small_distribution(True), 20_000
    drawn = distribution.sample(torch.zeros(number, dtype=torch.long))[0]
    code = (drawn.position * torch.tensor([8, 4]) + drawn.on.long() * torch.tensor([2, 1])).sum(-1).flatten()
    expected = distribution.log_prob(torch.zeros(16, dtype=torch.long), [all_switches()]).exp()
    # Standard errors at most 0.0035 each: 5 of them, false alarms below 1e-5 in 16 shares.
    torch.testing.assert_close(code.bincount(minlength=16) / number, expected, atol=0.0177, rtol=0, check_dtype=False)


def test_one_style_is_the_frequencies_of_each_class(model):
    x = images(model)
    y = torch.arange(60) % 3
    distribution = estimate_switch_distribution(model, x, y, styles=1, pseudo_count=1e-6, iterations=1, batch_size=17)
    for layer, switches in zip(distribution.units, model.switches(x), strict=True):
        for c in range(3):
            on, position = switches.on[y == c], switches.position[y == c]
            torch.testing.assert_close(layer.on[c, 0], on.mean(0), atol=1e-5, rtol=0)
            hot = F.one_hot(position, layer.position.shape[-1]) * on[..., None]
            often = on.sum(0) > 0
            share = hot.sum(0)[often] / on.sum(0)[often][:, None]
            torch.testing.assert_close(layer.position[c, 0][often], share, atol=1e-5, rtol=0)


def test_classes_are_the_best_ones_where_there_is_no_label(model):
    x = images(model)
    best = model.dcn(x).argmax(-1)
    distribution = estimate_switch_distribution(model, x, styles=2)
    given = estimate_switch_distribution(model, x.flatten(1), torch.where(torch.arange(60) < 30, best, -1), styles=2)
    for a, b in zip(distribution.units, given.units, strict=True):
        torch.testing.assert_close(a.on, b.on)


def test_planted_styles_are_recovered():
    """Two patterns within the class, far apart: each style takes one of them, with its share of the images."""
    pyro.set_rng_seed(0)
    model = DRMM([Layer(4, 3, pool=2)], classes=2, image_shape=(1, 8, 8)).double()
    patterns = torch.randn(2, 1, 8, 8, dtype=torch.float64)
    kind = (torch.arange(80) % 4 == 0).long()
    x = patterns[kind] + 0.05 * torch.randn(80, 1, 8, 8, dtype=torch.float64)
    y = torch.zeros(80, dtype=torch.long)
    for seed in range(5):
        distribution = estimate_switch_distribution(model, x, y, styles=2, seed=seed)
        if distribution.weights[0].min() > 0.1:  # not both started from the same pattern
            break
    weights = distribution.weights[0]
    torch.testing.assert_close(weights.sort().values, weights.new_tensor([20.5 / 81, 60.5 / 81]))
    rare = distribution.units[0].on[0, weights.argmin()]
    torch.testing.assert_close(rare.round(), model.switches(patterns[1])[0].on)


def test_likelihood_never_decreases(model):
    """Without smoothing to speak of, iterations of expectation maximisation never lower the likelihood."""
    x = images(model, 90)
    y, g = torch.arange(90) % 3, model.switches(x)
    values = [
        estimate_switch_distribution(model, x, y, styles=3, pseudo_count=1e-3, iterations=k).log_prob(y, g).sum().item()
        for k in range(1, 6)
    ]
    assert all(later > earlier - 1e-4 * abs(earlier) for earlier, later in itertools.pairwise(values))
    assert (
        values[-1] > estimate_switch_distribution(model, x, y, styles=1, pseudo_count=1e-3).log_prob(y, g).sum().item()
    )


def test_class_without_images_has_the_frequencies_of_all(model):
    x = images(model)
    distribution = estimate_switch_distribution(model, x, torch.arange(60) % 2, styles=2)
    everything = (model.switches(x)[0].on.sum(0) + 0.5) / 61
    torch.testing.assert_close(distribution.units[0].on[2], everything.expand(2, -1, -1, -1))
    assert model.sample(4, torch.full((4,), 2), switch_distribution=distribution)[0].isfinite().all()


def test_fewer_images_than_styles(model):
    distribution = estimate_switch_distribution(model, images(model, 2), torch.tensor([0, 2]), styles=5)
    assert distribution.weights.shape == (3, 5)
    assert all(part.isfinite().all() for layer in distribution.units for part in (layer.on, layer.position))


def test_samples_follow_the_distribution(model, dtype):
    x, c = images(model), torch.arange(3).repeat(4)
    distribution = estimate_switch_distribution(model, x, styles=2)
    drawn, classes = model.sample(12, c, with_noise=False, switch_distribution=distribution)
    assert drawn.shape == (12, *SHAPE)
    assert drawn.dtype == dtype
    assert torch.equal(classes, c)
    pyro.set_rng_seed(5)
    again = model.sample(12, c, with_noise=False, switch_distribution=distribution)[0]
    pyro.set_rng_seed(5)
    torch.testing.assert_close(model.render(c, distribution.sample(c)), again)


def test_estimate_repeats_and_leaves_random_numbers_alone(model):
    x, state = images(model), torch.get_rng_state()
    first, second = (estimate_switch_distribution(model, x, styles=3, seed=4) for _ in range(2))
    assert torch.equal(first.weights, second.weights)
    assert torch.equal(state, torch.get_rng_state())
    parts = estimate_switch_distribution(model, x, styles=3, seed=4, batch_size=7)
    torch.testing.assert_close(parts.units[0].on, first.units[0].on)


def test_leaky_units_have_positions_when_off():
    pyro.set_rng_seed(0)
    model = DRMM(LAYERS, classes=3, image_shape=SHAPE, switch="leaky").double()
    distribution = estimate_switch_distribution(model, images(model), styles=2)
    assert all(layer.every_position for layer in distribution.units)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"styles": 0}, "styles must be an integer of at least 1, got 0"),
        ({"iterations": 0}, "iterations must be an integer of at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be an integer of at least 1, got 0"),
        ({"pseudo_count": 0.0}, "pseudo_count must be a positive, finite number, got 0.0"),
        ({"x": torch.zeros(0, *SHAPE)}, "x must hold at least one image, got none"),
        ({"x": torch.zeros(3, 1, 7, 7)}, r"x must have shape \(..., 2, 7, 7\), got \(3, 1, 7, 7\)"),
        ({"y": torch.full((4,), 3)}, "y must hold classes 0 .. 2, or -1 for no label; got 3"),
        ({"y": torch.zeros(5, dtype=torch.long)}, r"y must hold one label for each of the 4 images, got shape \(5,\)"),
    ],
)
def test_bad_input(options, message):
    model = DRMM(LAYERS, classes=3, image_shape=SHAPE)
    with pytest.raises(ValueError, match=message):
        estimate_switch_distribution(model, **({"x": torch.zeros(4, *SHAPE)} | options))


@pytest.mark.slow
def test_samples_of_digits_are_recognised():
    """By a classifier of real digits, with more than 90 % confidence and as the class asked for; one seed."""
    from sklearn.neural_network import MLPClassifier

    data = load("digits", binarize=None)
    real = MLPClassifier((100,), random_state=0, max_iter=300).fit(data.train.x.numpy(), data.train.y.numpy())
    pyro.set_rng_seed(0)
    plan = build(data).with_optimizer(OptimizerSettings("Adam", lr=2e-3))
    settings = FitSettings(max_epochs=15, batch_size=100, seed=0)
    fit(plan, data, settings, enable_progress_bar=False, check_val_every_n_epoch=15)
    model = plan.players[0].objective.model.eval()
    c = torch.arange(10).repeat_interleave(50)
    distribution = estimate_switch_distribution(model, data.train.x)
    drawn, _ = model.sample(500, c, with_noise=False, switch_distribution=distribution)
    confidence, label = torch.from_numpy(real.predict_proba(drawn.flatten(1).clamp(0, 1).numpy())).max(-1)
    recognised = (confidence > 0.9) & (label == c)
    assert recognised.double().mean() > 0.8
    assert len(label[recognised].unique()) == 10


@pytest.mark.gpu
def test_on_a_gpu():
    model = DRMM(LAYERS, classes=3, image_shape=SHAPE).cuda()
    distribution = estimate_switch_distribution(model, images(model).cuda(), styles=2)
    assert model.sample(3, switch_distribution=distribution)[0].is_cuda
