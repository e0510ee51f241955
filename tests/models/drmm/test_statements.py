"""When the network is inference in the model: every statement checked by enumerating all configurations.

Configurations are not compared, only values: where a unit is off, whatever lies below it is free.
"""

from dataclasses import replace

import pytest
import torch

from pyro_ext.models.drmm import Switches
from pyro_ext.models.drmm.exact import configurations, exact_map, log_joint
from tests.models.drmm.tiny import DEEP, LAYERS, NAMES, NUMBERS, images, plain_scores, reached, render_by_paths, tiny

EXACT = {"rtol": 1e-10, "atol": 1e-10}


def gaps(model, x):
    """How much more the best switches of each class reach than the network says, shape (B, C)."""
    return reached(model, x).amax(-1) - plain_scores(model, x)


def deviation(model, x):
    """By how much sigma^2 max_g ln p(I, c, g) - z_c differs between classes, the largest over images."""
    best = model.noise**2 * log_joint(model, x).amax(-1) - model.dcn(x).detach()
    return (best.amax(-1) - best.amin(-1)).max().item()


@pytest.mark.parametrize("switch", ["relu", "leaky", "abs"])
@pytest.mark.parametrize("name", NAMES)
def test_rendering_is_a_sum_over_paths(name, switch):
    model = tiny(name, switch=switch)
    _, g = configurations(model)
    for number in torch.randint(g[0].on.shape[1], (3,)).tolist():
        own = [Switches(s.position[0, number], s.on[0, number]) for s in g]
        for c in range(model.classes):
            expected = render_by_paths(model, c, own, model.image_shape)
            torch.testing.assert_close(model.render(torch.tensor(c), own), expected, **EXACT)


@pytest.mark.parametrize("name", NAMES)
def test_every_configuration_comes_once(name):
    _, g = configurations(tiny(name))
    rows = torch.cat([torch.stack([s.position[0], s.on[0].long()], -1).flatten(1) for s in g], -1)
    assert len(rows) == len(rows.unique(dim=0)) == NUMBERS[name]
    total = sum(layer.switch_log_prior(s) for layer, s in zip(tiny(name).layers, g, strict=True)).logsumexp(-1)
    torch.testing.assert_close(total, torch.zeros_like(total), **EXACT)


# A: the identity holds always.
@pytest.mark.parametrize("switch", ["relu", "leaky", "abs"])
@pytest.mark.parametrize("name", NAMES)
def test_what_the_network_renders_is_what_it_scores(name, switch):
    for seed in range(6):
        model = tiny(name, seed, switch=switch)
        x = images(model)
        rendering = model.rendering(
            torch.arange(model.classes), [Switches(*(p[:, None] for p in s)) for s in model.switches(x)]
        )
        value = (x[:, None] * rendering.image).sum((-1, -2, -3)) + rendering.bias_term
        torch.testing.assert_close(value.detach(), plain_scores(model, x), **EXACT)


# B: a lower bound always; here it is not reached, since templates have any sign.
@pytest.mark.parametrize("switch", ["relu", "leaky", "abs"])
@pytest.mark.parametrize("name", NAMES)
def test_no_switches_reach_less_at_best(name, switch):
    gained = torch.stack([gaps(model, images(model)) for model in (tiny(name, s, switch=switch) for s in range(4))])
    assert gained.min() > -1e-12
    assert gained.max() > 0.1  # C fails without its condition


# C and G: equality where intermediate templates are nonnegative; those of the lowest layer have any sign.
@pytest.mark.parametrize("switch", ["relu", "leaky"])
@pytest.mark.parametrize("name", NAMES)
def test_nonnegative_templates_make_it_exact(name, switch):
    for seed in range(4):
        model = tiny(name, seed, nonnegative=True, switch=switch)
        assert model.nonnegativity_violation() == 0
        model.layers[0].templates.data[0, 0, 0, 0] = -1.0
        torch.testing.assert_close(
            gaps(model, x := images(model)), torch.zeros(len(x), model.classes).double(), **EXACT
        )


