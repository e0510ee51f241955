"""The module: both directions of shared templates, levels, samples, precision, bad input."""

import pytest
import torch

from pyro_ext.models.drmm import DRMM, Layer
from pyro_ext.models.drmm.estimation import estimate_priors
from pyro_ext.models.drmm.exact import exact_map
from pyro_ext.models.drmm.objective import label_loss, nonnegativity_loss, reconstruction_loss

LAYERS = [Layer(4, 3, pool=2, padding=1), Layer(6, 2, mean_pool=2)]
SHAPE = (2, 7, 7)


@pytest.fixture
def model():
    return DRMM(LAYERS, classes=3, image_shape=SHAPE).double()


def images(number=5, dtype=torch.float64):
    return torch.randn(number, *SHAPE, dtype=dtype)


def slopes(loss, parameter, step=1e-6):
    """Central differences of a loss in every entry of a parameter."""
    differences = torch.empty_like(parameter)
    with torch.no_grad():
        for place in range(parameter.numel()):
            values = []
            for sign in (1, -1):
                parameter.view(-1)[place] += sign * step
                values.append(loss().item())
                parameter.view(-1)[place] -= sign * step
            differences.view(-1)[place] = (values[0] - values[1]) / (2 * step)
    return differences


@pytest.mark.parametrize("switch", ["relu", "leaky", "abs"])
def test_gradients_of_shared_templates_hold_both_directions(switch):
    model = DRMM([Layer(2, 2, pool=2), Layer(2, 2)], 3, (1, 5, 5), switch=switch).double()
    x, y = torch.randn(3, 1, 5, 5, dtype=torch.float64), torch.tensor([0, 2, 1])

    def upwards():
        return label_loss(model.dcn(x), y)

    def downwards():
        return reconstruction_loss(x, model.reconstruct(x, y))

    for parameter in (*(layer.templates for layer in model.layers), model.class_templates):
        up, down, both = (
            torch.autograd.grad(loss, parameter)[0] for loss in (upwards(), downwards(), upwards() + downwards())
        )
        torch.testing.assert_close(both, slopes(lambda: upwards() + downwards(), parameter), rtol=1e-5, atol=1e-7)
        assert up.abs().max() > 1e-3
        assert down.abs().max() > 1e-3


def test_gradients_of_nonnegativity_reach_classes_and_upper_layers():
    model = DRMM([Layer(2, 2, pool=2), Layer(2, 2)], 3, (1, 5, 5)).double()
    x, y = torch.randn(4, 1, 5, 5, dtype=torch.float64), torch.tensor([0, 1, 2, 0])
    g = model.switches(x)

    def loss():
        return nonnegativity_loss(model.rendering(y, g).levels)

    upper, classes = torch.autograd.grad(loss(), [model.layers[1].templates, model.class_templates])
    torch.testing.assert_close(upper, slopes(loss, model.layers[1].templates), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(classes, slopes(loss, model.class_templates), rtol=1e-5, atol=1e-7)


def test_levels_from_class_template_to_image(model):
    x = images()
    c, g = model.dcn(x).argmax(-1), model.switches(x)
    torch.testing.assert_close(model.render(c, g, level=2), model.class_templates[c])
    assert model.render(c, g, level=1).shape == (5, 4, 3, 3)
    torch.testing.assert_close(model.render(c, g), model.reconstruct(x))
    half = model.layers[0].down(model.render(c, g, level=1), g[0]).finer
    torch.testing.assert_close(half, model.render(c, g))


def test_labels_replace_the_best_class(model):
    x = images()
    y = torch.tensor([2, -1, 0, -1, 1])
    best, g = model.dcn(x).argmax(-1), model.switches(x)
    expected = model.render(torch.where(y >= 0, y, best), g)
    torch.testing.assert_close(model.reconstruct(x, y), expected)
    assert not model.choose_class(model.dcn(x), y).requires_grad


def test_reconstruction_loss_is_of_the_image(model):
    x = images()
    rendered = model.reconstruct(x)
    assert reconstruction_loss(rendered, rendered) == 0
    assert reconstruction_loss(x, rendered) > 0
    torch.testing.assert_close(reconstruction_loss(x, rendered), (x - rendered).pow(2).sum() / x.numel())


def test_batches_of_any_shape(model):
    x = images(6)
    nested = x.reshape(2, 1, 3, *SHAPE)
    torch.testing.assert_close(model.dcn(nested).reshape(6, 3), model.dcn(x))
    torch.testing.assert_close(model.reconstruct(nested).reshape(x.shape), model.reconstruct(x))
    torch.testing.assert_close(model.dcn(x[0]), model.dcn(x)[0])


def test_state_travels(model):
    with torch.no_grad():
        model.class_logits.normal_()
    estimate_priors(model, [images(20)])
    other = model.like()
    x = images()
    assert not torch.allclose(other.dcn(x), model.dcn(x))
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.dcn(x), model.dcn(x))
    assert torch.equal(other.layers[0].on_logits, model.layers[0].on_logits)
    names = {name.rpartition(".")[2] for name in model.state_dict()}
    assert names == {"class_templates", "class_logits", "noise", "templates", "biases", "position_logits", "on_logits"}


