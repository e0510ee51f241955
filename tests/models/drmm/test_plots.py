"""Plots of a model, and the images of templates in them."""

import pyro
import pytest
import torch
from torch.nn import functional as F

from pyro_ext.models.drmm import DRMM, Layer
from pyro_ext.models.drmm.plots import class_template_images, model_plots, unit_template_images

LAYERS = [Layer(4, 3, pool=2, padding=1), Layer(6, 3, pool=2, padding=1)]


@pytest.fixture
def model():
    pyro.set_rng_seed(0)
    return DRMM(LAYERS, classes=3, image_shape=(1, 8, 8), batch_norm="both").double().eval()


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("reconstruction", (19, 91)),
        ("samples", (55, 28)),
        ("class_templates", (28, 28)),
        ("templates_1", (12, 45)),
        ("templates_2", (12, 67)),
        ("switches_1", (55, 46)),
        ("switches_2", (55, 64)),
    ],
)
def test_plots(model, name, shape):
    from matplotlib.figure import Figure

    plots = model_plots(model, torch.rand(30, 64), torch.rand(12, 64))
    assert len(plots) == 7
    before = {key: value.clone() for key, value in model.state_dict().items()}
    ax, state = Figure().add_subplot(), torch.get_rng_state()
    assert plots[name](ax=ax) is ax
    assert ax.images[0].get_array().shape == shape
    assert ax.get_title()
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in before.items())


def test_switches_are_drawn_where_they_are():
    """One bright pixel and a template of one: the unit is on in its cell, which is grey, at its pixel, white."""
    model = DRMM([Layer(1, 1, pool=2)], classes=2, image_shape=(1, 4, 4)).double()
    with torch.no_grad():
        model.layers[0].templates.fill_(1.0)
    x = torch.zeros(1, 16)
    x[0, 6] = 1.0  # row 1, column 2
    ax = model_plots(model, x, x)["switches_1"]()
    tile = torch.as_tensor(ax.images[0].get_array())[1:5, 6:10]
    expected = torch.zeros(4, 4, dtype=tile.dtype)
    expected[:2, 2:] = 0.3
    expected[1, 2] = 1.0
    torch.testing.assert_close(tile, expected)


def test_units_of_the_lowest_level_are_its_templates(model):
    x = torch.randn(20, 1, 8, 8, dtype=torch.float64)
    plain = model.like(batch_norm="none")
    images = unit_template_images(plain, x, 1)
    for k, template in enumerate(plain.layers[0].templates):
        # Somewhere in the image, cut at its edge.
        fits = F.conv2d(images[k, None], template[None], padding=2).max()
        inside = images[k].square().sum()
        torch.testing.assert_close(fits, inside)
        assert inside <= template.square().sum() * (1 + 1e-12)


def test_units_add_up_to_what_is_rendered(model):
    """Rendering is linear in the units for given switches: with one image, channels' largest units are parts of it."""
    plain = model.like(batch_norm="none")
    x = torch.randn(1, 1, 8, 8, dtype=torch.float64)
    inferred = plain.infer(x)
    units = unit_template_images(plain, x, 2)
    best = inferred.features[0].flatten(1).argmax(-1)
    h = torch.zeros_like(inferred.features[0])
    h.view(6, -1)[torch.arange(6), best] = 1
    below = plain.layers[1].down(h[None], inferred.switches[1]).finer
    together = plain.layers[0].down(below, inferred.switches[0]).finer
    torch.testing.assert_close(units.sum(0), together[0])


def test_batch_norm_adds_nothing_to_units(model):
    with torch.no_grad():
        model.layers[0].norm_down.bias.fill_(7.0)
    x = torch.randn(20, 1, 8, 8, dtype=torch.float64)
    images = unit_template_images(model, x, 1)
    assert (images.abs() < 1e-12).any()  # away from the template, not 7


def test_class_templates_are_rendered_by_their_best_images(model):
    x = torch.randn(20, 1, 8, 8, dtype=torch.float64)
    images = class_template_images(model, x, 2)
    assert images.shape == (2, 3, 1, 8, 8)
    scores = model.dcn(x)
    for c in range(3):
        best = scores[:, c].argmax()
        torch.testing.assert_close(images[0, c], model.render(torch.tensor(c), model.switches(x[best])))
    assert class_template_images(model, x[:1], 5).shape == (1, 3, 1, 8, 8)


@pytest.mark.parametrize("level", [0, 3])
def test_no_such_level(model, level):
    with pytest.raises(ValueError, match=rf"level must lie in 1 .. 2, got {level}"):
        unit_template_images(model, torch.zeros(1, 1, 8, 8, dtype=torch.float64), level)