@pytest.mark.parametrize("name", DEEP)
def test_one_signed_layer_above_the_lowest_breaks_it(name):
    gained = []
    for seed in range(4):
        model = tiny(name, seed, nonnegative=True)
        with torch.no_grad():
            model.layers[1].templates.normal_()
        gained.append(gaps(model, images(model)).max())
    assert max(gained) > 0.05


# H: abs at the lowest layer only.
def with_abs(name, at):
    layers, _, _ = LAYERS[name]
    return [replace(layer, switch="abs" if number == at else "relu") for number, layer in enumerate(layers)]


@pytest.mark.parametrize("name", NAMES)
def test_abs_switches_are_exact_at_the_lowest_layer(name):
    for seed in range(3):
        model = tiny(name, seed, nonnegative=True, layers=with_abs(name, at=0))
        assert gaps(model, images(model)).abs().max() < 1e-12


@pytest.mark.parametrize("name", DEEP)
def test_abs_switches_above_break_it(name):
    models = [tiny(name, seed, nonnegative=True, layers=with_abs(name, at=1)) for seed in range(4)]
    assert max(gaps(model, images(model)).max() for model in models) > 0.05


# D: with a normalised prior the joint density's |h0|^2 / 2 spoils it.
@pytest.mark.parametrize("name", NAMES)
def test_factorised_prior_never_agrees(name):
    for seed in range(4):
        model = tiny(name, seed, nonnegative=True, prior="factorised")
        assert deviation(model, images(model)) > 1e-2


# E: with the path prior it agrees for any noise, biases included.
@pytest.mark.parametrize("noise", [0.1, 0.7, 3.0])
@pytest.mark.parametrize("switch", ["relu", "leaky"])
@pytest.mark.parametrize("name", NAMES)
def test_path_prior_agrees(name, switch, noise):
    model = tiny(name, 1, nonnegative=True, switch=switch, noise=noise)
    x = images(model)
    assert deviation(model, x) < 1e-10
    best = exact_map(model, x)
    assert torch.equal(best.c, model.dcn(x).argmax(-1))
    # The most probable configuration is as probable as the network's.
    own = log_joint(model, x)
    torch.testing.assert_close(best.log_joint, own.flatten(1).amax(-1), **EXACT)


# F: probabilities of switches that are not uniform matter unless the noise is small.
@pytest.mark.parametrize("name", ["one", "overlapping", "two"])
def test_uneven_switches_agree_for_small_noise_alone(name):
    lost = {}
    for noise in (0.01, 0.7):
        worst = 0.0
        for seed in range(5):
            # Leaky and no pooling above: no unit is without a trace, so the best switches are unique.
            model = tiny(name, seed, nonnegative=True, switch="leaky", noise=noise)
            for layer in model.layers:
                layer.position_logits.normal_()
                layer.on_logits.normal_()
            x = images(model)
            with torch.no_grad():
                g = [Switches(*(part[:, None] for part in s)) for s in model.switches(x)]
                c = torch.arange(model.classes)
                own = plain_scores(model, x) + model.noise**2 * model.log_prior(c, g)
                prior = model.log_prior(*configurations(model))
            best = (reached(model, x) + model.noise**2 * prior).amax(-1)
            assert (best - own).min() > -1e-12
            worst = max(worst, (best - own).max().item())
        lost[noise] = worst
    assert lost[0.01] < 1e-12
    assert lost[0.7] > 0.1


@pytest.mark.parametrize("name", ["one", "two", "means"])
def test_softmax_of_scores_is_that_of_best_configurations(name):
    model = tiny(name, 2, nonnegative=True, noise=0.7)
    x = images(model)
    table = log_joint(model, x)
    own = (model.dcn(x) / model.noise**2).softmax(-1).detach()
    torch.testing.assert_close(table.amax(-1).softmax(-1), own, **EXACT)
    assert (table.logsumexp(-1).softmax(-1) - own).abs().max() > 1e-3