@pytest.mark.parametrize(("shared", "distinct"), [("unit", None), ("channel", 4), ("layer", 1)])
def test_switches_are_as_probable_as_they_are_frequent(model, shared, distinct):
    x = images(400)
    estimate_priors(model, x.split(100), shared, pseudo_count=1e-6)
    on = model.switches(x)[0].on
    dims = {"unit": (0,), "channel": (0, 2, 3), "layer": (0, 1, 2, 3)}[shared]
    own = model.layers[0].on_logits.sigmoid()
    torch.testing.assert_close(own, on.mean(dims, keepdim=True)[0].expand_as(own), rtol=1e-6, atol=1e-6)
    assert distinct is None or len(own.unique()) <= distinct
    position = model.layers[0].position_logits.softmax(-1)
    torch.testing.assert_close(position.sum(-1), torch.ones_like(own))


def test_samples_follow_the_probabilities(model):
    estimate_priors(model, [images(50)])
    with torch.no_grad():
        model.class_logits.copy_(torch.tensor([0.7, 0.2, 0.1]).log())
    drawn, c = model.sample(4000)
    assert drawn.shape == (4000, *SHAPE)
    # Standard errors at most 0.0073: 5 of them, false alarms below 1e-5.
    torch.testing.assert_close(c.bincount(minlength=3) / 4000, torch.tensor([0.7, 0.2, 0.1]), atol=0.0365, rtol=0)
    fixed = torch.tensor([2, 0])
    clean, c = model.sample(2, fixed, with_noise=False)
    assert torch.equal(c, fixed)
    assert clean.shape == (2, *SHAPE)


def test_noise_of_samples():
    model = DRMM([Layer(1, 1)], classes=1, image_shape=(1, 20, 20), noise=0.5).double()
    with torch.no_grad():
        model.class_templates.zero_()
    drawn, _ = model.sample(100)
    # 40,000 pixels: the standard error of the standard deviation is 0.0018.
    assert drawn.std().item() == pytest.approx(0.5, abs=0.009)
    assert model.sample(3, with_noise=False)[0].abs().sum() == 0


def test_nonnegativity_violation(model):
    with torch.no_grad():
        model.class_templates.abs_()
        model.layers[1].templates.abs_()
        assert model.nonnegativity_violation() == 0
        model.class_templates[1, 0, 0, 0] = -0.25
    assert model.nonnegativity_violation() == 0.25


def test_autocast_of_the_pass_upwards():
    model = DRMM(LAYERS, classes=3, image_shape=SHAPE)
    x = images(200, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = model.infer(x)
    assert half.features.dtype == torch.bfloat16
    full = model.infer(x)
    error = (half.scores - full.scores).abs().max() / full.scores.abs().max()
    assert error < 0.03  # bfloat16 has 8 bits
    same = (half.scores.argmax(-1) == full.scores.argmax(-1)).float().mean()
    assert same > 0.95


LAYER = Layer(2, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Layer(0, 3), "channels must be an integer of at least 1, got 0"),
        (lambda: Layer(2, 3, padding=3), "padding must be less than kernel=3, got 3"),
        (lambda: Layer(2, 3, switch="elu"), "switch must be one of relu, leaky, abs; got 'elu'"),
        (lambda: DRMM([], 3, (1, 8, 8)), "layers must hold at least one Layer, got none"),
        (lambda: DRMM([LAYER], 3, (8, 8)), r"image_shape must be \(channels, height, width\), got \(8, 8\)"),
        (
            lambda: DRMM([LAYER], 3, (1, 2, 8)),
            r"\(1, 2, 8\) is smaller than the receptive field of layer 1",
        ),
        (lambda: DRMM([Layer(2, 3, pool=2), LAYER], 3, (1, 6, 6)), "smaller than the receptive field of layer 2"),
        (lambda: DRMM([Layer(2, 3, pool=4)], 3, (1, 5, 5)), "of which 3 x 3 places are left"),
        (lambda: DRMM([LAYER], 0, (1, 8, 8)), "classes must be an integer of at least 1, got 0"),
        (lambda: DRMM([LAYER], 3, (1, 8, 8), prior="flat"), "prior must be one of path, factorised; got 'flat'"),
        (lambda: DRMM([LAYER], 3, (1, 8, 8), switch="elu"), "switch must be one of relu, leaky, abs; got 'elu'"),
        (
            lambda: DRMM([LAYER], 3, (1, 8, 8), noise=0.0),
            "noise must be a positive, finite number, got 0.0",
        ),
        (lambda: DRMM([LAYER], 3, (1, 8, 8), batch_norm=True), "batch_norm must be one of none, up, both; got True"),
        (lambda: DRMM([LAYER], 3, (1, 8, 8), size=0), "size must be an integer of at least 1, got 0"),
    ],
)
def test_bad_options(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, x: m.dcn(x[..., :-1]), r"x must have shape \(..., 2, 7, 7\), got \(5, 2, 7, 6\)"),
        (lambda m, x: m.reconstruct(x, torch.full((5,), 3)), "y must hold classes 0 .. 2, or -1 for no label; got 3"),
        (lambda m, x: m.reconstruct(x, torch.full((5,), -2)), "or -1 for no label; got -2"),
        (lambda m, x: m(x, torch.full((5,), 7)), "y must hold classes 0 .. 2, or -1 for no label; got 7"),
        (lambda m, x: m.guide(x, torch.full((5,), 7)), "y must hold classes 0 .. 2, or -1 for no label; got 7"),
        (lambda m, x: m(x.flatten(1)[:, 1:]), r"x must have shape \(..., 2, 7, 7\), got \(5, 97\)"),
        (lambda m, x: m(x[None]), "x must have one batch dim"),
        (lambda m, x: m.render(torch.tensor(0), m.switches(x)[:1]), "g must hold the switches of all 2 layers, got 1"),
        (lambda m, x: m.render(torch.tensor(0), m.switches(x), level=3), r"level must lie in 0 .. 2, got 3"),
        (lambda m, x: m.sample(0), "n must be an integer of at least 1, got 0"),
        (lambda m, x: m.sample(2, torch.tensor([0, 3])), "c must hold 2 classes of 0 .. 2"),
        (lambda m, x: estimate_priors(m, []), "batches must hold at least one image, got none"),
        (lambda m, x: estimate_priors(m, [x], "pixel"), "shared must be one of unit, channel, layer; got 'pixel'"),
        (lambda m, x: estimate_priors(m, [x], pseudo_count=0), "pseudo_count must be a positive, finite number, got 0"),
        (lambda m, x: exact_map(m, x), r"the model has about 10\^.. configurations, more than the 262144"),
    ],
)
def test_bad_input(model, call, message):
    with pytest.raises(ValueError, match=message):
        call(model, images())


@pytest.mark.gpu
def test_on_a_gpu():
    model = DRMM(LAYERS, classes=3, image_shape=SHAPE).cuda()
    x = images(5, torch.float32).cuda()
    loss = reconstruction_loss(x, model.reconstruct(x)) + model.dcn(x).logsumexp(-1).mean()
    loss.backward()
    assert model.layers[0].templates.grad.is_cuda
    estimate_priors(model, [x])
    assert model.sample(3)[0].is_cuda
    with torch.autocast("cuda", dtype=torch.bfloat16):
        assert model.dcn(x).isfinite().all()
